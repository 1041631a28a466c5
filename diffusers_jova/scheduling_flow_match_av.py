"""A scheduler that walks video and audio from noise to data side by side; `flow_matching` has its formulas.

Letters: B batch, C channels, F latent frames, H and W latent height and width, L audio latents, N steps.
Video is [B, C, F, H, W] and audio [B, L, C] throughout.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from .config_class import JoVAConfigClassMixin
from .flow_matching import (
    COUPLINGS,
    SigmaMixture,
    add_noise,
    check_levels,
    check_same_shape,
    expand_sigma,
    predict_data,
    shift_sigmas,
    sigma_quantile,
    velocity_target,
)
from .flow_schedulers import (
    OWN_SCHEDULER,
    check_predicts_flow,
    declared_shift,
    lay_out_levels,
    read_plain_config,
    with_shift,
)
from .number_arguments import finite_number, positive_number, whole_number
from .shipped_names import JoVAShippedMixin
from .solver_steps import Generators, all_or_nothing, check_one_timestep, check_step, noised, solver_step, uniforms


__all__ = [  # with the formulas that it is made of
    "COUPLINGS",
    "PRESETS",
    "SOLVERS",
    "FlowMatchAudioVideoScheduler",
    "FlowMatchAudioVideoSchedulerOutput",
    "Generators",
    "SigmaMixture",
    "add_noise",
    "check_levels",
    "check_same_shape",
    "expand_sigma",
    "predict_data",
    "shift_sigmas",
    "sigma_quantile",
    "velocity_target",
]

SOLVERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "euler": FlowMatchEulerDiscreteScheduler,
        "unipc": partial(UniPCMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True),
    }
)

# Schedules that people have published; each row is `FlowMatchAudioVideoScheduler(**PRESETS[name])`. The video shift
# of Waver stands in for JoVA's, whose shifts and solver are not published.
# fmt: off
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "jova-training": {"shift":  3.0, "audio_shift":  3.0},                     # Waver README, 720p
    "jova":          {"shift":  7.0, "audio_shift":  7.0},                     # Waver README, inference at 720p
    "wan":           {"shift":  5.0, "audio_shift":  5.0, "solver": "unipc"},  # Wan 2.1, 720p
    "ovi":           {"shift":  5.0, "audio_shift":  5.0, "solver": "unipc"},  # Ovi @ 5b69b25
    "nava":          {"shift":  5.0, "audio_shift":  5.0, "solver": "unipc"},  # NAVA @ 786c373
    "uniavgen":      {"shift":  5.0, "audio_shift":  5.0, "last_sigma": 0.001},  # MCG-NJU/Sora2-mini @ 6d9a41b
    "mova-phase-1":  {"shift":  5.0, "audio_shift":  1.0},                     # arXiv:2602.08794v2
    "mova":          {"shift":  5.0, "audio_shift":  5.0},                     # arXiv:2602.08794v2, phases 2 and 3
    "universe-1":    {"shift": 15.0, "audio_shift": 15.0, "solver": "unipc"},  # UniVerse-1 code
    "minimax-h3":    {"shift": 12.0, "audio_shift":  3.0},                     # musubi-tuner @ 4e9945c
})
# fmt: on


# densities to train on that have parameters, and the defaults of those
PARAMETERS = {"logit_mean": ("logit_normal", 0.0), "logit_std": ("logit_normal", 1.0), "mode_scale": ("mode", 1.29)}


@dataclass
class FlowMatchAudioVideoSchedulerOutput(BaseOutput):
    """Samples of both modalities one step closer to the data.

    Args:
        prev_sample: Video latents, [B, C, F, H, W]; ``None`` for an absent modality.
        prev_audio_sample: Audio latents, [B, L, C]; ``None`` for an absent modality.
    """

    prev_sample: Tensor | None = None
    prev_audio_sample: Tensor | None = None


class FlowMatchAudioVideoScheduler(JoVAConfigClassMixin, JoVAShippedMixin, SchedulerMixin, ConfigMixin):
    """Walks video and audio from noise to data side by side, each on its own schedule.

    The solvers are diffusers' own, one instance per modality, at ``video`` and ``audio``. The schedules are exact:
    u = 1, 1 - 1/N, ..., 1/N, or even steps from 1 to ``last_sigma``, is shifted per modality, so that the first step
    starts at sigma 1 (timestep 1000) and the last one ends at 0; timesteps are ``sigma * num_train_timesteps`` in
    float32, never rounded.

    Args:
        shift: Shift of the video schedule, see `shift_sigmas`.
        audio_shift: Shift of the audio schedule.
        num_train_timesteps: Timestep at sigma 1.
        solver: ``"euler"``, or ``"unipc"`` for the second-order multistep predictor-corrector of Wan, whose logarithms
            take the first sigma as 1 - 1e-6.
        last_sigma: Noise level at which the last step starts, before the shift; None for 1/N.
    """

    # their configs and ours read each other: `UniPCMultistepScheduler.from_config(pipe.scheduler.config)`
    _compatibles = [
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "FlowMatchLCMScheduler",
        "FlowMapEulerDiscreteScheduler",
        "LTXEulerAncestralRFScheduler",
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
    ]
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        shift: float = 1.0,
        audio_shift: float = 1.0,
        num_train_timesteps: int = 1000,
        solver: Literal["euler", "unipc"] = "euler",
        last_sigma: float | None = None,
    ) -> None:
        if solver not in SOLVERS:
            raise ValueError(f"`solver` must be one of {sorted(SOLVERS)}, got {solver!r}")
        self.video, self.audio = (
            SOLVERS[solver](num_train_timesteps=self.config["num_train_timesteps"]) for _ in range(2)
        )
        self._start(torch.zeros(1), torch.zeros(1))

    def register_to_config(self, **kwargs: Any) -> None:
        """Keep what other schedulers read from this config in step with ``shift`` and ``audio_shift``.

        Raises:
            ValueError: A shift, the number of timesteps or the last level is no number that a schedule can have.
        """
        if kwargs.get("last_sigma") is not None:
            kwargs["last_sigma"] = finite_number("last_sigma", kwargs["last_sigma"], "None is 1 / number of steps")
            if not 0 < kwargs["last_sigma"] < 1:
                raise ValueError(f"`last_sigma` must lie within (0, 1), got {kwargs['last_sigma']}; use 0.001, say")
        for name in {"shift", "audio_shift"} & {*kwargs}:
            kwargs[name] = positive_number(name, kwargs[name], "1 leaves the schedule uniform")
        if "num_train_timesteps" in kwargs:
            kwargs["num_train_timesteps"] = whole_number("num_train_timesteps", kwargs["num_train_timesteps"], least=1)
        super().register_to_config(**kwargs)
        super().register_to_config(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            _class_name=type(self).__name__,
            flow_shift=self.config["shift"],
            _audio_shift_ratio=self.config["audio_shift"] / self.config["shift"],
        )

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build as diffusers does; the config of a plain scheduler of flow gives its shift and its solver.

        Args:
            config: Of this class, or of a plain scheduler, whose shift is that of the sound as well, unless it came
                from ours.
            return_unused_kwargs: As in diffusers.
            kwargs: Fields that differ.
        """
        if isinstance(config, Mapping) and not {"audio_shift", "solver"} & {*config}:
            kwargs = read_plain_config(config) | kwargs
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> "FlowMatchAudioVideoScheduler":
        """Apply a plain diffusers scheduler to each modality, on its own schedule.

        Args:
            scheduler: Any scheduler that predicts flow: one of `flow_schedulers.FLOW_MATCH_CLASSES`, which walks the
                levels that ours would walk, or one with ``prediction_type="flow_prediction"`` and
                ``use_flow_sigmas=True``, whose own are shifted once as well. If its config came from ours, the ratio
                of ``audio_shift`` to ``shift`` is kept, and by the first also ``last_sigma``. Ours serves as it is.
                Your own derives from ours, or from one of diffusers' that serve. Each is copied, never stepped:
                pipelines may share it.

        Raises:
            ValueError: If the scheduler does not predict flow or needs a shift that depends on the resolution.
        """
        if isinstance(scheduler, cls):
            return copy.deepcopy(scheduler)
        check_predicts_flow(scheduler)
        shift = declared_shift(scheduler)
        audio_shift = shift * scheduler.config.get("_audio_shift_ratio", 1.0)
        last_sigma = scheduler.config.get("last_sigma")
        pair = cls(shift, audio_shift, scheduler.config.num_train_timesteps, last_sigma=last_sigma)
        pair.register_to_config(solver=type(scheduler).__name__)
        pair.order = scheduler.order
        pair.video = copy.deepcopy(scheduler)
        pair.audio = copy.deepcopy(scheduler)
        if audio_shift != shift:
            pair.audio = with_shift(scheduler, audio_shift)
        return pair

    # 1. Inference

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        audio_sigmas: Sequence[float] | None = None,
    ) -> None:
        """Lay out the schedules of both modalities and go back to their beginning.

        Args:
            num_inference_steps: N; may be left out where ``sigmas`` or ``audio_sigmas`` tell it.
            device: Where ``timesteps`` and ``sigmas`` live.
            sigmas: Video noise levels to walk, N values falling within (0, 1], without the final 0. Used as they are:
                no shift is applied to them.
            audio_sigmas: Audio noise levels, likewise. Without them audio keeps pace with video: at each step its
                level is the video level shifted by ``audio_shift / shift`` (the same level if the shifts agree).
        """
        if num_inference_steps is not None:
            num_inference_steps = whole_number("num_inference_steps", num_inference_steps)
        if self.config["solver"] in SOLVERS:
            schedules = self._schedules(num_inference_steps, sigmas, audio_sigmas)
            for solver, schedule in zip((self.video, self.audio), schedules, strict=True):
                solver.set_timesteps(sigmas=schedule, device=device)
            video, audio = (torch.from_numpy(np.append(x, 0)).float() for x in schedules)
        else:
            video, audio = self._solvers_own_schedules(num_inference_steps, device, sigmas, audio_sigmas)
        self._start(video.to(device), audio.to(device))

    def num_evaluations(self, num_inference_steps: int) -> int:
        """How often a schedule asks for velocities, the length of ``timesteps``: Heun's twice in all steps but one.

        Args:
            num_inference_steps: N.
        """
        return self.order * (num_inference_steps - 1) + 1

    def _solvers_own_schedules(
        self, num_inference_steps: int | None, device: str | torch.device | None, *given: Sequence[float] | None
    ) -> tuple[Tensor, Tensor]:
        """Let the schedulers that `from_scheduler` copied lay out their noise levels."""
        name = self.config["solver"]
        if given != (None, None):
            raise ValueError(
                f"`sigmas` and `audio_sigmas` must be None with a {name}, which has its own schedule, got {given}; "
                "give them to a FlowMatchAudioVideoScheduler"
            )
        num_steps = whole_number("num_inference_steps", num_inference_steps, least=1)
        even = self._even_sigmas(num_steps)
        for solver in (self.video, self.audio):
            lay_out_levels(solver, num_steps, even, device)
            if solver.sigmas[-1] != 0:
                raise ValueError(
                    f"`scheduler` must end at sigma 0, got {solver.sigmas[-1]:.3g} from a {name}; {OWN_SCHEDULER}"
                )
        return self.video.sigmas.float(), self.audio.sigmas.float()

    def _schedules(
        self, num_inference_steps: int | None, sigmas: Sequence[float] | None, audio_sigmas: Sequence[float] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the N noise levels of each modality in double precision."""
        given = {"sigmas": sigmas, "audio_sigmas": audio_sigmas}
        levels = {name: _check_sigmas(name, x) for name, x in given.items() if x is not None}
        lengths = {x.size for x in levels.values()}
        lengths |= set() if num_inference_steps is None else {num_inference_steps}
        if len(lengths) != 1 or min(lengths) < 1:
            raise ValueError(
                "`num_inference_steps`, `sigmas` and `audio_sigmas` must give one positive number of steps, "
                f"got {sorted(lengths) or None}; both modalities take every step together"
            )
        if "sigmas" not in levels:
            levels["sigmas"] = shift_sigmas(self._even_sigmas(lengths.pop()), self.config["shift"])
        if "audio_sigmas" not in levels:
            ratio = self.config["audio_shift"] / self.config["shift"]
            levels["audio_sigmas"] = shift_sigmas(levels["sigmas"], ratio)
        return levels["sigmas"], levels["audio_sigmas"]

    def _even_sigmas(self, num_inference_steps: int) -> np.ndarray:
        """Evenly spaced noise levels from 1 on, [N], the final 0 left out."""
        if self.config["last_sigma"] is None:
            return np.linspace(1, 0, num_inference_steps + 1)[:-1]
        return np.linspace(1, self.config["last_sigma"], num_inference_steps)

    def _start(self, sigmas: Tensor, audio_sigmas: Tensor) -> None:
        """Take noise levels [N + 1] per modality and stand before the first step."""
        self.sigmas, self.audio_sigmas = sigmas, audio_sigmas
        self.timesteps = sigmas[:-1] * self.config["num_train_timesteps"]
        self.audio_timesteps = audio_sigmas[:-1] * self.config["num_train_timesteps"]
        self.num_inference_steps = len(self.timesteps)
        self._step_index: int | None = None
        self._begin_index: int | None = None

    @property
    def step_index(self) -> int | None:
        """Index of the next step, ``None`` before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index of the first step, ``None`` to look it up."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this step of both schedules; `set_timesteps` forgets it.

        Args:
            begin_index: Index of the step, from 0 on.

        Raises:
            ValueError: There is no such step.
        """
        begin_index = whole_number("begin_index", begin_index, least=0)
        if self.num_inference_steps and begin_index >= self.num_inference_steps:
            raise ValueError(
                f"`begin_index` must be below the number of steps, {self.num_inference_steps}, got {begin_index}; "
                "0 is the first"
            )
        self._begin_index = begin_index

    def step(
        self,
        model_output: Tensor | None,
        audio_model_output: Tensor | None,
        timestep: Tensor | float,
        sample: Tensor | None,
        audio_sample: Tensor | None,
        *,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> FlowMatchAudioVideoSchedulerOutput | tuple[Tensor | None, Tensor | None]:
        """Take one step along the velocities, computed in float32.

        Restore condition tokens after each step: all tokens are moved, and multistep solvers remember them. Where a
        step raises, neither modality has moved, and it may be taken again.

        Args:
            model_output: Predicted video velocity, noise - data, [B, C, F, H, W]; ``None`` to leave video alone. What
                has begun and is left alone cannot go on later; what joins late can.
            audio_model_output: Predicted audio velocity, [B, L, C]; ``None`` to leave audio alone, likewise.
            timestep: The one entry of ``timesteps`` (those of video) whose turn it is, where the model's `forward`
                takes [B]; audio takes the same step of its own schedule. The first call may start anywhere.
            sample: Video latents at ``timestep``, same shape as ``model_output``.
            audio_sample: Audio latents, same shape as ``audio_model_output``.
            generator: For stochastic solvers only.
            return_dict: Whether to return the output class or a plain tuple.

        Returns:
            Both samples one step on, in their dtypes; ``None`` for a modality that was left alone.

        Raises:
            TypeError: A velocity or a sample is no tensor.
            ValueError: It is not the turn of ``timestep``, shapes do not fit, a velocity or a sample lacks the other,
                a modality has left out a step, or ``generator`` is none.
        """
        index = self._take_turn(timestep)
        check_step(self.video, "video", index, model_output, sample)
        check_step(self.audio, "audio", index, audio_model_output, audio_sample)
        with all_or_nothing(self.video, self.audio):
            prev_sample = solver_step(self.video, index, model_output, sample, generator)
            prev_audio_sample = solver_step(self.audio, index, audio_model_output, audio_sample, generator)
        self._step_index = index + 1
        if not return_dict:
            return prev_sample, prev_audio_sample
        return FlowMatchAudioVideoSchedulerOutput(prev_sample=prev_sample, prev_audio_sample=prev_audio_sample)

    def _take_turn(self, timestep: Tensor | float) -> int:
        """Look up the step that starts at ``timestep`` and insist that it is the next one."""
        check_one_timestep(timestep)
        index = self._begin_index if self._step_index is None else self._step_index
        if index is None:
            found = (self.timesteps == timestep).nonzero()
            if len(self.timesteps) and not len(found):
                raise ValueError(
                    f"`timestep` must be the next of `scheduler.timesteps`, got {float(timestep):.6g}, which is none "
                    "of them; give their entries in order, for audio takes the video's"
                )
            index = int(found[0]) if len(found) else 0
        if index >= len(self.timesteps) or self.timesteps[index] != timestep:
            raise ValueError(
                f"`timestep` must be the next of `scheduler.timesteps`, got {float(timestep):.6g} before step {index} "
                f"of {len(self.timesteps)}; call `set_timesteps` and walk through `timesteps` in order"
            )
        return index

    def scale_noise(
        self,
        sample: Tensor | None,
        audio_sample: Tensor | None,
        sigma: Tensor | float,
        audio_sigma: Tensor | float,
        noise: Tensor | None,
        audio_noise: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Add noise to both modalities, see `add_noise`; ``None`` for an absent one.

        Args:
            sample: Clean video latents, [B, C, F, H, W].
            audio_sample: Clean audio latents, [B, L, C].
            sigma: Video noise levels: a number, [B] or [B, F].
            audio_sigma: Audio noise levels: a number, [B] or [B, L].
            noise: Same shape as ``sample``.
            audio_noise: Same shape as ``audio_sample``.

        Raises:
            TypeError: As in `add_noise`.
            ValueError: As in `add_noise`, or a modality is that of the other, or lacks its sample or its noise.
        """
        noisy = noised("video", sample, noise, sigma)
        return noisy, noised("audio", audio_sample, audio_noise, audio_sigma)

    # 2. Training

    def sample_training_sigmas(
        self,
        batch_size: int,
        density: Literal["uniform", "logit_normal", "mode"] = "mode",
        coupling: Literal["shared", "independent", "mixed"] | SigmaMixture = "shared",
        generator: Generators = None,
        device: str | torch.device | None = None,
        *,
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        mode_scale: float = 1.29,
    ) -> tuple[Tensor, Tensor]:
        """Draw noise levels to train on; every number of (0, 1) can come, not only those of a table.

        The latents to train on are mixed at these levels by `scale_noise`, or one modality by `add_noise`.

        Args:
            batch_size: B.
            density: Density of the noise level before its shift, see `sigma_quantile`.
            coupling: Key of `COUPLINGS`, or probabilities of one's own.
            generator: One for all, or one per sample; a sample's levels then do not depend on its batch.
            device: Where to put the result.
            logit_mean: Of ``"logit_normal"``; above 0 means more noise.
            logit_std: Of ``"logit_normal"``.
            mode_scale: Of ``"mode"``.

        Returns:
            Video and audio noise levels, float32 [B] each, with ``shift`` and ``audio_shift`` applied. Exactly 0
            where ``coupling`` makes a modality clean.

        Raises:
            ValueError: An argument is none that levels can be drawn by.
        """
        batch_size = whole_number("batch_size", batch_size, least=1)
        if not isinstance(coupling, SigmaMixture) and coupling not in COUPLINGS:
            raise ValueError(f"`coupling` must be a SigmaMixture or one of {sorted(COUPLINGS)}, got {coupling!r}")
        mixture = COUPLINGS[coupling] if isinstance(coupling, str) else coupling
        u, other_u, choice = uniforms(batch_size, 3, generator).T.contiguous()
        drawn = torch.bucketize(choice, torch.tensor(astuple(mixture)).double().cumsum(0)[:-1], right=True)
        audio_u = torch.where(drawn == 1, other_u, u)

        quantile = partial(sigma_quantile, density=density, mean=logit_mean, std=logit_std, mode_scale=mode_scale)
        video = shift_sigmas(quantile(u), self.config["shift"]).masked_fill(drawn == 2, 0)
        audio = shift_sigmas(quantile(audio_u), self.config["audio_shift"]).masked_fill(drawn == 3, 0)
        given = {"logit_mean": logit_mean, "logit_std": logit_std, "mode_scale": mode_scale}
        check_read(density, given)
        return video.to(device, torch.float32), audio.to(device, torch.float32)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])


def check_read(density: str, given: Mapping[str, float]) -> None:
    """Refuse parameters of another density than is drawn from.

    Args:
        density: That is drawn from.
        given: Its parameters and those of others; one at its default is not given.
    """
    for name, value in given.items():
        owner, default = PARAMETERS[name]
        if density != owner and value != default:
            raise ValueError(
                f"`{name}` must be left out with `density` {density!r}, got {value:g}; it is of {owner!r}"
            )


def _check_sigmas(name: str, sigmas: Sequence[float]) -> np.ndarray:
    """Refuse noise levels that no schedule can walk."""
    values = np.asarray(sigmas)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ValueError(f"`{name}` must be a list of numbers, got {sigmas!r}; [1.0, 0.5], say")
    values = values.astype(np.float64)
    falls = values.size > 0 and values.max() <= 1 and values.min() > 0
    if not (falls and (np.diff(values) < 0).all()):  # written so that NaN fails as well
        raise ValueError(
            f"`{name}` must fall strictly within (0, 1], got {values.tolist()}; the final 0 is added by the scheduler"
        )
    return values
