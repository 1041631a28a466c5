import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from safetensors.torch import load_file

from diffusers_jova.training.data.record import UNFINISHED, write_record
from diffusers_jova.training.loop import metrics
from diffusers_jova.training.loop.branches import copy_video_to_audio
from diffusers_jova.training.loop.conditioning import Conditioning
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.distribution import start_accelerator
from diffusers_jova.training.loop.lora import quantize_nf4_
from diffusers_jova.training.loop.metrics import LossMeter
from diffusers_jova.training.loop.trainer import Clock, Trainer, num_numbers
from diffusers_jova.training.train import main
from diffusers_jova.transformer_jova import JoVATransformer3DModel
from diffusers_jova.weight_branches import branch_of
from jova_cli.shipped import launch_names
from tests.command_words import replaced
from tests.processes import alone
from tests.tiny_training import (
    EVERYTHING_RANDOM,
    HEADER,
    MODEL,
    MODELS,
    WAN_MODEL,
    different,
    forget_accelerate,
    losses,
    result,
    tiny_config,
    write_clips,
)


Configure = Callable[..., TrainConfig]


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def configure(request: pytest.FixtureRequest) -> Configure:
    """`tiny_config` for each class of transformer; the tests that take it hold for both."""
    return partial(tiny_config, transformer=request.param)


def kill_at(config: Any, last_step: int) -> None:
    """Trains in a process that dies like a killed one as soon as it has done a step."""

    def die(_: Trainer, step: int) -> None:
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer(config, on_validate=die).train()


@pytest.mark.parametrize(("transformer", "on_device"), [(MODEL, False), (WAN_MODEL, True)], ids=MODELS.keys())
def test_a_run_killed_between_checkpoints_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, transformer: dict[str, Any], on_device: bool
) -> None:
    settings = EVERYTHING_RANDOM | {"dataset_on_device": on_device}
    Trainer(tiny_config(tmp_path, transformer, output_dir=str(tmp_path / "whole"), **settings)).train()
    config = tiny_config(tmp_path, transformer, validate_every=1, validation_prompts=["a"], **settings)
    process = alone(kill_at, config, 4)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "run" / "transformer").exists()
    Trainer(config).train()
    assert different(result(tmp_path / "whole"), result(tmp_path / "run")) == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "run")


@pytest.mark.parametrize(
    ("transformer", "remaining"),
    [
        pytest.param(MODEL, 0.2, id="jova"),
        # 0.07 with learned positions: without, only their noisy values tell random rows apart
        pytest.param(WAN_MODEL, 0.5, id="wan", marks=pytest.mark.slow),
    ],
)
def test_one_batch_is_overfitted(tmp_path: Path, transformer: dict[str, Any], remaining: float) -> None:
    """Whoever does not know the clip keeps 0.8 of the loss: its mean over sigma is at least pi / 2, and 2 at first."""
    write_clips(tmp_path / "prepared", num_clips=1)
    settings = {"steps": 90, "learning_rate": 2e-2, "caption_dropout": 0, "mouth_weight": 0, "dataset_on_device": True}
    Trainer(tiny_config(tmp_path, transformer, checkpoint_every=90, log_every=10, **settings)).train()
    first, *_, last = losses(tmp_path / "run")
    assert last["loss/video"] < remaining * first["loss/video"]
    assert last["loss/audio"] < remaining * first["loss/audio"]


@pytest.mark.parametrize("lacks", [True, False])
def test_a_processor_without_bfloat16_is_told_what_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lacks: bool
) -> None:
    monkeypatch.setattr("diffusers_jova.training.loop.distribution.lacks_bfloat16", lambda: lacks)
    for precision in ("no", "bf16"):
        forget_accelerate()
        start_accelerator(tiny_config(tmp_path, mixed_precision=precision))
        assert ("`mixed_precision=no` is many times faster" in capsys.readouterr().out) == (
            lacks and precision == "bf16"
        )
    forget_accelerate()


