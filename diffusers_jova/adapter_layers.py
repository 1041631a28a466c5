"""Adapters in a transformer whose projections may be fused and whose weights may be stored in 8 bits.

=====================  ==============================  =========================================
the transformer has    adapters are loaded             adapters are merged (`fuse_lora`)
=====================  ==============================  =========================================
separate projections   yes, while none is merged       yes
fused projections      refused: they would be unread   before fusing, then unloaded
weights in 8 bits      yes, in the compute format      refused: the rounding would take them away
=====================  ==============================  =========================================
"""

import difflib
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any

from diffusers.hooks.layerwise_casting import LayerwiseCastingHook
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .adapter_file import HUB_OPTIONS, for_peft, read_adapter
from .adapter_fit import check_arrived, fitting, linear_layers
from .adapter_keys import PREFIXES, listed
from .adapter_merging import check_unmerged, names_to_merge, warn_of_unread_adapters
from .adapter_removal import check_deletable, check_saveable, check_still_there, merged_adapters, tuner_layers
from .adapter_scale import scale_adapters, warn_of_large_scales
from .adapter_swapping import swapped_alone
from .attention_processors import check_processors
from .few_steps import HEADER as FEW_STEPS
from .few_steps import FewSteps, finish_adapter
from .finite import check_finite_weights
from .number_arguments import finite_number
from .whole_files import share_as_folder


logger = logging.get_logger(__name__)

WEIGHT_FILES = "diffusion_pytorch_model*.safetensors"  # that `save_pretrained` writes

PREFIX = PREFIXES["diffusers"]
FILE_OPTIONS = (*HUB_OPTIONS, "proxies", "weight_name", "use_safetensors")
PEFT_OPTIONS = ("hotswap", "low_cpu_mem_usage", "network_alphas", "_pipeline")  # of `PeftAdapterMixin`
OPTIONS = ("adapter_name", "skip_unknown", "metadata", "tower", "alpha", *FILE_OPTIONS, *PEFT_OPTIONS)


