"""The clips of a list in one folder: each is made once, whatever interrupts the run, and a file tells how.

A clip takes its name when it is whole and `clips.jsonl` has its line, in this order, so that one without a line is
nobody's, and a line without a clip that of one whose run was killed.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import diffusers
import torch
from tqdm.auto import tqdm

from jova_cli import __version__
from jova_cli.parser import one_line
from jova_cli.progress import followed
from jova_cli.prompt_list import KEYFRAME_FILES, Row

from .clip_call import (
    BAD_INPUT,
    OUT_OF_MEMORY,
    call_arguments,
    check_cost,
    draw_seed,
    load_pipeline,
    read_credentials,
    tell_strangers,
)
from .devices import choose_device
from .folder_lock import FolderInUseError, held_alone, in_turn
from .origin import check_origin, digest_path
from .pipeline_jova import JoVAPipeline
from .processes import Processes
from .provenance import name_of_source
from .ray_cluster import run_on_ray
from .whole_files import FullDiskError, explained_full_disk, remove, write_text


LIST = "clips.jsonl"  # what was made
WORK = ".work"  # clips that are not whole yet
ROW_ERRORS = (*BAD_INPUT, torch.OutOfMemoryError)
# settings that say nothing where they are not given
SILENT = (
    *("seed", "cache", "guidance", "max_sequence_length", "last_image", "keyframe"),
    *("speaker_embeds", "speaker_audio", "speaker_encoder"),
)
PLACES = ("output", "device", "cpu_offload", "yes")  # arguments that decide where, not what
FILES = (  # whose content decides, not their path
    *("model", "image", "last_image", "audio", "video", "reference_audio"),
    *("speaker_embeds", "speaker_encoder"),
)
OF_A_CLIP = ("prompt", "video_caption", "audio_caption", "transcript", "seed")  # that clips of one batch differ in
OF_A_PIPELINE = ("model", "lora", "skip_unknown", "device", "dtype", "cpu_offload", "cache", "memory")
OF_A_PLAN = (  # arguments that decide, with a `memory`, how it is used
    *("height", "width", "num_frames", "frame_rate", "max_sequence_length", "modalities"),
    *("guidance_scale", "audio_guidance_scale", "guidance"),
    *("image", "last_image", "keyframe", "audio", "video", "start", "duration", "reference_audio"),
)


class Task(NamedTuple):
    """A clip to make.

    Attributes:
        line: Of the list, where it stands.
        name: Of its file, within the folder.
        args: Of a single call, with a seed.
        settings: What decides the clip, as JSON holds it.
    """

    line: int
    name: str
    args: argparse.Namespace
    settings: dict[str, Any]


class Outcome(NamedTuple):
    """What became of a line: `"made"`, `"there"` from an earlier run, or `"refused"` for a reason."""

    line: int
    status: str
    reason: str = ""


def refusal(source: Path, line: int, reason: str) -> Outcome:
    """The outcome of a line that gets no clip."""
    return Outcome(line, "refused", f"{source}, line {line}: {reason}")


def make_clips(args: argparse.Namespace, processes: Processes) -> list[Outcome]:
    """Make what is missing of the clips of a list, and say what became of each line.

    Args:
        args: The command line with its `rows` and `refused` lines.
        processes: That share the work.

    Returns:
        The same, of which the main process alone knows.

    Raises:
        ValueError: If the folder cannot be used, or another run is at work in it.
        FullDiskError: If the disk is full; what is complete is kept.
    """
    args.output = args.output.absolute()
    was_there = args.output.exists()
    with ExitStack() as stack:
        tasks, outcomes = processes.from_main(lambda: plan(args, stack))
        if processes.is_main:
            tell(outcomes)
        maker = ClipMaker(args.prompts, args.output, processes, shows_steps=processes.is_main and not args.ray)
        chunks = processes.share(in_batches(tasks, args.batch_size))
        made = run_on_ray(maker, chunks, args.num_processes, args.device) if args.ray else map(maker, chunks)
        outcomes += processes.gather(follow(made, sum(map(len, chunks)), processes))
        if processes.is_main:
            remove(args.output / WORK)
            settle_list(args.output)
    if not processes.is_main:
        return []
    if not was_there and not any(args.output.iterdir()):
        args.output.rmdir()
    counts = Counter(outcome.status for outcome in outcomes)
    told_how = f": {args.output / LIST} tells how" if (args.output / LIST).exists() else ""
    print(f"made {counts['made']}, there already {counts['there']}, refused {counts['refused']}{told_how}")
    return outcomes


def follow(outcomes: Iterable[Sequence[Outcome]], total: int, processes: Processes) -> list[Outcome]:
    """Collect outcomes as they come, which the main process shows."""
    singles = (outcome for batch in outcomes for outcome in told(batch, processes))
    return list(followed(singles, total, "generating") if processes.is_main and total else singles)


def told(outcomes: Sequence[Outcome], processes: Processes) -> Sequence[Outcome]:
    """The same outcomes, of which one process has said why lines have no clip."""
    if processes.is_main or not processes.share_clips:
        tell(outcomes)
    return outcomes


def tell(outcomes: Iterable[Outcome]) -> None:
    """Say why lines have no clip."""
    for outcome in outcomes:
        if outcome.reason:
            tqdm.write(outcome.reason, file=sys.stderr)


# 1. What is missing


def plan(args: argparse.Namespace, stack: ExitStack) -> tuple[list[Task], list[Outcome]]:
    """Take the folder for this run, and find out which of its clips are missing.

    Args:
        args: The command line with its `rows` and `refused` lines.
        stack: Holds the folder until it is left.
    """
    take_folder(args.output, stack)
    known = settle_list(args.output)
    outcomes = [Outcome(line, "refused", reason) for line, reason in args.refused]
    tasks = []
    digest = functools.cache(digest_path)
    for row in args.rows:
        try:
            task = task_of(row, args.output, digest)
            if is_there(task, args.output, known):
                outcomes.append(Outcome(row.line, "there"))
                continue
            task.args.seed = draw_seed(task.args)
            tasks.append(task._replace(settings=task.settings | {"seed": task.args.seed}))
        except (ValueError, OSError) as error:
            outcomes.append(refusal(args.prompts, row.line, one_line(error)))
    return tasks, sorted(outcomes)


def take_folder(folder: Path, stack: ExitStack) -> None:
    """Make a folder and hold it for one run; what a killed one left unfinished goes."""
    try:
        stack.enter_context(held_alone(folder, "--output"))
        remove(folder / WORK)
        (folder / WORK).mkdir()
    except FolderInUseError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        raise ValueError(
            f"`--output` must be a folder that can be written, got {folder} ({error.strerror}); choose another"
        ) from error


def task_of(row: Row, folder: Path, digest: Callable[[Path], str]) -> Task:
    """The clip of a row, with all that decides it."""
    name = str((row.args.output if row.args.output.is_absolute() else row.args.output.absolute()).relative_to(folder))
    values = {name: plain(value) for name, value in vars(row.args).items() if name not in PLACES}
    paths = {name: Path(values[name]) for name in FILES if values[name] is not None}
    files = {name: digest(path) for name, path in paths.items() if path.exists()}  # a name on the Hub is none
    values["lora"] = [[str(Path(one)) if Path(one).exists() else one, *more] for one, *more in values["lora"]]
    files |= {f"lora {source}": digest(Path(source)) for source, _ in values["lora"] if Path(source).exists()}
    if recordings := getattr(row.args, "speaker_audio", None):
        values["speaker_audio"] = [str(path.absolute()) for path in recordings]
        files["speaker_audio"] = " ".join(digest(path) for path in recordings)
    values["keyframe"] = [[keyframe.frame, digest(keyframe.path)] for keyframe in row.args.keyframe]
    if row.args.keyframe:
        values[KEYFRAME_FILES] = [f"{frame}={path.absolute()}" for frame, path in row.args.keyframe]
    named = {name: name_of_source(path) for name, path in paths.items() if name == "model" and name in files}
    return Task(row.line, name, row.args, values | named | {"files": files})  # their content decides, not their place


def plain(value: Any) -> Any:
    """An argument as JSON gives it back."""
    return str(value.absolute()) if isinstance(value, Path) else json.loads(json.dumps(value, default=str))


def is_there(task: Task, folder: Path, known: Mapping[str, Any]) -> bool:
    """Whether the clip of a task was made already.

    Raises:
        ValueError: If its file is there and is another clip, or was made with other settings.
    """
    path = folder / task.name
    if not path.exists():
        return False
    if path.is_dir():
        raise ValueError(f"`output` must be a file, got the folder {task.name}; delete or rename it")
    if task.name not in known:
        raise ValueError(f"`output` must be a new file or one of {LIST}, got {task.name}; delete or rename that file")
    check_origin(deciding(known[task.name]["settings"]), deciding(task.settings), path)
    return path.stat().st_size > 0  # an emptied one is missing


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that two runs must share; a seed that is not given is any, and content counts for files.

    Of some settings none is as good as a list that knows of none.
    """
    settings = {name: value for name, value in settings.items() if name not in SILENT or value not in (None, [])}
    return {name: value for name, value in settings.items() if name not in (*settings["files"], KEYFRAME_FILES)}