def test_the_handler_of_sigterm_stays_only_for_the_run(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    during = []
    settings = {"steps": 1, "validate_every": 1, "validation_prompts": ["a"]}
    Trainer(tiny_config(tmp_path, **settings), lambda *_: during.append(signal.getsignal(signal.SIGTERM))).train()
    assert during != [before]
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_two_parts_of_a_run_share_their_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    prepare = Conditioning.__call__
    spy = lambda self, batch, seed, step: seeds.append(seed) or prepare(self, batch, seed, step)  # noqa: E731
    monkeypatch.setattr(Conditioning, "__call__", spy)
    Trainer(tiny_config(tmp_path, steps=3, batch_size=2, gradient_accumulation_steps=4)).train()
    assert len(set(seeds)) == 3 * 4


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ((4, 6, 10), "`video_latents` must be 2 wide for this `model`, got 4 in"),
        ((2, 7, 10), "`audio_latents` must be 6 wide for this `model`, got 7 in"),
        ((2, 6, 12), "`prompt_embeds` must be 10 wide for this `model`, got 12 in"),
    ],
)
def test_clips_prepared_for_another_model_are_refused(
    tmp_path: Path, channels: tuple[int, int, int], message: str
) -> None:
    write_clips(tmp_path / "prepared", num_clips=2, channels=channels)
    with pytest.raises(ValueError, match=message):
        Trainer(tiny_config(tmp_path))


def test_a_misspelt_argument_of_a_new_transformer_is_an_error(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(MODEL | {"num_layer": 3}))
    with pytest.raises(ValueError, match=r"`num_layer` in .*model\.json` is no argument of JoVATransformer3DModel"):
        Trainer(config)
    with pytest.raises(ValueError, match=r"`model` must be a saved transformer or pipeline, got .*prepared`"):
        Trainer(replace(config, model=str(tmp_path / "prepared")))
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"`model` with the constructor arguments, .* must be a JSON object"):
        Trainer(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_float16_that_would_not_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`mixed_precision` must be bf16 or no without a GPU"):
        Trainer(tiny_config(tmp_path, mixed_precision="fp16"))


def test_an_overflow_of_float16_is_no_broken_gradient(tmp_path: Path) -> None:
    for precision, expected in (("fp16", 3.0), ("bf16", float("inf"))):
        meter = LossMeter(tiny_config(tmp_path, mixed_precision=precision), torch.device("cpu"))
        for norm in (float("inf"), 2.0, 4.0):
            meter.add_gradient_norm(torch.tensor(norm))
        assert meter.read(meter.take())["gradient_norm"] == expected


def test_a_full_disk_leaves_the_earlier_result_and_no_half_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(tiny_config(tmp_path, steps=3)).train()
    before = result(tmp_path / "run")

    def full(_: JoVATransformer3DModel, folder: Path) -> None:
        folder.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JoVATransformer3DModel, "save_pretrained", full)
    with pytest.raises(OSError, match=r"transformer` could not be written .* continues from `checkpoint-00000006`"):
        Trainer(tiny_config(tmp_path)).train()
    assert different(before, result(tmp_path / "run")) == []
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")] == []


def test_a_run_speaks_before_its_first_step_and_when_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tmp_path, steps=3, log_every=3, checkpoint_every=3)
    said: list[str] = []
    take_step = Trainer.take_step

    def listen(trainer: Trainer, batches: Any) -> None:
        said.append(capsys.readouterr().out)
        take_step(trainer, batches)

    monkeypatch.setattr(Trainer, "take_step", listen)
    Trainer(config).train()
    before, after_first, after_second = said
    num_weights = sum(weight.numel() for weight in Trainer(config).transformer.parameters())
    assert before.startswith("training on 8 clips")
    assert f"the weights begin at random, in the sizes of `{config.model}`\n" in before
    assert f"step 1 of 3 begins: {config.batch_size} clips a step, {num_weights:,} of {num_weights:,} we" in before
    assert re.fullmatch(r"step 1 is done after \d+\.\d s\n", after_first)
    assert after_second == ""


