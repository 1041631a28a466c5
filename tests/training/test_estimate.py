"""What a training takes, told before it begins: held against what runs hold, and what the words say."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffusers_jova.devices import choose_device
from diffusers_jova.folder_lock import held_alone
from diffusers_jova.training.estimate import TrainingEstimate, describe
from diffusers_jova.training.loop.config import from_values
from diffusers_jova.training.loop.microbatches import MicroBatches
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.loop.valueless_layers import AdamW8bitOutline, NF4Outline
from diffusers_jova.training.loop.valueless_run import settings_of_kinds
from jova_cli.main import main
from tests.diffusers_jova.memory_of_a_call import TOLERANCE
from tests.places import ROOT
from tests.tiny_training import MODEL, MODELS, dual_tower, tiny_config, write_clips
from tests.training.memory_of_training import CASES


CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LORA = {"train": "lora", "lora_rank": 4}
SPARING = {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}
LOW_RESTS = {"learning_rates": {"video_low": 0.0}}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
@pytest.mark.parametrize("case", CASES)
def test_a_training_holds_what_is_estimated(case: str, record_property: Callable[[str, object], None]) -> None:
    command = [sys.executable, "-m", "tests.training.memory_of_training", case]
    # the C library returns what is freed at once, so that the resident set is what tensors hold
    options = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "65536")
    done = subprocess.run(command, cwd=ROOT, env=os.environ | options, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for stage, measured in found["measured"].items():
        record_property(f"estimated_of_measured_{stage}", found["estimated"][stage] / measured)
        assert abs(found["estimated"][stage] - measured) <= TOLERANCE * measured, (stage, found)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, "jova"),
        (SPARING, "jova"),
        (LORA, "wan"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (({}, "wan"), (SPARING, "wan"), (LORA, "jova"))),
    ],
)
def test_the_operations_of_a_step_are_those_that_it_computes(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    config = tiny_config(tmp_path, MODELS[kind], **settings)
    trainer = Trainer(config)
    batches = MicroBatches(config, trainer.dataset, None, 0, 1, 0)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.take_step(batches)
    found = TrainingEstimate(config, CPU).step_operations
    # what the math kernel of attention computes is in the table of PyTorch, and less by the scores computed anew
    assert 0 <= found - counter.get_total_flops() <= 0.1 * found


def test_parts_are_the_bytes_of_what_is_trained_and_kept(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ema_decay=0.9)
    number = sum(weight.numel() for weight in Trainer(config).trained)
    parts = TrainingEstimate(config, CUDA).parts()
    states = parts.pop("optimizer states")
    assert {name: parts[name] for name in ("weights", "averaged weights", "gradients")} == dict.fromkeys(
        ("weights", "averaged weights", "gradients"), 4 * number
    )
    assert 8 * number <= states < 8.1 * number  # and a count of steps for each tensor


def test_a_frozen_base_has_its_format_and_an_adapter_float32(tmp_path: Path) -> None:
    base = {**MODEL, "num_attention_heads": 8, "attention_head_dim": 32, "rope_axes_dim": [12, 10, 10]}
    estimates = [
        TrainingEstimate(tiny_config(tmp_path, base, **LORA, **settings), CUDA).parts()
        for settings in ({}, {"mixed_precision": "bf16"}, {"mixed_precision": "bf16", "quantize": "nf4"})
    ]
    full, half, quarter = (
        parts[f"frozen base in {name}"] for parts, name in zip(estimates, ("float32", "bfloat16", "nf4"), strict=True)
    )
    assert 0.5 < half / full < 0.55  # some weights stay in float32
    assert 0.25 < quarter / half < 0.45  # some layers are outside of the blocks
    assert len({parts["adapter"] for parts in estimates}) == 1


def test_four_bits_keep_no_weight_for_the_backward_pass() -> None:
    layer = NF4Outline(nn.Linear(256, 128, device="meta"))
    kept = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert kept == 256 * 128 / 2 + 512 + 4 * 2  # half a byte a weight, a byte a block of 64, 4 for 256 of these
    rows, saved = torch.randn(3, 256, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        product = layer.to_empty(device="cpu")(rows)
    assert not saved
    assert torch.autograd.grad(product.sum(), rows)[0].shape == rows.shape


def test_eight_bits_of_adamw_are_two_bytes_a_weight_but_for_small_tensors() -> None:
    large, small = (nn.Parameter(torch.zeros(size)) for size in (8192, 100))
    optimizer = AdamW8bitOutline([large, small], lr=1e-3)
    optimizer.step()
    sizes = [
        sum(value.numel() * value.element_size() for value in optimizer.state[weight].values())
        for weight in (large, small)
    ]
    assert sizes == [2 * (8192 + 4 * 32), 2 * 4 * 100]


def test_checkpointing_trades_activations_for_operations(tmp_path: Path) -> None:
    plain, sparing = (
        TrainingEstimate(tiny_config(tmp_path, gradient_checkpointing=value), CUDA) for value in (False, True)
    )
    assert sparing.parts()["activations"] < plain.parts()["activations"]
    assert sparing.step_operations > plain.step_operations
    assert sparing.other_way == plain.largest[1]
    assert plain.other_way == sparing.largest[1]


def test_shares_of_chance_become_kinds_of_micro_batches(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tasks={"joint": 3, "video_to_audio": 1}, uncoupled_probability=0.5)
    kinds = [(share, dict(kind.tasks or {}), kind.uncoupled_probability) for share, kind in settings_of_kinds(config)]
    assert kinds == [
        (0.375, {"joint": 1.0}, 1.0),
        (0.375, {"joint": 1.0}, 0.0),
        (0.125, {"video_to_audio": 1.0}, 1.0),
        (0.125, {"video_to_audio": 1.0}, 0.0),
    ]
    assert [share for share, _ in settings_of_kinds(replace(config, tasks=None, uncoupled_probability=0))] == [1.0]


def test_the_tables_tell_parts_stages_and_what_is_left_out(tmp_path: Path) -> None:
    words = {"device": "cuda", "rate": 1e-6, "measure_rate": False}
    config = tiny_config(tmp_path, **LORA, distribution="fsdp", steps=10, compile=True)
    said = describe(config, argparse.Namespace(**words))
    for part in ("frozen base in float32", "adapter", "gradients", "optimizer states", "activations with"):
        assert f"\n{part}" in said
    assert "\n10 steps" in said
    assert "seconds" in said or "minutes" in said
    assert "in the host's memory" in said
    assert "`distribution: fsdp` divides" in said
    assert "not counted: what `compile` spares" in said
    assert "teacher" not in said  # nothing of which there is none
    measured = describe(config, argparse.Namespace(**words | {"rate": None, "measure_rate": True}))
    at_hand = choose_device(None).type
    is_told = "device at hand: times are those of it, not of cuda" in measured.splitlines()[-1]
    assert is_told == (at_hand != "cuda")
    at_home = describe(config, argparse.Namespace(**words | {"device": "cpu", "rate": None}))
    assert "time at least" not in at_home
    assert "\nloading" in at_home
    assert "\ncheckpoint" in at_home


def test_an_estimate_writes_nothing_and_loads_no_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path)
    config.save(tmp_path / "preset.yaml")
    monkeypatch.setattr("diffusers_jova.training.loop.model.load_transformer", None)
    main(["train", "--config", str(tmp_path / "preset.yaml"), "--estimate", "--rate", "400", "batch_size=2"])
    said = capsys.readouterr().out
    assert said.startswith("batch_size=2 of video latents [2, 3, 4, 4] and audio latents [8, 6]")
    assert not (tmp_path / "run").exists()


def test_an_estimate_is_told_once_and_beside_a_run_in_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path)
    config.save(tmp_path / "preset.yaml")
    words = ["train", "--config", str(tmp_path / "preset.yaml"), "--estimate"]
    (tmp_path / "run").mkdir()
    with held_alone(tmp_path / "run", "output_dir"):
        before = sorted((tmp_path / "run").iterdir())
        main(words)
        assert sorted((tmp_path / "run").iterdir()) == before
    assert "optimizer step" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    main(words)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "4"], "`--rate` must be given with `--estimate`, got it without; add that, or leave it out"),
        (["--estimate", "--rate", "4", "--measure-rate"], "`--rate` must be given without `--measure-rate`, got both"),
        (["--estimate", "--rate", "nan"], "`--rate` must be a number from"),
    ],
)
def test_words_of_an_estimate_that_mean_nothing_are_refused(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_config(tmp_path).save(tmp_path / "preset.yaml")
    with pytest.raises(SystemExit):
        main(["train", "--config", str(tmp_path / "preset.yaml"), *words])
    assert message in capsys.readouterr().err


def test_clips_of_another_model_are_refused_in_one_sentence(tmp_path: Path) -> None:
    config = from_values({**vars(tiny_config(tmp_path)), "model": str(tmp_path / "none.json")})
    with pytest.raises(ValueError, match="`model` must"):
        TrainingEstimate(config, CUDA)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (MODEL, {}, "`video_latents` must be 2 wide for this `model`, got 16"),
        (dual_tower("bridge"), {"loudness_lufs": -23.0}, "`loudness_lufs` must be that of the clips"),
        (dual_tower("bridge"), {"tasks": {"voice": 1.0}}, "`tasks` must be without voice for a `model`"),
    ],
)
def test_what_a_run_refuses_is_not_estimated(
    tmp_path: Path, model: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    config = tiny_config(tmp_path, model, **settings)
    for begin in (Trainer, lambda config: TrainingEstimate(config, CPU)):
        with pytest.raises(ValueError, match=message):
            begin(config)


def test_an_estimate_reads_the_clips_that_a_validation_takes(tmp_path: Path) -> None:
    held_out = write_clips(tmp_path / "held-out", channels=(16, 4, 16))
    config = tiny_config(tmp_path, validate_every=1, validation_data=str(held_out))
    with pytest.raises(ValueError, match=r"`video_latents` must be 2 wide for this `model`, got 16 in `.*held-out"):
        TrainingEstimate(config, CPU)


@pytest.mark.parametrize(
    ("experts", "settings"),
    [
        ("alternate", {}),
        ("low", LORA),
        *(pytest.param("high", settings, marks=pytest.mark.slow) for settings in ({}, LORA, LOW_RESTS)),
        *(pytest.param("alternate", settings, marks=pytest.mark.slow) for settings in (LORA, LOW_RESTS)),
        pytest.param("low", {}, marks=pytest.mark.slow),
    ],
)
def test_of_two_video_towers_the_one_at_work_is_counted(
    tmp_path: Path, experts: str, settings: dict[str, Any]
) -> None:
    write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    config = tiny_config(
        tmp_path, dual_tower("bridge", boundary=0.5), experts=experts, caption_dropout=0.0, **settings
    )
    trainer = Trainer(config)
    batches = MicroBatches(config, trainer.dataset, None, 0, 1, 0)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for _ in range(2):
            trainer.take_step(batches)
    found, measured = TrainingEstimate(config, CPU).step_operations, counter.get_total_flops() / 2
    assert 0 <= found - measured <= 0.03 * found


def test_a_drawn_tower_counts_as_often_as_its_noise_levels_come(tmp_path: Path) -> None:
    write_clips(tmp_path / "prepared", channels=(16, 4, 16))
    model = dual_tower("bridge", boundary=0.5)
    run = TrainingEstimate(tiny_config(tmp_path, model), CPU).run
    assert [kind.share for kind in run.kinds()] == [1.0]  # both towers are of one size, and learn
    levels = {"density": "uniform", "shift": 1.0, "learning_rates": {"video_low": 0.0}}
    kinds = list(TrainingEstimate(tiny_config(tmp_path, model, **levels), CPU).run.kinds())
    assert [kind.is_high for kind in kinds] == [True, False]
    assert kinds[0].share == pytest.approx(0.5, abs=0.05)  # a share of some thousand draws
    assert sum(kind.share for kind in kinds) == pytest.approx(1)
