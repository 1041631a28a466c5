"""Which clips there are and what they show: a manifest or a folder of clips with sidecar captions -> samples.

This file imports nothing that loads torch: the command line reads it alone, to refuse a data set at once.
"""

from __future__ import annotations

import functools
import hashlib
import mimetypes
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from jova_cli.given_paths import SUMMARY
from jova_cli.media_files import image_suffixes, is_still
from jova_cli.parser import did_you_mean
from jova_cli.tables import csv_rows, is_encodable, jsonl_lines, parse_json, parse_row, read_text, separator_hint, some


VIDEO_SUFFIXES = (".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mts", ".ts", ".webm")
AUDIO_SUFFIXES = (".flac", ".m4a", ".mp3", ".ogg", ".wav")
BOX_SUFFIXES = (".boxes.json", ".boxes.npy", ".boxes.safetensors")
CAPTION_SUFFIXES = (".json", ".txt")
SUBTITLE_SUFFIXES = (".srt", ".vtt")
PATH_COLUMNS = ("video", "audio", "reference_image", "subtitles")
TEXT_COLUMNS = ("caption", "video_caption", "audio_caption", "transcript")
COLUMNS = (*PATH_COLUMNS, *TEXT_COLUMNS, "mouth_boxes")
OTHER_CAPTIONS = ("text", "prompt", "description", "sentence")  # of captions, in the sets of others
CAPTION = "write one into a .txt file of the same name, or into the manifest"
MAX_UNPLACED = 10  # files that are told
MAX_WRONG = 50  # of those that are wrong, in one error
Faults: TypeAlias = list[ValueError | FileNotFoundError]
LONGEST_STEM_BYTES = 150  # of 255 that a file system takes; the rest is for what records add


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip of the data set.

    Attributes:
        video: File with the picture, and the sound unless `audio` is given; a still image is a clip of one frame.
        audio: File with the sound.
        caption: The whole prompt; the other three are then empty.
        video_caption: What is seen.
        audio_caption: What is heard.
        transcript: What is said.
        subtitles: File that says when each word or sentence is said (.srt, .vtt), in place of the transcript.
        mouth_boxes: A box file (json, npy, safetensors) or the boxes themselves, [P][F] of xyxy or None, in pixels of
            the picture as it is shown; None leaves the mouths to the detector.
        reference_image: Image to condition on instead of the first frame.
        occurrence: How many earlier samples use the same files.
    """

    video: Path | None = None
    audio: Path | None = None
    caption: str = ""
    video_caption: str = ""
    audio_caption: str = ""
    transcript: str = ""
    mouth_boxes: Path | list[Any] | None = None
    reference_image: Path | None = None
    subtitles: Path | None = None
    occurrence: int = 0

    @property
    def source(self) -> Path:
        """The file that names the sample."""
        path = self.video or self.audio
        assert path is not None
        return path

    @property
    def is_still(self) -> bool:
        """Whether the picture is one image."""
        return self.video is not None and is_still(self.video)

    @property
    def has_caption(self) -> bool:
        """Whether anything says what the clip shows."""
        return bool(self.caption or self.video_caption or self.audio_caption or self.transcript or self.subtitles)

    @property
    def name(self) -> str:
        """A file name for its records; another caption keeps it, another file does not."""
        key = f"{self.video} {self.audio} {self.occurrence}"
        stem = self.source.stem.encode()[:LONGEST_STEM_BYTES].decode(errors="ignore")
        return f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"


class _Row(NamedTuple):
    """A row of a manifest: where it stands, and what reads its columns."""

    name: str
    parse: Callable[[str], dict[str, Any]]


class Unread(NamedTuple):
    """A clip, or a row of a manifest, that cannot be read.

    Attributes:
        source: Its file, or the manifest.
        reason: Why not.
        row: Where the row stands; empty for a clip.
    """

    source: Path
    reason: str
    row: str = ""


Item = TypeVar("Item", Sample, _Row)


def read_samples(source: Path, captions_required: bool = True, stills: bool = True) -> list[Sample]:
    """Read the samples of a data set.

    Args:
        source: A manifest (`.jsonl`, `.csv`) with columns of `COLUMNS` and paths relative to it; a folder with a
            `manifest.jsonl` or `manifest.csv`; or a folder of clips and still images, of every
            kind that Pillow reads. Beside a clip `a.mp4`, its
            caption is `a.txt` or, with the columns of a manifest, `a.json`; another sound track is `a.wav`; what is
            said when is `a.srt` or `a.vtt`; its mouth boxes are `a.boxes.json`, `a.boxes.npy` or
            `a.boxes.safetensors`.
        captions_required: Refuse a set in which no clip has a caption.
        stills: Whether images of a folder are samples.

    Raises:
        FileNotFoundError: If `source` or a file that it names does not exist.
        ValueError: If there are no clips, or a column or caption is not as described, or a clip has a whole caption
            and parts of one. One error tells all that is wrong.
    """
    source = source.absolute()  # records keep their names wherever the command is run
    faults: Faults = []
    samples = _read_folder(source, stills, faults) if source.is_dir() else _read_manifest(source, faults)
    if not samples and not faults:
        raise ValueError(f"`source` must hold at least one clip, got `{source}`; give a manifest or a folder of clips")
    _check_files(samples, faults)
    _check_stills(samples, faults)
    _each(samples, _check_words, faults)
    _raise_all(faults)
    samples = _count_occurrences(samples)
    without = [str(sample.source) for sample in samples if not sample.has_caption]
    if len(without) == len(samples) and captions_required:
        raise ValueError(f"a clip must have a caption, got none for any of {len(samples)}: {some(without)}; {CAPTION}")
    return samples


def read_each(source: Path) -> tuple[list[Sample], list[Unread]]:
    """Read the clips of a data set that move or sound, each by itself, for who can do without those that are wrong.

    Args:
        source: As of `read_samples`; captions are not required.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If there are no clips, or none can be read, or a manifest cannot be as a whole.
    """
    source = source.absolute()
    manifest = _manifest_of(source) if source.is_dir() else source
    samples: list[Sample] = []
    unread: list[Unread] = []

    def take(read: Callable[[], Sample], path: Path, row: str = "") -> None:
        faults: Faults = []
        try:
            sample = read()
            _check_files([sample], faults)
            _check_stills([sample], faults)
            _raise_all(faults)
            samples.append(_check_words(sample))
        except (ValueError, FileNotFoundError) as error:
            unread.append(Unread(path, str(error), row))

    if manifest is not None:
        rows, read_row = _open_manifest(manifest)
        for row in rows:
            take(functools.partial(read_row, row), manifest, row.name)
    else:
        files = _files_of(source)
        beside = by_small_suffix(files)
        for clip in _clips_of(files):
            take(functools.partial(_with_sound, clip, beside), clip.source)
    if not samples:
        return read_samples(source, captions_required=False, stills=False), []  # which tells all that is wrong
    return _count_occurrences(samples), unread


def _read_manifest(path: Path, faults: Faults) -> list[Sample]:
    rows, read = _open_manifest(path)
    return _each(rows, read, faults)


def _open_manifest(path: Path) -> tuple[Iterator[_Row], Callable[[_Row], Sample]]:
    """The rows of a manifest, and what reads one."""
    if not path.is_file():
        raise FileNotFoundError(f"`source` must be an existing folder or manifest, got `{path}`; check the spelling")
    readers = {".jsonl": _rows_of_jsonl, ".csv": _rows_of_csv}
    if path.suffix.lower() not in readers:
        advice = "name the folder that holds it" if is_clip(path) else "convert it to .jsonl"
        raise ValueError(f"`source` must be a folder, a .jsonl or a .csv file, got `{path}`; {advice}")

    def read(row: _Row) -> Sample:
        where = f"{path}, {row.name}"
        return _sample(row.parse(where), path.parent, where)

    return readers[path.suffix.lower()](path), read


def _rows_of_jsonl(path: Path) -> Iterator[_Row]:
    for number, line in jsonl_lines(path):
        yield _Row(f"line {number}", functools.partial(_parse_row, line))


def _rows_of_csv(path: Path) -> Iterator[_Row]:
    for number, columns, cells in csv_rows(path, list, "close its quotes, and give long boxes as files"):
        yield _Row(f"line {number}", functools.partial(_parse_cells, columns, cells))


def _parse_cells(columns: Sequence[str], cells: Sequence[str], where: str) -> dict[str, Any]:
    """The row of a table; boxes may stand in a cell as JSON."""
    if beyond := cells[len(columns) :]:
        raise ValueError(f"{where} must have a cell for each column, got {beyond} beyond them; quote commas")
    row: dict[str, Any] = dict(zip(columns, cells, strict=False))  # the last ones may be missing
    boxes = row.get("mouth_boxes", "")
    return row | ({"mouth_boxes": parse_json(boxes, where)} if boxes.startswith("[") else {})


def is_clip(path: Path) -> bool:
    """Whether a file is named as a video, a sound or a picture."""
    return path.suffix.lower() in {*VIDEO_SUFFIXES, *AUDIO_SUFFIXES, *image_suffixes()}


def find_clip(path: Path) -> Sample:
    """One clip, a video or a sound, without what lies beside it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the name is that of no clip.
    """
    path = path.absolute()
    moves = path.suffix.lower() in image_suffixes() and not is_still(path)
    if path.suffix.lower() not in (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES) and not moves:
        kinds = ", ".join((*VIDEO_SUFFIXES, *AUDIO_SUFFIXES))
        advice = "name one" if path.suffix.lower() in image_suffixes() else "convert it"
        raise ValueError(
            f"a clip must be a file that ends in one of {kinds}, or an AVIF, PNG, WebP or a GIF that moves, got "
            f"`{path.name}`; {advice}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"a clip must be an existing file, got `{path}`; check the spelling")
    return Sample(audio=path) if path.suffix.lower() in AUDIO_SUFFIXES else Sample(video=path)


def read_clip(path: Path) -> Sample:
    """Read one clip, a video or a sound, with what lies beside it as in a folder.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the name is that of no clip, or what lies beside it is not as described.
    """
    clip = find_clip(path)
    beside = by_small_suffix(sibling for sibling in clip.source.parent.iterdir() if sibling.is_file())
    sample = _with_sound(clip, beside)
    faults: Faults = []
    _check_files([sample], faults)
    _each([sample], _check_words, faults)
    _raise_all(faults)
    return sample


def _read_folder(folder: Path, stills: bool, faults: Faults) -> list[Sample]:
    if (manifest := _manifest_of(folder)) is not None:
        return _read_manifest(manifest, faults)
    files = _files_of(folder)
    beside = by_small_suffix(files)
    samples = _each(_clips_of(files), functools.partial(_with_sound, beside=beside), faults)
    images = _stills(files, samples, faults) if stills else []
    with_sidecars = functools.partial(_with_sidecars, beside=beside)
    return samples + _each([Sample(video=path) for path in images], with_sidecars, faults)


def _clips_of(files: Sequence[Path]) -> list[Sample]:
    """The videos among files, and the sounds that belong to none, without what lies beside them."""
    pictures = [path for path in files if path.suffix.lower() in image_suffixes()]
    moving = [path for path in pictures if not is_still(path)]
    videos = sorted([path for path in files if path.suffix.lower() in VIDEO_SUFFIXES] + moving)
    stems = {path.with_suffix("") for path in videos}
    audios = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    lone_audios = [path for path in audios if path.with_suffix("") not in stems]
    return [*(Sample(video=path) for path in videos), *(Sample(audio=path) for path in lone_audios)]


def _with_sound(sample: Sample, beside: Mapping[Path, Sequence[Path]]) -> Sample:
    """A clip with what lies beside it; a sound takes the place of its own."""
    audio = sample.audio or find_beside(sample.source, AUDIO_SUFFIXES, beside)
    return _with_sidecars(replace(sample, audio=audio), beside)


def _files_of(folder: Path) -> list[Path]:
    """The files below a folder and the folders that it links to, each once, with whole paths, in their order."""
    found: list[Path] = []
    seen: set[Path] = set()
    roots = [folder.absolute()]
    for root in roots:  # links come after what lies in the folder itself, and may go round
        for name, folders, names in os.walk(root):
            if (real := Path(name).resolve()) in seen:
                folders.clear()
                continue
            seen.add(real)
            roots += [link for each in sorted(folders) if (link := Path(name, each)).is_symlink()]
            found += [Path(name, each) for each in names if not each.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _manifest_of(folder: Path) -> Path | None:
    """The manifest inside a folder, if it has one."""
    return find_beside(folder / "manifest", (".jsonl", ".csv"), by_small_suffix(folder.iterdir()))


def by_small_suffix(files: Iterable[Path]) -> dict[Path, list[Path]]:
    """The files under each name whose suffixes, from the first dot on, are written in small letters."""
    found: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        for at in [at for at, letter in enumerate(file.name) if letter == "." and at]:
            found[file.with_name(file.name[:at] + file.name[at:].lower())].append(file)
    return found


def find_beside(path: Path, suffixes: Sequence[str], files: Mapping[Path, Sequence[Path]]) -> Path | None:
    """The file that is named as another, with one of some suffixes in letters of any case.

    Args:
        path: Of the other file, or its name without a suffix.
        suffixes: In small letters; the first of which there is a file counts.
        files: Those that there are, by `by_small_suffix`.

    Raises:
        ValueError: If several files differ in nothing but the case of their suffixes.
    """
    for suffix in suffixes:
        found = named_as(path, suffix, files)
        if len(found) > 1:
            raise ValueError(
                f"`{path}` must have one {suffix} file beside it, got {some([file.name for file in found])}; "
                "rename one"
            )
        if found:
            return found[0]
    return None


def named_as(path: Path, suffix: str, files: Mapping[Path, Sequence[Path]]) -> list[Path]:
    """The files that are named as another, with a suffix in letters of any case; arguments are as of `find_beside`."""
    stem = path.with_suffix("") if is_clip(path) else path
    return sorted(set(files.get(stem.with_name(stem.name + suffix), [])))


def unplaced_files(source: Path, samples: Sequence[Sample]) -> list[str]:
    """Name the files of a folder that no sample reads: of unknown kinds, without a clip, or beside a better one."""
    if not source.is_dir() or _manifest_of(source) is not None:
        return []
    read = [getattr(sample, name) for sample in samples for name in (*PATH_COLUMNS, "mouth_boxes")]
    taken = {path.resolve() for path in read if isinstance(path, Path)}
    files = _files_of(source)
    prepared = {path.parent for path in files if path.name == SUMMARY}  # by an earlier run, into a folder below
    files = [path for path in files if not prepared.intersection(path.parents)]
    beside = by_small_suffix(files)
    for sample in samples:  # of a caption in both forms the table counts
        caption = find_beside(sample.source, CAPTION_SUFFIXES, beside)
        taken |= {caption.resolve()} if caption is not None else set()
    return [str(path.relative_to(source.absolute())) for path in files if path.resolve() not in taken]


def unlisted_files(source: Path, samples: Sequence[Sample]) -> list[str]:
    """Name the files that a manifest leaves out: what belongs to its clips, and all clips of a folder that is given.

    Args:
        source: A manifest, or a folder with one; of another folder nothing is left out.
        samples: Of the manifest.
    """
    manifest = _manifest_of(source) if source.is_dir() else source
    if manifest is None:
        return []
    read = [getattr(sample, name) for sample in samples for name in (*PATH_COLUMNS, "mouth_boxes")]
    taken = {path.resolve() for path in read if isinstance(path, Path)}
    root = manifest.absolute().parent
    clips = [path for path in _files_of(root) if is_clip(path)] if source.is_dir() else []
    folders = {sample.source.parent for sample in samples}
    beside = by_small_suffix(path for folder in folders for path in folder.iterdir() if path.is_file())
    kinds = (*AUDIO_SUFFIXES, *CAPTION_SUFFIXES, *SUBTITLE_SUFFIXES, *BOX_SUFFIXES)
    parts = [path for sample in samples for kind in kinds for path in named_as(sample.source, kind, beside)]
    left = dict.fromkeys(path for path in (*clips, *parts) if path.resolve() not in taken)
    return [_below(path, root) for path in left]


def displaced_files(source: Path, samples: Sequence[Sample]) -> dict[str, str]:
    """Name the files of a folder that belong to a clip and are not read, each with the one that is in its place."""
    root = source.absolute()
    unplaced = {root / name: name for name in unplaced_files(source, samples)}
    if not unplaced:
        return {}
    beside = by_small_suffix(_files_of(source))
    displaced: dict[str, str] = {}
    for sample in samples:
        caption = find_beside(sample.source, CAPTION_SUFFIXES, beside)
        kinds = (
            (AUDIO_SUFFIXES, sample.audio),
            (CAPTION_SUFFIXES, caption),
            (BOX_SUFFIXES, caption if isinstance(sample.mouth_boxes, list) else sample.mouth_boxes),
            (SUBTITLE_SUFFIXES, sample.subtitles),
        )
        for suffixes, read in kinds:
            others = [path for suffix in suffixes for path in named_as(sample.source, suffix, beside)]
            displaced |= {unplaced[path]: _below(read, root) for path in others if path in unplaced and read}
    return {name: displaced[name] for name in unplaced.values() if name in displaced}


def is_listed(folder: Path) -> bool:
    """Whether a folder has a list of its clips."""
    return _manifest_of(folder) is not None


def describe_unplaced(source: Path, samples: Sequence[Sample]) -> str:
    """Say which files of a folder, or of the clips of a manifest, are not read; empty if all are."""
    if unlisted := unlisted_files(source, samples):
        said = "its manifest says" if source.is_dir() else f"`{source.name}` says"
        told = some(unlisted, MAX_UNPLACED)
        return f"not read {len(unlisted)}: {told}; {said} what is read: name them there\n"
    unplaced = unplaced_files(source, samples)
    if not unplaced:
        return ""
    told = some(unplaced, MAX_UNPLACED)
    images = [name for name in unplaced if (mimetypes.guess_type(name)[0] or "").startswith("image/")]
    advice = f"; convert {some(images)} to .jpg or .png" if images else ""
    took = [f"`{read}` of {name}" for name, read in displaced_files(source, samples).items()]
    only = ""
    if took:
        told_took = some([took[0].replace(" of ", " took the place of ", 1), *took[1:]])
        only = f"the only one of its kind ({told_took}) and be "
    return (
        f"not read {len(unplaced)}: {told}; a file must be a clip, a still image, or be {only}named as the one that "
        f"it belongs to{advice}{_advice_on_language(unplaced, samples)}\n"
    )


def _advice_on_language(unplaced: Sequence[str], samples: Sequence[Sample]) -> str:
    """What to do about subtitles whose name tells their language, as those of a download do."""
    clips = {sample.source.stem for sample in samples if sample.subtitles is None}
    files = [Path(name) for name in unplaced if name.lower().endswith(SUBTITLE_SUFFIXES)]
    renamed = [(file.name, Path(file.stem).stem + file.suffix) for file in files if Path(file.stem).stem in clips]
    return f"; rename {renamed[0][0]} to {renamed[0][1]}, say" if renamed else ""


def _below(path: Path, folder: Path) -> str:
    """The name of a file below a folder, or the whole one of a file elsewhere."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _stills(files: Sequence[Path], samples: Sequence[Sample], faults: Faults) -> list[Path]:
    """Images of a folder that are samples of their own: those that no other sample names as its reference.

    It is a fault where one has the name of a clip, so that the caption beside them could mean either.
    """
    references = {sample.reference_image and sample.reference_image.resolve() for sample in samples}
    stills = [path for path in files if is_still(path) and path.resolve() not in references]
    stems = {sample.source.with_suffix("") for sample in samples}
    if twins := [str(path) for path in stills if path.with_suffix("") in stems]:
        told = some(twins, MAX_WRONG)
        faults.append(
            ValueError(
                f"a still image must have another name than the clips beside it, got {told}; rename it, or name it as "
                "`reference_image` in the clip's .json"
            )
        )
    return [path for path in stills if str(path) not in twins]


