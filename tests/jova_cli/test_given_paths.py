import re
from pathlib import Path

import pytest

from jova_cli.given_paths import check_writable


def test_a_file_may_lie_in_a_folder_that_is_to_be_made(tmp_path: Path) -> None:
    check_writable("--output", tmp_path / "new" / "clips" / "clip.mp4")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_refused_in_one_sentence_that_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for path in ("clip.mp4", "file/clip.mp4", "nowhere/clip.mp4", f"{'n' * 300}/clip.mp4", f"{'n' * 300}.mp4"):
        with pytest.raises(ValueError, match=r"`--output` must .*, got .*; (choose another|shorten it)") as refused:
            check_writable("--output", tmp_path / path)
        assert not re.search(r"\n", str(refused.value))
