"""Where a component computes while its weights wait elsewhere."""

from typing import Any

import torch


def execution_device(module: Any) -> torch.device:
    """Device that inputs of a module belong on: its `execution_device`, that of its offloading hooks, or its weights'.

    Sequential offloading leaves the weights on the meta device between calls, so `module.device` is no answer then.
    """
    if (device := getattr(module, "execution_device", None)) is not None:  # set by who manages memory otherwise
        return torch.device(device)
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return module.device