def test_a_mouth_loss_without_mouths_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_clips(tmp_path / "prepared", num_clips=1)
    Trainer(tiny_config(tmp_path))
    assert "mouth" not in capsys.readouterr().out
    record = load_file(data / "clip-000.safetensors")
    for boxes in (torch.zeros(0, 9, 4), torch.full((1, 9, 4), torch.nan)):  # nobody, somebody who is never seen
        write_record(data / "clip-000.safetensors", record | {"mouth_boxes": boxes}, HEADER)
        forget_accelerate()
        Trainer(tiny_config(tmp_path))
        assert "has mouth boxes: the mouth loss will be 0" in capsys.readouterr().out


def test_mouth_boxes_grow_by_the_setting(tmp_path: Path) -> None:
    plain, grown = (
        Trainer(tiny_config(tmp_path, mouth_box_scale=scale)).dataset.batch([0])["mouth_mask"].sum()
        for scale in (1, 3)
    )
    assert grown > plain > 0


def test_a_run_says_on_how_many_clips_of_how_many_buckets_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clips(tmp_path / "prepared")
    record = {"video_latents": torch.randn(2, 2, 4, 4), "prompt_embeds": torch.randn(3, 10)}
    write_record(data / "short.safetensors", record, HEADER)
    prior = write_clips(tmp_path / "prior", num_clips=3)
    Trainer(tiny_config(tmp_path, prior_data=str(prior), prior_probability=0.5))
    expected = "training on 9 clips in 2 buckets (8, 1), against forgetting on 3 clips in 1 bucket\n"
    assert expected in capsys.readouterr().out


def test_a_folder_that_was_not_prepared_to_the_end_is_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clips(tmp_path / "prepared")
    Trainer(tiny_config(tmp_path))
    assert "has not finished" not in capsys.readouterr().out
    (data / UNFINISHED).touch()
    forget_accelerate()
    Trainer(tiny_config(tmp_path))
    assert f"has not finished `{data}`: the run goes without the clips that are missing" in capsys.readouterr().out


def test_records_in_half_precision_train_in_full_precision(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=1, mixed_precision="no")
    for path in (tmp_path / "prepared").rglob("*.safetensors"):
        record = load_file(path)
        record |= {name: tensor.bfloat16() for name, tensor in record.items() if name != "mouth_boxes"}
        write_record(path, record, HEADER)
    Trainer(config).train()


def prepare_anew(data: Path, preparation: str) -> None:
    for path in data.glob("*.safetensors"):
        write_record(path, load_file(path), HEADER | {"preparation": preparation})


def test_clips_that_were_prepared_anew_are_another_run_unless_a_checkpoint_is_older_than_such_settings(
    tmp_path: Path,
) -> None:
    data = write_clips(tmp_path / "prepared")
    prepare_anew(data, "one")
    Trainer(tiny_config(tmp_path, steps=3)).train()
    Trainer(tiny_config(tmp_path))
    prepare_anew(data, "another")
    with pytest.raises(ValueError, match=r"but the clips were prepared with other settings, or for"):
        Trainer(tiny_config(tmp_path))
    file = tmp_path / "run" / "checkpoint-00000003" / "state.json"
    state = json.loads(file.read_text())
    del state["fingerprint"]["preparation"], state["fingerprint"]["mouth_box_scale"], state["fingerprint"]["betas"]
    file.write_text(json.dumps(state))
    assert Trainer(tiny_config(tmp_path)).step == 3


def test_a_distribution_that_did_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="`distribution` must be what was started, got ddp for 1 processes but none"):
        Trainer(tiny_config(tmp_path, distribution="ddp"))
    settings = r'--config_file "\$\(jova presets (\S+)\)"'
    whole = rf"`accelerate launch {settings} -m diffusers_jova\.training\.train --config \.\.\.`"
    with pytest.raises(ValueError, match=f"got fsdp for 1 processes but none .* start with {whole}") as raised:
        Trainer(tiny_config(tmp_path, distribution="fsdp"))
    named = re.search(whole, str(raised.value))
    assert named is not None
    assert named[1] in launch_names()
    with pytest.raises(
        ValueError, match=r"on the CPU with .* and `distribution=ddp`, because accelerate starts fsdp on"
    ):
        Trainer(tiny_config(tmp_path, distribution="fsdp"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # what a configuration of accelerate asks for, on a CPU in vain
    with pytest.raises(ValueError, match="got fsdp for 1 processes but none"):
        Trainer(tiny_config(tmp_path))


def test_the_number_of_accumulated_batches_is_that_of_the_run_whatever_the_launcher_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for written in ("auto", "8"):
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", written)
        forget_accelerate()
        assert start_accelerator(tiny_config(tmp_path, gradient_accumulation_steps=2)).gradient_accumulation_steps == 2


class StartedDeepSpeed:
    """What accelerate gives where it has started DeepSpeed, which is not installed here."""

    distributed_type, num_processes, device = DistributedType.DEEPSPEED, 1, torch.device("cpu")

    def __init__(self, values: dict[str, Any]) -> None:
        settings = {"zero_optimization": {"stage": 2}, "gradient_clipping": "auto"} | values
        self.state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config=settings))

    def print(self, text: str) -> None:
        print(text)


