"""A clip that preparation cuts measures what `jova evaluate` measures of the same clip."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from diffusers_jova.drawn.avatars import write_corpus
from diffusers_jova.evaluation import desync, meter
from diffusers_jova.evaluation.clip_list import list_clips
from diffusers_jova.evaluation.measured import Measured
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
from tests.evaluation.test_audiobox import MeanOfHeard
from tests.evaluation.test_syncnet_scores import SIZE_PX, BrightnessAndLoudness
from tests.evaluation.test_syncnet_scores import write_clip as write_lips
from tests.prepared_clips import save_speech_model
from tests.tiny_networks import save_clap, save_clip


FREE = tuple(group for group in GROUPS if group not in ("words", "speech"))  # of packages beyond those of the tests

SPEAKER = Bucket(50, 48, 64)  # size of `write_speaker`


def near(values: Mapping[str, float | None]) -> dict[str, Any]:
    """Numbers as float32 boxes, and sound that was scaled and back, leave them."""
    return {
        name: None if value is None else pytest.approx(value, rel=1e-5, abs=1e-6) for name, value in values.items()
    }


def compare(
    path: Path,
    groups: tuple[str, ...],
    bucket: Bucket = SPEAKER,
    frame_rate: float = FRAME_RATE,
    networks: Mapping[str, Path] = MappingProxyType({}),
    **options: float,
) -> Mapping[str, Measured]:
    """Both ways to the numbers of a clip that fills its file; returns those of the evaluation."""
    evaluated = Meter(**dict(networks)).measure(list_clips([path])[0], groups)  # type: ignore[arg-type]
    settings = ClipSettings(buckets=(bucket,), frame_rate=frame_rate, **options)
    sample = read_clip(path)
    (clip,) = read_recording(sample, settings, NoMouths()).clips
    hidden = path.rename(path.with_suffix(".hidden"))  # what is measured is in memory
    prepared = PreparedClipMeter(groups, networks=networks)(sample, clip, frame_rate)
    hidden.rename(path)
    for group in groups:
        assert prepared[group].values == near(evaluated[group].values)
        assert prepared[group].reason == evaluated[group].reason
    return evaluated


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


def test_so_do_sounds_pictures_and_captions_by_networks_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics.model.aes", SimpleNamespace(AesMultiOutput=MeanOfHeard))
    for name in ("audiobox_aesthetics", "audiobox_aesthetics.model"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    path = write_speaker(tmp_path, "a", seed=0)
    path.with_suffix(".json").write_text(json.dumps({"video_caption": "a square", "audio_caption": "a hiss"}))
    networks = {"clap": save_clap(tmp_path / "clap"), "clip_score": save_clip(tmp_path / "clip")}
    networks["audiobox"] = tmp_path / "audiobox"
    networks["audiobox"].mkdir()
    (networks["audiobox"] / "model.safetensors").write_bytes(b"weights")
    found = compare(path, ("clap", "audiobox", "clip_score"), networks=networks)
    assert all(None not in measured.values.values() and not measured.reason for measured in found.values())


@pytest.mark.parametrize("rate", [25, 24])
def test_so_do_lips_at_the_rate_of_syncnet(tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "read_syncnet", lambda *_: BrightnessAndLoudness())
    path = write_lips(tmp_path, late_s=0.2, rate=rate, duration_s=4.4)
    bucket = Bucket(round(4.4 * rate), SIZE_PX, SIZE_PX)
    found = compare(path, ("syncnet",), bucket, rate, {"syncnet": tmp_path})["syncnet"]
    assert None not in (found.values.get("lse_c"), found.values.get("lse_d_corrected"))


@pytest.mark.parametrize("rate", [25, 16])
def test_so_does_synchformer(tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(meter, "read_synchformer", lambda *_: None)

    def offset_s(frames: Sequence[Image.Image], sound: np.ndarray, _first: int, _network: None) -> float:
        seen.append(float(np.mean([np.asarray(frame, float).mean() for frame in frames])) + float(np.abs(sound).sum()))
        return seen[-1]

    monkeypatch.setattr(desync, "offset_s", offset_s)
    frames = np.random.default_rng(0).integers(0, 255, (5 * rate, 48, 64, 3), np.uint8)
    sound = np.random.default_rng(1).normal(0, 0.1, 5 * 16000).astype(np.float32)
    write_video(tmp_path / "a.mp4", frames, rate, sound, 16000)
    networks = {"synchformer": tmp_path}
    found = compare(tmp_path / "a.mp4", ("desync",), Bucket(5 * rate, 48, 64), rate, networks)["desync"]
    assert found.values["desync_s"] == pytest.approx(seen[0])


@pytest.mark.parametrize("rate", [25, 6])
def test_so_does_how_much_moves(tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flow(pictures: Tensor, next_pictures: Tensor) -> Tensor:
        return (next_pictures - pictures).mean(1, keepdim=True).expand(-1, 2, -1, -1)

    monkeypatch.setattr(meter, "Raft", lambda *_: flow)
    frames = np.random.default_rng(0).integers(0, 255, (2 * rate, 128, 144, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames, rate)
    found = compare(tmp_path / "a.mp4", ("flow",), Bucket(2 * rate, 128, 144), rate, {"raft": tmp_path})["flow"]
    assert None not in (found.values["motion_score"], found.values["motion_score_verse_bench"])


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
