"""Adapters as patches that core applies to weights and takes back."""

import logging
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.weight_adapter
import torch
from torch import Tensor

from .package import jova


logger = logging.getLogger(__name__)

PREFIX = "diffusion_model."


class JovaDoRA(comfy.weight_adapter.WeightAdapterBase):
    """A DoRA as peft applies it: core's own divides by the length of the unchanged rows.

    Args:
        pair: lora_A [rank, in] and lora_B [out, rank].
        magnitude: Lengths of the rows, [out] in any shape.
        alpha: The scale is alpha / rank; None for a scale of 1.
    """

    name = "jova_dora"

    def __init__(self, pair: tuple[Tensor, Tensor], magnitude: Tensor, alpha: float | None) -> None:
        self.weights = [*pair, magnitude]
        self.loaded_keys: set[str] = set()
        self.scale = 1.0 if alpha is None else alpha / len(pair[0])

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """The changed weight [out, in]; a strength of 0 changes nothing."""
        if strength == 0:
            return weight
        cast = comfy.model_management.cast_to_device
        down, up, magnitude = (cast(part, weight.device, intermediate_dtype) for part in self.weights)
        return (
            jova("adapter_file").merge_dora(weight, (strength * self.scale) * (up @ down), magnitude).to(weight.dtype)
        )


def apply_adapter(model: Any, path: str, strength: float, audio_strength: float, skip_unknown: bool = False) -> Any:
    """The same model with an adapter of any tool; the given handle stays as it is.

    Args:
        model: Handle of a JoVA model.
        path: Of a file.
        strength: For layers of the video, and those that serve both.
        audio_strength: For layers of the audio.
        skip_unknown: Leave out what the model has no place for, and say how much.

    Raises:
        ValueError: The adapter does not fit completely.
    """
    adapter = jova("adapter_file").read_adapter(path)
    if adapter.few_steps is not None:
        logger.warning(
            f"{Path(path).name} is a student made for {adapter.few_steps}: set the steps, the sampler `euler`, every "
            "guidance to 1 and, by JoVA Sample Shift, the shifts; anything else gives noise"
        )
    adapter = jova("adapter_layers").fitting(adapter, model.model.diffusion_model, skip_unknown)
    patches = patches_of(adapter)
    patched = model.clone()
    branch_of = jova("weight_branches").branch_of
    for is_audio, weight in ((False, strength), (True, audio_strength)):
        chosen = {key: patch for key, patch in patches.items() if (branch_of(key) == "audio") == is_audio}
        if lost := set(chosen) - set(patched.add_patches(chosen, weight)):
            raise ValueError(f"adapter must change weights of this model, got {sorted(lost)}, which it does not have")
    return patched


def patches_of(adapter: Any) -> dict[str, Any]:
    """Core's patches of an adapter, by the weights that they change.

    Raises:
        ValueError: Core has none for a change: it skips in silence what it does not know.
    """
    names, files = jova("adapter_keys"), jova("adapter_file")
    layers = {f"{PREFIX}{module}": f"{PREFIX}{module}.weight" for module in adapter.modules()}
    patches: dict[str, Any] = comfy.lora.load_lora(files.for_comfy(adapter), layers)
    for module in adapter.modules():
        parts = adapter.of_module(module)
        if names.MAGNITUDE in parts:
            pair = (parts[names.MATRIX_A], parts[names.MATRIX_B])
            dora = JovaDoRA(pair, parts[names.MAGNITUDE], adapter.alphas.get(module))
            patches[f"{PREFIX}{module}.weight"] = dora
    changed = {key.rpartition(".")[0] for key in patches}
    if lost := [layer for layer in layers if layer not in changed]:
        raise ValueError(
            f"every change of an adapter must have a place in ComfyUI, got none for {lost[:3]}; save it as a plain "
            "LoRA with `jova convert lora`"
        )
    return patches