def test_deepspeed_takes_the_numbers_of_the_run_and_announces_that_it_cannot_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diffusers_jova.training.loop.distribution.Accelerator", lambda **_: StartedDeepSpeed({}))
    settings = {"max_grad_norm": 0.3, "gradient_accumulation_steps": 2, "distribution": "deepspeed"}
    values = start_accelerator(tiny_config(tmp_path, **settings)).state.deepspeed_plugin.deepspeed_config
    numbers = (
        values["gradient_clipping"],
        values["gradient_accumulation_steps"],
        values["train_micro_batch_size_per_gpu"],
    )
    assert numbers == (0.3, 2, 4)
    assert "this run cannot be continued" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gradient_clipping": 1.0}, r"`gradient_clipping` must be `max_grad_norm` = 0\.3, got 1\.0; write `gradient"),
        ({"gradient_accumulation_steps": 2}, "`gradient_accumulation_steps` must be .* = 1, got 2"),
        ({"train_micro_batch_size_per_gpu": 2}, "`train_micro_batch_size_per_gpu` must be `batch_size` = 4, got 2"),
        ({"zero_optimization": {"stage": 3}}, "`zero_stage` must be 2 or less, got 3; use `distribution: fsdp`"),
    ],
)
def test_settings_of_deepspeed_that_differ_from_those_of_the_run_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("diffusers_jova.training.loop.distribution.Accelerator", lambda **_: StartedDeepSpeed(values))
    with pytest.raises(ValueError, match=message):
        Trainer(tiny_config(tmp_path, max_grad_norm=0.3, distribution="deepspeed"))


@pytest.mark.parametrize("stage", ["video", "audio"])
def test_a_stage_trains_its_own_branch_and_leaves_the_other_bit_for_bit(
    tmp_path: Path, configure: Configure, stage: str
) -> None:
    torch.manual_seed(0)
    trainer = Trainer(configure(tmp_path, stage=stage, steps=2))
    names = {name for name, parameter in trainer.transformer.named_parameters() if parameter.requires_grad}
    assert {branch_of(name) for name in names} == {stage}  # two processes would wait for gradients that never come
    before = {name: p.detach().clone() for name, p in trainer.transformer.named_parameters()}
    trainer.train()
    changed = different(before, dict(trainer.transformer.named_parameters()))
    assert {branch_of(name) for name in changed} == {stage}
    loaded = type(trainer.transformer).from_pretrained(tmp_path / "run" / "transformer")
    assert different(dict(trainer.transformer.named_parameters()), dict(loaded.named_parameters())) == []


def test_a_learning_rate_of_zero_freezes_a_branch(tmp_path: Path, configure: Configure) -> None:
    trainer = Trainer(configure(tmp_path, steps=2, audio_learning_rate=0))
    before = {name: p.detach().clone() for name, p in trainer.transformer.named_parameters()}
    trainer.train()
    changed = different(before, dict(trainer.transformer.named_parameters()))
    assert {branch_of(name) for name in changed} == {"video"}


def test_a_frozen_weight_that_changed_is_found(tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(tmp_path, stage="video", steps=1))
    weight = trainer.transformer.head["audio"].proj_out.bias
    weight.data[0] = torch.nextafter(weight.data[0], torch.tensor(1.0))
    with pytest.raises(RuntimeError, match=r"1 changed: head\.audio\.proj_out\.bias"):
        trainer.train()


def test_clips_without_sound_and_sound_without_picture_are_trained_together(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", without_audio=(1, 2), without_video=(3,))
    Trainer(tiny_config(tmp_path, batch_size=8, steps=2, coupling="mixed")).train()
    assert {"loss/video", "loss/audio", "loss/mouth"} < losses(tmp_path / "run")[-1].keys()


def test_the_saved_result_holds_the_averaged_weights(tmp_path: Path, configure: Configure) -> None:
    Trainer(configure(tmp_path, ema_decay=0.9)).train()
    checkpoint = tmp_path / "run" / "checkpoint-00000006"
    assert different(result(tmp_path / "run"), load_file(checkpoint / "ema.safetensors")) == []
    assert len(different(result(tmp_path / "run"), load_file(checkpoint / "model.safetensors"))) > 100


def test_the_result_can_be_saved_in_bfloat16_and_trained_further(tmp_path: Path) -> None:
    Trainer(tiny_config(tmp_path, save_dtype="bfloat16", steps=1)).train()
    assert {tensor.dtype for tensor in result(tmp_path / "run").values()} == {torch.bfloat16}
    model = str(tmp_path / "run")
    trainer = Trainer(tiny_config(tmp_path, model=model, output_dir=str(tmp_path / "next"), steps=1))
    assert {p.dtype for p in trainer.transformer.parameters()} == {torch.float32}
    trainer.train()


def test_old_checkpoints_are_deleted_and_the_newest_kept(tmp_path: Path) -> None:
    Trainer(tiny_config(tmp_path, checkpoint_every=1, keep_checkpoints=2)).train()
    found = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert found == ["checkpoint-00000005", "checkpoint-00000006"]
    assert [
        path.suffix
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and path.suffix not in (".safetensors", ".json", ".jsonl", ".yaml")
    ] == []  # nothing pickled


def test_a_run_begins_by_deleting_what_a_kill_left_of_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "run" / ".checkpoint-00000002.partial-1").mkdir(parents=True)
    Trainer(tiny_config(tmp_path, steps=1)).train()
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")] == []


def test_a_checkpoint_that_a_kill_left_moved_aside_is_continued_from(tmp_path: Path) -> None:
    Trainer(tiny_config(tmp_path, steps=3)).train()
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    place = checkpoint.with_name(f".{checkpoint.name}.partial-1")
    place.mkdir()
    checkpoint.rename(place / "old")
    assert Trainer(tiny_config(tmp_path)).step == 3


def test_a_checkpoint_of_another_run_is_refused_by_the_settings_that_differ(tmp_path: Path) -> None:
    Trainer(tiny_config(tmp_path, steps=3)).train()
    with pytest.raises(ValueError, match=r"`mouth_weight` is 5\.0 there and 2\.0 here"):
        Trainer(tiny_config(tmp_path, mouth_weight=2)).train()
    with pytest.raises(ValueError, match=r"`steps` must be at least 3 to continue from .*checkpoint-00000003`, got 2"):
        Trainer(tiny_config(tmp_path, steps=2)).train()
    Trainer(tiny_config(tmp_path, mouth_weight=2, resume=False)).train()


