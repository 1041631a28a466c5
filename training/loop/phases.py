"""What a student of few steps learns: the phases of the noise levels, and the velocity that leaves one in one step.

Phased consistency models (PCM, arXiv:2405.18407) divide the path from noise to data into K phases and ask a model for
the point at the end e of the phase that t lies in, from any point of the path. Here the model stays what it is, a
velocity, and reaches that point by one step of Euler:
    f(x_t, t) = x_t + (e - t) v(x_t, t)
so that sampling with K steps of Euler, from edge to edge, is nothing new. There is no model in this file.

Letters: B samples, K phases, N steps of the teacher, M = N / K of them in each phase.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_jova.few_steps import FewSteps
from diffusers_jova.flow_matching import expand_sigma
from diffusers_jova.scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from diffusers_jova.transformer_jova import MODALITIES


@dataclass(frozen=True)
class Phases:
    """The levels of a teacher of N steps and of its student of K, of both modalities.

    Levels have numbers: 0 is pure noise, N is data; both modalities of a sample that walk together have one number.

    Attributes:
        levels: Of each modality, falling from 1 to 0, float32 [N + 1].
        steps_per_phase: M; the levels of the student are every M-th.
        scheduler: That lays out levels, with the shifts of both modalities.
    """

    levels: dict[str, Tensor]
    steps_per_phase: int
    scheduler: FlowMatchAudioVideoScheduler

    @classmethod
    def of(cls, few_steps: FewSteps, num_steps: int, device: torch.device) -> Phases:
        """Lay out the levels of N steps, among which are those that the student's scheduler walks, to the bit.

        Args:
            few_steps: Of the student.
            num_steps: N, a multiple of its steps.
            device: Where the levels are needed.
        """
        fine, coarse = few_steps.scheduler, few_steps.scheduler
        fine.set_timesteps(num_steps)
        coarse.set_timesteps(few_steps.num_inference_steps)
        steps_per_phase = num_steps // few_steps.num_inference_steps
        levels = {}
        for name, all_levels, edges in zip(
            MODALITIES, (fine.sigmas, fine.audio_sigmas), (coarse.sigmas, coarse.audio_sigmas), strict=True
        ):
            levels[name] = all_levels.clone()
            levels[name][::steps_per_phase] = edges
            levels[name] = levels[name].to(device)
        return cls(levels, steps_per_phase, few_steps.scheduler)

    @property
    def num_steps(self) -> int:
        """N."""
        return len(self.levels["video"]) - 1

    def number(self, name: str, sigma: Tensor) -> Tensor:
        """Number of the step in which a noise level lies, that of its upper level; N for clean data; int [B].

        Args:
            name: Modality.
            sigma: In [0, 1], [B].
        """
        rising = -self.levels[name].to(sigma.device)
        return torch.searchsorted(rising, -sigma.to(rising), right=True) - 1

    def snap(self, name: str, sigma: Tensor, begins: Tensor | None = None) -> Tensor:
        """The upper level of the step in which a noise level lies, [B]; clean data stay clean.

        Args:
            name: Modality.
            sigma: In [0, 1], [B].
            begins: Where it is the upper level of the phase instead, bool [B]; None for nowhere.
        """
        number = self.number(name, sigma)
        if begins is not None:
            number = torch.where(begins, number // self.steps_per_phase * self.steps_per_phase, number)
        return self.levels[name].to(sigma)[number]

    def edge(self, number: Tensor) -> Tensor:
        """Number of the level at which the phase ends that a level begins, or lies in."""
        return ((number // self.steps_per_phase + 1) * self.steps_per_phase).clamp(max=self.num_steps)


def student_target(moved: Tensor, velocity: Tensor | None, level: Tensor, reached: Tensor, edge: Tensor) -> Tensor:
    """Computes the velocity that leads to the end of the phase in one step.

    Consistency distillation (arXiv:2303.01469v2, Eq. 7) within a phase (PCM, arXiv:2405.18407): the jump from t must
    end where the jump from t' ends, to which the teacher has gone from t,
        x_t + (e - t) v*  =  x_t' + (e - t') sg v(x_t', t')
    solved for v*, which is a mean of the velocities of teacher and student with the weights of their distances. At
    t' = e the student has no say. sg: no gradient, and no average of past weights, as arXiv:2310.14189v1, Sec. 3.2,
    shows to be right. The loss on v* is that of a jump divided by (e - t)^2: in units of velocities, as the loss on
    clips, so that the mouth counts by its weight at every level.

    Args:
        moved: x_t' - x_t, by the teacher, [B, C, F, H, W] or [B, L, C].
        velocity: v(x_t', t') of the student, same shape; None where t' is e everywhere.
        level: t, [B], or per latent [B, N].
        reached: t', same shape.
        edge: e, same shape; where it is t nothing is to be learned, and the result is 0.
    """
    level, reached, edge = (expand_sigma(x, moved) for x in (level, reached, edge))
    distance = edge - level
    rest = moved if velocity is None else moved + (edge - reached) * velocity
    return torch.where(distance < 0, rest / torch.where(distance < 0, distance, 1.0), 0.0)