class JoVAAdapterMixin(PeftAdapterMixin, AttentionMixin):
    """Refuses what would drop an adapter in silence; the methods are those of every diffusers transformer."""

    adapter_few_steps: Mapping[str, FewSteps] = {}  # of the adapters that are students, by name
    fused_few_steps: Mapping[str, FewSteps] = {}  # of those that are merged into the weights
    unloaded_adapters: tuple[str, ...] = ()  # that are in the weights for good, since their layers are unloaded
    unloaded_few_steps: tuple[FewSteps, ...] = ()  # of the students among them

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        adapter_name: str | None = None,
        skip_unknown: bool = False,
        metadata: Mapping[str, Any] | None = None,
        tower: str | None = None,
        alpha: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Load an adapter of any tool that `diffusers_jova.adapter_keys` lists, completely or not at all.

        Weights in 8 bits take their compute format meanwhile.

        Args:
            pretrained_model_name_or_path_or_dict: Folder, file, hub id, or tensors in memory.
            adapter_name: Name that the adapter gets.
            skip_unknown: Leave out what this transformer has no place for, and say how much; without, it is refused.
            metadata: peft's config, where the source does not hold it, as `lora_state_dict` returns it.
            tower: Which of two video towers an adapter of a plain video model changes: `"video"`, that for high noise,
                or `"video_low"`.
            alpha: Of all modules, whatever the file states; MOVA's trainers do not state it.
            kwargs: What `PeftAdapterMixin.load_lora_adapter` takes.

        Raises:
            ValueError: The projections are fused, another adapter is merged, or this one does not fit completely, or
                not into the place of the one that it should be swapped with.
        """
        check_separate(self)
        check_unmerged(self, "loaded")
        kwargs.pop("prefix", None)  # the keys tell it
        options = {name: kwargs.pop(name) for name in FILE_OPTIONS if name in kwargs}
        warn_of_unknown([name for name in kwargs if name not in PEFT_OPTIONS])
        config = {name.removeprefix(PREFIX): value for name, value in metadata.items()} if metadata else None
        record = config and config.pop(FEW_STEPS, None)
        adapter = read_adapter(pretrained_model_name_or_path_or_dict, config, tower, alpha, **options)
        if record:
            adapter = replace(adapter, few_steps=FewSteps.from_dict(record, "`metadata`"))
        adapter = fitting(adapter, self, skip_unknown)
        layers = linear_layers(self)
        tensors, fields = for_peft(adapter, {name: layers[name].in_features for name in adapter.modules()})
        before = {*getattr(self, "peft_config", {})}
        if adapter_name is None and not kwargs.get("hotswap"):
            adapter_name = free_name(before.union(self.unloaded_adapters))
        is_swap = kwargs.get("hotswap") and adapter_name in before
        swapping = swapped_alone(self, str(adapter_name), tensors, fields) if is_swap else nullcontext()
        with (
            weights_in_compute_format(self),
            beside_others(),
            plain_without_adapters(self),
            told_of_own_keys(),
            swapping,
        ):
            super().load_lora_adapter(
                {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()},
                adapter_name=adapter_name,
                metadata=fields and {f"{PREFIX}{name}": value for name, value in fields.items()},
                **kwargs,
            )
        for new in {*self.peft_config} - before:
            check_arrived(self, new, tensors)
        name = str(next(iter({*self.peft_config} - before), adapter_name))
        self.adapter_few_steps = {
            **{other: few_steps for other, few_steps in self.adapter_few_steps.items() if other != name},
            **({} if adapter.few_steps is None else {name: adapter.few_steps}),
        }

    def set_adapters(self, adapter_names: list[str] | str, weights: Any = None) -> None:
        """Choose the active adapters and weigh them, as `PeftAdapterMixin` does.

        Raises:
            ValueError: A weight is no finite number, their number is another than that of the adapters, or one of
                them is merged.
        """
        check_unmerged(self, "weighed")
        checked = checked_weights(adapter_names, weights)
        changed = [name for name, module in self.named_modules() if isinstance(module, BaseTunerLayer)]
        parts = [part for weight in checked if isinstance(weight, Mapping) for part in weight]
        if strange := [part for part in parts if not any(part in name for name in changed)]:
            raise ValueError(
                f"`adapter_weights` must be for modules that adapters change, got {listed(strange)}; give parts of "
                f"their names, such as `{changed[0]}`"
            )
        numbers = {part: value for weight in checked if isinstance(weight, Mapping) for part, value in weight.items()}
        for part, value in numbers.items():
            if isinstance(value, Mapping):
                raise ValueError(
                    f"`adapter_weights` must be numbers by parts of names of modules, got {value} for `{part}`; write "
                    "the names in one word, with dots"
                )
        # modules that no part names keep 1: diffusers looks for the fourth part of their names, which few have
        weights = [
            {**weight, "": weight.get("", 1.0)} if isinstance(weight, Mapping) else weight for weight in checked
        ]
        super().set_adapters(adapter_names, weights)
        warn_of_large_scales(self)

    def add_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Add a new adapter, as `PeftAdapterMixin` does; weights in 8 bits take their compute format meanwhile.

        Raises:
            ValueError: The projections are fused, or another adapter is merged.
        """
        check_separate(self)
        check_unmerged(self, "added")
        with weights_in_compute_format(self), beside_others():
            super().add_adapter(*args, **kwargs)

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Choose the active adapters, as `PeftAdapterMixin` does.

        Raises:
            ValueError: One is merged.
        """
        check_unmerged(self, "chosen")
        super().set_adapter(adapter_name)

    def disable_lora(self) -> None:
        """Switch adapters off, as `PeftAdapterMixin` does.

        Raises:
            ValueError: One is merged.
        """
        check_unmerged(self, "switched off")
        super().disable_lora()

    def disable_adapters(self) -> None:
        """The same under its other name."""
        check_unmerged(self, "switched off")
        super().disable_adapters()

    def fuse_lora(
        self, lora_scale: float = 1.0, safe_fusing: bool = False, adapter_names: list[str] | None = None
    ) -> None:
        """Merge adapters into the weights.

        Args:
            lora_scale: Factor besides their weights, which those that are merged keep when they are taken out again.
            safe_fusing: Refuse sums that are not finite.
            adapter_names: Which; None for the active ones.

        Raises:
            ValueError: The weights are stored in 8 bits, adapters are switched off or not loaded, or `lora_scale` is
                no finite number.
        """
        check_mergeable(self, "fuse_lora", "weigh adapters with `set_adapters` instead")
        scale = finite_number("lora_scale", lora_scale, "1.0 merges adapters as they are weighed")
        names = names_to_merge(self, adapter_names)
        scale_adapters(self, names, scale)
        if scale != 1:
            warn_of_large_scales(self)
        super().fuse_lora(safe_fusing=safe_fusing, adapter_names=names)
        warn_of_unread_adapters(self)
        merged = {name: self.adapter_few_steps[name] for name in names if name in self.adapter_few_steps}
        self.fused_few_steps = {**self.fused_few_steps, **merged}

    def unfuse_lora(self) -> None:  # that of the pipeline does not come by here
        """Take merged adapters out of the weights.

        Raises:
            ValueError: The weights are stored in 8 bits, or the layers of the adapters are unloaded.
        """
        check_mergeable(self, "unfuse_lora", "load the model again")
        check_still_there(self, self.unloaded_adapters)
        super().unfuse_lora()
        self.fused_few_steps = {}

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Take adapters out, as `PeftAdapterMixin` does; without the last one all layers are plain again.

        Raises:
            ValueError: An adapter is not loaded, or part of the weights.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else [*adapter_names]
        check_deletable(self, names)
        with plain_without_adapters(self):
            super().delete_adapters(names)
        self.adapter_few_steps = {name: few for name, few in self.adapter_few_steps.items() if name not in names}

    def unload_lora(self) -> None:
        """Take all adapters out; what is merged stays in the weights."""
        self.unloaded_adapters = (*self.unloaded_adapters, *merged_adapters(self))
        self.unloaded_few_steps = (*self.unloaded_few_steps, *self.fused_few_steps.values())
        super().unload_lora()
        self.adapter_few_steps, self.fused_few_steps = {}, {}

    def save_lora_adapter(self, save_directory: str | Path, adapter_name: str = "default", **kwargs: Any) -> None:
        """Save an adapter as `PeftAdapterMixin` does, a student of few steps with its record.

        Raises:
            ValueError: A student would be pickled, and lose its record.
        """
        few_steps = self.adapter_few_steps.get(adapter_name)
        if few_steps is not None and not kwargs.get("safe_serialization", True):
            raise ValueError(
                "`safe_serialization` must be True for a student of few steps, whose record stands in the header of a "
                "safetensors file, got False; leave it out"
            )
        super().save_lora_adapter(save_directory, adapter_name=adapter_name, **kwargs)
        finish_adapter(save_directory, kwargs.get("weight_name"), few_steps)

    @wraps(ModelMixin.save_pretrained, assigned=())  # pipelines look at the names of its arguments
    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save weights and config, as `ModelMixin` does.

        Args:
            save_directory: Folder.
            args: As there.
            kwargs: As there.

        Raises:
            ValueError: There are layers of adapters, merged or not, or weights that are not finite.
        """
        check_saveable(self, "unload_lora")
        check_finite_weights(self)
        super().save_pretrained(save_directory, *args, **kwargs)
        for file in Path(save_directory).glob(WEIGHT_FILES):
            share_as_folder(file)

    def set_attn_processor(self, processor: Any) -> None:
        """Set one processor for all attention, or one for each by its name, as `AttentionMixin` does.

        Raises:
            ValueError: One takes other arguments than ours, such as those of diffusers; none is set.
        """
        check_processors(self, processor)
        super().set_attn_processor(processor)

    def fuse_qkv_projections(self) -> None:
        """Compute queries, keys and values by one product.

        Raises:
            ValueError: Adapters lie over the projections, or weights are cast layer by layer.
        """
        if casting_hooks(self):
            raise ValueError(
                "`fuse_qkv_projections` must come before `enable_layerwise_casting`, got weights that are cast layer "
                "by layer; load the model again, fuse, then cast"
            )
        super().fuse_qkv_projections()


