"""What comes through a socket is what its node declares, or one sentence says so before the node runs.

ComfyUI checks the types of connections, and of numbers those that are typed into a widget. What other packs, damaged
graphs and values that are computed elsewhere send is checked here, for all nodes, by what they declare.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .overshoot import to_unit
from .package import jova
from .sockets import OWN


Checks = Mapping[str, Callable[[Any, Any], Any]]
NUM_NAMED = 6  # choices that an error lists


def check_inputs(declared: Sequence[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a node, each in the one form that the node reads.

    Args:
        declared: Inputs of its schema.
        given: By name; an optional input may be left out.

    Raises:
        ValueError: One is something else than it should be; the message names its socket.
    """
    found: dict[str, Any] = {}
    for socket in declared:
        value = given.get(socket.id)
        is_left_out = value is None and socket.optional
        found[socket.id] = None if is_left_out else CHECKS[socket.get_io_type()](socket, value)
    check_together(found)
    return found


def check_together(found: Mapping[str, Any]) -> None:
    """Refuse VAEs that are not those of the clip whose latents come beside them."""
    names = [name for name in ("latent", "samples") if name in found]
    for name in names:
        from .clips import clip_of

        clip = clip_of(found[name], name)
        if "vae" in found:
            clip.check_vae(found["vae"], name)
        if "audio_vae" in found:
            clip.check_audio_vae(found["audio_vae"], name)


# --- widgets ---


def check_whole(socket: Any, value: Any) -> int:
    """A whole number within the limits of its widget."""
    number: int = jova("number_arguments").whole_number(socket.id, value)
    return int(within(socket, number))


def check_number(socket: Any, value: Any) -> float:
    """A number within the limits of its widget."""
    advice = f"give a number from {socket.min:g} to {socket.max:g}"
    number: float = jova("number_arguments").finite_number(socket.id, value, advice)
    return float(within(socket, number))


def within(socket: Any, number: float) -> float:
    """A number, if it lies within the limits of its widget and, where the least is the model's own, not between."""
    if socket.min == OWN and OWN < number < 0:
        raise ValueError(
            f"`{socket.id}` must be {OWN:g}, the model's own, or from 0 to {socket.max:g}, got {number:g}; give 0, say"
        )
    if not socket.min <= number <= socket.max:
        nearest = socket.min if number < socket.min else socket.max
        raise ValueError(f"`{socket.id}` must be from {socket.min} to {socket.max}, got {number}; give {nearest}, say")
    return number


def check_choice(socket: Any, value: Any) -> Any:
    """One of the choices of its widget."""
    if value not in socket.options:
        named = ", ".join(str(option) for option in socket.options[:NUM_NAMED]) or "no file at all"
        more = f" and {len(socket.options) - NUM_NAMED} others" if len(socket.options) > NUM_NAMED else ""
        raise ValueError(f"`{socket.id}` must be one of {named}{more}, got {value!r}; choose one in the widget")
    return value


def check_words(socket: Any, value: Any) -> Any:
    """Text of whole characters."""
    jova("prompt").check_text(socket.id, value)
    return value


def check_flag(socket: Any, value: Any) -> bool:
    """True or False."""
    jova("number_arguments").check_flags({socket.id: value})
    return bool(value)


# --- media ---


def check_images(socket: Any, value: Any) -> Any:
    """IMAGE [N, H, W, 3] in [0, 1] of one with 1 to 4 channels; what overshoots a little is clipped, as core does."""
    import torch

    describe = jova("pipeline_checks").describe_tensor
    if not isinstance(value, torch.Tensor) or value.ndim != 4:
        raise ValueError(
            f"`{socket.id}` must be pictures [N, H, W, 3], got {describe(value)}; connect an IMAGE, from LoadImage say"
        )
    pictures = value.detach().cpu()
    if pictures.is_floating_point() and pictures.numel():
        advice = "look at what made them with PreviewImage"
        pictures = to_unit(f"`{socket.id}`", pictures.float(), advice, "be pictures of")
    frames = torch.from_numpy(jova("pictures").to_frames(socket.id, pictures.numpy()))  # an array has channels last
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames


