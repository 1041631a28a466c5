import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers.utils import encode_video

from diffusers_jova import media, media_reading, media_writing
from diffusers_jova.media_writing import streamed_video
from diffusers_jova.provenance import read_provenance


NTSC_FILM = Fraction(24000, 1001)
RATES = (16, 23.976, 24, 25, 30)
SAMPLING_RATE = 16000


def moving_square(num_frames: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A bright square that steps by one position each frame: every frame tells its own index."""
    frames = np.full((num_frames, height, width, 3), 40, np.uint8)
    columns = max(1, (width - 16) // 4)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        frame[8 * row : 8 * row + 8, 4 * column : 4 * column + 8] = (230, 200, 160)
    return frames


def clicks(num_samples: int, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise bursts at known places; the channels differ."""
    rng = np.random.default_rng(seed)
    sound = 0.01 * rng.standard_normal((num_channels, num_samples))
    for channel, row in enumerate(sound):
        for start in range(500 + 900 * channel, num_samples - 400, 4000):
            row[start : start + 300] += 0.4 * rng.standard_normal(300)
    return sound.clip(-1, 1).astype(np.float32)


def lag_samples(sound: np.ndarray, reference: np.ndarray) -> int:
    """By how many samples `sound` is later, from the peak of the cross-correlation."""
    size = len(sound) + len(reference)
    spectrum = np.fft.rfft(sound, size) * np.conj(np.fft.rfft(reference, size))
    peak = int(np.argmax(np.fft.irfft(spectrum, size)))
    return peak if peak < len(sound) else peak - size


def psnr_db(frames: np.ndarray, reference: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((frames.astype(float) - reference) ** 2)))


# --- round trips ---


@pytest.mark.parametrize("frame_rate", RATES)
@pytest.mark.parametrize("num_frames", [5, 17, 33, 49, 81])
def test_every_frame_and_every_sample_survives_a_round_trip(
    tmp_path: Path, num_frames: int, frame_rate: float
) -> None:
    rate = media.exact_frame_rate(frame_rate)
    num_channels = 1 + num_frames % 3 % 2
    frames = moving_square(num_frames)
    sound = clicks(int(num_frames / rate * SAMPLING_RATE), num_channels)
    media.write_video(tmp_path / "clip.mp4", frames, frame_rate, sound, SAMPLING_RATE)
    video = media.read_video(tmp_path / "clip.mp4")
    assert video.frame_rate == rate
    assert video.sampling_rate == SAMPLING_RATE
    assert video.frames.shape == frames.shape
    # The nearest original of each decoded frame is its own.
    small, small_reference = video.frames[:, ::4, ::4].astype(float), frames[:, ::4, ::4].astype(float)
    distances = ((small[:, None] - small_reference[None]) ** 2).mean((2, 3, 4))
    assert (distances.argmin(1) == np.arange(num_frames)).all()
    assert video.audio is not None
    assert video.audio.shape == sound.shape
    assert [lag_samples(*pair) for pair in zip(video.audio, sound, strict=True)] == [0] * num_channels


@pytest.mark.parametrize("sampling_rate", [16000, 22050, 44100, 48000])
def test_stereo_keeps_its_sides_and_its_length_at_every_sampling_rate(tmp_path: Path, sampling_rate: int) -> None:
    sound = clicks(sampling_rate + 17, 2)
    media.write_video(tmp_path / "clip.mp4", moving_square(25), 23.976, sound, sampling_rate)
    decoded, rate = media.read_audio(tmp_path / "clip.mp4")
    assert rate == sampling_rate
    assert decoded.shape == sound.shape
    correlations = np.corrcoef(np.concatenate([decoded, sound]))
    assert correlations[0, 2] > 0.9 > 0.3 > correlations[0, 3]
    assert correlations[1, 3] > 0.9 > 0.3 > correlations[1, 2]


def test_odd_sizes_are_padded_to_even_ones_by_their_edge(tmp_path: Path) -> None:
    frames = moving_square(5, height=61, width=63)
    media.write_video(tmp_path / "clip.mp4", frames, 24)
    decoded = media.read_video(tmp_path / "clip.mp4").frames
    assert decoded.shape == (5, 62, 64, 3)
    assert psnr_db(decoded[:, :61, :63], frames) > 25
    assert np.abs(decoded[:, 61].astype(int) - decoded[:, 60]).max() < 40


def test_colours_come_back_as_they_were(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 60]], np.uint8)
    frames = np.broadcast_to(np.repeat(colours, 16, axis=0)[None, :, None], (5, 64, 64, 3))
    media.write_video(tmp_path / "clip.mp4", frames, 24)
    centres = media.read_video(tmp_path / "clip.mp4").frames[:, 8::16, 32]
    assert np.abs(centres.astype(int) - colours).max() <= 4