def casting_hooks(model: nn.Module) -> list[tuple[nn.Module, LayerwiseCastingHook]]:
    """Layers of a model that `enable_layerwise_casting` hooked, with their hooks."""
    return [
        (module, hook)
        for module in model.modules()
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values()
        if isinstance(hook, LayerwiseCastingHook)
    ]


@contextmanager
def weights_in_compute_format(model: nn.Module) -> Iterator[None]:
    """Keep weights that are stored in few bits in their compute format, losslessly there and back.

    peft gives an adapter the format of the weights that it lies over, and 8 bits would round it.
    """
    hooked = casting_hooks(model)
    for module, hook in hooked:
        module.to(hook.compute_dtype)
    try:
        yield
    finally:
        for module, hook in hooked:
            module.to(hook.storage_dtype)


@contextmanager
def plain_without_adapters(model: Any) -> Iterator[None]:
    """Unload the layers of adapters where no adapter is left afterwards, also of one whose loading failed."""
    try:
        yield
    finally:
        if not getattr(model, "peft_config", {}) and tuner_layers(model):
            model.unload_lora()


@contextmanager
def told_of_own_keys() -> Iterator[None]:
    """Leave out what diffusers says of missing keys: it takes those of others for an adapter's whose name they hold.

    An adapter that lacks some is refused before, see `fitting`, and what arrived is looked at behind.
    """

    def is_kept(record: Any) -> bool:
        return "led to missing keys in the model" not in record.getMessage()

    other = logging.get_logger("diffusers.utils.peft_utils")
    other.addFilter(is_kept)
    try:
        yield
    finally:
        other.removeFilter(is_kept)


