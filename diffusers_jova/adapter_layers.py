"""Adapters in a transformer whose projections may be fused and whose weights may be stored in 8 bits.

=====================  ==============================  =========================================
the transformer has    adapters are loaded             adapters are merged (`fuse_lora`)
=====================  ==============================  =========================================
separate projections   yes                             yes
fused projections      refused: they would be unread   before fusing, then unloaded
weights in 8 bits      yes, in the compute format      refused: the rounding would take them away
=====================  ==============================  =========================================
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.hooks.layerwise_casting import LayerwiseCastingHook
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from torch import nn


class JoVAAdapterMixin(PeftAdapterMixin, AttentionMixin):
    """Refuses what would drop an adapter in silence; the methods are those of every diffusers transformer."""

    def load_lora_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Load an adapter, as `PeftAdapterMixin` does; weights in 8 bits take their compute format meanwhile.

        Raises:
            ValueError: The projections are fused.
        """
        check_separate(self)
        with weights_in_compute_format(self):
            super().load_lora_adapter(*args, **kwargs)

    def add_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Add a new adapter, as `PeftAdapterMixin` does; weights in 8 bits take their compute format meanwhile.

        Raises:
            ValueError: The projections are fused.
        """
        check_separate(self)
        with weights_in_compute_format(self):
            super().add_adapter(*args, **kwargs)

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """Merge adapters into the weights.

        Raises:
            ValueError: The weights are stored in 8 bits.
        """
        check_mergeable(self, "fuse_lora", "weigh adapters with `set_adapters` instead")
        super().fuse_lora(*args, **kwargs)

    def unfuse_lora(self) -> None:  # that of the pipeline does not come by here
        """Take merged adapters out of the weights.

        Raises:
            ValueError: The weights are stored in 8 bits.
        """
        check_mergeable(self, "unfuse_lora", "load the model again")
        super().unfuse_lora()

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


def check_separate(model: nn.Module) -> None:
    """Refuse adapters for projections that are fused: nothing would read them."""
    if any(getattr(module, "fused_projections", False) for module in model.modules()):
        raise ValueError(
            "projections must be separate for an adapter, got fused ones; call `unfuse_qkv_projections` first"
        )


def check_mergeable(model: nn.Module, method: str, instead: str) -> None:
    """Refuse to change weights that are stored in 8 bits: most of a small change would be rounded away."""
    formats = {str(hook.storage_dtype) for _, hook in casting_hooks(model) if hook.storage_dtype.itemsize == 1}
    if formats:
        raise ValueError(
            f"`{method}` must come before `enable_layerwise_casting`, got weights in {', '.join(sorted(formats))}; "
            f"{instead}"
        )
