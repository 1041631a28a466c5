"""The transformer of a run: loaded or started anew, made ready for what the run trains, and saved."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from diffusers_jova import JoVADualTowerTransformer3DModel, JoVATransformer3DModel, JoVAWanTransformer3DModel
from diffusers_jova.few_steps import FewSteps
from diffusers_jova.hub_access import explained_hub
from diffusers_jova.lost_weights import check_weights
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.data.encoder import FIRST_FRAMES, IMAGE_FIRST
from diffusers_jova.training.data.record import KEYFRAMES, RecordHeader
from diffusers_jova.training.loop.branches import (
    audio_twins,
    check_learning_rates,
    copy_video_to_audio,
    freeze,
    meets_rarely,
)
from diffusers_jova.training.loop.checkpoints import kept_by_run
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.lora import add_adapter, save_adapter
from diffusers_jova.training.loop.tasks import tasks_of, weights_of
from diffusers_jova.whole_files import explained_full_disk, written_whole
from jova_cli.json_text import parse_object, read_object
from jova_cli.shipped import find_model
from jova_cli.training_settings import check_trainable


SHARDED = ("fsdp", "deepspeed")
TRANSFORMERS: tuple[type[Any], ...] = (
    JoVATransformer3DModel,
    JoVAWanTransformer3DModel,
    JoVADualTowerTransformer3DModel,
)


def load_transformer(model: str) -> Any:
    """Load a saved transformer, alone or inside a pipeline, or build one from a `.json` file with random weights."""
    model = find_model(model)
    check_trainable(model)
    if model.endswith(".json"):
        return _new_transformer(Path(model))
    with explained_hub("model", model):
        transformer, _ = _transformer_class(_saved_values(model), model).from_pretrained(
            model, subfolder=_subfolder(model), output_loading_info=True
        )
    check_weights("model", transformer)
    return transformer


def outline_transformer(model: str) -> Any:
    """Build the transformer that `load_transformer` loads without its weights, on the meta device."""
    model = find_model(model)
    check_trainable(model)
    with torch.device("meta"):
        if model.endswith(".json"):
            return _new_transformer(Path(model))
        with explained_hub("model", model):
            values = _saved_values(model)
        return _transformer_class(values, model).from_config(values)


def _subfolder(model: str) -> str | None:
    """Folder of the transformer within a pipeline; None for one that is saved alone."""
    return "transformer" if not Path(model).is_dir() or (Path(model) / "transformer").is_dir() else None


def _saved_values(model: str) -> dict[str, Any]:
    """The config of a saved transformer."""
    values: dict[str, Any] = JoVATransformer3DModel.load_config(model, subfolder=_subfolder(model))
    return values


def check_records(headers: Iterable[RecordHeader], transformer: Any) -> None:
    """Refuse records of other codecs or text encoders than the transformer's."""
    config = transformer.config
    widths = {  # of a tensor, its axis and what the transformer takes there
        "video_latents": (0, config.out_channels),
        "audio_latents": (1, config.audio_in_channels),
        "prompt_embeds": (1, config.text_dim),
        "prompt_embeds_2": (1, config.get("text_dim_2")),
        "spoken_embeds": (1, config.get("audio_text_dim")),
    }
    for header in headers:
        for name, (axis, width) in widths.items():
            if name not in header.shapes:
                continue
            if width is None:
                raise ValueError(
                    f"clips for this `model` must have no `{name}`, got some in `{header.path}`; "
                    "prepare the clips with the pipeline of the model"
                )
            if header.shapes[name][axis] != width:
                raise ValueError(
                    f"`{name}` must be {width} wide for this `model`, got {header.shapes[name][axis]} in "
                    f"`{header.path}`; prepare the clips with the pipeline of the model"
                )


