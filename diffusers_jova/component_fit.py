"""Components of a pipeline that contradict each other, or themselves, found when it is put together."""

import os
from collections.abc import Mapping, Sequence
from inspect import isclass, signature
from typing import Any

import torch
from diffusers import ModelMixin, SchedulerMixin
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .audio_codec import JoVAAudioCodec, needs_vocoder
from .lost_weights import check_weights
from .number_arguments import is_finite_number, positive_number, whole_number
from .reference_rows import reads_references
from .video_codec import JoVAVideoCodec


TEXT_WIDTHS = {  # config fields of the transformer
    "text_encoder": ("text_dim", "audio_text_dim"),  # one text serves both modalities, unless there is the last
    "text_encoder_2": ("text_dim_2",),
    "spoken_text_encoder": ("audio_text_dim",),
}


CODECS = ("vae", "audio_vae", "vocoder")  # of any class that offers what is asked of its config


def check_kinds(components: Mapping[str, Any], kinds: Mapping[str, Sequence[Any]]) -> None:
    """Refuse names, classes, and components where those of another kind belong; wrappers of modules pass.

    Args:
        components: Of a pipeline, by name.
        kinds: Classes that each may have, by name, as `JoVAPipeline` declares them among its other arguments.

    Raises:
        ValueError: Naming the component, the classes that it may have and the one that it has.
    """
    roots = (nn.Module, SchedulerMixin, PreTrainedTokenizerBase)
    known = {kind for classes in kinds.values() for kind in classes if isclass(kind) and issubclass(kind, roots)}
    for name, component in components.items():
        wanted = tuple(kind for kind in kinds.get(name, ()) if kind in known)
        if component is None or not wanted or isinstance(component, wanted):
            continue
        others = tuple(known) if name in CODECS else (*known, ModelMixin, SchedulerMixin)
        is_plain = not hasattr(component, "__module__") or isinstance(component, os.PathLike)
        if is_plain or isclass(component) or isinstance(component, others):
            classes = sorted({kind.__name__ for kind in wanted})
            found = repr(component) if is_plain else type(component).__name__
            found = f"the class {component.__name__} itself" if isclass(component) else found
            raise ValueError(
                f"`{name}` must be {'one of ' if len(classes) > 1 else ''}{', '.join(classes)}, got {found}; load or "
                "name a component of this kind"
            )


def check_components(components: Mapping[str, Any]) -> None:
    """Refuse components that cannot work together; those that are None contradict nothing.

    Args:
        components: Of a pipeline, by name.

    Raises:
        ValueError: Naming the component and the field of its config, or the weights that its checkpoint lacks.
    """
    vae, audio_vae, vocoder = (components.get(name) for name in ("vae", "audio_vae", "vocoder"))
    for name in ("transformer", "vae", "audio_vae", "vocoder", "spoken_text_encoder"):
        if isinstance(component := components.get(name), nn.Module):
            check_weights(name, component)
    if vae is not None:
        check_video_vae(vae.config)
    if audio_vae is not None:
        check_audio_vae(audio_vae)
    check_spoken_text(components.get("spoken_tokenizer"), components.get("spoken_text_encoder"))
    if (transformer := components.get("transformer")) is None:
        return
    if vae is not None:
        check_video(transformer.config, JoVAVideoCodec(vae))
    if audio_vae is not None and (vocoder is not None or not needs_vocoder(audio_vae)):
        num_channels = JoVAAudioCodec(audio_vae, vocoder).latent_channels
        require("audio_in_channels", "transformer", transformer.config, num_channels, "the channels of `audio_vae`")
    for name, fields in TEXT_WIDTHS.items():
        config = getattr(components.get(name), "config", None)
        width = getattr(config, "dim" if name == "spoken_text_encoder" else "hidden_size", None)
        if name == "text_encoder" and components.get("spoken_text_encoder") is not None:
            fields = fields[:1]
        for field in fields:
            if isinstance(width, int) and (field == fields[0] or field in transformer.config):
                require(field, "transformer", transformer.config, width, f"the width of `{name}`")


def check_skip_layer(transformer: Any, index: int | None) -> None:
    """Refuse a block to leave out that the transformer does not have, or cannot leave out.

    Args:
        transformer: Of a pipeline; None contradicts nothing.
        index: Of one of its blocks; None for none.
    """
    if index is None:
        return
    index = whole_number("negative_skip_layer", index, least=0)
    if transformer is None:
        return
    if "skip_layers" not in signature(type(transformer).forward).parameters:
        raise ValueError(
            f"`negative_skip_layer` must be None for a {type(transformer).__name__}, whose `forward` has no "
            f"`skip_layers`, got {index}; leave it out"
        )
    if index >= len(transformer.blocks):
        raise ValueError(
            f"`negative_skip_layer` must be one of the {len(transformer.blocks)} blocks of `transformer`, got {index}"
            "; 0 is the first"
        )