def test_we_agree_with_diffusers_where_both_work(tmp_path: Path) -> None:
    frames, sound = moving_square(49), clicks(int(49 / 24 * SAMPLING_RATE), 2)
    media.write_video(tmp_path / "ours.mp4", frames, 24, sound, SAMPLING_RATE)
    encode_video(
        torch.from_numpy(frames),
        fps=24,
        output_path=str(tmp_path / "theirs.mp4"),
        audio=torch.from_numpy(sound),
        audio_sample_rate=SAMPLING_RATE,
    )
    ours, theirs = (media.read_video(tmp_path / name) for name in ("ours.mp4", "theirs.mp4"))
    assert ours.frames.shape == theirs.frames.shape
    assert ours.frame_rate == theirs.frame_rate
    assert psnr_db(ours.frames, theirs.frames) > 30
    assert ours.audio is not None
    assert theirs.audio is not None
    assert lag_samples(ours.audio[0], theirs.audio[0]) == 0
    assert ours.sampling_rate == theirs.sampling_rate


def test_all_kinds_of_frames_mean_the_same_pixels() -> None:
    frames = moving_square(5)
    kinds = {
        "pil": [PIL.Image.fromarray(frame) for frame in frames],
        "np": frames.astype(np.float64) / 255,
        "pt": torch.from_numpy(frames).movedim(-1, 1).float() / 255,
        "last": torch.from_numpy(frames),
    }
    for name, kind in kinds.items():
        np.testing.assert_array_equal(media.to_uint8_frames(kind), frames, err_msg=name)


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


# --- options of reading ---


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


