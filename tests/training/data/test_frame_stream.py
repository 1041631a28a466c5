"""A long file gives the same frames and the same sound as one that is read at once."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from diffusers_jova import media
from diffusers_jova.training.data import frame_stream
from diffusers_jova.training.data.clip import ClipSettings
from diffusers_jova.training.data.clips import read_recording
from diffusers_jova.training.data.manifest import Sample
from diffusers_jova.training.data.mouth_detector import NoMouths
from jova_cli.clip_limits import Bucket
from tests.made_clips import clicks, moving_square


@pytest.mark.parametrize("frame_rate", [16, 24, 30, Fraction(24000, 1001)])
def test_a_stream_gives_the_frames_of_the_whole_file_and_decodes_no_more_than_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame_rate: int | Fraction
) -> None:
    media.write_video(tmp_path / "a.mp4", moving_square(30), 24, clicks(20000), 16000)
    whole = media.read_video(tmp_path / "a.mp4", frame_rate=frame_rate)
    decoded = []
    convert = frame_stream.frame_to_array
    monkeypatch.setattr(frame_stream, "frame_to_array", lambda *arguments: decoded.append(1) or convert(*arguments))
    stream = frame_stream.FrameStream(tmp_path / "a.mp4", frame_rate)
    assert stream.shape == whole.frames.shape
    assert np.array_equal(stream[2:7], whole.frames[2:7])
    assert len(decoded) == 7
    assert np.array_equal(stream[9:], whole.frames[9:])
    with pytest.raises(ValueError, match=r"`window` must begin at frame .*; open the file again"):
        stream[3:5]
    audio, sampling_rate = frame_stream.read_sound_of_video(tmp_path / "a.mp4")
    assert np.array_equal(audio, whole.audio)
    assert sampling_rate == whole.sampling_rate


def test_a_file_with_given_boxes_is_decoded_twice_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media.write_video(tmp_path / "a.mp4", moving_square(10), 16)
    boxes = np.tile(np.float32([4, 4, 20, 20]), (1, 10, 1)).tolist()
    opened = []
    open_for_reading = frame_stream.open_for_reading
    monkeypatch.setattr(
        frame_stream, "open_for_reading", lambda *a, **how: opened.append(a) or open_for_reading(*a, **how)
    )
    settings = ClipSettings(buckets=(Bucket(5, 64, 64),), frame_rate=16, cut="all")
    sample = Sample(video=tmp_path / "a.mp4", mouth_boxes=boxes)
    assert len([*read_recording(sample, settings, NoMouths()).clips]) == 2
    assert len(opened) == 3  # for the times of all frames, for the frames, and to see that there is no sound


def test_a_stream_that_changes_its_size_or_ends_early_is_named(tmp_path: Path) -> None:
    media.write_video(tmp_path / "a.mp4", moving_square(10), 16)
    frames = moving_square(6)
    for given, found in ((frames, "none at frame 6"), (frames[:, :32], r"\[32, \d+, 3\] at frame 0")):
        stream = frame_stream.FrameStream(tmp_path / "a.mp4", 16)
        stream._frames = iter(given)
        with pytest.raises(ValueError, match=f"of one size, of 10 frames at this rate, got {found}; convert"):
            stream[:10]


def test_a_file_without_picture_or_without_frames_is_refused(tmp_path: Path) -> None:
    media.write_audio(tmp_path / "sound.wav", clicks(5000), 16000)
    with av.open(str(tmp_path / "empty.mkv"), "w") as container:
        picture = container.add_stream("libx264", rate=16)
        picture.width = picture.height = 64
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(audio.encode(frame))
    for read in (frame_stream.read_sound_of_video, lambda path: frame_stream.FrameStream(path, 16)):
        with pytest.raises(ValueError, match=r"must be a file with a video stream, got .*sound\.wav"):
            read(tmp_path / "sound.wav")
        with pytest.raises(ValueError, match=r"must be a video of at least one frame, got .*empty\.mkv"):
            read(tmp_path / "empty.mkv")
