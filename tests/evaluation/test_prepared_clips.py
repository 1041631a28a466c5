"""A clip that preparation cuts measures what `jova evaluate` measures of the same clip."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_jova.drawn.avatars import write_corpus
from diffusers_jova.evaluation import meter
from diffusers_jova.evaluation.clip_list import list_clips
from diffusers_jova.evaluation.meter import Meter
from diffusers_jova.evaluation.prepared_clips import PreparedClipMeter
from diffusers_jova.media import read_video, write_audio, write_video
from diffusers_jova.training.data.clip import ClipSettings
from diffusers_jova.training.data.clips import read_recording
from diffusers_jova.training.data.manifest import read_clip, read_samples
from diffusers_jova.training.data.mouth_detector import NoMouths
from diffusers_jova.training.prepare import make_filter
from jova_cli.clip_filters import GROUPS
from jova_cli.clip_limits import Bucket
from tests.evaluation.speaking import FRAME_RATE, write_speaker
from tests.prepared_clips import save_speech_model


FREE = tuple(group for group in GROUPS if group not in ("words", "speech"))  # of packages beyond those of the tests


def near(values: Mapping[str, float | None]) -> dict[str, Any]:
    """Numbers as float32 boxes, and sound that was scaled and back, leave them."""
    return {
        name: None if value is None else pytest.approx(value, rel=1e-5, abs=1e-6) for name, value in values.items()
    }


def compare(path: Path, groups: tuple[str, ...], **options: float) -> None:
    """Both ways to the numbers of a clip that fills its file."""
    evaluated = Meter().measure(list_clips([path])[0], groups)
    settings = ClipSettings(buckets=(Bucket(50, 48, 64),), frame_rate=FRAME_RATE, **options)
    sample = read_clip(path)
    (clip,) = read_recording(sample, settings, NoMouths()).clips
    prepared = PreparedClipMeter(groups)(sample, clip, FRAME_RATE)
    for group in groups:
        assert prepared[group].values == near(evaluated[group].values)
        assert prepared[group].reason == evaluated[group].reason


@pytest.mark.parametrize("late_s", [0.0, 0.32])
def test_a_prepared_clip_measures_what_the_evaluation_measures(tmp_path: Path, late_s: float) -> None:
    compare(write_speaker(tmp_path, "a", seed=0, late_s=late_s), FREE)


def test_the_loudness_is_that_of_the_file_whatever_the_record_has(tmp_path: Path) -> None:
    compare(write_speaker(tmp_path, "a", seed=0), ("sound",), loudness_lufs=-30.0)


@pytest.mark.parametrize(("loudness", "lacking_s"), [(0.0, 0.0), (1.0, 0.09)])
def test_silence_is_measured_as_silence_and_what_fills_up_a_record_is_not(
    tmp_path: Path, loudness: float, lacking_s: float
) -> None:
    path = write_speaker(tmp_path, "a", seed=0)
    video = read_video(path)
    assert video.audio is not None
    path = path.with_suffix(".wav")  # takes the place of the sound in the file, and no codec changes it
    length = video.audio.shape[1] - round(lacking_s * video.sampling_rate)
    write_audio(path, loudness * video.audio[:, :length], video.sampling_rate)
    path = path.with_suffix(".mp4")
    compare(path, FREE)
    (clip,) = read_recording(
        read_clip(path), ClipSettings(buckets=(Bucket(50, 48, 64),), frame_rate=FRAME_RATE), NoMouths()
    ).clips
    values = PreparedClipMeter(("sound",))(read_clip(path), clip, FRAME_RATE)["sound"].values
    assert (values["silence_share"] == 1) == (loudness == 0)


def test_words_within_a_whole_prompt_are_those_that_should_be_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jiwer")
    monkeypatch.setattr(meter, "make_listener", lambda *_: lambda *_: "hello blue sun")
    path = write_speaker(tmp_path, "a", seed=0)
    path.with_suffix(".json").write_text(json.dumps({"caption": "She says <S>hello blue moon<E>"}))
    compare(path, ("words",))
    assert Meter().measure(list_clips([path])[0], ["words"])["words"].values["word_error_rate"] == 1 / 3


def test_the_recogniser_that_preparation_is_given_judges_the_words_where_preparation_computes(tmp_path: Path) -> None:
    pytest.importorskip("jiwer")
    path, folder = write_speaker(tmp_path, "a", seed=0, transcript="x"), save_speech_model(tmp_path / "model")
    words = Namespace(filter=["word_error_rate=..0.3"], filter_report=False, no_mouth=True, unjudged="keep")
    chosen = make_filter(Namespace(**vars(words), whisper=folder))
    assert chosen is not None
    settings = ClipSettings(buckets=(Bucket(50, 48, 64),), frame_rate=FRAME_RATE)
    (clip,) = read_recording(read_clip(path), settings, NoMouths()).clips
    judged = chosen.meter(read_clip(path), clip, FRAME_RATE)["words"]
    assert judged.values["word_error_rate"] == 0  # that one hears an X in everything
    assert chosen.meter.version("words") != PreparedClipMeter(("words",)).version("words")
    assert chosen.meter.on("meta").version("words") == chosen.meter.version("words")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold a speech recognition model that transformers reads"):
        make_filter(Namespace(**vars(words), whisper=tmp_path / "empty"))


@pytest.mark.slow
def test_so_do_the_measures_of_speech(tmp_path: Path) -> None:
    pytest.importorskip("speechmos.dnsmos")
    pytest.importorskip("faster_whisper")
    path = write_speaker(tmp_path, "a", seed=0)
    compare(path, ("speech",))
    write_audio(path.with_suffix(".wav"), np.zeros((1, 32000), np.float32), 16000)
    compare(path, ("speech",))


def test_a_mouth_that_is_interpolated_counts_as_not_seen(tmp_path: Path) -> None:
    path = write_speaker(tmp_path, "a", seed=0)
    file = path.with_suffix(".boxes.json")
    boxes = json.loads(file.read_text())
    boxes[0][1] = None
    file.write_text(json.dumps(boxes))
    compare(path, ("sync",))
    settings = ClipSettings(buckets=(Bucket(50, 48, 64),), frame_rate=FRAME_RATE)
    (clip,) = read_recording(read_clip(path), settings, NoMouths()).clips
    assert clip.seen is not None
    assert np.isfinite(clip.mouth_boxes).all()
    assert clip.seen.mean() == pytest.approx(0.98)


def test_of_drawn_speakers_those_with_the_sound_of_another_time_are_told(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, range(4))
    samples = [sample for sample in read_samples(manifest) if sample.mouth_boxes is not None]
    for sample in samples[::2]:
        assert sample.video is not None
        video = read_video(sample.video)
        assert video.audio is not None
        late = np.roll(video.audio, round(0.35 * video.sampling_rate), axis=-1)
        write_video(sample.video, video.frames, video.frame_rate, late, video.sampling_rate)
    size = read_video(samples[0].source).frames.shape[:3]
    settings = ClipSettings(buckets=(Bucket(*size),), frame_rate=16)
    meter = PreparedClipMeter(FREE)
    evaluated = {clip.sample.source: Meter().measure(clip, FREE) for clip in list_clips([manifest])}
    correlations = []
    for sample in samples:
        (clip,) = read_recording(sample, settings, NoMouths()).clips
        values = meter(sample, clip, 16)["sync"].values
        assert values == near(evaluated[sample.source.absolute()]["sync"].values)
        correlations.append(values["sync_correlation"])
    assert max(correlations[::2]) < 0.5 < min(correlations[1::2])