def test_a_checkpoint_of_other_clips_is_refused_in_words(tmp_path: Path) -> None:
    data = write_clips(tmp_path / "prepared")
    Trainer(tiny_config(tmp_path, steps=3)).train()
    min(data.glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"`data` holds other clips .* by `init_adapter`\), `number of"):
        Trainer(tiny_config(tmp_path))


def test_a_run_started_afresh_leaves_no_checkpoint_of_the_earlier_one_to_continue_from(tmp_path: Path) -> None:
    Trainer(tiny_config(tmp_path)).train()
    Trainer(tiny_config(tmp_path, steps=3, resume=False)).train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00000003"]


def test_a_run_that_diverged_goes_on_with_the_learning_rate_that_its_error_asks_for(tmp_path: Path) -> None:
    Trainer(tiny_config(tmp_path, steps=3)).train()
    with pytest.raises(FloatingPointError, match=r"at step \d in loss/.*; lower `learning_rate` or `max_grad_norm`"):
        Trainer(tiny_config(tmp_path, learning_rate=1e30)).train()
    trainer = Trainer(tiny_config(tmp_path, learning_rate=1e-4))
    trainer.train()
    assert trainer.step == 6


def test_a_run_out_of_time_writes_a_checkpoint_and_is_continued(tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(tmp_path, stop_after_minutes=0))
    trainer.train()
    assert trainer.step == 2  # the first report
    assert not (tmp_path / "run" / "transformer").exists()
    trainer = Trainer(tiny_config(tmp_path))
    trainer.train()
    assert trainer.step == 6


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(tmp_path))
    trainer.transformer.head["video"].proj_out.bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="the loss must be finite"):
        trainer.train()
    assert list((tmp_path / "run").glob("checkpoint-*")) == []


