"""RAFT: how far each point of a picture has moved in the next one, by torchvision with the user's weights.

Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV 2020). torchvision is an optional
package, and brings the network without weights. Its own and those of princeton-vl/RAFT, from which torchvision ported
some, are read alike.

Letters: B pairs of pictures, H and W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusers_jova.torch_files import check_weights, read_pickle
from jova_cli.optional_packages import is_installed
from jova_cli.parser import one_line


STRIDE_PX, LEAST_PX = 8, 128  # what sides are multiples of; the least that the four levels of its pyramid need
NUM_UPDATES = 20  # of the flow
UNTRAINED = "num_batches_tracked"  # counters of torch that no result depends on
ADVICE = "give raft_large_C_T_V1-22a6c225.pth of torchvision, or raft-things.pth of princeton-vl/RAFT"
# fmt: off
RENAMED = (  # names of princeton-vl/RAFT                       of torchvision
    (r"module\.",                                              r""),
    (r"fnet\.",                                                r"feature_encoder."),
    (r"cnet\.",                                                r"context_encoder."),
    (r"(\w+_encoder)\.conv1\.",                                r"\1.convnormrelu.0."),
    (r"(\w+_encoder)\.norm1\.",                                r"\1.convnormrelu.1."),
    (r"(\w+_encoder)\.conv2\.",                                r"\1.conv."),
    (r"(\w+_encoder\.layer\d\.\d)\.conv(\d)\.",                r"\1.convnormrelu\2.0."),
    (r"(\w+_encoder\.layer\d\.\d)\.norm([12])\.",              r"\1.convnormrelu\2.1."),
    (r"(\w+_encoder\.layer\d\.\d)\.norm3\.",                   r"\1.downsample.1."),  # it stands there twice
    (r"update_block\.encoder\.convc(\d)\.",                    r"update_block.motion_encoder.convcorr\1.0."),
    (r"update_block\.encoder\.convf(\d)\.",                    r"update_block.motion_encoder.convflow\1.0."),
    (r"update_block\.encoder\.conv\.",                         r"update_block.motion_encoder.conv.0."),
    (r"update_block\.gru\.conv([zrq])(\d)\.",                  r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"update_block\.mask\.0\.",                               r"mask_predictor.convrelu.0."),
    (r"update_block\.mask\.2\.",                               r"mask_predictor.conv."),
)
# fmt: on


class Raft:
    """Tells the flow.

    Args:
        path: Of the weights.
        device: Where it runs.

    Raises:
        ImportError: If torchvision is not there, or is one for another torch.
        ValueError: If the file cannot be read, or holds the weights of another network.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        build = import_network()
        state = in_names_of_torchvision(read_pickle(path))
        with torch.device("meta"):
            network = build(weights=None, progress=False)
        wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(UNTRAINED)}
        given = {name: tensor for name, tensor in state.items() if not name.endswith(UNTRAINED)}
        check_weights(path, given, wanted, "RAFT", ADVICE)
        network = network.to_empty(device=device)
        counters = {name: torch.zeros((), dtype=torch.long) for name in network.state_dict() if name not in wanted}
        network.load_state_dict(given | counters)
        self._network, self._device = network.eval().requires_grad_(False), device

    def __call__(self, pictures: Tensor, next_pictures: Tensor) -> Tensor:
        """How far each pixel moves to the right and down, in pixels, float32 [B, 2, H, W].

        Args:
            pictures: RGB in 0..255, float32 [B, 3, H, W]; sides are multiples of `STRIDE_PX`, `LEAST_PX` or more.
            next_pictures: Likewise.
        """
        with torch.inference_mode():
            pair = ((one.to(self._device) / 127.5 - 1) for one in (pictures, next_pictures))
            flow: Tensor = self._network(*pair, num_flow_updates=NUM_UPDATES)[-1]
        return flow.cpu()


def import_network() -> Callable[..., nn.Module]:
    """What builds the network.

    Raises:
        ImportError: If torchvision is not there, or raises at its import what one for another torch does.
    """
    if not is_installed("torchvision"):
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    try:
        from torchvision.models.optical_flow import raft_large
    except Exception as error:  # a RuntimeError, an OSError or an AttributeError, by its version
        told = one_line(error).rstrip(".") or type(error).__name__
        raise ImportError(
            f"the package `torchvision` cannot be imported ({told}); install the one that belongs to torch "
            f"{torch.__version__}"
        ) from None
    return raft_large


def in_names_of_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by torchvision's names; those that have them, or that nobody knows, keep theirs."""
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(f"^{pattern}", replacement, name)
    return name
