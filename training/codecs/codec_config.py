"""What `configs/codecs_*.yaml` says: corpus, sizes and schedules of the small components."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from diffusers_jova.origin import digest_components
from diffusers_jova.training.codecs.timed_loop import Schedule, decisive_settings
from jova_cli.latent_lengths import whole_frames
from jova_cli.yaml_text import parse_yaml


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """The clips to train on.

    Attributes:
        clips: Training clips; their seeds are 0, 1, ...
        held_out: Clips for the report; their seeds start at `HELD_OUT_SEED`.
        speech: "formant" or "espeak", see `diffusers_jova.drawn.avatars.make_clip`.
    """

    clips: int
    held_out: int = 64
    speech: str = "formant"


@dataclass(frozen=True, kw_only=True)
class VideoStage:
    """A part of the video VAE's training.

    Attributes:
        until: Share of the run at which the stage ends.
        frames: Frames per sample, 4k + 1.
        batch: Samples per step.
    """

    until: float
    frames: int
    batch: int

    def __post_init__(self) -> None:
        if whole_frames(self.frames, 4) != self.frames:
            raise ValueError(
                f"`frames` must be 4k + 1 (the video VAE compresses time by 4), got {self.frames}; use 1, 9 or 33"
            )


@dataclass(frozen=True, kw_only=True)
class VideoVAEConfig:
    """The video VAE.

    Attributes:
        model: Arguments of `AutoencoderKLWan`.
        schedule: When to stop.
        stages: What to train on, in order; the last one ends at 1.
        kl_weight: Of the KL divergence per latent value.
        gradient_weight: Of the errors of pixel differences.
        mouth_weight: Of a mouth's pixels; others weigh 1.
        recolour: Share of samples in random colours, so that the codec holds for colours outside the palette.
        bf16: Whether to compute in bfloat16 where autocast does.
        channels_last: Whether to keep tensors channels-last, the layout of the GPU's matrix units.
    """

    model: dict[str, Any]
    schedule: Schedule
    stages: tuple[VideoStage, ...]
    kl_weight: float = 1e-4
    gradient_weight: float = 0.5
    mouth_weight: float = 4.0
    recolour: float = 0.25
    bf16: bool = True
    channels_last: bool = True

    def __post_init__(self) -> None:
        if not self.stages or self.stages[-1].until != 1:
            raise ValueError("`stages` must end with one whose `until` is 1; add it")


@dataclass(frozen=True, kw_only=True)
class VideoDecoderConfig:
    """Where the video VAE's training goes on with the decoder alone, on whole clips; the rest is as for the VAE.

    Attributes:
        schedule: When to stop.
        mouth_weight: Of a mouth's pixels; others weigh 1.
        batch: Clips per step.
    """

    schedule: Schedule
    mouth_weight: float
    batch: int = 1


@dataclass(frozen=True, kw_only=True)
class AudioVAEConfig:
    """The audio VAE.

    Attributes:
        model: Arguments of `MMAudioVAE`.
        schedule: When to stop.
        batch: Clips per step.
        kl_weight: Of the KL divergence per latent value.
        gradient_weight: Of the errors of differences between neighbouring mel values.
    """

    model: dict[str, Any]
    schedule: Schedule
    batch: int = 64
    kl_weight: float = 1e-3
    gradient_weight: float = 0.5


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """The vocoder.

    Attributes:
        model: Arguments of `LTX2Vocoder`.
        schedule: When to stop.
        batch: Segments per step.
        segment_frames: Mel frames per segment.
        judged_from: Share of the run after which the discriminators take part.
        decoded_from: Share of the run after which half of the mels come from the audio VAE instead of the waveform.
        discriminator_width: Channels of the discriminators' first layer.
        mel_weight: Of the mel error.
        stft_weight: Of the multi-resolution STFT loss.
        convergence_weight: Of the spectral convergence in it; the error of log magnitudes weighs 1.
        feature_weight: Of the feature matching loss; the adversarial loss weighs 1.
    """

    model: dict[str, Any]
    schedule: Schedule
    batch: int = 32
    segment_frames: int = 32
    judged_from: float = 0.2
    decoded_from: float = 0.5
    discriminator_width: int = 16
    mel_weight: float = 10.0
    stft_weight: float = 2.0
    convergence_weight: float = 4.0
    feature_weight: float = 2.0


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The tokenizer and the text encoder.

    Attributes:
        vocabulary: Tokens of the tokenizer.
        model: Arguments of `UMT5Config` other than the vocabulary.
        schedule: When to stop.
        batch: Captions per step.
        masked: Share of tokens that are hidden from the encoder.
    """

    vocabulary: int
    model: dict[str, Any]
    schedule: Schedule
    batch: int = 256
    masked: float = 0.15


