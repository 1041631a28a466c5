"""SyncNet: two towers that bring five pictures of a mouth, and the sound of the same 0.2 s, to one space.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (ACCV Workshops 2016). Layers bear the names of the
public weights `syncnet_v2.model`, which this package does not have.

Letters: B windows.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusers_jova.torch_files import check_weights, read_pickle


LIP_FRAMES, LIP_PX = 5, 224  # of a window of pictures
SOUND_ROWS, SOUND_COEFFICIENTS = 20, 13  # of a window of sound, a hundred rows a second
FEATURES, EMBEDDING = 512, 1024
UNTRAINED = "num_batches_tracked"  # counters of torch that older files have not, and that no result depends on


class Conv(NamedTuple):
    """A convolution with its batch norm and ReLU, and the largest of neighbours behind it.

    Attributes:
        channels: That it makes.
        kernel, stride, padding: Of the convolution.
        pool: Kernel, stride and padding of the pooling; None for none.
    """

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    pool: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None


# fmt: off
SOUND_TOWER = (  # of [coefficients, rows]
    Conv(64, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1), (0, 0))),
    Conv(192, (3, 3), (1, 1), (1, 1), ((3, 3), (1, 2), (0, 0))),
    Conv(384, (3, 3), (1, 1), (1, 1)),
    Conv(256, (3, 3), (1, 1), (1, 1)),
    Conv(256, (3, 3), (1, 1), (1, 1), ((3, 3), (2, 2), (0, 0))),
    Conv(FEATURES, (5, 4), (1, 1), (0, 0)),
)
LIP_TOWER = (  # of [frames, rows, columns]
    Conv(96, (5, 7, 7), (1, 2, 2), (0, 0, 0), ((1, 3, 3), (1, 2, 2), (0, 0, 0))),
    Conv(256, (1, 5, 5), (1, 2, 2), (0, 1, 1), ((1, 3, 3), (1, 2, 2), (0, 1, 1))),
    Conv(256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    Conv(256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    Conv(256, (1, 3, 3), (1, 1, 1), (0, 1, 1), ((1, 3, 3), (1, 2, 2), (0, 0, 0))),
    Conv(FEATURES, (1, 6, 6), (1, 1, 1), (0, 0, 0)),
)
# fmt: on


class SyncNet(nn.Module):
    """Both towers; windows that belong together lie near each other."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud, self.netfcaud = _tower(1, SOUND_TOWER), _head()
        self.netcnnlip, self.netfclip = _tower(3, LIP_TOWER), _head()

    def embed_sound(self, windows: Tensor) -> Tensor:
        """Coefficients [B, 1, 13, 20] to embeddings [B, 1024]."""
        embedding: Tensor = self.netfcaud(self.netcnnaud(windows).flatten(1))
        return embedding

    def embed_lips(self, windows: Tensor) -> Tensor:
        """Pictures [B, 3, 5, 224, 224], blue, green and red in 0..255, to embeddings [B, 1024]."""
        embedding: Tensor = self.netfclip(self.netcnnlip(windows).flatten(1))
        return embedding


def _tower(channels: int, convs: tuple[Conv, ...]) -> nn.Sequential:
    """Layers one after the other: the public names count them."""
    layers: list[nn.Module] = []
    for conv in convs:
        is_flat = len(conv.kernel) == 2
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if is_flat else (nn.Conv3d, nn.BatchNorm3d)
        layers.append(convolution(channels, conv.channels, conv.kernel, conv.stride, conv.padding))  # type: ignore[arg-type]
        layers += [norm(conv.channels), nn.ReLU(inplace=True)]
        if conv.pool is not None:
            layers.append((nn.MaxPool2d if is_flat else nn.MaxPool3d)(*conv.pool))
        channels = conv.channels
    return nn.Sequential(*layers)


def _head() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU(), nn.Linear(FEATURES, EMBEDDING)
    )


def read_syncnet(path: Path, device: str = "cpu") -> SyncNet:
    """Read the public weights, a state dict; nothing that the file names is executed.

    Raises:
        ValueError: If the file cannot be read so, or holds the weights of another network.
    """
    state = read_pickle(path)
    with torch.device("meta"):
        network = SyncNet()
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(UNTRAINED)}
    given = {name: tensor for name, tensor in state.items() if not name.endswith(UNTRAINED)}
    check_weights(path, given, wanted, "SyncNet", "give syncnet_v2.model of joonson/syncnet_python")
    network = network.to_empty(device=device)
    counters = {name: torch.zeros((), dtype=torch.long) for name in network.state_dict() if name.endswith(UNTRAINED)}
    network.load_state_dict(given | counters)
    return network.eval().requires_grad_(False)