def check_sound(socket: Any, value: Any) -> dict[str, Any]:
    """AUDIO: a float32 `waveform` [B, channels, S] in [-1, 1], with some overshoot, and its whole `sample_rate`."""
    import torch

    arrays, describe = jova("media_arrays"), jova("pipeline_checks").describe_tensor
    waveform = value.get("waveform") if isinstance(value, Mapping) else None
    if not isinstance(waveform, torch.Tensor) or waveform.ndim != 3 or 0 in waveform.shape:
        found = describe(value) if not isinstance(value, Mapping) or waveform is None else describe(waveform)
        raise ValueError(
            f"`{socket.id}` must be sound [B, channels, S] with S > 0 and its sample rate, got {found}; connect an "
            "AUDIO, from LoadAudio say"
        )
    rate = value.get("sample_rate")
    if isinstance(rate, float) and rate.is_integer():
        rate = int(rate)
    arrays.check_sampling_rate(f"sample_rate` of `{socket.id}", rate)
    return {**value, "waveform": torch.from_numpy(arrays.to_unit_floats(socket.id, waveform)), "sample_rate": rate}


# --- parts of a model, latents and prompts ---


def check_jova_model(socket: Any, value: Any) -> Any:
    """A model of ours."""
    from .model import check_model

    check_model(value, socket.id)
    return value


def check_text_encoder(socket: Any, value: Any) -> Any:
    """A text encoder, of ours or of core."""
    if not hasattr(value, "encode_from_tokens_scheduled"):
        raise ValueError(
            f"`{socket.id}` must be a text encoder, got {name_of(value)}; connect CLIP of Load JoVA, or a CLIPLoader"
        )
    return value


def check_codec(socket: Any, value: Any) -> Any:
    """The video VAE, of ours or of core, or the audio VAE of ours, as the socket is named."""
    from .codecs import JovaAudioVAE, JovaVideoVAE

    if socket.id == "audio_vae":
        if not isinstance(value, JovaAudioVAE):
            raise ValueError(
                f"`{socket.id}` must be the audio VAE of a JoVA model, got {name_of(value)}; connect the audio VAE of "
                "Load JoVA"
            )
        return value
    if isinstance(value, JovaVideoVAE):
        return value
    is_of_video = hasattr(value, "temporal_compression_decode") and value.temporal_compression_decode() is not None
    if isinstance(value, JovaAudioVAE) or not is_of_video:
        raise ValueError(
            f"`{socket.id}` must be the video VAE of a JoVA model, got {name_of(value)}; connect the VAE of Load JoVA"
        )
    return value


def check_latent(socket: Any, value: Any) -> Any:
    """Latents of a clip."""
    from .clips import clip_of

    clip_of(value, socket.id)
    return value


def check_conditioning(socket: Any, value: Any) -> Any:
    """Encoded prompts; whether a model reads them shows where it is sampled."""
    import torch

    entries = value if isinstance(value, list) else []
    for entry in entries or [None]:
        features = entry[0] if isinstance(entry, list | tuple) and len(entry) >= 2 else None
        if (
            not isinstance(features, torch.Tensor)
            or not features.is_floating_point()
            or features.ndim != 3
            or 0 in features.shape
            or not isinstance(entry[1], Mapping)
        ):
            found = jova("pipeline_checks").describe_tensor(features) if entries else name_of(value)
            raise ValueError(
                f"`{socket.id}` must be an encoded prompt, features [B, S, D] with what belongs to them, got {found}; "
                "connect JoVA Prompt or CLIPTextEncode"
            )
        jova("finite").check_finite_inputs({socket.id: features}, "encode the prompt anew")
    return value


def name_of(value: Any) -> str:
    """What comes through a socket, in words."""
    return "nothing" if value is None else f"a {type(value).__name__}"


CHECKS: Checks = {
    "INT": check_whole,
    "FLOAT": check_number,
    "COMBO": check_choice,
    "STRING": check_words,
    "BOOLEAN": check_flag,
    "IMAGE": check_images,
    "AUDIO": check_sound,
    "MODEL": check_jova_model,
    "CLIP": check_text_encoder,
    "VAE": check_codec,
    "LATENT": check_latent,
    "CONDITIONING": check_conditioning,
}
