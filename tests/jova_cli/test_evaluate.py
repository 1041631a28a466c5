"""Words of `jova evaluate` that cannot work are refused in one sentence, before torch is loaded."""

from pathlib import Path

import pytest

from jova_cli.evaluate import parse
from jova_cli.training_info import SETTINGS, SUMMARY, UNFINISHED


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"a clip")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("words")
    for name, mark in (("records", SUMMARY), ("half", UNFINISHED), ("run", SETTINGS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / mark).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none"], "`clips` must be an existing file or folder, got none"),
        (["empty"], "`clips` must be an existing folder, got `empty` (it is empty)"),
        (["text"], "must hold at least one clip"),
        (["records"], "`clips` must be clips, got `records`, which holds records of `jova prepare`; name a folder of"),
        (["half"], "`clips` must be clips, got `half`, which holds records of `jova prepare`; name a folder of"),
        (["run"], "`clips` must be clips, got `run`, which holds a training; name a folder of clips"),
        (["clips", "--against", "run"], "`--against` must be clips, got `run`, which holds a training; name a"),
        (["text/a.txt"], "a clip must be a file that ends in one of"),
        (["clips", "--against", "empty"], "`--against` must be an existing folder"),
        (["clips", "--measures", "lips"], "`--measures` must be one of sync, syncnet, timing"),
        (["clips", "--language", "de"], "`--language` must be en for the small recogniser, got de"),
        (["clips", "--whisper", "none"], "`--whisper` must be an existing folder"),
        (["clips", "--voice", "none.wav"], "`--voice` must be an existing file"),
        (["clips", "--voice", "clips/a.mp4", "--measures", "sound"], "the measures `voice`, got sound"),
        (["clips", "--syncnet", "clips/a.mp4", "--measures", "sync", "words"], "`syncnet`, got sync, words; add"),
        (["clips", "--whisper", "clips", "--measures", "sync"], "`--whisper` must go with the measures `words`"),
        (["clips", "--inception", "clips/a.mp4"], "`--inception` must go with `--against`, got it alone; give"),
        (["clips", "--inception", "none.pth", "--against", "clips"], "`--inception` must be an existing file"),
        (["clips", "--video-classifier", "none"], "`--video-classifier` must be an existing folder"),
        (["clips", "--output", "clips/a.mp4"], "`--output` must be a folder"),
    ],
)
def test_what_cannot_work_is_refused(
    words: list[str], sentence: str, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clips)
    with pytest.raises(SystemExit) as refused:
        parse(words)
    assert refused.value.code == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_clips_may_follow_options(clips: Path) -> None:
    _, args = parse(["--measures", "sync", "sound", "--output", str(clips / "out"), str(clips / "clips")])
    assert args.clips == [clips / "clips"]
    assert args.measures == ["sync", "sound"]
