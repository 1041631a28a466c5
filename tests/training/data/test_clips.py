"""A file becomes clips of a bucket, and the mouth boxes stay on the mouth."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from scipy.io.wavfile import write as write_wav

from diffusers_jova.drawn.avatars import make_clip
from diffusers_jova.evaluation.clip_signals import read_signals
from diffusers_jova.media import read_audio, read_video, write_audio, write_video
from diffusers_jova.pictures import fit_pictures
from diffusers_jova.training.data.buckets import fit
from diffusers_jova.training.data.clip import BrokenFileError, Clip, ClipSettings, SkippedClipError
from diffusers_jova.training.data.clip_requirements import required
from diffusers_jova.training.data.clips import choose_bucket, read_recording
from diffusers_jova.training.data.manifest import Sample
from diffusers_jova.training.data.mouth_detector import NoMouths
from diffusers_jova.training.data.subtitles import Speech
from jova_cli.clip_limits import Bucket
from tests.made_clips import late_sound
from tests.unusual_media import case


def load_clips(*arguments: Any) -> list[Clip]:
    return [*read_recording(*arguments).clips]


WHITE = np.array([250, 250, 250], np.uint8)  # luminance survives the codec unblurred


def settings(*buckets: str, frame_rate: float = 16, **options: object) -> ClipSettings:
    return ClipSettings(buckets=tuple(map(Bucket.parse, buckets)), frame_rate=frame_rate, **options)


def white_square(num_frames: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A white square of 16 px that moves one pixel per frame over grey, and its boxes [1, F, 4]."""
    frames = np.full((num_frames, height, width, 3), 100, np.uint8)
    boxes = np.array([[[10 + f, 20, 26 + f, 36] for f in range(num_frames)]], np.float32)
    for frame, box in zip(frames, boxes[0].astype(int), strict=True):
        frame[box[1] : box[3], box[0] : box[2]] = WHITE
    return frames, boxes


