"""JoVACodecsMixin: the codecs of a pipeline, and latents to frames and sound.

Letters in shapes: B batch, C channels, N frames, F latent frames, H, W height and width, L audio latents, S samples.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from jova_cli.clip_limits import ClipLimits, clip_limits
from jova_cli.latent_lengths import check_whole_frames, num_frames_of

from .audio_codec import JoVAAudioCodec, needs_vocoder
from .clip_shape import ClipShape, set_length
from .conditions import repeat_to_batch
from .decoding_parallel import JoVADecodingParallelMixin, SharedDecoding
from .finite import finite_output
from .given_media import continue_sound
from .number_arguments import positive_number, whole_number
from .pipeline_checks import OUTPUT_TYPES
from .pipeline_output import JoVAPipelineOutput, check_latent_shapes, check_latents
from .video_codec import JoVAVideoCodec


FADE_S = 0.02  # from a given sound to what goes on: longer than a click, shorter than a syllable


class JoVACodecsMixin(JoVADecodingParallelMixin):
    """What a pipeline with a video VAE, an audio VAE and a vocoder makes of latents; it may lack some of them."""

    vae: Any
    audio_vae: Any
    vocoder: Any
    transformer: Any
    config: Any
    video_processor: Any
    _execution_device: torch.device
    maybe_free_model_hooks: Any

    # 1. Codecs

    @property
    def video_codec(self) -> JoVAVideoCodec:
        """The video VAE as this pipeline sees it."""
        if self.vae is None:
            raise ValueError(
                "`vae` must be loaded where video takes part, got None; load it, or pass `modalities=['audio']`"
            )
        return JoVAVideoCodec(self.vae)

    @property
    def audio_codec(self) -> JoVAAudioCodec:
        """The audio VAE and vocoder as this pipeline sees them."""
        if missing := self.missing_of_sound:
            raise ValueError(
                f"{' and '.join(missing)} must be loaded where sound takes part, got None; load the audio VAE and its "
                "vocoder, or pass `modalities=['video']`"
            )
        return JoVAAudioCodec(self.audio_vae, self.vocoder)

    @property
    def missing_of_sound(self) -> list[str]:
        """What lacks to a sound codec: the audio VAE, or the vocoder unless that decodes to a waveform itself."""
        has_waveforms = self.audio_vae is not None and not needs_vocoder(self.audio_vae)
        names = ["audio_vae"] if has_waveforms else ["audio_vae", "vocoder"]
        return [f"`{name}`" for name in names if getattr(self, name) is None]

    @property
    def temporal_factor(self) -> int:
        """Frames per latent after the first; 1 without a video VAE, whose latents are then nobody's concern."""
        return 1 if self.vae is None else self.video_codec.temporal_factor

    @property
    def sampling_rate(self) -> int:
        """Samples per second of the sound; 0 without an audio VAE and the vocoder that it needs."""
        return 0 if self.missing_of_sound else self.audio_codec.sampling_rate

    @property
    def num_condition_channels(self) -> int:
        """Video input channels that hold what is given; 0 for models that read a given frame as clean tokens."""
        return self.transformer.config.in_channels - self.transformer.config.out_channels

    def clip_limits(self, modalities: Sequence[str], frame_rate: float) -> ClipLimits | None:
        """The largest clip that the transformer has positions for; None without a limit."""
        has_video = "video" in modalities or self.vae is not None
        spatial_factor = self.video_codec.spatial_factor if has_video else 1
        limits = clip_limits(self.transformer.config, self.temporal_factor, spatial_factor)
        if limits is None:
            return None
        clock = self.audio_codec.clock if "audio" in modalities else None
        return limits.of_call(modalities, frame_rate, clock, self.temporal_factor)

    def enable_vae_tiling(self) -> None:
        """Let the video VAE work tile by tile, which saves memory for large frames."""
        self.switch_vae("enable", "tiling")

    def disable_vae_tiling(self) -> None:
        """Let the video VAE work on whole frames."""
        self.switch_vae("disable", "tiling")

    def enable_vae_slicing(self) -> None:
        """Let the video VAE work clip by clip, which saves memory for batches."""
        self.switch_vae("enable", "slicing")

    def disable_vae_slicing(self) -> None:
        """Let the video VAE work on the whole batch."""
        self.switch_vae("disable", "slicing")

    def switch_vae(self, action: str, feature: str) -> None:
        """Call a method of the video VAE such as `enable_tiling`, if it has it."""
        vae = self.video_codec.vae
        said = f"`vae` must offer {feature}, got a {type(vae).__name__}, which has none; leave this call out"
        switch = getattr(vae, f"{action}_{feature}", None)
        if switch is None:
            raise ValueError(said)
        try:
            switch()
        except NotImplementedError as error:  # what diffusers' own do where a class has the method and not the feature
            raise ValueError(said) from error

    # 2. Decoding

    def decode_latents(self, latents: Tensor, shared: SharedDecoding | None = None) -> Tensor:
        """Frames [B, 3, N, H, W] in [-1, 1] of normalised latents [B, C, F, h, w], by this process or several."""
        return finite_output(self.video_codec.decode(latents, shared), "vae", "decodes")

    def decode_audio_latents(self, latents: Tensor) -> Tensor:
        """Sound [B, channels, S] of latents [B, L, C], at the codec's sampling rate."""
        return self.audio_codec.decode(latents)

    @torch.no_grad()
    def decode(self, output: JoVAPipelineOutput, output_type: str = "pil") -> JoVAPipelineOutput:
        """Finish latents, as they came or edited: what a call with this `output_type` would have returned.

        Args:
            output: Of a call with `output_type="latent"`; what was given to it comes back through the codecs.
            output_type: `"pil"`, `"np"` or `"pt"`.

        Raises:
            ValueError: `output` holds no finite latents of its `num_frames`, or there is no such `output_type`.
        """
        check_latents(output)
        if output_type not in (finished := [kind for kind in OUTPUT_TYPES if kind != "latent"]):
            raise ValueError(f"`output_type` must be one of {finished}, got {output_type!r}; use 'np', say")
        check_latent_shapes(output, self.latent_shapes(output))
        frames, audio = output.frames, output.audio
        if frames is not None:
            frames = self.decode_video(frames.to(self._execution_device), output_type)
        if audio is not None:
            clip = ClipShape(len(audio), 0, 0, output.num_frames, output.frame_rate, audio.shape[1])
            audio = self.decode_audio(audio.to(self._execution_device), output_type, clip)
        self.maybe_free_model_hooks()
        return replace(output, frames=frames, audio=audio, is_latent=False)

    def latent_shapes(self, output: JoVAPipelineOutput) -> dict[str, tuple[int | str, ...]]:
        """Shapes of the latents of an output, batch left out: sizes, and letters for those that it may choose.

        Raises:
            ValueError: No clip has its length or frame rate.
        """
        num_frames = whole_number("output.num_frames", output.num_frames, least=1)
        frame_rate = positive_number("output.frame_rate", output.frame_rate, "take that of the call")
        shapes: dict[str, tuple[int | str, ...]] = {}
        if output.frames is not None:
            check_whole_frames(num_frames, self.temporal_factor, "output.num_frames")
            codec = self.video_codec
            shapes["frames"] = (codec.num_channels, codec.num_latent_frames(num_frames), "h", "w")
        if output.audio is not None:
            num_latents = self.audio_codec.num_latents_for(num_frames / frame_rate)
            shapes["audio"] = (num_latents, self.audio_codec.latent_channels)
        return shapes

    def decode_video(
        self, latents: Tensor, output_type: str, given: Tensor | None = None, shared: SharedDecoding | None = None
    ) -> Any:
        """Frames as `output_type` says.

        Args:
            latents: Normalised latents [B, C, F, h, w].
            output_type: Of the call.
            given: Frames [1, 3, N, H, W] in [-1, 1] that the clip begins with.
            shared: The processes that decode together; None for this one alone.
        """
        if output_type == "latent":
            return latents
        if given is None:
            generated = self.decode_latents(latents, shared)
            return self.video_processor.postprocess_video(generated, output_type=output_type)
        frames = repeat_to_batch("video", given, latents.shape[0])
        if frames.shape[2] < num_frames_of(latents.shape[2], self.temporal_factor):
            generated = self.decode_latents(latents, shared)[:, :, frames.shape[2] :].float()
            frames = torch.cat([frames.to(generated), generated], dim=2)
        return self.video_processor.postprocess_video(frames, output_type=output_type)

    def decode_audio(self, latents: Tensor, output_type: str, clip: ClipShape, given: Tensor | None = None) -> Any:
        """Waveform [B, channels, S] as long as the clip.

        Args:
            latents: [B, L, C].
            output_type: Of the call.
            clip: Whose sound it is.
            given: Sound [1 or B, channels, S] at the codec's sampling rate that the clip begins with.
        """
        if output_type == "latent":
            return latents
        rate = self.audio_codec.sampling_rate
        if given is None:
            return self.finish_audio(self.decode_audio_latents(latents), output_type, clip)
        if given.shape[2] < clip.num_samples(rate):
            generated = set_length(self.decode_audio_latents(latents).float().cpu(), clip.num_samples(rate))
            given = repeat_to_batch("audio", given, clip.batch_size)
            given = continue_sound(given, generated, num_fade_samples=round(FADE_S * rate))
        return self.finish_audio(given, output_type, clip)

    def finish_audio(self, waveform: Tensor, output_type: str, clip: ClipShape) -> Any:
        """Cut a waveform [1 or B, channels, S] to the clip, or fill it up with silence: float32, one per clip.

        Codecs that round to the nearest latent lack up to half of one. One latent more would cover the clip, but clips
        were encoded by the same rule for training: a transformer never saw what such a latent holds.
        """
        waveform = set_length(waveform.float().clamp(-1, 1).cpu(), clip.num_samples(self.audio_codec.sampling_rate))
        waveform = repeat_to_batch("audio", waveform, clip.batch_size)
        return waveform.numpy() if output_type == "np" else waveform
