"""Nodes that say what the clip is about: prompts, an image, voices. Sockets and schema."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io

from .model_files import fingerprint
from .node import JovaNode
from .sockets import (
    audio_vae_input,
    clip_input,
    conditioning_inputs,
    conditioning_outputs,
    fit_input,
    prompt_inputs,
    reference_audio_input,
    reference_transcript_input,
    text_input,
    vae_input,
)


VOICE_FILES = (".npy", ".safetensors")


def voice_names() -> list[str]:
    """Files of voices in ComfyUI's input folder."""
    folder = Path(folder_paths.get_input_directory())
    return sorted(path.name for path in folder.glob("*") if path.suffix in VOICE_FILES)


def voice_file(name: str) -> Path:
    """Where a file of voices lies."""
    return Path(folder_paths.get_input_directory()) / name


class JovaPrompt(JovaNode):
    """The three-part prompt of the paper."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaPrompt",
            display_name="JoVA Prompt",
            category="JoVA/conditioning",
            description="A prompt of three parts, put together as the model was trained. Plain text goes through "
            "CLIPTextEncode.",
            inputs=[
                clip_input(),
                *prompt_inputs(" jova-tiny knows drawn speakers and a few sounding objects: see its card."),
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING")],
        )

    @classmethod
    def run(cls, clip: Any, video: str, audio: str, transcript: str) -> io.NodeOutput:
        """Encode it."""
        from .text import encode_parts

        return io.NodeOutput(encode_parts(clip, video, audio, transcript))


class JovaNegativePrompt(JovaNode):
    """The model's own negative prompts, or others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaNegativePrompt",
            display_name="JoVA Negative Prompt",
            category="JoVA/conditioning",
            description="What guidance moves away from. Models were released with negative prompts of their own, some "
            "with another one for the sound; this node knows them.",
            inputs=[
                clip_input(),
                text_input(
                    "text",
                    "Empty takes the model's own negative prompt. For none at all use CLIPTextEncode with an empty "
                    "text.",
                ),
                text_input(
                    "audio",
                    "The same for the text that the sound reads; empty takes the model's own, or follows the picture.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="negative")],
        )

    @classmethod
    def run(cls, clip: Any, text: str, audio: str) -> io.NodeOutput:
        """Encode them."""
        from .text import encode_negative

        return io.NodeOutput(encode_negative(clip, text, audio))


class JovaConditioning(JovaNode):
    """The clock of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaConditioning",
            display_name="JoVA Conditioning",
            category="JoVA/conditioning",
            description="Tells the model the frame rate of the latents, so that lips fit the words. Needed where the "
            "rate is not the model's own; without it, sampling stops with an error instead of drifting.",
            inputs=[
                *conditioning_inputs(),
                io.Latent.Input("latent", tooltip="From Empty JoVA Latent: its frame rate counts."),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def run(cls, positive: Any, negative: Any, latent: Any) -> io.NodeOutput:
        """Write the rate into both."""
        from .latents import with_rate

        return io.NodeOutput(with_rate(positive, latent), with_rate(negative, latent))


class JovaImageToVideo(JovaNode):
    """The first frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaImageToVideo",
            display_name="JoVA Image to Video",
            category="JoVA/conditioning",
            description="Gives the first frame. Models with condition channels read it there, as the paper does; the "
            "others get it as a clean latent. The frame rate of the latent goes along, as in JoVA Conditioning.",
            inputs=[
                *conditioning_inputs(),
                vae_input(),
                io.Latent.Input("latent", tooltip="The latents to be sampled: they set the size."),
                io.Image.Input("image", tooltip="The first frame: one for all clips, or one per clip of the batch."),
                fit_input(),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def run(cls, positive: Any, negative: Any, vae: Any, latent: Any, image: Any, fit: str) -> io.NodeOutput:
        """Encode the image once for both."""
        from .latents import with_picture, with_rate

        both = [with_rate(conditioning, latent) for conditioning in (positive, negative)]
        return io.NodeOutput(*with_picture(both, vae, latent, image, fit))


class JovaKeyframe(JovaNode):
    """A frame behind the first one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaKeyframe",
            display_name="JoVA Keyframe",
            category="JoVA/conditioning",
            description="Gives a picture that the clip shows at a frame: the last one, or any between. A second node "
            "behind this one gives the next picture, and JoVA Image to Video the first frame. Latents hold four "
            "frames, so a picture stands for the four of its latent, and one latent takes one picture.",
            inputs=[
                *conditioning_inputs(),
                vae_input(),
                io.Latent.Input("latent", tooltip="The latents to be sampled: they set size and length."),
                io.Image.Input("image", tooltip="The picture: one for all clips, or one per clip of the batch."),
                io.Int.Input(
                    "frame",
                    default=-1,
                    min=-16385,
                    max=16385,
                    step=1,
                    tooltip="Where it stands, counted from 0, or from the end where negative: -1 is the last frame. "
                    "Frame 0 is JoVA Image to Video.",
                ),
                fit_input(),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def run(
        cls, positive: Any, negative: Any, vae: Any, latent: Any, image: Any, frame: int, fit: str
    ) -> io.NodeOutput:
        """Encode the picture once for both."""
        from .latents import with_picture, with_rate

        both = [with_rate(conditioning, latent) for conditioning in (positive, negative)]
        return io.NodeOutput(*with_picture(both, vae, latent, image, fit, frame))


class JovaVoices(JovaNode):
    """Voices of the speakers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaVoices",
            display_name="JoVA Voices",
            category="JoVA/conditioning",
            description="Gives the speakers of a prompt their voices, for models that read them (NAVA): the i-th "
            "voice stands at the i-th <S> of the prompt. A second node behind this one adds the next voices.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, from JoVA Prompt or CLIPTextEncode."),
                io.Combo.Input(
                    "speaker_embeds",
                    options=voice_names(),
                    tooltip="A .npy or .safetensors file in ComfyUI's input folder: the vectors of a speaker encoder, "
                    "[D] or [voices, D], as the model was trained with (NAVA: 192 values of ReDimNet M). Zeros are "
                    "an unknown voice.",
                ),
            ],
            outputs=[io.Conditioning.Output(id="positive_out", display_name="positive")],
        )

    @classmethod
    def fingerprint_inputs(cls, speaker_embeds: str, **_: Any) -> str:
        """The file is read again when it has changed."""
        return fingerprint(voice_file(speaker_embeds))

    @classmethod
    def run(cls, positive: Any, speaker_embeds: str) -> io.NodeOutput:
        """Read the file."""
        from .text import with_voices

        return io.NodeOutput(with_voices(positive, voice_file(speaker_embeds)))


class JovaReferenceVoice(JovaNode):
    """A recorded voice to speak with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaReferenceVoice",
            display_name="JoVA Reference Voice",
            category="JoVA/conditioning",
            description="Lets the speaker speak with the voice of a recording, for models that read one in front of a "
            "clip (UniAVGen). Both prompts go through it: predictions without the prompt read the voice as well. A "
            "sound that is given as a whole makes it of no effect. For vectors of a speaker encoder use JoVA Voices.",
            inputs=[
                *conditioning_inputs(),
                clip_input(),
                audio_vae_input(),
                reference_audio_input(),
                reference_transcript_input(),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def run(
        cls, positive: Any, negative: Any, clip: Any, audio_vae: Any, reference_audio: Any, reference_transcript: str
    ) -> io.NodeOutput:
        """Encode the voice once for both."""
        from .reference_voice import with_reference

        both = with_reference((positive, negative), clip, audio_vae, reference_audio, reference_transcript)
        return io.NodeOutput(*both)
