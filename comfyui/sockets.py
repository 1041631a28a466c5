"""Inputs and outputs that several nodes have: one wording, one range and one default each."""

from collections.abc import Mapping
from typing import Any

from comfy_api.v0_0_2 import io

from .model_files import SHIPPED, pipeline_names


OWN = -1.0  # of a widget: the model's own value
OWN_TOOLTIP = "-1 takes the model's own."
FITS = ("cover", "contain", "stretch")
DTYPES = ("auto", "bf16", "fp16", "fp32", "fp8_e4m3fn")

# --- parts of a model ---


def model_input() -> Any:
    """A socket for the model."""
    return io.Model.Input("model", tooltip="A JoVA model.")


def clip_input() -> Any:
    """A socket for the text encoder."""
    return io.Clip.Input("clip", tooltip="The text encoder of the model.")


def vae_input(tooltip: str = "The video VAE of the model.") -> Any:
    """A socket for the video VAE."""
    return io.Vae.Input("vae", tooltip=tooltip)


def audio_vae_input(tooltip: str = "The audio VAE of the model.") -> Any:
    """A socket for the audio VAE."""
    return io.Vae.Input("audio_vae", tooltip=tooltip)


def model_output() -> Any:
    """A socket for a model that is loaded."""
    return io.Model.Output(display_name="MODEL", tooltip="For KSampler, or the JoVA Guider.")


def pipeline_input(name: str, tooltip: str) -> Any:
    """A widget for a saved pipeline."""
    return io.Combo.Input(name, options=pipeline_names(), default=SHIPPED[0], tooltip=tooltip)


def dtype_input() -> Any:
    """A widget for the number format."""
    return io.Combo.Input(
        "dtype",
        options=list(DTYPES),
        default="auto",
        tooltip="Number format of the transformer and the text encoder. auto: what ComfyUI chooses for this device. "
        "fp8_e4m3fn: stores the weights of the blocks in 8 bits and computes in bf16 or fp16, half the memory for "
        "some loss in the sound. VAEs and vocoder always run in fp32.",
    )


# --- what a clip is about ---


def text_input(name: str, tooltip: str) -> Any:
    """A widget for a text of any length."""
    return io.String.Input(name, default="", multiline=True, dynamic_prompts=True, tooltip=tooltip)


def prompt_inputs(video_hint: str = "") -> list[Any]:
    """Widgets for the three parts of a prompt."""
    parts: Mapping[str, str] = {
        "video": f"What is to be seen.{video_hint}",
        "audio": "What is to be heard, besides the words: 'a calm female voice', 'rain on a roof'.",
        "transcript": "The words that are spoken; empty if nobody speaks.",
    }
    return [text_input(name, tooltip) for name, tooltip in parts.items()]


def reference_audio_input(**options: Any) -> Any:
    """A socket for the voice to speak with."""
    return io.Audio.Input(
        "reference_audio",
        tooltip="A recording of the voice to speak with, of any rate, for models that read one in front of a clip "
        "(UniAVGen). It is no part of the clip.",
        **options,
    )


def reference_transcript_input(**options: Any) -> Any:
    """A widget for what that voice says."""
    tooltip = "What the recording says, word for word, for models that read it; it is not said again."
    return io.String.Input(
        "reference_transcript", default="", multiline=True, dynamic_prompts=True, tooltip=tooltip, **options
    )


def conditioning_inputs(negative_hint: str = "") -> list[Any]:
    """Sockets for both prompts."""
    return [
        io.Conditioning.Input("positive", tooltip="The prompt."),
        io.Conditioning.Input("negative", tooltip=f"The negative prompt{negative_hint}."),
    ]


def conditioning_outputs() -> list[Any]:
    """Sockets for both prompts, changed."""
    return [io.Conditioning.Output(id=f"{name}_out", display_name=name) for name in ("positive", "negative")]


def fit_input() -> Any:
    """A widget for what happens to a picture of another shape."""
    return io.Combo.Input(
        "fit",
        options=list(FITS),
        default="cover",
        tooltip="How a picture of another shape becomes one of the clip's: cover crops the centre, contain fills up "
        "with black, stretch bends what is seen.",
    )


# --- numbers ---


def size_inputs() -> list[Any]:
    """Widgets for the pixels of a clip."""
    return [
        io.Int.Input(name, default=0, min=0, max=16384, step=16, tooltip=f"Pixels{hint}; 0 takes the model's own.")
        for name, hint in (("width", ", a multiple of what VAE and model need, 16 for most"), ("height", ""))
    ]


def length_input() -> Any:
    """A widget for the frames of a clip."""
    return io.Int.Input(
        "length",
        default=0,
        min=0,
        max=16385,
        step=1,
        tooltip="Frames, 4k + 1: 33, 81, 121; another number is refused, never rounded. 0 takes the length of a given "
        "sound or of given frames, or the model's own.",
    )


def rate_input(default: float, least: float, tooltip: str) -> Any:
    """A widget for frames per second."""
    return io.Float.Input(
        "frame_rate", default=default, min=least, max=240.0, step=0.001, tooltip=f"Frames per second{tooltip}"
    )


def number_input(name: str, default: float, ends: tuple[float, float], step: float, tooltip: str) -> Any:
    """A widget for a number with a point."""
    return io.Float.Input(name, default=default, min=ends[0], max=ends[1], step=step, tooltip=tooltip)


def scale_input(name: str, tooltip: str) -> Any:
    """A widget for a scale, of which 1 is off."""
    return number_input(name, OWN, (OWN, 100.0), 0.1, f"{tooltip} 1 is off. {OWN_TOOLTIP}")


def share_input(name: str, tooltip: str) -> Any:
    """A widget for a fraction."""
    return number_input(name, OWN, (OWN, 1.0), 0.01, f"{tooltip} {OWN_TOOLTIP}")


# --- clips ---


def media_outputs(sound_hint: str = "") -> list[Any]:
    """Sockets for a clip: both in one, its frames, its sound."""
    return [
        io.Video.Output(display_name="VIDEO", tooltip="For SaveVideo."),
        io.Image.Output(display_name="IMAGE", tooltip="Its frames."),
        io.Audio.Output(display_name="AUDIO", tooltip=f"Its sound{sound_hint}."),
    ]
