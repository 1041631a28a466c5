"""Blocks that wait on the host: they are there when they compute, at most two at a time, and change no number."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffusers_jova import JoVAPipeline, JoVATransformer3DModel, JoVAWanTransformer3DModel
from diffusers_jova.pictures import to_uint8_frames
from diffusers_jova.training.estimate import TrainingEstimate
from diffusers_jova.training.loop import trainer as trainer_module
from diffusers_jova.training.loop.block_swap import NUM_TOGETHER, BlockSwap, blocks_of, swapped_bytes
from diffusers_jova.training.loop.lora import ADAPTER_FILE
from diffusers_jova.training.loop.microbatches import MicroBatches
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.loop.validation import ValidationClips
from diffusers_jova.training.train import memory_savers, run
from tests.rounding import relative_error
from tests.tiny_training import MODEL, WAN_MODEL, different, forget_accelerate, losses, tiny_config, write_clips


MODELS: dict[str, dict[str, Any]] = {
    "jova": {**MODEL, "num_layers": 2, "num_single_layers": 3},
    "wan": {**WAN_MODEL, "num_layers": 5},
}
CLASSES: dict[str, Any] = {"jova": JoVATransformer3DModel, "wan": JoVAWanTransformer3DModel}
ADAPTER = {"train": "lora", "lora_rank": 2, "gradient_checkpointing": True, "image_probability": 0.5}
DRAWN = {"gradient_accumulation_steps": 2, "uncoupled_probability": 0.5}


class PoisonedSwap(BlockSwap):
    """On a CPU waiting weights could be used by mistake: here they are not what they were."""

    def send_away(self, index: int) -> None:
        super().send_away(index)
        for weight in self.weights[index]:
            weight.data = torch.full_like(weight.data, torch.nan)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let blocks wait where there is no GPU."""
    monkeypatch.setattr(trainer_module, "check_swap", lambda *_: None)
    monkeypatch.setattr(trainer_module, "BlockSwap", PoisonedSwap)
    monkeypatch.setattr(trainer_module, "check_frozen", lambda *_: None)  # poison is in the way


def save_random(folder: Path, kind: str) -> str:
    """A saved transformer whose weights are all random: the gates of a new one are zero, and hide its blocks."""
    torch.manual_seed(1)
    transformer = CLASSES[kind](**{name: value for name, value in MODELS[kind].items() if not name.startswith("_")})
    for weight in transformer.parameters():
        nn.init.normal_(weight, std=0.2)
    transformer.save_pretrained(folder / "base")
    return str(folder / "base")


