"""The goals themselves take minutes: `make overfit`. Here the same code runs for a few steps."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from diffusers_jova import media
from diffusers_jova.pipeline_jova import JoVAPipeline
from training import demo, overfit
from training.disc_clip import FRAME_RATE, NUM_FRAMES, SAMPLING_RATE, draw_clip, measure_radius, radius_px
from training.evaluation import envelope, envelope_sync


CONFIGS = Path(overfit.__file__).parent / "configs"


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


def test_the_radius_is_measured_as_it_was_drawn() -> None:
    frames = np.stack([overfit.draw_clip().frames[0]])
    level = (measure_radius(frames)[0] - radius_px(0)) / (radius_px(1) - radius_px(0))
    assert 0 < level < 0.2


def test_the_clip_meets_the_goals_and_its_reverse_does_not() -> None:
    clip = draw_clip()
    assert overfit.compare(clip.frames, clip.waveform).meets_goals
    assert not overfit.compare(clip.frames, clip.waveform[::-1].copy()).meets_goals
    assert not overfit.compare(clip.frames[::-1], clip.waveform).meets_goals
    shift = 2 * SAMPLING_RATE // FRAME_RATE
    assert not overfit.compare(clip.frames, np.roll(clip.waveform, shift)).meets_goals


def test_an_untrained_model_runs_through_the_whole_chain_and_misses_the_goals(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "overfit"
    with pytest.raises(SystemExit, match="goals missed from: noise; prompt; prompt, first frame"):
        overfit.main(["--output", str(output), *short_configs(tmp_path)])
    assert "PSNR" in capfd.readouterr().out
    clip = media.read_video(output / "prompt_first_frame.mp4")
    assert len(clip.frames) == NUM_FRAMES
    assert (output / "contact_sheet.png").exists()

    monkeypatch.setattr(demo, "OVERFIT", output)
    demo.main(["--model", str(tmp_path / "missing"), "--output", str(tmp_path / "demo.mp4")])
    assert {path.name for path in tmp_path.glob("demo*")} == {"demo.mp4", "demo_from_image.mp4", "demo.png"}


def test_the_demo_refuses_files_of_another_length(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    defaults = JoVAPipeline.from_pretrained(tiny_pipeline_folder).defaults
    clip = draw_clip()
    for cut, path in ((SAMPLING_RATE, tmp_path / "short_sound.mp4"), (None, tmp_path / "long.mp4")):
        media.write_video(path, clip.frames[: defaults.num_frames], FRAME_RATE, clip.waveform[:cut], SAMPLING_RATE)
        with pytest.raises(ValueError, match="must last"):
            demo.check_lengths(path, defaults)