def test_prior_clips_are_mixed_in_at_their_share(tmp_path: Path) -> None:
    prior = write_clips(tmp_path / "prior", num_clips=1)  # with shorter prompts
    trainer = Trainer(tiny_config(tmp_path, prior_data=str(prior), prior_probability=0.5))
    seen = []
    batch_of = type(trainer.clips.prior).batch
    trainer.clips.prior.batch = lambda indices: seen.append(indices) or batch_of(trainer.clips.prior, indices)
    trainer.train()
    assert len(seen) == 3


def test_the_command_trains_and_names_the_nearest_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_config(tmp_path)
    paths = [f"model={tmp_path / 'model.json'}", f"data={tmp_path / 'prepared'}", f"output_dir={tmp_path / 'run'}"]
    main(["--config", "training/configs/smoke.yaml", *paths, "steps=1", "warmup_steps=0"])
    assert "1 of 1 steps are done" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--config", "training/configs/smoke.yaml", *paths, "lerning_rate=1"])
    assert "did you mean `learning_rate`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--config", "training/configs/smoke.yaml", *replaced(paths, f"data={tmp_path}")])
    assert capsys.readouterr().err.endswith("run `jova prepare` first\n")


def test_gradient_checkpointing_does_not_change_a_step(tmp_path: Path, configure: Configure) -> None:
    Trainer(configure(tmp_path, steps=2)).train()
    config = configure(tmp_path, output_dir=str(tmp_path / "less"), steps=2, gradient_checkpointing=True)
    Trainer(config).train()
    assert different(result(tmp_path / "run"), result(tmp_path / "less")) == []


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "muon"])
def test_every_optimizer_resumes_with_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    if optimizer == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    settings = {"optimizer": optimizer}
    Trainer(tiny_config(tmp_path, output_dir=str(tmp_path / "whole"), **settings)).train()
    Trainer(tiny_config(tmp_path, stop_after_minutes=0, log_every=4, **settings)).train()
    Trainer(tiny_config(tmp_path, **settings)).train()
    assert different(result(tmp_path / "whole"), result(tmp_path / "run")) == []


def test_the_audio_branch_starts_as_a_copy_of_the_video_branch(tmp_path: Path, configure: Configure) -> None:
    transformer = Trainer(configure(tmp_path, stage="audio", init_audio_from_video=True)).transformer
    weights = dict(transformer.named_parameters())
    kept = set(copy_video_to_audio(transformer))
    copied = [name for name in weights if branch_of(name) == "audio" and name not in kept]
    assert any(".attn" in name and name.endswith("to_q.weight") for name in copied)
    for name in copied:
        assert torch.equal(weights[name], weights[name.replace("audio", "video")])
    ends = ("patch_embedding", "position_embedding", "proj_out")  # latents in and out have other shapes
    assert [name for name in kept if not any(end in name for end in ends)] == []