def _each(items: Iterable[Item], read: Callable[[Item], Sample], faults: Faults) -> list[Sample]:
    """Read what belongs to each clip or row; what is wrong with several is one fault, which names them all."""
    done: list[Sample] = []
    wrong: list[tuple[Item, ValueError]] = []
    for item in items:
        try:
            done.append(read(item))
        except ValueError as error:
            wrong.append((item, error))
    if wrong:
        (_, first), *others = wrong
        faults.append(ValueError(f"{first}{_more([item for item, _ in others])}"))
    return done


def _more(wrong: Sequence[Sample | _Row]) -> str:
    """Name the others that are wrong; empty if there are none."""
    if not wrong:
        return ""
    rows = [item.name for item in wrong if isinstance(item, _Row)]
    names = rows or [item.source.name for item in wrong if isinstance(item, Sample)]
    is_one = len(names) == 1
    if rows:
        what = "row is" if is_one else "rows are"
    else:
        what = "clip has files that are" if is_one else "clips have files that are"
    return f"; {len(names)} more {what} wrong: {some(names, MAX_WRONG)}"


def _raise_all(faults: Faults) -> None:
    """Raise all faults as one error, of the kind of the first."""
    if faults:
        raise type(faults[0])("; ".join(map(str, faults)))


def _with_sidecars(sample: Sample, beside: Mapping[Path, Sequence[Path]]) -> Sample:
    caption = find_beside(sample.source, CAPTION_SUFFIXES, beside)
    if caption is not None and caption.suffix.lower() == ".json":
        row = _parse_row(read_text(caption), str(caption))
        given = {name: str(getattr(sample, name)) for name in ("video", "audio") if getattr(sample, name)}
        sample = _sample(given | row, caption.parent, str(caption))
    elif caption is not None:
        sample = replace(sample, caption=read_text(caption).strip())
    return replace(
        sample,
        mouth_boxes=sample.mouth_boxes or find_beside(sample.source, BOX_SUFFIXES, beside),
        subtitles=sample.subtitles or find_beside(sample.source, SUBTITLE_SUFFIXES, beside),
    )


