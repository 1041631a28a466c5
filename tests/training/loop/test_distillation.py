"""Students of few steps: the formula by hand, the levels, the teacher beside its pipeline, and the runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_jova import JoVAPipeline
from diffusers_jova.few_steps import FewSteps
from diffusers_jova.scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from diffusers_jova.training.data.record import EMPTY_PROMPT, write_record
from diffusers_jova.training.loop.conditioning import ModelInputs
from diffusers_jova.training.loop.distillation import Distillation, Walk
from diffusers_jova.training.loop.lora import ADAPTER_FILE
from diffusers_jova.training.loop.objective import jova_loss
from diffusers_jova.training.loop.phases import Phases, student_target
from diffusers_jova.training.loop.teacher_pipeline import TeacherPipeline
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.train import run
from jova_cli.main import main
from tests.tiny_pipeline import DEFAULTS, build_dual_tower, build_tiny_pipeline, build_wan_transformer
from tests.tiny_training import different, losses, tiny_config, write_clips


CPU = torch.device("cpu")
FEW = FewSteps(num_inference_steps=2, shift=3.0, audio_shift=5.0)
GUIDED = DEFAULTS | {  # all that a linear guidance can be, on a part of the steps
    "guidance_scale": 3.0,
    "audio_guidance_scale": 2.0,
    "coupling_scale": 1.5,
    "coupling_interval": (0.0, 0.5),
    "negative_prompt": "grey",
    "audio_negative_prompt": "hiss",
}
PROJECTED = DEFAULTS | {"guidance_scale": 3.0, "apg_threshold": 1.0, "audio_guidance_rescale": 0.5}
PROJECTED |= {"cfg_zero_star": True, "audio_zero_init_steps": 2}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved pipelines of each class that teach, and clips for all of them."""
    folder = tmp_path_factory.mktemp("teachers")
    parts: dict[str, dict[str, Any]] = {
        "jova": {"defaults": GUIDED},
        "wan": {"transformer": build_wan_transformer(), "defaults": PROJECTED},
    }
    for name, own in parts.items():
        scheduler = FlowMatchAudioVideoScheduler(shift=3.0, audio_shift=5.0)
        build_tiny_pipeline(**{"scheduler": scheduler, **own}).save_pretrained(folder / name)
    write_clips(folder / "prepared", channels=(16, 4, 16))
    empty = build_tiny_pipeline().encode_texts([""], DEFAULTS["max_sequence_length"]).features[0]
    write_record(folder / "prepared" / EMPTY_PROMPT, {"prompt_embeds": empty}, {})
    return folder


def student_config(teachers: Path, output: Path, name: str = "jova", **values: Any) -> Any:
    """A run of four steps that makes a student of two; an adapter unless `train` is full."""
    output.mkdir(exist_ok=True)
    settings = {"model": str(teachers / name), "data": str(teachers / "prepared"), "output_dir": str(output / "run")}
    settings |= {"student_steps": 2, "teacher_steps": 8, "density": "uniform", "train": "lora", "learning_rate": 1e-2}
    settings |= {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "caption_dropout": 0.0, "image_probability": 0.5}
    if values.get("train") != "full":
        settings |= {"lora_rank": 4, "lora_alpha": 8.0, "lora_targets": "attention_ff"}
    return tiny_config(output, **(settings | values))


def adapter_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / ADAPTER_FILE)


# 1. Levels and formula


