"""The whole way on one node, and a look at mouth masks: sockets and schema."""

from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import io

from .model_files import fingerprint, pipeline_fingerprint, pipeline_source
from .node import JovaNode
from .sockets import (
    dtype_input,
    fit_input,
    length_input,
    media_outputs,
    pipeline_input,
    prompt_inputs,
    rate_input,
    reference_audio_input,
    reference_transcript_input,
    scale_input,
    size_inputs,
    text_input,
    vae_input,
)


SAMPLERS = ("euler", "uni_pc", "heun", "dpmpp_2m")


class JovaGenerate(JovaNode):
    """Prompt in, video out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaGenerate",
            display_name="JoVA Generate",
            category="JoVA",
            description="Everything on one node: text, a first or last frame, an own voice or an own video in, a "
            "video with sound out. It does what Load JoVA, JoVA Prompt, Empty JoVA Latent, JoVA Guider, a sampler and "
            "JoVA Decode do.",
            inputs=[
                pipeline_input("model", "As in Load JoVA."),
                *prompt_inputs(),
                text_input("negative", "Empty takes the model's own negative prompts."),
                *size_inputs(),
                length_input(),
                rate_input(0.0, 0.0, "; 0 takes the model's own."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Of the noise. The same seed in Python draws other noise: core draws the sound in another "
                    "order.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    step=1,
                    tooltip="Sampling steps; 0 takes the model's own, and its own solver in place of `sampler`.",
                ),
                scale_input("cfg", "How much the picture follows the text."),
                scale_input("audio_cfg", "How much the sound follows the text."),
                io.Combo.Input(
                    "sampler",
                    options=list(SAMPLERS),
                    default="euler",
                    tooltip="The solver; the noise levels are those of the scheduler `simple`.",
                ),
                dtype_input(),
                fit_input(),
                io.Image.Input("image", optional=True, tooltip="The first frame."),
                io.Audio.Input(
                    "own_audio", optional=True, tooltip="A sound that drives the picture, or is continued."
                ),
                io.Image.Input("own_video", optional=True, tooltip="Frames that get a sound, or are continued."),
                io.Image.Input(
                    "last_image", optional=True, tooltip="The last frame. For frames between, use JoVA Keyframe."
                ),
                reference_audio_input(optional=True),
                reference_transcript_input(optional=True),
            ],
            outputs=media_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, **_: Any) -> str:
        """The model is loaded again when its files have changed."""
        return pipeline_fingerprint(model)

    @classmethod
    def run(cls, model: str, **widgets: Any) -> io.NodeOutput:
        """Generate it."""
        from .generate import generate

        return io.NodeOutput(*generate(pipeline_source(model), **widgets))


class JovaMouthMaskPreview(JovaNode):
    """What training sees of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaMouthMaskPreview",
            display_name="JoVA Mouth Mask Preview",
            category="JoVA/training",
            description="Shows the mouths that training would weigh more: boxes as they are found, and the latents "
            "that they cover. Look at it before training an avatar.",
            inputs=[
                io.Image.Input("images", tooltip="Frames of a clip, 4k + 1 of them count."),
                vae_input("The video VAE of the model: its grid is what the mask lies on."),
                io.String.Input(
                    "boxes",
                    default="",
                    tooltip="A file NAME.boxes.json as `jova prepare` reads it; empty "
                    "looks for mouths with MediaPipe's networks (the package's extra `face`).",
                ),
                rate_input(16.0, 1.0, ": where a mouth is lost for a moment, training fills the gap."),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The frames with boxes and mask over them."),
                io.Mask.Output(display_name="MASK", tooltip="1 where the latents of a mouth lie, one per frame."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, boxes: str, **_: Any) -> str:
        """The file of boxes is read again when it has changed."""
        return fingerprint(boxes) if boxes and Path(boxes).is_file() else boxes

    @classmethod
    def run(cls, images: Any, vae: Any, boxes: str, frame_rate: float) -> io.NodeOutput:
        """Draw them."""
        from .mouths import preview_mouths

        return io.NodeOutput(*preview_mouths(images, vae, boxes, frame_rate))