def test_bfloat16_takes_nearly_the_steps_of_float32_with_weights_in_float32(
    tmp_path: Path, configure: Configure
) -> None:
    for precision in ("no", "bf16"):
        forget_accelerate()
        settings = {"output_dir": str(tmp_path / precision), "steps": 4, "learning_rate": 1e-2}
        Trainer(configure(tmp_path, mixed_precision=precision, **settings)).train()
        assert {weight.dtype for weight in result(tmp_path / precision).values()} == {torch.float32}
    whole, half = losses(tmp_path / "no")[-1], losses(tmp_path / "bf16")[-1]
    assert half["loss/video"] != whole["loss/video"]
    assert half["loss/video"] == pytest.approx(whole["loss/video"], rel=0.01)
    assert half["loss/audio"] == pytest.approx(whole["loss/audio"], rel=0.01)


def test_clips_prepared_with_different_sound_codecs_are_refused(tmp_path: Path) -> None:
    prior = write_clips(tmp_path / "prior", num_clips=1)
    record = load_file(prior / "clip-000.safetensors")
    write_record(prior / "clip-000.safetensors", record, HEADER | {"audio_latent_rate_hz": 43.07})
    with pytest.raises(ValueError, match=r"one `audio_latent_rate_hz`, got \['31\.25', '43\.07'\]"):
        Trainer(tiny_config(tmp_path, prior_data=str(prior), prior_probability=0.5))


def test_a_first_run_of_few_steps_goes_on_with_the_warmup_of_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"learning_rate_schedule": "constant", "log_every": 1, "warmup_steps": 0, "steps": 2}
    Trainer(tiny_config(tmp_path, **few)).train()
    more = few | {"warmup_steps": 4, "steps": 6}
    Trainer(tiny_config(tmp_path, **more)).train()
    said = "`warmup_steps` is 4, 0 until now: the learning rate rises until step 4"
    assert said in capsys.readouterr().out.splitlines()
    rates = {line["step"]: line["learning_rate"] for line in losses(tmp_path / "run")}
    peak = rates[6]
    assert [rate / peak for rate in rates.values()] == pytest.approx([1, 1, 0.75, 1, 1, 1])
    Trainer(tiny_config(tmp_path, **more | {"steps": 7})).train()
    assert "until now" not in capsys.readouterr().out


def test_a_warmup_that_takes_most_of_a_run_is_told_and_so_is_one_that_is_left_early(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"learning_rate_schedule": "constant", "log_every": 1, "warmup_steps": 4, "steps": 4}
    config = tiny_config(tmp_path, **few)
    Trainer(config).train()
    assert "the learning rate rises in 4 of 4 steps (`warmup_steps`)" in capsys.readouterr().out.splitlines()
    shutil.rmtree(tmp_path / "run" / "checkpoint-00000004")
    Trainer(tiny_config(tmp_path, **few | {"warmup_steps": 1, "steps": 6})).train()
    assert "`warmup_steps` is 1, 4 until now: the learning rate rises no more" in capsys.readouterr().out.splitlines()


def test_tensorboard_is_missed_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"`tensorboard` must be false without the package tensorboard; set it, or"):
        Trainer(tiny_config(tmp_path, tensorboard=True))
    Trainer(tiny_config(tmp_path))


def test_the_rate_of_steps_leaves_out_what_is_done_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock(4)
    now[0] += 2
    with clock.paused():
        now[0] += 50
    now[0] += 2
    assert clock.steps_per_second(12) == 2
    assert clock.elapsed_s == 54


def test_a_setting_that_is_another_from_some_step_on_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(tiny_config(tmp_path, steps=3, learning_rate=1e-3)).train()
    assert "before" not in capsys.readouterr().out
    Trainer(tiny_config(tmp_path, steps=6, learning_rate=5e-4)).train()
    assert (
        "from step 4 on `steps` is 6, 3 before; `learning_rate` is 0.0005, 0.001 before\n" in capsys.readouterr().out
    )
    (tmp_path / "run" / "config.yaml").write_text("no settings")
    Trainer(tiny_config(tmp_path, steps=7, learning_rate=1e-4)).train()
    assert "from step 7 on" not in capsys.readouterr().out


def test_weights_in_four_bits_are_counted_as_the_numbers_that_they_are() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(64, 48))
    before = sum(map(num_numbers, layers.parameters()))
    quantize_nf4_(layers)
    assert layers[0].weight.numel() < 64 * 48
    assert sum(map(num_numbers, layers.parameters())) == before == 64 * 48 + 48