def check_rows(headers: Iterable[RecordHeader], transformer: Any, config: TrainConfig) -> None:
    """Refuse clips of whose latents or texts the model cannot make rows, in the modalities that the run trains.

    Raises:
        ValueError: There is one, or the model takes no latents at all.
    """
    values = transformer.config
    has_place = values.in_channels == values.out_channels or num_mask_channels(transformer) is not None
    if config.stage != "audio" and not has_place:
        raise ValueError(
            f"`in_channels` of this `model` must be `out_channels`, {values.out_channels}, or from "
            f"{2 * values.out_channels} on, where an image is given, got {values.in_channels}; change it"
        )
    tables, patch_size = values.get("position_table_sizes"), list(values.patch_size)
    longest = values.get("audio_position_table_size", math.inf)
    for header in headers:
        sizes = list(header.shapes.get("video_latents", ())[1:]) if config.stage != "audio" else []
        if any(size % patch for size, patch in zip(sizes, patch_size, strict=False)):
            raise ValueError(
                f"`video_latents` must have frames, height and width divisible by the model's `patch_size`, "
                f"{patch_size}, got {sizes} in `{header.path}`; prepare clips of other `--buckets`"
            )
        most = sizes if tables is None else [size * patch for size, patch in zip(tables, patch_size, strict=True)]
        if any(size > limit for size, limit in zip(sizes, most, strict=False)):
            raise ValueError(
                f"`video_latents` must have frames, height and width of at most {most}, by the model's "
                f"`position_table_sizes`, got {sizes} in `{header.path}`; prepare shorter or smaller clips"
            )
        num_latents = header.shapes.get("audio_latents", (0,))[0] if config.stage != "video" else 0
        if num_latents > longest:
            raise ValueError(
                f"`audio_latents` must have at most as many latents as the model's `audio_position_table_size`, "
                f"{longest}, got {num_latents} in `{header.path}`; prepare shorter clips"
            )
        if (width := values.get("text_dim_2")) is not None and "prompt_embeds_2" not in header.shapes:
            raise ValueError(
                f"every clip must have `prompt_embeds_2`, {width} wide, for this `model`, got none in "
                f"`{header.path}`; prepare the clips with the pipeline of the model"
            )


def check_spoken(headers: Iterable[RecordHeader], transformer: Any, config: TrainConfig) -> None:
    """Refuse clips without text of their own for the sound where the model reads one, or where other clips have it.

    Raises:
        ValueError: There is one.
    """
    listed, values = list(headers), transformer.config
    is_needed = values.get("audio_text_dim", values.text_dim) != values.text_dim
    index = pipeline_index(config.model) or {}
    is_needed |= (index.get("spoken_text_encoder") or [None])[0] is not None
    is_needed |= any("spoken_embeds" in header.shapes for header in listed)
    for header in listed:
        if is_needed and config.stage != "video" and "spoken_embeds" not in header.shapes:
            raise ValueError(
                "every clip must have `spoken_embeds` for this `model`, whose sound reads what is said, got none in "
                f"`{header.path}`; run `jova prepare` with the pipeline of the model"
            )


def num_mask_channels(transformer: Any) -> int | None:
    """Mask channels of a transformer that takes a first frame on extra channels; None for one that does not."""
    number = transformer.config.in_channels - 2 * transformer.config.out_channels
    return number if number >= 0 else None


def check_first_frames(headers: Iterable[RecordHeader], transformer: Any, config: TrainConfig) -> None:
    """Refuse other first frames than the pipeline generates behind: white or given ones, or grey behind them."""
    for header in (header for header in headers if "video_latents" in header.shapes and config.stage != "audio"):
        settings = first_frame_settings(config.model, header)
        is_filled, never_without = settings["fills_image_with_grey"], [name for name in IMAGE_FIRST if settings[name]]
        image = header.shapes.get("image_latents")
        if never_without and (config.image_probability < 1 or image is None):
            got = f"{config.image_probability:g}" if image is not None else f"no first frame in `{header.path}`"
            raise ValueError(
                "`image_probability` must be 1, and every clip have a first frame, for a `model` whose pipeline never "
                f"begins without one (`{never_without[0]}`), got {got}; set `image_probability=1` and leave out stills"
            )
        if image is None or config.image_probability == 0 or num_mask_channels(transformer) is None:
            continue
        num_wanted = header.shapes["video_latents"][1] if is_filled else 1
        if image[1] != num_wanted:
            raise ValueError(
                f"`image_latents` must have {num_wanted} latent frames for this `model`, whose pipeline puts "
                f"{'grey frames' if is_filled else 'nothing'} behind the first, got {image[1]} in `{header.path}`; "
                "delete the records and run `jova prepare` with the pipeline of the model"
            )


