"""ReDimNet: what a voice is, as one vector, from its sound; a network that passes between planes and rows.

Yakovlev et al., "Reshape Dimensions Network for Speaker Recognition" (arXiv:2407.18223). Each stage reads a mixture of
all outputs before it, unfolds its rows to planes of frequencies for convolutions, and folds them again for layers over
time. Layers bear the names of the public checkpoints of IDRnD/ReDimNet (MIT), which this package does not have, but
for those that are counted there: `stored_name` tells them.

Held to the public code (@ c994fce), with random weights and statistics of norms and one sound of 3 s, vectors lay
2.7e-7 to 9.9e-7 of their length apart in float32; the public code itself lay 1.3e-7 to 6.9e-7 from its network in
float64. Eleven configs had each kind of layer over time, of planes and of spectrogram, the largest 4.9 million
parameters. The released weights were not tried.

Letters: B sounds, S samples, M mel bands, T frames, F frequencies of a plane, C channels, D numbers of a row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .redimnet_config import ReDimNetConfig, Stage


NORM_EPS = 1e-6
NUM_HEADS = 4
POSITION_KERNEL = 59  # frames
POOL_WIDTH, LEAST_VARIANCE = 128, 1e-7
KERNELS_OVER_TIME = {"conv": ((7, 15, 31),) * 4, "conv+att": ((7,), (19,), (31,), (59,))}


def planes(rows: Tensor, num_frequencies: int) -> Tensor:
    """Rows [B, F C, T] to planes [B, C, F, T]."""
    return rows.unflatten(1, (num_frequencies, -1)).transpose(1, 2)


def rows_of(planes: Tensor) -> Tensor:
    """Planes [B, C, F, T] to rows [B, F C, T]."""
    return planes.transpose(1, 2).flatten(1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels [B, C, ...]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Norm at each place."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Mixture(nn.Module):
    """A mean of outputs, weighted for each channel."""

    def __init__(self, num_outputs: int, channels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, num_outputs, channels if num_outputs > 1 else 1, 1))

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Rows [B, F C, T] of each output to the same shape."""
        return (self.w.softmax(1) * torch.stack(list(outputs), 1)).sum(1)


