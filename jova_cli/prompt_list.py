"""The list of `jova generate --prompts`: a clip for each row, and every option of a single call as a column."""

import argparse
import copy
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .benchmark_lists import FORMATS, Read
from .clip_limits import CALL_WORDS
from .given_paths import LONGEST_NAME_BYTES, kind_of
from .parser import Parser, did_you_mean, one_line
from .tables import check_once, csv_rows, is_encodable, jsonl_lines, parse_json, parse_row, separator_hint


SUFFIXES = (".jsonl", ".csv")
CLIPS = (".mp4", ".wav")
TRUTHS = {"true": True, "false": False}  # how a column of an option without a value says whether it is given
KEYFRAME_FILES = "keyframe_files"  # in a record, as words of `--keyframe`; its `keyframe` tells their contents
LISTS = ("lora", "modalities", "keyframe", "speaker_audio")  # columns that may hold several values
SLUG_LENGTH = 40


class Row(NamedTuple):
    """One clip to make: the line where it stands, and the arguments of a single call for it."""

    line: int
    args: argparse.Namespace


class Refusal(NamedTuple):
    """A line that asks for no clip, and one sentence that says why."""

    line: int
    reason: str


class RowParser(Parser):
    """Reads a row as the words of a single call.

    Args:
        add_arguments: Adds the options of a single call.
    """

    def __init__(self, add_arguments: Callable[[Parser], None]) -> None:
        super().__init__(prog="jova generate", add_help=False)
        self.options: dict[str, argparse.Action] = {}
        add_arguments(self)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an option, and remember it by its column."""
        action = super().add_argument(*names, **settings)
        if action.option_strings:
            self.options[action.dest] = action
        return action

    def error(self, message: str) -> NoReturn:
        """Refuse the row, and not the command."""
        raise ValueError(message)

    def words(self, column: str, value: Any) -> list[str]:
        """The words of a command line that say what a cell says."""
        option, action = self.options[column].option_strings[0], self.options[column]
        if action.nargs == 0:
            if (truth := TRUTHS.get(str(value).lower())) is None:
                raise ValueError(f"`{column}` must be true or false, got {value!r}")
            return [option] if truth else []
        is_many = isinstance(action.default, list)
        values = value if is_many and isinstance(value, list) else [value]
        for one in values:
            if isinstance(one, bool) or not isinstance(one, str | int | float) or not is_word(str(one)):
                raise ValueError(f"`{column}` must be a text or a number, got {one!r}; correct the cell")
        if action.type is int:
            values = [plain_whole(one) for one in values]
        if action.nargs == "+":
            for one in values:
                self.check_choice(action, str(one))  # before argparse, which takes one with a dash for an option
            return [option, *map(str, values)]
        return [f"{option}={one}" for one in values]

    def check_choice(self, action: argparse.Action, value: str) -> None:
        """Refuse a value that is none of the choices of an option."""
        try:
            self._check_value(action, value)
        except argparse.ArgumentError as error:
            self.error(str(error))

    def parse_row(self, cells: Mapping[str, Any], common: argparse.Namespace) -> argparse.Namespace:
        """The arguments of a single call.

        Args:
            cells: Values of a row by their column.
            common: What the command line says for all rows; a cell comes before it.
        """
        args = argparse.Namespace(**{name: copy.copy(getattr(common, name)) for name in self.options})
        for column in cells:
            setattr(args, column, copy.copy(self.options[column].default))
        words = [word for column, value in cells.items() for word in self.words(column, value)]
        return self.parse_args(["--output=of.the.row", *words], args)


def plain_whole(value: Any) -> Any:
    """A whole number without its fraction of zeros, which tables write where a column has gaps; others as they are."""
    return str(value).partition(".")[0] if re.fullmatch(r"[+-]?\d+\.0+", str(value)) else value


def is_word(text: str) -> bool:
    """Whether a command line could hold it."""
    return is_encodable(text) and "\0" not in text


def check_list(path: Path, folder: Path | None, option: str = "--prompts") -> None:
    """Refuse a list that is not there, which an option names, and a file where a folder is to be filled."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        found = {"file": "a file of another kind", "folder": "a folder"}.get(kind_of(path), "none")
        raise ValueError(
            f"`{option}` must be an existing .jsonl or .csv file, got {found}: {path}; it has a row for each clip, in "
            '.jsonl `{"prompt": "A dog barks."}`'
        )
    kind = "" if folder is None else kind_of(folder)
    if folder is not None and (kind == "file" or (not kind and folder.suffix.lower() in CLIPS)):
        raise ValueError(f"`--output` must be a folder with `{option}`, got the file {folder}; name a folder")