def _parse_row(text: str, where: str) -> dict[str, Any]:
    return parse_row(text, where, f"one with columns of {_columns()}")


def _sample(row: Mapping[str, Any], folder: Path, where: str) -> Sample:
    """Build the sample of one row; empty cells count as absent."""
    given = {name: value for name, value in row.items() if value not in (None, "")}
    for name, value in given.items():
        _check_cell(name, value, where)
    paths = {name: folder / given[name] for name in PATH_COLUMNS if name in given}
    if "video" not in paths and "audio" not in paths:
        raise ValueError(f"{where} must name a `video` or an `audio` file, got {sorted(given)}; add one of them")
    texts = {name: given[name].strip() for name in TEXT_COLUMNS if name in given}
    parts = [f"`{name}`" for name, text in texts.items() if text and name != "caption"]
    if texts.get("caption") and parts:
        raise ValueError(
            f"{where}: `caption` must stand alone, since it is the whole prompt, got it with {', '.join(parts)}; "
            "rename it to `video_caption` or remove the others"
        )
    boxes = given.get("mouth_boxes")
    return Sample(**paths, **texts, mouth_boxes=folder / boxes if isinstance(boxes, str) else boxes)


def _check_cell(name: str, value: object, where: str) -> None:
    if name not in COLUMNS:
        otherwise = "write captions as `video_caption` or `caption`" if name in OTHER_CAPTIONS else "remove it"
        hint = separator_hint([name]) or did_you_mean(name, COLUMNS, otherwise)
        raise ValueError(f"{where}: a column must be one of {_columns()}, got `{name}`; {hint}")
    if not isinstance(value, (str, list) if name == "mouth_boxes" else str):
        raise ValueError(f"{where}: `{name}` must be text, got {value!r}; put it in quotes")
    if isinstance(value, str) and not is_encodable(value):
        raise ValueError(f"{where}: `{name}` must be text of whole characters, got {value!r}; half of a pair is lost")


