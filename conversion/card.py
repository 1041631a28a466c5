"""The model card of a conversion: where the weights come from, under which terms, what was done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jova_cli.model_info import licence_of


PERMISSIVE = {"apache-2.0", "mit"}


@dataclass(frozen=True)
class Licence:
    """Terms of one component.

    Attributes:
        component: Part of the model that the terms are about; in a pipeline, its sub-folder.
        origin: Hub or GitHub repository that published it.
        identifier: Licence as the hub spells it.
        note: One sentence for a reader who wants to use the result.
    """

    component: str
    origin: str
    identifier: str
    note: str


WAN = Licence("transformer", "Wan-AI", "apache-2.0", "Video tower: Wan2.1 and Wan2.2 weights are under Apache-2.0.")
OVI = Licence("transformer", "chetwinlow1/Ovi", "apache-2.0", "Both towers: Ovi is published under Apache-2.0.")
NAVA = Licence(
    "transformer",
    "ernie-research/NAVA",
    "apache-2.0",
    "NAVA's code and weights are published under Apache-2.0; third-party parts keep their own terms.",
)
MOVA = Licence("transformer", "OpenMOSS/MOVA", "apache-2.0", "MOVA's code and weights are published under Apache-2.0.")
UNIAVGEN = Licence(
    "transformer",
    "MCG-NJU/UniAVGen",
    "apache-2.0",
    "By the README of its release; there is no licence file.",
)
UNIAVGEN_SPOKEN = replace(UNIAVGEN, component="spoken_text_encoder", note="From the same file, on the same terms.")
UNIAVGEN_MEL = replace(
    UNIAVGEN, component="audio_vae", note="No network: log-mel frames, normalised by two numbers of its code."
)
CHARACTERS = Licence(
    "spoken_tokenizer",
    "SWivid/F5-TTS",
    "mit",
    "A list of characters in the code of F5-TTS, which is MIT; its weights, which are not, are not used.",
)
QWEN_VOCODER = Licence(
    "vocoder",
    "MCG-NJU/UniAVGen",
    "unknown",
    "A vocoder of Qwen2.5-Omni; the release does not say of which model, so its licence is not known here: look at "
    "theirs before commercial use.",
)
MMAUDIO = Licence(
    "audio VAE or vocoder",
    "hkchengrex/MMAudio",
    "cc-by-nc-4.0",
    "MMAudio's checkpoints are CC-BY-NC 4.0 by its README (the hub tag says MIT): not for commercial use.",
)
BIGVGAN = Licence("vocoder", "nvidia/bigvgan_v2_44khz_128band_512x", "mit", "BigVGAN v2 weights are MIT, (c) NVIDIA.")


UMT5_NOTE = "UMT5-xxl, as Wan publishes it."
LTX_NOTE = "Asks large companies for a paid licence, and passes on to fine-tunes; read it before commercial use."
LTX = "ltx-2-community-license-agreement"
DAC = Licence(
    "audio_vae",
    "OpenMOSS/MOVA",
    "apache-2.0",
    "MOVA's audio VAE has the architecture of HunyuanVideo-Foley's, whose weights are under the Tencent Hunyuan "
    "Community License (not in the EU, the UK and South Korea); whether the weights are the same is not known.",
)
RELEASED_PARTS = {  # by component of a pipeline
    "tokenizer": Licence("tokenizer", "google/umt5-xxl", "apache-2.0", UMT5_NOTE),
    "text_encoder": Licence("text_encoder", "google/umt5-xxl", "apache-2.0", UMT5_NOTE),
    "vae": Licence("vae", "Wan-AI", "apache-2.0", "Wan's video VAE."),
    "audio_vae": Licence("audio_vae", "Lightricks/LTX-2.3", LTX, LTX_NOTE),
    "vocoder": Licence("vocoder", "Lightricks/LTX-2.3", LTX, LTX_NOTE),
}


def copied_licence(name: str, path: Path) -> Licence:
    """State the terms of a component that is copied from another folder, as that folder states them."""
    note = "Copied unchanged; the terms of its own repository apply."
    return Licence(name, repository_of(path.parent), licence_of(path.parent, path.name), note)


def repository_of(folder: Path) -> str:
    """Name the repository that a folder of the hub's cache belongs to; any other folder by its own name."""
    cached = next((part for part in folder.parts if part.startswith("models--")), None)
    return cached.removeprefix("models--").replace("--", "/", 1) if cached else folder.name


def strictest(identifiers: Sequence[str]) -> str:
    """Choose the licence of a whole: a non-commercial part decides, then one that is neither Apache nor MIT."""
    non_commercial = [identifier for identifier in identifiers if "nc" in identifier.split("-")]
    other = [identifier for identifier in identifiers if identifier not in PERMISSIVE]
    return (non_commercial or other or list(identifiers))[0]


def front_matter(licences: Sequence[Licence]) -> list[str]:
    """Compose the lines that the hub and `jova info` read; a pipeline states the licence of each component."""
    components = dict.fromkeys(entry.component for entry in licences)
    stated = {
        name: strictest([entry.identifier for entry in licences if entry.component == name]) for name in components
    }
    whole = strictest(list(stated.values()))
    is_known = whole in PERMISSIVE or whole.startswith("cc-")
    lines = [f"license: {whole}"] if is_known else ["license: other", f"license_name: {whole}"]
    if len(stated) > 1:
        lines += ["component_licenses:", *(f"  {name}: {licence}" for name, licence in stated.items())]
    return [*lines, "library_name: diffusers"]


def model_card(title: str, licences: Sequence[Licence], done: Sequence[str], run: str) -> str:
    """Compose the README of an output folder.

    Args:
        title: Heading.
        licences: Terms of every component.
        done: What the conversion did, one sentence each.
        run: Python code that loads the folder.
    """
    rows = [f"| {entry.component} | {entry.origin} | {entry.identifier} | {entry.note} |" for entry in licences]
    return "\n".join(
        [
            "---",
            *front_matter(licences),
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
