"""JoVACurrentCallMixin: what a pipeline tells of the call that runs, by the names that diffusers' pipelines have."""

from typing import Any

from torch import Tensor

from .generation_defaults import GenerationDefaults


class JoVACurrentCallMixin:
    """What a call is about, and what a callback may change of it."""

    def begin_call(self, settings: GenerationDefaults, attention_kwargs: dict[str, Any] | None) -> None:
        """Set what the properties below tell, and what a callback may change."""
        self._guidance_scale, self._audio_guidance_scale = settings.guidance_scale, settings.audio_guidance_scale
        self._attention_kwargs, self._needs_negative_prompt = attention_kwargs, False
        self._num_timesteps, self._current_timestep, self._interrupt = 0, None, False

    @property
    def guidance_scale(self) -> float:
        """Text guidance of video in the current call, or the default.

        A callback may set `_guidance_scale`; the 0 with which those of diffusers cut guidance off is off for both
        modalities. Guidance by coupling and by voices keeps its own scales.
        """
        return self._guidance_scale

    @property
    def audio_guidance_scale(self) -> float:
        """Text guidance of audio, that of video unless it has its own; a callback may set `_audio_guidance_scale`."""
        return self._guidance_scale if self._audio_guidance_scale is None else self._audio_guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether any modality of the current call needs a prediction without the prompt."""
        return self._needs_negative_prompt

    @property
    def num_timesteps(self) -> int:
        """Steps of the current call; 0 before the first."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Video timestep of the current step; None between calls."""
        return self._current_timestep

    @property
    def attention_kwargs(self) -> dict[str, Any] | None:
        """What the current call passes to the transformer's `attention_kwargs`."""
        return self._attention_kwargs

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are skipped; a callback may set `_interrupt`."""
        return self._interrupt
