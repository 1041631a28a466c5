"""Which clips there are and what they show: a manifest or a folder of clips with sidecar captions -> samples."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jova_cli.tables import check_once, is_encodable, parse_json, read_text, some


VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
AUDIO_SUFFIXES = (".flac", ".m4a", ".mp3", ".ogg", ".wav")
BOX_SUFFIXES = (".boxes.json", ".boxes.npy", ".boxes.safetensors")
SUBTITLE_SUFFIXES = (".srt", ".vtt")
PATH_COLUMNS = ("video", "audio", "reference_image", "subtitles")
TEXT_COLUMNS = ("caption", "video_caption", "audio_caption", "transcript")
COLUMNS = (*PATH_COLUMNS, *TEXT_COLUMNS, "mouth_boxes")
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
            the video file; None leaves the mouths to the detector.
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
        return self.video is not None and self.video.suffix.lower() in IMAGE_SUFFIXES

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


def read_samples(source: Path, captions_required: bool = True) -> list[Sample]:
    """Read the samples of a data set.

    Args:
        source: A manifest (`.jsonl`, `.csv`) with columns of `COLUMNS` and paths relative to it; a folder with a
            `manifest.jsonl` or `manifest.csv`; or a folder of clips and still images. Beside a clip `a.mp4`, its
            caption is `a.txt` or, with the columns of a manifest, `a.json`; another sound track is `a.wav`; what is
            said when is `a.srt` or `a.vtt`; its mouth boxes are `a.boxes.json`, `a.boxes.npy` or
            `a.boxes.safetensors`.
        captions_required: Refuse clips without any caption.

    Raises:
        FileNotFoundError: If `source` or a file that it names does not exist.
        ValueError: If there are no clips, or a column or caption is not as described, or a clip has a whole caption
            and parts of one.
    """
    source = source.absolute()  # records keep their names wherever the command is run
    samples = _read_folder(source) if source.is_dir() else _read_manifest(source)
    if not samples:
        raise ValueError(f"`source` must hold at least one clip, got `{source}`; give a manifest or a folder of clips")
    _check_files(samples)
    if sounding := [str(sample.source) for sample in samples if sample.is_still and sample.audio is not None]:
        raise ValueError(f"a still image must stand without `audio`, got one for {some(sounding)}; remove either")
    _check_words(samples)
    samples = _count_occurrences(samples)
    without = [str(sample.source) for sample in samples if not sample.has_caption]
    if without and captions_required:
        raise ValueError(
            f"every clip must have a caption, got {len(without)} of {len(samples)} without: {some(without)}; "
            "write one into a .txt file of the same name, or into the manifest"
        )
    return samples


def _read_manifest(path: Path) -> list[Sample]:
    if not path.is_file():
        raise FileNotFoundError(f"`source` must be an existing folder or manifest, got `{path}`; check the spelling")
    readers = {".jsonl": _rows_of_jsonl, ".csv": _rows_of_csv}
    if path.suffix not in readers:
        raise ValueError(f"`source` must be a folder, a .jsonl or a .csv file, got `{path}`; convert it to .jsonl")
    return [_sample(row, path.parent, where) for where, row in readers[path.suffix](path)]


def _rows_of_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row and where it stands; only a line feed ends a line, JSON texts may hold the other separators."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", _parse_row(line, f"{path}, line {number}")


def _rows_of_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row and where it stands; boxes may stand in a cell as JSON."""
    rows = csv.DictReader(io.StringIO(read_text(path)))
    for number, row in enumerate(_checked_rows(rows, path), start=1):
        where = f"{path}, row {number}"
        if None in row:
            raise ValueError(f"{where} must have a cell for each column, got {row[None]} beyond them; quote commas")
        boxes = row.get("mouth_boxes") or ""
        yield where, row | ({"mouth_boxes": parse_json(boxes, where)} if boxes.startswith("[") else {})


def _checked_rows(rows: csv.DictReader[str], path: Path) -> Iterator[dict[Any, Any]]:
    try:
        check_once(list(rows.fieldnames or ()), str(path))
        yield from rows
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {rows.line_num + 1} must be CSV of short cells, got something else ({error}); "
            "close its quotes, and give long boxes as files"
        ) from error


def _read_folder(folder: Path) -> list[Sample]:
    for name in ("manifest.jsonl", "manifest.csv"):
        if (folder / name).exists():
            return _read_manifest(folder / name)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    stems = {path.with_suffix("") for path in videos}
    audios = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    lone_audios = [path for path in audios if path.with_suffix("") not in stems]
    sound_of = {path.with_suffix(""): path for path in audios}
    samples = [_with_sidecars(Sample(video=path, audio=sound_of.get(path.with_suffix("")))) for path in videos]
    samples += [_with_sidecars(Sample(audio=path)) for path in lone_audios]
    return samples + [_with_sidecars(Sample(video=path)) for path in _stills(files, samples)]


