"""Files as they come from elsewhere are read right, or refused in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_jova import media
from tests.unusual_media import CASES, Case


def read(case: Case, path: Path) -> Any:
    readers = {"video": media.read_video, "audio": media.read_audio, "image": media.read_image}
    return readers[case.expected.kind](path, **case.expected.options)


def check_pictures(case: Case, pictures: np.ndarray) -> None:
    size, left, num_frames = case.expected.size, case.expected.left, case.expected.num_frames
    assert pictures.dtype == np.uint8
    assert pictures.shape[1:] == (*size, 3)
    assert num_frames is None or len(pictures) == num_frames
    if left is not None:
        middle = pictures[:, size[0] // 2, size[1] // 4].astype(int)
        assert np.abs(middle - left).max() <= case.expected.tolerance, middle[0]


def check_sound(case: Case, audio: np.ndarray | None, rate: int | None) -> None:
    expected = case.expected
    if expected.num_channels == 0:
        assert audio is None
    if audio is None or not expected.num_channels:
        return
    assert audio.shape[0] == expected.num_channels
    assert audio.dtype == np.float32
    seconds = audio.shape[1] / rate
    assert expected.seconds - 0.001 <= seconds <= expected.seconds + 0.07  # a codec fills up its last block
    spectrum = np.abs(np.fft.rfft(audio[0] * np.hanning(audio.shape[1])))
    assert spectrum.argmax() / seconds == pytest.approx(expected.hz, abs=2)
    assert 0.3 < np.abs(audio).max() < 1.25  # surround sound that says the same on all sides adds up


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_file_is_read_right_or_refused_in_one_sentence(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative names, which may look like protocols
    case.make(tmp_path / case.name)
    if case.expected.refusal is not None:
        with pytest.raises(ValueError, match=case.expected.refusal) as refused:
            read(case, Path(case.name))
        assert "\n" not in str(refused.value)
        return
    content = read(case, Path(case.name))
    if case.expected.kind == "image":
        check_pictures(case, np.asarray(content)[None].repeat(case.expected.num_frames, axis=0))
    elif case.expected.kind == "video":
        check_pictures(case, content.frames)
        check_sound(case, content.audio, content.sampling_rate)
    else:
        check_sound(case, *content)
