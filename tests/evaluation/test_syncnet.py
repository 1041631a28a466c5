"""The network has the layout of the public weights, computes what torch's functions do, and refuses other files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_jova.evaluation.syncnet import SyncNet, read_syncnet


PUBLIC_NUMBERS = 13_640_256  # of the public file, 54.6 MB
CONVS, NORMS = (0, 4, 8, 11, 14, 18), (1, 5, 9, 12, 15, 19)  # of both towers, as its names count
# fmt: off
SHAPES = {
    "netcnnaud": ((64, 1, 3, 3), (192, 64, 3, 3), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3),
                  (512, 256, 5, 4)),
    "netcnnlip": ((96, 3, 5, 7, 7), (256, 96, 1, 5, 5), (256, 256, 1, 3, 3), (256, 256, 1, 3, 3), (256, 256, 1, 3, 3),
                  (512, 256, 1, 6, 6)),
}
# fmt: on
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Random weights under the public names, without torch's counters, as the file of 2017 is."""
    generator = torch.Generator().manual_seed(0)
    state: Weights = {}

    def norm(name: str, size: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            state[f"{name}.{part}"] = 0.1 * torch.randn(size, generator=generator) + (part == "weight")
        state[f"{name}.running_var"] = 0.5 + torch.rand(size, generator=generator)

    def layer(name: str, shape: tuple[int, ...]) -> None:
        fan_in = torch.Size(shape[1:]).numel()
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)

    for tower, shapes in SHAPES.items():
        for conv, number, shape in zip(CONVS, NORMS, shapes, strict=True):
            layer(f"{tower}.{conv}", shape)
            norm(f"{tower}.{number}", shape[0])
    for head in ("netfcaud", "netfclip"):
        layer(f"{head}.0", (512, 512))
        norm(f"{head}.1", 512)
        layer(f"{head}.3", (1024, 512))
    return state


@pytest.fixture(scope="module")
def file(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    torch.save(weights, path)
    return path


def block(x: Tensor, weights: Weights, tower: str, number: int, **options: object) -> Tensor:
    """Convolution, norm and ReLU, by functions."""
    conv, norm = f"{tower}.{CONVS[number]}", f"{tower}.{NORMS[number]}"
    convolve = F.conv2d if tower == "netcnnaud" else F.conv3d
    x = convolve(x, weights[f"{conv}.weight"], weights[f"{conv}.bias"], **options)  # type: ignore[operator]
    return F.relu(normed(x, weights, norm))


def normed(x: Tensor, weights: Weights, norm: str) -> Tensor:
    mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
    return F.batch_norm(x, mean, variance, weights[f"{norm}.weight"], weights[f"{norm}.bias"])


def head(x: Tensor, weights: Weights, name: str) -> Tensor:
    x = F.linear(x.flatten(1), weights[f"{name}.0.weight"], weights[f"{name}.0.bias"])
    return F.linear(F.relu(normed(x, weights, f"{name}.1")), weights[f"{name}.3.weight"], weights[f"{name}.3.bias"])


def test_the_weights_are_as_many_as_the_public_file_has(weights: Weights) -> None:
    named = {name: tensor.shape for name, tensor in SyncNet().state_dict().items() if "num_batches" not in name}
    assert named == {name: tensor.shape for name, tensor in weights.items()}
    assert sum(shape.numel() for shape in named.values()) == PUBLIC_NUMBERS


def test_sound_is_embedded_as_by_plain_functions(weights: Weights, file: Path) -> None:
    sound = 10 * torch.randn(2, 1, 13, 20, generator=torch.Generator().manual_seed(1))
    x = block(sound, weights, "netcnnaud", 0, padding=1)
    x = F.max_pool2d(block(x, weights, "netcnnaud", 1, padding=1), 3, stride=(1, 2))
    for number in (2, 3):
        x = block(x, weights, "netcnnaud", number, padding=1)
    x = F.max_pool2d(block(x, weights, "netcnnaud", 4, padding=1), 3, stride=2)
    expected = head(block(x, weights, "netcnnaud", 5), weights, "netfcaud")
    torch.testing.assert_close(read_syncnet(file).embed_sound(sound), expected)


def test_lips_are_embedded_as_by_plain_functions(weights: Weights, file: Path) -> None:
    lips = 255 * torch.rand(1, 3, 5, 224, 224, generator=torch.Generator().manual_seed(2))
    x = block(lips, weights, "netcnnlip", 0, stride=(1, 2, 2))
    x = block(F.max_pool3d(x, (1, 3, 3), (1, 2, 2)), weights, "netcnnlip", 1, stride=(1, 2, 2), padding=(0, 1, 1))
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1))
    for number in (2, 3, 4):
        x = block(x, weights, "netcnnlip", number, padding=(0, 1, 1))
    x = block(F.max_pool3d(x, (1, 3, 3), (1, 2, 2)), weights, "netcnnlip", 5)
    embedded = read_syncnet(file).embed_lips(lips)
    assert embedded.shape == (1, 1024)
    torch.testing.assert_close(embedded, head(x, weights, "netfclip"), rtol=1e-4, atol=1e-3 * float(embedded.std()))


def test_another_network_is_refused_by_the_names_and_shapes_that_miss(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(nn.Linear(3, 4).state_dict(), path)
    with pytest.raises(ValueError, match=r"must be the weights of SyncNet, got another network's \(no netcnnaud.0.w"):
        read_syncnet(path)
    torch.save(weights | {"netfclip.3.weight": torch.zeros(512, 512)}, path)
    with pytest.raises(ValueError, match=r"netfclip.3.weight of \[512, 512\] in place of \[1024, 512\]"):
        read_syncnet(path)
    torch.save(weights | {"extra.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"\(extra.weight beyond them\); give syncnet_v2.model"):
        read_syncnet(path)


def test_a_pickled_module_is_refused_and_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "whole.model"
    torch.save(nn.Linear(3, 4), path)
    with pytest.raises(ValueError, match="a pickle that names code; it was not executed"):
        read_syncnet(path)


def test_weights_that_are_not_finite_are_refused(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "broken.model"
    torch.save(weights | {"netfcaud.3.bias": torch.full((1024,), torch.nan)}, path)
    with pytest.raises(ValueError, match="must hold finite weights, got NaN or infinity in netfcaud"):
        read_syncnet(path)
