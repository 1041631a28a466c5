"""A saved pipeline whose components are loaded one by one, by programs that manage memory themselves."""

import os
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from jova_cli.given_paths import kind_of
from jova_cli.json_text import read_object
from jova_cli.model_clips import index_defaults
from jova_cli.model_info import read_index
from jova_cli.shipped import model_folder

from .call_stages import TEXT_ENCODERS, PlannedCall
from .component_outline import build_outline
from .generation_defaults import GenerationDefaults
from .hub_access import explained_hub
from .memory_plan import MemoryEstimate, Sizes
from .number_formats import CODECS, cast_weights, component_dtype
from .pipeline_jova import JoVAPipeline
from .scheduling_flow_match_av import FlowMatchAudioVideoScheduler


TEXT = (
    *("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
    *("spoken_tokenizer", "spoken_text_encoder"),
)
COMPONENTS = (*TEXT, *CODECS, "transformer", "scheduler")


CONFIGS_OF_HUB = ["model_index.json", "*/*config.json"]


def config_folder(source: str | os.PathLike[str]) -> Path:
    """Folder with the configs of a saved pipeline, of one on the Hub without its weights.

    Args:
        source: Folder of a saved pipeline, the name of a shipped model, or its name on the Hub.
    """
    if kind_of(folder := model_folder(source)):
        return folder
    with explained_hub("model", source):
        return Path(snapshot_download(os.fspath(source), allow_patterns=CONFIGS_OF_HUB))


def model_defaults(source: str | os.PathLike[str]) -> GenerationDefaults:
    """What a model takes for arguments that are not given, from its index alone.

    Args:
        source: Folder of a saved pipeline, or its name on the Hub.
    """
    folder = Path(source)
    with explained_hub("model", source):
        index = read_index(folder) if kind_of(folder) else JoVAPipeline.load_config(source)
    return GenerationDefaults.from_dict(index_defaults(index))


class SavedPipeline:
    """What the folder of a pipeline holds.

    Args:
        source: Folder, or the name of a shipped model.

    Raises:
        ValueError: It is no folder of a `JoVAPipeline`, or its index holds something else than it should.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.folder = model_folder(source)
        self.index = read_index(self.folder)
        self.defaults = model_defaults(self.folder)

    def has(self, name: str) -> bool:
        """Whether the folder holds a component."""
        return self.index.get(name, [None])[0] is not None

    def load(self, *names: str, **options: Any) -> JoVAPipeline:
        """Load some components, as a pipeline without the others.

        Args:
            names: Of the components.
            options: What `JoVAPipeline.from_pretrained` takes.

        Raises:
            ValueError: The folder lacks weights of one, or holds damaged ones.
        """
        others = {name: None for name in COMPONENTS if name not in names}
        try:
            return JoVAPipeline.from_pretrained(self.folder, **others, **options)
        except (OSError, EOFError, SafetensorError) as error:
            parts, reason = " and ".join(f"`{name}`" for name in names), f"{error} ".splitlines()[0].strip(" .")
            raise ValueError(
                f"`{self.folder}` must hold whole weights of {parts}, got none that can be read ({reason}); download "
                "or save it anew"
            ) from error

    def outline(self, *names: str) -> JoVAPipeline:
        """Some components without their weights, on the meta device, with all settings of the pipeline.

        Args:
            names: Of the components; the codecs if none are named.
        """
        named = names or CODECS
        found = {name: build_outline(self.index[name], self.folder / name) for name in named if self.has(name)}
        options = signature(JoVAPipeline).parameters.keys() - {*COMPONENTS}
        settings = {name: self.index[name] for name in options if name in self.index}
        arguments: dict[str, Any] = {name: found.get(name) for name in COMPONENTS} | settings
        return JoVAPipeline(**arguments)

    def component_config(self, name: str) -> dict[str, Any]:
        """The config of a component.

        Raises:
            ValueError: It is no object of JSON.
        """
        return read_object(self.folder / name / "config.json")

    def scheduler(self) -> FlowMatchAudioVideoScheduler:
        """Its scheduler, for both modalities."""
        return FlowMatchAudioVideoScheduler.from_scheduler(self.load("scheduler").scheduler)


def saved_estimate(
    saved: SavedPipeline, call: PlannedCall, dtype: torch.dtype, adapter_bytes: int = 0
) -> MemoryEstimate:
    """What a call of a saved pipeline holds, from its configs alone.

    Args:
        saved: The pipeline.
        call: What it is about.
        dtype: Of transformer and text encoders; codecs are in float32.
        adapter_bytes: Of adapters that come to the transformer.

    Raises:
        ValueError: No call takes its scheduler.
    """
    outline = saved.outline(*TEXT_ENCODERS, *CODECS, "transformer", "scheduler")
    for name, part in outline.components.items():
        if isinstance(part, torch.nn.Module):
            cast_weights(part, component_dtype(dtype, name))
    size = Sizes.of(outline.transformer)
    return MemoryEstimate(outline, call, {"transformer": size._replace(whole=size.whole + adapter_bytes)})
