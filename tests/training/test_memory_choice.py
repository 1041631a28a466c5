"""Settings by which a training fits into a memory."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffusers_jova.training import memory_choice
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.memory_choice import Way, fit_training, ways
from diffusers_jova.training.train import device_of
from jova_cli.main import main
from tests.tiny_training import WAN_MODEL, tiny_config


CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BLOCKS = {**WAN_MODEL, "num_layers": 5}
ADAPTER = {"train": "lora", "lora_rank": 2}


def test_the_first_way_that_fits_is_taken_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path, BLOCKS, **ADAPTER)
    found = list(ways(config, CUDA))
    names = ("gradient_checkpointing", "blocks_to_swap", "quantize")
    assert [tuple(getattr(way.config, name) for name in names) for way in found] == [
        (False, 0, "none"),
        *((True, number, "none") for number in range(5)),
        (True, 0, "nf4"),
    ]
    assert found[0].peak_bytes > found[1].peak_bytes > found[4].peak_bytes > found[5].peak_bytes
    monkeypatch.setattr(memory_choice, "ways", lambda *given: iter(found) if given == (config, CUDA) else None)
    chosen, said = fit_training(config, found[4].peak_bytes / 1e9, CUDA)
    assert chosen == found[4].config
    assert said.endswith("GB, gradient_checkpointing=true, blocks_to_swap=3")


def fake_ways(monkeypatch: pytest.MonkeyPatch, *peaks: int) -> None:
    """Ways with given peaks, in GB."""

    def made(config: TrainConfig, _: torch.device) -> list[Way]:
        settings: list[dict[str, Any]] = [{}, {"gradient_checkpointing": True}]
        return [Way(replace(config, **s), round(p * 1e9)) for s, p in zip(settings, peaks, strict=False)]

    monkeypatch.setattr(memory_choice, "ways", made)


def test_what_fits_as_typed_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ways(monkeypatch, 3, 2)
    config = tiny_config(tmp_path)
    assert fit_training(config, 3, CUDA) == (config, "memory: 3 of 3 GB, as typed")


def test_a_choice_says_what_it_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ways(monkeypatch, 3)
    config = tiny_config(tmp_path, validate_every=1, validation_prompts=["a"], dataset_on_device=True)
    _, said = fit_training(config, 3, CUDA)
    assert said == (
        "memory: 3 of 3 GB, as typed; not counted: validation clips, whose pipeline comes to the device and "
        "the clips that `dataset_on_device` keeps there"
    )


def test_a_run_that_is_sent_to_the_cpu_is_fitted_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    words = SimpleNamespace(estimate=False)
    assert device_of(words) == CUDA  # type: ignore[arg-type]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert device_of(words) == CPU  # type: ignore[arg-type]


def test_a_training_that_fits_in_no_way_is_refused_with_what_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ways(monkeypatch, 3, 2)
    monkeypatch.setattr(memory_choice, "TrainingEstimate", lambda *_: SimpleNamespace(peak_bytes=1))
    message = r"`--memory` must be at least 2 .* \(gradient_checkpointing=true\), got 1; use `batch_size=1 "
    with pytest.raises(ValueError, match=message + "gradient_accumulation_steps=4`, or clips"):
        fit_training(tiny_config(tmp_path), 1, CUDA)
    with pytest.raises(ValueError, match=r"got 1; use clips prepared with smaller `--buckets`$"):
        fit_training(tiny_config(tmp_path, batch_size=1), 1, CUDA)


def test_a_sharded_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`--memory` must be for a run whose processes hold all of it"):
        fit_training(tiny_config(tmp_path, distribution="fsdp"), 1, CUDA)


def test_a_host_has_nowhere_else_to_keep_blocks(tmp_path: Path) -> None:
    found = ways(tiny_config(tmp_path, **ADAPTER, gradient_checkpointing=True, quantize="nf4"), CPU)
    assert [way.config.blocks_to_swap for way in found] == [0]


def test_the_choice_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_config(tmp_path, steps=1, checkpoint_every=1).save(tmp_path / "preset.yaml")
    main(["train", "--config", str(tmp_path / "preset.yaml"), "--memory", "1"])
    said = capsys.readouterr().out
    assert "GB, as typed\n" in said
    assert "1 of 1 steps are done" in said
