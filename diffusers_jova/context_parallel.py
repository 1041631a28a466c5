"""Context parallelism: several devices share the rows of every stream, whatever their number.

Each stream is padded with rows of zeros to a multiple of the devices, split where it is embedded and gathered at its
head, where the padding is cut off. A key mask hides the padding; there is none where nothing is padded. Ulysses trades
rows for heads around each attention: a device then sees all rows, shard by shard, for its share of the heads.

The gradient of a parameter is the sum of its gradients on all devices, where each computes the same loss.

Letters in shapes: B batch, L rows on this device, R devices that share the rows, H heads, K head dimension.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models._modeling_parallel import ContextParallelConfig, ContextParallelInput, ParallelConfig
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, SeqAllToAllDim
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F

from .registration import active_attention_backend


PADDING = "jova_row_padding"


def context_parallel(config: Any) -> ContextParallelConfig | None:
    """The part of a config of parallelism, or of None, that is about context."""
    return config if isinstance(config, ContextParallelConfig) else getattr(config, "context_parallel_config", None)


def context_group(config: Any) -> distributed.ProcessGroup | None:
    """The processes that share the rows, of a model's config of parallelism, or of None."""
    if (context := context_parallel(config)) is None:
        return None
    group: distributed.ProcessGroup = context._flattened_mesh.get_group()
    return group


def pad_rows(rows: Tensor, dim: int, multiple: int) -> Tensor:
    """Append zeros along an axis until its size is a multiple."""
    missing = -rows.shape[dim] % multiple
    return rows if missing == 0 else F.pad(rows, (0, 0) * (rows.ndim - 1 - dim) + (0, missing))


def key_mask(
    masks: Mapping[str, Tensor | None],
    num_rows: Mapping[str, int],
    batch_size: int,
    device: torch.device,
    parallel_config: ParallelConfig | None,
) -> Tensor | None:
    """Which of the packed rows attention may read, on all devices that share them.

    Args:
        masks: Bool mask of every stream that is present, in packed order, [B, rows], False for padding; None where
            all of its rows are read.
        num_rows: Rows of these streams on all devices together.
        batch_size: B.
        device: Where the mask is needed.
        parallel_config: How the rows are shared; None for one device.

    Returns:
        Bool [B, R, 1, L], the shards of all devices; None where every row is read.

    Raises:
        ValueError: A mask is needed and the rows are shared by ring attention, which has none.
    """
    config = context_parallel(parallel_config)
    num_shards = 1 if config is None or config.ring_anything else config.ring_degree * config.ulysses_degree
    is_whole = all(mask is None for mask in masks.values())
    if is_whole and all(rows % num_shards == 0 for rows in num_rows.values()):
        return None
    if config is not None and config.ring_degree > 1:
        raise ValueError(
            f"`ring_degree` must be 1 for masked text and for streams that it does not divide, got "
            f"{config.ring_degree} for {dict(num_rows)} rows; use `ulysses_degree`, or `ring_anything` for whole text"
        )
    parts = []
    for name, mask in masks.items():
        whole = (
            torch.ones(batch_size, num_rows[name], dtype=torch.bool, device=device) if mask is None else mask.bool()
        )
        parts.append(pad_rows(whole, 1, num_shards).unflatten(1, (num_shards, -1)))
    return torch.cat(parts, dim=2)[:, :, None]


def ulysses_group(parallel_config: ParallelConfig | None) -> distributed.ProcessGroup | None:
    """Devices that trade rows for heads; None where none do, or where diffusers has to, for heads or by ring."""
    config = context_parallel(parallel_config)
    if config is None or config.ring_degree > 1 or config.ulysses_anything:
        return None
    group: distributed.ProcessGroup = config._ulysses_mesh.get_group()
    return group


def rows_to_heads(rows: Tensor, group: distributed.ProcessGroup) -> Tensor:
    """A shard of the rows with all heads [B, L, H, K] to all rows with a share of the heads [B, R * L, H / R, K]."""
    return SeqAllToAllDim.apply(group, rows, 2, 1)


def heads_to_rows(heads: Tensor, group: distributed.ProcessGroup) -> Tensor:
    """The way back from `rows_to_heads`."""
    return SeqAllToAllDim.apply(group, heads, 1, 2)


def gather_rows(rows: Tensor, group: distributed.ProcessGroup) -> Tensor:
    """A shard of the rows [B, L, D] to all rows on every device, [B, R * L, D]; gradients go back to the shards."""
    copies = rows[:, :, None].expand(-1, -1, distributed.get_world_size(group), -1).contiguous()
    return rows_to_heads(copies, group)[:, :, 0]