# 2. Making


@dataclass
class ClipMaker:
    """Makes clips, with a model that stays loaded; can be sent to other processes, where it loads its own.

    Attributes:
        source: The list, for messages.
        folder: Of the clips.
        processes: That share the work; alone on Ray.
        shows_steps: Whether a bar shows the steps of each clip.
    """

    source: Path
    folder: Path
    processes: Processes
    shows_steps: bool
    _pipeline: JoVAPipeline | None = field(default=None, init=False)
    _loaded: str = field(default="", init=False)  # which one it is, or the one that failed to load
    _failure: Exception | None = field(default=None, init=False)

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Make the clips of tasks that differ in `OF_A_CLIP` alone; those of a batch that fails, one by one."""
        try:
            self.make(tasks)
        except FullDiskError:
            raise
        except ROW_ERRORS as error:
            if isinstance(error, torch.OutOfMemoryError) and self.processes.share_clips:
                raise  # the others may wait within the clip, and no row would find them
            if len(tasks) > 1 and not self.processes.share_clips:  # the others would wait for this process alone
                return [outcome for task in tasks for outcome in self([task])]
            reason = OUT_OF_MEMORY if isinstance(error, torch.OutOfMemoryError) else one_line(error)
            return [refusal(self.source, task.line, reason) for task in tasks]
        return [Outcome(task.line, "made") for task in tasks]

    def make(self, tasks: Sequence[Task]) -> None:
        """Make and write the clips of tasks; what is said of them names their lines."""
        with naming_lines(tasks):
            self._make(tasks)

    def _make(self, tasks: Sequence[Task]) -> None:
        started = time.monotonic()
        arguments = [call_arguments(task.args, functools.partial(tell_of, [task])) for task in tasks]
        pipeline = self.load(tasks[0].args, arguments[0])
        for task, given in zip(tasks, arguments, strict=True):
            check_cost(pipeline, task.args, given)
            is_told = self.processes.is_main or not self.processes.share_clips
            tell_strangers(pipeline, task.args, functools.partial(tell_of, [task]) if is_told else tell_nobody)
        generators = [torch.Generator().manual_seed(task.args.seed) for task in tasks]
        varied: dict[str, Any] = {"prompt": arguments[0]["prompt"], "generator": generators[0]}
        if len(tasks) > 1:
            varied = {"prompt": [one["prompt"] for one in arguments], "generator": generators}
        output: Any = pipeline(**arguments[0] | varied)
        seconds = (time.monotonic() - started) / len(tasks)

        def write_all() -> None:
            for index, task in enumerate(tasks):
                self.write(output, index, task, describe(pipeline, output, index) | {"seconds": round(seconds, 3)})

        if self.processes.share_clips:
            self.write_for_all(write_all)
        else:
            write_all()

    def write_for_all(self, write_all: Callable[[], None]) -> None:
        """Let the main process write, and all of those that work on a clip go on, refuse it or end with it."""

        def reason() -> str:
            try:
                write_all()
            except FullDiskError:
                raise
            except ROW_ERRORS as error:
                return one_line(error)
            return ""

        if said := self.processes.from_main(reason):
            raise ValueError(said)

    def load(self, args: argparse.Namespace, arguments: Mapping[str, Any]) -> JoVAPipeline:
        """The pipeline that the words of a clip ask for; only the last one stays loaded.

        Args:
            args: The words.
            arguments: Of its call, whose media say how much memory it takes.
        """
        if (key := pipeline_key(args)) != self._loaded:
            self._pipeline, self._failure, self._loaded = None, None, key
            try:
                self._pipeline = load_pipeline(args, choose_device(self.processes.place(args.device)), arguments)
                self.processes.share_clip(self._pipeline)
            except ROW_ERRORS as error:
                self._failure = error.with_traceback(None)  # which would keep what was loaded
        if self._failure is not None:
            raise self._failure
        assert self._pipeline is not None
        self._pipeline.set_progress_bar_config(position=1, leave=False, disable=None if self.shows_steps else True)
        return self._pipeline

    def write(self, output: Any, index: int, task: Task, made: dict[str, Any]) -> None:
        """Write one clip of a batch: the file, then its line, then its name."""
        path = self.folder / task.name
        unfinished = self.folder / WORK / f"{uuid4().hex}{path.suffix}"
        with explained_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            signs = read_credentials(task.args)
            output.save(unfinished, index, metadata=not task.args.no_metadata, credentials=signs)
            append_line(self.folder / LIST, {"output": task.name, "settings": task.settings, "made": made})
            unfinished.replace(path)


def describe(pipeline: JoVAPipeline, output: Any, index: int) -> dict[str, Any]:
    """The settings that the record of a clip tells, see `provenance.describe_call`, and where and with what it ran."""
    return {
        **output.provenance[index]["settings"],
        "sampling_rate": output.sampling_rate,
        "device": str(pipeline._execution_device),
        "versions": {
            "diffusers_jova": __version__,
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
        },
    }


def tell_of(tasks: Sequence[Task], said: str) -> None:
    """Say something about clips, of which a list has many."""
    tqdm.write(f"{lines_of(tasks)}: {said}", file=sys.stderr)


def tell_nobody(said: str) -> None:
    """Say nothing, as another process does."""


@contextmanager
def naming_lines(tasks: Sequence[Task]) -> Iterator[None]:
    """Let what this package logs begin with the lines of clips that are being made."""
    make_record = logging.getLogRecordFactory()

    def make_named(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        if record.name.partition(".")[0] == __package__:
            record.msg, record.args = f"{lines_of(tasks)}: {record.getMessage()}", ()
        return record

    logging.setLogRecordFactory(make_named)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make_record)


def lines_of(tasks: Sequence[Task]) -> str:
    """Where in their list clips stand."""
    return f"line{'s' if len(tasks) > 1 else ''} {', '.join(str(task.line) for task in tasks)}"


def in_batches(tasks: Sequence[Task], batch_size: int) -> list[list[Task]]:
    """Tasks in batches that differ in `OF_A_CLIP` alone, those of one pipeline behind each other."""
    batches: list[list[Task]] = []
    latest: dict[str, list[Task]] = {}  # by what a batch has in common
    for task in sorted(tasks, key=lambda task: pipeline_key(task.args)):
        values = {name: plain(value) for name, value in vars(task.args).items() if name not in (*OF_A_CLIP, "output")}
        batch = latest.get(key := json.dumps(values))
        if batch is None or len(batch) == batch_size:
            batch = latest[key] = []
            batches.append(batch)
        batch.append(task)
    return batches


def pipeline_key(args: argparse.Namespace) -> str:
    """Which pipeline arguments ask for."""
    names = OF_A_PIPELINE if args.memory is None else (*OF_A_PIPELINE, *OF_A_PLAN)
    return json.dumps([plain(getattr(args, name)) for name in names])


# 3. What was made


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line of JSON, whoever else adds one; behind half a line of a killed run a new one begins."""
    with path.open("a+b") as file, in_turn(file):
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        is_open = file.read(1) not in (b"", b"\n")
        file.write(f"{chr(10) if is_open else ''}{json.dumps(record)}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def settle_list(folder: Path) -> dict[str, Any]:
    """Read what was made, and leave in the file one line for each clip that is there."""
    path = folder / LIST
    if not path.exists():
        return {}
    text, records = path.read_text(encoding="utf-8", errors="replace"), {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
            is_there = (folder / record["output"]).exists()
            deciding(record["settings"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            tqdm.write(f"{path}, line {number} is damaged and left out", file=sys.stderr)
            continue
        if is_there:
            records[record["output"]] = record
    settled = "".join(f"{json.dumps(record)}\n" for record in records.values())
    if settled != text:
        write_text(path, settled)
    return records