def box_of_white(frame: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(frame.mean(-1) > 175)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def write_clip(
    path: Path, num_frames: int = 33, size: tuple[int, int] = (64, 96), sound_s: float | None = 2.0
) -> Path:
    frames, _ = white_square(num_frames, *size)
    sound = None if sound_s is None else np.sin(np.arange(int(sound_s * 16000)) ** 1.1 / 20).astype(np.float32)
    write_video(path, frames, 16, sound, 16000, crf=1)
    return path


@pytest.mark.parametrize("size", [(64, 96), (128, 80), (32, 32), (48, 130)])
def test_boxes_stay_on_the_object_through_crop_and_resize(size: tuple[int, int]) -> None:
    frames, boxes = white_square(3, 64, 96)
    to_centre = np.array([29, 4])  # where every crop keeps the whole square
    frames, boxes = np.roll(frames, to_centre[::-1], axis=(1, 2)), boxes + np.tile(to_centre, 2)
    cropped, moved = fit(frames, boxes, Bucket(3, *size))
    assert cropped.shape == (3, *size, 3)
    assert np.isfinite(moved).all()
    for frame, box in zip(cropped, moved[0], strict=True):
        np.testing.assert_allclose(box_of_white(frame), box, atol=1.01)


@pytest.mark.parametrize("how", ["contain", "stretch"])
@pytest.mark.parametrize("size", [(64, 96), (128, 80), (32, 32), (48, 160)])
def test_boxes_stay_on_the_object_between_black_bars_and_where_its_shape_is_bent(
    size: tuple[int, int], how: str
) -> None:
    frames, boxes = white_square(3, 64, 96)
    fitted, moved = fit(frames, boxes, Bucket(3, *size), how)
    assert np.array_equal(fitted, fit_pictures(frames, *size, fit=how))
    for frame, box in zip(fitted, moved[0], strict=True):
        np.testing.assert_allclose(box_of_white(frame), box, atol=1.01)


@pytest.mark.parametrize(("how", "corner"), [("cover", 100), ("contain", 0), ("stretch", 100)])
def test_a_file_of_another_shape_is_cropped_filled_up_or_bent_with_its_reference_image(
    tmp_path: Path, how: str, corner: int
) -> None:
    Image.fromarray(white_square(1, 64, 160)[0][0]).save(tmp_path / "a.png")
    sample = Sample(video=write_clip(tmp_path / "a.mp4", size=(64, 160)), reference_image=tmp_path / "a.png")
    (clip,) = load_clips(sample, settings("33x64x64", fit=how), NoMouths())
    assert clip.frames is not None
    assert clip.reference_image is not None
    for picture in (*clip.frames, clip.reference_image):
        assert picture.shape == (64, 64, 3)
        np.testing.assert_allclose(picture[0, -1], corner, atol=3)  # black bars lie above and below
    assert clip.shape_share == pytest.approx(0.4)


def test_a_file_that_is_smaller_than_its_bucket_on_one_side_fits_between_black_bars() -> None:
    upright = (96, 32)
    for how, fits in (("cover", False), ("contain", True), ("stretch", False)):
        some = settings("33x64x96", fit=how)
        if fits:
            assert choose_bucket(50, upright, some) == some.buckets[0]
        else:
            with pytest.raises(SkippedClipError, match="smaller than every bucket"):
                choose_bucket(50, upright, some)
    with pytest.raises(ValueError, match=r"`fit` must be one of \['cover', 'contain', 'stretch'\], got 'zoom'"):
        settings("33x64x96", fit="zoom")


def test_of_a_truncated_file_what_is_there_becomes_clips_on_request(tmp_path: Path) -> None:
    sample = Sample(video=case("cut_60.mp4", tmp_path))
    with pytest.raises(BrokenFileError, match=r"must be a whole file, .* take what is there by `allow_truncated`"):
        load_clips(sample, settings("5x64x96"), NoMouths())
    clips = load_clips(sample, settings("5x64x96", cut="all", allow_truncated=True), NoMouths())
    whole = read_video(sample.source, frame_rate=16, allow_truncated=True).frames
    assert np.array_equal(np.concatenate([clip.frames for clip in clips if clip.frames is not None]), whole[:5])


@pytest.mark.parametrize(("track", "hz"), [(None, 880), (0, 440), (1, 880)])
def test_the_sound_track_that_is_asked_for_is_taken(tmp_path: Path, track: int | None, hz: float) -> None:
    path = case("second_is_default.mkv", tmp_path)
    for sample in (Sample(video=path), Sample(video=write_clip(tmp_path / "a.mp4", sound_s=None), audio=path)):
        (clip,) = load_clips(sample, settings("13x64x96", audio_track=track), NoMouths())
        assert clip.audio is not None
        assert np.abs(np.fft.rfft(clip.audio[0])).argmax() * 16 / 13 == pytest.approx(hz, abs=3)
    with pytest.raises(BrokenFileError, match=r"`audio_track` must be from 0 to 1 .* got 2"):
        load_clips(sample, settings("13x64x96", audio_track=2), NoMouths())


@pytest.mark.slow
def test_a_recording_four_times_as_long_takes_no_more_memory_for_its_pictures(tmp_path: Path) -> None:
    num_bytes = {}
    for seconds in (30, 120):
        path = tmp_path / f"{seconds}.mp4"
        frames = np.broadcast_to(np.full((1, 1, 1, 3), 90, np.uint8), (seconds * 16, 64, 96, 3))
        write_video(path, frames, 16)
        tracemalloc.start()  # numpy tells it of every array
        num_clips = sum(
            1 for _ in read_recording(Sample(video=path), settings("17x64x96", cut="all"), NoMouths()).clips
        )
        num_bytes[seconds] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert num_clips == seconds * 16 // 17
    assert num_bytes[120] - num_bytes[30] < 17 * 64 * 96 * 3  # less than a clip; what is known of a frame stays


def test_a_mouth_that_the_crop_cuts_away_is_gone() -> None:
    frames, boxes = white_square(1, 64, 256)
    assert np.isnan(fit(frames, boxes, Bucket(1, 64, 64))[1]).all()


def test_a_clip_has_as_much_sound_as_picture(tmp_path: Path) -> None:
    (clip,) = load_clips(
        Sample(video=write_clip(tmp_path / "a.mp4", 40, sound_s=2.5)), settings("33x64x96"), NoMouths()
    )
    assert clip.frames is not None
    assert clip.audio is not None
    assert clip.frames.shape == (33, 64, 96, 3)
    assert clip.audio.shape == (1, 33000)


def test_another_frame_rate_takes_frames_and_given_boxes_by_the_same_clock(tmp_path: Path) -> None:
    frames, boxes = white_square(40, 64, 96)
    write_video(tmp_path / "a.mp4", frames, 25, crf=1)
    sample = Sample(video=tmp_path / "a.mp4", mouth_boxes=boxes.tolist())
    for rate in (10, 16, 25, 30):
        (clip,) = load_clips(sample, settings("13x64x96", frame_rate=rate), NoMouths())
        assert clip.frames is not None
        for frame, box in zip(clip.frames, clip.mouth_boxes[0], strict=True):
            np.testing.assert_allclose(box_of_white(frame), box, atol=1.01)
        np.testing.assert_allclose(clip.mouth_boxes[0, 12, 0], 10 + 12 * 25 / rate, atol=0.51)


def test_a_whole_file_becomes_consecutive_clips(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 45, sound_s=3.0)
    boxes = white_square(45, 64, 96)[1].tolist()
    clips = load_clips(Sample(video=path, mouth_boxes=boxes), settings("13x64x96", cut="all"), NoMouths())
    assert [clip.mouth_boxes[0, 0, 0] for clip in clips] == [10, 23, 36]
    assert all(clip.frames is not None and clip.frames.shape[0] == 13 for clip in clips)
    pictures = np.concatenate([clip.frames for clip in clips if clip.frames is not None])
    assert np.array_equal(pictures, read_video(path).frames[:39])
    whole = np.concatenate([clip.audio for clip in clips if clip.audio is not None], axis=1)
    assert np.array_equal(whole, read_audio(path)[0][:, :39000])
    with pytest.raises(SkippedClipError, match=r"must have times, got one text for 3.0 s and 3 clips of 0.8 s; write"):
        load_clips(Sample(video=path, transcript="hello"), settings("13x64x96", cut="all"), NoMouths())


def test_a_long_file_is_searched_for_mouths_clip_by_clip(tmp_path: Path) -> None:
    seen = []

    def detector(frames: np.ndarray) -> np.ndarray:
        seen.append(len(frames))
        return np.array([[box_of_white(frame) for frame in frames]], np.float32)

    path = write_clip(tmp_path / "a.mp4", 45, sound_s=None)
    clips = load_clips(Sample(video=path), settings("13x64x96", cut="all"), detector)
    assert seen == [13, 13, 13]  # never more in memory
    assert [clip.mouth_boxes[0, 0, 0] for clip in clips] == [10, 23, 36]


def test_sound_alone_and_picture_alone_are_clips(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.full(40000, 0.1, np.float32), 16000)
    (sound,) = load_clips(Sample(audio=tmp_path / "a.wav"), settings("33x64x96", "17x64x96"), NoMouths())
    assert sound.frames is None
    assert sound.bucket.num_frames == 33
    silent = write_clip(tmp_path / "s.mp4", sound_s=None)
    (picture,) = load_clips(Sample(video=silent), settings("33x64x96"), NoMouths())
    assert picture.audio is None
    with pytest.raises(SkippedClipError, match="no sound"):
        load_clips(Sample(video=silent), settings("33x64x96", require_sound=True), NoMouths())


def test_a_sound_that_ends_early_shortens_the_clip(tmp_path: Path) -> None:
    sample = Sample(video=write_clip(tmp_path / "a.mp4", 33, sound_s=1.2))
    (clip,) = load_clips(sample, settings("33x64x96", "17x64x96"), NoMouths())
    assert clip.bucket.num_frames == 17


def test_a_file_takes_the_bucket_of_its_shape_and_length() -> None:
    some = settings("33x64x96", "33x96x64", "81x64x96", "33x128x192")
    assert str(choose_bucket(50, (200, 300), some)) == "33x128x192"
    assert str(choose_bucket(100, (100, 150), some)) == "81x64x96"
    assert str(choose_bucket(50, (150, 100), some)) == "33x96x64"
    with pytest.raises(SkippedClipError, match="last 30 frames at 16 per second; a bucket needs 33"):
        choose_bucket(30, (100, 150), some)
    with pytest.raises(SkippedClipError, match="48x48 pixels are smaller than every bucket"):
        choose_bucket(50, (48, 48), some)
    assert choose_bucket(50, (48, 72), settings("33x64x96", upscale=True)).height == 64


def test_a_size_that_is_too_small_says_which_number_is_the_height() -> None:
    with pytest.raises(SkippedClipError, match=r"288x360 pixels are smaller .*; it is 288 high and 360 wide$"):
        choose_bucket(50, (288, 360), settings("33x640x960"))


@pytest.mark.parametrize(
    ("buckets", "still", "clip"),
    [
        (("33x64x96",), "1x64x96", "33x64x96"),
        (("33x64x96", "1x96x64"), "1x96x64", "33x64x96"),  # a clip of that shape would have become a still
        (("33x96x64", "17x64x96"), "1x64x96", "17x64x96"),
    ],
)
def test_a_still_image_is_a_clip_of_one_frame_without_sound(
    tmp_path: Path, buckets: tuple[str, ...], still: str, clip: str
) -> None:
    frames, boxes = white_square(1, 100, 150)
    Image.fromarray(frames[0]).save(tmp_path / "a.png")
    demands = {"cut": "all", "require_sound": True, "min_sync": 0.5, "loudness_lufs": -20}
    sample = Sample(video=tmp_path / "a.png", mouth_boxes=boxes.tolist(), transcript="said")
    (found,) = load_clips(sample, settings(*buckets, **demands), NoMouths())
    assert str(found.bucket) == still
    assert found.frames is not None
    assert found.frames.shape == (1, found.bucket.height, found.bucket.width, 3)
    assert found.audio is None
    if still == "1x64x96":  # of the image's shape, nothing is cut off; edges are resampled
        np.testing.assert_allclose(found.mouth_boxes[0, 0], box_of_white(found.frames[0]), atol=1.5)
    (moving,) = load_clips(Sample(video=write_clip(tmp_path / "a.mp4", 33)), settings(*buckets), NoMouths())
    assert str(moving.bucket) == clip
    small = settings("33x640x960")
    with pytest.raises(SkippedClipError, match=r"100x150 pixels are smaller than every bucket; give smaller .*`--ups"):
        load_clips(sample, small, NoMouths())


def test_clips_without_a_mouth_can_be_left_out(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    boxes = white_square(33, 64, 96)[1].tolist()
    need = settings("33x64x96", require_mouth=True)
    assert load_clips(Sample(video=path, mouth_boxes=boxes), need, NoMouths())
    half: list[list[object]] = [[box if f > 20 else None for f, box in enumerate(boxes[0])]]
    with pytest.raises(SkippedClipError, match=r"^a mouth is visible in 36% of the frames$"):
        load_clips(Sample(video=path, mouth_boxes=half), need, NoMouths())


def test_a_file_whose_clips_lack_different_things_is_left_out_for_all_of_them(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(24000, np.float32), np.full(8000, 0.5, np.float32)])
    frames, boxes = white_square(34, 64, 96)
    write_video(tmp_path / "a.mp4", frames, 17, sound, 16000)
    seen: list[list[object]] = [[box if f < 17 else None for f, box in enumerate(boxes[0].tolist())]]
    need = settings("17x64x96", frame_rate=17, cut="all", require_sound=True, require_mouth=True)
    lacking = r"^its largest sample is 0\.0000. in 1 clip, a mouth is visible in 0% of the frames in 1 clip$"
    with pytest.raises(SkippedClipError, match=lacking):
        load_clips(Sample(video=tmp_path / "a.mp4", mouth_boxes=seen), need, NoMouths())


def test_a_clip_with_the_sound_of_another_can_be_left_out(tmp_path: Path) -> None:
    own, other = (make_clip(seed, subject="speaker") for seed in (0, 5))
    need = settings("33x64x64", min_sync=0.5)
    for name, sound in (("own", own), ("other", other)):
        write_video(tmp_path / f"{name}.mp4", own.frames, 16, sound.waveform, 16000)
    boxes = own.mouth_boxes.tolist()
    assert load_clips(Sample(video=tmp_path / "own.mp4", mouth_boxes=boxes), need, NoMouths())
    with pytest.raises(SkippedClipError, match=r"mouth and sound correlate by -?0\.[0-4]"):
        load_clips(Sample(video=tmp_path / "other.mp4", mouth_boxes=boxes), need, NoMouths())
    with pytest.raises(SkippedClipError, match=r"mouth and sound correlate by 0\.00"):
        load_clips(Sample(video=tmp_path / "own.mp4"), need, NoMouths())
    write_video(tmp_path / "mute.mp4", own.frames, 16)
    with pytest.raises(SkippedClipError, match=r"^its largest sample is 0\.00000$"):
        load_clips(Sample(video=tmp_path / "mute.mp4", mouth_boxes=boxes), need, NoMouths())


def test_a_lost_mouth_is_interpolated_for_a_third_of_a_second(tmp_path: Path) -> None:
    boxes: list[list[object]] = white_square(33, 64, 96)[1].tolist()
    boxes[0][5:10] = [None] * 5
    boxes[0][20:26] = [None] * 6
    (clip,) = load_clips(
        Sample(video=write_clip(tmp_path / "a.mp4"), mouth_boxes=boxes), settings("33x64x96"), NoMouths()
    )
    assert clip.mouth_boxes[0, 5:10, 0].tolist() == [15, 16, 17, 18, 19]
    assert np.isnan(clip.mouth_boxes[0, 20:26]).all()


def test_a_reference_image_is_cropped_like_the_clip(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(white_square(1, 128, 192)[0][0]).save(tmp_path / "a.png")
    sample = Sample(video=write_clip(tmp_path / "a.mp4"), reference_image=tmp_path / "a.png")
    (clip,) = load_clips(sample, settings("33x64x96"), NoMouths())
    assert clip.reference_image is not None
    np.testing.assert_allclose(box_of_white(clip.reference_image), [5, 10, 13, 18], atol=1.01)


def test_buckets_that_the_model_cannot_take_are_refused_with_the_next_ones() -> None:
    with pytest.raises(ValueError, match=r"4k \+ 1 .*got 80x64x64; use 77 or 81"):
        Bucket.parse("80x64x64").check(4, 16)
    with pytest.raises(ValueError, match="multiples of 16, got 81x60x64"):
        Bucket.parse("81x60x64").check(4, 16)
    with pytest.raises(ValueError, match="must be written FRAMESxHEIGHTxWIDTH, got `512`"):
        Bucket.parse("512")


def test_loudness_is_normalised_on_request(tmp_path: Path) -> None:
    pytest.importorskip("pyloudnorm")
    sample = Sample(video=write_clip(tmp_path / "a.mp4"))
    plain: Clip = load_clips(sample, settings("33x64x96"), NoMouths())[0]
    quiet: Clip = load_clips(sample, settings("33x64x96", loudness_lufs=-30), NoMouths())[0]
    assert plain.audio is not None
    assert quiet.audio is not None
    assert np.abs(quiet.audio).max() < 0.2 * np.abs(plain.audio).max()


def test_the_loudness_is_that_of_the_channels_that_a_record_holds(tmp_path: Path) -> None:
    pytest.importorskip("pyloudnorm")
    mono = np.sin(np.arange(48000) / 9).astype(np.float32)[None] * 0.1
    peaks = []
    for name, sound in (("mono", mono), ("stereo", np.repeat(mono, 2, axis=0))):
        write_audio(tmp_path / f"{name}.wav", sound, 16000)
        sample = Sample(audio=tmp_path / f"{name}.wav")
        (clip,) = load_clips(sample, settings("33x64x96", loudness_lufs=-30, num_channels=1), NoMouths())
        assert clip.audio is not None
        assert clip.heard is not None
        assert clip.audio.shape[0] == clip.heard.audio.shape[0] == 1
        peaks.append(np.abs(clip.audio).max())
    assert peaks[1] == pytest.approx(peaks[0], rel=1e-3)  # 3 dB less where both channels were measured


def test_given_boxes_stay_with_their_frames_where_a_phone_recorded_them_at_uneven_times(tmp_path: Path) -> None:
    frames, boxes = white_square(31, 64, 96)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1"})
        stream.width, stream.height, stream.codec_context.time_base = 96, 64, Fraction(1, 1000)
        for pixels, time_ms in zip(frames, np.cumsum([0, *[10, 100] * 15]), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(time_ms), Fraction(1, 1000)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    sample = Sample(video=tmp_path / "a.mp4", mouth_boxes=boxes.tolist())
    (clip,) = load_clips(sample, settings("25x64x96"), NoMouths())
    assert clip.frames is not None
    assert len(np.unique(np.diff(clip.mouth_boxes[0, :, 0]))) > 1  # not every frame was taken, nor every second one
    for frame, box in zip(clip.frames, clip.mouth_boxes[0], strict=True):
        np.testing.assert_allclose(box_of_white(frame), box, atol=0.01)


def write_scenes(path: Path, *lengths: int) -> Path:
    """A file of scenes of so many frames at 16 per second, each of another grey, with a sound that never pauses."""
    shades = np.repeat(np.arange(len(lengths)) % 2 * 120 + 60, lengths)
    frames = np.broadcast_to(shades[:, None, None, None], (sum(lengths), 64, 96, 3)).astype(np.uint8)
    random = np.random.default_rng(0)
    noise = random.uniform(-0.3, 0.3, sum(lengths) * 1000).astype(np.float32)
    write_video(path, frames, 16, noise, 16000)
    return path


def test_no_clip_spans_a_cut_and_the_rest_of_the_file_is_accounted_for(tmp_path: Path) -> None:
    path = write_scenes(tmp_path / "a.mp4", 20, 5, 40)
    recording = read_recording(Sample(video=path), settings("17x64x96", cut="all"), NoMouths())
    clips = [*recording.clips]
    assert [clip.start_s for clip in clips] == [0, 25 / 16, 42 / 16]
    for clip in clips:
        assert clip.frames is not None
        assert np.ptp(clip.frames.mean(axis=(1, 2, 3))) < 5
    assert recording.length_s == 65 / 16
    assert recording.unused_s == {
        "at ends of shots, too short for a clip": 9 / 16,
        "in shots shorter than a clip": 5 / 16,
    }
    (first,) = load_clips(Sample(video=path), settings("33x64x96"), NoMouths())
    assert first.start_s == 25 / 16
    with pytest.raises(
        SkippedClipError, match="3 shots, and a clip must lie in one: in the longest, picture and sound"
    ):
        load_clips(Sample(video=path), settings("49x64x96"), NoMouths())


@pytest.mark.parametrize("cut", ["first", "all", "pauses"])
def test_each_clip_has_the_words_that_are_said_in_it_and_no_others(tmp_path: Path, cut: str) -> None:
    path = write_scenes(tmp_path / "a.mp4", 160)
    words = [Speech(f"word{n}", n * 0.61, n * 0.61 + 0.6) for n in range(16)]
    cues = (f"00:00:0{w.start_s:.3f} --> 00:00:0{w.end_s:.3f}\n{w.text}\n" for w in words)
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n" + "\n".join(cues))
    subtitled = Sample(video=path, subtitles=tmp_path / "a.vtt")
    heard = lambda *_: words  # noqa: E731
    some = settings("17x64x96", "33x64x96", cut=cut)
    for sample, listen in ((subtitled, None), (Sample(video=path), heard)):
        clips = load_clips(sample, some, NoMouths(), listen)
        assert len(clips) == 1 if cut == "first" else len(clips) > 3
        for clip in clips:
            end_s = clip.start_s + clip.bucket.num_frames / 16
            said = (clip.words or "").split()
            assert said == [w.text for w in words if clip.start_s < (w.start_s + w.end_s) / 2 < end_s] != []
            for word in words:  # at most 0.08 s of a word of 0.6 s lie beyond the edge
                share = (min(word.end_s, end_s) - max(word.start_s, clip.start_s)) / 0.6
                assert share > 0.86 if word.text in said else share < 0.14


def test_a_sentence_that_is_longer_than_a_clip_is_in_none(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:03,000\none two three four\n")
    sample = Sample(video=write_scenes(tmp_path / "a.mp4", 48), subtitles=tmp_path / "a.srt")
    with pytest.raises(SkippedClipError, match="no 17 frames begin and end between words; give shorter `--buckets`"):
        load_clips(sample, settings("17x64x96", cut="all"), NoMouths())


def test_subtitles_of_which_all_lie_behind_the_end_are_those_of_another_recording(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:01:00,000 --> 00:01:01,500\none\n")
    sample = Sample(video=write_scenes(tmp_path / "a.mp4", 48), subtitles=tmp_path / "a.srt")
    with pytest.raises(BrokenFileError, match=r"must be those of a recording of 3\.0 s, got a first cue at 60\.0 s; "):
        load_clips(sample, settings("17x64x96", cut="all"), NoMouths())


def test_a_transcript_without_times_is_believed_only_where_nothing_can_be_said_outside_of_the_clip(
    tmp_path: Path,
) -> None:
    path = write_scenes(tmp_path / "a.mp4", 40)
    with pytest.raises(
        SkippedClipError, match=r"must have times, got one text for 2\.5 s and 1 clip of 2\.1 s; write"
    ):
        load_clips(Sample(video=path, transcript="hello"), settings("33x64x96"), NoMouths())
    sound, rate = read_audio(path)
    sound[:, 32000:] = 0
    write_audio(tmp_path / "a.wav", sound, rate)
    quiet_end = Sample(video=path, audio=tmp_path / "a.wav", transcript="hello")
    assert load_clips(quiet_end, settings("33x64x96"), NoMouths())[0].words is None
    assert load_clips(Sample(video=path, transcript="hello"), settings("39x64x96", "41x64x96"), NoMouths())
    silent = write_clip(tmp_path / "b.mp4", 40, sound_s=None)
    with pytest.raises(SkippedClipError, match="must have times"):
        load_clips(Sample(video=silent, transcript="hello"), settings("33x64x96"), NoMouths())


def test_a_track_of_zeros_is_silence_and_no_sound(tmp_path: Path) -> None:
    frames, _ = white_square(33, 64, 96)
    write_video(tmp_path / "a.mp4", frames, 16, np.zeros(33000, np.float32), 16000)
    (clip,) = load_clips(Sample(video=tmp_path / "a.mp4"), settings("33x64x96"), NoMouths())
    assert clip.audio is None
    write_audio(tmp_path / "a.wav", np.zeros(33000, np.float32), 16000)
    with pytest.raises(SkippedClipError, match="the sound is silence"):
        load_clips(Sample(audio=tmp_path / "a.wav"), settings("33x64x96"), NoMouths())


def test_a_clip_of_nothing_is_silence_in_a_recording_that_sounds_elsewhere(tmp_path: Path) -> None:
    frames, _ = white_square(51, 64, 96)
    write_video(tmp_path / "a.mp4", frames, 17)
    hum = np.sin(np.arange(16000) / 4, dtype=np.float32)
    quiet = 2e-4 * hum  # a pause that was recorded, below 16 bits of which nothing is left
    write_wav(tmp_path / "a.wav", 16000, np.concatenate([0 * hum, 0.5 * hum, quiet]))
    both = Sample(video=tmp_path / "a.mp4", audio=tmp_path / "a.wav")
    for loudness_lufs in (None, -60.0, -10.0):
        some = settings("17x64x96", frame_rate=17, cut="all", loudness_lufs=loudness_lufs)
        padding, *others = load_clips(both, some, NoMouths())
        assert (padding.audio, padding.sampling_rate) == (None, 0)
        assert [clip.audio is not None and clip.audio.any() for clip in others] == [True, True]
        asked = replace(some, require_sound=True)
        assert [clip.start_s for clip in load_clips(both, asked, NoMouths())] == [1, 2]
        alone = read_recording(Sample(audio=tmp_path / "a.wav"), some, NoMouths())
        assert [clip.start_s for clip in alone.clips] == [1, 2]
        assert alone.unused_s["of silence"] == 1


def test_the_sound_of_another_film_goes_by_the_clock_of_its_picture(tmp_path: Path) -> None:
    film = late_sound(tmp_path / "film.mov", late_s=1.0)
    own, named = (
        load_clips(Sample(video=film, audio=audio), settings("9x32x32", cut="all"), NoMouths())
        for audio in (None, film)
    )
    assert [clip.audio is None for clip in own] == [True, False, False]  # in the second it begins
    for mine, beside in zip(own, named, strict=True):
        assert np.array_equal([0] if mine.audio is None else mine.audio, [0] if beside.audio is None else beside.audio)
    signals = read_signals(Sample(video=film, audio=film))
    assert signals.audio is not None
    assert signals.audio.shape[1] == round(33 / 16 * 16000)


def test_clips_may_begin_and_end_in_pauses_of_the_sound(tmp_path: Path) -> None:
    path = write_scenes(tmp_path / "a.mp4", 80)
    sound, rate = read_audio(path)
    time_s = np.arange(sound.shape[1]) / rate
    sound[:, (time_s < 0.5) | ((time_s > 1.7) & (time_s < 2.2)) | (time_s > 4)] *= 0.01
    write_audio(tmp_path / "a.wav", sound, rate)
    sample = Sample(video=path, audio=tmp_path / "a.wav")
    clips = load_clips(sample, settings("17x64x96", "33x64x96", cut="pauses"), NoMouths())
    edges = [edge for c in clips for edge in (c.start_s, c.start_s + c.bucket.num_frames / 16)]
    assert len(clips) == 2
    assert all(edge < 0.5 or 1.7 < edge < 2.2 or edge > 4 for edge in edges)


def test_a_file_without_clips_is_left_out_for_a_reason() -> None:
    with pytest.raises(SkippedClipError, match=r"no clip was cut"):
        list(required(iter(()), [], {}, 16.0))


def test_clips_of_which_nobody_knows_the_words_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:00,800\none two\n")
    video = write_scenes(tmp_path / "a.mp4", 48)
    subtitled = Sample(video=video, subtitles=tmp_path / "a.srt")
    every, known = (settings("17x64x96", cut="all", require_words=asked) for asked in (False, True))
    assert [clip.words for clip in load_clips(subtitled, every, NoMouths())] == ["one two", ""]
    assert [clip.words for clip in load_clips(subtitled, known, NoMouths())] == ["one two"]
    with pytest.raises(SkippedClipError, match=r"^what is known to be said is 0 words$"):
        load_clips(Sample(video=video, video_caption="a square"), known, NoMouths())
    prompt = Sample(video=video, caption="a square that may say anything")
    assert len(load_clips(prompt, known, NoMouths())) == 2
    Image.fromarray(white_square(1, 64, 96)[0][0]).save(tmp_path / "a.png")
    still = Sample(video=tmp_path / "a.png", video_caption="a square")
    assert len(load_clips(still, settings("1x64x96", require_words=True), NoMouths())) == 1


def test_a_transcript_of_a_sound_that_outlasts_the_picture_is_refused_by_what_is_long(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "a.mp4", num_frames=17, sound_s=None)
    write_audio(tmp_path / "a.wav", np.full((1, 64000), 0.25, np.float32), 16000)
    sample = Sample(video=video, audio=tmp_path / "a.wav", transcript="one two", video_caption="a square")
    with pytest.raises(SkippedClipError, match=r"must have times, got one text for 4\.0 s of sound and 1 clip of 1"):
        load_clips(sample, settings("17x64x96", cut="all"), NoMouths())
