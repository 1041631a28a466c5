import pytest

from jova_cli.main import main


def test_a_clip_is_described_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "jova-tiny", "--num-frames", "5", "--steps", "2", "--memory", "1", "--rate", "0.001"]
    main(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "all weights on the device:"
    assert lines[1].split("  ")[0] == "stage"
    names = ("text encoding", "denoising", "video decoding", "sound decoding", "whole call")
    for name, line in zip(names, lines[2:], strict=True):
        assert line.startswith(name)
        assert line.endswith(("seconds", "minutes"))


def test_a_clip_that_fits_in_no_way_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "jova-tiny", "--num-frames", "5", "--modalities", "audio", "--memory", "0.001"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("jova estimate: `--memory` must be at least 0.0")
    assert said.endswith("no clip of this model fits into less than its weights take; use a smaller model")
