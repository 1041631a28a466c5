"""Caches of diffusers, which reuse work from one denoising step to the next, for models of picture and sound.

diffusers finds the modules that a cache hooks by their names and by what they return. Where its assumptions do not
hold here, they are put right when a cache is enabled, or the cache is refused: a cache that changes nothing, or that
keeps the picture and loses the sound, is never enabled.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L audio latents.
"""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffusers import (
    CacheMixin,
    FasterCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from diffusers.hooks.hooks import CacheContext, HookRegistry, StateManager
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastHook, PyramidAttentionBroadcastState
from diffusers.models.attention import AttentionModuleMixin
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from .sound_cache import JoVACacheConfig, apply_sound_cache, remove_sound_cache


ATTENTION = r"(?:.*\.)?attn1?"  # the attention in which the modalities meet, as `re.fullmatch` finds it
BLOCK = r"[^.]*blocks\.\d+"
HEAD = r"(?:\w+\.){1,2}proj_out"  # of video and of audio
SHARED = "shared"  # name of a module that is called for one modality after the other
REFUSED = {
    FasterCacheConfig: "which rebuilds the prediction without the prompt for the picture and not for the sound",
    TextKVCacheConfig: "which knows the blocks of Nucleus-Image only",
}


class JoVACacheMixin(CacheMixin):
    """`enable_cache` for transformers that pack the rows of both modalities."""

    _cache_config: Any

    def enable_cache(self, config: Any) -> None:
        """Reuse work from step to step until `disable_cache`.

        Args:
            config: `JoVACacheConfig`, which minds the sound, or of diffusers `FirstBlockCacheConfig`,
                `MagCacheConfig`, `TaylorSeerCacheConfig`, `SeaCacheConfig` or `PyramidAttentionBroadcastConfig`.
                Where such a one names no modules or latents, those of this model are taken: the joint attention, the
                heads of both modalities, the noisy latents of both.

        Raises:
            ValueError: The cache cannot serve both modalities, would change nothing, or would hook a module that is
                called for one modality after the other and therefore mix them up.
        """
        check_kind(self, config)
        if isinstance(config, JoVACacheConfig) and not self.is_cache_enabled:
            apply_sound_cache(self, config)
            self._cache_config = config
            return
        if isinstance(config, TaylorSeerCacheConfig):
            config = with_module_names(config)
        elif isinstance(config, SeaCacheConfig) and config.raw_vision_callback is None:
            config = replace(config, raw_vision_callback=noisy_latents)
        before = hooks_by_module(self)
        super().enable_cache(config)
        hooked = [name for name, hooks in hooks_by_module(self).items() if name and hooks != before.get(name)]
        try:
            check_hooked(config, hooked)
        except ValueError:
            self.disable_cache()
            raise
        if isinstance(config, PyramidAttentionBroadcastConfig):
            key_broadcasts_by_context(self, hooked)

    def disable_cache(self) -> None:
        """Compute every step as a whole again, and let go of what is kept."""
        if not isinstance(self._cache_config, JoVACacheConfig):
            super().disable_cache()
            return
        remove_sound_cache(self)
        self._cache_config = None


class ContextBroadcastHook(PyramidAttentionBroadcastHook):
    """Keeps one output per `cache_context`, so that predictions with and without the prompt may take turns.

    Goes when diffusers keys the state of its own hook like this:
    https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/hooks/pyramid_attention_broadcast.py
    """

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        """Start without an output."""
        self.states = StateManager(PyramidAttentionBroadcastState)
        self.state = PyramidAttentionBroadcastState()  # that of the latest call
        return module

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Go by what is kept for the context of the call, or for calls without one."""
        if self.states._context is None:
            self.states.set_context(CacheContext("inference"))
        self.state = self.states.get_state()
        return super().new_forward(module, *args, **kwargs)

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Forget every output."""
        self.states.reset()
        self.state = PyramidAttentionBroadcastState()
        return module


def check_kind(model: nn.Module, config: Any) -> None:
    """Refuse what cannot be right for picture and sound, or asks for attention that the model does not have."""
    for cls, reason in REFUSED.items():
        if isinstance(config, cls):
            raise ValueError(
                f"`config` must be of a cache that serves picture and sound, got {cls.__name__}, {reason}; "
                "use TaylorSeerCacheConfig, MagCacheConfig, FirstBlockCacheConfig, SeaCacheConfig or "
                "PyramidAttentionBroadcastConfig"
            )
    boundary = getattr(model.config, "boundary", None)
    if boundary is not None and not isinstance(config, JoVACacheConfig):
        raise ValueError(
            f"`config` must be a JoVACacheConfig for a model of two video towers, got a {type(config).__name__}: what "
            f"one tower has computed is not what the other computes, and they change below sigma {boundary:g}"
        )
    if not isinstance(config, PyramidAttentionBroadcastConfig):
        return
    attentions = [module for module in model.modules() if isinstance(module, AttentionModuleMixin)]
    absent = {"temporal": True, "cross": not any(module.is_cross_attention for module in attentions)}
    for kind, is_absent in absent.items():
        name = f"{kind}_attention_block_skip_range"
        if is_absent and getattr(config, name) is not None:
            raise ValueError(
                f"`{name}` must be None for a {type(model).__name__}, which has no {kind} attention, "
                f"got {getattr(config, name)}; set `spatial_attention_block_skip_range` for its joint attention"
            )


def with_module_names(config: TaylorSeerCacheConfig) -> TaylorSeerCacheConfig:
    """Name the modules that diffusers means by its defaults: the attention, or in lite mode the blocks and heads."""
    if config.use_lite_mode:
        if config.skip_predict_identifiers or config.cache_identifiers:
            raise ValueError("`use_lite_mode` must be False where identifiers are given, got True; leave one out")
        return replace(config, use_lite_mode=False, skip_predict_identifiers=[BLOCK], cache_identifiers=[HEAD])
    return config if config.cache_identifiers else replace(config, cache_identifiers=[ATTENTION])


def noisy_latents(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Latents of one call that are being generated, for SeaCache: [C, F, H, W] and, for sound, [C, L, 1, 1].

    SeaCache averages the change over the list, so picture and sound weigh the same.
    """
    forward = type(unwrap_module(module)).forward
    given = inspect.signature(forward).bind(module, *args, **kwargs).arguments
    timestep, audio_timestep = given["timestep"], given.get("audio_timestep")
    latents: list[Tensor] = []
    if given["hidden_states"] is not None and timestep.any():
        num_channels = unwrap_module(module).config.out_channels  # behind them lie those of a condition
        latents += given["hidden_states"][:, :num_channels].unbind()
    if given["audio_hidden_states"] is not None and (timestep if audio_timestep is None else audio_timestep).any():
        latents += given["audio_hidden_states"].mT[..., None, None].unbind()
    return latents


def hooks_by_module(model: nn.Module) -> dict[str, set[str]]:
    """Names of diffusers' hooks on every module that has any."""
    return {
        name: set(module._diffusers_hook.hooks)
        for name, module in model.named_modules()
        if hasattr(module, "_diffusers_hook")
    }


def check_hooked(config: Any, hooked: list[str]) -> None:
    """Refuse a cache that hooks no module, or one that serves both modalities in turn."""
    kind = type(config).__name__
    if not hooked:
        raise ValueError(f"`config` must name modules of this model, got a {kind} that finds none; leave them to it")
    if shared := [name for name in hooked if SHARED in name.split(".")]:
        raise ValueError(
            f"{kind} must hook modules that are called once per step, got `{shared[0]}`, which serves picture and "
            "sound in turn; leave it to the joint attention (`attn1`)"
        )


def key_broadcasts_by_context(model: nn.Module, names: list[str]) -> None:
    """Replace the hooks that diffusers put on modules by ours."""
    for name in names:
        registry = HookRegistry.check_if_exists_or_initialize(model.get_submodule(name))
        for key, hook in list(registry.hooks.items()):
            if isinstance(hook, PyramidAttentionBroadcastHook):
                registry.remove_hook(key, recurse=False)
                registry.register_hook(
                    ContextBroadcastHook(
                        hook.timestep_skip_range, hook.block_skip_range, hook.current_timestep_callback
                    ),
                    key,
                )