def check_keyframes(headers: Iterable[RecordHeader], transformer: Any, config: TrainConfig) -> None:
    """Refuse to give pictures behind the first frame where the model has no place for them, or clips have none."""
    if config.keyframe_probability == 0:
        return
    number = num_mask_channels(transformer)
    for header in (header for header in headers if header.shapes.get("video_latents", (0, 0))[1] > 1):
        if number == 0:
            raise ValueError(
                "`keyframe_probability` must be 0 for a `model` that has no mask in its condition channels, got "
                f"{config.keyframe_probability:g}; leave it out"
            )
        if "keyframe_latents" not in header.shapes:
            raise ValueError(
                "every clip must have `keyframe_latents` where `keyframe_probability` is above 0, got none in "
                f"`{header.path}`; run `jova prepare --keyframes` into a new folder"
            )
        is_filled = first_frame_settings(config.model, header)["fills_image_with_grey"] and number is not None
        if (KEYFRAMES in header.shapes) != is_filled:
            kinds = ("single pictures", "pictures among grey frames")
            raise ValueError(
                f"`keyframe_latents` must be {kinds[is_filled]} for this `model`, got {kinds[not is_filled]} in "
                f"`{header.path}`; run `jova prepare --keyframes` with the pipeline of the model into a new folder"
            )


def first_frame_settings(model: str, header: RecordHeader) -> dict[str, bool]:
    """Values of `FIRST_FRAMES`: of the pipeline that the model lies in, else of the one that prepared the clip."""
    index = pipeline_index(model)
    values: Mapping[str, Any] = header.metadata if index is None else index
    return {name: values.get(name) in (True, "1") for name in FIRST_FRAMES}


def pipeline_index(model: str) -> dict[str, Any] | None:
    """The index of the pipeline that a model lies in; None for one that lies in none."""
    folder = Path(find_model(model))
    index = (folder.parent if folder.name == "transformer" else folder) / "model_index.json"
    return read_object(index) if index.is_file() else None


def check_meetings(transformer: Any, config: TrainConfig) -> None:
    """Refuse shards of weights that one process uses in a step and another does not: FSDP would abort."""
    if config.distribution in SHARDED and meets_rarely(transformer, config):
        raise ValueError(
            "`uncoupled_probability` must be 0 where a sharded run trains weights that couple video and audio, got "
            f"{config.uncoupled_probability:g} with `distribution: {config.distribution}`; set it to 0 or use ddp"
        )


def check_towers(datasets: Iterable[PrecomputedDataset], transformer: Any, config: TrainConfig) -> None:
    """Refuse batches of which two video towers would have to serve one, and processes that would wait for each other.

    The noise level of the video chooses the tower; that of a clip without one is always the highest.
    """
    if transformer.config.get("boundary") is None or config.stage == "audio":
        return
    if config.distribution in SHARDED and config.experts == "drawn":
        raise ValueError(
            "`distribution` must be ddp or none for a `model` with a `boundary` whose processes work on different "
            f"towers, got {config.distribution} with `experts: drawn`; set `experts: alternate` or use ddp"
        )
    for dataset in datasets:
        for bucket in dataset.buckets:
            headers = [dataset.headers[index] for index in bucket]
            lacking = [header.path for header in headers if "video_latents" not in header.shapes]
            if 0 < len(lacking) < len(headers):
                raise ValueError(
                    f"clips without video must have a length of their own for a `model` with a `boundary`, got "
                    f"`{lacking[0]}` beside clips with video; move those without to another folder"
                )


