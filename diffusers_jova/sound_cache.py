"""A cache between denoising steps that minds the sound: audio rows are computed in every step, video rows in some.

A waveform shows an error long before a picture does, and audio rows are few. A full step computes everything and
keeps the keys and values of the video branch wherever audio reads it, and the video velocity with its noise level. An
audio step computes the audio branch alone; its queries read what was kept, and the video velocity is extrapolated on
the line through those of the last two full steps:

    v(sigma) = v_1 + (v_1 - v_2) (sigma - sigma_1) / (sigma_1 - sigma_2)

The first two steps and the last are full, and where another video tower takes over, its first two: what one tower has
computed is not what the other computes. Every branch of guidance, or batch of branches, keeps its own.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L audio latents.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from diffusers.hooks.hooks import BaseState, CacheContext, HookRegistry, ModelHook, StateManager
from diffusers.utils import logging
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from .devices import device_named
from .kept_rows import SCALED, JoVARowKeeper, KeptRows, keepers_of, keeping
from .number_arguments import positive_number, whole_number


logger = logging.get_logger(__name__)

HOOK = "jova_sound_cache"
NUM_FIRST = 2  # steps that are full in any case, because a line has two points
MANY_STEPS = 24  # at which clips with the cache were measured to stay near those without; at 8 they did not
VIDEO_LATENTS = ("hidden_states", "reference_hidden_states")  # arguments of a model
TINY = 1e-12  # instead of a norm of 0


@dataclass
class JoVACacheConfig:
    """Which steps are full, and how video rows are kept.

    It is for many steps: between few, such as jova-tiny's 12, noise levels lie too far apart for the line.

    With a threshold the schedule is adaptive: a full step comes where one is about to be passed, and at the latest
    `video_interval` steps after the last.

    Args:
        video_interval: Steps from one full step to the next; 1 makes every step full.
        video_threshold: Largest error of the extrapolated video velocity, relative to its norm, as estimated from what
            the last full step found; None goes by the interval alone.
        audio_threshold: Largest change of the audio velocity since the last full step, relative to its norm; None goes
            by the interval alone.
        storage_dtype: Number format of the kept keys and values, such as `torch.float8_e4m3fn`, half the memory of
            bfloat16; None for that of the model.
        storage_device: Where they lie, such as `"cpu"`; None for where they are computed.
    """

    video_interval: int = 3
    video_threshold: float | None = None
    audio_threshold: float | None = None
    storage_dtype: torch.dtype | None = None
    storage_device: str | torch.device | None = None

    def __post_init__(self) -> None:
        self.video_interval = whole_number("video_interval", self.video_interval, least=1)
        for name in ("video_threshold", "audio_threshold"):
            if getattr(self, name) is not None:
                setattr(self, name, positive_number(name, getattr(self, name), "0.1 is a share of a velocity, say"))
        if self.storage_dtype is not None and not (
            isinstance(self.storage_dtype, torch.dtype) and self.storage_dtype.is_floating_point
        ):
            raise ValueError(
                f"`storage_dtype` must be a floating-point format of torch, got {self.storage_dtype!r}; use "
                "torch.float8_e4m3fn, say"
            )
        if self.storage_device is not None:
            self.storage_device = device_named("storage_device", self.storage_device)

    @property
    def is_adaptive(self) -> bool:
        """Whether what the steps find decides when a full one is due."""
        return self.video_threshold is not None or self.audio_threshold is not None

    def lies_on(self, device: torch.device) -> bool:
        """Whether a device that computes holds what is kept."""
        return self.storage_device is None or torch.device(self.storage_device).type == device.type

    def described(self) -> dict[str, Any]:
        """What differs from the default, with the interval, as JSON holds it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value if isinstance(value, int | float) else str(value).removeprefix("torch.")
            for name, value in values.items()
            if value is not None
        }


def extrapolate(velocities: Sequence[tuple[float, Tensor]], sigma: float) -> Tensor:
    """The velocity at a noise level, on the line through those at two others; in float32 within, any one shape.

    Args:
        velocities: Two noise levels with their velocities, the latest first.
        sigma: Where it is wanted.
    """
    (sigma_1, latest), (sigma_2, before) = velocities
    share = 0.0 if sigma_1 == sigma_2 else (sigma - sigma_1) / (sigma_1 - sigma_2)
    latest_32 = latest.float()
    return (latest_32 + (latest_32 - before.float()) * share).type_as(latest)


