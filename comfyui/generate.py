"""The whole way from a prompt to a video, of the pieces behind the other nodes."""

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers

from .clips import masks_of
from .guider import make_guider
from .latents import decode, empty_latent, set_audio, set_video, with_picture, with_rate
from .loading import load_pipeline
from .model_files import SHIPPED, fingerprint
from .reference_voice import with_reference
from .schedule import own_sigmas
from .steps import steps_and_sampler
from .text import encode_negative, encode_parts


_LOADED: dict[tuple[str, ...], Any] = {}  # the last model: core caches outputs, and this node's are no model


def generate(
    source: str,
    video: str,
    audio: str,
    transcript: str,
    negative: str,
    width: int,
    height: int,
    length: int,
    frame_rate: float,
    seed: int,
    steps: int,
    cfg: float,
    audio_cfg: float,
    sampler: str,
    dtype: str,
    fit: str,
    image: Any = None,
    own_audio: Any = None,
    own_video: Any = None,
    last_image: Any = None,
    reference_audio: Any = None,
    reference_transcript: str | None = None,
) -> tuple[Any, Any, Any]:
    """VIDEO, IMAGE and AUDIO; arguments are the widgets of JoVA Generate.

    Raises:
        ValueError: What is given does not go together.
    """
    if image is not None and own_video is not None:
        raise ValueError("`image` must be left out beside `own_video`, got both; given frames bring their first one")
    model, clip, vae, audio_vae = loaded(source, dtype)
    latent = empty_latent(audio_vae, width, height, length, frame_rate, 1, own_audio, own_video)
    positive, negative_text = encode_parts(clip, video, audio, transcript), encode_negative(clip, negative, "")
    texts = [with_rate(conditioning, latent) for conditioning in (positive, negative_text)]
    told = (reference_transcript or "").strip()
    if reference_audio is not None:
        texts = with_reference(texts, clip, audio_vae, reference_audio, told)
    elif told:
        raise ValueError(
            "`reference_transcript` must go with `reference_audio`, got it alone; connect the voice that says it"
        )
    if own_video is not None:
        latent = set_video(latent, vae, own_video, fit, "own_video")
    if image is not None:
        texts = with_picture(texts, vae, latent, image, fit)
    if last_image is not None:
        texts = with_picture(texts, vae, latent, last_image, fit, -1, "last_image", "last_image")
    if own_audio is not None:
        latent = set_audio(latent, audio_vae, own_audio, "own_audio")
    masks = masks_of(latent)
    if masks is not None and not any(bool(mask.any()) for mask in masks):
        raise ValueError(
            "`own_audio` and `own_video` must leave something to generate, got both for the whole clip; set a larger "
            "`length`, or leave one out"
        )
    positive, negative_text = texts
    guider = make_guider(model, positive, negative_text, {"cfg": cfg, "audio_cfg": audio_cfg})
    checkpoint = model.model.checkpoint
    walk = steps_and_sampler(steps, sampler, checkpoint.defaults.num_inference_steps, checkpoint.solver)
    return decode(sample(guider, latent, *walk, seed), vae, audio_vae, 0)


def loaded(source: str, dtype: str) -> Any:
    """Outputs of Load JoVA; the last model is kept, and forgotten when another is asked for."""
    key = (source, dtype, "" if source in SHIPPED else fingerprint(source))
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = load_pipeline(source, dtype)
    return _LOADED[key]


def sample(guider: Any, latent: dict[str, Any], num_steps: int, sampler: str, seed: int) -> dict[str, Any]:
    """Let core sample a LATENT.

    Args:
        guider: Of the model.
        latent: Where it starts.
        num_steps: Of the model's own schedule.
        sampler: Its name in core.
        seed: Of the noise, up to 2**64 - 1.
    """
    import latent_preview

    samples = guider.sample(
        comfy.sample.prepare_noise(latent["samples"], seed),
        latent["samples"],
        comfy.samplers.sampler_object(sampler),
        own_sigmas(guider.model_patcher, num_steps),
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(guider.model_patcher, num_steps),
        seed=seed,
    )
    return {**latent, "samples": samples.to(comfy.model_management.intermediate_device())}
