import copy
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVACacheConfig, JoVAPipeline
from diffusers_jova.call_guard import one_thread_at_a_time
from tests.tiny_pipeline import build_tiny_pipeline


CALL: dict[str, Any] = {"prompt": "a", "num_inference_steps": 1, "output_type": "latent", "guidance_scale": 1.0}


class Work:
    """Anything that is called."""

    @one_thread_at_a_time
    def __call__(self, then: Callable[[], Any] | None = None) -> str:
        return str(then()) if then else "done"


def elsewhere(work: Callable[[], Any]) -> Any:
    """What a call returns, or raises, in another thread."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_second_thread_is_refused_and_the_first_goes_on_as_if_alone() -> None:
    pipeline = build_tiny_pipeline()
    refused: list[Any] = []

    def call_elsewhere(pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        refused.append(elsewhere(lambda: pipe(**CALL)))
        return tensors

    def seeded() -> Any:
        return torch.Generator().manual_seed(0)

    alone = pipeline(**CALL, generator=seeded())
    disturbed = pipeline(**CALL, generator=seeded(), callback_on_step_end=call_elsewhere)
    assert isinstance(refused[0], RuntimeError)
    assert "must be called by one thread at a time, got a second call while the first goes on; wait" in str(refused[0])
    assert alone.frames.equal(disturbed.frames)
    assert pipeline(**CALL).frames.shape == alone.frames.shape


def test_a_copy_that_shares_the_weights_serves_the_second_thread() -> None:
    pipeline = build_tiny_pipeline()
    made: list[Any] = []

    def call_copy(pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        made.append(elsewhere(lambda: copy.copy(pipe)(**CALL)))
        return tensors

    output = pipeline(**CALL, callback_on_step_end=call_copy)
    assert made[0].frames.shape == output.frames.shape
    assert copy.copy(pipeline).transformer is pipeline.transformer


def test_after_an_error_any_thread_may_call() -> None:
    work = Work()
    with pytest.raises(ZeroDivisionError):
        work(lambda: 1 / 0)
    assert work() == "done"
    assert elsewhere(work) == "done"


def test_a_thread_may_call_again_inside_and_keeps_others_out_until_it_has_ended() -> None:
    work = Work()

    def inside() -> str:
        assert work() == "done"
        return type(elsewhere(work)).__name__

    assert work(inside) == "RuntimeError"


def test_copies_made_during_a_call_are_free() -> None:
    work = Work()
    for duplicate in (copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))):
        made: list[Work] = []
        work(lambda duplicate=duplicate, made=made: made.append(duplicate(work)))
        assert work(lambda made=made: elsewhere(made[0])) == "done"


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What calls return, or raise, each in a thread of its own, all begun before one goes on."""
    found: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            found[index] = calls[index]()
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("share", [copy.copy, JoVAPipeline.from_pipe], ids=["copy", "from_pipe"])
@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_threads_that_share_weights_and_scheduler_get_what_each_would_get_alone(share: Any, solver: str) -> None:
    pipelines = [build_tiny_pipeline(scheduler=FlowMatchAudioVideoScheduler(solver=solver))]
    pipelines.append(share(pipelines[0]))
    assert pipelines[1].scheduler is pipelines[0].scheduler
    meeting = threading.Barrier(2, timeout=20)

    def call(index: int, **more: Any) -> Any:
        seed = torch.Generator().manual_seed(index)
        words = {**CALL, "num_inference_steps": 3 + index, "generator": seed, "return_dict": False, **more}
        return pipelines[index](**words)

    def meet(_pipe: Any, step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        if step < 3:
            meeting.wait()
        return {}

    alone = [call(index) for index in range(2)]
    both = together([lambda i=i: call(i, callback_on_step_end=meet) for i in range(2)])  # type: ignore[misc]
    for one, other in zip(both, alone, strict=True):
        for part, wanted in zip(one, other, strict=True):
            torch.testing.assert_close(part, wanted)


def test_a_call_leaves_its_schedule_in_the_scheduler_of_the_pipeline() -> None:
    pipeline = build_tiny_pipeline(scheduler=FlowMatchAudioVideoScheduler())
    pipeline(**{**CALL, "num_inference_steps": 3})
    assert pipeline.scheduler.sigmas.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_a_transformer_with_a_cache_is_not_called_by_two_pipelines_at_a_time() -> None:
    pipeline = build_tiny_pipeline(scheduler=FlowMatchAudioVideoScheduler())
    pipeline.transformer.enable_cache(JoVACacheConfig(video_interval=2))
    other = copy.copy(pipeline)
    words = {**CALL, "num_inference_steps": 6}
    refused: list[Any] = []

    def call_other(_pipe: Any, step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            refused.append(elsewhere(lambda: other(**words)))
        return {}

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    alone = pipeline(**words, generator=seeded())
    disturbed = pipeline(**words, generator=seeded(), callback_on_step_end=call_other)
    assert alone.frames.equal(disturbed.frames)
    assert "a transformer with a cache must be called by one thread at a time" in str(refused[0])
    assert other(**words).frames.shape == alone.frames.shape


@pytest.mark.parametrize(("first", "second"), [(0.5, 1.0), (1.0, 0.5), (1.0, 1.0)])
def test_adapters_are_weighed_for_one_thread_while_no_other_reads_them(first: float, second: float) -> None:
    pipeline = build_tiny_pipeline(scheduler=FlowMatchAudioVideoScheduler())
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "a")
    other = copy.copy(pipeline)
    made: list[Any] = []

    def call_other(_pipe: Any, _step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        made.append(elsewhere(lambda: other(**CALL, attention_kwargs={"scale": second})))
        return {}

    pipeline(**CALL, attention_kwargs={"scale": first}, callback_on_step_end=call_other)
    if first == second == 1:
        assert made[0].frames is not None
    else:
        assert "`attention_kwargs` must weigh adapters in one thread at a time" in str(made[0])
    assert other(**CALL, attention_kwargs={"scale": second}).frames is not None