def read_rows(
    common: argparse.Namespace,
    add_arguments: Callable[[Parser], None],
    check: Callable[[argparse.Namespace], None],
    option: str = "--prompts",
    benchmark: str | None = None,
    left_out: Sequence[str] = (),
) -> tuple[list[Row], list[Refusal]]:
    """Read the rows of a list, and refuse those that cannot become a clip.

    Files in the columns `image`, `last_image`, `keyframe`, `audio`, `video`, `reference_audio` and `speaker_*` are
    relative to the list, clips in `output` to the folder.

    Args:
        common: The command line: `prompts` is the list, `output` the folder, and the rest holds for all rows.
        add_arguments: Adds the options of a single call to a parser.
        check: Raises what is wrong with the arguments of a single call.
        option: That names the list, for messages.
        benchmark: In whose format, of `benchmark_lists.FORMATS`, the list is; None for our own.
        left_out: Columns that are not read.

    Raises:
        ValueError: If the list as a whole cannot be meant.
    """
    path, parser = common.prompts, RowParser(add_arguments)
    rows: list[Row] = []
    refused: list[Refusal] = []
    lines_of: dict[str, int] = {}  # by the clip's file, in one case, since some file systems know no other
    seen: Counter[str] = Counter()
    for line, read in _lines(path, parser) if benchmark is None else FORMATS[benchmark](path):
        where = f"{path}, line {line}"
        try:
            cells = {column: cell for column, cell in read().items() if column not in left_out}
            args = _row_args(_call_of_record(cells, parser, common), parser, common, seen)
            first = lines_of.setdefault(_folded(args.output), line)
            if first != line:
                raise ValueError(
                    f"`output` must be another for each row, got {args.output.name} as in line {first}; rename one"
                )
            check(args)
            rows.append(Row(line, args))
        except (ValueError, OSError) as error:
            reason = one_line(error).replace(CALL_WORDS.by_windows, "")  # a row is one call
            refused.append(Refusal(line, reason if reason.startswith(where) else f"{where}: {reason}"))
    if not rows and not refused:
        raise ValueError(f"`{option}` must be a list with at least one row, got the empty {path}; write a row a clip")
    return rows, refused


def _call_of_record(cells: Mapping[str, Any], parser: RowParser, common: argparse.Namespace) -> dict[str, Any]:
    """The cells that make a clip again, where they are a line of `clips.jsonl`; others as they are.

    Raises:
        ValueError: It was made with another model, or with pictures whose places no record holds.
    """
    settings = cells.get("settings")
    if not isinstance(settings, dict) or "output" not in cells:
        return dict(cells)
    if settings.get("model") not in (str(common.model), Path(str(common.model)).name):
        raise ValueError(
            f"`--model` must be the one that made the clip, {settings.get('model')}, got {common.model}"
            f"{', the default' * (common.model == parser.options['model'].default)}; give `--model` with that one"
        )
    if settings.get("keyframe") and KEYFRAME_FILES not in settings:  # of before it told them
        raise ValueError("a record holds no files of `keyframe`, got some; give the list that the clip was made from")
    own = {
        name: value
        for name, value in settings.items()
        if name in parser.options and name != "model" and value != parser.options[name].default
    }
    if settings.get("keyframe"):
        own["keyframe"] = settings[KEYFRAME_FILES]
    if adapters := own.pop("lora", None):
        own["lora"] = [f"{source}:{scale}" for source, scale in adapters]
    return {"output": cells["output"], **own}


