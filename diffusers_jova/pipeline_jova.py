"""JoVAPipeline: a prompt, with an image, a voice or a video if wanted, to video with sound.

Letters in shapes: B batch, C channels, N frames, F latent frames, H, W height and width, L audio latents, S samples.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from jova_cli.shipped import find_model

from .audio_codec import JoVAAudioCodec
from .clip_shape import ClipShape, frames_of_given_media, set_length
from .conditions import (
    Audio,
    GivenLatents,
    Video,
    condition_channels,
    repeat_to_batch,
    to_frame_batch,
    to_waveform_batch,
)
from .denoising import JoVADenoiser, TextConditions
from .generation_defaults import GenerationDefaults
from .lora import JoVALoraLoaderMixin
from .pipeline_checks import (
    Image,
    Prompts,
    check_audio_sampling_rate,
    check_given_audio,
    check_given_video,
    check_modalities,
    check_output,
    check_prompts,
    check_size,
    check_something_is_generated,
    check_speakers,
    check_template,
    count_prompts,
)
from .pipeline_output import JoVAPipelineOutput
from .prompt import PROMPT_TEMPLATE, PromptEmbeds
from .prompt_encoder import JoVAPromptEncoderMixin
from .scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from .transformer_jova import MODALITIES
from .video_codec import JoVAVideoCodec


LATENTS_OF = {"video": "latents", "audio": "audio_latents"}


class JoVAPipeline(DiffusionPipeline, JoVAPromptEncoderMixin, JoVALoraLoaderMixin):
    """Text, image, voice or video to video with sound.

    What is given decides the task: text alone, or with an image, generates both modalities; `audio` that lasts as long
    as the clip drives the video; a `video` as long as the clip gets a sound; shorter ones are continued.

    Args:
        tokenizer: Of the first text encoder.
        text_encoder: First text encoder (flan-t5-xxl in the paper).
        transformer: `JoVATransformer3DModel` or `JoVAWanTransformer3DModel`.
        vae: Video VAE.
        audio_vae: Audio VAE.
        vocoder: Its vocoder.
        scheduler: `FlowMatchAudioVideoScheduler`, or a flow scheduler of diffusers, applied to each modality.
        tokenizer_2: Of the second text encoder.
        text_encoder_2: Second text encoder (Qwen2.5-Instruct in the paper).
        prompt_template: Form of each part of a `JoVAPrompt`, one per line; checkpoints differ in it.
        pads_text_with_zeros: Whether prompts are padded with zeros that take part, as in Wan; otherwise with a mask.
        speaker_token: Token that goes behind every `<S>` of a prompt, for a voice to replace its text row; None for
            models without voices.
        defaults: Values for arguments of a call that are None, see `GenerationDefaults`.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae->audio_vae->vocoder"
    _optional_components = ["tokenizer_2", "text_encoder_2"]
    _callback_tensor_inputs = ["latents", "audio_latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        transformer: Any,
        vae: Any,
        audio_vae: Any,
        vocoder: Any,
        scheduler: Any,
        tokenizer_2: Any = None,
        text_encoder_2: Any = None,
        prompt_template: str = PROMPT_TEMPLATE,
        pads_text_with_zeros: bool = False,
        speaker_token: str | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            vae=vae,
            audio_vae=audio_vae,
            vocoder=vocoder,
            scheduler=scheduler,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
        )
        self.register_to_config(
            prompt_template=prompt_template,
            pads_text_with_zeros=pads_text_with_zeros,
            speaker_token=speaker_token,
            defaults=dict(defaults or {}),
        )
        check_template(prompt_template)
        self.defaults = GenerationDefaults.from_dict(defaults or {})
        spatial_factor = self.video_codec.spatial_factor if getattr(self, "vae", None) is not None else 8
        self.video_processor = VideoProcessor(vae_scale_factor=spatial_factor)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a saved pipeline as `DiffusionPipeline.from_pretrained` does; `"jova-tiny"` comes with the package."""
        return super().from_pretrained(find_model(pretrained_model_name_or_path), **kwargs)

    # 1. What a call is about

    @property
    def video_codec(self) -> JoVAVideoCodec:
        """The video VAE as this pipeline sees it."""
        return JoVAVideoCodec(self.vae)

    @property
    def audio_codec(self) -> JoVAAudioCodec:
        """The audio VAE and vocoder as this pipeline sees them."""
        return JoVAAudioCodec(self.audio_vae, self.vocoder)

    @property
    def num_condition_channels(self) -> int:
        """Video input channels that hold what is given; 0 for models that read a given frame as clean tokens."""
        return self.transformer.config.in_channels - self.transformer.config.out_channels

    @property
    def guidance_scale(self) -> float:
        """Text guidance of video in the current call; a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether any modality of the current call needs a prediction without the prompt."""
        return self._needs_negative_prompt

    @property
    def num_timesteps(self) -> int:
        """Steps of the current call."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Video timestep of the current step."""
        return self._current_timestep

    @property
    def attention_kwargs(self) -> dict[str, Any] | None:
        """What the current call passes to the transformer's `attention_kwargs`."""
        return self._attention_kwargs

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are skipped; a callback may set `_interrupt`."""
        return self._interrupt

    # 2. What is given besides text

    def encode_image(self, image: Image, clip: ClipShape) -> Tensor:
        """Normalised latents [B, C, 1, h, w] of one reference image, or of one per prompt."""
        pixels = self.video_processor.preprocess(image, height=clip.height, width=clip.width)
        return repeat_to_batch("image", self.video_codec.encode(pixels[:, :, None]), clip.batch_size)

    def encode_video(self, frames: Tensor, clip: ClipShape) -> Tensor:
        """Normalised latents [B, C, F, h, w] of given frames [1, 3, N, H, W] in [-1, 1]."""
        return repeat_to_batch("video", self.video_codec.encode(frames), clip.batch_size)

    def encode_audio(self, waveform: Tensor, clip: ClipShape) -> Tensor:
        """Latents [B, L, C] of a given waveform [1 or B, channels, S] at the codec's sampling rate."""
        latents = self.audio_codec.encode(waveform.to(self._execution_device))
        return repeat_to_batch("audio", latents[:, : clip.num_audio_latents], clip.batch_size)

    def condition_channels(self, clip: ClipShape, image_latents: Tensor | None) -> Tensor | None:
        """Condition channels of the video [B, C, F, h, w]; None where the model has none."""
        num_mask_channels = self.num_condition_channels - self.video_codec.num_channels
        if num_mask_channels < 0:
            return None
        shape = self.video_codec.latent_shape(clip.num_frames, clip.height, clip.width)
        latents = torch.zeros(clip.batch_size, *shape, device=self._execution_device)
        return condition_channels(latents, image_latents, num_mask_channels)

    def prepare_latents(
        self, name: str, shape: Sequence[int], generator: Any = None, latents: Tensor | None = None
    ) -> Tensor:
        """Noise, or the given start, in float32.

        Args:
            name: Argument that `latents` came from.
            shape: Of the latents, batch first.
            generator: One, or one per clip; a clip's noise then does not depend on its batch.
            latents: The start, in place of noise.
        """
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(
                f"`generator` must be one for all clips or one per clip, got {len(generator)} for {shape[0]}"
            )
        if latents is None:
            return randn_tensor(tuple(shape), generator=generator, device=self._execution_device, dtype=torch.float32)
        if list(latents.shape) != list(shape):
            raise ValueError(f"`{name}` must be {list(shape)} for this clip, got {list(latents.shape)}")
        return latents.to(self._execution_device, torch.float32)

    # 3. Checks

    def check_inputs(
        self,
        settings: GenerationDefaults,
        prompt: Prompts | None,
        negative_prompt: Prompts | None,
        audio_negative_prompt: Prompts | None,
        prompt_embeds: PromptEmbeds | Tensor | None,
        negative_prompt_embeds: PromptEmbeds | Tensor | None,
        audio_negative_prompt_embeds: PromptEmbeds | Tensor | None,
        num_videos_per_prompt: int,
        image: Image | None,
        audio: Audio | None,
        audio_sampling_rate: int,
        video: Video | None,
        speaker_embeds: Tensor | None,
        modalities: Sequence[str],
        output_type: str,
        callback_on_step_end_tensor_inputs: Sequence[str],
    ) -> None:
        """Raise a ValueError that says what to do for every argument of a call that cannot be served."""
        negatives = {
            "negative_prompt": (negative_prompt, negative_prompt_embeds),
            "audio_negative_prompt": (audio_negative_prompt, audio_negative_prompt_embeds),
        }
        check_prompts(prompt, prompt_embeds, negatives)
        check_output(
            num_videos_per_prompt, output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )
        codec = self.video_codec
        check_modalities(modalities, image, video, audio, speaker_embeds)
        check_speakers(
            speaker_embeds, self.transformer.config.get("speaker_dim"), self.config.speaker_token, prompt_embeds
        )
        check_size(settings, codec.spatial_factor, self.transformer.config.patch_size, codec.temporal_factor)
        check_given_video(video, settings.num_frames, codec.temporal_factor)
        check_given_audio(audio, audio_sampling_rate, settings, codec.temporal_factor)

    # 4. Decoding

    def decode_video(self, latents: Tensor, output_type: str) -> Any:
        """Frames as `output_type` says, of normalised latents [B, C, F, h, w]."""
        if output_type == "latent":
            return latents
        return self.video_processor.postprocess_video(self.video_codec.decode(latents), output_type=output_type)

    def decode_audio(self, latents: Tensor, output_type: str, clip: ClipShape) -> Any:
        """Waveform [B, channels, S] of latents [B, L, C], as long as the clip."""
        if output_type == "latent":
            return latents
        return self.finish_audio(self.audio_codec.decode(latents), output_type, clip)

    def finish_audio(self, waveform: Tensor, output_type: str, clip: ClipShape) -> Any:
        """Cut a waveform [1 or B, channels, S] to the clip, or fill it up with silence: float32, one per clip."""
        waveform = set_length(waveform.float().clamp(-1, 1).cpu(), clip.num_samples(self.audio_codec.sampling_rate))
        waveform = repeat_to_batch("audio", waveform, clip.batch_size)
        return waveform.numpy() if output_type == "np" else waveform

    # 5. The call

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts | None = None,
        negative_prompt: Prompts | None = None,
        audio_negative_prompt: Prompts | None = None,
        image: Image | None = None,
        audio: Audio | None = None,
        video: Video | None = None,
        audio_sampling_rate: int | None = None,
        speaker_embeds: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        frame_rate: float | None = None,
        num_inference_steps: int | None = None,
        sigmas: list[float] | None = None,
        audio_sigmas: list[float] | None = None,
        guidance_scale: float | None = None,
        audio_guidance_scale: float | None = None,
        coupling_scale: float | None = None,
        audio_coupling_scale: float | None = None,
        audio_speaker_scale: float | None = None,
        uncoupled_text: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        coupling_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        audio_guidance_rescale: float | None = None,
        apg_threshold: float | None = None,
        audio_apg_threshold: float | None = None,
        sequential_guidance: bool = False,
        modalities: Sequence[str] = MODALITIES,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        audio_latents: Tensor | None = None,
        prompt_embeds: PromptEmbeds | Tensor | None = None,
        negative_prompt_embeds: PromptEmbeds | Tensor | None = None,
        audio_negative_prompt_embeds: PromptEmbeds | Tensor | None = None,
        max_sequence_length: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> JoVAPipelineOutput | tuple[Any, Any]:
        """Generate clips of video with sound.

        Arguments that are None take the checkpoint's defaults; a zero is a zero.

        Args:
            prompt: What is to be seen, heard and said: strings or `JoVAPrompt`.
            negative_prompt: What guidance moves away from.
            audio_negative_prompt: The same for the audio branch's text; None follows `negative_prompt`.
            image: Reference image, the first frame: one for all, or one per prompt.
            audio: Given sound, [S] or [channels, S], or one per prompt [B, channels, S], in [-1, 1]. As long as the
                clip it drives the video; shorter, it is continued.
            video: Given frames: PIL images, array [N, H, W, 3] or tensor [N, 3, H, W], N = 4k + 1. As long as the clip
                it gets a sound; shorter, it is continued.
            audio_sampling_rate: Samples per second of `audio`; None means that of the audio VAE.
            speaker_embeds: Voices of the speakers, [P, D], or one set per prompt [B, P, D], for models that read them:
                the i-th stands at the i-th `<S>`. Zeros are an unknown voice, which speakers without one have, and
                fill up where another prompt has more. D and the speaker encoder are those that the model was trained
                with; NAVA: D = 192, ReDimNet (IDRnD/ReDimNet, MIT; "M", "ft_mix", "vb2+vox2+cnc" of its torch.hub
                entry) on at most 30 s of mono sound at 16 kHz.
            height: Pixels.
            width: Pixels.
            num_frames: Frames, 4k + 1. None takes the length of a given `video` or, without one, what fits into a
                given `audio`.
            frame_rate: Frames per second.
            num_inference_steps: Solver steps.
            sigmas: Video noise levels to walk, in place of the scheduler's.
            audio_sigmas: Audio noise levels.
            guidance_scale: Text guidance of video; 1 is off, and then off for both unless audio says otherwise.
            audio_guidance_scale: Text guidance of audio; None follows video.
            coupling_scale: Coupling guidance of video; 1 is off.
            audio_coupling_scale: Coupling guidance of audio; None follows video.
            audio_speaker_scale: Speaker guidance of audio; 1 is off, and so it is without `speaker_embeds`.
            uncoupled_text: Whether the text is `"empty"` or `"kept"` where the coupling is removed.
            guidance_interval: Steps with text guidance, as fractions of all steps.
            coupling_interval: Steps with coupling guidance.
            guidance_rescale: Share of the rescaling of guided video predictions; 0 is off.
            audio_guidance_rescale: The same for audio; None follows video.
            apg_threshold: Norm limit of adaptive projected guidance of video.
            audio_apg_threshold: The same for audio.
            sequential_guidance: Whether the predictions that guidance needs are made one after the other, to save
                memory; otherwise in one batch.
            modalities: What takes part: both, `["video"]` or `["audio"]`.
            num_videos_per_prompt: Clips per prompt.
            generator: Of the noise: one, or one per clip.
            latents: Start of video, [B, C, F, h, w], in place of noise.
            audio_latents: Start of audio, [B, L, C].
            prompt_embeds: Encoded prompts, see `encode_prompt`; with `speaker_positions` if voices are given.
            negative_prompt_embeds: Encoded negative prompts.
            audio_negative_prompt_embeds: Encoded negative prompts of the audio branch.
            max_sequence_length: Longest prompt in tokens.
            output_type: `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict: Whether to return a `JoVAPipelineOutput` instead of a tuple.
            attention_kwargs: May carry `scale`, the weight of LoRA layers.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, tensors)` after each step; may return
                a dict that replaces tensors.
            callback_on_step_end_tensor_inputs: Names of the tensors it gets, of `_callback_tensor_inputs`.

        Returns:
            `JoVAPipelineOutput`, or the tuple `(frames, audio)`. Given media that cover the clip come back as given.
        """
        # 1. Settle what the call is about
        video = None if video is None else to_frame_batch(video)
        audio = None if audio is None else to_waveform_batch(audio, self.audio_codec.num_channels)
        audio_sampling_rate = self.audio_codec.sampling_rate if audio_sampling_rate is None else audio_sampling_rate
        check_audio_sampling_rate(audio_sampling_rate)  # here, because it sets the length of the clip
        settings = self.defaults.override(
            height=height,
            width=width,
            frame_rate=frame_rate,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            audio_guidance_scale=audio_guidance_scale,
            coupling_scale=coupling_scale,
            audio_coupling_scale=audio_coupling_scale,
            audio_speaker_scale=audio_speaker_scale,
            uncoupled_text=uncoupled_text,
            guidance_interval=guidance_interval,
            coupling_interval=coupling_interval,
            guidance_rescale=guidance_rescale,
            audio_guidance_rescale=audio_guidance_rescale,
            apg_threshold=apg_threshold,
            audio_apg_threshold=audio_apg_threshold,
            max_sequence_length=max_sequence_length,
        )
        if num_frames is None:
            num_frames = frames_of_given_media(
                video, audio, audio_sampling_rate, settings.frame_rate, self.video_codec.temporal_factor
            )
        settings = settings.override(num_frames=num_frames)
        if len(modalities) == 1:  # nothing to couple
            settings = settings.override(coupling_scale=1.0, audio_coupling_scale=1.0)
        if speaker_embeds is None:  # no voice to follow
            settings = settings.override(audio_speaker_scale=1.0)
        self.check_inputs(
            settings,
            prompt,
            negative_prompt,
            audio_negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            audio_negative_prompt_embeds,
            num_videos_per_prompt,
            image,
            audio,
            audio_sampling_rate,
            video,
            speaker_embeds,
            modalities,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        self._guidance_scale, self._attention_kwargs = settings.guidance_scale, attention_kwargs
        self._current_timestep, self._interrupt = None, False
        speakers = self.place_speakers(  # here, to refuse voices without a place before anything is encoded
            speaker_embeds, prompt, prompt_embeds, num_videos_per_prompt, settings.max_sequence_length
        )
        clip = ClipShape(
            batch_size=count_prompts(prompt, prompt_embeds) * num_videos_per_prompt,
            height=settings.height,
            width=settings.width,
            num_frames=settings.num_frames,
            frame_rate=settings.frame_rate,
            num_audio_latents=self.audio_codec.num_latents_for(settings.num_frames / settings.frame_rate),
        )

        # 2. Encode what is given besides text
        given: dict[str, GivenLatents] = {}
        originals: dict[str, Tensor] = {}
        image_latents = None
        num_latent_frames = self.video_codec.num_latent_frames(clip.num_frames)
        if image is not None:
            image_latents = self.encode_image(image, clip)
            if self.num_condition_channels == 0:
                given["video"] = GivenLatents.prefix(image_latents, num_latent_frames, axis=2)
        if video is not None:
            originals["video"] = self.video_processor.preprocess_video(video, height=clip.height, width=clip.width)
            given["video"] = GivenLatents.prefix(
                self.encode_video(originals["video"], clip), num_latent_frames, axis=2
            )
        if audio is not None:
            originals["audio"] = clip.fit_given_audio(audio, audio_sampling_rate, self.audio_codec)
            given["audio"] = GivenLatents.prefix(
                self.encode_audio(originals["audio"], clip), clip.num_audio_latents, axis=1
            )

        # 3. Schedules
        scheduler = FlowMatchAudioVideoScheduler.from_scheduler(self.scheduler)
        has_schedule = sigmas is not None or audio_sigmas is not None
        num_steps = num_inference_steps if has_schedule else settings.num_inference_steps
        scheduler.set_timesteps(num_steps, self._execution_device, sigmas, audio_sigmas)
        scheduler.set_begin_index(0)
        self._num_timesteps = len(scheduler.timesteps)
        denoiser = JoVADenoiser(
            transformer=self.transformer,
            scheduler=scheduler,
            guidance=settings.guidance(),
            given=given,
            channels=self.condition_channels(clip, image_latents),
            frame_rate=clip.frame_rate,
            audio_latent_rate_hz=self.audio_codec.latent_rate_hz,
            is_sequential=sequential_guidance,
            attention_kwargs=attention_kwargs,
            generator=generator,
        )

        check_something_is_generated([name for name in modalities if denoiser.generates(name)], list(given))

        # 4. Encode text
        self._needs_negative_prompt = denoiser.needs_negative_prompt(modalities)
        encoded = self.encode_prompt(
            prompt,
            negative_prompt,
            audio_negative_prompt,
            self.do_classifier_free_guidance,
            num_videos_per_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            audio_negative_prompt_embeds,
            settings.max_sequence_length,
        )
        text = TextConditions(*encoded, speakers=speakers)

        # 5. Draw noise
        samples = {}
        if "video" in modalities:
            latent_shape = self.video_codec.latent_shape(clip.num_frames, clip.height, clip.width)
            samples["video"] = self.prepare_latents("latents", (clip.batch_size, *latent_shape), generator, latents)
        if "audio" in modalities:
            audio_shape = (clip.batch_size, clip.num_audio_latents, self.audio_codec.latent_channels)
            samples["audio"] = self.prepare_latents("audio_latents", audio_shape, generator, audio_latents)
        samples = denoiser.impose(samples)

        # 6. Denoise
        with self.progress_bar(total=self._num_timesteps) as progress_bar:
            for step, timestep in enumerate(scheduler.timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = timestep
                samples = denoiser.step(step, samples, text)
                if callback_on_step_end is not None:
                    tensors: dict[str, Any] = {
                        "latents": samples.get("video"),
                        "audio_latents": samples.get("audio"),
                        "prompt_embeds": text.prompt,
                        "negative_prompt_embeds": text.negative_prompt,
                    }
                    chosen = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    tensors |= callback_on_step_end(self, step, timestep, chosen) or {}
                    samples = {name: tensors[LATENTS_OF[name]] for name in samples}
                    text = replace(
                        text, prompt=tensors["prompt_embeds"], negative_prompt=tensors["negative_prompt_embeds"]
                    )
                    settings = settings.override(guidance_scale=self._guidance_scale)
                    denoiser = replace(denoiser, guidance=settings.guidance())
                progress_bar.update()
        self._current_timestep = None

        # 7. Decode what was generated
        frames = waveform = None
        if "video" in samples:
            frames = self.decode_video(samples["video"], output_type)
        if "audio" in samples:
            waveform = self.decode_audio(samples["audio"], output_type, clip)
        if output_type != "latent" and "video" in given and given["video"].covers_all:
            frames = self.video_processor.postprocess_video(
                repeat_to_batch("video", originals["video"], clip.batch_size), output_type=output_type
            )
        if output_type != "latent" and "audio" in given and given["audio"].covers_all:
            waveform = self.finish_audio(originals["audio"], output_type, clip)
        self.maybe_free_model_hooks()

        if not return_dict:
            return frames, waveform
        return JoVAPipelineOutput(
            frames=frames, audio=waveform, frame_rate=clip.frame_rate, sampling_rate=self.audio_codec.sampling_rate
        )
