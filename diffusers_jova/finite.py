"""Nothing that is not finite enters or leaves a call: what is given is checked once, the samples after every step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def check_finite_inputs(given: Mapping[str, Tensor | None], advice: str = "check what made it") -> None:
    """Refuse tensors with NaN or infinity.

    Args:
        given: What a call is given, of any shape, by the name of its argument.
        advice: What to do about it.

    Raises:
        ValueError: Naming the argument.
    """
    for name, tensor in given.items():
        if tensor is not None and not is_finite(tensor):
            raise ValueError(f"`{name}` must be finite, got NaN or infinity; {advice}")


def check_finite_samples(
    samples: Mapping[str, Tensor], step: int, num_steps: int, transformer: nn.Module, by_callback: bool = False
) -> None:
    """Refuse samples with NaN or infinity, and say where they began.

    Args:
        samples: Latents of each modality that takes part, of any shape.
        step: Index of the step that made them.
        num_steps: Of the call.
        transformer: Its weights are looked at once something is wrong.
        by_callback: Whether they come out of a callback, not out of the step itself.

    Raises:
        FloatingPointError: Naming the modality, the step and the likely cause.
    """
    broken = [name for name, x in samples.items() if not is_finite(x)]
    if broken:
        cause = "a callback returned it" if by_callback else likely_cause(transformer)
        raise FloatingPointError(
            f"the latents of {' and '.join(broken)} must be finite, got NaN or infinity in step {step + 1} of "
            f"{num_steps}; {cause}"
        )


def finite_output(tensor: Tensor, component: str, work: str, by: str | None = None) -> Tensor:
    """What a codec made, as it is.

    Args:
        tensor: Of any shape.
        component: Name of the codec in its pipeline.
        work: What it did, as a verb: encodes or decodes.
        by: Name of the component behind it that made this of what was finite; None for itself.

    Raises:
        FloatingPointError: If it holds NaN or infinity, naming the component.
    """
    if not is_finite(tensor):
        made_by, whom = ("", "it") if by in (None, component) else (f" of its `{by}`", f"`{by}`")
        raise FloatingPointError(
            f"what `{component}` {work} must be finite, got NaN or infinity{made_by}; load {whom} in float32, or anew"
        )
    return tensor


def likely_cause(transformer: nn.Module) -> str:
    """What most likely made a prediction of this transformer infinite, and what to do."""
    for name, weight in transformer.named_parameters():
        if not is_finite(weight):
            kind = "adapter" if "lora_" in name else "transformer"
            return f"`{name}` of the {kind} is not finite, load it anew"
    if any(weight.dtype == torch.float16 for weight in transformer.parameters()):
        return "float16 ends at 65504, load the transformer in bfloat16"
    return "a guidance scale, an adapter's scale or a noise level is likely too large, lower it"


def check_finite_weights(model: nn.Module) -> None:
    """Refuse to save weights with NaN or infinity, which no call takes.

    Raises:
        ValueError: Naming the first one.
    """
    for name, weight in model.named_parameters():
        if not is_finite(weight):
            raise ValueError(f"weights must be finite to be saved, got NaN or infinity in `{name}`; load it anew")


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; a tensor without a device for its values is."""
    if tensor.device.type == "meta" or not tensor.is_floating_point():
        return True
    if tensor.dtype.itemsize == 1:  # float8 has no kernel for it
        tensor = tensor.to(torch.float16)
    return bool(tensor.isfinite().all())