def adapter_of(config: Any) -> dict[str, torch.Tensor]:
    forget_accelerate()
    return load_file(Trainer(config).train() / ADAPTER_FILE)


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (DRAWN, "jova"),
        ({}, "wan"),
        pytest.param({}, "jova", marks=pytest.mark.slow),
        pytest.param(DRAWN, "wan", marks=pytest.mark.slow),
    ],
)
def test_blocks_that_wait_change_no_number(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    results, model = [], save_random(tmp_path, kind)
    for number in (0, 1, 4):
        own = {
            **ADAPTER,
            **settings,
            "model": model,
            "steps": 3,
            "blocks_to_swap": number,
            "output_dir": str(tmp_path / f"swap-{number}"),
        }
        results.append(adapter_of(tiny_config(tmp_path, **own)))
    assert all(tensor.any() for name, tensor in results[0].items() if "lora_B" in name)  # all blocks were trained
    assert not different(results[0], results[1])
    assert not different(results[0], results[2])


@pytest.mark.usefixtures("on_the_cpu")
def test_a_run_goes_on_with_other_blocks_that_wait(tmp_path: Path) -> None:
    settings = {**ADAPTER, "checkpoint_every": 2}
    whole = tiny_config(tmp_path, MODELS["wan"], **settings, steps=4, output_dir=str(tmp_path / "whole"))
    expected = adapter_of(whole)
    for steps, number in ((2, 3), (4, 2)):
        config = tiny_config(tmp_path, MODELS["wan"], **settings, steps=steps, blocks_to_swap=number)
        resumed = adapter_of(config)
    assert not different(expected, resumed)


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("number", [1, 2, 4])
def test_two_are_there_at_most_and_the_next_has_begun_to_come(tmp_path: Path, number: int) -> None:
    config = tiny_config(tmp_path, MODELS["jova"], **ADAPTER, blocks_to_swap=number)
    trainer = Trainer(config)
    swap = trainer.swap
    assert swap is not None
    entered: list[tuple[int, bool]] = []
    blocks = blocks_of(trainer.transformer)[-number:]
    for index, block in enumerate(blocks):
        block.register_forward_pre_hook(
            lambda *_, index=index: entered.append((index, index in swap.present)), prepend=True
        )
        block.register_forward_pre_hook(lambda *_: check_present(swap))
    batches = MicroBatches(config, trainer.dataset, None, 0, 1, 0)
    for _ in range(2):
        trainer.take_step(batches)
    forward = list(range(number))
    assert [index for index, _ in entered] == 2 * [*forward, *reversed(forward)]
    assert [was_there for _, was_there in entered] == [False, *[True] * (4 * number - 1)]


@pytest.mark.usefixtures("on_the_cpu")
def test_validations_are_those_of_a_run_whose_blocks_do_not_wait_and_leave_its_bits(
    tmp_path: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def make_and_note(self: ValidationClips, args: Any) -> Any:
        made.append(make_clip(self, args))
        return made[-1]

    make_clip = ValidationClips._make_clip
    monkeypatch.setattr(ValidationClips, "_make_clip", make_and_note)
    write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    held_out = write_clips(tmp_path / "held-out", num_clips=2, channels=(16, 4, 16))
    transformer = JoVAPipeline.from_pretrained(tiny_pipeline_folder).transformer
    number = len(blocks_of(transformer)) - 1
    validated = {
        "validate_every": 1,
        "validation_prompts": ["a"],
        "validation_steps": 2,
        "validation_data": str(held_out),
        "validation_measures": ["sound", "picture"],
    }
    adapters, validations = [], []
    for name, settings in {
        "quiet": {"blocks_to_swap": number},
        "plain": validated,
        "swapped": {**validated, "blocks_to_swap": number},
    }.items():
        config = tiny_config(
            tmp_path, **ADAPTER, **settings, model=str(tiny_pipeline_folder), output_dir=str(tmp_path / name), steps=3
        )
        forget_accelerate()
        run(config)
        adapters.append(load_file(tmp_path / name / ADAPTER_FILE))
        validations.append([line for line in losses(tmp_path / name) if "loss/video" not in line])
        assert len(list((tmp_path / name / "validation").glob("*"))) == (0 if name == "quiet" else 3)
    assert not different(adapters[0], adapters[1])
    assert not different(adapters[0], adapters[2])
    assert len(validations[1]) == 6  # losses and clips of three steps
    for plain, swapped in zip(*validations[1:], strict=True):
        assert plain.keys() == swapped.keys()  # H.264 makes much of a last bit: what is measured of files may differ
        assert all(value == pytest.approx(swapped[name], rel=1e-5) for name, value in plain.items() if "loss" in name)
    assert len(made) == 6
    for plain, swapped in zip(made[:3], made[3:], strict=True):  # weights that lie elsewhere may be summed otherwise
        frames, expected = (torch.from_numpy(to_uint8_frames(clip.frames[0])) for clip in (swapped, plain))
        assert relative_error(frames, expected) < 1e-2
        assert relative_error(torch.as_tensor(swapped.audio), torch.as_tensor(plain.audio)) < 1e-3


def check_present(swap: BlockSwap) -> None:
    """Two blocks at most have their weights, whole; the others have none."""
    assert len(swap.present) <= NUM_TOGETHER
    for index, weights in enumerate(swap.weights):
        assert all(bool(weight.isfinite().all()) == (index in swap.present) for weight in weights)


def test_what_is_trained_never_waits() -> None:
    linear = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    model = nn.Module()
    model.blocks = nn.ModuleList([linear, linear])
    swap = BlockSwap(model, 1, torch.device("cpu"))
    assert swap.weights == [[linear[0].weight, linear[0].bias]]


class LoggedStream:
    """What a stream is told, in order."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: "LoggedStream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> str:
        return "the weights"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


def test_memory_is_of_the_stream_that_computes_and_copies_wait_until_it_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, log = nn.Module(), list[str]()
    model.blocks = nn.ModuleList(nn.Linear(2, 2).requires_grad_(False) for _ in range(3))
    swap = BlockSwap(model, 2, torch.device("cpu"))
    swap.stream = LoggedStream("copying", log)  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: LoggedStream("computing", log))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    made = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: log.append("memory") or made(*a, **k))
    swap._enter(0)
    assert log == [
        *("memory", "memory", "copying waits for computing", "computing waits for the weights"),
        *("memory", "memory", "copying waits for computing"),
    ]


def test_an_estimate_leaves_out_what_waits(tmp_path: Path) -> None:
    model = {**WAN_MODEL, "num_layers": 4}
    plain, swapped = (
        TrainingEstimate(tiny_config(tmp_path, model, **ADAPTER, blocks_to_swap=number), torch.device("cuda"))
        for number in (0, 3)
    )
    spared = swapped_bytes(swapped.run.transformer, 3)
    assert spared > 0
    assert plain.peak_bytes - swapped.peak_bytes == spared
    assert plain.parts()["frozen base in float32"] - swapped.parts()["frozen base in float32"] == spared


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "full", "gradient_checkpointing": True}, "`blocks_to_swap` must go with `train: lora`"),
        ({"train": "lora"}, "`blocks_to_swap` must go with `gradient_checkpointing: true`"),
        ({**ADAPTER, "distribution": "fsdp"}, "`blocks_to_swap` must go with `distribution: none`, got fsdp"),
        ({**ADAPTER, "quantize": "nf4"}, "`blocks_to_swap` must go with `quantize: none`"),
        ({**ADAPTER, "compile": True}, "`blocks_to_swap` must go with `compile: false`"),
    ],
)
def test_what_blocks_that_wait_cannot_go_with_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(tmp_path, blocks_to_swap=1, **settings)


def test_a_device_without_memory_of_its_own_and_too_many_blocks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="`blocks_to_swap` must be 0 without a CUDA device"):
        Trainer(tiny_config(tmp_path, **ADAPTER, blocks_to_swap=1))
    forget_accelerate()
    monkeypatch.setattr(trainer_module, "check_swap", lambda *_: None)
    with pytest.raises(ValueError, match="`blocks_to_swap` must be less than the 2 blocks of this `model`, got 2"):
        Trainer(tiny_config(tmp_path, **ADAPTER, blocks_to_swap=2))


def test_a_run_that_does_not_fit_is_told_of_blocks_that_can_wait(tmp_path: Path) -> None:
    assert "`blocks_to_swap=10`, say" in memory_savers(tiny_config(tmp_path, **ADAPTER))
    assert "`blocks_to_swap=10`, say" not in memory_savers(tiny_config(tmp_path))
