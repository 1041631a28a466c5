"""Settings of a run that exclude each other, or would do nothing beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from .evaluate import VALIDATED
from .parser import LANGUAGE_CODE
from .room_modules import import_alone
from .setting_types import require
from .shipped import find_room
from .student_settings import refusals_of_student


def check_combinations(config: Any) -> None:
    """Refuse settings that exclude each other or would do nothing.

    Args:
        config: A `TrainConfig`.
    """
    refusals = (
        (config.quantize != "none" and config.train != "lora", "`quantize` freezes the weights; set `train: lora`"),
        (
            config.init_audio_from_video and (config.train == "lora" or config.stage == "video"),
            "`init_audio_from_video` prepares an audio branch for training; set `stage: audio` or `joint` "
            "and `train: full`",
        ),
        (
            config.stage != "joint" and config.coupling != "shared",
            f"`coupling` needs two modalities; set `stage: joint` or `coupling: shared`, got {config.stage!r}",
        ),
        (
            config.stage != "joint" and config.uncoupled_probability > 0,
            f"`uncoupled_probability` needs two modalities; set `stage: joint`, got {config.stage!r}",
        ),
        (
            config.stage != "joint" and config.tasks is not None,
            f"`tasks` need two modalities; set `stage: joint` or leave them out, got {config.stage!r}",
        ),
        (
            config.stage != "joint" and config.face_mask_weight > 0,
            f"`face_mask_weight` needs what couples two towers; set `stage: joint`, got {config.stage!r}",
        ),
        (
            config.stage != "joint" and config.audio_caption_dropout is not None,
            f"`audio_caption_dropout` needs two modalities; set `stage: joint`, got {config.stage!r}",
        ),
        (
            config.tasks is not None and config.coupling == "mixed",
            "`coupling: mixed` draws given modalities of its own; set `coupling: shared` or `independent` beside "
            "`tasks`",
        ),
        (
            config.tasks is not None and config.prefix_probability > 0,
            "`prefix_probability` gives beginnings of its own; set it to 0 and `continuation` in `tasks`",
        ),
        (
            config.prefix_max_fraction == 0 and (config.tasks or {}).get("continuation", 0) > 0,
            "`prefix_max_fraction` must be above 0 for the `continuation` in `tasks`, got 0; leave it out",
        ),
        (
            config.prefix_max_fraction != type(config).prefix_max_fraction
            and config.prefix_probability == 0
            and (config.tasks or {}).get("continuation", 0) == 0,
            "`prefix_max_fraction` is read with `prefix_probability` or `continuation` in `tasks`; set one, or "
            f"leave it out, got {config.prefix_max_fraction:g}",
        ),
        (
            config.stage == "audio" and config.experts != "drawn",
            f"`experts` are of the video; set `experts: drawn` or change `stage: audio`, got {config.experts!r}",
        ),
        *(
            (
                getattr(config, f"{part}_learning_rate", None) is not None,
                f"`{part}_learning_rate` must be left out where `learning_rates` names {part}; set one of them",
            )
            for part in config.learning_rates or {}
        ),
        (
            config.stage == "audio" and config.image_probability > 0,
            "`image_probability` needs a video branch; set it to 0 or change `stage: audio`",
        ),
        (
            config.stage == "audio" and config.keyframe_probability > 0,
            "`keyframe_probability` needs a video branch; set it to 0 or change `stage: audio`",
        ),
        (
            config.train == "lora"
            and config.lora_targets in ("video", "audio")
            and config.stage not in ("joint", config.lora_targets),
            f"`lora_targets` must be trained in this stage, got {config.lora_targets!r} in `stage: {config.stage}`",
        ),
        (
            (config.prior_data is None) != (config.prior_probability == 0),
            "`prior_data` and `prior_probability` belong together; set both or neither",
        ),
        (
            config.validate_every is not None
            and not (config.validation_prompts or config.validation_list or config.validation_data),
            "`validate_every` needs `validation_prompts`, `validation_list` or `validation_data`; name one",
        ),
        *(
            (
                config.validate_every is None and getattr(config, name) is not None,
                f"`{name}` is read every `validate_every` steps; set it, or leave both out",
            )
            for name in ("validation_data", "validation_list")
        ),
        (
            config.validation_data is not None and config.student_steps is not None,
            "`validation_data` is measured by the loss on clips, which a student is not trained by; leave it out, "
            "and measure by `python -m diffusers_jova.recipes.student_evidence`",
        ),
        (
            config.validation_list is not None and len(config.validation_prompts) > 0,
            "`validation_list` stands in place of `validation_prompts`; leave one of them out",
        ),
        *_refusals_of_measures(config),
        (
            config.quantize != "none" and config.distribution in ("fsdp", "deepspeed"),
            f"`quantize` cannot be sharded, got `distribution: {config.distribution}`; use `ddp` or `none`",
        ),
        (
            config.optimizer == "muon" and config.distribution in ("fsdp", "deepspeed"),
            f"`optimizer: muon` needs whole matrices, got `distribution: {config.distribution}`; use `ddp`",
        ),
        *refusals_of_swap(config),
        *refusals_of_student(config, {field.name: field.default for field in fields(config)}),
    )
    for refused, message in refusals:
        if refused:
            raise ValueError(message)
    if config.distribution == "deepspeed":
        _check_deepspeed(config)


def _refusals_of_measures(config: Any) -> Iterator[tuple[bool, str]]:
    """What measures of validation clips cannot be."""
    measures, language = config.validation_measures, config.validation_language
    makes_clips = config.validate_every is not None and bool(config.validation_prompts or config.validation_list)
    yield (
        len(set(measures)) < len(measures),
        f"`validation_measures` must name each group once, got {list(measures)}; leave out what comes twice",
    )
    yield (
        not makes_clips and measures not in ((), type(config).validation_measures),
        "`validation_measures` are taken of clips that a validation makes; set `validate_every` and "
        f"`validation_prompts` or `validation_list`, or leave them out, got {list(measures)}",
    )
    networks = {name: group for name, group in VALIDATED.items() if hasattr(config, name)}
    partly = import_alone(find_room("evaluation") / "measures.py").PARTLY  # which measure something without one
    readers = {"validation_whisper": "words", "validation_language": "words", **networks}
    heard_anyway = {"validation_language": "en"}  # by the small recogniser
    for name, group in readers.items():
        value = getattr(config, name)
        yield (
            value not in (None, heard_anyway.get(name)) and group not in measures,
            f"`{name}` is read where `validation_measures` has `{group}`; add it, or leave both out, got {value!r}",
        )
    for name, group in networks.items():
        yield (
            group in measures and group not in partly and getattr(config, name) is None,
            f"`{name}` must be given where `validation_measures` has `{group}`, got null; name the weights, or "
            f"leave `{group}` out",
        )
    yield (
        language is not None and not LANGUAGE_CODE.fullmatch(language),
        f"`validation_language` must be a code of two or three small letters, got {language!r}; write en, say",
    )
    yield (
        language not in (None, "en") and config.validation_whisper is None,
        f"`validation_language` must be en for the small recogniser, got {language!r}; set `validation_whisper`",
    )


def refusals_of_swap(config: Any) -> Iterator[tuple[bool, str]]:
    """What blocks that wait on the host cannot go with, each with the sentence that says so.

    Args:
        config: Settings of a training.
    """
    given = f"got `blocks_to_swap: {config.blocks_to_swap}`"
    needed = (
        (config.train == "lora", "`train: lora`: weights that are trained cannot wait on the host"),
        (config.gradient_checkpointing, "`gradient_checkpointing: true`, which brings the blocks back for backward"),
        (config.distribution == "none", f"`distribution: none`, got {config.distribution}"),
        (config.quantize == "none", f"`quantize: none`, whose weights are as small, got {config.quantize}"),
        (not config.compile, "`compile: false`"),
    )
    for holds, rule in needed:
        yield (config.blocks_to_swap > 0 and not holds, f"`blocks_to_swap` must go with {rule}, {given}; leave it out")


def _check_deepspeed(config: Any) -> None:
    """Refuse what a run with DeepSpeed would do wrong without a word."""
    limit, is_half = config.stop_after_minutes, config.mixed_precision != "no"
    rule = "null with DeepSpeed in half precision"
    remedy = "DeepSpeed keeps the weights in half precision, where averages stand still; set `distribution: fsdp`"
    require(config.ema_decay is None or not is_half, "ema_decay", rule, config.ema_decay, remedy)
    remedy = "such a run cannot be continued; set `distribution: fsdp`"
    require(limit is None, "stop_after_minutes", "null with DeepSpeed", limit, remedy)
