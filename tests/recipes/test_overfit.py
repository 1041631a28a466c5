"""The goals themselves take minutes: `make overfit`. Here the same code runs for a few steps."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from diffusers_jova import media
from diffusers_jova.recipes import overfit
from diffusers_jova.recipes.disc_clip import (
    COLOURS,
    FRAME_RATE,
    NUM_FRAMES,
    SAMPLING_RATE,
    draw_clip,
    draw_disc,
    measure_radius,
    radius_px,
)
from diffusers_jova.training.data.envelope_sync import envelope, envelope_sync
from tests.places import CONFIGS


def short_configs(folder: Path) -> list[str]:
    """The presets with a few steps each, as arguments of the command."""
    codecs = yaml.safe_load((CONFIGS / "codecs_overfit.yaml").read_text())
    for part in ("video_vae", "audio_vae", "vocoder", "text_encoder"):
        codecs[part]["schedule"] |= {"steps": 2, "warmup_steps": 0}
    codecs["vocoder"]["model"] |= {"hidden_channels": 16, "resnet_kernel_sizes": [3], "resnet_dilations": [[1, 3, 5]]}
    transformer = yaml.safe_load((CONFIGS / "overfit.yaml").read_text()) | {"steps": 2, "warmup_steps": 0}
    (folder / "codecs.yaml").write_text(yaml.safe_dump(codecs))
    (folder / "overfit.yaml").write_text(yaml.safe_dump(transformer))
    (folder / "overfit_transformer.json").write_text((CONFIGS / "overfit_transformer.json").read_text())
    configs = ["--codecs-config", str(folder / "codecs.yaml"), "--config", str(folder / "overfit.yaml")]
    return [*configs, "--processes", "1"]


def test_radius_and_sound_of_the_clip_follow_one_loudness() -> None:
    clip = draw_clip()
    loudness = envelope(clip.waveform, NUM_FRAMES, FRAME_RATE, SAMPLING_RATE)
    sync = envelope_sync(measure_radius(clip.frames), loudness)
    assert sync.correlation > 0.95
    assert sync.lag == 0
    late = envelope(np.roll(clip.waveform, SAMPLING_RATE * 3 // FRAME_RATE), NUM_FRAMES, FRAME_RATE, SAMPLING_RATE)
    assert envelope_sync(measure_radius(clip.frames), late).lag == -3


@pytest.mark.parametrize("colour", COLOURS)
def test_the_radius_is_measured_as_it_was_drawn(colour: str) -> None:
    for level in (0.1, 0.5, 1.0):
        measured = measure_radius(draw_disc(radius_px(level), colour)[None], colour)
        assert measured[0] == pytest.approx(radius_px(level), abs=0.05)


def test_each_clip_meets_the_goals_and_no_mixture_of_both_does() -> None:
    clip, twin = (draw_clip(colour) for colour in COLOURS)
    for colour, one in zip(COLOURS, (clip, twin), strict=True):
        assert overfit.nearest_colour(one.frames) == colour
        assert overfit.compare(one.frames, one.waveform, colour).meets_goals
        shifted = np.roll(one.waveform, 2 * SAMPLING_RATE // FRAME_RATE)
        assert not overfit.compare(one.frames, shifted, colour).meets_goals
    assert not overfit.compare(clip.frames, twin.waveform, "orange").meets_goals
    assert not overfit.compare(twin.frames, clip.waveform, "orange").meets_goals


def test_a_component_that_was_interrupted_while_it_was_saved_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir()
            (folder / "config.json").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        overfit.save(Interrupted(), tmp_path / "vae")
    made = []
    for maker in ("make_video_vae", "make_audio_codec", "make_text_encoder"):
        monkeypatch.setattr(overfit, maker, lambda *_, maker=maker: made.append(maker))
    (tmp_path / "vocoder").mkdir()
    overfit.make_codecs(None, tmp_path, 1)
    assert made == ["make_video_vae", "make_text_encoder"]


@pytest.mark.slow
def test_an_untrained_model_runs_through_the_whole_chain_and_misses_the_goals(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "overfit"
    with pytest.raises(SystemExit, match="goals missed from: noise; orange prompt;"):
        overfit.main(["--output", str(output), *short_configs(tmp_path)])
    assert "PSNR" in capfd.readouterr().out
    clip = media.read_video(output / "green_prompt_and_first_frame.mp4")
    assert len(clip.frames) == NUM_FRAMES
    assert (output / "contact_sheet.png").exists()