def check_parts(transformer: Any, config: TrainConfig) -> None:
    """Refuse settings of parts that the model has not.

    Raises:
        ValueError: There is one.
    """
    check_learning_rates(transformer, config)
    values = transformer.config
    if config.experts != "drawn" and values.get("boundary") is None:
        raise ValueError(
            f"`experts` must be drawn for a `model` of one video tower, got {config.experts}; leave it out"
        )
    if config.face_mask_weight > 0 and not is_aligned(transformer):
        raise ValueError(
            "`face_mask_weight` must be 0 for a `model` without face masks, which those of `fusion` 'aligned' have, "
            f"got {config.face_mask_weight:g}; leave it out"
        )


def is_aligned(transformer: Any) -> bool:
    """Tell whether a transformer has UniAVGen's fusion, with its face masks and references in front of the clip."""
    return isinstance(transformer, JoVADualTowerTransformer3DModel) and transformer.config.fusion == "aligned"


def check_tasks(datasets: Iterable[PrecomputedDataset], transformer: Any, config: TrainConfig) -> None:
    """Refuse tasks that the model or the clips do not allow.

    Raises:
        ValueError: There is one.
    """
    tasks = tasks_of(config)
    if any(task.has_voice for task in tasks):
        if not is_aligned(transformer):
            raise ValueError(
                "`tasks` must be without voice for a `model` that takes no voice in front of the sound, as those of "
                f"`fusion` 'aligned' do, got {dict(weights_of(config))}; leave it out"
            )
        for dataset in datasets:
            if len(dataset.voices) < (len(dataset) if config.distribution in SHARDED else 1):
                raise ValueError(
                    "`tasks` with voice must have recordings of several clips with sound of one length, and with "
                    "words where the model reads them, all of them in a sharded run, got "
                    f"{len(dataset.voices)} clips of such in `{dataset.root}`; prepare longer ones by `jova prepare "
                    "--cut all`, or leave voice out"
                )
    if any(task.gives_video for task in tasks) and transformer.config.get("boundary") is not None:
        raise ValueError(
            "`tasks` must be without video_to_audio for a `model` with a `boundary`, whose tower no noise level would "
            f"name, got {dict(weights_of(config))}; leave it out"
        )


def check_loudness(headers: Iterable[RecordHeader], config: TrainConfig) -> None:
    """Refuse clips whose sound was prepared with another loudness than the run is for.

    Raises:
        ValueError: There is one.
    """
    wanted = None if config.stage == "video" else config.loudness_lufs
    for header in (header for header in headers if "audio_latents" in header.shapes and wanted is not None):
        found = header.metadata.get("loudness_lufs") or None
        if found is None or float(found) != wanted:
            raise ValueError(
                f"`loudness_lufs` must be that of the clips, got {wanted:g} for `{header.path}` of "
                f"{'unchanged loudness' if found is None else found}; run `jova prepare` with `--loudness-lufs="
                f"{wanted:g}`, or set `loudness_lufs=null`"
            )


def prepare_transformer(config: TrainConfig) -> Any:
    """Load the transformer and leave gradients to what the run trains."""
    transformer = make_trainable(load_transformer(config.model), config)
    if config.compile:
        if torch.__version__ < "2.8":
            raise ValueError(f"`compile` must have torch 2.8 or later, got {torch.__version__}; set `compile=false`")
        transformer.compile_repeated_blocks()
    return transformer


def make_trainable(transformer: Any, config: TrainConfig) -> Any:
    """Leave gradients to what a run trains of a transformer, with or without values."""
    check_parts(transformer, config)
    if config.init_audio_from_video:
        copy_video_to_audio(transformer)
    if config.train == "lora":
        add_adapter(transformer, config)
    freeze(transformer, config)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return transformer.train()


