from pathlib import Path

import pytest

from diffusers_jova import JoVAPipeline, media
from diffusers_jova.recipes import demo
from diffusers_jova.recipes.disc_clip import FRAME_RATE, SAMPLING_RATE, draw_clip


def test_the_demo_refuses_files_of_another_length(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    defaults = JoVAPipeline.from_pretrained(tiny_pipeline_folder).defaults
    clip = draw_clip()
    for cut, path in ((SAMPLING_RATE, tmp_path / "short_sound.mp4"), (None, tmp_path / "long.mp4")):
        media.write_video(path, clip.frames[: defaults.num_frames], FRAME_RATE, clip.waveform[:cut], SAMPLING_RATE)
        with pytest.raises(ValueError, match="must last"):
            demo.check_lengths(path, defaults)


def test_the_demo_refuses_a_folder_without_a_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(["--model", str(tmp_path)])
    assert "`--model` must be the folder of a saved JoVAPipeline" in capsys.readouterr().err


def test_the_demo_of_another_model_shows_speakers(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    demo.main(["--model", str(tiny_pipeline_folder), "--output", str(tmp_path / "demo.mp4")])
    assert {path.name for path in tmp_path.iterdir()} == {"demo.mp4", "demo_from_image.mp4", "demo.png"}
    defaults = JoVAPipeline.from_pretrained(tiny_pipeline_folder).defaults
    scenes = demo.avatar_scenes(defaults)
    assert [scene.image is None for scene in scenes] == [True, False]
