"""The tables of the ablations: which arms stand beside each other, and what their runs measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from diffusers_jova.recipes.model_card import markdown_table


class Comparison(NamedTuple):
    """Arms that are trained alike, as tables.

    Args:
        name: Of the section of the model card, and of the report.
        heading: Of the section.
        introduction: What the arms have in common, besides what all comparisons have.
        base: The arm that the others are compared with, a key of `ARMS`.
        tables: Rows of label and arm, by what stands above the labels.
        stage_1: Transformer whose branches are trained here; None for those of jova-tiny.
        tells_cost: Whether the size of each arm and the time of its steps are told.
    """

    name: str
    heading: str
    introduction: str
    base: str
    tables: Mapping[str, Mapping[str, str]]
    stage_1: str | None = None
    tells_cost: bool = False

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms, that which the others are compared with first."""
        return tuple(dict.fromkeys([self.base, *chain.from_iterable(rows.values() for rows in self.tables.values())]))


MOUTH_WEIGHTS = {"0": "lambda-0", "2": "lambda-2", "5": "base", "8": "lambda-8"}
ABLATIONS = Comparison(
    "ablations",
    "Ablations",
    "The paper's Tables 3, 4 and 5 in small. Without alignment, the audio branch of stage 1 was trained without it, "
    "too.",
    "base",
    {
        "Weight of the mouth loss (Tab. 3)": MOUTH_WEIGHTS,
        "Alignment of the time axes (Tab. 4)": {"none": "unaligned", "by time": "base"},
        "How the branches meet (Tab. 5)": {
            "cross-attention": "cross",
            "cross-attention, linear": "cross-linear",
            "joint attention": "base",
        },
    },
)
MOUTH = Comparison(
    "mouth",
    "The weight of the mouth loss, in longer runs",
    "The paper's Table 3 again, with more steps.",
    "base",
    {"Weight of the mouth loss": MOUTH_WEIGHTS},
)
FUSION = Comparison(
    "fusion",
    "How the branches meet, in longer runs",
    "The paper's Table 5 again, with more steps. Time is that of a training step beside joint attention's, in turns.",
    "base",
    {
        "How the branches meet": {
            "cross-attention": "cross",
            "cross-attention, linear": "cross-linear",
            "joint attention": "base",
        },
    },
    tells_cost=True,
)
TOWERS = Comparison(
    "towers",
    "What couples two towers",
    "Two towers of Wan blocks, six each, 192 wide. What couples them is added between them and begins silent; joint "
    "attention adds no weights and is heard at once. As in UniAVGen, video with aligned attention also reads a copy "
    "of its first latent, which stage 1 did not have; the loss of face masks is left out. Time is that of a training "
    "step beside joint attention's, in turns.",
    "towers-joint",
    {
        "How the towers meet": {
            "a bridge (MOVA)": "towers-bridge",
            "aligned attention (UniAVGen)": "towers-aligned",
            "in the attention to text (Ovi)": "towers-text-cross",
            "joint attention (JoVA)": "towers-joint",
        },
    },
    "jova_tiny_towers.json",
    tells_cost=True,
)
COMPARISONS = {comparison.name: comparison for comparison in (ABLATIONS, MOUTH, FUSION, TOWERS)}
STEPS = 120  # of `make ablations`, unless it is told others
# fmt: off
COLUMNS = {  # measure: heading
    "sync_within_one_frame": "sync within one frame",
    "lse_c":                 "LSE-C",
    "lse_d":                 "LSE-D",
    "envelope_correlation":  "mouth and envelope",
    "word_top1":             "words, top-1 of 10",
    "identity_correct":      "colours all right",
}
# fmt: on


def aggregate(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each measure, with what the arm's runs have in common."""
    names = results[0]["measures"]
    values = {
        name: np.array([result["measures"][name] for result in results if name in result["measures"]])
        for name in names
    }
    return {
        "seeds": len(results),
        **{key: results[0]["settings"][key] for key in ("steps", "clips")},
        **{key: results[0][key] for key in ("samples", "parameters")},
        "mean": {name: float(column.mean()) for name, column in values.items()},
        "spread": {name: float(column.std(ddof=min(len(column) - 1, 1))) for name, column in values.items()},
    }


def describe(
    comparison: Comparison,
    arms: Mapping[str, Mapping[str, Any]],
    origin: Mapping[str, str],
    command: str = "",
    *,
    own_section: bool = True,
) -> str:
    """The section of the model card: one table per table of the comparison.

    Args:
        comparison: What is tabulated.
        arms: What the runs of each measured.
        origin: Date and commit.
        command: Repeats the runs; empty where `make ablations` does.
        own_section: Whether the section is the comparison's own; the heading of another tells its samples.
    """
    base = arms[comparison.base]
    steps = f" STEPS={base['steps']}" if base["steps"] != STEPS else ""
    again = command or f"make ablations COMPARE={comparison.name}{steps}"
    text = [
        f"## {comparison.heading}" + ("" if own_section else f": {base['samples']:,} samples"),
        f"{comparison.introduction} Every arm begins with the branches of stage 1 and sees the same "
        f"{base['samples']:,} samples of stage 2 ({base['steps']:,} steps); {_runs(base)}. Tabulated on "
        f"{origin['date'][:10]} at commit {origin['commit']}; `{again}` repeats it.",
    ]
    for title, rows in comparison.tables.items():
        lines = [[label, *(_figure(arms[arm], name) for name in COLUMNS)] for label, arm in rows.items()]
        header = [title, *COLUMNS.values()]
        if comparison.tells_cost:
            header += ["parameters", "time of a step"]
            for line, arm in zip(lines, rows.values(), strict=True):
                line += [f"{arms[arm]['parameters'] / 1e6:.1f} M", f"{arms[arm]['relative_time']:.2f}"]
        text.append(markdown_table(header, lines))
    return "\n\n".join(text)


def _runs(arm: Mapping[str, Any]) -> str:
    prompts = f"{arm['clips']} held-out prompts"
    if arm["seeds"] == 1:
        return f"one seed of data order and noise, {prompts}, so no spread over seeds is known"
    return f"{arm['seeds']} seeds of data order and noise, {prompts} each; mean +- standard deviation over seeds"


def _figure(arm: Mapping[str, Any], name: str) -> str:
    if name not in arm["mean"]:
        return "-"
    return f"{arm['mean'][name]:.3f}" + (f" +- {arm['spread'][name]:.3f}" if arm["seeds"] > 1 else "")