def relative_change(new: Tensor, old: Tensor) -> float:
    """Norm of a difference over that of the new value, the largest of all samples [B, ...]."""
    new, old = new.float().flatten(1), old.float().flatten(1)
    return float(((new - old).norm(dim=1) / new.norm(dim=1).clamp(min=TINY)).amax())


class BranchState(BaseState):
    """What is kept between the steps of one branch of guidance, or of the branches of one batch.

    Args:
        num_keepers: Modules of the model that keep rows.
        config: Of the cache.
    """

    def __init__(self, num_keepers: int, config: JoVACacheConfig) -> None:
        device = config.storage_device
        assert not isinstance(device, str)
        self.kept = [KeptRows(config.storage_dtype, device) for _ in range(num_keepers)]
        self.velocities: list[tuple[float, Tensor]] = []  # with their noise levels, the latest first
        self.last_step = self.last_full_step = -1
        self.audio_velocity: Tensor | None = None  # of the last step
        self.audio_rate = math.inf  # its change from the step before
        self.audio_change = 0.0  # sum of these since the last full step
        self.curvature = math.inf  # error of the last extrapolation over the product of the distances
        self.video_tower: str | None = None  # that computed the velocities

    def enter(self, video_tower: str) -> None:
        """Forget the line on which the velocity lay where another tower takes over; its second step keeps rows."""
        if video_tower != self.video_tower:
            self.velocities = []
            self.curvature = math.inf
            self.video_tower = video_tower

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Let go of all tensors."""
        self.kept = []
        self.velocities = []
        self.audio_velocity = None

    def expected_error(self, sigma: float) -> float:
        """Error of the video velocity if it is extrapolated to a noise level."""
        (sigma_1, _), (sigma_2, _) = self.velocities
        return self.curvature * abs((sigma - sigma_1) * (sigma - sigma_2))

    def note_video(self, sigma: float, velocity: Tensor, measures: bool) -> None:
        """Add the velocity of a full step, and measure what extrapolation would have made of it."""
        if measures and len(self.velocities) == NUM_FIRST:
            (sigma_1, _), (sigma_2, _) = self.velocities
            distance = abs((sigma - sigma_1) * (sigma - sigma_2))
            error = relative_change(velocity, extrapolate(self.velocities, sigma))
            self.curvature = error / distance if distance else math.inf
        self.velocities = [(sigma, velocity.detach()), *self.velocities][:NUM_FIRST]

    def note_audio(self, velocity: Tensor, is_full: bool) -> None:
        """Measure how far the audio velocity has gone."""
        if self.audio_velocity is not None:
            self.audio_rate = relative_change(velocity, self.audio_velocity)
        self.audio_change = 0.0 if is_full else self.audio_change + self.audio_rate
        self.audio_velocity = velocity.detach()

    @property
    def num_bytes(self) -> int:
        """Memory of what is kept, wherever it lies."""
        velocities = [velocity for _, velocity in self.velocities]
        velocities += [] if self.audio_velocity is None else [self.audio_velocity]
        return sum(rows.num_bytes for rows in self.kept) + sum(
            part.numel() * part.element_size() for part in velocities
        )


class BranchStates(StateManager):
    """The states of all branches; those that the last step did not ask for are dropped."""

    def all(self) -> list[BranchState]:
        """States that are kept."""
        return list(self._state_cache.values())

    def drop(self, name: str) -> None:
        """Let go of a branch."""
        self._state_cache.pop(name).reset()

    def begin(self, context: CacheContext) -> None:
        """Let go of what the first step of a call finds, and of branches that the last step has not asked for."""
        for name, state in list(self._state_cache.items()):
            is_older = context.step_index == 0 and name == context.name
            if is_older or state.last_step not in (context.step_index - 1, context.step_index):
                self.drop(name)


class SoundCacheHook(ModelHook):
    """Stands in front of the forward of a transformer and makes its steps full ones or audio steps.

    Args:
        config: Of the cache.
    """

    _is_stateful = True

    def __init__(self, config: JoVACacheConfig) -> None:
        super().__init__()
        self.config = config
        self.keepers: list[JoVARowKeeper] = []
        self.states = BranchStates(BranchState)
        self.decided: tuple[int, bool] | None = None  # the step, and whether thresholds make it full
        self.reason: str | None = None  # why every step of the call is full

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        """Find the modules that keep something."""
        self.keepers = keepers_of(unwrap_module(module))
        self.states = BranchStates(BranchState, (len(self.keepers), self.config))
        return module

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Let go of everything that is kept."""
        self.states.reset()
        self.decided = None
        return module

    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Make a full step or an audio step of one call; arguments and output are those of the model."""
        bound = inspect.signature(type(unwrap_module(module)).forward).bind(module, *args, **kwargs)
        given = {name: value for name, value in bound.arguments.items() if name != "self"}
        context = position(self.states)
        self.states.begin(context)
        if self.decided is None or context.step_index < self.decided[0]:
            self.reason = nothing_to_spare(given, context.num_inference_steps)
            if self.reason:
                logger.warning(f"the cache of video rows makes every step full in this call: {self.reason}")
            elif context.num_inference_steps < MANY_STEPS and self.config.video_interval > 1:
                logger.warning(
                    f"the cache of video rows is for many steps, got {context.num_inference_steps}: clips were "
                    f"measured to stay near at {MANY_STEPS} and to go far off at 8; take more, or no cache"
                )
        if not self.reason and absent_latents(given):  # a prediction that needs one modality, beside others
            return self.fn_ref.original_forward(**given)
        if self.reason:
            self.decided = (context.step_index, True)
            return self.fn_ref.original_forward(**given)
        state = self.states.get_state()
        state.enter(unwrap_module(module).video_tower(given["timestep"]))
        if self.is_full(state, context):
            return self.full_step(state, context, given)
        return self.audio_step(state, context, given)

    def is_full(self, state: BranchState, context: CacheContext) -> bool:
        """Whether a step computes everything; all branches of a step that may choose choose the same."""
        step = context.step_index
        if self.decided is None or self.decided[0] != step:
            self.decided = (step, self.is_due(step, context.sigma))
        is_end = step < NUM_FIRST or step >= context.num_inference_steps - 1
        has_to = len(state.velocities) < NUM_FIRST or step - state.last_full_step >= self.config.video_interval
        return is_end or has_to or self.decided[1]

    def is_due(self, step: int, sigma: float) -> bool:
        """Whether a threshold would be passed in a step, for any branch that was asked in the step before."""
        states = [state for state in self.states.all() if len(state.velocities) == NUM_FIRST]
        video, audio = self.config.video_threshold, self.config.audio_threshold
        return any(
            (video is not None and state.expected_error(sigma) > video)
            or (audio is not None and state.audio_change + state.audio_rate > audio)
            for state in states
            if state.last_step == step - 1
        )

    def full_step(self, state: BranchState, context: CacheContext, given: Mapping[str, Any]) -> Any:
        """Compute everything, and keep what the next step may read."""
        step = context.step_index
        is_read = step < context.num_inference_steps - 2 and self.config.video_interval > 1 and state.velocities
        with keeping(self.keepers, state.kept if is_read else [None] * len(self.keepers)):
            output = self.fn_ref.original_forward(**given)
        if step >= context.num_inference_steps - 1:
            self.states.drop(context.name)
            return output
        sample, audio_sample = velocities_of(output)
        state.note_video(context.sigma, sample, measures=self.config.video_threshold is not None)
        if self.config.audio_threshold is not None:
            state.note_audio(audio_sample, is_full=True)
        state.last_step = state.last_full_step = step
        return output

    def audio_step(self, state: BranchState, context: CacheContext, given: Mapping[str, Any]) -> Any:
        """Compute the audio branch alone, and extrapolate the velocity of the video."""
        with keeping(self.keepers, state.kept):
            output = self.fn_ref.original_forward(**without_video(given))
        velocity = extrapolate(state.velocities, context.sigma)
        if self.config.audio_threshold is not None:
            state.note_audio(velocities_of(output)[1], is_full=False)
        state.last_step = context.step_index
        if isinstance(output, tuple):
            return velocity, *output[1:]
        output.sample = velocity
        return output


def position(states: StateManager) -> CacheContext:
    """Where a call stands.

    Raises:
        ValueError: Nobody has said so.
    """
    context = states._context
    if context is None or None in (context.step_index, context.sigma, context.num_inference_steps):
        raise ValueError(
            "`cache_context` must tell `step_index`, `sigma` and `num_inference_steps` for a JoVACacheConfig, got "
            f"{context}; call the pipeline, or wrap the call of the transformer in it"
        )
    return context


def without_video(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a model for the audio alone; an image in front of the video goes with it."""
    return {name: None if name in VIDEO_LATENTS else value for name, value in given.items()}


