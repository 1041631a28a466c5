"""A clip that stands for those that are not prepared yet: its sizes alone, for the estimate of a training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_jova.saved_pipeline import config_folder, model_defaults
from diffusers_jova.training.data.encoder import FIRST_FRAMES
from diffusers_jova.training.data.record import EMPTY_PROMPT, KEYFRAMES, PROMPTS, write_record
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.model import outline_transformer
from diffusers_jova.training.loop.tasks import tasks_of
from jova_cli.clip_limits import Bucket, GivenLengths, LengthWords, check_largest_size, check_length
from jova_cli.latent_lengths import num_latent_frames
from jova_cli.model_clips import MODALITIES, Geometry, read_geometry
from jova_cli.model_info import read_index


TEXTS = ("prompt_embeds", "prompt_embeds_2", "prompt_mask", "prompt_mask_2", "spoken_embeds")


@contextmanager
def assumed_clip(config: TrainConfig, bucket: Bucket) -> Iterator[TrainConfig]:
    """Settings of a run whose `data` are one clip of a size, as the model's pipeline would prepare it.

    Its picture and its sound are as long as the clip, its texts as long as the model takes them.

    Args:
        config: Of the run; the folder that its `data` names need not be there.
        bucket: Size of the clip.

    Raises:
        ValueError: The model takes no such clip, is no pipeline, or a task needs more than one.
    """
    if any(task.has_voice for task in tasks_of(config)):
        raise ValueError(
            "`--bucket` must go without tasks that are given a voice, which come from a second clip, got some in "
            "`tasks`; leave it out where clips are prepared"
        )
    tensors, header = describe_clip(config, bucket)
    with tempfile.TemporaryDirectory(prefix="jova-estimate-") as folder:
        write_record(Path(folder, "assumed.safetensors"), tensors, header)
        empty = {name: tensor[:1] for name, tensor in tensors.items() if name in TEXTS}
        write_record(folder / EMPTY_PROMPT, empty, {})
        yield replace(config, data=folder)


def describe_clip(config: TrainConfig, bucket: Bucket) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a record of zeros.

    Args:
        config: Of the run.
        bucket: Size of the clip.

    Raises:
        ValueError: The model takes no such clip, or is no pipeline.
    """
    folder, geometry = pipeline_of(config.model)
    index, values = read_index(folder), outline_transformer(config.model).config
    defaults = model_defaults(folder)
    bucket.check(geometry.temporal_factor, geometry.spatial_factor * geometry.patch_size[-1])
    if (limits := geometry.limits_of_call(MODALITIES, defaults.frame_rate)) is not None:
        check_length(bucket.num_frames, defaults.frame_rate, limits.num_frames, GivenLengths(), LengthWords())
        check_largest_size(bucket, limits)
    cells = [side // geometry.spatial_factor for side in bucket[1:]]
    num_frames = num_latent_frames(bucket.num_frames, geometry.temporal_factor)
    is_filled = bool(index.get("fills_image_with_grey"))
    shapes: dict[str, tuple[int, ...]] = {"video_latents": (values.out_channels, num_frames, *cells)}
    if bucket.num_frames > 1:
        shapes["image_latents"] = (values.out_channels, num_frames if is_filled else 1, *cells)
    if config.keyframe_probability > 0 and num_frames > 1:
        shapes["keyframe_latents"] = (values.out_channels, num_frames - (not is_filled), *cells)
    shapes |= {name: (defaults.max_sequence_length, width) for name, width in text_widths(index, values).items()}
    header: dict[str, Any] = {
        **bucket._asdict(),
        "frame_rate": defaults.frame_rate,
        "spatial_factor": geometry.spatial_factor,
        "temporal_factor": geometry.temporal_factor,
        **{name: int(bool(index.get(name))) for name in FIRST_FRAMES},
    }
    if geometry.clock is not None:
        num_latents = geometry.clock.num_latents(bucket.num_frames / defaults.frame_rate)
        shapes["audio_latents"] = (num_latents, values.audio_in_channels)
        header["sampling_rate"] = geometry.clock.sampling_rate
        header["audio_latent_rate_hz"] = geometry.clock.latent_rate_hz
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    for embeds, mask in PROMPTS:
        if embeds in tensors:
            tensors[mask] = torch.ones(len(tensors[embeds]), dtype=torch.bool)
    if is_filled and "keyframe_latents" in tensors:
        tensors[KEYFRAMES] = torch.arange(bucket.num_frames) == 0
    tensors["mouth_boxes"] = torch.tensor([0.0, 0.0, bucket.width, bucket.height]).expand(1, bucket.num_frames, 4)
    return tensors, header


def text_widths(index: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, int]:
    """Width of each text that a record has.

    Args:
        index: Of the pipeline.
        values: Config of its transformer.
    """
    first, second = values["text_dim"], values.get("text_dim_2")
    spoken = values.get("audio_text_dim", first)
    widths = {"prompt_embeds": first}
    if second is not None:
        widths["prompt_embeds_2"] = second
    if spoken != first or (index.get("spoken_text_encoder") or [None])[0] is not None:
        widths["spoken_embeds"] = spoken
    return widths


def pipeline_of(model: str) -> tuple[Path, Geometry]:
    """Folder with the configs of the pipeline that a run's model lies in, and what they say of sizes.

    Raises:
        ValueError: It lies in none, or in one without a video VAE.
    """
    place = Path(model)
    lacks = f"`--bucket` must go with a `model` in a pipeline, whose VAEs tell the sizes of latents, got `{model}`"
    advice = "give the pipeline, or prepare one clip and leave `--bucket` out"
    if place.suffix == ".json":
        raise ValueError(f"{lacks}; {advice}")
    folder = config_folder(place.parent if place.name == "transformer" else model)
    geometry = read_geometry(folder) if (folder / "model_index.json").is_file() else None
    if geometry is None:
        raise ValueError(f"{lacks}; {advice}")
    return folder, geometry