def check_reference_length(transformer: Any, longest_s: float | None) -> None:
    """Refuse a reference voice for a transformer that reads none, and a length that is none.

    Args:
        transformer: Of a pipeline; None contradicts nothing.
        longest_s: Longest reference voice in seconds; None for a model that reads none.
    """
    if longest_s is None:
        return
    positive_number("max_reference_s", longest_s, "None is a model that reads no reference voice")
    if transformer is not None and not reads_references(transformer.config):
        raise ValueError(
            f"`max_reference_s` must be None for a transformer that reads no reference in front of a clip, got "
            f"{longest_s:g}; leave it out, or use one of `fusion` 'aligned'"
        )


def check_spoken_text(tokenizer: Any, encoder: Any) -> None:
    """Refuse a list of characters that is not the one that the encoder of spoken text was trained with."""
    if tokenizer is None or encoder is None:
        return
    num_known = len(tokenizer) - (tokenizer.unk_token_id is not None)
    if num_known != encoder.config.vocab_size:
        raise ValueError(
            f"`spoken_tokenizer` must know the {encoder.config.vocab_size} characters of `spoken_text_encoder`, got "
            f"{num_known}; load components of one model"
        )


def require(field: str, name: str, config: Mapping[str, Any], wanted: int, reason: str) -> None:
    """Refuse a config whose field is another number than the one wanted, for the reason."""
    if (got := config.get(field)) != wanted:
        raise ValueError(f"`{field}` of `{name}` must be {wanted}, {reason}, got {got}; load components of one model")


def check_video_vae(config: Mapping[str, Any]) -> None:
    """Refuse a video VAE that compresses otherwise than its config says, or whose statistics are none."""
    if "temperal_downsample" in config and "dim_mult" in config:
        spatial = 2 ** (len(config["dim_mult"]) - 1) * (config.get("patch_size") or 1)
        temporal = 2 ** sum(map(bool, config["temperal_downsample"]))
        for field, factor in (("scale_factor_temporal", temporal), ("scale_factor_spatial", spatial)):
            if config[field] != factor:
                raise ValueError(
                    f"`{field}` of `vae` must be {factor}, as its layers compress, got {config[field]}; correct its "
                    "config"
                )
    check_statistics("latents_mean", config["latents_mean"], config["z_dim"], is_positive=False)
    check_statistics("latents_std", config["latents_std"], config["z_dim"], is_positive=True)


def check_statistics(field: str, values: Sequence[Any], num_channels: int, is_positive: bool) -> None:
    """Refuse statistics that are not one finite number per channel; a deviation is above 0."""
    bad: list[Any] = [value for value in values if not is_finite_number(value) or (is_positive and value <= 0)]
    if bad or len(values) != num_channels:
        raise ValueError(
            f"`{field}` of `vae` must be {num_channels} {'positive ' if is_positive else ''}numbers, one per channel, "
            f"got {bad[0] if bad else len(values)}; take the config of its release"
        )


def check_audio_vae(audio_vae: Any) -> None:
    """Refuse an audio VAE whose latents could not be scaled back."""
    scale = audio_vae.config.get("scaling_factor", 1.0)
    if not is_finite_number(scale) or scale <= 0:
        raise ValueError(
            f"`scaling_factor` of `audio_vae` must be a positive number, got {scale}; take the config of its release"
        )
    deviations = getattr(audio_vae, "latents_std", None)
    if isinstance(deviations, Tensor) and deviations.device.type != "meta" and not is_positive(deviations):
        raise ValueError(
            "`latents_std` of `audio_vae` must be positive numbers, got others; take the weights of its release"
        )


def is_positive(tensor: Tensor) -> bool:
    """Whether all values are finite and above 0."""
    return bool(((tensor > 0) & (tensor < torch.inf)).all())


def check_video(config: Mapping[str, Any], codec: JoVAVideoCodec) -> None:
    """Refuse a transformer that was built for another video VAE."""
    factor, num_channels = codec.temporal_factor, codec.num_channels
    require("temporal_compression_ratio", "transformer", config, factor, "that of `vae`")
    require("out_channels", "transformer", config, num_channels, "the channels of `vae`")
    if (got := config["in_channels"]) != num_channels and got < 2 * num_channels:
        raise ValueError(
            f"`in_channels` of `transformer` must be {num_channels}, or at least {2 * num_channels} (noisy latents, "
            f"the image's latents and a mask), got {got}; load components of one model"
        )
