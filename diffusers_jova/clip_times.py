"""How long clips took, and how long the next takes probably: told to those who wait for it."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from .cost_estimate import num_predictions
from .generation_defaults import GenerationDefaults


class Work(NamedTuple):
    """What the time of a clip grows with, to compare it with another.

    Attributes:
        num_steps: Denoising steps, each time that a solver asks in one of them.
        num_predictions: Of the transformer per step, as many as guidance needs.
        num_pixels: Of all frames.
    """

    num_steps: int
    num_predictions: int
    num_pixels: int

    @classmethod
    def of(cls, settings: GenerationDefaults, modalities: Sequence[str]) -> "Work":
        """The work of a call with these settings."""
        num_pixels = settings.num_frames * settings.height * settings.width
        return cls(settings.num_inference_steps, num_predictions(settings, modalities), num_pixels)


class Measured(NamedTuple):
    """How long a clip took.

    Attributes:
        work: What it was.
        step_s: Seconds per step.
        rest_s: Seconds of all else: text, codecs, the file.
    """

    work: Work
    step_s: float
    rest_s: float

    def estimate_s(self, work: Work) -> float:
        """Seconds of another clip, if all grows with its pixels, and steps with their predictions.

        Attention grows faster than that: a longer or larger clip than the measured one may take longer.
        """
        steps_s = self.step_s * work.num_steps * work.num_predictions / self.work.num_predictions
        return (steps_s + self.rest_s) * work.num_pixels / self.work.num_pixels


class StepClock:
    """Takes the time at each step of a call, which begins now."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.times_s: list[float] = []

    def tick(self) -> None:
        """Take note that a step has ended."""
        self.times_s.append(time.monotonic())

    @property
    def step_s(self) -> float:
        """Mean seconds per step; the first, with all that goes before it, counts only where it is the only one."""
        if len(self.times_s) < 2:
            return self.times_s[-1] - self.started_s
        return (self.times_s[-1] - self.times_s[0]) / (len(self.times_s) - 1)

    def measure(self, work: Work) -> Measured:
        """How long the call took until now."""
        total_s = time.monotonic() - self.started_s
        return Measured(work, self.step_s, max(total_s - len(self.times_s) * self.step_s, 0.0))
