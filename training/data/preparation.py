"""Samples into records: each clip is encoded once, what is done stays done, and a record is whole or not there."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from diffusers_jova.prompt import JoVAPrompt
from diffusers_jova.spoken_text import UnsayableError
from diffusers_jova.training.data.buckets import MAX_UNLIKE, SHAPE_NOTES
from diffusers_jova.training.data.clip import BrokenFileError, Clip, ClipSettings, Recording, SkippedClipError
from diffusers_jova.training.data.clip_filter import MEASURED, ClipFilter, MeasuredClip, MeasuredClips
from diffusers_jova.training.data.clips import Transcribe, broken_files, check_files, read_recording, skipped_seconds
from diffusers_jova.training.data.dataset import other_clips
from diffusers_jova.training.data.encoder import FIRST_FRAMES, Encoder
from diffusers_jova.training.data.filtered_recordings import FilteredRecordings
from diffusers_jova.training.data.manifest import CAPTION, Sample
from diffusers_jova.training.data.mouth_detector import MouthDetector, MouthsOnDemand, NoMouths, make_detector
from diffusers_jova.training.data.mouth_quality import measure_mouths
from diffusers_jova.training.data.record import (
    EMPTY_PROMPT,
    UNFINISHED,
    VOICES,
    RecordHeader,
    voice_file,
    write_record,
)
from diffusers_jova.training.data.sharing import choose_run, run_here
from diffusers_jova.training.data.summary import (
    EMPTY_PROMPT_REASON,
    LOW_SHARE,
    UNSAYABLE,
    WITHOUT_PROMPT,
    Outcome,
    Status,
    describe_anew,
    write_summary,
)
from diffusers_jova.training.data.transcriber import Transcriber
from diffusers_jova.whole_files import explained_full_disk
from jova_cli.file_arguments import as_options
from jova_cli.given_paths import RECORDS
from jova_cli.parser import DTYPES, dtype_name, one_line
from jova_cli.progress import followed


Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Everything that decides what a record holds.

    Attributes:
        clips: How files become clips.
        dtype: Number format of latents and prompts, one of `jova_cli.parser.DTYPES` or its short name.
        mouths: Look for mouths; without, only given boxes count.
        face_landmarker: MediaPipe's `.task` file, in place of the face mesh.
        whisper: Folder of a speech recognition model that writes missing transcripts.
        keyframes: Encode single frames as well, for `keyframe_probability`.
    """

    clips: ClipSettings
    dtype: str = "bfloat16"
    mouths: bool = True
    face_landmarker: Path | None = None
    whisper: Path | None = None
    keyframes: bool = False

    def __post_init__(self) -> None:
        """Refuse another number format, and let short names mean the same records."""
        if dtype_name(self.dtype) not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype}; use bfloat16")
        object.__setattr__(self, "dtype", dtype_name(self.dtype))

    def is_untold(self, sample: Sample) -> bool:
        """Whether nothing says what a sample shows, nor will: a still image has no words to be heard."""
        return not sample.has_caption and (sample.is_still or self.whisper is None)

    def make_detector(self) -> MouthDetector:
        """Create the detector that the settings name."""
        return make_detector(self.face_landmarker) if self.mouths else NoMouths()

    def detector_on_demand(self) -> MouthDetector:
        """The same, created where the first clip without boxes needs it."""
        return MouthsOnDemand(self.make_detector) if self.mouths else NoMouths()


