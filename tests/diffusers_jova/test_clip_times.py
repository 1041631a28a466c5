import time
from collections.abc import Iterator

import pytest

from diffusers_jova.clip_times import Measured, StepClock, Work
from diffusers_jova.generation_defaults import GenerationDefaults


BOTH = ["video", "audio"]


def test_an_estimate_grows_with_steps_predictions_and_pixels_and_repeats_what_was_measured() -> None:
    work = Work(num_steps=10, num_predictions=2, num_pixels=1000)
    measured = Measured(work, step_s=3.0, rest_s=6.0)
    assert measured.estimate_s(work) == 36
    assert measured.estimate_s(work._replace(num_steps=20)) == 66  # all else takes as long
    assert measured.estimate_s(work._replace(num_predictions=1)) == 21
    assert measured.estimate_s(work._replace(num_pixels=2000)) == 72


@pytest.mark.parametrize(
    ("scales", "modalities", "num_predictions"),
    [
        ({"guidance_scale": 3.0}, BOTH, 2),
        ({"guidance_scale": 1.0}, BOTH, 1),
        ({"guidance_scale": 1.0, "audio_guidance_scale": 2.0}, BOTH, 2),
        ({"guidance_scale": 1.0, "audio_guidance_scale": 2.0}, ["video"], 1),
        ({"guidance_scale": 3.0, "coupling_scale": 2.0}, BOTH, 3),
        ({"guidance_scale": 3.0, "guidance_interval": (0.2, 0.8)}, BOTH, 2),
        ({"guidance_scale": 3.0, "audio_speaker_scale": 2.0}, BOTH, 2),
    ],
)
def test_the_work_of_a_step_is_what_guidance_asks_for(
    scales: dict[str, float], modalities: list[str], num_predictions: int
) -> None:
    settings = GenerationDefaults(num_inference_steps=7, num_frames=9, height=32, width=16, **scales)
    assert Work.of(settings, modalities) == Work(7, num_predictions, 9 * 32 * 16)


def test_the_clock_leaves_what_goes_before_the_first_step_out_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    times: Iterator[float] = iter([0.0, 12.0, 14.0, 16.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    clock = StepClock()
    clock.tick()
    assert clock.step_s == 12  # nothing better is known
    clock.tick()
    clock.tick()
    assert clock.measure(Work(3, 1, 1)) == Measured(Work(3, 1, 1), step_s=2.0, rest_s=14.0)
