"""Rename tables: which tensors of a checkpoint become which parameters of a model, and what happens to each.

A pattern is a key with named holes: `{i}`, `{j}`, `{r}` are indices, `{path}` is any dotted path, every other hole is
one part of a name. A table is complete: a key without a rule is an error, and so is a rule without a key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor


Transform = Callable[..., Tensor]

HOLES = {"i": r"\d+", "j": r"\d+", "r": r"\d+", "path": r".+"}
MOST_LISTED = 12


def keep(tensor: Tensor) -> Tensor:
    """Return the tensor as it is."""
    return tensor


@dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
        source: Pattern of one key, or patterns of the keys that are merged into one tensor.
        target: Pattern of the parameter, or of every parameter that receives a copy; empty leaves the tensor out.
        transform: Computes the target tensor from the source tensors, in the order of `source`.
    """

    source: str | tuple[str, ...]
    target: str | tuple[str, ...]
    transform: Transform = keep

    @property
    def sources(self) -> tuple[str, ...]:
        """Source patterns, always a tuple."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def targets(self) -> tuple[str, ...]:
        """Target patterns, always a tuple."""
        return (self.target,) if isinstance(self.target, str) else self.target


@dataclass(frozen=True)
class Move:
    """A rule applied to the keys of a checkpoint: `transform(*sources)` is written to every target."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    transform: Transform


@cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Turn a pattern into the regular expression that binds its holes."""
    parts = re.split(r"\{(\w+)\}", pattern)
    expression = "".join(
        f"(?P<{part}>{HOLES.get(part, '[^.]+')})" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )
    return re.compile(expression)


def plan(keys: Iterable[str], rules: Sequence[Rule]) -> list[Move]:
    """Assign every key to exactly one rule, in the order of the keys.

    Raises:
        ValueError: A key has no rule or two, a rule finds no key or only some of its sources, two rules write one
            target.
    """
    groups: dict[tuple[int, tuple[tuple[str, str], ...]], dict[str, str]] = {}
    unknown = []
    for key in keys:
        matches = list(matching_rules(key, rules))
        if len(matches) > 1:
            raise ValueError(f"tables must match each key once, got {len(matches)} rules for `{key}`; mend the table")
        if not matches:
            unknown.append(key)
            continue
        index, pattern, holes = matches[0]
        groups.setdefault((index, tuple(sorted(holes.items()))), {})[pattern] = key
    used = {index for index, _ in groups}
    unused = [" + ".join(rule.sources) for index, rule in enumerate(rules) if index not in used]
    refuse_leftovers(unknown, unused)
    moves = [bind(rules[index], dict(holes), found) for (index, holes), found in groups.items()]
    refuse_duplicates(target for move in moves for target in move.targets)
    return moves


def matching_rules(key: str, rules: Sequence[Rule]) -> Iterable[tuple[int, str, dict[str, str]]]:
    """Yield (index of the rule, pattern, hole values) for every rule that takes the key."""
    for index, rule in enumerate(rules):
        for pattern in rule.sources:
            if match := compile_pattern(pattern).fullmatch(key):
                yield index, pattern, match.groupdict()


def bind(rule: Rule, holes: Mapping[str, str], found: Mapping[str, str]) -> Move:
    """Fill the holes of a rule whose sources were found under the given keys."""
    if absent := [pattern.format(**holes) for pattern in rule.sources if pattern not in found]:
        raise ValueError(
            f"checkpoint must hold {listed(absent)} beside {listed(found.values())}, got neither in any file; "
            "download the missing part"
        )
    sources = tuple(found[pattern] for pattern in rule.sources)
    return Move(sources, tuple(target.format(**holes) for target in rule.targets), rule.transform)


def refuse_leftovers(unknown: Sequence[str], unused: Sequence[str]) -> None:
    """Raise when keys found no rule or rules found no key."""
    problems = []
    if unknown:
        problems.append(f"{len(unknown)} tensors that no rule knows: {listed(unknown)}")
    if unused:
        problems.append(f"none for {len(unused)} rules: {listed(unused)}")
    if problems:
        raise ValueError(
            f"checkpoint must hold exactly the tensors of its table, got {'; and '.join(problems)}; "
            "check that the file belongs to this kind of conversion"
        )


def refuse_duplicates(names: Iterable[str]) -> None:
    """Raise when two tensors would be written under one name."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"tables must write each parameter once, got several sources for {listed(twice)}")


def listed(names: Iterable[str]) -> str:
    """Join names for a message; long lists end in their length."""
    names = list(names)
    shown = ", ".join(f"`{name}`" for name in names[:MOST_LISTED])
    return shown if len(names) <= MOST_LISTED else f"{shown} and {len(names) - MOST_LISTED} more"


def prefixed(rules: Iterable[Rule], source: str, *targets: str) -> list[Rule]:
    """Put a prefix before all sources, and before all targets one copy per given prefix."""
    return [
        Rule(
            tuple(source + name for name in rule.sources),
            tuple(target + name for target in targets for name in rule.targets),
            rule.transform,
        )
        for rule in rules
    ]


def inverse(rules: Iterable[Rule]) -> list[Rule]:
    """Swap sources and targets of a table that only renames; of several copies the first one goes back."""
    rules = list(rules)
    if changed := [rule for rule in rules if rule.transform is not keep or len(rule.sources) > 1]:
        raise ValueError(f"a reversible table must only rename, got a transform for {listed(changed[0].sources)}")
    return [Rule(rule.targets[0], rule.source) for rule in rules if rule.targets]
