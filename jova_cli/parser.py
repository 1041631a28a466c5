"""A parser whose errors are one sentence."""

import argparse
import difflib
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NoReturn, TextIO


LANGUAGE_CODE = re.compile("[a-z]{2,3}")  # ISO 639, as Whisper names what it hears
DTYPES = ("float32", "bfloat16", "float16")  # the names of torch; the short ones are taken as well
NOTHING_WRITTEN = "nothing was written"
OPTION = re.compile(r"(--?[A-Za-z][\w-]*)(=.*)?", re.DOTALL)  # what argparse takes for one; the value may be any text
REQUIRED = re.compile(r"the following arguments are required: (.*)")  # as argparse says it
NO_VALUE = re.compile(r"argument (\S+?): expected (?:one|at least one) argument")
UNREAD = re.compile(r"unrecognized arguments: (.*)", re.DOTALL)
KINDS = {int: "a whole number", float: "a number"}  # of options, by what reads them
OTHER_NAMES = {  # of Python, of other tools and trainers
    "num_inference_steps": "steps",
    "generator": "seed",
    "fps": "frame_rate",
    "lr": "learning_rate",
    "lr_scheduler": "learning_rate_schedule",
    "lr_warmup_steps": "warmup_steps",
    "max_train_steps": "steps",
    "rank": "lora_rank",
    "network_dim": "lora_rank",
    "network_alpha": "lora_alpha",
    "alpha": "lora_alpha",
    "train_batch_size": "batch_size",
    "save_every_n_steps": "checkpoint_every",
    "checkpointing_steps": "checkpoint_every",
    "timestep_sampling": "density",
    "discrete_flow_shift": "shift",
    "init_lora": "init_adapter",
    "network_weights": "init_adapter",
    "optimizer_type": "optimizer",
}
SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def descriptor_of(stream: TextIO | None) -> int | None:
    """Number of the file that a stream writes to; None for one that is closed or writes into memory."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


def is_unread(descriptor: int) -> bool:
    """Whether what reads a pipe has gone."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