def unplaced_files(source: Path, samples: Sequence[Sample]) -> list[str]:
    """Name the files of a folder that no sample reads: of unknown kinds, without a clip, or beside a better one."""
    if not source.is_dir() or any((source / name).exists() for name in ("manifest.jsonl", "manifest.csv")):
        return []
    read = [getattr(sample, name) for sample in samples for name in (*PATH_COLUMNS, "mouth_boxes")]
    taken = {path.resolve() for path in read if isinstance(path, Path)}
    for sample in samples:  # of a caption in both forms the table counts
        captions = [sample.source.with_suffix(suffix) for suffix in (".json", ".txt")]
        taken |= {path.resolve() for path in [path for path in captions if path.exists()][:1]}
    files = sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [str(path.relative_to(source)) for path in files if path.resolve() not in taken]


def describe_unplaced(source: Path, samples: Sequence[Sample]) -> str:
    """Say which files of a folder are not read; empty if all are."""
    unplaced = unplaced_files(source, samples)
    if not unplaced:
        return ""
    return (
        f"not read {len(unplaced)}: {some(unplaced)}; a file must be a clip, a still image, or be named as the one "
        "that it belongs to\n"
    )


def _stills(files: Sequence[Path], samples: Sequence[Sample]) -> list[Path]:
    """Images of a folder that are samples of their own: those that no other sample names as its reference.

    Raises:
        ValueError: An image has the name of a clip, so that the caption beside them could mean either.
    """
    references = {sample.reference_image and sample.reference_image.resolve() for sample in samples}
    stills = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.resolve() not in references]
    stems = {sample.source.with_suffix("") for sample in samples}
    if twins := [str(path) for path in stills if path.with_suffix("") in stems]:
        raise ValueError(
            f"a still image must have another name than the clips beside it, got {some(twins)}; rename it, or name it "
            "as `reference_image` in the clip's .json"
        )
    return stills


def _with_sidecars(sample: Sample) -> Sample:
    text, columns = sample.source.with_suffix(".txt"), sample.source.with_suffix(".json")
    if columns.exists():
        row = _parse_row(read_text(columns), str(columns))
        given = {name: str(getattr(sample, name)) for name in ("video", "audio") if getattr(sample, name)}
        sample = _sample(given | row, columns.parent, str(columns))
    elif text.exists():
        sample = replace(sample, caption=read_text(text).strip())
    boxes = (sample.source.with_suffix(suffix) for suffix in BOX_SUFFIXES)
    subtitles = (sample.source.with_suffix(suffix) for suffix in SUBTITLE_SUFFIXES)
    return replace(
        sample,
        mouth_boxes=sample.mouth_boxes or next((path for path in boxes if path.exists()), None),
        subtitles=sample.subtitles or next((path for path in subtitles if path.exists()), None),
    )


def _parse_row(text: str, where: str) -> dict[str, Any]:
    row = parse_json(text, where)
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be a JSON object with columns {_columns()}, got `{text[:60]}`")
    return row


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
        close = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.5)
        hint = f"did you mean `{close[0]}`?" if close else "remove it"
        hint = "separate the columns by commas" if {*";\t"} & {*name} else hint
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


def _check_files(samples: Iterable[Sample]) -> None:
    named = [(name, getattr(sample, name)) for sample in samples for name in (*PATH_COLUMNS, "mouth_boxes")]
    broken = [ascii(str(path)) for _, path in named if isinstance(path, Path) and not is_encodable(str(path))]
    if broken:
        raise ValueError(f"names of files must be UTF-8, got {len(broken)} others: {some(broken)}; rename them")
    missing = [f"{name} {path}" for name, path in named if isinstance(path, Path) and not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"the files of the data set must exist, got {len(missing)} missing: {some(missing)}; "
            "paths are relative to the manifest"
        )


def _check_words(samples: Iterable[Sample]) -> None:
    """Refuse subtitles beside another text that says what is spoken: one of them would be dropped."""
    for sample in samples:
        if sample.subtitles and (text := "caption" if sample.caption else "transcript" if sample.transcript else ""):
            raise ValueError(
                f"the subtitles `{sample.subtitles}` must be the only words of their clip, got a `{text}` as well; "
                + ("rename it to `video_caption`" if text == "caption" else "remove one of them")
                + " (a .txt file beside a clip is its `caption`)"
            )


def _columns() -> str:
    return ", ".join(f"`{name}`" for name in COLUMNS)
