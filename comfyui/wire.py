"""Latents are raw between nodes, as core's VAE nodes give and take them, and carried otherwise while they are sampled.

Raw are video [B, C, F, h, w] and sound [B, C, L], nested in this order. Inside the sampler the video is normalised and
the sound carried as `SharedSigma` says; `sample_raw` converts on entry and exit, and checks what is sampled.

Letters in shapes: B batch, C channels, F latent frames, h, w latent height and width, L audio latents.
"""

from collections.abc import Callable, Sequence
from typing import Any

import comfy.utils
from torch import Tensor

from .first_frame import settle_first_frame
from .latent_parts import MODALITIES, named_parts
from .overshoot import MASK_ADVICE, to_unit
from .package import jova
from .reference_voice import check_same_voice
from .sampling_checks import check_belongings, check_latents, check_patches
from .schedule import warn_of_other_levels


class Wire:
    """Latents between nodes and inside the sampler.

    Args:
        patcher: Of the model that is sampled.
        shapes: Of the latents.
    """

    def __init__(self, patcher: Any, shapes: Sequence[Sequence[int]]) -> None:
        self.shapes = shapes
        self.codec = patcher.model.checkpoint.outline.video_codec
        self.shared = patcher.get_model_object("shared_sigma")

    def enter(self, latents: Tensor) -> Tensor:
        """Raw latents as the sampler carries them; zeros are empty and stay so."""
        return self._map(
            latents, lambda video: self.codec.normalize(video) if bool(video.any()) else video, self.shared.carry
        )

    def leave(self, latents: Tensor) -> Tensor:
        """The inverse."""
        return self._map(latents, self.codec.denormalize, self.shared.recover)

    def _map(
        self, latents: Tensor, of_video: Callable[[Tensor], Tensor], of_audio: Callable[[Tensor], Tensor]
    ) -> Tensor:
        parts = [
            of_video(part) if part.ndim == 5 else of_audio(part)
            for part in comfy.utils.unpack_latents(latents, self.shapes)
        ]
        return comfy.utils.pack_latents(parts)[0] if len(parts) > 1 else parts[0]


def sample_raw(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Callable[..., None] | None = None,
    *rest: Any,
    latent_shapes: Sequence[Sequence[int]] | None = None,
    **options: Any,
) -> Tensor:
    """Sample latents that are raw outside: a wrapper around core's whole sampling.

    Raises:
        FloatingPointError: A prediction holds NaN or infinity; the message names modality, step and likely cause.
    """
    patcher = executor.class_obj.model_patcher
    model = patcher.model
    check_patches(patcher.model_options, patcher.object_patches)
    wire = Wire(patcher, latent_shapes or [latent_image.shape])
    check_belongings(executor.class_obj.conds)
    check_latents(model.diffusion_model.config, model.checkpoint.outline, latent_image, wire.shapes)
    if denoise_mask is not None:
        denoise_mask = to_unit("the noise mask of `latent_image`", denoise_mask, MASK_ADVICE)
    jova("finite").check_finite_inputs({"latent_image": latent_image}, "sample it anew")
    settle_first_frame(executor.class_obj.conds, model, wire.shapes, denoise_mask)
    check_same_voice(executor.class_obj.conds)
    warn_of_other_levels(patcher, sigmas)

    def call_back(step: int, data: Tensor, sample: Tensor, num_steps: int) -> None:
        parts = named_parts(comfy.utils.unpack_latents(data, wire.shapes))
        found = {name: part for name, part in zip(MODALITIES, parts, strict=True) if part is not None}
        jova("finite").check_finite_samples(found, step, num_steps, model.diffusion_model)
        if callback is not None:
            callback(step, wire.leave(data), sample, num_steps)  # packed and whole: a sampler's second output

    output = executor(
        noise,
        wire.enter(latent_image),
        sampler,
        sigmas,
        denoise_mask,
        call_back,
        *rest,
        latent_shapes=latent_shapes,
        **options,
    )
    return wire.leave(output)
