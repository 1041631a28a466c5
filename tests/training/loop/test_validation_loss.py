"""The loss on held-out clips: the objective itself, at fixed levels and noise, which costs the run nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_jova.scheduling_flow_match_av import add_noise, velocity_target
from diffusers_jova.training.loop.microbatches import seed_of
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.loop.validation_loss import LEVELS
from jova_cli.training_info import describe_training, last_report
from tests.tiny_training import different, result, tiny_config, write_clips


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if any(name.startswith("validation_loss") for name in line)]


def held_out(folder: Path, **settings: Any) -> dict[str, Any]:
    """Settings of a run that is measured on two other clips, of which one has no sound."""
    clips = write_clips(folder / "others", num_clips=2, without_audio=(1,), frame_rate="8")
    return {"validation_data": str(clips), "validate_every": 2, **settings}


def test_the_loss_is_measured_on_other_clips_and_leaves_the_run_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, settings in (("plain", {}), ("measured", held_out(tmp_path, caption_dropout=0.5))):
        (tmp_path / name).mkdir()
        Trainer(tiny_config(tmp_path / name, ema_decay=0.5, **{"caption_dropout": 0.5, **settings})).train()
    assert different(result(tmp_path / "plain" / "run"), result(tmp_path / "measured" / "run")) == []
    report = last_report(tmp_path / "measured" / "run")  # the last line is of the other clips
    assert (report["step"], "loss/video" in report) == (6, True)
    assert "losses at step 6: video " in describe_training(tmp_path / "measured" / "run")
    lines = logged(tmp_path / "measured")
    assert [line["step"] for line in lines] == [2, 4, 6]
    for term in ("video", "audio", "mouth"):
        losses = [line[f"validation_loss/{term}"] for line in lines]
        assert len(set(losses)) == 3
        of_levels = [value for name, value in lines[0].items() if name.startswith(f"validation_loss_{term}/")]
        assert len(of_levels) == len(LEVELS)
        assert sum(of_levels) / len(LEVELS) == pytest.approx(losses[0])
    assert "step       2  validation: video " in capsys.readouterr().out


def test_weights_that_stand_still_have_the_same_loss_whatever_the_batch(tmp_path: Path) -> None:
    found = []
    for batch_size in (1, 2):
        folder = tmp_path / str(batch_size)
        folder.mkdir()
        Trainer(tiny_config(folder, **held_out(tmp_path, steps=4, batch_size=batch_size, learning_rate=1e-30))).train()
        found += [{name: value for name, value in line.items() if name != "step"} for line in logged(folder)]
    for values in found[1:]:
        assert values == pytest.approx(found[0], rel=1e-5)


def test_it_is_the_mean_squared_error_of_the_velocity_at_the_levels(tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(tmp_path, **held_out(tmp_path)))
    measure = trainer.validation_loss
    assert measure is not None
    values = measure(trainer)
    clip, header = measure.clips[0], measure.clips.headers[0]
    for index, level in enumerate(LEVELS):
        inputs = measure.conditioning(clip, seed_of("validation", header.path.name), 0, level)
        assert (float(inputs.sigma), float(inputs.audio_sigma)) == pytest.approx((level, level))
        noise = torch.Generator().manual_seed(seed_of("validation", header.path.name))
        video, audio = clip["video_latents"].float(), clip["audio_latents"].float()
        added = [torch.randn(x.shape, generator=noise) for x in (video, audio)]
        torch.testing.assert_close(inputs.audio_target, velocity_target(audio, added[1]))
        noisy = add_noise(audio, added[1], torch.tensor([level]))
        torch.testing.assert_close(inputs.arguments["audio_hidden_states"], noisy)
        with torch.no_grad():
            predicted = trainer.transformer(**inputs.arguments, return_dict=False)[1]
        error = float((predicted - velocity_target(audio, added[1])).square().mean())
        name = f"validation_loss_audio/sigma_{index / 5:.1f}_{(index + 1) / 5:.1f}"  # the other clip has no sound
        assert values[name] == pytest.approx(error, rel=1e-4)


def test_clips_that_are_trained_on_as_well_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tmp_path, validation_data=str(tmp_path / "some"), validate_every=1)
    write_clips(tmp_path / "some", num_clips=1, frame_rate="8")
    shutil.copy(tmp_path / "prepared" / "clip-003.safetensors", tmp_path / "some")
    Trainer(config)
    said = capsys.readouterr().out
    assert "validation on 2 clips in 2 buckets" in said
    assert f"1 of 2 clips in `{tmp_path / 'some'}` are trained on as well (clip-003.safetensors)" in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validate_every": 1}, "`validate_every` needs `validation_prompts`, `validation_list` or"),
        ({"validation_data": "others"}, "`validation_data` is read every `validate_every` steps; set it, or leave"),
        (
            {"validate_every": 1, "validation_data": "others", "train": "lora", "student_steps": 4},
            "`validation_data` is measured by the loss on clips, which a student is not trained by; leave it out",
        ),
        ({"validate_every": 1, "validation_data": "nowhere"}, "`validation_data` must be"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        Trainer(tiny_config(tmp_path, **settings))
