from pathlib import Path

import pytest

from diffusers_jova.provenance import read_provenance
from jova_cli.main import main


SOUND = ("--num-frames", "5", "--modalities", "audio", "--steps", "1")  # a video VAE takes longer to count


def test_a_clip_is_described_before_anything_is_loaded(
    tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["estimate", str(tiny_pipeline_folder), *SOUND, "--memory", "1", "--rate", "0.001"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "all weights on the device:"
    assert lines[1].split("  ")[0] == "stage"
    for name, line in zip(("text encoding", "denoising", "sound decoding", "whole call"), lines[2:], strict=True):
        assert line.startswith(name)
        assert line.endswith("seconds")


def test_the_words_of_a_clip_take_a_plan_that_its_record_names_or_are_refused_before_weights_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sound.wav"
    words = ["generate", "--prompt", "a dog", "--output", str(path), "--device", "cpu", *SOUND]
    main([*words, "--memory", "0.2"])
    assert "memory: all weights on the device" in capsys.readouterr().err.splitlines()
    plan = read_provenance(path)["settings"]["memory_plan"]
    assert plan == {"weights": "resident", "float8": False, "branches_apart": False, "tiles_video": False}
    with pytest.raises(SystemExit) as ended:
        main([*words, "--memory", "0.001"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("jova generate: `--memory` must be at least 0.0")
    assert said.endswith("for the weights of this model alone, got 0.001; use a smaller model")
