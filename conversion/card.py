"""The model card of a conversion: where the weights come from, under which terms, what was done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """Terms of one component.

    Attributes:
        component: Sub-folder or file that the terms are about.
        origin: Hub or GitHub repository that published it.
        identifier: Licence tag as the hub spells it.
        note: One sentence for a reader who wants to use the result.
    """

    component: str
    origin: str
    identifier: str
    note: str


WAN = Licence("video tower", "Wan-AI", "apache-2.0", "Wan2.1 and Wan2.2 weights are published under Apache-2.0.")
OVI = Licence("both towers", "chetwinlow1/Ovi", "apache-2.0", "Ovi is published under Apache-2.0.")
NAVA = Licence(
    "transformer",
    "ernie-research/NAVA",
    "apache-2.0",
    "NAVA's code and weights are published under Apache-2.0; third-party parts keep their own terms.",
)
MMAUDIO = Licence(
    "audio VAE or vocoder",
    "hkchengrex/MMAudio",
    "cc-by-nc-4.0",
    "MMAudio's checkpoints are CC-BY-NC 4.0 by its README (the hub tag says MIT): not for commercial use.",
)
BIGVGAN = Licence("vocoder", "nvidia/bigvgan_v2_44khz_128band_512x", "mit", "BigVGAN v2 weights are MIT, (c) NVIDIA.")


def model_card(title: str, licences: Sequence[Licence], done: Sequence[str], run: str) -> str:
    """Compose the README of an output folder.

    Args:
        title: Heading.
        licences: Terms of every component; a non-commercial one gives the tag, otherwise the first one does.
        done: What the conversion did, one sentence each.
        run: Python code that loads the folder.
    """
    tag = next((entry.identifier for entry in licences if "nc" in entry.identifier.split("-")), licences[0].identifier)
    rows = [f"| {entry.component} | {entry.origin} | {entry.identifier} | {entry.note} |" for entry in licences]
    return "\n".join(
        [
            "---",
            f"license: {tag}",
            "library_name: diffusers",
            "---",
            "",
            f"# {title}",
            "",
            "Converted weights of another project. Nothing about their quality was measured after the conversion.",
            "",
            "| component | origin | licence | note |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            *(f"- {sentence}" for sentence in done),
            "",
            "```python",
            run.strip(),
            "```",
            "",
        ]
    )
