"""Students of few steps in a pipeline: what their adapters say, and what is said where they are asked otherwise."""

import json
from pathlib import Path

import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline
from diffusers_jova.clip_call import load_pipeline, planned_call
from diffusers_jova.few_steps import HEADER, FewSteps
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.saved_pipeline import SavedPipeline
from jova_cli.generate import parse
from jova_cli.main import main


FEW = FewSteps(num_inference_steps=3, shift=2.0, audio_shift=4.0)
LAYER = "transformer_blocks.0.attn.video.to_q"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a student that changes one layer of the tiny pipeline by nothing."""
    path = tmp_path_factory.mktemp("student") / "pytorch_lora_weights.safetensors"
    tensors = {"lora_A": torch.zeros(2, 24), "lora_B": torch.zeros(24, 2)}
    save_file({f"transformer.{LAYER}.{n}.weight": t for n, t in tensors.items()}, path, metadata=FEW.to_header())
    return path


@pytest.fixture
def pipe(tiny_pipeline_folder: Path, student: Path) -> JoVAPipeline:
    pipe = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(student, adapter_name="fast")
    return pipe


def test_a_plan_for_the_memory_counts_what_a_student_is_asked(tiny_pipeline_folder: Path, student: Path) -> None:
    def planned(*more: str) -> GenerationDefaults:
        words = ["--model", str(tiny_pipeline_folder), "--prompt", "a dog", "--output", "clip.mp4"]
        args = parse([*words, *more])[1]
        return planned_call(SavedPipeline(tiny_pipeline_folder), args, torch.device("cpu"), {}).settings

    guided, asked = planned(), planned("--lora", str(student))
    assert guided.guidance_scale > 1
    assert (asked.num_inference_steps, asked.guidance_scale) == (3, 1)
    assert planned("--lora", f"{student}:0") == guided
    assert planned("--lora", str(student), "--guidance-scale", "2").guidance_scale == 2


def said_of_a_call(pipe: JoVAPipeline, log: pytest.LogCaptureFixture, **arguments: object) -> str:
    log.clear()
    pipe("a dog", output_type="latent", **arguments)
    return log.text


def test_one_line_makes_a_pipeline_ask_its_student_right(pipe: JoVAPipeline, log: pytest.LogCaptureFixture) -> None:
    said = said_of_a_call(pipe, log)
    assert "`fast` is a student made for 3 steps of Euler at shifts 2 and 4 without guidance, got 2 steps, " in said
    assert "guidance of video and audio: expect noise; leave these out, in Python after" in said
    pipe.use_few_steps()
    assert "student" not in said_of_a_call(pipe, log)
    assert pipe.num_timesteps == 3
    assert not pipe.do_classifier_free_guidance
    assert "got guidance of audio" in said_of_a_call(pipe, log, audio_guidance_scale=2.0)
    assert "got first steps without velocity: " in said_of_a_call(pipe, log, zero_init_steps=1)
    assert "got other noise levels" in said_of_a_call(pipe, log, sigmas=[1.0, 0.5, 0.1])
    own = FEW.scheduler
    own.set_timesteps(3)
    assert "student" not in said_of_a_call(pipe, log, sigmas=own.sigmas[:-1].tolist())
    pipe.scheduler = FlowMatchAudioVideoScheduler(shift=2.0, audio_shift=4.0, solver="unipc")
    assert "got the solver unipc" in said_of_a_call(pipe, log)


def test_an_adapter_that_does_not_work_asks_for_nothing(pipe: JoVAPipeline, log: pytest.LogCaptureFixture) -> None:
    pipe.disable_lora()
    assert pipe.few_steps is None
    assert "student" not in said_of_a_call(pipe, log)
    pipe.enable_lora()
    assert pipe.few_steps == FEW
    pipe.delete_adapters("fast")
    with pytest.raises(ValueError, match="`use_few_steps` must be called with a student of few steps, got none; load"):
        pipe.use_few_steps()


def test_a_pipeline_that_asks_its_student_right_can_be_saved(pipe: JoVAPipeline, tmp_path: Path) -> None:
    pipe.use_few_steps()
    assert "num_inference_steps" in repr(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path)
    loaded = JoVAPipeline.from_pretrained(tmp_path).defaults
    assert (loaded.num_inference_steps, loaded.guidance_scale) == (3, 1.0)
    assert loaded == pipe.defaults
    with pytest.raises(
        ValueError, match=r"`defaults` must be `GenerationDefaults`, got {'height': 32}; override those"
    ):
        pipe.defaults = {"height": 32}
    assert loaded == pipe.defaults


def test_a_student_of_weight_0_asks_for_nothing_and_one_in_the_weights_still_does(pipe: JoVAPipeline) -> None:
    pipe.set_adapters("fast", 0.0)
    assert pipe.few_steps is None
    pipe.set_adapters("fast", 1.0)
    assert pipe.few_steps == FEW
    pipe.fuse_lora()
    assert pipe.few_steps == FEW
    pipe.unload_lora_weights()
    assert pipe.few_steps == FEW


def test_a_student_that_is_taken_out_of_the_weights_asks_for_nothing(pipe: JoVAPipeline) -> None:
    pipe.fuse_lora()
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert pipe.few_steps is None


def test_students_that_want_different_things_are_used_one_at_a_time(pipe: JoVAPipeline, tmp_path: Path) -> None:
    other = FewSteps(num_inference_steps=8, shift=2.0, audio_shift=4.0)
    tensors = {f"transformer.{LAYER}.lora_A.weight": torch.zeros(2, 24)}
    tensors |= {f"transformer.{LAYER}.lora_B.weight": torch.zeros(24, 2)}
    save_file(tensors, tmp_path / "other.safetensors", metadata=other.to_header())
    pipe.load_lora_weights(tmp_path / "other.safetensors", adapter_name="slower")
    pipe.set_adapters(["fast", "slower"])
    with pytest.raises(
        ValueError, match=r"one at a time, got `fast` \(3 steps .*\), `slower` \(8 steps .*\); use one"
    ):
        pipe.use_few_steps()
    pipe.set_adapters("slower")
    assert pipe.few_steps == other


@pytest.mark.parametrize("leave", ["unload_lora_weights", "delete_adapters", "unfuse_lora"])
def test_defaults_of_a_student_go_with_it(leave: str, pipe: JoVAPipeline) -> None:
    before = pipe.defaults, pipe.scheduler
    pipe.use_few_steps()
    pipe.defaults = pipe.defaults.override(num_frames=9)
    assert pipe.defaults.num_inference_steps == 3
    if leave == "delete_adapters":
        pipe.delete_adapters("fast")
    else:
        if leave == "unfuse_lora":
            pipe.fuse_lora()
            pipe.unfuse_lora()
            assert pipe.defaults.num_inference_steps == 3  # still over the weights
        pipe.unload_lora_weights()
    assert (pipe.defaults, pipe.scheduler) == (before[0].override(num_frames=9), before[1])
    assert pipe.transformer.adapter_few_steps == {}
    assert pipe.few_steps is None


def test_a_pipeline_of_the_same_parts_lets_a_student_go_too(pipe: JoVAPipeline) -> None:
    before = pipe.defaults
    pipe.use_few_steps()
    other = JoVAPipeline.from_pipe(pipe)
    other.unload_lora_weights()
    assert other.defaults == before


def test_what_was_set_behind_a_student_stays_when_it_goes(pipe: JoVAPipeline) -> None:
    pipe.use_few_steps()
    pipe.use_few_steps()  # again, which changes nothing
    pipe.defaults, own = pipe.defaults.override(num_inference_steps=7), FlowMatchAudioVideoScheduler(shift=7.0)
    pipe.scheduler = own
    pipe.unload_lora_weights()
    assert (pipe.defaults.num_inference_steps, pipe.defaults.guidance_scale) == (7, 3.0)
    assert pipe.scheduler is own


def test_a_call_by_the_defaults_of_a_student_that_is_not_active_is_told(
    pipe: JoVAPipeline, log: pytest.LogCaptureFixture
) -> None:
    pipe.use_few_steps()
    pipe.disable_lora()
    said = said_of_a_call(pipe, log)
    assert "the call takes 3 steps of Euler at shifts 2 and 4 without guidance, as `use_few_steps` has set, " in said
    assert "no student is active: expect noise; call `leave_few_steps`" in said
    pipe.leave_few_steps()
    assert "student" not in said_of_a_call(pipe, log)


@pytest.mark.parametrize("way", ["transformer", "pipeline"])
def test_a_student_that_is_saved_again_keeps_its_record(way: str, pipe: JoVAPipeline, tmp_path: Path) -> None:
    if way == "transformer":
        pipe.transformer.save_lora_adapter(tmp_path, adapter_name="fast")
    else:
        JoVAPipeline.save_lora_weights(
            tmp_path,
            transformer_lora_layers=get_peft_model_state_dict(pipe.transformer, adapter_name="fast"),
            transformer_lora_adapter_metadata=pipe.transformer.peft_config["fast"].to_dict(),
            few_steps=pipe.few_steps,
        )
    pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path)
    assert pipe.few_steps == FEW
    with pytest.raises(ValueError, match="`safe_serialization` must be True for a student of few steps, whose record"):
        pipe.transformer.save_lora_adapter(tmp_path, adapter_name="default_0", safe_serialization=False)


@pytest.mark.parametrize("record", ["none", json.dumps({"num_inference_steps": 2}), json.dumps([2])])
def test_a_damaged_record_is_refused(record: str) -> None:
    with pytest.raises(ValueError, match="`few_steps` in the header of an adapter, `jova_few_steps`, must hold num"):
        FewSteps.from_header({HEADER: record})


def test_generate_takes_what_the_student_wants_and_keeps_what_is_given(
    tiny_pipeline_folder: Path,
    student: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    log: pytest.LogCaptureFixture,
) -> None:
    words = ["--model", str(tiny_pipeline_folder), "--lora", str(student.parent), "--prompt", "a dog", "--output"]
    _, args = parse([*words, str(tmp_path / "a.mp4")])
    loaded = load_pipeline(args, torch.device("cpu"))
    assert loaded.defaults.num_inference_steps == 3
    assert "an adapter is a student of few steps: 3 steps of Euler at shifts 2 and 4" in capsys.readouterr().err
    main(["generate", *words, str(tmp_path / "b.mp4"), "--steps", "1"])
    assert (
        "`lora_0` is a student made for 3 steps of Euler at shifts 2 and 4 without guidance, got 1 step: " in log.text
    )


def test_info_tells_how_a_student_is_asked(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(student)])
    assert "few steps   num_inference_steps 3, shift 2.0, audio_shift 4.0; solver euler" in capsys.readouterr().out


def test_a_student_that_was_read_is_one_where_its_tensors_are_loaded(
    student: Path, tiny_pipeline_folder: Path
) -> None:
    read, metadata = JoVAPipeline.lora_state_dict(student, return_lora_metadata=True)
    for source, arguments in ((read, {}), (dict(read), {"metadata": metadata})):
        pipeline = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
        pipeline.load_lora_weights(source, adapter_name="fast", **arguments)
        assert pipeline.few_steps == FEW
    with pytest.raises(ValueError, match="`few_steps` in `metadata` must hold num_inference_steps"):
        pipeline.load_lora_weights(dict(read), metadata={**metadata, f"transformer.{HEADER}": {"steps": 3}})


def test_a_student_is_not_pickled_by_a_pipeline(student: Path, tmp_path: Path) -> None:
    layers = {name.removeprefix("transformer."): part for name, part in JoVAPipeline.lora_state_dict(student).items()}
    with pytest.raises(ValueError, match="`safe_serialization` must be True for a student of few steps"):
        JoVAPipeline.save_lora_weights(tmp_path, layers, few_steps=FEW, safe_serialization=False)
    assert not [*tmp_path.iterdir()]
    JoVAPipeline.save_lora_weights(tmp_path, layers, True, "fast.safetensors", few_steps=FEW)
    assert JoVAPipeline.lora_state_dict(tmp_path / "fast.safetensors").few_steps == FEW