def absent_latents(given: Mapping[str, Any]) -> list[str]:
    """Arguments of a model that would be the latents of a modality, but are None."""
    return [name for name in ("hidden_states", "audio_hidden_states") if given.get(name) is None]


def nothing_to_spare(given: Mapping[str, Any], num_steps: int) -> str | None:
    """Why no step of a call can go without video rows; None where some can.

    Args:
        given: Arguments of the model.
        num_steps: Of the call.
    """
    if absent := absent_latents(given):
        return f"it has no {'video' if absent[0] == 'hidden_states' else 'sound'}"
    audio_timestep = given.get("audio_timestep")
    if audio_timestep is not None and audio_timestep.ndim == 2 and not audio_timestep.any():  # one for each latent
        return "its sound is given"
    if num_steps <= NUM_FIRST + 1:
        return f"it has {num_steps} steps, of which the first {NUM_FIRST} and the last are full"
    return None


def velocities_of(output: Any) -> tuple[Tensor, Tensor]:
    """Velocities of video and audio in what a transformer returned."""
    return (output[0], output[1]) if isinstance(output, tuple) else (output.sample, output.audio_sample)


def apply_sound_cache(model: nn.Module, config: JoVACacheConfig) -> None:
    """Put the cache in front of a transformer."""
    HookRegistry.check_if_exists_or_initialize(model).register_hook(SoundCacheHook(config), HOOK)