def test_the_edges_of_the_phases_are_the_levels_that_a_student_walks() -> None:
    for num_steps in (2, 3, 4, 8):
        few = replace(FEW, num_inference_steps=num_steps)
        phases, walked, taught = Phases.of(few, 48, CPU), few.scheduler, few.scheduler
        walked.set_timesteps(num_steps)
        taught.set_timesteps(48)
        for name, edges, levels in (
            ("video", walked.sigmas, taught.sigmas),
            ("audio", walked.audio_sigmas, taught.audio_sigmas),
        ):
            assert torch.equal(phases.levels[name][:: 48 // num_steps], edges)
            torch.testing.assert_close(phases.levels[name], levels, rtol=0, atol=1e-7)


def test_a_level_belongs_to_the_step_that_it_lies_in_and_to_the_phase_of_that_step() -> None:
    phases = Phases.of(FewSteps(num_inference_steps=2, shift=1.0, audio_shift=3.0), 4, CPU)
    sigma = torch.tensor([1.0, 0.9, 0.75, 0.6, 0.5, 0.1, 0.0])
    number = phases.number("video", sigma)
    assert number.tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert phases.snap("video", sigma).tolist() == [1.0, 1.0, 0.75, 0.75, 0.5, 0.25, 0.0]
    assert phases.edge(number).tolist() == [2, 2, 2, 2, 4, 4, 4]
    begun = phases.snap("video", sigma, torch.tensor([True] * 7))
    assert begun.tolist() == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.0]
    both = phases.scheduler.sample_training_sigmas(64, "uniform", generator=torch.Generator().manual_seed(0))
    assert torch.equal(phases.number("video", both[0]), phases.number("audio", both[1]))  # they walk together


def test_the_target_is_that_of_a_hand_calculation() -> None:
    # x = 2 at t = 0.8, the teacher's velocity is 3, t' = 0.6: x' = 1.4; the student's there is 5, e = 0.5: x_e = 0.9
    sample = torch.full((1, 1, 1, 1, 1), 2.0)
    level, reached, edge = (torch.tensor([x]) for x in (0.8, 0.6, 0.5))
    moved = (reached - level) * 3 * torch.ones_like(sample)
    target = student_target(moved, 5 * torch.ones_like(sample), level, reached, edge)
    assert float(sample + (0.5 - 0.8) * target) == pytest.approx(0.9)
    assert float(target) == pytest.approx(2 / 3 * 3 + 1 / 3 * 5)  # a mean of both, by their distances
    whole = student_target((edge - level) * 3 * torch.ones_like(sample), None, level, edge, edge)
    assert float(whole) == pytest.approx(3)  # at the edge the teacher alone
    given = student_target(torch.zeros_like(sample), 5 * torch.ones_like(sample), edge, edge, edge)
    assert float(given) == 0


def field_inputs(phases: Phases, sigma: Tensor) -> ModelInputs:
    """Random latents at levels of both modalities, without a model."""
    generator = torch.Generator().manual_seed(3)
    size = len(sigma)
    video, audio = torch.randn(size, 2, 3, 4, 4, generator=generator), torch.randn(size, 8, 6, generator=generator)
    audio_sigma = phases.levels["audio"][phases.number("video", sigma)]
    arguments = {"hidden_states": video, "audio_hidden_states": audio, "coupled": True}
    arguments |= {"timestep": 1000 * sigma, "audio_timestep": 1000 * audio_sigma}
    is_there = torch.ones(size, dtype=torch.bool)
    return ModelInputs(arguments, video, audio, None, None, is_there, is_there, sigma, audio_sigma)


def constant_field(**arguments: Any) -> tuple[Tensor, Tensor]:
    """Straight paths: every point of the video moves with velocity 2, of the audio with -1."""
    return torch.full_like(arguments["hidden_states"], 2.0), torch.full_like(arguments["audio_hidden_states"], -1.0)


def linear_field(**arguments: Any) -> tuple[Tensor, Tensor]:
    """dx / dsigma = x."""
    return arguments["hidden_states"], arguments["audio_hidden_states"]


def field_distillation(teachers: Path, tmp_path: Path, phases: Phases, student: Any, teacher: Any, jump: int) -> Any:
    config = student_config(teachers, tmp_path, teacher_jump=jump, teacher_steps=8, teacher_guidance_scale=1.0)
    config = replace(config, teacher_audio_guidance_scale=1.0)
    pipeline = TeacherPipeline(config, dict, CPU)
    pipeline.guidance = {name: replace(g, coupling_scale=1.0) for name, g in pipeline.guidance.items()}
    return Distillation(config, pipeline, phases, student, teacher)


@pytest.mark.parametrize("jump", [1, 4])
def test_the_right_student_of_straight_paths_has_no_loss(teachers: Path, tmp_path: Path, jump: int) -> None:
    phases = Phases.of(FEW, 8, CPU)
    inputs = field_inputs(phases, phases.levels["video"][:8])
    distillation = field_distillation(teachers, tmp_path, phases, constant_field, constant_field, jump)
    target, audio_target = distillation.targets(inputs)
    loss = jova_loss(*constant_field(**inputs.arguments), target, audio_target).total
    assert float(loss.max()) < 1e-8  # squares of rounding, 1e-7 / the smallest phase of 0.1, or so
    wrong = jova_loss(*linear_field(**inputs.arguments), target, audio_target).total
    assert float(wrong.min()) > 0.1


def test_on_a_field_that_bends_the_target_is_the_end_of_the_teachers_steps(teachers: Path, tmp_path: Path) -> None:
    phases = Phases.of(FEW, 8, CPU)
    inputs = field_inputs(phases, phases.levels["video"][:8])
    for jump in (2, 4):
        distillation = field_distillation(teachers, tmp_path, phases, linear_field, linear_field, jump)
        found = dict(zip(("video", "audio"), distillation.targets(inputs), strict=True))
        for name, key in (("video", "hidden_states"), ("audio", "audio_hidden_states")):
            levels = phases.levels[name].double()
            for row in range(8):
                end, x = (row // 4 + 1) * 4, inputs.arguments[key][row].double()
                start = x.clone()
                for step in range(row, min(row + jump, end)):  # Euler on dx / dsigma = x
                    x = x + (levels[step + 1] - levels[step]) * x
                x = x + (levels[end] - levels[min(row + jump, end)]) * x  # the student's jump
                expected = (x - start) / (levels[end] - levels[row])
                torch.testing.assert_close(found[name][row].double(), expected, rtol=1e-4, atol=1e-5)


# 2. The teacher


@pytest.mark.parametrize("name", ["jova", pytest.param("wan", marks=pytest.mark.slow)])
def test_a_step_of_the_teacher_is_a_guided_step_of_its_pipeline(teachers: Path, tmp_path: Path, name: str) -> None:
    """Negative prompts, guidance on a part of the steps, projection and rescaling are those of the call."""
    pipe = JoVAPipeline.from_pretrained(teachers / name)
    pipe.set_progress_bar_config(disable=True)
    names, seen = ["latents", "audio_latents"], []
    noise, audio_noise = torch.randn(2, 16, 3, 4, 4), torch.randn(2, 18, 4)
    pipe(
        ["a dog", "a cat"],
        num_inference_steps=8,
        latents=noise,
        audio_latents=audio_noise,
        output_type="latent",
        callback_on_step_end=lambda *told: seen.append(dict(told[3])) or {},
        callback_on_step_end_tensor_inputs=names,
    )
    trainer = Trainer(student_config(teachers, tmp_path, name))
    text = pipe.encode_prompt(["a dog", "a cat"], do_classifier_free_guidance=False)[0]
    for step in (1, 6):  # of each half
        before, after = ({n: tensors[n].float() for n in names} for tensors in (seen[step - 1], seen[step]))
        levels = {n: trainer.phases.levels[n][step].expand(2) for n in ("video", "audio")}
        channels = pipe.transformer.config.in_channels - 16
        latents = torch.cat([before["latents"], torch.zeros(2, channels, 3, 4, 4)], dim=1)
        arguments = {
            "hidden_states": latents,
            "audio_hidden_states": before["audio_latents"],
            "timestep": 1000 * levels["video"],
            "audio_timestep": 1000 * levels["audio"],
            "encoder_hidden_states": text.features,
            "encoder_attention_mask": text.joint_mask(),
            "frame_rate": 16.0,
            "audio_latent_rate_hz": pipe.audio_codec.latent_rate_hz,
            "coupled": True,
        }
        is_there = torch.ones(2, dtype=torch.bool)
        targets = (before["latents"], before["audio_latents"])
        inputs = ModelInputs(arguments, *targets, None, None, is_there, is_there, levels["video"], levels["audio"])
        walked = one_step(trainer.distillation, inputs)
        for n, key in (("video", "latents"), ("audio", "audio_latents")):
            torch.testing.assert_close(walked[n], after[key], rtol=1e-4, atol=1e-5)


def one_step(distillation: Any, inputs: ModelInputs) -> dict[str, Tensor]:
    """Latents where one step of the teacher leads."""
    walk = Walk(inputs, distillation.phases)
    with torch.no_grad():
        walk.step(distillation._guided(distillation._plan(walk), walk))
    return walk.samples


def test_the_teacher_is_the_model_without_the_adapter_to_the_bit(teachers: Path, tmp_path: Path) -> None:
    trainer = Trainer(student_config(teachers, tmp_path))
    plain = JoVAPipeline.from_pretrained(teachers / "jova").transformer.train()
    for name, weight in trainer.transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    arguments = trainer.conditioning(trainer.dataset.batch([0, 1]), seed=0).arguments
    with torch.no_grad():
        taught = trainer.distillation.teacher(**arguments)
        expected, student = plain(**arguments, return_dict=False), trainer.distillation.student(**arguments)
    for one, other, far in zip(taught, expected, student, strict=True):
        assert torch.equal(one, other)
        assert (one - far).abs().max() > 1e-3
    assert all(weight.requires_grad == ("lora" in name) for name, weight in trainer.transformer.named_parameters())


def test_what_is_given_stays_and_both_modalities_walk_together(teachers: Path, tmp_path: Path) -> None:
    config = student_config(teachers, tmp_path, "wan", image_probability=1.0, teacher_jump=4)
    trainer = Trainer(config)
    inputs = trainer.conditioning(trainer.dataset.batch([0, 1, 2]), seed=1)
    levels = inputs.arguments["timestep"] / 1000
    assert levels.shape == (3, 3)  # the first frame is a clean latent here
    assert torch.equal(
        trainer.phases.number("video", inputs.sigma), trainer.phases.number("audio", inputs.audio_sigma)
    )
    walked = one_step(trainer.distillation, inputs)["video"]
    start = inputs.arguments["hidden_states"]
    assert torch.equal(walked[:, :, 0], start[:, :, 0])
    assert not torch.equal(walked[:, :, 1:], start[:, :, 1:])


def test_samples_that_begin_a_phase_are_at_levels_where_sampling_asks(teachers: Path, tmp_path: Path) -> None:
    trainer = Trainer(student_config(teachers, tmp_path, begin_probability=1.0, coupling="mixed"))
    edges = {name: levels[::4].tolist() for name, levels in trainer.phases.levels.items()}
    for seed in range(4):
        inputs = trainer.conditioning(trainer.dataset.batch([0, 1, 2]), seed=seed)
        assert {*inputs.sigma.tolist()} <= {*edges["video"]}
        assert {*inputs.audio_sigma.tolist()} <= {*edges["audio"]}


@pytest.mark.slow
def test_all_clips_of_two_towers_have_one_level(teachers: Path, tmp_path: Path) -> None:
    """A step of the teacher may lead from one tower to the other, and one tower serves a micro-batch."""
    if not (teachers / "bridge").exists():
        build_tiny_pipeline(transformer=build_dual_tower("bridge", boundary=0.5)).save_pretrained(teachers / "bridge")
    trainer = Trainer(student_config(teachers, tmp_path, "bridge", image_probability=0.0, caption_dropout=0.0))
    for seed in range(4):
        inputs = trainer.conditioning(trainer.dataset.batch([0, 1, 2]), seed=seed)
        assert len(set(inputs.sigma.tolist())) == 1
        assert all(target.isfinite().all() for target in trainer.distillation.targets(inputs))


# 3. The loss of a run


def test_the_mouth_and_the_anchor_count_by_their_weights(teachers: Path, tmp_path: Path) -> None:
    trainer = Trainer(student_config(teachers, tmp_path, anchor_weight=0.25))
    inputs = trainer.conditioning(trainer.dataset.batch([0, 1]), seed=0)
    terms = trainer.loss(inputs)
    velocities = trainer.distillation.student(**inputs.arguments)
    masks = (inputs.mouth_mask, inputs.has_video, inputs.has_audio)
    taught = jova_loss(*velocities, *trainer.distillation.targets(inputs), *masks, mouth_weight=0.0)
    on_clips = jova_loss(*velocities, inputs.target, inputs.audio_target, *masks, mouth_weight=5.0)
    assert terms.mouth.min() > 0
    expected = taught.video + taught.audio + 5 * terms.mouth + 0.25 * on_clips.total
    torch.testing.assert_close(terms.total, expected)


# 4. Runs


@pytest.fixture(scope="module")
def students(teachers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an adapter, of four steps, and one in full."""
    folder = tmp_path_factory.mktemp("students")
    run(student_config(teachers, folder / "lora", gradient_accumulation_steps=2, ema_decay=0.5))
    run(student_config(teachers, folder / "full", train="full", steps=1))
    return folder


def test_a_run_that_goes_on_has_the_bits_of_one_that_did_not_stop(
    teachers: Path, students: Path, tmp_path: Path
) -> None:
    whole = students / "lora" / "run"
    shutil.copytree(whole / "checkpoint-00000002", tmp_path / "run" / "checkpoint-00000002")
    trainer = Trainer(student_config(teachers, tmp_path, gradient_accumulation_steps=2, ema_decay=0.5))
    assert trainer.step == 2
    trainer.train()
    assert different(adapter_of(whole), adapter_of(tmp_path / "run")) == []
    assert losses(whole)[-1] == losses(tmp_path / "run")[-1]


@pytest.mark.slow
def test_another_seed_gives_another_student(teachers: Path, students: Path, tmp_path: Path) -> None:
    settings = {"gradient_accumulation_steps": 2, "ema_decay": 0.5, "steps": 2}
    one = Trainer(student_config(teachers, tmp_path, seed=1, **settings)).train()
    whole = load_file(students / "lora" / "run" / "checkpoint-00000002" / "ema.safetensors")
    other = load_file(one / "checkpoint-00000002" / "ema.safetensors")
    assert different(whole, other)


def test_the_adapter_tells_how_it_is_asked(students: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(students / "lora" / "run")])
    said = capsys.readouterr().out
    assert (
        "few steps   num_inference_steps 2, shift 3.0, audio_shift 5.0; solver euler, guidance 1, no negative" in said
    )
    assert "student_steps: 2" in said
    assert (
        "pipe.use_few_steps()  # 2 steps of Euler at shifts 3 and 5 without guidance"
        in (students / "lora" / "run" / "README.md").read_text()
    )


def test_a_whole_student_is_a_pipeline_that_is_asked_right_by_itself(
    students: Path, log: pytest.LogCaptureFixture
) -> None:
    pipe = JoVAPipeline.from_pretrained(students / "full" / "run")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.defaults.num_inference_steps == 2
    assert {guidance.guidance_scale for guidance in pipe.defaults.guidance().values()} == {1.0}
    assert dict(pipe.scheduler.config)["solver"] == "euler"
    made = pipe("a dog", output_type="latent")
    assert made.frames.isfinite().all()
    assert "student" not in log.text
    pipe("a dog", output_type="latent", guidance_scale=4.0, num_inference_steps=3)
    assert (
        "the model is a student made for 2 steps of Euler at shifts 3 and 5 without guidance, got 3 steps" in log.text
    )


# 5. Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "{students}/full/run"}, "the teacher must be a model of many steps, got `.*`, a student of 2 step"),
        ({"model": "{teachers}/jova/vae"}, "`model` must be a saved pipeline to teach a student, with its guidance"),
        (
            {"init_adapter": "{students}/lora/run", "student_steps": 4},
            "`init_adapter` must be of the kind that is trained, a student of 4, got `.*`, a student of 2; begin",
        ),
        (
            {"init_adapter": "{students}/lora/run", "student_steps": None, "teacher_steps": 48},
            "`init_adapter` must be of the kind that is trained, an adapter of many steps, got `.*`, a student of 2",
        ),
    ],
)
def test_what_cannot_teach_or_learn_is_refused(
    teachers: Path, students: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    own = {
        name: value.format(teachers=teachers, students=students) if isinstance(value, str) else value
        for name, value in settings.items()
    }
    if "init_adapter" in own:
        own |= dict.fromkeys(("lora_rank", "lora_alpha", "lora_targets"))
    with pytest.raises(ValueError, match=message):
        Trainer(student_config(teachers, tmp_path, **own))


def test_a_checkpoint_of_another_teacher_is_not_continued(teachers: Path, students: Path, tmp_path: Path) -> None:
    whole = students / "lora" / "run" / "checkpoint-00000002"
    shutil.copytree(whole, tmp_path / "run" / whole.name)
    settings = {"gradient_accumulation_steps": 2, "ema_decay": 0.5, "teacher_guidance_scale": 2.0}
    with pytest.raises(ValueError, match=r"`teacher_guidance_scale` is null there and 2\.0 here"):
        Trainer(student_config(teachers, tmp_path, **settings))
    state = json.loads((whole / "state.json").read_text())
    assert state["fingerprint"]["teacher"]["negative prompts"] == ["grey", "hiss"]


@pytest.mark.parametrize(
    "settings",
    [{}, {"train": "full"}, {"student_steps": None, "teacher_steps": 48}],
    ids=["student", "whole student", "adapter"],
)
def test_a_run_goes_on_with_the_weights_that_it_began_with_alone(
    settings: dict[str, Any], teachers: Path, tmp_path: Path
) -> None:
    begun = {**settings, "model": str(shutil.copytree(teachers / "jova", tmp_path / "teacher")), "steps": 2}
    Trainer(student_config(teachers, tmp_path, **begun)).train()
    moved = shutil.move(tmp_path / "teacher", tmp_path / "moved")  # the same weights under another name
    assert Trainer(student_config(teachers, tmp_path, **begun | {"model": str(moved), "steps": 3})).step == 2
    (file,) = (tmp_path / "moved" / "transformer").glob("*.safetensors")
    weights = load_file(file)
    save_file({name: weight * 1.5 for name, weight in weights.items()}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights of `model` are others"):
        Trainer(student_config(teachers, tmp_path, **begun | {"model": str(moved), "steps": 3}))
    state = tmp_path / "run" / "checkpoint-00000002" / "state.json"
    values = json.loads(state.read_text())
    del values["fingerprint"]["digest of the weights of the model that no checkpoint holds"]
    state.write_text(json.dumps(values))  # as older checkpoints are
    assert Trainer(student_config(teachers, tmp_path, **begun | {"model": str(moved), "steps": 3})).step == 2
