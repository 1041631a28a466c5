"""What the settings of a student of few steps must be: rules that the configuration of a training applies."""

from collections.abc import Iterator, Mapping
from typing import Any


OF_THE_PIPELINE = ("shift", "audio_shift")  # whose scheduler lays out the levels of teacher and student


def refusals_of_student(config: Any, defaults: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """What a student cannot have, each with the sentence that says so.

    Args:
        config: Settings of a training.
        defaults: Of the settings.
    """
    steps, teacher_steps = config.student_steps, config.teacher_steps
    if steps is None:
        return
    yield (
        steps < 1,
        f"`student_steps` must be at least 1, got {steps}; 4, say, or null for a training without a teacher",
    )
    yield (
        steps >= 1 and (teacher_steps < steps or teacher_steps % steps > 0),
        f"`teacher_steps` must be a multiple of `student_steps` = {steps}, got {teacher_steps}; use "
        f"{steps * max(1, round(48 / max(steps, 1)))}, say",
    )
    per_phase = teacher_steps // max(steps, 1)
    yield (
        config.teacher_jump > max(per_phase, 1),
        f"`teacher_jump` must be at most the {per_phase} steps of the teacher in a phase, got {config.teacher_jump}; "
        "lower it",
    )
    yield (
        config.stage != "joint",
        f"`student_steps` must go with `stage: joint`, whose two modalities walk together, got {config.stage!r}",
    )
    yield (
        config.model.endswith(".json"),
        f"`model` must have trained weights to teach, got the config `{config.model}`; name a pipeline",
    )
    for name in OF_THE_PIPELINE:
        value = getattr(config, name)
        yield (
            value != defaults[name],
            f"`{name}` must be left out with `student_steps`: noise levels are those of the pipeline, got {value:g}",
        )
    yield (
        config.experts != "drawn",
        f"`experts` must be drawn with `student_steps`, which trains both towers, got {config.experts}; leave it out",
    )
    yield (
        config.uncoupled_probability > 0,
        "`uncoupled_probability` must be 0 with `student_steps`: a student has no guidance that asks it so, got "
        f"{config.uncoupled_probability:g}; leave it out",
    )
    yield (
        config.lora_dropout > 0,
        "`lora_dropout` must be 0 with `student_steps`: a student that drops at random is no target for itself, got "
        f"{config.lora_dropout:g}; leave it out",
    )
    yield (
        config.face_mask_weight > 0,
        f"`face_mask_weight` must be 0 with `student_steps`, got {config.face_mask_weight:g}; leave it out",
    )
    yield (
        config.init_audio_from_video,
        "`init_audio_from_video` must be false with `student_steps`; begin as the teacher",
    )
    yield (
        config.validation_steps != defaults["validation_steps"],
        "`validation_steps` must be left out with `student_steps`, in which clips of a student are made, got "
        f"{config.validation_steps}",
    )
    yield (
        config.distribution == "deepspeed" or (config.distribution == "fsdp" and config.train == "full"),
        "`distribution` must be none or ddp with `student_steps`, or fsdp with `train: lora`, got "
        f"{config.distribution} with `train: {config.train}`",
    )
    yield (
        config.train == "full" and config.push_to_hub is not None,
        "`push_to_hub` must be null for a whole student, which is a pipeline with the parts of others, got "
        f"{config.push_to_hub}; upload the folder yourself, or set `train: lora`",
    )
