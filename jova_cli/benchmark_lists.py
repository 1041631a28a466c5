"""Published benchmarks as lists of `jova generate --prompts`: a function from each one's files to rows."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .tables import csv_rows, parse_row, read_text, some


Read = Callable[[], dict[str, Any]]  # gives the cells of a row, or raises what is wrong with them
TEXT, AUDIO_TEXT = "text", "audio_text"  # columns of JavisBench
FOLDER = "uniavatar"
AVATAR_FILES = {  # columns of a folder of speakers, by the ends of their files
    "image": (".png", ".jpg", ".jpeg", ".webp"),
    "reference_audio": (".wav", ".flac", ".mp3", ".ogg", ".m4a"),
}
AVATAR_SUFFIXES = (".txt", *(suffix for suffixes in AVATAR_FILES.values() for suffix in suffixes))


def verse_bench(folder: Path) -> Iterator[tuple[int, Read]]:
    """Rows of Verse-Bench (UniVerse-1; `dorni/Verse-Bench`): a .json and a .jpg for each clip in set1, set2 and set3.

    Clips have the names that its evaluation looks for. What else its files say of speech is not documented, nor read.
    """
    paths = sorted(folder.glob("set[123]/*.json"))
    if not paths:
        raise ValueError(f"`--prompts` must be the folder of Verse-Bench, with set1/*.json, got {folder}; download it")
    for number, path in enumerate(paths, 1):
        yield number, partial(_verse_bench_row, path)


def _verse_bench_row(path: Path) -> dict[str, Any]:
    item = parse_row(" ".join(read_text(path).splitlines()), str(path), '{"video_prompt": "..."}')
    video, sounds, speech = item.get("video_prompt"), item.get("audio_prompt") or [], item.get("speech_prompt") or {}
    sounds = [sounds] if isinstance(sounds, str) else sounds
    words = speech.get("text") or "" if isinstance(speech, dict) else None
    is_told = isinstance(sounds, list) and all(isinstance(sound, str) for sound in sounds)
    if not isinstance(video, str) or not isinstance(words, str) or not is_told:
        raise ValueError(
            f"{path} must have a text `video_prompt`, texts in `audio_prompt` and a `text` in `speech_prompt`, "
            "got others; download it again"
        )
    image = next((str(p.absolute()) for s in (".jpg", ".png") if (p := path.with_suffix(s)).is_file()), "")
    if not image:
        raise ValueError(f"{path} must have a picture beside it, {path.stem}.jpg, got none; download it again")
    captions = {"video_caption": video, "audio_caption": ", ".join(sounds), "transcript": words}
    return {"output": f"{path.stem}.mp4", "image": image, **captions}


def javis_bench(path: Path) -> Iterator[tuple[int, Read]]:
    """Rows of JavisBench.csv or JavisBench-mini.csv (JavisDiT): `text` is the caption, `audio_text` that of the sound.

    Clips have the names that its evaluation looks for, by their place in the list. Which words are spoken it does not
    say; `audio_text`, where it is there, is what its evaluation compares the sound with.
    """
    for number, (line, columns, cells) in enumerate(csv_rows(path, _javis_columns, "download it again")):
        yield line, partial(_javis_row, f"sample_{number:04d}.mp4", columns, cells)


def _javis_columns(cells: Sequence[str]) -> list[str]:
    if TEXT not in cells:
        raise ValueError(f"`--prompts` must be a list of JavisBench with a column `{TEXT}`, got {', '.join(cells)}")
    return list(cells)


def _javis_row(output: str, columns: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise ValueError(
            f"a row must have a cell for each of {len(columns)} columns, got {len(cells)}; download it again"
        )
    row = dict(zip(columns, cells, strict=True))
    return {"output": output, "video_caption": row[TEXT], "audio_caption": row.get(AUDIO_TEXT, "")}


def avatar_folder(folder: Path) -> Iterator[tuple[int, Read]]:
    """Rows of a folder of speakers, as UniAvatar-Bench is described: a.txt, and beside it a.png and a.wav.

    The text is the whole prompt; the picture is the reference image, the sound the reference voice, and either may be
    missing. Clips have the names of the texts.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".txt" and path.is_file())
    if not paths:
        raise ValueError(
            f"`--prompts` must be a list, or a folder with a .txt for each clip, got {folder} without; see the README"
        )
    for number, path in enumerate(paths, 1):
        yield number, partial(_avatar_row, path)


def has_voices(folder: Path) -> bool:
    """Whether sounds lie in a folder of speakers."""
    return any(path.suffix.lower() in AVATAR_FILES["reference_audio"] for path in folder.iterdir())


def _avatar_row(path: Path) -> dict[str, Any]:
    beside = sorted(sibling for sibling in path.parent.iterdir() if sibling.stem == path.stem and sibling.is_file())
    row: dict[str, Any] = {"output": f"{path.stem}.mp4", "prompt": read_text(path).strip()}
    if not row["prompt"]:
        raise ValueError(f"{path} must hold a prompt, got nothing; write what the clip shows")
    for column, suffixes in AVATAR_FILES.items():
        found = [str(sibling.absolute()) for sibling in beside if sibling.suffix.lower() in suffixes]
        if len(found) > 1:
            raise ValueError(f"{path} must have one `{column}` beside it, got {some(found)}; remove the others")
        row |= {column: found[0]} if found else {}
    if strange := [sibling.name for sibling in beside if sibling.suffix.lower() not in AVATAR_SUFFIXES]:
        lists = [name for name in strange if name.endswith((".csv", ".jsonl"))]
        advice = f"name {path.with_name(lists[0])} if that is the list, or remove it" if lists else "remove it"
        raise ValueError(f"{path} must have a picture and a voice beside it, got {some(strange)}; {advice}")
    return row


FORMATS = {"verse-bench": verse_bench, "javisbench": javis_bench, FOLDER: avatar_folder}


def benchmark_of(name: str | None, path: Path) -> str | None:
    """In whose format prompts are: the one that is named, that of a plain folder, or None for our own lists."""
    return FOLDER if name is None and path.is_dir() else name


def check_benchmark(name: str, path: Path, folder: Path | None = None) -> None:
    """Refuse what is not where a benchmark's prompts lie, and a file where a folder is to be filled."""
    is_folder = name != "javisbench"
    is_there = path.is_dir() if is_folder else path.suffix.lower() == ".csv" and path.is_file()
    kind = "an existing folder" if is_folder else "an existing .csv file"
    if not is_there:
        raise ValueError(f"`--prompts` must be {kind} with `--benchmark {name}`, got {path}; see the README")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ValueError(f"`--output` must be a folder with `--prompts`, got the file {folder}; name a folder")