def _count_occurrences(samples: Iterable[Sample]) -> list[Sample]:
    seen: Counter[tuple[Path | None, Path | None]] = Counter()
    counted = []
    for sample in samples:
        files = (sample.video, sample.audio)
        counted.append(replace(sample, occurrence=seen[files]))
        seen[files] += 1
    return counted


def _check_files(samples: Iterable[Sample], faults: Faults) -> None:
    named = [(name, getattr(sample, name)) for sample in samples for name in (*PATH_COLUMNS, "mouth_boxes")]
    broken = [ascii(str(path)) for _, path in named if isinstance(path, Path) and not is_encodable(str(path))]
    if broken:
        told = some(broken, MAX_WRONG)
        faults.append(ValueError(f"names of files must be UTF-8, got {len(broken)} others: {told}; rename them"))
    missing = [f"{name} {path}" for name, path in named if isinstance(path, Path) and not path.is_file()]
    if missing:
        faults.append(
            FileNotFoundError(
                f"the files of the data set must exist, got {len(missing)} missing: {some(missing, MAX_WRONG)}; "
                "paths are relative to the manifest, and what is seen and heard in words is `video_caption` and "
                "`audio_caption`"
            )
        )


def _check_stills(samples: Iterable[Sample], faults: Faults) -> None:
    if sounding := [str(sample.source) for sample in samples if sample.is_still and sample.audio is not None]:
        told = some(sounding, MAX_WRONG)
        faults.append(ValueError(f"a still image must stand without `audio`, got one for {told}; remove either"))


def _check_words(sample: Sample) -> Sample:
    """Refuse subtitles beside another text that says what is spoken: one of them would be dropped."""
    if sample.subtitles and (text := "caption" if sample.caption else "transcript" if sample.transcript else ""):
        sidecar = sample.source.with_suffix(".json").name
        raise ValueError(
            f"the subtitles `{sample.subtitles}` must be the only words of their clip, got a `{text}` as well; "
            + ("rename it to `video_caption`" if text == "caption" else "remove one of them")
            + " (a .txt file beside a clip is its `caption`)"
            + (f"; write the text of a .txt file as `video_caption` into `{sidecar}`" if text == "caption" else "")
        )
    return sample


def _columns() -> str:
    return ", ".join(f"`{name}`" for name in COLUMNS)
