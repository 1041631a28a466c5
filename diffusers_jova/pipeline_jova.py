"""JoVAPipeline: a prompt, with an image, a voice or a video if wanted, to video with sound.

Letters in shapes: B batch, C channels, N frames, F latent frames, H, W height and width, L audio latents, S samples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLKVAEAudio,
    AutoencoderKLLTX2Audio,
    AutoencoderKLWan,
    MMAudioVAE,
    MMAudioVocoder,
    SchedulerMixin,
)
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jova_cli.clip_limits import check_sound_fits

from .adapter_layers import computes_adapters
from .adapter_scale import factor_of, warn_of_large_scales
from .call_guard import one_thread_at_a_time
from .clip_shape import ClipShape
from .component_fit import check_components, check_reference_length, check_skip_layer
from .conditions import check_repeats
from .current_call import JoVACurrentCallMixin
from .denoising import JoVADenoiser, TextConditions, check_zero_init
from .domain import check_domain, tell_empty, tell_rate, tell_size, tell_strangers, text_of
from .few_steps import FewSteps, JoVAFewStepsMixin
from .finite import check_finite_inputs, check_finite_samples
from .generation_defaults import GenerationDefaults
from .guidance_parallel import JoVAGuidanceParallelMixin
from .joint_transformer import check_attention_kwargs
from .keyframes import check_keyframes, given_keyframes, place_keyframes
from .log_mel import JoVALogMel
from .lora import JoVALoraLoaderMixin
from .media_arrays import Audio
from .media_reading import Sound
from .media_reading import Video as ReadVideo
from .memory_fitting import JoVAMemoryMixin
from .number_arguments import check_flags
from .pictures import Fit, Pictures
from .pipeline_checks import (
    CallInputs,
    Prompts,
    TextWidths,
    check_frames_fill_rows,
    check_generator,
    check_limits,
    check_modalities,
    check_output,
    check_prompts,
    check_reference,
    check_size,
    check_something_is_generated,
    check_speakers,
    check_spoken_features,
    check_template,
    check_tensor,
    check_whole_frames,
    given_lengths,
)
from .pipeline_loading import JoVALoadingMixin
from .pipeline_media import JoVAMediaMixin
from .pipeline_output import JoVAPipelineOutput
from .prompt import PROMPT_TEMPLATE, PromptEmbeds
from .prompt_encoder import JoVAPromptEncoderMixin
from .provenance import describe_call
from .reference_rows import reads_references
from .scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from .spoken_text_encoder import JoVASpokenTextEncoder
from .step_callback import CALLBACK_TENSORS, call_back, settings_after_callback
from .transformer_jova import MODALITIES, JoVATransformer3DModel
from .transformer_jova_dual_tower import JoVADualTowerTransformer3DModel
from .transformer_jova_wan import JoVAWanTransformer3DModel
from .unread_arguments import ReadingCall, warn_of_arguments
from .video_codec import JoVAVideoCodec


class JoVAPipeline(
    JoVALoadingMixin,
    JoVAPromptEncoderMixin,
    JoVAMediaMixin,
    JoVACurrentCallMixin,
    JoVALoraLoaderMixin,
    JoVAFewStepsMixin,
    JoVAGuidanceParallelMixin,
    JoVAMemoryMixin,
):
    """Text, image, voice or video to video with sound.

    What is given decides the task: text alone, or with an image, generates both modalities; `audio` that lasts as long
    as the clip drives the video; a `video` as long as the clip gets a sound; shorter ones are continued.

    `JoVAPipeline.from_pipe(pipe)` makes another one of the same components and config;
    `JoVAPipeline(**pipe.components)` has the components alone, as everywhere in diffusers, and says in one line which
    values it lacks. Pipelines of diffusers take the components that they know by their own `from_pipe`.

    Components that no call needs may be None: text encoders where prompts come encoded, the codecs of a modality that
    takes no part.

    Args:
        tokenizer: Of the first text encoder.
        text_encoder: First text encoder (flan-t5-xxl in the paper).
        transformer: `JoVATransformer3DModel`, `JoVAWanTransformer3DModel` or `JoVADualTowerTransformer3DModel`.
        vae: Video VAE.
        audio_vae: Audio VAE, or `JoVALogMel` where the transformer generates log-mel frames.
        vocoder: Its vocoder; None for an audio VAE that decodes to a waveform.
        scheduler: `FlowMatchAudioVideoScheduler`, or a flow scheduler of diffusers, applied to each modality.
        tokenizer_2: Of the second text encoder.
        text_encoder_2: Second text encoder (Qwen2.5-Instruct in the paper).
        spoken_tokenizer: Of the next.
        spoken_text_encoder: Of what is said, character by character, for a transformer whose sound reads the
            transcript alone, as UniAVGen's does; None where one text serves both modalities.
        prompt_template: Form of each part of a `JoVAPrompt`, one per line; checkpoints differ in it.
        pads_text_with_zeros: Whether prompts are padded with zeros that take part, as in Wan; otherwise with a mask.
        speaker_token: Token that goes behind every `<S>` of a prompt, for a voice to replace its text row; None for
            models without voices.
        defaults: Values for arguments of a call that are None, see `GenerationDefaults`.
        one_way_coupling: Whether a modality that is given as a whole does not read the other one, as in UniAVGen's
            training.
        fills_image_with_grey: Whether the condition channels of latent frames behind a first frame hold grey frames,
            encoded together with it, as in Wan and MOVA; otherwise zeros.
        needs_image: Whether no clip begins without a given first frame, as in UniAVGen.
        max_reference_s: Longest reference voice in seconds that the model reads in front of its own sound, for a
            transformer that reads references (`fusion` "aligned"); None for a model that was not trained with any.
        negative_skip_layer: Block of the transformer that predictions without the prompt leave out, in UniAVGen and
            Ovi number 11; for a transformer whose `forward` takes `skip_layers`.
        starts_white: Whether a clip without an image or a video has a white first frame, as MOVA is asked without one.
        domain: What a model of few things knows: its `name`, and `words`, all those of its prompts; None for others.
        few_steps: How a transformer that is a student of few steps is asked, see `FewSteps`; None for others.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->spoken_text_encoder->transformer->vae->audio_vae->vocoder"
    _optional_components = [
        "tokenizer",
        "text_encoder",
        "tokenizer_2",
        "text_encoder_2",
        "spoken_tokenizer",
        "spoken_text_encoder",
        "vae",
        "audio_vae",
        "vocoder",
    ]
    _callback_tensor_inputs = CALLBACK_TENSORS

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: PreTrainedModel | None,
        transformer: JoVATransformer3DModel | JoVAWanTransformer3DModel | JoVADualTowerTransformer3DModel | None,
        vae: AutoencoderKLWan | None,
        audio_vae: MMAudioVAE | AutoencoderKLLTX2Audio | AutoencoderKLKVAEAudio | JoVALogMel | None,
        vocoder: MMAudioVocoder | LTX2Vocoder | LTX2VocoderWithBWE | PreTrainedModel | None,
        scheduler: SchedulerMixin | None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        spoken_tokenizer: PreTrainedTokenizerBase | None = None,
        spoken_text_encoder: JoVASpokenTextEncoder | None = None,
        prompt_template: str = PROMPT_TEMPLATE,
        pads_text_with_zeros: bool = False,
        speaker_token: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        domain: Mapping[str, Any] | None = None,
        one_way_coupling: bool = False,
        fills_image_with_grey: bool = False,
        starts_white: bool = False,
        needs_image: bool = False,
        max_reference_s: float | None = None,
        negative_skip_layer: int | None = None,
        few_steps: Mapping[str, Any] | None = None,
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
            spoken_tokenizer=spoken_tokenizer,
            spoken_text_encoder=spoken_text_encoder,
        )
        self.told_strangers: set[str] = set()
        check_domain(domain)
        if few_steps is not None:
            few_steps = FewSteps.from_dict(few_steps, "the config of a pipeline").to_dict()
        check_template(prompt_template)
        self.defaults = GenerationDefaults.from_dict(defaults or {})
        self.keep_config(
            transformer,
            prompt_template=prompt_template,
            pads_text_with_zeros=pads_text_with_zeros,
            speaker_token=speaker_token,
            defaults={name: getattr(self.defaults, name) for name in defaults or {}},
            domain=domain,
            one_way_coupling=one_way_coupling,
            fills_image_with_grey=fills_image_with_grey,
            starts_white=starts_white,
            needs_image=needs_image,
            max_reference_s=max_reference_s,
            negative_skip_layer=negative_skip_layer,
            few_steps=few_steps,
        )
        check_components(self.components)
        check_skip_layer(transformer, negative_skip_layer)
        check_reference_length(transformer, max_reference_s)
        spatial_factor = 8 if vae is None else JoVAVideoCodec(vae).spatial_factor
        self.video_processor = VideoProcessor(vae_scale_factor=spatial_factor)
        self.begin_call(self.defaults, None)

    # 1. Settling and checking

    def settle(self, inputs: CallInputs, settings: GenerationDefaults) -> tuple[CallInputs, GenerationDefaults]:
        """Bring given media into one form, and let them say how long a clip is; drop guidance without an object."""
        for name in ("transformer", "scheduler"):
            if getattr(self, name) is None:
                raise ValueError(f"`{name}` must be loaded to generate anything, got None; load it")
        check_modalities(inputs, reads_references(self.transformer.config), self.config.needs_image)
        inputs = self.settle_media(inputs)
        settings = settings.override(frame_rate=inputs.frame_rate)
        is_length_asked = inputs.num_frames is not None
        inputs = self.settle_length(inputs, settings.frame_rate)
        settings = settings.override(num_frames=inputs.num_frames)
        limits = self.clip_limits(inputs.modalities, settings.frame_rate)
        check_limits(inputs, settings, limits, self.defaults)
        check_whole_frames(settings.num_frames, self.temporal_factor)
        inputs = self.fit_to_length(inputs, settings.frame_rate, is_length_asked)
        if len(inputs.modalities) == 1:  # nothing to couple
            settings = settings.override(coupling_scale=1.0, audio_coupling_scale=1.0)
        if inputs.speaker_embeds is None:  # no voice to follow
            settings = settings.override(audio_speaker_scale=1.0)
        callback: Any = inputs.callback_on_step_end
        if hasattr(callback, "tensor_inputs"):  # a callback object of diffusers knows what it reads
            inputs = replace(inputs, callback_on_step_end_tensor_inputs=callback.tensor_inputs)
        return inputs, settings

    def check_inputs(self, inputs: CallInputs, settings: GenerationDefaults) -> None:
        """Raise a ValueError that says what to do for every settled argument of a call that cannot be served."""
        widths = TextWidths.of(self.transformer.config, self.reads_transcripts)
        check_prompts(inputs.prompt, inputs.prompt_embeds, inputs.negatives, widths)
        for name, shape in (("latents", "[B, C, F, h, w]"), ("audio_latents", "[B, L, C]")):
            if (start := getattr(inputs, name)) is not None:
                check_tensor(name, start, f"a tensor {shape}", "leave it out for noise")
        check_output(inputs, self._callback_tensor_inputs)
        check_generator(inputs.generator, inputs.num_clips)
        config = self.transformer.config
        is_guided = any(scale not in (None, 1) for scale in (settings.guidance_scale, settings.audio_guidance_scale))
        check_reference(inputs, self.config.max_reference_s, self.reads_transcripts, is_guided)
        if self.reads_transcripts:
            check_spoken_features("prompt_embeds", inputs.prompt_embeds)
            check_spoken_features("audio_negative_prompt_embeds", inputs.audio_negative_prompt_embeds)
            self.check_said(inputs.prompt, inputs.reference_transcript)
        check_speakers(
            inputs.speaker_embeds, config.get("speaker_dim"), self.config.speaker_token, inputs.prompt_embeds
        )
        if "video" in inputs.modalities or self.vae is not None:
            check_size(settings, self.video_codec.spatial_factor, config.patch_size)
            check_frames_fill_rows(settings.num_frames, self.temporal_factor, config.patch_size[0])
            if inputs.image is not None:
                check_repeats("image", len(inputs.image), inputs.num_prompts)
            keyframes = place_keyframes(inputs.last_image, inputs.keyframes, settings.num_frames, inputs.video)
            check_keyframes(keyframes, inputs.num_prompts, self.picture_places)
        check_sound_fits(given_lengths(inputs), settings.num_frames, settings.frame_rate, self.temporal_factor)

    def clip_shape(self, inputs: CallInputs, settings: GenerationDefaults) -> ClipShape:
        """Size and length of the clips of a call."""
        duration_s = settings.num_frames / settings.frame_rate
        return ClipShape(
            batch_size=inputs.num_clips,
            height=settings.height,
            width=settings.width,
            num_frames=settings.num_frames,
            frame_rate=settings.frame_rate,
            num_audio_latents=self.audio_codec.num_latents_for(duration_s) if "audio" in inputs.modalities else 0,
        )

    # 2. The call

    @torch.no_grad()
    @one_thread_at_a_time
    def __call__(
        self,
        prompt: Prompts | None = None,
        negative_prompt: Prompts | None = None,
        audio_negative_prompt: Prompts | None = None,
        image: Pictures | None = None,
        last_image: Pictures | None = None,
        keyframes: Mapping[int, Pictures] | None = None,
        audio: Audio | Sound | ReadVideo | None = None,
        video: Pictures | ReadVideo | None = None,
        audio_sampling_rate: int | None = None,
        fit: Fit = "cover",
        speaker_embeds: Tensor | None = None,
        reference_audio: Audio | Sound | ReadVideo | None = None,
        reference_transcript: str | list[str] | None = None,
        reference_audio_sampling_rate: int | None = None,
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
        apg_eta: float | None = None,
        cfg_zero_star: bool | None = None,
        audio_cfg_zero_star: bool | None = None,
        zero_init_steps: int | None = None,
        audio_zero_init_steps: int | None = None,
        sequential_guidance: bool | None = None,
        modalities: Sequence[str] | None = MODALITIES,
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
            image: Reference image, the first frame, or with a `video` who is seen, for models that read it in front of
                a clip (`fusion` "aligned"): one for all, or a list of one per prompt. PIL images of any mode,
                arrays and tensors of any layout of the channels, see `diffusers_jova.pictures.to_pictures`; whole
                numbers are scaled by their type, floats lie in [0, 1], what is transparent lies on white.
            last_image: The last frame, in the forms of `image`; the same as frame -1 of `keyframes`.
            keyframes: Pictures, in the forms of `image`, by the frames where the clip is to show them, `{40: image}`;
                negative frames count from the end, frame 0 is `image`. A picture stands for the latent of its frame, 4
                frames that end with a multiple of 4, so there is one per latent: as a clean latent, which the clip
                shows in all 4, or on the condition channels. Models with grey frames there (MOVA) get the pictures at
                their very frames among grey ones, with a mask by frame, as `WanImageToVideoPipeline` does. See
                `keyframes.py`; no model was trained for it yet, see the README.
            audio: Given sound: what `media.read_audio` or `media.read_video` returns, or [S], [channels, S], or one
                per prompt [B, channels, S], of whole numbers or floats in [-1, 1]; mixed to the channels of the model.
                As long as the clip it drives the video; shorter, it is continued.
            video: Given frames: what `media.read_video` returns, or a list of pictures, or one array or tensor of N,
                in the forms of `image`; the first 4k + 1 count. As long as the clip it gets a sound; shorter, it is
                continued.
            audio_sampling_rate: Samples per second of `audio`; not needed where it was read from a file as a whole.
            fit: How a given picture or `video` of another shape becomes one of the clip's: `"cover"` crops the centre,
                `"contain"` fills up with black, `"stretch"` bends what is seen.
            speaker_embeds: Voices of the speakers, [P, D], or one set per prompt [B, P, D], for models that read them:
                the i-th stands at the i-th `<S>`. Zeros are an unknown voice, which speakers without one have, and
                fill up where another prompt has more. D and the speaker encoder are those that the model was trained
                with; NAVA: D = 192, ReDimNet (IDRnD/ReDimNet, MIT; "M", "ft_mix", "vb2+vox2+cnc" of its torch.hub
                entry) on at most 30 s of mono sound at 16 kHz, which `speaker_encoder.SpeakerEncoder` computes.
            reference_audio: A recording of the voice to speak with, in the forms of `audio`, one for all or one per
                prompt, for models that read one (`max_reference_s` in the config of the pipeline). It is no part of
                the clip. Others go on from a voice in `audio`, which is the beginning of their clip.
            reference_transcript: What it says, one for all or one per prompt, for models that read transcripts
                (`spoken_text_encoder`).
            reference_audio_sampling_rate: Samples per second of `reference_audio`, if it is an array.
            height: Pixels.
            width: Pixels.
            num_frames: Frames, 4k + 1. None takes the length of a given `video`, cut to 4k + 1, or of a given `audio`,
                filled up to 4k + 1 frames with silence. A longer `video` is cut, a longer `audio` refused.
            frame_rate: Frames per second; that of a `video` read from a file as a whole.
            num_inference_steps: Solver steps.
            sigmas: Video noise levels to walk, in place of the scheduler's.
            audio_sigmas: Audio noise levels.
            guidance_scale: Text guidance of video; 1 is off, and then off for both unless audio says otherwise.
            audio_guidance_scale: Text guidance of audio; None follows video.
            coupling_scale: Coupling guidance of video; 1 is off. Where the model's own goes with that of text, as
                jova-tiny's, it follows what is given for text, the interval as well.
            audio_coupling_scale: Coupling guidance of audio; None follows video.
            audio_speaker_scale: Speaker guidance of audio; 1 is off, and so it is without `speaker_embeds`.
            uncoupled_text: Whether the text is `"empty"` or `"kept"` where the coupling is removed.
            guidance_interval: Steps with text guidance, as fractions of all steps.
            coupling_interval: Steps with coupling guidance.
            guidance_rescale: Share of the rescaling of guided video predictions; 0 is off.
            audio_guidance_rescale: The same for audio; None follows video.
            apg_threshold: Norm limit of adaptive projected guidance of video, see `guidance.project`; 0 projects
                without a limit. None is off, unless the pipeline's `defaults` have one.
            audio_apg_threshold: The same for audio.
            apg_eta: Share of the direction along the prediction that the projection of either keeps; 1 keeps all,
                as diffusers' own guider does by default, 0 none.
            cfg_zero_star: Whether video velocities without the prompt are scaled to those with it, as CFG-Zero* does;
                see `guidance.optimal_scale`.
            audio_cfg_zero_star: The same for audio; None follows video.
            zero_init_steps: First steps on which the video velocity is zero: nothing is asked, the noise stays, and
                solvers that remember steps begin behind them. CFG-Zero* has 4 % of the steps; 0 is off.
            audio_zero_init_steps: The same for audio; None follows video.
            sequential_guidance: Whether the predictions that guidance needs are made one after the other, to save
                memory; otherwise in one batch. None does what `fit_memory` chose, without it one batch.
            modalities: What takes part: both, `["video"]` or `["audio"]`; None is all that there are codecs for.
            num_videos_per_prompt: Clips per prompt.
            generator: Of the noise: one per clip, or one that draws clip by clip, so that the first is that of a call
                of its own.
            latents: Start of video, [B, C, F, h, w], in place of noise.
            audio_latents: Start of audio, [B, L, C].
            prompt_embeds: Encoded prompts, see `encode_prompt`; with `speaker_positions` if voices are given.
            negative_prompt_embeds: Encoded negative prompts.
            audio_negative_prompt_embeds: Encoded negative prompts of the audio branch.
            max_sequence_length: Longest prompt in tokens.
            output_type: `"pil"`, `"np"`, `"pt"` or `"latent"`, which `decode` finishes.
            return_dict: Whether to return a `JoVAPipelineOutput` instead of a tuple.
            attention_kwargs: `{"scale": 0.5}` multiplies the weights of the active adapters, those of `set_adapters`,
                for this call; None leaves them. There is no other entry: the attention here takes no arguments.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, tensors)` after each step; may return
                a dict that replaces tensors. One that sets `pipeline._interrupt = True` ends the denoising: what is
                returned then still has the noise of that step, and can be seen as it was.
            callback_on_step_end_tensor_inputs: Names of the tensors it gets, of `_callback_tensor_inputs`.

        Returns:
            `JoVAPipelineOutput`, or the tuple `(frames, audio)`. Given `video` and `audio` come back as given; single
            pictures as the VAE decodes them, so that they do not flash among their neighbours.
        """
        # 1. Settle what the call is about
        check_flags({"return_dict": return_dict})
        if sequential_guidance is not None:
            check_flags({"sequential_guidance": sequential_guidance})
        modalities = self.settle_modalities(modalities)
        inputs = CallInputs(
            prompt=prompt,
            negative_prompt=negative_prompt,
            audio_negative_prompt=audio_negative_prompt,
            image=image,
            last_image=last_image,
            keyframes=given_keyframes(keyframes),
            audio=audio,
            video=video,
            audio_sampling_rate=audio_sampling_rate,
            frame_rate=frame_rate,
            fit=fit,
            speaker_embeds=speaker_embeds,
            reference_audio=reference_audio,
            reference_transcript=reference_transcript,
            reference_audio_sampling_rate=reference_audio_sampling_rate,
            num_frames=num_frames,
            modalities=modalities,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            latents=latents,
            audio_latents=audio_latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            audio_negative_prompt_embeds=audio_negative_prompt_embeds,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        own = {
            "height": height,
            "width": width,
            "frame_rate": frame_rate,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "audio_guidance_scale": audio_guidance_scale,
            "coupling_scale": coupling_scale,
            "audio_coupling_scale": audio_coupling_scale,
            "audio_speaker_scale": audio_speaker_scale,
            "uncoupled_text": uncoupled_text,
            "guidance_interval": guidance_interval,
            "coupling_interval": coupling_interval,
            "guidance_rescale": guidance_rescale,
            "audio_guidance_rescale": audio_guidance_rescale,
            "apg_threshold": apg_threshold,
            "audio_apg_threshold": audio_apg_threshold,
            "apg_eta": apg_eta,
            "cfg_zero_star": cfg_zero_star,
            "audio_cfg_zero_star": audio_cfg_zero_star,
            "zero_init_steps": zero_init_steps,
            "audio_zero_init_steps": audio_zero_init_steps,
            "max_sequence_length": max_sequence_length,
        }
        given = own | vars(inputs)
        given |= {"sigmas": sigmas, "audio_sigmas": audio_sigmas, "attention_kwargs": attention_kwargs}
        check_attention_kwargs(attention_kwargs)
        inputs, settings = self.settle(inputs, self.defaults.override(**own))
        self.check_inputs(inputs, settings)
        self.begin_call(settings, attention_kwargs)
        if (factor := factor_of(given)) != 1 and self.transformer is not None:
            warn_of_large_scales(self.transformer, factor)
        speakers = self.place_speakers(  # here, to refuse voices without a place before anything is encoded
            speaker_embeds, prompt, prompt_embeds, num_videos_per_prompt, settings.max_sequence_length
        )
        pictures = (inputs.image, inputs.last_image, inputs.keyframes or None, inputs.video)
        has_picture = any(given is not None for given in pictures)
        tell_strangers(self.config.domain, text_of(prompt), has_picture, self.told_strangers)
        tell_empty(prompt, self.told_strangers)
        clip = self.clip_shape(inputs, settings)

        # 2. Schedules
        scheduler = FlowMatchAudioVideoScheduler.from_scheduler(self.scheduler)
        has_schedule = sigmas is not None or audio_sigmas is not None
        num_steps = num_inference_steps if has_schedule else settings.num_inference_steps
        scheduler.set_timesteps(num_steps, self._execution_device, sigmas, audio_sigmas)
        scheduler.set_begin_index(0)
        if isinstance(self.scheduler, FlowMatchAudioVideoScheduler):  # tells of the call, and takes no step of it
            self.scheduler.set_timesteps(num_steps, self._execution_device, sigmas, audio_sigmas)
        self._num_timesteps = len(scheduler.timesteps)
        not_given = [name for name in modalities if getattr(inputs, name) is None]
        check_zero_init([settings.guidance()[name] for name in not_given], scheduler)
        self.warn_of_more_steps(settings, scheduler)

        # 3. Encode what is given besides text
        media = self.encode_media(inputs, clip)
        denoiser = JoVADenoiser(
            transformer=self.transformer,
            scheduler=scheduler,
            guidance=settings.guidance(),
            given=media.latents,
            channels=media.channels,
            frame_rate=clip.frame_rate,
            audio_latent_rate_hz=self.audio_codec.latent_rate_hz if "audio" in modalities else clip.frame_rate,
            references=media.references,
            **(media.couplings() if self.config.one_way_coupling else {}),
            negative_skip_layer=self.config.negative_skip_layer,
            is_sequential=self.makes_branches_apart if sequential_guidance is None else sequential_guidance,
            attention_kwargs=attention_kwargs,
            generator=generator,
            sharing=self.branch_sharing,
            has_voices=speakers is not None,
        )
        generated = [name for name in modalities if denoiser.generates(name)]
        check_something_is_generated(generated, list(media.latents), inputs)
        check_zero_init([denoiser.guidance[name] for name in generated], scheduler)
        if "video" in generated:
            own_size = (self.defaults.height, self.defaults.width)
            tell_size(self.config.domain, (clip.height, clip.width), own_size, self.told_strangers)
            clip.tell_length(self.defaults.num_frames)
        if "video" in modalities:  # a given one has its moments, too, at which sound is made
            tell_rate(self.config.domain, clip.frame_rate, self.defaults.frame_rate, self.told_strangers)
        if denoiser.sharing is not None:
            denoiser.sharing.tell_idle(denoiser.branches_by_step(modalities))

        # 4. Encode text
        self._needs_negative_prompt = denoiser.needs_negative_prompt(modalities)
        reading = ReadingCall(
            given=given,
            settings=settings,
            modalities=modalities,
            generated=generated,
            reads_negative_prompt=self._needs_negative_prompt,
            has_adapters=computes_adapters(self.transformer),
            num_steps=math.ceil(len(scheduler.timesteps) / scheduler.order),
        )
        warn_of_arguments(reading)
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
            reference_transcript if "audio" in media.references else None,
        )
        text = TextConditions(*encoded, speakers=speakers)
        check_finite_inputs(text.named_features())

        # 5. Draw noise, after noting what it is drawn from
        records = describe_call(
            self, inputs, settings, sigmas=sigmas, audio_sigmas=audio_sigmas, attention_kwargs=attention_kwargs
        )
        samples = denoiser.impose(self.draw_noise(inputs, clip))

        # 6. Denoise
        self.transformer._reset_stateful_cache()  # a call that failed may have left what it kept
        with self.progress_bar(total=self._num_timesteps) as progress_bar:
            for step, timestep in enumerate(scheduler.timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = timestep
                samples = denoiser.step(step, samples, text)
                check_finite_samples(samples, step, self._num_timesteps, self.transformer)
                if callback_on_step_end is not None:
                    samples, text = call_back(self, inputs, step, timestep, samples, text)
                    check_finite_samples(samples, step, self._num_timesteps, self.transformer, by_callback=True)
                    guided = settings_after_callback(settings, self._guidance_scale, self._audio_guidance_scale)
                    denoiser = replace(denoiser, guidance=guided.guidance())
                    self._needs_negative_prompt = denoiser.needs_negative_prompt(modalities)
                progress_bar.update()
        self._current_timestep = None

        # 7. Decode what was generated
        frames, waveform = self.decode_media(samples, media, output_type, clip)
        self.maybe_free_model_hooks()
        if not return_dict:
            return frames, waveform
        return JoVAPipelineOutput(
            frames=frames,
            audio=waveform,
            frame_rate=clip.frame_rate,
            sampling_rate=self.sampling_rate,
            provenance=records,
            is_latent=output_type == "latent",
            num_frames=clip.num_frames,
        )
