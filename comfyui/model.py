"""The transformer as a MODEL of ComfyUI: core samples it, patches it and manages its memory.

Inside the sampler the video is normalised and the sound carried as `SharedSigma` says; `wire.py` converts from raw
latents and back.

Letters in shapes: B batch, C channels, F latent frames, h, w latent height and width, L audio latents, N all latents
of a clip packed flat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from .casting import settle
from .given_pictures import PICTURES_KEY, GivenPictures, check_clip, picture_places
from .latent_parts import (
    MODALITIES,
    at_share,
    clean_where,
    generated_names,
    imposed,
    modality_names,
    named_parts,
    on_device,
    video_or,
)
from .package import jova
from .reference_voice import reference_argument, voice_conds
from .sampling_checks import (
    REFERENCE_KEY,
    TEXT_KEYS,
    VOICE_KEYS,
    check_conditioning,
    check_length,
    check_pictures,
    refuse_found,
)
from .wire import sample_raw


NUM_LEVELS = 3_603_600  # divided by 1 to 16 and by most step counts up to 50: `simple` then takes exact noise levels
SAMPLE_KEY = "jova"
# of model width per latent patch: residual, modulated copy, q, k, v, attention, four of the feed-forward, thrice
ROWS_IN_FLIGHT = 30
WANTED_KEY = "jova_wanted"  # of a conditioning: modalities whose velocity a prediction is asked for


class JovaLatentFormat(comfy.latent_formats.LatentFormat):
    """Latents as they are: a factor per channel cannot be applied to a packed tensor.

    Args:
        num_channels: Of the video latents.
    """

    latent_dimensions = 3

    def __init__(self, num_channels: int) -> None:
        self.latent_channels = num_channels


class JovaModelSampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """Flow matching with a table of noise levels so fine that `simple` finds those of our scheduler in it.

    Args:
        shift: Of the video.
    """

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.set_parameters(shift=shift)

    def set_parameters(self, shift: float = 1.0, timesteps: int = NUM_LEVELS, multiplier: float = 1000) -> None:
        """Write the table."""
        self.shift, self.multiplier = shift, multiplier
        self.register_buffer("sigmas", jova("shared_sigma").flow_sigmas(shift, timesteps), persistent=False)


@dataclass(frozen=True)
class Checkpoint:
    """What a model is besides its weights.

    Args:
        outline: Pipeline with its codecs on the meta device, and its settings.
        vae: Its video VAE, which reads its weights at first use.
        shift: Shift of the video schedule.
        audio_shift: Shift of the audio schedule.
        num_train_timesteps: Timestep at sigma 1.
        solver: Of its scheduler.
        last_sigma: Noise level at which its last step starts, before the shift; None for 1 / steps.
        reads_transcripts: Whether its sound reads what is said alone.
    """

    outline: Any
    vae: Any
    shift: float
    audio_shift: float
    num_train_timesteps: int
    solver: str
    last_sigma: float | None
    reads_transcripts: bool

    @property
    def defaults(self) -> Any:
        """Values where the user is silent."""
        return self.outline.defaults


class JovaModel(comfy.model_base.BaseModel):
    """A transformer of the package as core's samplers see a model.

    Args:
        transformer: Any transformer of the package.
        checkpoint: What the model is besides.
        compute_dtype: Of activations.
    """

    def __init__(self, transformer: Any, checkpoint: Checkpoint, compute_dtype: torch.dtype) -> None:
        config = comfy.supported_models_base.BASE({"disable_unet_model_creation": True})
        config.latent_format = JovaLatentFormat(transformer.config.out_channels)
        config.sampling_settings = {"shift": checkpoint.shift, "multiplier": 1000}
        stored = {parameter.dtype for parameter in transformer.parameters()}
        config.manual_cast_dtype = None if stored == {compute_dtype} else compute_dtype
        super().__init__(config, comfy.model_base.ModelType.FLOW)
        self.diffusion_model = transformer  # itself, without an adapter: LoRA keys are names of its modules
        self.model_sampling = JovaModelSampling(checkpoint.shift)
        self.shared_sigma = jova("shared_sigma").SharedSigma(checkpoint.audio_shift / checkpoint.shift)
        self.checkpoint = checkpoint
        self.compute_dtype = compute_dtype

    def get_dtype(self) -> torch.dtype:
        """Format of activations: weights may be stored in 8 bits."""
        return self.compute_dtype

    # 1. What is given to the model besides noisy latents

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Everything of a conditioning that `_apply_model` reads.

        Text goes through CONDRegular: core would fill up a CONDCrossAttn by repeating its rows, which count twice in a
        joint softmax.
        """
        shapes = kwargs.get("latent_shapes") or [kwargs["noise"].shape]
        video, audio = named_parts(shapes)
        rate = (
            check_conditioning(kwargs, self.text_widths, len(kwargs["noise"])) or self.checkpoint.defaults.frame_rate
        )
        check_length(self.checkpoint.outline, video, audio, rate)
        out = {"text": comfy.conds.CONDRegular(kwargs["cross_attn"])}
        regular = {name: kwargs.get(name) for name in (*TEXT_KEYS, *VOICE_KEYS)}
        generated = generated_names(kwargs.get("denoise_mask"), shapes)
        regular |= voice_conds(kwargs, generated, self.checkpoint, self.diffusion_model.config)
        regular |= self.shares(kwargs.get("denoise_mask"), shapes)
        self.check_voices(regular, out["text"].cond)
        if video is not None:
            given = kwargs.get(PICTURES_KEY)
            regular |= self.picture_conds(given, video, kwargs["device"])
            check_pictures(given, regular.get("video_share"), self.checkpoint.outline.temporal_factor)
        out |= {name: comfy.conds.CONDRegular(value) for name, value in regular.items() if value is not None}
        constant = {
            "latent_shapes": list(shapes),
            # JoVA Guider asks without as well, and for one modality alone
            "coupled": self.coupling(generated, shapes, REFERENCE_KEY in out, kwargs.get("prompt_type")),
            WANTED_KEY: generated,
            "skip_layers": self.skip_layers(kwargs.get("prompt_type")),
            "frame_rate": rate,
        }
        return out | {name: comfy.conds.CONDConstant(value) for name, value in constant.items()}

    def coupling(
        self, generated: Sequence[str], shapes: Sequence[Sequence[int]], has_voice: bool, prompt_type: str | None
    ) -> Any:
        """Attention between video and sound: one direction where the model was trained so, as in the pipeline.

        Args:
            generated: Modalities of which something is generated.
            shapes: Of the latents.
            has_voice: Whether the sound reads a reference voice.
            prompt_type: Of core: whether it is a prediction without the prompt.
        """
        if not self.checkpoint.outline.config.one_way_coupling:
            return True
        given = {*modality_names(shapes)} - {*generated}
        found = jova("pipeline_media").one_way_couplings("video" in given, "audio" in given, has_voice)
        return found["negative_coupling" if prompt_type == "negative" else "coupling"]

    def skip_layers(self, prompt_type: str | None) -> tuple[int, ...]:
        """Blocks that a prediction leaves out; core says whether it is one without the prompt."""
        layer = self.checkpoint.outline.config.negative_skip_layer
        return (layer,) if layer is not None and prompt_type == "negative" else ()

    @property
    def text_widths(self) -> Any:
        """`TextWidths` of the features that it reads."""
        return jova("pipeline_checks").TextWidths.of(self.diffusion_model.config, reads_transcripts=True)

    def check_voices(self, conds: Mapping[str, Tensor | None], text: Tensor) -> None:
        """Refuse voices that the model cannot read, or that have no place in the text."""
        voices, places = (conds[name] for name in VOICE_KEYS)
        embeds = jova("prompt").PromptEmbeds(text, speaker_positions=places)
        config = self.diffusion_model.config
        jova("pipeline_checks").check_speakers(voices, config.get("speaker_dim"), None, embeds)

    def shares(self, mask: Tensor | None, shapes: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """How noisy each latent frame and each audio latent is, as a share of sigma; nothing where all is generated.

        Args:
            mask: Denoise mask, packed as the latents are; 0 is given, 1 is generated.
            shapes: Of the latents.
        """
        if mask is None:
            return {}
        parts = comfy.utils.unpack_latents(mask, shapes)
        if not any(bool(part.any()) for part in parts):
            raise ValueError(
                "`latent_image` must leave something to generate, got latents that are all given; lengthen the clip"
            )
        found = {
            "video_share" if part.ndim == 5 else "audio_share": part.amax((1, 3, 4) if part.ndim == 5 else 1)
            for part in parts
        }
        return {name: share for name, share in found.items() if bool((share < 1).any())}

    def picture_conds(
        self, given: GivenPictures | None, shape: Sequence[int], device: torch.device
    ) -> dict[str, Tensor]:
        """Pictures at given frames, on the condition channels of a model that has them, else as clean latents.

        Args:
            given: None without pictures.
            shape: Of the video latents.
            device: Of the result.
        """
        outline = self.checkpoint.outline
        places = picture_places(outline, self.diffusion_model.config)
        num_mask_channels = places.num_mask_channels
        if given is None:
            if num_mask_channels is None:
                return {}
            nothing = torch.zeros(1, *shape[1:], device=device)
            return {"channels": jova("conditions").condition_channels(nothing, None, num_mask_channels)}
        check_clip(given, shape, places)
        latents = given.scattered(shape[2], outline.video_codec, device)
        mask = jova("conditions").frame_mask(
            given.frames, shape[2], places.temporal_factor, num_mask_channels or 1, by_frame=places.encodes_grey
        )
        if num_mask_channels is None:
            return {"pictures": latents, "is_picture": mask.to(device)}
        return {"channels": jova("conditions").condition_channels(latents, latents, num_mask_channels, mask)}

    # 2. One prediction

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Denoised prediction of the carried latents, packed as `x` is.

        Args:
            x: Carried latents, packed [B, 1, N], or of one modality as they are.
            t: Noise level of the video, [B].
            c_concat: Refused, as everything that would have no effect.
            c_crossattn: Refused.
            control: Refused.
            transformer_options: Patches of attention blocks are refused.
            kwargs: From `extra_conds`.
        """
        refuse_patches(control, c_concat, c_crossattn, transformer_options or {})
        schedules = jova("scheduling_flow_match_av")

        # 1. Noisy latents and noise levels as the model knows them
        video, audio, sigmas = self.noisy_parts(x, t, kwargs)

        # 2. Velocities of what is wanted and of what that reads; the rest stays as it is
        read = rows_read(kwargs)
        velocity, audio_velocity = self.predict(
            video if "video" in read else None, audio if "audio" in read else None, sigmas, kwargs
        )

        # 3. Denoised predictions, carried
        if velocity is not None:
            video = schedules.predict_data(video, velocity.float(), sigmas["video"])
        if audio_velocity is not None:
            audio = schedules.predict_data(audio, audio_velocity.float(), sigmas["audio"])
        parts = [] if video is None else [video]
        if audio is not None:
            parts.append(self.shared_sigma.carry(audio).transpose(1, 2))
        return comfy.utils.pack_latents(parts)[0] if len(parts) > 1 else parts[0]

    def noisy_parts(
        self, x: Tensor, t: Tensor, conds: Mapping[str, Any]
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """Noisy video [B, C, F, h, w] and sound [B, L, C] as the model sees them, and their noise levels.

        Args:
            x: Carried latents, packed [B, 1, N], or of one modality as they are.
            t: Noise level of the video, [B].
            conds: From `extra_conds`.

        Returns:
            Both, None where one is absent, and levels [B], or [B, F] and [B, L] where some latents are given.
        """
        sigmas = {name: at_share(t.float(), conds.get(f"{name}_share")) for name in MODALITIES}
        video, audio = named_parts(comfy.utils.unpack_latents(x.float(), conds["latent_shapes"]))
        pictures, is_picture = conds.get("pictures"), conds.get("is_picture")
        if video is not None and pictures is not None and is_picture is not None:
            is_picture = is_picture.to(video.device)
            video = imposed(video, pictures, is_picture)
            sigmas["video"] = clean_where(sigmas["video"], is_picture)
        if audio is not None:
            audio = self.shared_sigma.audio_sample(audio.transpose(1, 2), sigmas["audio"])
        sigmas["audio"] = self.shared_sigma.audio_sigma(sigmas["audio"])
        return video, audio, sigmas

    def predict(
        self, video: Tensor | None, audio: Tensor | None, sigmas: Mapping[str, Tensor], conds: Mapping[str, Any]
    ) -> tuple[Any, Any]:
        """Velocities of the transformer.

        Args:
            video: Noisy latents [B, C, F, h, w], or None.
            audio: Noisy latents [B, L, C], or None.
            sigmas: Noise levels of both, [B], [B, F] or [B, L].
            conds: From `extra_conds`.
        """
        dtype, times = self.compute_dtype, self.checkpoint.num_train_timesteps

        def text(name: str) -> Tensor | None:
            value = conds.get(name)
            return None if value is None else value.to(video_or(audio, video).device, dtype)

        skips = {"skip_layers": conds["skip_layers"]} if conds["skip_layers"] else {}  # not every transformer takes it
        if video is not None and conds.get("channels") is not None:
            video = torch.cat([video, conds["channels"].to(video)], dim=1)
        return self.diffusion_model(
            hidden_states=None if video is None else video.to(dtype),
            audio_hidden_states=None if audio is None else audio.to(dtype),
            timestep=sigmas["video"] * times,
            audio_timestep=sigmas["audio"] * times,
            encoder_hidden_states=text("text"),
            encoder_hidden_states_2=text("jova_text_2"),
            encoder_attention_mask=on_device(conds.get("jova_text_mask"), sigmas["video"]),
            audio_encoder_hidden_states=text("jova_audio_text"),
            audio_encoder_hidden_states_2=text("jova_audio_text_2"),
            audio_encoder_attention_mask=on_device(conds.get("jova_audio_text_mask"), sigmas["video"]),
            frame_rate=conds["frame_rate"],
            audio_latent_rate_hz=self.audio_latent_rate_hz(audio, conds["frame_rate"]),
            coupled=conds["coupled"],
            return_dict=False,
            **self.voices(conds, sigmas["video"].device),
            **({} if audio is None else reference_argument(conds, dtype)),
            **skips,
        )

    def audio_latent_rate_hz(self, audio: Tensor | None, frame_rate: float) -> float:
        """Audio latents per second; where there is no sound, any number will do."""
        return frame_rate if audio is None else self.checkpoint.outline.audio_codec.latent_rate_hz

    def voices(self, conds: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
        """Arguments that say which voices stand in the text."""
        if conds.get("jova_voices") is None:
            return {}
        speakers = jova("speakers").Speakers(*(conds[name].to(device) for name in VOICE_KEYS))
        return speakers.transformer_arguments([True])

    def scale_latent_inpaint(self, latent_image: Tensor, **_: Any) -> Tensor:
        """Given latents are clean at every step: their tokens have timestep 0."""
        return latent_image

    # 3. Memory

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Mapping[str, Any] | None = None) -> float:
        """Bytes of activations of a batch: a few rows of model width per latent patch, besides the weights.

        Args:
            input_shape: [B, 1, N], or the shape of one modality.
            cond_shapes: Not read: text rows are few.
        """
        config = self.diffusion_model.config
        width = config.num_attention_heads * config.attention_head_dim
        patch = config.out_channels * config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
        rows = input_shape[0] * torch.Size(input_shape[1:]).numel() / patch
        return rows * width * ROWS_IN_FLIGHT * comfy.model_management.dtype_size(self.compute_dtype)


def rows_read(conds: Mapping[str, Any]) -> tuple[str, ...]:
    """Modalities of which a prediction needs rows.

    Args:
        conds: From `extra_conds`.
    """
    plan = jova("prediction_plan").PredictionPlan(
        names=modality_names(conds["latent_shapes"]), generated=conds[WANTED_KEY], coupling=conds["coupled"]
    )
    return plan.rows_of(jova("guidance").CONDITIONAL, conds[WANTED_KEY])


def refuse_patches(control: Any, concat: Any, crossattn: Any, options: Mapping[str, Any]) -> None:
    """Refuse what other nodes attach to a model and this one would not read."""
    wrappers = options.get("wrappers", {}).get(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, {})
    refuse_found(
        {
            "a ControlNet": control is not None,
            "latents on extra channels": concat is not None or crossattn is not None,
            "patches of attention blocks": any(options.get("patches", {}).values()),
            "replaced attention blocks": any(options.get("patches_replace", {}).values()),
            "a wrapper of the transformer": any(wrappers.values()),
        }
    )


# --- handles ---


def make_patcher(model: JovaModel) -> Any:
    """What a MODEL socket carries."""
    patcher = comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, SAMPLE_KEY, sample_raw)
    patcher.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, SAMPLE_KEY, settle)
    patcher.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_CLONE, SAMPLE_KEY, share_state)
    return patcher


def share_state(patcher: Any, clone: Any) -> None:
    """Let all handles of a model agree on which patches its weights have.

    Core keeps that on the model. A fork (hiddenswitch/ComfyUI @ 2e66707, `MemoryMeasurements`) copies it to each
    handle, so that one without an adapter samples with the weights of one that has it. Goes when the fork does not.
    """
    if hasattr(patcher, "_memory_measurements"):
        clone._memory_measurements = patcher._memory_measurements


def check_model(model: Any, name: str = "model") -> None:
    """Refuse a model that is no JoVA."""
    inner = getattr(model, "model", None)
    if not isinstance(inner, JovaModel):
        found = "nothing" if model is None else f"a {type(model if inner is None else inner).__name__}"
        raise ValueError(f"`{name}` must be a JoVA model, got {found}; connect Load JoVA or Load JoVA Diffusion Model")


def with_shifts(model: Any, shift: float, audio_shift: float) -> Any:
    """The same model with other noise schedules; the given handle stays as it is."""
    patched = model.clone()
    patched.add_object_patch("model_sampling", JovaModelSampling(shift))
    patched.add_object_patch("shared_sigma", jova("shared_sigma").SharedSigma(audio_shift / shift))
    return patched