class ConvNeXtBlock(nn.Module):
    """Convolutions of a few channels each, over time or over planes, and one that mixes the channels."""

    def __init__(self, channels: int, kernels: Sequence[int], num_groups: int, is_flat: bool) -> None:
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if is_flat else (nn.Conv1d, nn.BatchNorm1d)
        many = channels * len(kernels)
        self.dwconvs = nn.ModuleList(
            convolution(channels, channels, kernel, padding="same", groups=num_groups) for kernel in kernels
        )
        self.norm, self.pwconv1 = norm(many), convolution(many, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Channels [B, C, ...] to the same shape."""
        mixed: Tensor = self.pwconv1(F.gelu(self.norm(torch.cat([conv(x) for conv in self.dwconvs], dim=1))))
        return x + mixed


class FrequencyGate(nn.Module):
    """How much of each frequency passes, by the means of all."""

    def __init__(self, num_frequencies: int, width: int) -> None:
        super().__init__()
        self.squeeze, self.exitation = nn.Linear(num_frequencies, width), nn.Linear(width, num_frequencies)

    def forward(self, x: Tensor) -> Tensor:
        """Planes [B, C, F, T] to the same shape."""
        gate = self.exitation(F.relu(self.squeeze(x.mean(dim=(1, 3))))).sigmoid()
        return x * gate[:, None, :, None]


class ResidualBlock(nn.Module):
    """Two convolutions beside the planes, which perhaps pass a gate of frequencies."""

    def __init__(self, channels: int, num_groups: int | None, num_frequencies: int, has_gate: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Conv2d(channels, channels, 3, padding=1, groups=num_groups or 1, bias=False) for _ in range(2)
        )
        self.conv1pw, self.conv2pw = (
            nn.Identity() if num_groups is None else nn.Conv2d(channels, channels, 1) for _ in range(2)
        )
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        width = min(64, max(channels, 32))
        self.se = FrequencyGate(num_frequencies, width) if has_gate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Planes [B, C, F, T] to the same shape; the first norm lies behind its ReLU."""
        inner = self.bn1(F.relu(self.conv1pw(self.conv1(x))))
        return F.relu(x + self.se(self.bn2(self.conv2pw(self.conv2(inner)))))


class PositionConvolution(nn.Module):
    """Tells rows where they stand, by those around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, POSITION_KERNEL, padding="same", groups=width)
        self.norm = ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, D, T] to the same shape."""
        placed: Tensor = self.norm(self.conv(x))
        return x + placed


class AttentionLayer(nn.Module):
    """A layer of a transformer with its norms behind."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        names = ("k_proj", "v_proj", "q_proj", "out_proj")
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.layer_norm, self.final_layer_norm = (nn.LayerNorm(width, eps=NORM_EPS) for _ in range(2))
        layers = {"intermediate_dense": nn.Linear(width, inner_width), "act": nn.GELU(approximate="tanh")}
        self.feed_forward = nn.Sequential(OrderedDict(layers, output_dense=nn.Linear(inner_width, width)))

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, D, T] to the same shape."""
        x = x.transpose(1, 2)
        parts = (self.attention[name](x).unflatten(-1, (NUM_HEADS, -1)) for name in ("q_proj", "k_proj", "v_proj"))
        attended = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
        x = self.layer_norm(x + self.attention["out_proj"](attended.transpose(1, 2).flatten(2)))
        return self.final_layer_norm(x + self.feed_forward(x)).transpose(1, 2)


class TimeBlock(nn.Module):
    """Layers over time, in fewer channels, beside the rows."""

    def __init__(self, kind: str, channels: int, width: int) -> None:
        super().__init__()
        if width % NUM_HEADS and kind.endswith("att"):
            raise ValueError(f"{width} channels for {NUM_HEADS} heads")
        self.red_dim_conv = nn.Sequential(nn.Conv1d(channels, width, 1), ChannelNorm(width))
        self.tcm = nn.Sequential(*LAYERS_OVER_TIME[kind](width))
        self.exp_dim_conv = nn.Conv1d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, F C, T] to the same shape."""
        seen: Tensor = self.exp_dim_conv(self.tcm(self.red_dim_conv(x)))
        return x + seen


def _convolutions(kind: str, width: int) -> list[nn.Module]:
    return [ConvNeXtBlock(width, kernels, width, is_flat=False) for kernels in KERNELS_OVER_TIME[kind]]


def _perceptron(width: int) -> list[nn.Module]:
    return [nn.Conv1d(width, 2 * width, 1), ChannelNorm(2 * width), nn.GELU(), nn.Conv1d(2 * width, width, 1)]


LAYERS_OVER_TIME: dict[str, Callable[[int], list[nn.Module]]] = {
    "fc": _perceptron,
    "conv": lambda width: _convolutions("conv", width),
    "att": lambda width: [PositionConvolution(width), AttentionLayer(width, 2 * width)],
    "conv+att": lambda width: [*_convolutions("conv+att", width), AttentionLayer(width, width)],
}
PLANE_BLOCKS: dict[str, Callable[[int, int | None, int], nn.Module]] = {
    "convnext_like": lambda channels, groups, _: ConvNeXtBlock(channels, (3,), groups or 1, is_flat=True),
    "basic_resnet": lambda channels, groups, num: ResidualBlock(channels, groups, num, has_gate=False),
    "basic_resnet_fwse": lambda channels, groups, num: ResidualBlock(channels, groups, num, has_gate=True),
}


class ReDimNetStage(nn.Module):
    """One stage: fewer frequencies with more channels, blocks of planes, layers over time.

    Args:
        config: Of the network.
        stage: What its config says of this one.
        index: Of the stage: so many outputs lie before it, and that of the stem.
        channels, num_frequencies: Of the planes in front of it.
    """

    def __init__(self, config: ReDimNetConfig, stage: Stage, index: int, channels: int, num_frequencies: int) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        after, num_after = stage.stride * channels, num_frequencies // stage.stride
        many, num_rows = int(after * stage.widening), config.num_mels * config.channels
        self.mixture = Mixture(index + 1, num_rows)
        self.entry = nn.Conv2d(channels, many, (stage.stride, 1), (stage.stride, 1))
        block, groups = PLANE_BLOCKS[config.plane_block], config.groups_of(many)
        self.blocks = nn.ModuleList(block(many, groups, num_after) for _ in range(stage.num_blocks))
        self.narrow = nn.Sequential() if stage.widening == 1 else _narrow(many, after, config.groups_of(after))
        width = None if stage.narrowing is None else num_rows // stage.narrowing
        self.over_time = nn.Identity() if width is None else TimeBlock(config.time_block, num_rows, width)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Outputs [B, F C, T] before it to one more."""
        x = self.entry(planes(self.mixture(outputs), self.num_frequencies))
        for block in self.blocks:
            x = block(x)
        seen: Tensor = self.over_time(rows_of(self.narrow(x)))
        return seen


