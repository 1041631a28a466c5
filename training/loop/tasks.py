"""What a step trains: sound and picture together, or one of them from what is given of the clip.

UniAVGen (arXiv:2511.03334) trains five tasks in the ratio 4:1:1:2:2. What is given has timestep 0 and no loss; which
modality reads the other is that of its sampler:

===============  ==================================  =======================  ======================
task             given of the video                  given of the audio       who reads the other
===============  ==================================  =======================  ======================
joint            first frame (`image_probability`)   -                        both
voice            the same                            a voice in front         video
continuation     beginning of the clip               the same beginning       both
video_to_audio   all                                 -                        audio
audio_to_video   first frame (`image_probability`)   all                      video
===============  ==================================  =======================  ======================

Where the video is not given as a whole, pictures behind its first frame may be given as well (`keyframe_probability`).
All clips of a step have one task, in every process, so that sharded weights are used by all of them or by none. A clip
that lacks a modality, or a step of `voice` with a clip whose recording has no other, is trained as `joint`. The voice
is the sound of another clip, as long as the clip itself; a model whose sound reads what is said reads the words of
both, as in a call with `reference_transcript`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

from diffusers_jova.sample_runs import Coupling
from diffusers_jova.training.loop.config import Task, TrainConfig
from diffusers_jova.training.loop.microbatches import seed_of


class TaskRule(NamedTuple):
    """What a task gives, and who reads the other modality.

    Attributes:
        coupled: As the transformer's argument of that name.
        gives_video: All of the video is given.
        gives_audio: All of the audio is given.
        continues: The beginning of both is given.
        has_voice: A voice stands in front of the audio.
    """

    coupled: Coupling
    gives_video: bool = False
    gives_audio: bool = False
    continues: bool = False
    has_voice: bool = False


TASKS: dict[Task, TaskRule] = {
    "joint": TaskRule(True),
    "voice": TaskRule("a2v", has_voice=True),
    "continuation": TaskRule(True, continues=True),
    "video_to_audio": TaskRule("v2a", gives_video=True),
    "audio_to_video": TaskRule("a2v", gives_audio=True),
}


def weights_of(config: TrainConfig) -> Mapping[Task, float]:
    """Weights of the tasks of a run."""
    return {"joint": 1.0} if config.tasks is None else config.tasks


def tasks_of(config: TrainConfig) -> list[TaskRule]:
    """Tasks that the steps of a run may have."""
    return [TASKS[name] for name, weight in weights_of(config).items() if weight > 0]


def task_of_step(config: TrainConfig, step: int) -> Task:
    """Task of a step, a function of the run's seed and the step alone; each comes in the ratio of its weight."""
    weights = {name: weight for name, weight in weights_of(config).items() if weight > 0}
    *ends, total = accumulate(weights.values())
    place = seed_of(config.seed, "task", step) / 2**63 * total  # uniform in [0, total)
    return list(weights)[bisect_right(ends, place)]
