"""Nodes that make latents of video and sound, and media of latents: sockets and schema."""

from typing import Any

from comfy_api.v0_0_2 import io

from .node import JovaNode
from .sockets import audio_vae_input, fit_input, length_input, media_outputs, rate_input, size_inputs, vae_input


class JovaEmptyLatent(JovaNode):
    """Where sampling starts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaEmptyLatent",
            display_name="Empty JoVA Latent",
            category="JoVA/latent",
            description="Latents of video and sound in one: LTXVSeparateAVLatent takes them apart, and core's decode "
            "nodes read them as they are.",
            inputs=[
                audio_vae_input(
                    "The audio VAE from Load JoVA: it knows how many latents a second of sound has, and the model's "
                    "own size and length."
                ),
                *size_inputs(),
                length_input(),
                rate_input(
                    0.0,
                    0.0,
                    "; 0 takes the model's own, and 23.976 means 24000/1001. Where it is another, connect JoVA "
                    "Conditioning.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    step=1,
                    tooltip="Clips at once. IMAGE and AUDIO have no place for several clips: core's VAEDecode joins "
                    "them to one long video; JoVA Decode gives one clip of the batch.",
                ),
                io.Audio.Input("audio", optional=True, tooltip="With length 0 the clip lasts as long as this sound."),
                io.Image.Input(
                    "images", optional=True, tooltip="With length 0 the clip lasts as long as these frames."
                ),
            ],
            outputs=[io.Latent.Output(display_name="LATENT")],
        )

    @classmethod
    def run(
        cls,
        audio_vae: Any,
        width: int,
        height: int,
        length: int,
        frame_rate: float,
        batch_size: int,
        audio: Any = None,
        images: Any = None,
    ) -> io.NodeOutput:
        """Make them."""
        from .latents import empty_latent

        return io.NodeOutput(empty_latent(audio_vae, width, height, length, frame_rate, batch_size, audio, images))


class JovaSetAudio(JovaNode):
    """Own sound: it drives the picture, or is continued."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaSetAudio",
            display_name="JoVA Given Sound",
            category="JoVA/latent",
            description="A sound that is given, not generated: as long as the clip it drives the picture, shorter it "
            "is continued. JoVA Decode returns it as it was; core's VAEDecodeAudio returns the codec's copy.",
            inputs=[
                io.Latent.Input("latent", tooltip="From Empty JoVA Latent."),
                audio_vae_input(),
                io.Audio.Input(
                    "audio",
                    tooltip="Any rate, any channels: it is resampled and mixed for the model. "
                    "Longer than the clip is refused.",
                ),
            ],
            outputs=[io.Latent.Output(id="latent_out", display_name="LATENT")],
        )

    @classmethod
    def run(cls, latent: Any, audio_vae: Any, audio: Any) -> io.NodeOutput:
        """Encode it and mask it."""
        from .latents import set_audio

        return io.NodeOutput(set_audio(latent, audio_vae, audio))


class JovaSetVideo(JovaNode):
    """Own frames: they get a sound, or are continued."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaSetVideo",
            display_name="JoVA Given Video",
            category="JoVA/latent",
            description="Frames that are given, not generated: as long as the clip they get a sound, fewer are "
            "continued. The first 4k + 1 count. JoVA Decode returns them as they were.",
            inputs=[
                io.Latent.Input("latent", tooltip="From Empty JoVA Latent."),
                vae_input(),
                io.Image.Input("images", tooltip="Frames at the frame rate of the clip."),
                fit_input(),
            ],
            outputs=[io.Latent.Output(id="latent_out", display_name="LATENT")],
        )

    @classmethod
    def run(cls, latent: Any, vae: Any, images: Any, fit: str) -> io.NodeOutput:
        """Encode them and mask them."""
        from .latents import set_video

        return io.NodeOutput(set_video(latent, vae, images, fit))


class JovaDecode(JovaNode):
    """Latents to one video with its sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaDecode",
            display_name="JoVA Decode",
            category="JoVA/latent",
            description="Frames, sound and the video of both: the sound exactly as long as the frames, at its own "
            "loudness, in two channels; the video at the exact frame rate.",
            inputs=[
                io.Latent.Input("samples", tooltip="What the sampler made."),
                vae_input(),
                audio_vae_input(),
                io.Int.Input("index", default=0, min=0, max=63, step=1, tooltip="Which clip of a batch."),
            ],
            outputs=media_outputs(
                ", as two equal channels where the model has one: ComfyUI writes mono sound 3 dB quieter"
            ),
        )

    @classmethod
    def run(cls, samples: Any, vae: Any, audio_vae: Any, index: int) -> io.NodeOutput:
        """Decode them."""
        from .latents import decode

        return io.NodeOutput(*decode(samples, vae, audio_vae, index))