@dataclass(frozen=True)
class Preparer:
    """Prepares samples, one at a time; can be sent to other processes, where it loads its own models.

    Attributes:
        model: Folder of a saved `JoVAPipeline`.
        output: Folder of the records.
        settings: What a record holds.
        model_fingerprint: Digest of the model, see `fingerprint_model`.
        device: Where the encoders run.
        clip_filter: Which clips become records; it decides nothing of what a record holds. None keeps all.
    """

    model: Path
    output: Path
    settings: PrepareSettings
    model_fingerprint: str
    device: str = "cpu"
    clip_filter: ClipFilter | None = None

    def __call__(self, sample: Sample) -> Outcome:
        """Prepare one sample."""
        fingerprint = self.fingerprint(sample)
        if done := self.find_done(sample, fingerprint):
            return done
        try:
            self.refuse_untold(sample)
            if self._has_records(sample, fingerprint):  # which another filter chose
                if done := self._find_chosen(sample, fingerprint):
                    return done
                self._remove_records(sample, keep=0)
            num_records = self._write_records(sample, fingerprint)
        except SkippedClipError as error:
            return self._leave_out(sample, "skipped", error.told)._replace(length_s=error.length_s)
        except BrokenFileError as error:
            return self._leave_out(sample, "broken", as_options(str(error)))
        self._remove_records(sample, keep=num_records)
        written = self.find_done(sample, fingerprint)
        assert written is not None
        return written._replace(status="kept")

    def lacks(self, sample: Sample) -> str:
        """Say what a sample lacks to become records, as far as it shows without reading it; empty for nothing."""
        return f"it has no caption; {CAPTION}" if self.settings.is_untold(sample) else ""

    def refuse_untold(self, sample: Sample) -> None:
        """Refuse a sample of which nothing says what it shows; its files are opened, and not decoded.

        Raises:
            SkippedClipError: If there are no words.
            BrokenFileError: If there are none, and the files cannot be opened either.
        """
        if lacking := self.lacks(sample):
            with broken_files():
                check_files(sample, allow_truncated=self.settings.clips.allow_truncated)
            raise SkippedClipError(lacking)

    def measure(self, sample: Sample) -> list[MeasuredClip]:
        """Measure the clips of a sample, unless they are known; nothing is encoded.

        Raises:
            SkippedClipError: If the file is sound but unsuitable.
            BrokenFileError: If it is broken.
        """
        if (known := self._filtered.known(sample)) is not None:
            return known.clips
        return [measured for _, measured in self._filtered.measured(sample, self._read(sample))]

    @functools.cached_property
    def preparation(self) -> str:
        """Digest of model and settings, which all records of a data set share."""
        settings = self._settings_of_records()
        if not settings["keyframes"]:  # such records hold what they held before there were any
            del settings["keyframes"]
        if settings["clips"]["loudness_lufs"] is None:  # else the channels decide it, which files were measured by
            del settings["clips"]["num_channels"]
        return _digest([settings, self.model_fingerprint])

    def fingerprint(self, sample: Sample) -> str:
        """Digest of everything that decides the records of a sample."""
        return _digest([asdict(sample), self.preparation, _states(sample)])

    def find_done(self, sample: Sample, fingerprint: str) -> Outcome | None:
        """Say what the records of a sample hold if all of them are there, of this fingerprint and filter, else None.

        The header of the last one tells how many there are, and what became of the rest of the file.
        """
        headers: list[dict[str, str]] = []
        while not headers or "num_clips" not in headers[-1]:
            headers.append(_header(self._record(sample, len(headers))))
            if headers[-1].get("fingerprint") != fingerprint:
                return None
        last = headers[-1]
        dropped = self._filtered.dropped(sample)
        if dropped is None or [clip.start_s for clip in dropped] != json.loads(last.get("dropped", "[]")):
            return None
        pictures = [header for header in headers if header["has_video"] == "1"]
        num_silent = sum(header["has_audio"] == "0" for header in headers)
        speaking = [h for h in pictures if h["has_audio"] == "1" and json.loads(h["mouths"])["share"] >= LOW_SHARE]
        return Outcome(
            str(sample.source),
            "done",
            last["note"],
            num_records=len(headers),
            num_silent=num_silent,
            mouths=[json.loads(header["mouths"]) for header in pictures],
            length_s=float(last["recording_s"]),
            used_s=sum(int(header["num_frames"]) / float(header["frame_rate"]) for header in headers),
            unused_s=json.loads(last["unused_s"]),
            num_speaking=len(speaking),
            num_wordless=sum(header.get("has_words") == "0" for header in speaking),
            num_unsaid=sum(header["has_audio"] == "1" and header.get("transcript") == "" for header in headers),
            dropped=dropped,
        )

    def write_empty_prompt(self) -> None:
        """Write the record that caption dropout puts in place of a prompt."""
        path = self.output / EMPTY_PROMPT
        fingerprint = f"{self.model_fingerprint} {self.settings.dtype}"
        if _header(path).get("fingerprint") != fingerprint:
            write_record(path, self._encoder.encode_empty_prompt(), {"fingerprint": fingerprint})

    def write_voices(self) -> None:
        """Write what the sound reads of each clip that has another one of its recording for a voice, of both.

        Only where it reads what is said. Files of pairs that are no more are removed.
        """
        paths = [path for path in sorted(self.output.glob(RECORDS)) if "transcript" in _header(path)]
        headers = [RecordHeader.read(path) for path in paths]
        pairs = other_clips(headers)
        wanted = {voice_file(headers[clip].path): (headers[clip], headers[other]) for clip, other in pairs.items()}
        for path in set((self.output / VOICES).glob(RECORDS)) - wanted.keys():
            path.unlink()
        for path, both in wanted.items():
            said, voice = (header.metadata["transcript"] for header in both)
            fingerprint = _digest([said, voice, self.model_fingerprint, self.settings.dtype])
            state = {"voice": both[1].path.name, "fingerprint": fingerprint}
            if {**_header(path), **state} != _header(path):
                write_record(path, self._encoder.encode_with_voice(said, voice), state)

    def _write_records(self, sample: Sample, fingerprint: str) -> int:
        """Write the records of one sample clip by clip, with the last what became of the rest; returns how many."""
        self._filtered.refuse_known(sample)
        recording = self._read(sample)
        with skipped_seconds(recording.length_s):
            if self.clip_filter is not None:
                recording = recording._replace(clips=self._filtered.kept(sample, recording))
            return self._write_clips(sample, fingerprint, recording)

    def _write_clips(self, sample: Sample, fingerprint: str, recording: Recording) -> int:
        digests = {"fingerprint": fingerprint, "preparation": self.preparation}
        num_written = 0
        for (tensors, metadata), is_last in with_last(self._encode_all(sample, recording)):
            usage = self._usage_header(sample, recording, num_clips=num_written + 1) if is_last else {}
            header = {**metadata, "clip": num_written, **usage, **digests}
            with unusable_results():
                write_record(self._record(sample, num_written), tensors, header)
            num_written += 1
        return num_written

    def _read(self, sample: Sample) -> Recording:
        return read_recording(sample, self.settings.clips, self._detector, self._transcriber)

    def _cut_digest(self, sample: Sample) -> str:
        """Digest of everything that decides which clips a sample is cut into, and what is seen and heard in them."""
        names = ("clips", "mouths", "face_landmarker", "whisper")
        settings = self._settings_of_records()
        return _digest([asdict(sample), {name: settings[name] for name in names}, _states(sample)])

    def _settings_of_records(self) -> dict[str, Any]:
        """The settings by name, without what records made before it was one would not say."""
        settings = asdict(self.settings)
        if not settings["clips"]["require_words"]:
            del settings["clips"]["require_words"]
        return settings

    def _has_records(self, sample: Sample, fingerprint: str) -> bool:
        """Whether there are records of a sample, all or some, with this fingerprint."""
        return _header(self._record(sample, 0)).get("fingerprint") == fingerprint

    def holds_others(self, sample: Sample) -> bool:
        """Whether there is a record of a sample that was made of or with something else."""
        return _header(self._record(sample, 0)).get("fingerprint") not in (None, self.fingerprint(sample))

    def _find_chosen(self, sample: Sample, fingerprint: str) -> Outcome | None:
        """What `find_done` says once the clips of a sample are measured, which were prepared without that."""
        if self.clip_filter is None:
            return None
        self.measure(sample)
        return self.find_done(sample, fingerprint)

    def _encode_all(self, sample: Sample, recording: Recording) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        """Encode the clips whose prompt the model can read; the seconds of the others are not used.

        Raises:
            SkippedClipError: At the end, if there was none, with what the last one lacked.
        """
        is_any, lacking = False, EMPTY_PROMPT_REASON
        for clip in recording.clips:
            prompt = _prompt(sample, clip)
            try:
                is_empty = self._is_empty(prompt)
                reason, lacking = WITHOUT_PROMPT, EMPTY_PROMPT_REASON
            except UnsayableError as error:
                is_empty, reason, lacking = True, UNSAYABLE, one_line(error)
            if is_empty:
                recording.unused_s[reason] += clip.bucket.num_frames / self.settings.clips.frame_rate
                continue
            with unusable_results():
                record = self._encode(sample, clip, prompt)
            is_any = True
            yield record
        if not is_any:
            raise SkippedClipError(lacking)

    def _is_empty(self, prompt: JoVAPrompt | str) -> bool:
        """Whether the model reads nothing of a prompt.

        Raises:
            UnsayableError: It reads characters that it cannot say.
        """
        with unusable_results():
            text = self._render(prompt)
        self._encoder.check_said(prompt)
        return not text and not self._encoder.said_by(prompt)

    def _encode(
        self, sample: Sample, clip: Clip, prompt: JoVAPrompt | str
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Encode one clip to the tensors and the header of its record."""
        encoder, settings = self._encoder, self.settings.clips
        tensors, mouths = encoder.encode_prompt(prompt), {}
        if clip.frames is not None:
            tensors["video_latents"] = encoder.encode_video(clip.frames)
            image = clip.frames[0] if clip.reference_image is None else clip.reference_image
            if len(clip.frames) > 1 or clip.reference_image is not None:  # a still given as its first frame is no task
                tensors["image_latents"] = encoder.encode_image(image, len(clip.frames))
            if self.settings.keyframes and tensors["video_latents"].shape[1] > 1:
                seed = int(_digest([sample.name, clip.start_s])[:8], 16)
                tensors |= encoder.encode_keyframes(clip.frames, image, seed)
            tensors["mouth_boxes"] = torch.from_numpy(clip.mouth_boxes)
            if clip.face_boxes is not None:
                tensors["face_boxes"] = torch.from_numpy(clip.face_boxes)
            mouths = measure_mouths(clip.mouth_boxes, clip.cut_share)._asdict()
        if clip.audio is not None:
            duration_s = clip.bucket.num_frames / settings.frame_rate
            tensors["audio_latents"] = encoder.encode_audio(clip.audio, clip.sampling_rate, duration_s)
        return tensors, {
            **clip.bucket._asdict(),
            "frame_rate": settings.frame_rate,
            "sampling_rate": encoder.audio_codec.sampling_rate,
            "audio_latent_rate_hz": encoder.audio_codec.latent_rate_hz,
            "spatial_factor": encoder.video_codec.spatial_factor,
            "temporal_factor": encoder.video_codec.temporal_factor,
            "start_s": clip.start_s,
            "loudness_lufs": "" if settings.loudness_lufs is None else settings.loudness_lufs,
            "mouths": json.dumps(mouths),
            "note": SHAPE_NOTES[settings.fit](clip.shape_share) if clip.shape_share < MAX_UNLIKE else "",
            **{name: int(encoder.pipeline.config[name]) for name in FIRST_FRAMES},
            "has_video": int(clip.frames is not None),
            "has_audio": int(clip.audio is not None),
            "caption": self._render(prompt),
            "has_words": int(not isinstance(prompt, JoVAPrompt) or bool(prompt.transcript)),  # or nobody knows
            "source": sample.source,
            **({"transcript": encoder.said_by(prompt)} if encoder.reads_transcripts else {}),
        }

    def _render(self, prompt: JoVAPrompt | str) -> str:
        """Write the prompt as the text encoder reads it."""
        return self._encoder.pipeline.render_prompts([prompt])[0].strip()

    def _record(self, sample: Sample, index: int) -> Path:
        return self.output / f"{sample.name}-{index:03d}.safetensors"

    def _leave_out(self, sample: Sample, status: Status, note: str) -> Outcome:
        if num_removed := self._remove_records(sample, keep=0):
            note += f"; what an earlier run made of it is removed, {num_removed} record{'s' * (num_removed > 1)}"
        return Outcome(str(sample.source), status, note, dropped=self._filtered.dropped(sample) or ())

    def _remove_records(self, sample: Sample, keep: int) -> int:
        """Remove what earlier settings left of this sample, from record `keep` on, and say how many.

        The last goes first: it says that the others are all, and of a killed run none may say that.
        """
        paths = map(functools.partial(self._record, sample), itertools.count(keep))
        left = [*itertools.takewhile(Path.exists, paths)]
        for path in reversed(left):
            path.unlink()
        return len(left)

    def _usage_header(self, sample: Sample, recording: Recording, num_clips: int) -> dict[str, Any]:
        """What the last record of a file says of the file as a whole, once all of it was gone through."""
        dropped = [clip.start_s for clip in self._filtered.dropped(sample) or ()]
        return {
            "num_clips": num_clips,
            "recording_s": recording.length_s,
            "unused_s": json.dumps(recording.unused_s),
            **({"dropped": json.dumps(dropped)} if dropped else {}),
        }

    @functools.cached_property
    def _filtered(self) -> FilteredRecordings:
        kept = MeasuredClips(self.output / MEASURED)
        own = self.clip_filter
        own = None if own is None else replace(own, meter=own.meter.on(self.device))
        return FilteredRecordings(own, kept, self._cut_digest, self.settings.clips.frame_rate)

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return Encoder.from_pretrained(self.model, self.device, getattr(torch, self.settings.dtype))

    @functools.cached_property
    def _detector(self) -> MouthDetector:
        return self.settings.detector_on_demand()

    @functools.cached_property
    def _transcriber(self) -> Transcribe | None:
        return None if self.settings.whisper is None else Transcriber(self.settings.whisper, self.device)


def prepare(
    samples: Sequence[Sample], preparer: Preparer, num_processes: int = 1, use_ray: bool = False
) -> list[Outcome]:
    """Prepare samples with a progress bar, in this process, in several ones, or on a Ray cluster.

    The file `UNFINISHED` stands in the output until all are done.

    Raises:
        FullDiskError: If the disk is full; what was written before is complete and stays.
    """
    preparer.output.mkdir(parents=True, exist_ok=True)
    run = choose_run(num_processes, use_ray)
    done = [preparer.find_done(sample, preparer.fingerprint(sample)) for sample in samples]
    outcomes = [outcome for outcome in done if outcome]
    todo = [sample for sample, outcome in zip(samples, done, strict=True) if not outcome]
    if num_anew := sum(preparer.holds_others(sample) for sample in todo):
        tqdm.write(describe_anew(preparer.output, num_anew, asdict(preparer.settings)))
    with explained_full_disk(preparer.output):
        (preparer.output / UNFINISHED).touch()
        (preparer if run is run_here else replace(preparer)).write_empty_prompt()
        if todo:
            outcomes += followed(run(todo, preparer, num_processes), len(todo), "preparing")
        (preparer if run is run_here else replace(preparer)).write_voices()
        origin: dict[str, Any] = {"model": str(preparer.model), "settings": asdict(preparer.settings)}
        if preparer.clip_filter is not None:
            origin["filter"] = preparer.clip_filter.as_json()
        write_summary(preparer.output, origin, outcomes)
    (preparer.output / UNFINISHED).unlink(missing_ok=True)
    return outcomes


def _prompt(sample: Sample, clip: Clip) -> JoVAPrompt | str:
    """Compose the prompt: the caption as it is, or the parts, with the words of the clip where those are known."""
    if sample.caption:
        return sample.caption
    words = sample.transcript if clip.words is None else clip.words
    return JoVAPrompt(sample.video_caption, sample.audio_caption, words)


@contextmanager
def unusable_results() -> Iterator[None]:
    """Turn what is wrong with a prompt or an encoded clip into an error of its file."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise BrokenFileError(one_line(error)) from error


def with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, with whether it is the last one; one of them is held back for that."""
    held: list[Item] = []
    for item in items:
        if held:
            yield held.pop(), False
        held = [item]
    yield from ((item, True) for item in held)


def _states(sample: Sample) -> list[tuple[int, int]]:
    """Size and time of the files of a sample."""
    files = (sample.video, sample.audio, sample.reference_image, sample.mouth_boxes, sample.subtitles)
    stats = [path.stat() for path in files if isinstance(path, Path)]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()


def _header(path: Path) -> dict[str, str]:
    """Read the header of a record; a missing or damaged one has none, and is made again."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return {}