@dataclass(frozen=True, kw_only=True)
class CodecsConfig:
    """All small components of a model.

    Attributes:
        corpus: The clips, for training and for the reports.
        video_vae: The video VAE.
        audio_vae: The audio VAE.
        vocoder: The vocoder, which also learns from what the audio VAE decodes.
        text_encoder: The tokenizer and the text encoder.
        video_decoder: How the video VAE's decoder goes on alone; `None` leaves it as it is.
        tf32: Whether a GPU may round the factors of float32 products to ten bits.
    """

    corpus: CorpusConfig
    video_vae: VideoVAEConfig
    audio_vae: AudioVAEConfig
    vocoder: VocoderConfig
    text_encoder: TextEncoderConfig
    video_decoder: VideoDecoderConfig | None = None
    tf32: bool = True


def load_config(path: str | Path) -> CodecsConfig:
    """Read a YAML file.

    Raises:
        ValueError: If the file is no YAML, or a field is unknown, missing or out of range.
    """
    try:
        values = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no YAML, no text, or nested without end
        raise ValueError(f"`{path}` must be valid YAML, got an error ({error}); correct it") from error
    return _build(CodecsConfig, values, "")


def component_settings(name: str, config: CodecsConfig, audio_vae: Path) -> dict[str, Any]:
    """What decides a component: its clips, its part of the config and, of the vocoder, the audio VAE.

    Args:
        name: "video_vae", "audio_vae", "vocoder" or "text_encoder".
        config: All components.
        audio_vae: Folder of the audio VAE, if there is one yet.
    """
    parts = {"video_vae": ("video_vae", "video_decoder")}.get(name, (name,))
    configs = {part: getattr(config, part) for part in parts}
    settings: dict[str, Any] = {part: value and decisive_settings(value) for part, value in configs.items()}
    settings["corpus"] = {"clips": config.corpus.clips, "speech": config.corpus.speech}
    if name == "vocoder" and audio_vae.is_dir():
        settings["audio_vae"] = digest_components([audio_vae])
    return settings


def _build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass and the dataclasses in its fields from nested mappings."""
    if not isinstance(values, Mapping):
        raise ValueError(
            f"`{where.rstrip('.') or 'the config'}` must hold fields, got {values!r}; indent them below it"
        )
    hints = get_type_hints(kind)
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            advice = f"did you mean `{where}{near[0]}`?" if near else f"choose from {', '.join(fields)}"
            raise ValueError(f"`{where}{name}` must be a known field, got an unknown one; {advice}")
    required = [name for name, entry in fields.items() if entry.default is dataclasses.MISSING]
    for name in required:
        if name not in values:
            raise ValueError(f"`{where}{name}` must be given, got nothing; add it to the config")
    return kind(**{name: _convert(hints[name], value, f"{where}{name}.") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint == tuple[VideoStage, ...]:
        return tuple(_build(VideoStage, entry, where) for entry in value)
    parts = [part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)]
    if parts and not (value is None and type(None) in get_args(hint)):
        return _build(parts[0], value, where)  # type: ignore[arg-type]
    return float(value) if hint is float else value
