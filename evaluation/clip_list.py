"""Which clips are evaluated, and what was asked of them: by files beside them, by their list, by their own record."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusers_jova.clip_folder import LIST
from diffusers_jova.training.data.manifest import AUDIO_SUFFIXES, Sample, find_clip, read_clip, read_each
from diffusers_jova.training.data.subtitles import read_subtitles
from jova_cli.clip_info import read_provenance
from jova_cli.evaluate import MANIFESTS
from jova_cli.tables import some


SPOKEN = re.compile(r"<S>(.*?)<E>", re.DOTALL)  # in a whole prompt
HEARD = re.compile(r"<AUDCAP>(.*?)<ENDAUDCAP>", re.DOTALL)


class Captions(NamedTuple):
    """What was asked for besides words that are said.

    Attributes:
        seen: Caption of the picture; empty where nobody knows.
        heard: Caption of the sound; likewise.
    """

    seen: str = ""
    heard: str = ""


class ListedClip(NamedTuple):
    """A clip to evaluate.

    Attributes:
        name: Within its folder, without a suffix: what pairs it with a clip of another folder; where two clips of one
            evaluation would have the same, their whole paths.
        sample: Its files, and what stands beside them.
        transcript: What should be said; empty where nobody knows.
        reference_voice: A sound of the voice that should be heard, if one was given.
        captions: What should be seen and heard.
        reference_image: An image that the clip was made from, if one was given.
        fault: Why what lies beside the clip, or its row, cannot be read; empty if it can.
        part: End of the name: which one of several clips of the same files it is, or which row of a manifest.
    """

    name: str
    sample: Sample
    transcript: str = ""
    reference_voice: Path | None = None
    captions: Captions = Captions()
    reference_image: Path | None = None
    fault: str = ""
    part: str = ""

    @property
    def files(self) -> list[Path]:
        """All that decides what is measured."""
        named = (self.sample.video, self.sample.audio, self.sample.mouth_boxes, self.reference_voice)
        return [path for path in named if isinstance(path, Path)]

    def digest(self, settings: Mapping[str, Any]) -> str:
        """Changes with a file's size or time, with the words, and with the settings of a measure."""
        stats = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in self.files]
        boxes = self.sample.mouth_boxes if isinstance(self.sample.mouth_boxes, list) else None
        text = json.dumps([stats, boxes, self.transcript, settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def as_asked(name: str, sample: Sample, settings: Mapping[str, Any]) -> ListedClip:
    """A clip with what its files say; what they leave open comes from its list or from its own record.

    Args:
        name: In reports.
        sample: Its files.
        settings: Words of the call that it was made by, as far as they are known: `transcript`, `prompt`,
            `video_caption`, `audio_caption`, `reference_audio`, `image`.
    """
    voice, image = (_file(settings.get(key)) for key in ("reference_audio", "image"))
    prompt, seen, heard = (str(settings.get(key) or "") for key in ("prompt", "video_caption", "audio_caption"))
    if sample.subtitles is not None:
        transcript = " ".join(part.text for part in read_subtitles(sample.subtitles))
    else:
        transcript = written_words(sample)
    if not transcript and not sample.caption:  # a whole prompt says all, also that nobody speaks
        transcript = str(settings.get("transcript") or "") or _spoken(prompt) or _recorded(sample.source)[0]
    captions = _captions(sample.caption, sample.video_caption, sample.audio_caption) or _captions(prompt, seen, heard)
    captions = captions or _recorded(sample.source)[1] or Captions()
    return ListedClip(name, sample, transcript.strip(), voice, captions, sample.reference_image or image)


def plain_name(name: str) -> str:
    """A name as clips are found by: letters with marks in one spelling, of which file systems have two."""
    return unicodedata.normalize("NFC", name)


def _file(path: Any) -> Path | None:
    """A file that somebody named, if it is there."""
    return Path(path) if isinstance(path, str) and Path(path).is_file() else None


def list_clips(sources: Sequence[Path]) -> list[ListedClip]:
    """Find the clips of folders, manifests and files, each once; what is wrong beside one of several is its `fault`.

    Raises:
        FileNotFoundError: If a source is not there.
        ValueError: If a source holds no clip, or none that can be read.
    """
    found: dict[tuple[Path | None, Path | None, str], ListedClip] = {}
    for source in sources:
        for clip in _clips_of(source.absolute(), is_alone=len(sources) == 1):
            found.setdefault((clip.sample.video, clip.sample.audio, clip.part), clip)
    counts = Counter(clip.name for clip in found.values())
    return [
        clip if counts[clip.name] == 1 else clip._replace(name=f"{clip.sample.source}{clip.part}")
        for clip in found.values()
    ]


def list_made(folder: Path, paths: Sequence[Path]) -> list[ListedClip]:
    """Clips that `jova generate --prompts` made, each with what its list asks for and nothing that lies beside it.

    Args:
        folder: Of the list.
        paths: Of the clips, within the folder.
    """
    rows = _generated(folder / LIST)
    samples = [Sample(audio=path) if path.suffix.lower() in AUDIO_SUFFIXES else Sample(video=path) for path in paths]
    return [_listed(sample, sample.source.relative_to(folder), rows) for sample in samples]


def list_refused(prompts: Path, reasons: Mapping[int, str]) -> list[ListedClip]:
    """Clips of a list that could not be made.

    Args:
        prompts: The list, or the folder of a benchmark.
        reasons: By the line.
    """
    return [
        ListedClip(f"{prompts.name}{part}", Sample(video=prompts), fault=reason, part=part)
        for line, reason in reasons.items()
        if (part := f", line {line}")
    ]


def _clips_of(source: Path, is_alone: bool) -> Iterable[ListedClip]:
    if not source.is_dir() and source.suffix.lower() not in MANIFESTS:
        yield _clip_of(source, is_alone)
        return
    folder = source if source.is_dir() else source.parent
    rows = _generated(folder / LIST)
    # the list of `jova generate --prompts` tells what was made, and is no manifest
    is_list = source.name == LIST and bool(rows)
    samples, unread = read_each(folder if is_list else source)
    clips = [sample for sample in samples if not sample.is_still]
    if not clips:
        also = f", and what cannot be read: {some([one.reason for one in unread])}" if unread else ""
        raise ValueError(
            f"`clips` must hold at least one clip that moves or sounds, got stills alone in `{source}`, which "
            f"are not measured{also}"
        )
    for sample in clips:
        path = sample.source
        yield _listed(sample, path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name), rows)
    for one in unread:
        part = f", {one.row}" if one.row else ""
        name = one.source.name if part else one.source.relative_to(folder).with_suffix("").as_posix()
        yield ListedClip(f"{plain_name(name)}{part}", Sample(video=one.source), fault=one.reason, part=part)


def _clip_of(source: Path, is_alone: bool) -> ListedClip:
    """A clip that is given as a file; what is wrong beside it ends an evaluation of it alone."""
    bare = find_clip(source)
    try:
        return _listed(read_clip(source), Path(source.name), _generated(source.parent / LIST))
    except (ValueError, FileNotFoundError) as error:
        if is_alone:
            raise
        return ListedClip(plain_name(source.stem), bare, fault=str(error))


def _listed(sample: Sample, path: Path, rows: Mapping[str, Mapping[str, Any]]) -> ListedClip:
    """A clip with what was asked of it; subtitles that cannot be read are its fault.

    Args:
        sample: Its files.
        path: Of the clip, within its folder.
        rows: Of the list in that folder, by path.
    """
    part = f" {sample.occurrence + 1}" if sample.occurrence else ""
    name = f"{plain_name(path.with_suffix('').as_posix())}{part}"
    try:
        return as_asked(name, sample, rows.get(plain_name(path.as_posix()), {}))._replace(part=part)
    except ValueError as error:
        return ListedClip(name, sample, fault=str(error), part=part)


def written_words(sample: Sample) -> str:
    """What should be said in a clip by what stands beside it, without subtitles; empty where that does not tell."""
    return sample.transcript or _spoken(sample.caption)


def written_captions(sample: Sample) -> Captions:
    """What should be seen and heard in a clip by what stands beside it; empty where that does not tell."""
    return _captions(sample.caption, sample.video_caption, sample.audio_caption) or Captions()


def _spoken(prompt: str) -> str:
    """What is said in a whole prompt."""
    return " ".join(SPOKEN.findall(prompt))


def _captions(prompt: str, seen: str = "", heard: str = "") -> Captions | None:
    """What a whole prompt, or parts of one, ask for besides words; None where they ask for nothing."""
    seen = seen or HEARD.sub(" ", SPOKEN.sub(" ", prompt))
    captions = Captions(" ".join(seen.split()), " ".join((heard or " ".join(HEARD.findall(prompt))).split()))
    return captions if any(captions) else None


def _recorded(path: Path) -> tuple[str, Captions | None]:
    """What the record inside a clip of this package says was asked for: the words, and the rest."""
    try:
        prompt = read_provenance(path).get("prompt")
    except ValueError:
        return "", None
    if isinstance(prompt, Mapping):
        transcript, seen, heard = (str(prompt.get(part) or "") for part in ("transcript", "video", "audio"))
        return transcript, _captions("", seen, heard)
    return (_spoken(prompt), _captions(prompt)) if isinstance(prompt, str) else ("", None)


def _generated(path: Path) -> dict[str, dict[str, Any]]:
    """Settings of the clips that `jova generate --prompts` wrote, by their files; damaged lines tell nothing."""
    settings = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                settings[plain_name(str(row["output"]))] = dict(row["settings"])
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
    return settings
