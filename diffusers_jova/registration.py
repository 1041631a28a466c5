"""Makes diffusers' loaders and cache hooks know this package; runs when `diffusers_jova` is imported.

What stands here of diffusers is half private. It is touched in this file only, and every effect has a test. With the
entries in its tables, `model_index.json` stores `["diffusers_jova", <class>]`, and `JoVAPipeline`, `DiffusionPipeline`
and `AutoModel` load it.
"""

import inspect
from functools import update_wrapper
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.loaders import FromOriginalModelMixin, lora_base
from diffusers.loaders.lora_conversion_utils import _bake_lokr_alpha_
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from diffusers.utils import dynamic_modules_utils

from jova_cli.shipped import find_model


# Goes when diffusers has a public function that returns the tensors of an adapter together with its header.
fetch_state_dict = lora_base._fetch_state_dict

bake_lokr_alpha = _bake_lokr_alpha_  # goes when diffusers reads every LoKr with its alphas

find_any_pipeline = dynamic_modules_utils.find_pipeline_class


def active_attention_backend() -> AttentionBackendName:
    """Attention backend of processors that have none of their own; goes when diffusers has it in public."""
    backend, _ = _AttentionBackendRegistry.get_active_backend()
    return backend


def register(components: tuple[type, ...], pipelines: tuple[type, ...], blocks: tuple[type, ...]) -> None:
    """Enter our classes into diffusers' tables.

    Args:
        components: Models and schedulers that a pipeline folder may name.
        pipelines: Pipelines, for `DiffusionPipeline.from_pretrained`.
        blocks: Transformer blocks that take and return one packed tensor, for the cache hooks.
    """
    LOADABLE_CLASSES.setdefault("diffusers_jova", dict(LOADABLE_CLASSES["diffusers"]))
    for cls in (*components, *pipelines):
        setattr(diffusers, cls.__name__, cls)
    for cls in components:  # after the loop above: diffusers looks up every name of this table in itself
        if issubclass(cls, FromOriginalModelMixin):
            SINGLE_FILE_LOADABLE_CLASSES[cls.__name__] = {"checkpoint_mapping_fn": keep_names}
    for cls in pipelines:
        setattr(diffusers.pipelines, cls.__name__, cls)
    dynamic_modules_utils.find_pipeline_class = find_defined_pipeline
    diffusers.DiffusionPipeline.download = find_shipped_model(vars(diffusers.DiffusionPipeline)["download"])
    for cls in blocks:
        TransformerBlockRegistry.register(cls, TransformerBlockMetadata(0, None))


def find_shipped_model(download: Any) -> Any:
    """Let a shipped name such as `jova-tiny` mean its folder, before a name without an owner is asked of the Hub.

    Args:
        download: `DiffusionPipeline.download`, a class method, which goes on with every other name.
    """

    def find_or_download(cls: type, /, pretrained_model_name: Any, **kwargs: Any) -> Any:
        folder = find_model(pretrained_model_name)
        return folder if Path(folder).is_dir() else download.__func__(cls, pretrained_model_name, **kwargs)

    update_wrapper(find_or_download, download.__func__)
    return classmethod(find_or_download)


def keep_names(checkpoint: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Take the tensors of one file as they are: no released file has other names."""
    return checkpoint


def find_defined_pipeline(module: ModuleType) -> type | None:
    """The one pipeline that a file of `custom_pipeline` defines, whatever pipelines it imports to build on.

    diffusers passes over imported pipelines of its own only. Goes when it passes over all that a file imports.
    """
    defined = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, diffusers.DiffusionPipeline) and cls.__module__ == module.__name__
    ]
    return defined[0] if len(defined) == 1 else find_any_pipeline(module)