def remove_sound_cache(model: nn.Module) -> None:
    """Undo `apply_sound_cache`, and let go of what is kept."""
    registry = HookRegistry.check_if_exists_or_initialize(model)
    registry.get_hook(HOOK).reset_state(model)
    registry.remove_hook(HOOK, recurse=False)


def is_full_step(config: JoVACacheConfig, step: int, num_steps: int) -> bool:
    """Whether a step is full by the interval alone, as it is for every config without thresholds."""
    return step < NUM_FIRST or step == num_steps - 1 or (step - NUM_FIRST + 1) % config.video_interval == 0


def num_full_steps(config: JoVACacheConfig, num_steps: int, within: range | None = None) -> int:
    """Full steps of a call, or of some steps in a row of it, by the interval alone; thresholds add some.

    So does a second video tower that takes over: at most its first two, `NUM_FIRST`.
    """
    steps, interval = range(num_steps) if within is None else within, config.video_interval
    by_interval = (steps.stop - NUM_FIRST) // interval - (steps.start - NUM_FIRST) // interval
    ends = {step for step in (*range(NUM_FIRST), num_steps - 1) if step in steps}
    return by_interval + sum((step - NUM_FIRST + 1) % interval != 0 for step in ends)


def num_packed_text_rows(model: Any, num_text_rows: int) -> int:
    """Text rows of a branch that take part in its joint attention: those of a JoVATransformer3DModel."""
    return num_text_rows if hasattr(model.config, "num_single_layers") and model.config.fusion == "joint" else 0


def kept_bytes(
    model: Any, config: JoVACacheConfig, grid: Sequence[int], num_text_rows: int, num_predictions: int
) -> int:
    """Memory of what is kept for some predictions of a guided step in which audio reads video.

    Args:
        model: A transformer.
        config: Of the cache.
        grid: Latent frames, height and width of the video.
        num_text_rows: Text rows of the video branch, which belong to the packed rows of a JoVATransformer3DModel.
        num_predictions: Of all clips together; one whose audio reads no video keeps its velocity alone.
    """
    num_frames, height, width = (size // patch for size, patch in zip(grid, model.config.patch_size, strict=True))
    itemsize = (config.storage_dtype or model.dtype).itemsize
    num_text_rows = num_packed_text_rows(model, num_text_rows)
    kept = 0
    for keeper in keepers_of(model):
        heads, head_dim = keeper.kept_heads
        num_rows = (num_frames + keeper.num_more_frames) * height * width + num_text_rows
        kept += 2 * heads * (num_rows * head_dim * itemsize + (4 if config.storage_dtype in SCALED else 0))
    velocities = NUM_FIRST * model.config.out_channels * math.prod(grid) * model.dtype.itemsize
    return num_predictions * (kept + velocities)
