"""Which clips a saved pipeline makes, and what it can at most, from its index and its configs."""

import ast
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from .class_fields import read_fields
from .clip_limits import (
    ClipLimits,
    GivenLengths,
    check_largest_size,
    check_length,
    check_size,
    check_sound_fits,
    clip_limits,
    rounded_down,
)
from .given_paths import kind_of
from .json_text import read_object
from .keyframes import PicturePlaces
from .latent_lengths import AudioClock, Rounding, check_whole_frames
from .model_info import INDEX, read_index
from .shipped import PACKAGE


DEFAULTS = (PACKAGE / "generation_defaults.py", "GenerationDefaults")
MODALITIES = ("video", "audio")  # as in diffusers_jova.transformer_jova
VAE_FACTORS = {"scale_factor_temporal": 4, "scale_factor_spatial": 8}  # AutoencoderKLWan's own, for its older configs
PATCH_SIZE = (1, 2, 2)  # the transformers' own
MEL_FRAMES_PER_LATENT = {"MMAudioVAE": 2, "AutoencoderKLLTX2Audio": 4, "JoVALogMel": 1}
ROUNDING: Mapping[str, Rounding] = {"JoVALogMel": "down"}  # the others of these: nearest


def index_defaults(index: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipeline of an index takes for arguments that are not given.

    Raises:
        ValueError: If it states a number that is none.
    """
    own = {field.name: ast.literal_eval(field.default) for field in read_fields(*DEFAULTS)}
    stated = index.get("defaults") or {}
    if not isinstance(stated, dict):
        raise ValueError(f"`defaults` of a `{INDEX}` must hold `name: value` pairs, got {stated!r}; save it anew")
    values = own | stated
    for name in ("height", "width", "num_frames", "frame_rate", "num_inference_steps"):
        if type(values[name]) not in (int, float) or not 0 < values[name] < float("inf"):
            raise ValueError(f"`{name}` of the `defaults` must be a positive number, got {values[name]!r}; mend it")
    return values


def describe_clips(folder: Path) -> str:
    """Two lines: the clip that a saved pipeline makes unless it is told otherwise, and the longest."""
    values = index_defaults(read_index(folder))
    rate, num_frames = values["frame_rate"], values["num_frames"]
    own = f"makes {num_frames} frames of {values['width']}x{values['height']} pixels at {rate:g} per second, "
    own += f"{num_frames / rate:.2f} s, unless told otherwise"
    geometry = read_geometry(folder)
    limits = geometry and geometry.limits_of_call(MODALITIES, rate)
    if limits is None:
        return f"{own}\nlongest clip: no limit but the memory, beyond {num_frames / rate:.2f} s it was not made for"
    longest_s = rounded_down(limits.num_frames / rate)
    size = f"sizes up to {limits.width}x{limits.height} pixels, made for {values['width']}x{values['height']}"
    return f"{own}\nlongest clip: {longest_s:.2f} s, {limits.num_frames} frames at {rate:g} per second; {size}"


def describe_steps(folder: Path) -> str:
    """One line: in how many steps a saved pipeline makes it, and what guides it how strongly."""
    values = index_defaults(read_index(folder))

    def scales(prefix: str) -> str:
        text, coupling = values[f"{prefix}guidance_scale"], values[f"{prefix}coupling_scale"]
        goes_along = coupling is None and values["coupling_scale"] is None
        parts = [] if text in (None, 1) else [f"{text} by {'text and coupling' if goes_along else 'text'}"]
        return " and ".join(parts if coupling in (None, 1) else [*parts, f"{coupling} by coupling"])

    guidance, of_sound = scales(""), scales("audio_")
    said = f"guidance {guidance}" if guidance else "without guidance"
    return f"denoises in {values['num_inference_steps']} steps, {said}" + (f"; sound {of_sound}" if of_sound else "")


class Geometry(NamedTuple):
    """What the configs of a saved pipeline say of sizes and lengths.

    Attributes:
        temporal_factor: Frames per latent after the first.
        spatial_factor: Pixels per latent cell.
        patch_size: Latents per row of the transformer along (frames, height, width).
        limits: The largest clip; None without a limit.
        clock: How many latents a sound has; None without an audio VAE whose class is known.
    """

    temporal_factor: int
    spatial_factor: int
    patch_size: Sequence[int]
    limits: ClipLimits | None
    clock: AudioClock | None

    def limits_of_call(self, modalities: Sequence[str], frame_rate: float) -> ClipLimits | None:
        """The largest clip of some modalities at a frame rate; None without a limit."""
        return self.limits and self.limits.of_call(modalities, frame_rate, self.clock, self.temporal_factor)


def read_geometry(folder: Path) -> Geometry | None:
    """Read the configs of a saved pipeline; None without a video VAE. Its transformer may be missing.

    Raises:
        ValueError: If a config does not hold what its component takes.
    """
    if not (folder / "vae" / "config.json").is_file():
        return None
    transformer = {"patch_size": PATCH_SIZE, **config_of(folder, "transformer")}
    vae = {**VAE_FACTORS, **config_of(folder, "vae")}
    try:
        temporal_factor, spatial_factor = (int(vae[name]) for name in VAE_FACTORS)
        return Geometry(
            temporal_factor=temporal_factor,
            spatial_factor=spatial_factor,
            patch_size=[int(size) for size in transformer["patch_size"]],
            limits=clip_limits(transformer, temporal_factor, spatial_factor),
            clock=audio_clock(folder),
        )
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"the configs of `transformer`, `vae` and `audio_vae` in `{folder}` must hold sizes and rates, got an "
            f"error ({error!r}); save or fetch them anew"
        ) from error


def read_places(folder: Path) -> PicturePlaces | None:
    """Where a saved pipeline has places for pictures; None where its configs are not there."""
    transformer = config_of(folder, "transformer")
    num_in, num_out = transformer.get("in_channels"), transformer.get("out_channels")
    if kind_of(folder / INDEX) != "file" or (geometry := read_geometry(folder)) is None:
        return None
    if not isinstance(num_in, int) or not isinstance(num_out, int):
        return None
    num_given = num_in - num_out  # of the latents of what is given, as many as go out, and of its mask
    encodes_grey = bool(read_index(folder).get("fills_image_with_grey")) and num_given > 0
    return PicturePlaces(geometry.temporal_factor, num_given - num_out if num_given > 0 else None, encodes_grey)


def check_clip_fits(
    folder: Path, arguments: Mapping[str, Any], modalities: Sequence[str], given: GivenLengths | None = None
) -> None:
    """Refuse sizes and lengths that a saved pipeline cannot hold, as far as its configs are there.

    Args:
        folder: Of the pipeline; without an index nothing is known.
        arguments: Of a call, by name; the model's own take the place of those that are missing or None.
        modalities: Of the call.
        given: How long given media are; None without, and where they are not read yet.
    """
    if kind_of(folder / INDEX) != "file" or (geometry := read_geometry(folder)) is None:
        return
    own = index_defaults(read_index(folder))
    settings = SimpleNamespace(**own | {name: value for name, value in arguments.items() if value is not None})
    limits = geometry.limits_of_call(modalities, settings.frame_rate)
    if limits is not None:  # before a length near by is advised, which may be beyond it
        check_length(settings.num_frames, settings.frame_rate, limits.num_frames, given or GivenLengths())
    check_whole_frames(settings.num_frames, geometry.temporal_factor)
    if limits is not None and "video" in modalities:
        check_largest_size(settings, limits)
    check_size(settings, geometry.spatial_factor, geometry.patch_size)
    if given is not None:
        check_sound_fits(given, settings.num_frames, settings.frame_rate, geometry.temporal_factor)


def config_of(folder: Path, name: str) -> dict[str, Any]:
    """Config of a component of a saved pipeline; empty without one."""
    path = folder / name / "config.json"
    return read_object(path) if path.is_file() else {}


def sound_channels(folder: Path) -> int | None:
    """Channels of the sound that a saved pipeline makes; None where its configs do not tell."""
    audio_vae, vocoder = config_of(folder, "audio_vae"), config_of(folder, "vocoder")
    if "encoder_rates" in audio_vae:  # of a waveform VAE
        number = audio_vae.get("num_channels")
    else:
        number = vocoder_channels(vocoder) if vocoder else None
    return number if type(number) is int and number > 0 else None


def vocoder_channels(config: Mapping[str, Any]) -> Any:
    """Channels of the waveform that a vocoder makes, by its config; mono where that does not tell."""
    return config.get("bwe_out_channels", config.get("out_channels", 1))


def audio_clock(folder: Path) -> AudioClock | None:
    """How many latents a sound has; None without an audio VAE whose class is known.

    Raises:
        ValueError: If its config states lengths that no codec has.
    """
    config = config_of(folder, "audio_vae")
    name = str(config.get("_class_name"))
    if "encoder_rates" in config:  # of a waveform VAE
        clock = AudioClock(config["sample_rate"], math.prod(config["encoder_rates"]), "up")
    elif name in MEL_FRAMES_PER_LATENT:
        hop_length_samples = config["mel_hop_length"] if "mel_hop_length" in config else config["hop_length"]
        samples_per_latent = hop_length_samples * MEL_FRAMES_PER_LATENT[name]
        clock = AudioClock(config["sample_rate"], samples_per_latent, ROUNDING.get(name, "nearest"))
    else:
        return None
    if type(clock.sampling_rate) not in (int, float) or min(clock.sampling_rate, clock.samples_per_latent) <= 0:
        raise ValueError(f"{clock} must be positive")
    return clock