class RowPadding(ModelHook):
    """Pads what a module returns, in front of the hook of diffusers that splits it.

    Args:
        plan: The module's entry in `_cp_plan`: what is split, by its index among the outputs.
        multiple: Devices that share the rows.
    """

    def __init__(self, plan: Mapping[int, ContextParallelInput], multiple: int) -> None:
        super().__init__()
        self.plan = plan
        self.multiple = multiple

    def post_forward(self, module: nn.Module, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Pad a tensor or the planned ones of several."""
        outputs = [output] if isinstance(output, Tensor) else list(output)
        for index, split in self.plan.items():
            outputs[index] = pad_rows(outputs[index], split.split_dim, self.multiple)
        return outputs[0] if isinstance(output, Tensor) else tuple(outputs)


class JoVAContextParallelMixin:
    """Lets devices share streams of any length, CPUs among them, and refuses what cannot be right."""

    def enable_parallelism(self: Any, *, config: Any, cp_plan: Mapping[str, Any] | None = None) -> None:
        """Share the work of this model between the processes of `torch.distributed`.

        Args:
            config: `ContextParallelConfig`, or a `ParallelConfig` that holds one.
            cp_plan: None; the model knows where its streams are split.

        Raises:
            ValueError: The heads, the attention backend or a cache do not allow it.
        """
        if cp_plan not in (None, self._cp_plan):
            raise ValueError(
                f"`cp_plan` must be None, got {list(cp_plan)}; the model knows where its streams are split"
            )
        context = context_parallel(config)
        if context is None or self._parallel_config is not None:
            return super().enable_parallelism(config=config)  # type: ignore[misc]
        check_heads(context, num_common_heads(self.config))
        check_ring(context, self)
        check_cache(self._cache_config)
        if not context.ring_anything:
            self.pad_streams(context.ring_degree * context.ulysses_degree)
        try:
            super().enable_parallelism(config=config)  # type: ignore[misc]
        except Exception:
            self.unpad_streams()
            self._parallel_config = None
            raise

    def enable_cache(self: Any, config: Any) -> None:
        """Apply a cache of diffusers; see its `CacheMixin`."""
        if context_parallel(self._parallel_config) is not None:
            check_cache(config)
        super().enable_cache(config)  # type: ignore[misc]

    def pad_streams(self: Any, multiple: int) -> None:
        """Pad the streams where they are about to be split."""
        for name, plan in self._cp_plan.items():
            if isinstance(plan, Mapping):
                registry = HookRegistry.check_if_exists_or_initialize(self.get_submodule(name))
                registry.register_hook(RowPadding(plan, multiple), PADDING)

    def unpad_streams(self: Any) -> None:
        """Undo `pad_streams`."""
        for name in self._cp_plan:
            HookRegistry.check_if_exists_or_initialize(self.get_submodule(name)).remove_hook(PADDING)

    def _resolve_parallel_config(self: Any, config: Any) -> ParallelConfig:
        """Build the mesh of devices on CPUs where gloo connects them; diffusers' own asks for an accelerator.

        Goes when `enable_parallelism` of diffusers runs on a CPU:
        https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/modeling_utils.py
        """
        context = context_parallel(config)
        if context is None or not distributed.is_initialized() or distributed.get_backend() != "gloo":
            resolved: ParallelConfig = super()._resolve_parallel_config(config)  # type: ignore[misc]
            return resolved
        resolved = ParallelConfig(context_parallel_config=context)
        mesh = context.mesh or init_device_mesh("cpu", context.mesh_shape, mesh_dim_names=context.mesh_dim_names)
        resolved.setup(distributed.get_rank(), distributed.get_world_size(), torch.device("cpu"), mesh=mesh)
        self._parallel_config = resolved
        return resolved


def num_common_heads(config: Mapping[str, Any]) -> int:
    """Heads of the model; of two towers the number whose divisors divide the heads of both."""
    heads: int = config["num_attention_heads"]
    return math.gcd(heads, config.get("audio_num_attention_heads", heads))


def check_heads(config: ContextParallelConfig, num_heads: int, asked_by: str = "ulysses_degree") -> None:
    """Refuse devices that cannot share the heads.

    Args:
        config: Of the devices.
        num_heads: Of the model.
        asked_by: What the caller knows their number as.
    """
    degree = config.ulysses_degree
    if num_heads % degree and not config.ulysses_anything:
        allowed = [size for size in range(2, num_heads + 1) if num_heads % size == 0]
        raise ValueError(
            f"`{asked_by}` must divide the {num_heads} attention heads, got {degree}; use one of {allowed}"
        )


def check_whole_rows(config: Any) -> None:
    """Refuse devices that do not trade rows for heads, where attention reads parts of streams by their indices."""
    context = context_parallel(config)
    if context is not None and (context.ring_degree > 1 or context.ulysses_anything):
        raise ValueError(
            f"`ring_degree` must be 1 and `ulysses_anything` False for an aligned fusion, got {context.ring_degree} "
            f"and {context.ulysses_anything}; use `ulysses_degree`"
        )


def check_ring(config: ContextParallelConfig, model: nn.Module) -> None:
    """Refuse ring attention on a backend that cannot do it: it adds up partial sums by their log-sum-exp."""
    modules = [module for module in model.modules() if isinstance(module, AttentionModuleMixin)]
    backends = {module.processor._attention_backend or active_attention_backend() for module in modules}
    if config.ring_degree > 1 and AttentionBackendName.NATIVE in backends:
        raise ValueError(
            f"`ring_degree` must be 1 on the attention backend 'native', which gives no log-sum-exp, got "
            f"{config.ring_degree}; use `ulysses_degree`, or on a GPU `set_attention_backend('_native_cudnn')`"
        )


def check_cache(config: Any) -> None:
    """Refuse the cache for which each device decides on its own shard: those that disagree wait for ever."""
    if isinstance(config, FirstBlockCacheConfig):
        raise ValueError(
            "the cache must decide alike on all devices with context parallelism, got `FirstBlockCacheConfig`, which "
            "looks at each shard alone; use `MagCacheConfig` or `TaylorSeerCacheConfig`"
        )
