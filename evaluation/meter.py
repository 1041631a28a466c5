"""Takes the measures of clips, one clip at a time; what a missing package leaves out is said once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffusers_jova.evaluation.audiobox import AudioBox, measure_audiobox
from diffusers_jova.evaluation.caption_score import Clip, measure_captions
from diffusers_jova.evaluation.clap import Clap, measure_clap
from diffusers_jova.evaluation.clip_list import ListedClip
from diffusers_jova.evaluation.clip_signals import Signals, read_signals
from diffusers_jova.evaluation.colour_likeness import measure_colours
from diffusers_jova.evaluation.curves import sync_curves, with_sound_curve
from diffusers_jova.evaluation.desync import measure_desync
from diffusers_jova.evaluation.identity import Dino, measure_identity
from diffusers_jova.evaluation.inception import Inception, measure_frames
from diffusers_jova.evaluation.lip_sync import measure_lip_sync
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.measures import PARTLY
from diffusers_jova.evaluation.motion_score import measure_motion
from diffusers_jova.evaluation.onsets import measure_timing
from diffusers_jova.evaluation.picture_faults import measure_pictures
from diffusers_jova.evaluation.raft import Raft
from diffusers_jova.evaluation.sound_classes import SoundClassifier, measure_classes
from diffusers_jova.evaluation.sound_level import measure_sound
from diffusers_jova.evaluation.speech_quality import VoiceComparer, measure_speech
from diffusers_jova.evaluation.spoken_words import ENGLISH, Hear, is_latin, make_listener, measure_words
from diffusers_jova.evaluation.synchformer import Synchformer, read_synchformer
from diffusers_jova.evaluation.syncnet import SyncNet, read_syncnet
from diffusers_jova.evaluation.syncnet_scores import measure_syncnet
from diffusers_jova.evaluation.videomae import VideoMae, measure_video
from diffusers_jova.media import integrated_loudness
from diffusers_jova.origin import digest_path
from diffusers_jova.training.data.envelope_sync import mouth_openings
from diffusers_jova.training.data.face_crop import face_size
from diffusers_jova.training.data.mouth_detector import MouthDetector, MouthsOnDemand, NoMouths, make_detector
from jova_cli.clip_filters import PACKAGES
from jova_cli.evaluate import NETWORKS
from jova_cli.parser import one_line


MOUTHS = ("sync", "syncnet", "identity")  # groups that look at mouths
GIVEN = {  # networks of the user, by the option that names them
    "syncnet": "sync_network",
    "clap": "sound_captions",
    "identity": "likeness",
    "classifier": "sound_classes",
    "audiobox": "opinions",
    "clip_score": "picture_captions",
    "synchformer": "offsets",
    "inception": "frame_vectors",
    "video_classifier": "video_vectors",
    "raft": "optical_flow",
}
SEEN = {*MOUTHS, "timing", "picture", "clip_score", "desync", "fid", "fvd", "flow"}  # groups that look at frames


@dataclass
class Meter:
    """Measures clips, by the groups of `measures.VERSIONS`.

    Attributes:
        whisper: Folder of a recogniser that transformers reads; None takes the small one.
        language: Of the transcripts, which a recogniser of many languages is told; None lets it guess, and compares
            words as English ones.
        voice: Sound of the voice that every clip should have; one that a clip was made with comes before it.
        syncnet: Weights of SyncNet; None takes none of its measures.
        device: Where the networks that the user gives run.
        clap: Folder of a CLAP of transformers; None takes none of its measures.
        identity: Folder of a DINO of transformers; None compares colours alone.
        classifier: Folder of an AST of transformers; likewise.
        audiobox: Folder of AudioBox-aesthetics; likewise.
        clip_score: Folder of a CLIP of transformers; likewise.
        synchformer: Weights of Synchformer; likewise.
        inception: Weights of Inception, for sets of clips; likewise.
        video_classifier: Folder of a VideoMAE of transformers, for sets of clips; likewise.
        raft: Weights of RAFT; likewise.
        missing: By group, why it is left out.
        is_strict: Whether what a network cannot do with a clip is an error; else it is the reason of a group.
    """

    whisper: Path | None = None
    language: str | None = None
    voice: Path | None = None
    syncnet: Path | None = None
    device: str = "cpu"
    clap: Path | None = None
    identity: Path | None = None
    classifier: Path | None = None
    audiobox: Path | None = None
    clip_score: Path | None = None
    synchformer: Path | None = None
    inception: Path | None = None
    video_classifier: Path | None = None
    raft: Path | None = None
    missing: dict[str, str] = field(default_factory=dict)
    is_strict: bool = False
    _digests: dict[Path, str] = field(default_factory=dict)

    def load(self, groups: Iterable[str]) -> None:
        """Load what groups need, so that what is missing is known before the first clip.

        Raises:
            ValueError: If `whisper` holds no recogniser, or `voice` no voice.
        """
        needs: dict[str, Callable[[], Any]] = {
            **dict.fromkeys(MOUTHS, lambda: self.detector),
            "words": lambda: (import_module("jiwer"), self.hear),
            "speech": lambda: (import_module("speechmos.dnsmos"), import_module("faster_whisper.vad")),
            "voice": lambda: self.voices if self.voice is None else self.voices.know(self.voice),
            "audiobox": lambda: self.opinions,
            "fid": lambda: self.frame_vectors,
            "flow": lambda: self.optical_flow,
            "sound": lambda: integrated_loudness(np.ones((1, 4000), np.float32), 8000),
        }
        for group in groups:
            try:
                needs.get(group, lambda: None)()
            except ImportError as error:
                self.missing[group] = what_lacks(group, error)

    @cached_property
    def detector(self) -> MouthDetector:
        """Finds mouths."""
        detector = make_detector()
        return MouthsOnDemand(lambda: detector)

    @cached_property
    def sync_network(self) -> SyncNet:
        """SyncNet, with the weights of `syncnet`."""
        return read_syncnet(given("syncnet", self.syncnet), self.device)

    @cached_property
    def sound_captions(self) -> Clap:
        """CLAP, with the weights of `clap`."""
        return Clap(given("clap", self.clap), self.device)

    @cached_property
    def likeness(self) -> Dino:
        """DINO, with the weights of `identity`."""
        return Dino(given("identity", self.identity), self.device)

    @cached_property
    def sound_classes(self) -> SoundClassifier:
        """AST, with the weights of `classifier`."""
        return SoundClassifier(given("classifier", self.classifier), self.device)

    @cached_property
    def opinions(self) -> AudioBox:
        """AudioBox, with the weights of `audiobox`."""
        return AudioBox(given("audiobox", self.audiobox), self.device)

    @cached_property
    def picture_captions(self) -> Clip:
        """CLIP, with the weights of `clip_score`."""
        return Clip(given("clip_score", self.clip_score), self.device)

    @cached_property
    def offsets(self) -> Synchformer:
        """Synchformer, with the weights of `synchformer`."""
        return read_synchformer(given("synchformer", self.synchformer), self.device)

    @cached_property
    def frame_vectors(self) -> Inception:
        """Inception, with the weights of `inception`."""
        return Inception(given("inception", self.inception), self.device)

    @cached_property
    def video_vectors(self) -> VideoMae:
        """VideoMAE, with the weights of `video_classifier`."""
        return VideoMae(given("video_classifier", self.video_classifier), self.device)

    @cached_property
    def optical_flow(self) -> Raft:
        """RAFT, with the weights of `raft`."""
        return Raft(given("raft", self.raft), self.device)

    @cached_property
    def hear(self) -> Hear:
        """Writes down what is said."""
        return make_listener(self.whisper, self.device, self.language)

    @cached_property
    def voices(self) -> VoiceComparer:
        """Compares voices."""
        return VoiceComparer()

    def read_given(self) -> None:
        """Read the networks that the user gives, so that another one is refused before the first clip.

        Raises:
            ValueError: If one holds another network.
        """
        for option, name in GIVEN.items():
            if getattr(self, option) is not None:
                with suppress(ImportError):  # of a package, which `load` tells
                    getattr(self, name)

    def digest(self, option: str) -> str | None:
        """Changes with the files of a network that an option names; None where it names none."""
        path: Path | None = getattr(self, option)
        if path is not None and path not in self._digests:
            self._digests[path] = digest_path(path)
        return None if path is None else self._digests[path]

    def settings(self, group: str) -> Mapping[str, Any]:
        """What decides the numbers of a group besides the clip; another setting measures again."""
        if group == "words":
            is_small = self.whisper is None
            language = self.language or (ENGLISH if is_small else None)
            return {"whisper": "tiny.en" if is_small else self.digest("whisper"), "language": language}
        if group == "voice":
            return {"voice": None if self.voice is None else [str(self.voice), self.voice.stat().st_mtime_ns]}
        if group == "syncnet":
            return {"syncnet": None if self.syncnet is None else [str(self.syncnet), self.syncnet.stat().st_mtime_ns]}
        option = NETWORKS.get(group)
        return {} if option is None else {option: self.digest(option)}

    def asked(self, group: str, clip: ListedClip) -> Mapping[str, Any]:
        """What of a clip decides the numbers of a group besides its files and what is said."""
        if group in ("clap", "clip_score"):
            return {"captions": list(clip.captions)}
        if group == "identity" and (image := clip.reference_image) is not None:
            return {"image": [str(image), (stat := image.stat()).st_size, stat.st_mtime_ns]}
        return {}

    def needs_package(self, group: str, clip: ListedClip) -> bool:
        """Whether what `load` loads has a part in what a group says of a clip."""
        needs_boxes = clip.sample.video is not None and clip.sample.mouth_boxes is None
        parts = {
            "sync": needs_boxes,
            "syncnet": needs_boxes and self.syncnet is not None,
            "identity": self.identity is not None
            and (needs_boxes or (clip.sample.video is not None and clip.reference_image is not None)),
            "words": bool(clip.transcript) and not self._is_foreign(clip.transcript),
            "voice": (clip.reference_voice or self.voice) is not None,
            "audiobox": self.audiobox is not None,
            "fid": self.inception is not None and clip.sample.video is not None,
            "flow": self.raft is not None and clip.sample.video is not None,
        }
        return parts.get(group, group in {"sound", "speech"})

    def measure(self, clip: ListedClip, groups: Sequence[str]) -> dict[str, Measured]:
        """Measure one clip; a group that cannot take what was given says why.

        Raises:
            ValueError: If the clip cannot be read.
        """
        needs_mouths = any(
            group in groups and group not in self.missing and self.needs_package(group, clip) for group in MOUTHS
        )
        detector = self.detector if needs_mouths else NoMouths()
        signals = read_signals(clip.sample, detector, with_picture=not SEEN.isdisjoint(groups))
        return with_sound_curve(self.measure_signals(clip, signals, groups), signals)

    def measure_signals(self, clip: ListedClip, signals: Signals, groups: Sequence[str]) -> dict[str, Measured]:
        """Measure a clip whose tracks are there; a group that cannot take what was given says why."""
        measured = {}
        for group in groups:
            try:
                measured[group] = self._take(group, clip, signals)
            except ValueError as error:
                measured[group] = Measured({}, one_line(error), has_failed=True)
            except Exception as error:
                if self.is_strict or not is_of_network(error):
                    raise
                measured[group] = Measured({}, f"the measure failed: {first_sentence(error)}", has_failed=True)
        return measured

    def _take(self, group: str, clip: ListedClip, signals: Signals) -> Measured:
        sound = (signals.audio, signals.sampling_rate)
        missing = self.missing.get(group, "") if self.needs_package(group, clip) else ""
        if missing and group not in PARTLY:
            return Measured({}, missing, missing=missing)
        takers: dict[str, Callable[[], Measured]] = {
            "sync": lambda: measure_sync(signals),
            "syncnet": lambda: self._score_lips(clip, signals),
            "timing": lambda: measure_timing(signals),
            "sound": lambda: measure_sound(*sound),
            "picture": lambda: measure_pictures(signals.picture),
            "words": lambda: self._compare_words(clip, signals),
            "speech": lambda: measure_speech(*sound),
            "voice": lambda: self._compare_voice(signals, clip.reference_voice or self.voice),
            "clap": lambda: self._score_sound(clip, signals),
            "identity": lambda: self._compare_pictures(clip, signals),
            "classes": lambda: self._classify(signals),
            "audiobox": lambda: self._rate(signals),
            "clip_score": lambda: self._score_pictures(clip, signals),
            "desync": lambda: self._find_offset(clip, signals),
            "fid": lambda: self._see_frames(clip, signals),
            "fvd": lambda: self._see_video(clip),
            "flow": lambda: self._follow(clip, signals),
        }
        return takers[group]()._replace(missing=missing)

    def _score_lips(self, clip: ListedClip, signals: Signals) -> Measured:
        if self.syncnet is None:
            return Measured({}, "no weights of SyncNet, which `--syncnet` gives")
        return measure_syncnet(clip.sample.video, signals, self.sync_network)

    def _score_sound(self, clip: ListedClip, signals: Signals) -> Measured:
        if self.clap is None:
            return Measured({}, "no CLAP, which `--clap` gives")
        return measure_clap(signals.audio, signals.sampling_rate, clip.captions, self.sound_captions)

    def _rate(self, signals: Signals) -> Measured:
        if self.audiobox is None:
            return Measured({}, "no AudioBox, which `--audiobox` gives")
        return measure_audiobox(signals.audio, signals.sampling_rate, self.opinions)

    def _score_pictures(self, clip: ListedClip, signals: Signals) -> Measured:
        if self.clip_score is None:
            return Measured({}, "no CLIP, which `--clip-score` gives")
        return measure_captions(clip.sample.video, signals.picture, clip.captions, self.picture_captions)

    def _find_offset(self, clip: ListedClip, signals: Signals) -> Measured:
        if self.synchformer is None:
            return Measured({}, "no Synchformer, which `--synchformer` gives")
        return measure_desync(clip.sample.video, signals, self.offsets)

    def _see_frames(self, clip: ListedClip, signals: Signals) -> Measured:
        if self.inception is None:
            return Measured({}, "no Inception, which `--inception` gives")
        if clip.sample.video is None:
            return Measured({}, "no picture")  # whatever package lacks
        return measure_frames(clip.sample.video, signals.picture, self.frame_vectors)

    def _see_video(self, clip: ListedClip) -> Measured:
        if self.video_classifier is None:
            return Measured({}, "no VideoMAE, which `--video-classifier` gives")
        return measure_video(clip.sample.video, self.video_vectors)

    def _follow(self, clip: ListedClip, signals: Signals) -> Measured:
        if self.raft is None:
            return Measured({}, "no RAFT, which `--raft` gives")

        def flow(pictures: Tensor, next_pictures: Tensor) -> Tensor:
            return self.optical_flow(pictures, next_pictures)  # which is loaded when there is something to compare

        return measure_motion(clip.sample.video, signals.picture, flow)

    def _classify(self, signals: Signals) -> Measured:
        if self.classifier is None:
            return Measured({}, "no AST, which `--classifier` gives")
        return measure_classes(signals.audio, signals.sampling_rate, self.sound_classes)

    def _compare_pictures(self, clip: ListedClip, signals: Signals) -> Measured:
        seen, reference = (clip.sample.video, signals.picture), clip.reference_image
        in_colour = measure_colours(*seen, reference)
        if self.identity is None:
            return in_colour._replace(reason=in_colour.reason or "no DINO, which `--identity` gives")
        is_known = reference is None or "identity" in self.missing
        detector: MouthDetector = NoMouths() if is_known else self.detector
        measured = measure_identity(*seen, reference, self.likeness, detector)
        return measured._replace(values={**measured.values, **in_colour.values})

    def _is_foreign(self, transcript: str) -> bool:
        """Whether the recogniser cannot write what should be said."""
        return self.whisper is None and not is_latin(transcript)

    def _compare_words(self, clip: ListedClip, signals: Signals) -> Measured:
        if self._is_foreign(clip.transcript):
            return Measured({}, "the small recogniser knows English alone; give another by `--whisper`")

        def hear(audio: np.ndarray, sampling_rate: int) -> str:
            return self.hear(audio, sampling_rate)  # which is loaded when there is something to hear

        language = self.language or ENGLISH
        return measure_words(signals.audio, signals.sampling_rate, clip.transcript, hear, language)

    def _compare_voice(self, signals: Signals, reference: Path | None) -> Measured:
        if reference is None:
            return Measured({}, "no voice to compare with")
        return self.voices.measure(signals.audio, signals.sampling_rate, reference)


def is_of_network(error: Exception) -> bool:
    """Whether an error is what torch, onnxruntime or a full memory say of one clip."""
    return isinstance(error, RuntimeError | MemoryError) or type(error).__module__.startswith("onnxruntime")


def first_sentence(error: Exception) -> str:
    """The beginning of an error, behind which torch counts bytes; its kind where it says nothing."""
    return one_line(error).partition(". ")[0].rstrip(".") or type(error).__name__


def what_lacks(group: str, error: ImportError) -> str:
    """Which package a group of measures lacks, in words; the help says how to get it."""
    reason = error.__cause__ or error
    if not isinstance(reason, ModuleNotFoundError) or not reason.name:
        return one_line(reason)
    _, extra = PACKAGES.get(group, ((), ""))
    brought = f"; the extra `{extra}` brings it" if extra else ""
    return f"the package `{reason.name.partition('.')[0]}` is not installed{brought}"


def given(option: str, path: Path | None) -> Path:
    """The path that an option names."""
    if path is None:
        raise ValueError(f"`{option}` must be a path of weights, got None; give one")
    return path


def measure_sync(signals: Signals) -> Measured:
    """Lip sync of a clip, with the tracks that it comes from: of several mouths that which was measured.

    Where none could be, the mouth that is seen most is drawn.
    """
    picture, waveform = signals.picture, signals.waveform
    if picture is None or picture.boxes is None:
        return signals.without_boxes()
    openings = mouth_openings(picture.boxes)
    sync = measure_lip_sync(openings, waveform, picture.frame_rate, signals.sampling_rate)
    values = {
        "sync_correlation": sync.correlation,
        "sync_offset_ms": sync.offset_ms,
        "sync_confidence": sync.confidence,
        "face_share": float(np.isfinite(openings).any(0).mean()) if len(openings) else 0.0,
        "face_size": face_size(picture.boxes, picture.size),
    }
    seen_most = int(np.isfinite(openings).sum(1).argmax()) if len(openings) else None
    drawn = seen_most if sync.mouth is None else sync.mouth
    opening = None if drawn is None else openings[drawn]
    return Measured(values, sync.reason, curves=sync_curves(picture, opening, waveform, signals.sampling_rate))