def _row_args(
    cells: dict[str, Any], parser: RowParser, common: argparse.Namespace, seen: Counter[str]
) -> argparse.Namespace:
    """The arguments of a single call for the cells of a row."""
    cells = {name: value for name, value in cells.items() if value not in (None, "", [])}
    for column in cells:
        _check_column(column, parser)
    key = json.dumps(cells, sort_keys=True)
    name = cells.pop("output", None)
    args = parser.parse_row(cells, _without_other_voices(common, cells))
    if name is None:
        name = _default_name(args, f"{key} {seen[key]}")
        seen[key] += 1
    args.output = _clip_path(common.output, name)
    folder = common.prompts.parent.absolute()
    single = ("image", "last_image", "audio", "video", "reference_audio", "speaker_embeds", "speaker_encoder")
    for column in single:
        if column in cells:
            setattr(args, column, folder / getattr(args, column))
    if "speaker_audio" in cells:
        args.speaker_audio = [folder / path for path in args.speaker_audio]
    if "keyframe" in cells:
        args.keyframe = [keyframe._replace(path=folder / keyframe.path) for keyframe in args.keyframe]
    return args


def _without_other_voices(common: argparse.Namespace, cells: Mapping[str, Any]) -> argparse.Namespace:
    """What holds for all rows, without voices that a row gives otherwise, or an encoder that it needs none of."""
    has_recordings = "speaker_audio" in cells or ("speaker_embeds" not in cells and bool(common.speaker_audio))
    own = argparse.Namespace(**vars(common))
    if "speaker_embeds" in cells:
        own.speaker_audio = []
    if "speaker_audio" in cells:
        own.speaker_embeds = None
    if not has_recordings:
        own.speaker_encoder = None
    return own


def _default_name(args: argparse.Namespace, key: str) -> str:
    """The beginning of what is asked for, and a digest of the row: another row, another name, wherever it stands."""
    text = args.prompt or " ".join((args.video_caption, args.audio_caption, args.transcript))
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower())[:SLUG_LENGTH].strip("-") or "clip"
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    return f"{slug}-{digest}{'.mp4' if 'video' in args.modalities else '.wav'}"


def _clip_path(folder: Path, name: object) -> Path:
    """The file of a clip; it stays within the folder."""
    path = Path(str(name))
    parts = path.parts
    is_plain = str(name).isprintable() and not any(part.startswith(".") for part in parts) and "\\" not in str(name)
    if not parts or not is_plain or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"`output` must be a file name within the folder, got {name!r}; use one such as dog.mp4")
    if any(len(part.encode()) > LONGEST_NAME_BYTES for part in parts):
        raise ValueError(f"`output` must have names of at most {LONGEST_NAME_BYTES} bytes, got {name!r}; shorten it")
    return folder / path


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _check_column(column: str, parser: RowParser, where: str = "") -> None:
    """Refuse a column that is no option of a single call."""
    if column in parser.options:
        return
    hint = separator_hint([column]) or did_you_mean(
        column, list(parser.options), "`jova generate --help` lists them, with -"
    )
    raise ValueError(f"{where}a column must be an option of a single clip, got `{column}`; {hint}")


def _lines(path: Path, parser: RowParser) -> Iterator[tuple[int, Read]]:
    """The lines of a list where rows begin, each with what reads it; where its columns are wrong, no row is meant."""
    if path.suffix.lower() != ".csv":
        for number, line in jsonl_lines(path):
            yield number, partial(_object_of, line, f"{path}, line {number}")
        return

    def columns_of(cells: Sequence[str]) -> list[str]:
        columns = [name.strip().replace("-", "_") for name in cells]
        check_once(columns, str(path))
        for column in columns:
            _check_column(column, parser, f"{path}: ")
        return columns

    for number, columns, cells in csv_rows(path, columns_of, "close its quotes"):
        yield number, partial(_cells_of, columns, cells)


def _object_of(line: str, where: str) -> dict[str, Any]:
    row = parse_row(line, where, '{"prompt": "..."}')
    cells = {name.replace("-", "_"): value for name, value in row.items()}
    if len(cells) < len(row):
        check_once([name.replace("-", "_") for name in row], where)
    return cells


def _cells_of(columns: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise ValueError(f"a row must have a cell for each of {len(columns)} columns, got {len(cells)}; quote commas")
    return {
        column: parse_json(cell, f"`{column}`") if column in LISTS and cell.startswith("[") else cell
        for column, cell in zip(columns, cells, strict=True)
    }
