"""JoVALoraLoaderMixin: LoRA adapters of the transformer in a pipeline, from the files of any tool."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from .adapter_file import AdapterTensors, for_peft, read_adapter
from .adapter_fit import warn_of_untold_scale
from .adapter_keys import KNOWN_PREFIXES, PREFIXES, bare_names, check_known, listed
from .adapter_layers import check_mergeable, checked_weights
from .adapter_merging import names_to_merge
from .adapter_removal import check_still_there
from .adapter_scale import scaled_weight
from .few_steps import HEADER, FewSteps, finish_adapter
from .finite import check_finite_inputs
from .mova_adapter import HEAD_DIM
from .provenance import name_of_source


def on_plain_transformer(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method of diffusers act on the transformer inside of a compiled one, which it passes over in silence."""

    @wraps(method)
    def acting(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
        compiled = pipeline.transformer
        pipeline.transformer = unwrap_module(compiled)
        try:
            return method(pipeline, *args, **kwargs)
        finally:
            pipeline.transformer = compiled

    return acting


class JoVALoraLoaderMixin(CogVideoXLoraLoaderMixin):
    """Load, save, weigh and fuse LoRA adapters of the transformer.

    The methods are those of every diffusers pipeline whose adapters sit in one `transformer`: `load_lora_weights`,
    `save_lora_weights`, `set_adapters`, `fuse_lora`, `unfuse_lora`, `delete_adapters`.
    """

    transformer: Any
    leave_few_steps_of_none: Callable[[], None]
    _merged_adapters: set[str]
    _lora_loadable_modules = ["transformer"]
    transformer_name = "transformer"
    adapter_origins: Mapping[str, str | None] = {}  # name of the file or folder of each, for the record of a clip
    adapter_scales: Mapping[str, Any] = {}

    enable_lora = on_plain_transformer(CogVideoXLoraLoaderMixin.enable_lora)
    disable_lora = on_plain_transformer(CogVideoXLoraLoaderMixin.disable_lora)
    enable_lora_hotswap = on_plain_transformer(CogVideoXLoraLoaderMixin.enable_lora_hotswap)
    get_active_adapters = on_plain_transformer(CogVideoXLoraLoaderMixin.get_active_adapters)
    get_list_adapters = on_plain_transformer(CogVideoXLoraLoaderMixin.get_list_adapters)
    set_lora_device = on_plain_transformer(CogVideoXLoraLoaderMixin.set_lora_device)

    @classmethod
    def lora_state_dict(cls, pretrained_model_name_or_path_or_dict: Any, **kwargs: Any) -> Any:
        """Read an adapter of any tool that `diffusers_jova.adapter_keys` lists, into diffusers' layout.

        Returns:
            Tensors by name, an `AdapterTensors`: they carry scales and a student's record, and `load_lora_weights`
            reads both. With `return_lora_metadata` also peft's config with that record, for `metadata` where another
            dict of tensors is loaded.

        Raises:
            ValueError: The file holds something that is no adapter of the transformer.
        """
        with_metadata = kwargs.pop("return_lora_metadata", False)
        adapter = read_adapter(pretrained_model_name_or_path_or_dict, **kwargs)
        check_known(adapter.unknown, bool(adapter.tensors))
        warn_of_untold_scale(adapter)
        tensors, fields = for_peft(adapter.with_paired_heads(HEAD_DIM))
        state_dict = AdapterTensors({f"{PREFIXES['diffusers']}{name}": tensor for name, tensor in tensors.items()})
        state_dict.config, state_dict.few_steps = fields, adapter.few_steps
        if not with_metadata:
            return state_dict
        record = {} if adapter.few_steps is None else {HEADER: adapter.few_steps.to_dict()}
        metadata = fields and {f"{PREFIXES['diffusers']}{name}": value for name, value in (fields | record).items()}
        return state_dict, metadata

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        adapter_name: str | None = None,
        hotswap: bool = False,
        skip_unknown: bool = False,
        tower: str | None = None,
        alpha: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Load an adapter of any tool that `diffusers_jova.adapter_keys` lists, completely or not at all.

        Args:
            pretrained_model_name_or_path_or_dict: Folder, file, hub id, or tensors in memory.
            adapter_name: Name that the adapter gets.
            hotswap: Put its weights in the place of the adapter of this name.
            skip_unknown: Leave out what the transformer has no place for, and say how much; without, it is refused.
            tower: Which of two video towers an adapter of a plain video model changes: `"video"`, that for high noise,
                or `"video_low"`.
            alpha: Of all modules, whatever the file states; MOVA's trainers do not state it.
            kwargs: Where the file is found, as `diffusers.loaders.LoraBaseMixin` takes it, and `low_cpu_mem_usage`.

        Raises:
            ValueError: The adapter does not fit completely.
        """
        before = set(getattr(self.transformer, "peft_config", {}))
        self.transformer.load_lora_adapter(
            pretrained_model_name_or_path_or_dict,
            adapter_name=adapter_name,
            hotswap=hotswap,
            skip_unknown=skip_unknown,
            tower=tower,
            alpha=alpha,
            _pipeline=self,
            **{"low_cpu_mem_usage": True, **kwargs},
        )
        name = str(next(iter(set(self.transformer.peft_config) - before), adapter_name))
        self.adapter_origins = {**self.adapter_origins, name: name_of_source(pretrained_model_name_or_path_or_dict)}
        if not hotswap:
            self.adapter_scales = {**self.adapter_scales, name: 1.0}
        self.leave_few_steps_of_none()

    @on_plain_transformer
    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Any = None) -> None:
        """Choose the active adapters and weigh them.

        Args:
            adapter_names: Names of loaded adapters.
            adapter_weights: One number for all, or one per adapter, or numbers by component or by part of a module's
                name; 1 if not given.

        Raises:
            ValueError: A weight is no finite number, their number is another than that of the adapters, or a component
                has no adapters.
        """
        weights = checked_weights(adapter_names, adapter_weights)
        for weight in weights:
            if isinstance(weight, Mapping) and (strange := weight.keys() - {*self._lora_loadable_modules}):
                raise ValueError(
                    f"`adapter_weights` must be for {', '.join(self._lora_loadable_modules)}, got {sorted(strange)}; "
                    "put weights of its layers one level below"
                )
        super().set_adapters(adapter_names, weights)
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        self.adapter_scales = {
            **self.adapter_scales,
            **{n: 1.0 if x is None else x for n, x in zip(names, weights, strict=True)},
        }

    @on_plain_transformer
    def fuse_lora(
        self,
        components: Sequence[str] = ("transformer",),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Merge adapters into the weights.

        Args:
            components: The transformer alone.
            lora_scale: Factor besides their weights, which those that are merged keep when they are taken out again.
            safe_fusing: Refuse sums that are not finite.
            adapter_names: Which; None for the active ones.
            kwargs: As in diffusers.

        Raises:
            ValueError: The weights are stored in 8 bits, adapters are switched off or not loaded, or `lora_scale` is
                no finite number.
        """
        names = names_to_merge(self.transformer, adapter_names)
        super().fuse_lora([*components], lora_scale, safe_fusing, adapter_names, **kwargs)
        self.adapter_scales = {
            **self.adapter_scales,
            **{name: scaled_weight(self.adapter_scales.get(name, 1.0), lora_scale) for name in names},
        }

    @on_plain_transformer
    def unfuse_lora(self, components: Sequence[str] = ("transformer",), **kwargs: Any) -> None:
        """Take merged adapters out of the weights.

        Raises:
            ValueError: The weights are stored in 8 bits, or the layers of the adapters are unloaded.
        """
        check_mergeable(self.transformer, "unfuse_lora", "load the model again")
        check_still_there(self.transformer, self.transformer.unloaded_adapters)
        super().unfuse_lora(components=list(components), **kwargs)
        self._merged_adapters = {*self._merged_adapters, *self.transformer.unloaded_adapters}
        if "transformer" in components:
            self.transformer.fused_few_steps = {}
            self.leave_few_steps_of_none()

    @on_plain_transformer
    def unload_lora_weights(self) -> None:
        """Take all adapters off, those that are merged stay in the weights; defaults of a student go with it."""
        super().unload_lora_weights()
        self.leave_few_steps_of_none()

    @on_plain_transformer
    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Delete adapters; defaults of a student go with it.

        Raises:
            ValueError: There is none of a name.
        """
        super().delete_adapters(adapter_names)
        self.leave_few_steps_of_none()

    @classmethod
    def save_lora_weights(
        cls, save_directory: str | Path, *args: Any, few_steps: FewSteps | None = None, **kwargs: Any
    ) -> None:
        """Write the weights of an adapter, as `CogVideoXLoraLoaderMixin` does.

        Args:
            save_directory: Folder.
            args: As there.
            few_steps: How a student of few steps is asked, `few_steps` of its pipeline; None for other adapters.
            kwargs: As there.

        Raises:
            ValueError: What is saved is no adapter of the transformer, not finite, or has a prefix already, or a
                student would be pickled, and lose its record.
        """
        given = inspect.signature(super().save_lora_weights).bind_partial(save_directory, *args, **kwargs).arguments
        if layers := given.get("transformer_lora_layers"):
            tensors = layers.state_dict() if isinstance(layers, nn.Module) else layers
            check_layers(tensors)
            check_finite_inputs({f"transformer_lora_layers[{name!r}]": tensor for name, tensor in tensors.items()})
        if few_steps is not None and not given.get("safe_serialization", True):
            raise ValueError(
                "`safe_serialization` must be True for a student of few steps, whose record stands in the header of a "
                "safetensors file, got False; leave it out"
            )
        super().save_lora_weights(save_directory, *args, **kwargs)
        finish_adapter(save_directory, given.get("weight_name"), few_steps)


def check_layers(layers: Mapping[str, Any]) -> None:
    """Refuse names that would not be found again: of whole weights, and such that have a prefix already.

    Raises:
        ValueError: Naming them.
    """
    for prefix in KNOWN_PREFIXES:
        if prefixed := [name for name in layers if name.startswith(prefix)]:
            raise ValueError(
                f"`transformer_lora_layers` must name modules of the transformer without `{prefix}`, got "
                f"{listed(prefixed)}, in front of which `{PREFIXES['diffusers']}` is written; take it off, or load "
                "the adapter and `save_lora_adapter` it"
            )
    known, unknown = bare_names(layers)
    check_known(unknown, bool(known))
