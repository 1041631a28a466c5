"""When a frame is shown: pictures that move, and pictures of a video that stand until the next one comes."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from diffusers_jova import media
from diffusers_jova.training.data.frame_stream import survey
from jova_cli.media_files import check_video


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_a_picture_that_moves_is_not_taken_for_its_first_frame(suffix: str, tmp_path: Path) -> None:
    first, *others = (PIL.Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue"))
    first.save(tmp_path / f"still.{suffix}")
    assert media.read_image(tmp_path / f"still.{suffix}").size == (8, 8)
    first.save(tmp_path / f"moving.{suffix}", save_all=True, append_images=others)
    with pytest.raises(ValueError, match=rf"must be a picture that stands still, got .*\.{suffix} of 3 frames; save"):
        media.read_image(tmp_path / f"moving.{suffix}")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_a_picture_that_moves_is_a_video_of_all_its_frames_at_their_times(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    levels, durations_ms = (0, 60, 120, 180, 240), (50, 200, 50, 100, 50)
    first, *others = (PIL.Image.new("RGB", (32, 32), (level,) * 3) for level in levels)
    options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "avif" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others, duration=[*durations_ms], **options)
    check_video(tmp_path / f"a.{suffix}")
    video = media.read_video(tmp_path / f"a.{suffix}")
    assert video.frame_rate == 20
    nearest = [0, 60, 60, 60, 120, 120, 180, 180, 240]  # which begin at 0, 50, 250, 300 and 400 ms
    assert np.abs(video.frames[:, 16, 16, 0].astype(int) - nearest).max() <= 2
    assert "do not come at equal distances: they are taken at 20 per second" in caplog.text


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
@pytest.mark.parametrize("last_ms", [50, 100, 1000])
def test_the_last_picture_stands_as_long_as_the_others_say_of_themselves(
    suffix: str, last_ms: int, tmp_path: Path
) -> None:
    first, *others = (PIL.Image.new("RGB", (32, 32), (level,) * 3) for level in (0, 120, 240))
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    first.save(path, save_all=True, append_images=others, duration=[100, 100, last_ms], **options)
    assert len(media.read_video(path, frame_rate=20).frames) == (200 + last_ms) // 50
    whole = media.read_video(path)
    assert len(whole.frames) / whole.frame_rate == pytest.approx(0.2 + last_ms / 1000, abs=0.5 / whole.frame_rate)
    part = media.read_video(path, frame_rate=20, start_s=0.15, duration_s=0.1)
    assert len(part.frames) == 2
    assert len(survey(path, 20).numbers) == (200 + last_ms) // 50
    if last_ms == 1000:  # the end of a part may lie within what stands
        assert len(media.read_video(path, frame_rate=20, start_s=0.7).frames) == 10
    with pytest.raises(ValueError, match="`start_s` must lie within the file"):
        media.read_video(path, start_s=5)


def recording(path: Path, times_ms: Sequence[int]) -> None:
    """A film of the screen: a frame for each change, of the level 10, 20, ..., with a tone that begins at 1 s."""
    with av.open(str(path), "w") as container:
        stream, sound = container.add_stream("ffv1", rate=30), container.add_stream("pcm_s16le", rate=16000)
        sound.layout = "mono"
        stream.width = stream.height = 32
        stream.pix_fmt, stream.time_base = "bgr0", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * (index + 1), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        samples = np.zeros((1, 48000), np.int16)
        samples[:, 16000:] = 8000
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


SCREEN_MS = (0, 33, 66, 100, 1500, 1533, 1566, 3000, 3033)


def levels_of(video: media.Video) -> list[int]:
    return video.frames[:, 16, 16, 0].tolist()


def test_a_picture_that_stands_stays_until_the_next_one_comes(tmp_path: Path) -> None:
    recording(tmp_path / "a.mkv", SCREEN_MS)
    levels = levels_of(media.read_video(tmp_path / "a.mkv", frame_rate=16))
    starts = [tick for tick in range(1, len(levels)) if levels[tick] != levels[tick - 1]]
    assert levels[23] == 40  # at 1.44 s, before the frame of 1.5 s
    assert levels[24] in (50, 60)
    assert levels[47] in (70, 80)
    assert 24 in starts
    assert [*dict.fromkeys(levels)] == sorted(set(levels))


def test_a_part_ends_with_the_picture_that_stands_there(tmp_path: Path) -> None:
    recording(tmp_path / "a.mkv", SCREEN_MS)
    video = media.read_video(tmp_path / "a.mkv", frame_rate=16, duration_s=1.25)
    assert len(video.frames) == 20
    assert set(levels_of(video)[2:]) == {40}
    assert video.audio is not None
    assert video.audio.shape[1] == 20000


@pytest.mark.parametrize("frame_rate", [16, None])
def test_a_part_begins_with_the_picture_that_stands_there(frame_rate: int | None, tmp_path: Path) -> None:
    recording(tmp_path / "a.mkv", SCREEN_MS)
    video = media.read_video(tmp_path / "a.mkv", frame_rate=frame_rate, start_s=0.5, duration_s=0.75)
    assert len(video.frames) == round(0.75 * video.frame_rate)
    assert set(levels_of(video)) == {40}
    assert video.audio is not None
    assert np.abs(video.audio[0]).argmax() == pytest.approx(8000, abs=2)  # of 1 s, half a second in


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_a_picture_that_stands_still_is_no_video(suffix: str, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (8, 8), "red").save(tmp_path / f"a.{suffix}")
    with pytest.raises(ValueError, match=rf"must be a video, got the picture .*a\.{suffix}; a clip begins with it"):
        check_video(tmp_path / f"a.{suffix}")


def test_what_is_transparent_in_a_picture_that_moves_lies_on_white(tmp_path: Path) -> None:
    frames = [PIL.Image.new("RGBA", (16, 16), (255, 0, 0, alpha)) for alpha in (0, 128, 255)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=[5, 0, 100], lossless=True)
    video = media.read_video(tmp_path / "a.webp")
    assert video.frame_rate == 10  # players take less than 11 ms for 100
    assert video.frames[:, 8, 8].tolist() == [[255, 255, 255], [255, 127, 127], [255, 0, 0]]


@pytest.mark.parametrize("suffix", ["webp", "avif"])
def test_a_picture_of_which_a_frame_is_broken_is_named(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, *others = (PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(4))
    path = tmp_path / f"a.{suffix}"
    first.save(path, save_all=True, append_images=others, duration=50)
    data = bytearray(path.read_bytes())
    start, end = {"webp": (-1500, -100), "avif": (-len(data) // 2, -1)}[suffix]  # within the frames
    data[start:end] = b"\xff" * (end - start)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"`path` must be a whole file, got .*a\.\w+, of which a frame is broken"):
        media.read_video(path)