@contextmanager
def beside_others() -> Iterator[None]:
    """Let a second adapter be added without peft's question whether it is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        yield


def free_name(taken: Collection[str]) -> str:
    """A name for an adapter that comes without: that of diffusers with the first number that is free."""
    return next(name for name in map("default_{}".format, count()) if name not in taken)


def check_separate(model: nn.Module) -> None:
    """Refuse adapters for projections that are fused: nothing would read them."""
    if any(getattr(module, "fused_projections", False) for module in model.modules()):
        raise ValueError(
            "projections must be separate for an adapter, got fused ones; call `unfuse_qkv_projections` first"
        )


def warn_of_unknown(names: Collection[str]) -> None:
    """Name in one line what nothing reads of the words that an adapter is loaded with."""
    meant = {name: difflib.get_close_matches(name, OPTIONS, n=1) for name in names}
    for name, near in meant.items():
        if near:
            logger.warning(f"`{name}` is not used to load an adapter; did you mean `{near[0]}`?")
    if others := [name for name, near in meant.items() if not near]:
        verb = "is" if len(others) == 1 else "are"
        logger.warning(f"{listed(others)} {verb} not used to load an adapter; weigh it by `set_adapters`")


def check_mergeable(model: nn.Module, method: str, instead: str) -> None:
    """Refuse to change weights that are stored in 8 bits: most of a small change would be rounded away."""
    formats = {str(hook.storage_dtype) for _, hook in casting_hooks(model) if hook.storage_dtype.itemsize == 1}
    if formats:
        raise ValueError(
            f"`{method}` must come before `enable_layerwise_casting`, got weights in {', '.join(sorted(formats))}; "
            f"{instead}"
        )


def computes_adapters(model: nn.Module) -> bool:
    """Whether a forward adds adapters to what layers compute: one is active and not part of their weights."""
    layers = tuner_layers(model)
    return any(layer.active_adapters and not layer.merged and not layer.disable_adapters for layer in layers)


def checked_weights(names: list[str] | str, weights: Any) -> list[Any]:
    """One weight per adapter: a finite number, numbers by parts of module names, or None for 1.

    Raises:
        ValueError: A weight is no finite number, or their number is another than that of the adapters.
    """
    num_adapters = 1 if isinstance(names, str) else len(names)
    values = list(weights) if isinstance(weights, list | tuple) else [weights] * num_adapters
    if len(values) != num_adapters:
        raise ValueError(
            f"`adapter_weights` must be one per adapter, got {len(values)} for {num_adapters}; give one for each"
        )
    return [checked_weight(value) for value in values]


def checked_weight(value: Any) -> Any:
    """A weight whose numbers are all finite floats.

    Raises:
        ValueError: One is not.
    """
    if isinstance(value, Mapping):
        return {part: checked_weight(weight) for part, weight in value.items()}
    return None if value is None else finite_number("adapter_weights", value, "1.0 is the adapter as it was trained")
