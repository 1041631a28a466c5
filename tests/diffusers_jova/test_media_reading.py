"""Files as cameras, phones and cut recordings leave them: their frames, times and sound, and what is refused."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest

from diffusers_jova import media, media_reading
from tests.made_clips import SAMPLING_RATE, clicks, lag_samples, late_sound, moving_square, psnr_db, remux, write_h264


def test_sound_that_starts_later_than_the_picture_is_delayed_by_silence(tmp_path: Path) -> None:
    sound, delay_samples = clicks(SAMPLING_RATE), 3000
    with av.open(str(tmp_path / "late.mkv"), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 64
        audio = container.add_stream("pcm_s16le", rate=SAMPLING_RATE, layout="mono")
        for frame in moving_square(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        samples = (sound * 32767).astype(np.int16)
        packet_frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        packet_frame.sample_rate, packet_frame.time_base = SAMPLING_RATE, Fraction(1, SAMPLING_RATE)
        packet_frame.pts = delay_samples
        container.mux(audio.encode(packet_frame))
        container.mux(audio.encode(None))
    decoded = media.read_video(tmp_path / "late.mkv").audio
    assert decoded is not None
    assert abs(lag_samples(decoded[0], sound[0]) - delay_samples) <= SAMPLING_RATE // 1000  # mkv counts in ms
    assert lag_samples(media.read_audio(tmp_path / "late.mkv")[0][0], sound[0]) == 0


def test_sound_that_goes_with_a_picture_is_on_its_clock_and_sound_alone_on_its_own(tmp_path: Path) -> None:
    path = late_sound(tmp_path / "late.mov", late_s=0.5)
    own, rate = media.read_audio(path)
    video = media.read_video(path)
    beside, _ = media.read_audio(path, from_first_frame=True)
    assert video.audio is not None
    np.testing.assert_array_equal(beside, video.audio)
    assert beside.shape[1] - own.shape[1] == round(0.5 * rate)
    part, _ = media.read_audio(path, from_first_frame=True, start_s=0.25, duration_s=0.5)
    np.testing.assert_array_equal(part, beside[:, rate // 4 : 3 * rate // 4])
    media.write_audio(tmp_path / "own.wav", own, rate)
    np.testing.assert_array_equal(media.read_audio(tmp_path / "own.wav", from_first_frame=True)[0], own)


def test_sound_that_is_over_before_the_picture_begins_is_refused_beside_it(tmp_path: Path) -> None:
    path = late_sound(tmp_path / "early.mkv", late_s=0.0, late_picture_s=5.0)
    assert media.read_audio(path)[0].shape[1] < 4 * SAMPLING_RATE
    with pytest.raises(ValueError, match=r"must reach its first frame, got one of .*early\.mkv that ends before"):
        media.read_audio(path, from_first_frame=True)


@pytest.mark.parametrize(
    ("name", "codec", "rate"), [("a.mkv", "pcm_s16le", 16000), ("a.webm", "libopus", 48000), ("a.mp4", "aac", 44100)]
)
def test_sound_whose_packets_are_lost_keeps_its_time(
    tmp_path: Path, name: str, codec: str, rate: int, log: pytest.LogCaptureFixture
) -> None:
    tone = np.float32(0.5) * np.sin(2 * np.pi * 440 * np.arange(4 * rate) / rate, dtype=np.float32)[None]
    tone[:, : 2 * rate] *= 0.5  # so that a second can be told from another
    for path, lost_s in ((tmp_path / "whole" / name, None), (tmp_path / name, (1, 2))):
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as file:
            track = file.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            resampler = av.AudioResampler(track.format.name, "mono", rate, frame_size=track.frame_size or 1024)
            pieces = [*resampler.resample(frame), *resampler.resample(None)]
            for packet in [packet for piece in [*pieces, None] for packet in track.encode(piece)]:
                if lost_s is None or not lost_s[0] <= packet.pts * packet.time_base < lost_s[1]:
                    file.mux(packet)
    whole, _ = media.read_audio(tmp_path / "whole" / name)
    assert not log.records
    read, _ = media.read_audio(tmp_path / name)
    assert "lacks 1.0" in log.text
    assert abs(read.shape[1] - whole.shape[1]) < 0.03 * rate
    gap = np.flatnonzero(np.convolve(read[0] == 0, np.ones(rate // 10), "valid") == rate // 10)
    assert gap[0] / rate == pytest.approx(1, abs=0.06)
    assert (gap[-1] / rate + 0.1) == pytest.approx(2, abs=0.06)
    end = 3 * rate  # a second after the gap the codec has found its way
    shifts = range(-rate // 440, rate // 440)  # a period of the tone either way
    distances = [
        np.abs(read[0, end + shift : end + shift + rate // 2] - whole[0, end : end + rate // 2]).max()
        for shift in shifts
    ]
    assert abs(shifts[int(np.argmin(distances))]) <= 0.001 * rate  # times are whole milliseconds in some files


def test_a_gap_of_minutes_in_sound_is_a_broken_time_stamp(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        track = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        for start_s in (0, 90):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, start_s * 8000, Fraction(1, 8000)
            file.mux(track.encode(frame))
    with pytest.raises(ValueError, match=r"whose sound stops for 89\.9 s; convert it with ffmpeg"):
        media.read_audio(tmp_path / "a.mkv")


def test_another_frame_rate_takes_the_nearest_frame_of_each_tick(tmp_path: Path) -> None:
    frames = moving_square(33)
    media.write_video(tmp_path / "clip.mp4", frames, 16)
    stored = media.read_video(tmp_path / "clip.mp4").frames
    for rate in (8, 23.976, 24, 16):
        video = media.read_video(tmp_path / "clip.mp4", frame_rate=rate)
        exact = media.exact_frame_rate(rate)
        assert video.frame_rate == exact
        assert len(video.frames) == int(Fraction(33, 16) * exact)
        for tick, frame in enumerate(video.frames):
            offset = tick / exact * 16  # in source frames
            chosen = [k for k in range(33) if (frame == stored[k]).all()]
            assert min(abs(k - offset) for k in chosen) <= Fraction(1, 2)


def test_frames_of_a_phone_that_come_at_unequal_distances_keep_their_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = [0, 1, 4, 8, 12, 16, 20, 24, 25, 26, 27, 28, 29]  # of 30 per second: slow in dim light, then fast
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for tick, array in zip(ticks, moving_square(len(ticks)), strict=True):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = media.read_video(path)
    assert "a.mp4 do not come at equal distances: they are taken at 30 per second; `frame_rate` takes" in caplog.text
    assert (video.frame_rate, len(video.frames)) == (30, 31)  # the last one lasts as long as the mean of all
    squares = moving_square(len(ticks))
    for tick, index in ((1, 1), (3, 2), (5, 2), (7, 3), (20, 6), (27, 10), (29, 12)):
        assert psnr_db(video.frames[tick], squares[index]) > 30
    caplog.clear()
    part = media.read_video(path, duration_s=0.6)
    assert len(part.frames) == 18
    assert "ends early" not in caplog.text
    caplog.clear()
    media.read_video(path, frame_rate=10)
    assert not caplog.text


def test_a_part_beyond_the_first_minute_has_the_frames_and_the_sound_of_its_time(tmp_path: Path) -> None:
    shades = np.arange(260) % 200 + 20  # 65 s at 4 per second, each frame of another grey than those around it
    frames = np.broadcast_to(shades[:, None, None, None], (260, 16, 16, 3)).astype(np.uint8)
    sound = clicks(65 * 8000)
    for name in ("a.mp4", "a.mkv"):
        media.write_video(tmp_path / "a.mp4", frames, 4, sound, 8000)
        if name == "a.mkv":
            remux(tmp_path / "a.mp4", tmp_path / name)
        whole = media.read_video(tmp_path / name)
        part = media.read_video(tmp_path / name, start_s=62.5, duration_s=1.5)
        assert np.array_equal(part.frames, whole.frames[250:256])
        assert part.audio is not None
        assert part.audio.shape[1] == 12000
        assert whole.audio is not None
        assert abs(lag_samples(part.audio[0], whole.audio[0, 500000:512000])) <= 8  # mkv counts in ms
        heard = media.read_audio(tmp_path / name, start_s=62.5, duration_s=1.5).audio
        assert lag_samples(heard[0], media.read_audio(tmp_path / name).audio[0, 500000:512000]) == 0


def test_limits_cut_picture_and_sound_alike(tmp_path: Path) -> None:
    sound = clicks(33 * 1000)
    media.write_video(tmp_path / "clip.mp4", moving_square(33, 64, 128), 16, sound, SAMPLING_RATE)
    video = media.read_video(tmp_path / "clip.mp4", max_num_frames=17, max_side_px=32)
    assert video.frames.shape == (17, 16, 32, 3)
    assert video.audio is not None
    assert video.audio.shape == (1, 17 * 1000)
    assert len(media.read_video(tmp_path / "clip.mp4", max_num_frames=99, max_side_px=999).frames) == 33
    for limit in ("max_num_frames", "max_side_px"):
        with pytest.raises(ValueError, match=f"`{limit}` must be at least 1, got 0; None sets no limit"):
            media.read_video(tmp_path / "clip.mp4", **{limit: 0})


def test_a_phone_held_upright_gives_upright_frames(tmp_path: Path) -> None:
    frames = moving_square(5, 48, 64)
    media.write_video(tmp_path / "clip.mp4", frames, 24)
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    matrix = content.index(b"tkhd") + 44  # the display matrix in a track header of version 0
    clockwise = (0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in clockwise)
    (tmp_path / "clip.mp4").write_bytes(content)
    turned = media.read_video(tmp_path / "clip.mp4").frames
    assert turned.shape == (5, 64, 48, 3)
    assert psnr_db(turned, np.rot90(frames, -1, axes=(1, 2))) > 25


def test_pixels_that_are_not_square_become_so(tmp_path: Path) -> None:
    frames = moving_square(3, 64, 64)
    write_h264(tmp_path / "wide.mp4", frames, sample_aspect_ratio=Fraction(3, 2))
    wide = media.read_video(tmp_path / "wide.mp4").frames
    assert wide.shape == (3, 64, 96, 3)
    assert psnr_db(wide[:, :, ::3], frames[:, :, ::2]) > 20
    assert media.read_video(tmp_path / "wide.mp4", max_side_px=48).frames.shape == (3, 32, 48, 3)


def test_high_dynamic_range_is_read_with_a_warning_once_per_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_reading.logger, "propagate", True)
    monkeypatch.setattr(media_reading.logger.parent, "propagate", True)
    for name, curve in (("sdr.mp4", 1), ("hlg.mp4", 18)):
        write_h264(tmp_path / name, moving_square(3, 64, 64), color_trc=curve)
        for _ in range(2):
            media.read_video(tmp_path / name)
    (record,) = caplog.records
    assert "hlg.mp4" in record.getMessage()
    assert "ffmpeg" in record.getMessage()


def test_a_bare_stream_without_timestamps_keeps_its_frames(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "clip.h264"), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        for frame in moving_square(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "clip.h264")) as container:
        assert {frame.pts for frame in container.decode(video=0)} == {None}
    assert len(media.read_video(tmp_path / "clip.h264").frames) == 9
    assert len(media.read_video(tmp_path / "clip.h264", frame_rate=50).frames) >= 17


def test_a_file_without_sound_has_no_audio(tmp_path: Path) -> None:
    media.write_video(tmp_path / "clip.mp4", moving_square(5), 24)
    video = media.read_video(tmp_path / "clip.mp4")
    assert video.audio is None
    assert video.sampling_rate is None


def test_reading_brings_sound_to_the_rate_and_channels_asked_for(tmp_path: Path) -> None:
    media.write_audio(tmp_path / "sound.wav", clicks(44100, 2), 44100)
    decoded, rate = media.read_audio(tmp_path / "sound.wav", sampling_rate=16000, num_channels=1)
    assert rate == 16000
    assert decoded.shape == (1, 16000)
    assert decoded.dtype == np.float32


@pytest.mark.parametrize("read", [media.read_video, media.read_audio, media.read_image])
@pytest.mark.parametrize("path", [3, None, ["dog.mp4"], b"dog.mp4"])
def test_what_is_no_path_is_refused(read: Any, path: Any) -> None:
    with pytest.raises(ValueError, match=r"`path` must be the path of a file, got .*; give one file"):
        read(path)


@pytest.mark.parametrize(
    ("read", "options", "message"),
    [
        (media.read_video, {"frame_rate": "16"}, "`frame_rate` must be a number, got '16'; write it without quotes"),
        (media.read_video, {"start_s": "1"}, "`start_s` must be a number, got '1'; write it without quotes"),
        (media.read_audio, {"duration_s": [1]}, r"`duration_s` must be a number, got \[1\]"),
        (media.read_video, {"max_num_frames": "3"}, "`max_num_frames` must be a whole number, got '3'"),
        (media.read_video, {"max_side_px": 2.5}, "`max_side_px` must be a whole number, got 2.5"),
        (media.read_audio, {"sampling_rate": "16000"}, "`sampling_rate` must be a positive whole number of samples"),
    ],
)
def test_what_is_no_number_is_refused_by_name_before_a_file_is_read(
    tmp_path: Path, read: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "missing.mp4", **options)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "corrupt.mp4").write_bytes(b"no media" * 100)
    (tmp_path / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    media.write_audio(tmp_path / "sound.wav", clicks(5000), SAMPLING_RATE)
    media.write_video(tmp_path / "silent.mp4", moving_square(5), 24)
    with pytest.raises(FileNotFoundError, match=r"must be an existing file, got .*missing\.mp4"):
        media.read_video(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match=r"that libav can decode, got .*corrupt\.mp4"):
        media.read_video(tmp_path / "corrupt.mp4")
    with pytest.raises(ValueError, match=r"with a video stream, got .*sound\.wav"):
        media.read_video(tmp_path / "sound.wav")
    with pytest.raises(ValueError, match=r"with sound, got .*silent\.mp4"):
        media.read_audio(tmp_path / "silent.mp4")
    with pytest.raises(ValueError, match=r"must be a readable image, got .*corrupt\.png"):
        media.read_image(tmp_path / "corrupt.png")


def test_a_truncated_video_is_refused(tmp_path: Path) -> None:
    media.write_video(tmp_path / "clip.mp4", moving_square(49), 24, clicks(30000), SAMPLING_RATE)
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 3])
    with pytest.raises(ValueError, match=r"cut\.mp4"):
        media.read_video(tmp_path / "cut.mp4")


def test_a_recording_that_ended_before_its_index_is_not_sent_from_one_option_to_the_next(tmp_path: Path) -> None:
    media.write_video(tmp_path / "clip.mp4", moving_square(9), 24)
    content, boxes = (tmp_path / "clip.mp4").read_bytes(), dict[bytes, bytes]()
    while content:
        length = int.from_bytes(content[:4], "big")
        boxes[content[4:8]], content = content[:length], content[length:]
    index = boxes.pop(b"moov")
    for name, end, message in (
        (
            "none",
            b"",
            r"got .*none\.mp4, which ends before its index, without which nothing of it can be read; copy it",
        ),
        ("cut", index[:40], r"got .*cut\.mp4, of which nothing can be read, as it lacks \d+ of the bytes"),
    ):
        (tmp_path / f"{name}.mp4").write_bytes(b"".join(boxes.values()) + end)
        with pytest.raises(ValueError, match=message):
            media.read_video(tmp_path / f"{name}.mp4", allow_truncated=True)
    with pytest.raises(ValueError, match=r"none\.mp4, which ends before its index"):
        media.read_video(tmp_path / "none.mp4")


def test_images_are_turned_the_way_the_camera_says(tmp_path: Path) -> None:
    image = PIL.Image.new("RGB", (6, 4), (10, 20, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: a quarter turn
    image.save(tmp_path / "turned.png", exif=exif)
    assert media.read_image(tmp_path / "turned.png").size == (4, 6)


def test_a_photo_with_another_picture_behind_it_is_the_photo(tmp_path: Path) -> None:
    photo, depth = PIL.Image.new("RGB", (8, 6), "red"), PIL.Image.new("RGB", (4, 3), "blue")
    photo.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[depth])
    found = media.read_image(tmp_path / "phone.jpg")
    assert found.size == (8, 6)
    assert np.allclose(found.getpixel((4, 3)), (255, 0, 0), atol=2)


def test_a_file_that_ends_before_the_wanted_part_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "short.mp4"
    media.write_video(path, moving_square(16), frame_rate=16, audio=clicks(SAMPLING_RATE), sampling_rate=SAMPLING_RATE)
    media.read_video(path, start_s=0.25, duration_s=0.75)
    media.read_video(path, duration_s=5.0, max_num_frames=16)  # as many as were asked for
    media.read_audio(path, start_s=0.25, duration_s=0.5)
    assert not caplog.records
    assert len(media.read_video(path, start_s=0.5, duration_s=2.0).frames) == 8
    assert [record.message for record in caplog.records] == [f"{path} ends early: 0.50 s of it are read, not 2 s"]
    caplog.clear()
    seconds = media.read_audio(path, start_s=0.5, duration_s=2.0).audio.shape[1] / SAMPLING_RATE
    assert [r.message for r in caplog.records] == [f"{path} ends early: {seconds:.2f} s of it are read, not 2 s"]


def test_a_rate_that_a_file_only_claims_repeats_no_frames_by_the_dozen(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.avi"), "w") as container:  # whose clock of 1000 per second stands for its rate
        stream = container.add_stream("mpeg4", rate=30)
        stream.width = stream.height = 32
        stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(31):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(index * 1000 / 30), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = media.read_video(tmp_path / "a.avi")
    assert len(video.frames) == 30  # the last is said to last a thousandth of a second, and has no tick
    assert float(video.frame_rate) == 30