def _narrow(channels: int, out: int, num_groups: int | None) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, 3, padding=1, groups=num_groups or 1)
    return nn.Sequential(convolution, nn.BatchNorm2d(out, eps=NORM_EPS), nn.GELU(), nn.Conv2d(out, out, 1))


class AttentiveStatistics(nn.Module):
    """Mean and deviation of rows over time, weighted by the rows, perhaps beside their plain statistics."""

    def __init__(self, channels: int, reads_statistics: bool) -> None:
        super().__init__()
        self.reads_statistics = reads_statistics
        self.linear1 = nn.Conv1d(channels * (3 if reads_statistics else 1), POOL_WIDTH, 1)
        self.linear2 = nn.Conv1d(POOL_WIDTH, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, D, T] to [B, 2 D]."""
        read = [x]
        if self.reads_statistics:
            deviation = (x.var(-1, keepdim=True) + LEAST_VARIANCE).sqrt()
            read += [x.mean(-1, keepdim=True).expand_as(x), deviation.expand_as(x)]
        weights = self.linear2(self.linear1(torch.cat(read, dim=1)).tanh()).softmax(-1)
        mean = (weights * x).sum(-1)
        variance = (weights * x.square()).sum(-1) - mean.square()
        return torch.cat([mean, variance.clamp(min=LEAST_VARIANCE).sqrt()], dim=1)


class ReDimNet(nn.Module):
    """The network behind its spectrogram."""

    def __init__(self, config: ReDimNetConfig) -> None:
        super().__init__()
        channels, num_frequencies = config.channels, config.num_mels
        num_rows = channels * num_frequencies
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), ChannelNorm(channels))
        stages = []
        for index, stage in enumerate(config.stages):
            stages.append(ReDimNetStage(config, stage, index, channels, num_frequencies))
            channels, num_frequencies = stage.stride * channels, num_frequencies // stage.stride
        self.stages = nn.ModuleList(stages)
        self.mixture = Mixture(len(stages) + 1, num_rows)
        self.mfa, width = nn.Sequential(), num_rows
        if config.width is not None:
            self.mfa, width = (
                nn.Sequential(nn.Conv1d(num_rows, config.width, 1), nn.BatchNorm1d(config.width)),
                config.width,
            )
        self.pool = AttentiveStatistics(width, config.reads_statistics)
        self.bn, self.linear = nn.BatchNorm1d(2 * width), nn.Linear(2 * width, config.dim)
        self.bn2 = nn.BatchNorm1d(config.dim) if config.has_last_norm else nn.Identity()

    def forward(self, mels: Tensor) -> Tensor:
        """Spectrograms [B, M, T] to vectors [B, D]."""
        outputs = [rows_of(self.stem(mels[:, None]))]
        for stage in self.stages:
            outputs.append(stage(outputs))
        vector: Tensor = self.bn2(self.linear(self.bn(self.pool(self.mfa(self.mixture(outputs))))))
        return vector


def stored_name(name: str, config: ReDimNetConfig) -> str:
    """The name in a public checkpoint of a tensor of `ReDimNet`: there the layers of a stage are counted."""
    part, _, rest = name.partition(".")
    if part == "stages":
        number, layer, inner = rest.split(".", 2)
        stage = config.stages[int(number)]
        behind = 3 + stage.num_blocks
        places = {"mixture": 0, "entry": 2, "narrow": behind, "over_time": behind + (2 if stage.widening != 1 else 1)}
        if layer == "blocks":
            block, _, inner = inner.partition(".")
            return f"backbone.stage{number}.{3 + int(block)}.conv_block.{inner}"
        return f"backbone.stage{number}.{places[layer]}.{inner}"
    return {"stem": f"backbone.{name}", "mfa": f"backbone.{name}", "mixture": f"backbone.fin_wght1d.{rest}"}.get(
        part, name
    )
