from pathlib import Path

import pytest
import torch

from diffusers_jova.origin import OriginError
from diffusers_jova.window_folder import KeptWindow, folder_of, kept_seed, window_folder
from jova_cli.windows import Window


WINDOW = KeptWindow({"video": torch.rand(1, 2, 3, 4, 4), "audio": torch.rand(1, 5, 2)}, {"seed": 1, "given": []})
PLACE = Window(0, 9, 0, 0, (0.0, 1.0))


def begin(path: Path, origin: dict[str, object]) -> None:
    """Keep one window of a clip, and fail in the next."""
    with pytest.raises(ZeroDivisionError):
        fail_after_one(path, origin)


def fail_after_one(path: Path, origin: dict[str, object]) -> None:
    with window_folder(path, origin) as kept:
        kept.keep(0, WINDOW, PLACE)
        raise ZeroDivisionError


def enter(path: Path, origin: dict[str, object]) -> None:
    with window_folder(path, origin):
        pass


def test_windows_stay_after_an_error_and_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    begin(path, {"seed": 7})
    assert kept_seed(path) == 7
    with window_folder(path, {"seed": 7}) as kept:
        assert kept.num_kept == 1
        found = kept.read(0, PLACE)
        assert found is not None
        assert found.record == WINDOW.record
        assert all(torch.equal(found.latents[name], WINDOW.latents[name]) for name in WINDOW.latents)
        assert kept.read(1, PLACE) is None
    assert not folder_of(path).exists()
    assert kept_seed(path) is None


def test_windows_of_another_clip_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    begin(path, {"seed": 7})
    with pytest.raises(OriginError, match="must be made with the present settings, got `seed` 7 there, 8 here"):
        enter(path, {"seed": 8})
    assert kept_seed(path) == 7


def test_two_runs_do_not_make_one_clip(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with window_folder(path, {}), pytest.raises(ValueError, match="`output` must be a folder that no other run"):
        enter(path, {})


def test_a_folder_without_windows_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), window_folder(tmp_path / "clip.mp4", {}):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
