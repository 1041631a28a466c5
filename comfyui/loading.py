"""From a saved pipeline to what the sockets carry."""

from importlib.util import find_spec
from typing import Any

import comfy.model_management
import torch

from .casting import make_castable, store_in_8_bits
from .codecs import JovaAudioVAE, JovaVideoVAE
from .model import Checkpoint, JovaModel, make_patcher
from .package import jova
from .text import JovaCLIP


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CHOICES = [torch.bfloat16, torch.float16, torch.float32]  # of `auto`, the best first


def load_pipeline(source: str, dtype: str) -> tuple[Any, JovaCLIP, JovaVideoVAE, JovaAudioVAE]:
    """MODEL, CLIP, VAE and audio VAE of a saved pipeline; the last three read their weights at first use.

    Args:
        source: Folder or shipped name.
        dtype: Of the widget.
    """
    check_core()
    saved = jova("saved_pipeline").SavedPipeline(source)
    with torch.inference_mode(False):  # core runs nodes inside it: weights made there could never be changed
        compute_dtype = chosen_dtype(dtype)
        transformer = saved.load("transformer", dtype=compute_dtype).transformer
        vae = JovaVideoVAE(saved)
        model = wrap(transformer, saved, vae, compute_dtype, is_8_bits=dtype.startswith("fp8"))
    # not core's own choice for text encoders, which is fp16 even where the transformer runs in fp32
    return model, JovaCLIP(saved, compute_dtype), vae, JovaAudioVAE(saved)


def load_single_file(path: str, source: str, dtype: str) -> Any:
    """MODEL of one file.

    Args:
        path: That `jova convert single_file` wrote.
        source: Folder or shipped name of the pipeline that it belongs to.
        dtype: Of the widget.
    """
    saved = jova("saved_pipeline").SavedPipeline(source)
    with torch.inference_mode(False):
        compute_dtype = chosen_dtype(dtype)
        transformer = jova("single_file").load_single_file(path, dtype=compute_dtype)
        return wrap(transformer, saved, JovaVideoVAE(saved), compute_dtype, is_8_bits=dtype.startswith("fp8"))


def check_core() -> None:
    """Refuse a ComfyUI without latents of two modalities."""
    if find_spec("comfy.nested_tensor") is None:
        raise RuntimeError(
            "ComfyUI must be 0.10 or later to hold video and sound in one latent, got an older; update it"
        )


def chosen_dtype(dtype: str) -> torch.dtype:
    """Number format of computations: that of the widget, or what core takes on this device."""
    management = comfy.model_management
    if dtype in DTYPES:
        return DTYPES[dtype]
    chosen: torch.dtype = management.unet_dtype(device=management.get_torch_device(), supported_dtypes=CHOICES)
    return chosen if chosen in CHOICES else torch.bfloat16  # core may want to store in 8 bits; that is the widget's


def wrap(transformer: Any, saved: Any, vae: JovaVideoVAE, compute_dtype: torch.dtype, is_8_bits: bool) -> Any:
    """What a MODEL socket carries, of a transformer of the package."""
    scheduler, outline = saved.scheduler(), vae.outline
    check_fits(transformer, outline)
    make_castable(transformer.eval())
    if is_8_bits:
        store_in_8_bits(transformer, torch.float8_e4m3fn)
    checkpoint = Checkpoint(
        outline=outline,
        vae=vae,
        shift=scheduler.config.shift,
        audio_shift=scheduler.config.audio_shift,
        num_train_timesteps=scheduler.config.num_train_timesteps,
        solver=scheduler.config.solver,
        last_sigma=scheduler.config.last_sigma,
        reads_transcripts=saved.has("spoken_text_encoder"),
    )
    return make_patcher(JovaModel(transformer, checkpoint, compute_dtype))


def check_fits(transformer: Any, outline: Any) -> None:
    """Refuse a transformer of another pipeline."""
    config = transformer.config
    wanted = (outline.video_codec.num_channels, outline.audio_codec.latent_channels)
    got = (config.out_channels, config.audio_in_channels)
    if wanted != got:
        raise ValueError(
            f"`file` must hold a transformer for the latents of `pipeline`, {wanted[0]} channels of video and "
            f"{wanted[1]} of sound, got {got[0]} and {got[1]}; choose the pipeline that it was trained with"
        )
    jova("component_fit").check_skip_layer(transformer, outline.config.negative_skip_layer)