def describe_start(transformer: Any, config: TrainConfig) -> str:
    """Say in one line what the weights of a run are when it begins.

    Args:
        transformer: From `prepare_transformer`.
        config: The run's settings.
    """
    is_random = config.model.endswith(".json")
    start = f"the weights begin {'at random, in the sizes of' if is_random else 'as those of'} `{config.model}`"
    if config.init_adapter is not None:
        start += f", the adapter as `{config.init_adapter}`"
    if not config.init_audio_from_video:
        return start
    twins = [twin for _, twin in audio_twins(transformer).values()]
    num_copied = sum(twin is not None for twin in twins)
    copied = f"{start}, the audio branch as a copy of the {'random' if is_random else 'loaded'} video branch"
    advice = "; `model` may name a trained one, such as the result of stage 1 for video" if is_random else ""
    return f"{copied}: {num_copied} of its {len(twins)} tensors, the others have no twin of their shape{advice}"


def gather_weights(transformer: nn.Module, only_trained: bool) -> dict[str, Tensor]:
    """Copy the whole weights to the CPU of the main process, from all shards; every process takes part."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=only_trained)
    weights: dict[str, Any] = get_model_state_dict(transformer, options=options)
    return {name: tensor.clone() for name, tensor in weights.items()}  # on the CPU they are the model's own


def save_result(
    transformer: Any, config: TrainConfig, accelerator: Accelerator, few_steps: FewSteps | None = None
) -> Path:
    """Save what inference loads: an adapter file, or a `transformer` folder; every process takes part.

    Args:
        transformer: The trained transformer.
        config: The run's settings.
        accelerator: Knows the main process, which alone writes.
        few_steps: How a student is asked, which its adapter tells.
    """
    weights = gather_weights(transformer, only_trained=config.train == "lora")
    path = Path(config.output_dir)
    if accelerator.is_main_process:
        dtype = getattr(torch, config.save_dtype)
        weights = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()
        }
        if config.train == "lora":
            save_adapter(transformer, weights, path, config, few_steps)
        else:
            _save_transformer(transformer, weights, path / "transformer")
    accelerator.wait_for_everyone()
    return path


def _save_transformer(transformer: Any, weights: dict[str, Tensor], path: Path) -> None:
    """Write the folder that `from_pretrained` reads, whole or not at all."""
    with torch.device("meta"):
        copy = type(transformer).from_config(transformer.config)
    copy.load_state_dict(weights, assign=True)
    with explained_full_disk(path, kept_by_run(path.parent)), written_whole(path) as partial:
        copy.save_pretrained(partial)


def _new_transformer(path: Path) -> Any:
    """Build a transformer with random weights from a file of constructor arguments, all of which must exist."""
    advice = "training/configs/jova_tiny_transformer.json is an example"
    values = parse_object(path.read_bytes(), f"`model` with the constructor arguments, `{path}`,", advice)
    cls = _transformer_class(values, str(path))
    known = inspect.signature(cls.__init__).parameters
    for name in values:
        if not name.startswith("_") and name not in known:
            raise ValueError(
                f"`{name}` in `{path}` is no argument of {cls.__name__}; it takes {', '.join(list(known)[1:])}"
            )
    return cls.from_config(values)


def _transformer_class(values: dict[str, Any], source: str) -> type[Any]:
    """Find the class that a configuration names; without a name it is the paper's."""
    classes = {cls.__name__: cls for cls in TRANSFORMERS}
    name = values.get("_class_name", JoVATransformer3DModel.__name__)
    if name not in classes:
        raise ValueError(
            f"`model` must be one of {', '.join(classes)}, got {name} in `{source}`; "
            "choose another folder, or convert it with `jova convert`"
        )
    return classes[name]