class RefusedValueError(argparse.ArgumentError):
    """A value that an option does not take; the message is the whole sentence."""

    def __str__(self) -> str:
        return str(self.message)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence and whose description keeps its lines."""

    def __init__(self, kept: Callable[[argparse.Namespace], str] | None = None, **options: Any) -> None:
        """Build the parser of one command.

        Args:
            kept: Says, for its words, what an interrupted run leaves; None for a command that writes nothing.
            options: Of `argparse.ArgumentParser`.
        """
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})
        numbers = self._negative_number_matcher.pattern  # what begins with a minus and is a value
        self._negative_number_matcher = re.compile(rf"{numbers}|^-\d+=")
        self.kept = kept
        self.given_words: Sequence[str] = ()

    def run(self, work: Callable[["Parser", argparse.Namespace], None], args: argparse.Namespace) -> None:
        """Do the work of the command; Ctrl-C ends it with one line and the exit code that shells expect."""
        try:
            work(self, args)
            if sys.stdout is not None:  # as it is where a shell closed it
                sys.stdout.flush()
        except BrokenPipeError:
            self.end_unread()
            raise
        except KeyboardInterrupt:
            said = f"; {self.kept(args)}" if self.kept else ""
            self.exit(128 + signal.SIGINT, f"\n{self.prog}: ended by Ctrl-C{said}\n")

    def end_unread(self) -> None:
        """End without a word where nobody reads the output any more, as behind `| head`, with the code of shells."""
        descriptor = descriptor_of(sys.stdout)
        if descriptor is not None and is_unread(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)  # what is left to be written at the end goes there
            self.exit(128 + signal.SIGPIPE)

    def error(self, message: str) -> NoReturn:
        """Print the sentence to stderr and exit with 2."""
        if isinstance(sys.exception(), BrokenPipeError):
            self.end_unread()
        help_of_it = f"`{self.prog} --help` explains them"
        if missing := REQUIRED.fullmatch(message):
            names = ", ".join(f"`{name}`" for name in missing[1].split(", "))
            message = f"{names} must be given, got none; {help_of_it}{self.choices_of(missing[1].split(', '))}"
        elif valueless := NO_VALUE.fullmatch(message):
            option = valueless[1].split("/")[-1]
            got = self.value_like_an_option(option)
            advice = f"write `{option}={got}`" if got else help_of_it
            message = f"`{option}` must be followed by a value, got {f'`{got}`' if got else 'none'}; {advice}"
        elif unread := UNREAD.fullmatch(message):
            rule = f"every word must be an option or what one takes, got `{unread[1]}`"
            message = f"{rule}; quote texts with blanks, and repeat the option for another value"
        self.exit(2, f"{self.prog}: {message}\n")

    def choices_of(self, names: Sequence[str]) -> str:
        """What arguments without a default may be, where they have choices; empty where none has."""
        lists = {action.metavar or action.dest: action.choices for action in self._actions if action.choices}
        return "".join(f"; `{name}` is one of {', '.join(map(str, lists[name]))}" for name in names if name in lists)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is none of the choices, and name the nearest."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            advice = did_you_mean(str(value), known, f"`{self.prog} --help` explains them")
            rule = f"`{name_of(action)}` must be one of {', '.join(known)}, got {value}"
            raise RefusedValueError(action, f"{rule}; {advice}")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Read a value, or say what it must be."""
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            kind = next((kind for of, kind in KINDS.items() if action.type is of), None)
            if kind is None and (error.message or "").startswith("`"):  # a sentence of what reads the value
                raise RefusedValueError(action, str(error.message)) from error
            if kind is None:
                raise
            example = "use 8, say" if action.type is int else "use 1.5, say"
            rule = f"`{name_of(action)}` must be {kind}, got {arg_string!r}; {example}"
            raise RefusedValueError(action, rule) from error

    def parse_checked(
        self, argv: Sequence[str] | None, check: Callable[[argparse.Namespace], None], *, intermixed: bool = False
    ) -> argparse.Namespace:
        """Parse, and refuse what `check` raises.

        Args:
            argv: The words of the command line; None takes the program's.
            check: Raises what is wrong with the arguments, as far as it shows without the work.
            intermixed: Whether words and options may follow each other in any order.
        """
        self.check_options(sys.argv[1:] if argv is None else argv)
        args = (self.parse_intermixed_args if intermixed else self.parse_args)(argv)
        try:
            check(args)
        except (ValueError, OSError) as error:
            self.error(one_line(error))
        return args

    def check_options(self, words: Sequence[str]) -> None:
        """Refuse a misspelt option, and one of which a value would be lost, before what is missing without them.

        What follows `--` is no option.
        """
        given: list[argparse.Action] = []
        self.given_words = words[: words.index("--")] if "--" in words else words
        for before, word in pairwise(["", *self.given_words]):
            named = OPTION.fullmatch(word)
            meant = [] if named is None else self.check_known(word, before)
            if len(meant) == 1 and meant[0] in given and takes_one_value(meant[0]):
                option = meant[0].option_strings[-1]
                self.error(f"an option must be given once, got `{option}` several times; leave all but one out")
            given += meant

    def check_known(self, word: str, before: str) -> list[argparse.Action]:
        """The options that a name, written out or shortened, can mean; refuses one that means none.

        Args:
            word: The name, perhaps with its value behind `=`.
            before: The word in front of it; a value of that may look like an option.
        """
        known = self._option_string_actions
        name = word.partition("=")[0]
        if name in known:
            return [known[name]]
        near = (action for option, action in known.items() if option.startswith(name) or option == name[:2])
        if not (meant := list(dict.fromkeys(near))):
            names = [option.lstrip("-") for option in known]
            advice = self.advice_on(name, names)
            if not name.startswith("--") and before in known and known[before].nargs != 0:
                advice = f"a value that begins with a dash is written `{before}={word}`"
            self.error(f"an option must be one of `{self.prog}`, got `{name}`; {advice}")
        return meant

    def advice_on(self, name: str, names: Sequence[str]) -> str:
        """What to write in place of an option that there is not.

        Args:
            name: As it was given.
            names: Of the options that there are.
        """
        return did_you_mean(name.lstrip("-"), names, f"`{self.prog} --help` lists them", prefix="--")

    def value_like_an_option(self, option: str) -> str:
        """The word behind an option that begins with a dash and is no option; empty where there is none."""
        following = next((word for before, word in pairwise(self.given_words) if before == option), "")
        return following if following.startswith("-") and OPTION.fullmatch(following) is None else ""


def name_of(action: argparse.Action) -> str:
    """What an argument is called on a command line."""
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)


def takes_one_value(action: argparse.Action) -> bool:
    """Whether an option that is given again loses what it was given first."""
    return action.nargs != 0 and not isinstance(action, argparse._AppendAction)


def did_you_mean(name: str, known: Sequence[str], otherwise: str, prefix: str = "") -> str:
    """Advice on a name that nobody knows.

    Args:
        name: What was given.
        known: What could have been.
        otherwise: The advice where nothing known is near.
        prefix: Of the nearest name, as it is to be written.
    """
    meant = OTHER_NAMES.get(name.replace("-", "_"), "")
    called = [option for option in known if option.replace("-", "_") == meant]
    near = called or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{prefix}{near[0]}`?" if near else otherwise


def dtype_name(text: str) -> str:
    """The name of a number format in torch, for that name or a short one."""
    return SHORT_DTYPES.get(text, text)


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())