def remux(path: Path, target: Path) -> None:
    """Copy the packets of a file into another container."""
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        streams = {stream: container.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                container.mux(packet)


def test_a_frame_rate_may_be_a_fraction_wherever_one_is_given(tmp_path: Path) -> None:
    media.write_video(tmp_path / "a.mp4", moving_square(30), Fraction(30000, 1001))
    stored = media.read_video(tmp_path / "a.mp4")
    assert stored.frame_rate == Fraction(30000, 1001)
    video = media.read_video(tmp_path / "a.mp4", frame_rate=NTSC_FILM)
    assert video.frame_rate == NTSC_FILM
    assert np.array_equal(video.frames, media.read_video(tmp_path / "a.mp4", frame_rate=23.976).frames)
    assert np.array_equal(video.frames[::4], stored.frames[::5][: len(video.frames[::4])])  # 24 of 30 is 4 of 5


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


def write_h264(path: Path, frames: np.ndarray, **options: object) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


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


# --- sound ---


def test_wav_files_keep_every_sample_to_16_bits(tmp_path: Path) -> None:
    sound = clicks(5000, 2).clip(-0.99, 0.99)
    media.write_audio(tmp_path / "sound.wav", torch.from_numpy(sound), 44100)
    decoded, rate = media.read_audio(tmp_path / "sound.wav")
    assert rate == 44100
    np.testing.assert_allclose(decoded, sound, rtol=0, atol=0.51 / 32768)


def test_reading_brings_sound_to_the_rate_and_channels_asked_for(tmp_path: Path) -> None:
    media.write_audio(tmp_path / "sound.wav", clicks(44100, 2), 44100)
    decoded, rate = media.read_audio(tmp_path / "sound.wav", sampling_rate=16000, num_channels=1)
    assert rate == 16000
    assert decoded.shape == (1, 16000)
    assert decoded.dtype == np.float32


def test_resampling_keeps_time_and_pitch_and_lets_no_alias_through() -> None:
    def tone(hz: float, rate: int) -> np.ndarray:
        return np.sin(2 * np.pi * hz * np.arange(rate) / rate)[None]

    inner = slice(1000, -1000)  # the ends ring
    np.testing.assert_allclose(
        media.resample(tone(440, 44100), 44100, 16000)[:, inner], tone(440, 16000)[:, inner], atol=1e-4
    )
    np.testing.assert_allclose(
        media.resample(tone(440, 16000), 16000, 48000)[:, inner], tone(440, 48000)[:, inner], atol=1e-4
    )
    assert np.abs(media.resample(tone(10000, 44100), 44100, 16000)[:, inner]).max() < 1e-4


def test_mixing_down_takes_the_mean_and_mixing_up_repeats() -> None:
    stereo = clicks(100, 2)
    np.testing.assert_allclose(media.mix_channels(stereo, 1)[0], stereo.mean(0), atol=1e-7)
    np.testing.assert_array_equal(media.mix_channels(stereo[:1], 2), stereo[[0, 0]])


def test_loudness_reaches_the_target_and_scales_only() -> None:
    pyloudnorm = pytest.importorskip("pyloudnorm")
    sound = 0.1 * clicks(2 * SAMPLING_RATE, 2)
    louder = media.normalize_loudness(sound, SAMPLING_RATE, target_lufs=-30.0)
    assert pyloudnorm.Meter(SAMPLING_RATE).integrated_loudness(louder.T) == pytest.approx(-30.0, abs=0.01)
    assert np.corrcoef(louder[0], sound[0])[0, 1] == pytest.approx(1)


def test_loudness_stops_at_the_peak_limit() -> None:
    pytest.importorskip("pyloudnorm")
    loud = media.normalize_loudness(clicks(SAMPLING_RATE), SAMPLING_RATE, target_lufs=0.0, peak_dbfs=-1.0)
    assert np.abs(loud).max() == pytest.approx(10 ** (-1 / 20), abs=1e-6)


def test_sound_without_a_loudness_comes_back_unchanged() -> None:
    pytest.importorskip("pyloudnorm")
    for sound in (np.zeros((1, SAMPLING_RATE), np.float32), clicks(int(0.39 * SAMPLING_RATE))):
        np.testing.assert_array_equal(media.normalize_loudness(sound, SAMPLING_RATE), sound)


# --- numbers ---


def test_decimal_frame_rates_mean_the_exact_fractions() -> None:
    assert [media.exact_frame_rate(rate) for rate in (23.976, 23.98, 29.97, 59.94, 24, 24.0, 12.5)] == [
        NTSC_FILM, NTSC_FILM, Fraction(30000, 1001), Fraction(60000, 1001), 24, 24, Fraction(25, 2)
    ]  # fmt: skip


# --- bad input ---


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.int64), "must be uint8 or float"),
        (np.zeros((1, 2, 4, 4, 3), np.uint8), r"one video of a batch as `frames\[0\]`"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"must have the shape \[N, H, W, C\]"),
        (np.full((2, 4, 4, 3), 1.5), r"must lie in \[0, 1\], got \[1.5, 1.5\]"),
        (np.full((2, 4, 4, 3), np.nan), r"must lie in \[0, 1\]"),
        ([], "non-empty list of PIL images"),
        ([PIL.Image.new("RGB", (4, 4)), PIL.Image.new("RGB", (4, 6))], r"one size, got \(4, 4\) and \(4, 6\)"),
    ],
)
def test_wrong_frames_are_refused(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        media.write_video(tmp_path / "clip.mp4", frames, 24)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("audio", "sampling_rate", "message"),
    [
        (np.zeros((3, 100)), 16000, "1 or 2 channels, got"),
        (np.zeros((1, 2, 100)), 16000, r"one sound of a batch as `audio\[0\]`"),
        (np.zeros((1, 100), np.int64), 16000, "got int64; divide it by its largest value"),
        (np.full((1, 100), np.inf), 16000, "must be finite"),
        (np.zeros((1, 100)), 15999, "`sampling_rate` must be one of"),
        (np.zeros((1, 100)), None, "`sampling_rate` must be one of"),
    ],
)
def test_wrong_sound_is_refused(tmp_path: Path, audio: np.ndarray, sampling_rate: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        media.write_video(tmp_path / "clip.mp4", moving_square(5), 24, audio, sampling_rate)
    assert not list(tmp_path.iterdir())


def test_a_sound_that_was_read_knows_its_rate(tmp_path: Path) -> None:
    sound = media.Sound(np.sin(np.arange(4410) / 9).astype(np.float32)[None], 44100)
    media.write_audio(tmp_path / "a.wav", sound)
    media.write_audio(tmp_path / "b.wav", *sound)
    assert media.read_audio(tmp_path / "a.wav").sampling_rate == 44100
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    with pytest.raises(ValueError, match="must be that of the sound, 44100, got 16000; leave it out"):
        media.write_audio(tmp_path / "c.wav", sound, 16000)
    with pytest.raises(ValueError, match="`sampling_rate` must be given with samples alone, got none"):
        media.write_audio(tmp_path / "c.wav", sound.audio)
    assert not (tmp_path / "c.wav").exists()


def test_wrong_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`frame_rate` must be a positive number"):
        media.write_video(tmp_path / "clip.mp4", moving_square(5), 0)
    with pytest.raises(ValueError, match="`crf` must be from 0 to 51, got 60"):
        media.write_video(tmp_path / "clip.mp4", moving_square(5), 24, crf=60)
    with pytest.raises(ValueError, match=r"`path` must end in \.mp4"):
        media.write_video(tmp_path / "clip.avi", moving_square(5), 24)
    with pytest.raises(ValueError, match="`sampling_rate` must be a positive whole number"):
        media.write_audio(tmp_path / "sound.wav", clicks(100), 16000.5)
    with pytest.raises(ValueError, match="`target_rate` must be a positive whole number"):
        media.resample(np.zeros((1, 9)), 16000, 0)


def test_a_clip_that_comes_in_pieces_is_that_of_one_piece(tmp_path: Path) -> None:
    frames, sound = moving_square(30), clicks(20000)
    record = {"generated": True, "package": "test"}
    media.write_video(tmp_path / "whole.mp4", frames, 24, sound, SAMPLING_RATE, provenance=record)
    rates = (24, SAMPLING_RATE)
    preview = tmp_path / "preview.mp4"
    with streamed_video(tmp_path / "pieces.mp4", *rates, preview=preview, provenance=lambda: record) as write:
        for first, last in ((0, 7), (7, 8), (8, 30)):
            samples = slice(first * 20000 // 30, last * 20000 // 30)
            write(frames[first:last], sound[:, samples])
            assert not (tmp_path / "pieces.mp4").exists()
        assert 0 < len(media.read_video(preview).frames) <= len(frames)  # fragments of a second
    whole, pieces, shown = (media.read_video(tmp_path / f"{name}.mp4") for name in ("whole", "pieces", "preview"))
    np.testing.assert_array_equal(pieces.frames, whole.frames)
    np.testing.assert_array_equal(pieces.audio, whole.audio)
    assert len(shown.frames) == len(frames)
    assert read_provenance(tmp_path / "pieces.mp4") == record


def test_a_file_without_a_piece_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="`write` must be called before the file ends"),
        streamed_video(tmp_path / "clip.mp4", 24),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_video_is_written_whole_as_it_was_read(tmp_path: Path) -> None:
    sound = np.sin(np.arange(8000) / 5)[None].astype(np.float32) / 2
    media.write_video(tmp_path / "first.mp4", moving_square(12), 24, sound, 16000)
    first = media.read_video(tmp_path / "first.mp4")
    media.write_video(tmp_path / "second.mp4", first)
    second = media.read_video(tmp_path / "second.mp4")
    assert (second.frame_rate, second.sampling_rate) == (24, 16000)
    assert second.frames.shape == first.frames.shape
    assert second.audio is not None
    media.write_video(tmp_path / "third.mp4", first, 12)  # what is given counts
    assert media.read_video(tmp_path / "third.mp4").frame_rate == 12
    with pytest.raises(ValueError, match="`frame_rate` must be given with frames alone, got none"):
        media.write_video(tmp_path / "fourth.mp4", first.frames)


def test_a_path_that_cannot_be_written_fails_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(media_writing, "_encode_video", encode)
    (tmp_path / "folder.mp4").mkdir()
    for name in ("missing/clip.mp4", "folder.mp4"):
        with pytest.raises(OSError, match="`path` must be a file that can be written, got"):
            media.write_video(tmp_path / name, moving_square(5), 24)


def test_an_error_while_encoding_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media.write_video(tmp_path / "clip.mp4", moving_square(5), 24)
    before = (tmp_path / "clip.mp4").read_bytes()

    def fail(*_: object) -> None:
        raise RuntimeError("disk is full")

    monkeypatch.setattr(media_writing, "_encode_audio", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        media.write_video(tmp_path / "clip.mp4", moving_square(17), 24, clicks(8000), SAMPLING_RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == before


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


def test_the_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        media.read_video(tmp_path / "clip.mp4")


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


def test_the_same_clip_is_the_same_file_every_time(tmp_path: Path) -> None:
    """libx264 has a path that gives other files in every call, on some processors and sizes; it is left alone."""
    rows, columns, times = np.ogrid[:240, :320, :32]
    waves = np.sin(rows / 9 + times / 3) + np.cos(columns / 7 - times / 2) + np.sin(rows * columns / 4000 + times)
    frames = (
        np.repeat((waves + 3) / 6 * 255, 3, axis=2).reshape(240, 320, 32, 3).transpose(2, 0, 1, 3).astype(np.uint8)
    )
    files = set()
    for number in range(6):
        np.random.default_rng(number).random(2**16 * (number + 1))  # memory that was used
        media.write_video(tmp_path / "clip.mp4", frames, 16)
        files.add((tmp_path / "clip.mp4").read_bytes())
    assert len(files) == 1
