"""Synchformer: how far the sound of 14 segments of 0.64 s lies from their pictures, one of 21 offsets up to 2 s.

Iashin et al. (arXiv:2401.16423). Layers bear the names of the public weights `24-01-04T16-39-21`, which this package
does not have: a MotionFormer of divided attention for pictures, an AST for sound, and three layers over both.

Letters: B segments, T frames or columns, N patches of one of them, L rows, H heads, K numbers of a head, D of a row.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_jova.torch_files import check_weights, read_pickle


NUM_SEGMENTS, SEGMENT_FRAMES = 14, 16
SIZE_PX, PATCH, TUBELET = 224, 16, 2
MELS, COLUMNS, STRIDE = 128, 66, 10  # of a segment's sound
NUM_OFFSETS, LARGEST_S = 21, 2.0


class Sizes(NamedTuple):
    """Of the network."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    global_depth: int = 3
    global_heads: int = 8


PUBLIC = Sizes()


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of rows [..., L, D] of a number of heads."""
    parts = [rows.unflatten(-1, (heads, -1)).transpose(-3, -2) for rows in (query, key, value)]
    return F.scaled_dot_product_attention(*parts).transpose(-3, -2).flatten(-2)


class DividedAttention(nn.Module):
    """Patches attend over time, or over space, and to the class row, which attends to all."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv, self.proj = nn.Linear(sizes.width, 3 * sizes.width), nn.Linear(sizes.width, sizes.width)

    def forward(self, rows: Tensor, num_frames: int, *, is_over_time: bool) -> Tensor:
        """Rows [B, 1 + T N, D] to the same shape."""
        query, key, value = self.qkv(rows).chunk(3, dim=-1)
        of_class = attend(query[:, :1], key, value, self.heads)

        def apart(part: Tensor) -> Tensor:  # [B, T, N, D], or [B, N, T, D]
            patches = part[:, 1:].unflatten(1, (num_frames, -1))
            return patches.transpose(1, 2) if is_over_time else patches

        def with_class(part: Tensor) -> Tensor:
            patches = apart(part)
            return torch.cat([part[:, None, :1].expand(-1, patches.shape[1], -1, -1), patches], dim=2)

        of_patches = attend(apart(query), with_class(key), with_class(value), self.heads)
        of_patches = of_patches.transpose(1, 2) if is_over_time else of_patches
        attended: Tensor = self.proj(torch.cat([of_class, of_patches.flatten(1, 2)], dim=1))
        return attended


class DividedBlock(nn.Module):
    """Attention over time, over space, and a perceptron."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attn, self.timeattn = DividedAttention(sizes), DividedAttention(sizes)
        layers = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, rows: Tensor, num_frames: int) -> Tensor:
        """Rows [B, 1 + T N, D] to the same shape."""
        rows = rows + self.timeattn(self.norm3(rows), num_frames, is_over_time=True)
        rows = rows + self.attn(self.norm1(rows), num_frames, is_over_time=False)
        return rows + self.mlp(self.norm2(rows))


class SummaryLayer(nn.TransformerEncoderLayer):
    """A layer that sums rows up in one of its own."""

    def __init__(self, sizes: Sizes) -> None:
        width = sizes.width
        super().__init__(width, sizes.heads, 4 * width, 0.0, F.gelu, 1e-6, batch_first=True, norm_first=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))

    def summarize(self, rows: Tensor) -> Tensor:
        """Rows [B, L, D] to one [B, D]."""
        summed: Tensor = super().forward(torch.cat([self.cls_token.expand(len(rows), -1, -1), rows], dim=1))
        return summed[:, 0]


class PictureTower(nn.Module):
    """MotionFormer with divided attention, and a summary of each pair of frames."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, num_patches = sizes.width, (SIZE_PX // PATCH) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, width))
        self.temp_embed = nn.Parameter(torch.zeros(1, SEGMENT_FRAMES // TUBELET, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})  # of the file, and not read
        kernel = (TUBELET, PATCH, PATCH)
        self.patch_embed_3d = nn.ModuleDict({"proj": nn.Conv3d(3, width, kernel, kernel)})
        self.blocks = nn.ModuleList([DividedBlock(sizes) for _ in range(sizes.depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.spatial_attn_agg = SummaryLayer(sizes)

    def forward(self, frames: Tensor) -> Tensor:
        """Segments [B, 3, 16, 224, 224] to [B, 8, D]."""
        patches = self.patch_embed_3d["proj"](frames).flatten(3).movedim(1, -1)  # [B, T, N, D]
        num_frames = patches.shape[1]
        patches = patches + self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(frames), -1, -1)
        rows = torch.cat([first, patches.flatten(1, 2)], dim=1)
        for block in self.blocks:
            rows = block(rows, num_frames)
        patches = self.norm(rows[:, 1:]).unflatten(1, (num_frames, -1))
        return self.spatial_attn_agg.summarize(patches.flatten(0, 1)).unflatten(0, (-1, num_frames))


class SoundLayer(nn.Module):
    """A layer of AST, under its names."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.heads
        parts = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"attention": parts, "output": _dense(width, width)})
        self.intermediate, self.output = _dense(width, 4 * width), _dense(4 * width, width)
        self.layernorm_before, self.layernorm_after = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [B, L, D] to the same shape."""
        normed, parts = self.layernorm_before(rows), self.attention["attention"]
        query, key, value = (parts[name](normed) for name in ("query", "key", "value"))  # type: ignore[index]
        rows = rows + self.attention["output"]["dense"](attend(query, key, value, self.heads))  # type: ignore[index]
        widened = F.gelu(self.intermediate["dense"](self.layernorm_after(rows)))
        return rows + self.output["dense"](widened)


def _dense(width: int, out: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(width, out)})


class SoundEmbeddings(nn.Module):
    """Patches of a mel spectrogram as rows, behind two of their own."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        num_patches = ((MELS - PATCH) // STRIDE + 1) * ((COLUMNS - PATCH) // STRIDE + 1)
        self.cls_token, self.distillation_token = (nn.Parameter(torch.zeros(1, 1, sizes.width)) for _ in range(2))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 2 + num_patches, sizes.width))
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(1, sizes.width, PATCH, STRIDE)})

    def forward(self, mels: Tensor) -> tuple[Tensor, int]:
        """Spectrograms [B, mels, columns] to rows [B, 2 + N T, D], and T."""
        patches = self.patch_embeddings["projection"](mels[:, None])  # [B, D, N, T]
        own = [token.expand(len(mels), -1, -1) for token in (self.cls_token, self.distillation_token)]
        return torch.cat([*own, patches.flatten(2).transpose(1, 2)], dim=1) + self.position_embeddings, patches.shape[
            -1
        ]


class SoundTower(nn.Module):
    """AST, and a summary of each column."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        layers = nn.ModuleDict({"layer": nn.ModuleList([SoundLayer(sizes) for _ in range(sizes.depth)])})
        norm = nn.LayerNorm(sizes.width, eps=1e-12)
        self.ast = nn.ModuleDict({"embeddings": SoundEmbeddings(sizes), "encoder": layers, "layernorm": norm})
        self.freq_attn_agg = SummaryLayer(sizes)

    def forward(self, mels: Tensor) -> Tensor:
        """Segments [B, 128, 66] to [B, 6, D]."""
        rows, num_columns = self.ast["embeddings"](mels)
        for layer in self.ast["encoder"]["layer"]:  # type: ignore[index]
            rows = layer(rows)
        patches = self.ast["layernorm"](rows)[:, 2:].unflatten(1, (-1, num_columns)).transpose(1, 2)  # [B, T, N, D]
        return self.freq_attn_agg.summarize(patches.flatten(0, 1)).unflatten(0, (-1, num_columns))


class GlobalBlock(nn.Module):
    """A layer over pictures and sound."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.global_heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("key", "query", "value", "proj")})
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [B, L, D] to the same shape."""
        normed = self.ln1(rows)
        query, key, value = (self.attn[name](normed) for name in ("query", "key", "value"))
        rows = rows + self.attn["proj"](attend(query, key, value, self.heads))
        return rows + self.mlp(self.ln2(rows))


class OffsetHead(nn.Module):
    """Rows of pictures and sound to the logits of offsets."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        per_segment = SEGMENT_FRAMES // TUBELET + (COLUMNS - PATCH) // STRIDE + 1
        self.vis_in_lnorm, self.aud_in_lnorm, self.ln_f = (nn.LayerNorm(width) for _ in range(3))
        self.OFF_tok, self.MOD_tok = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.pos_emb_cfg = nn.ParameterDict({"pos_emb": torch.zeros(1, 2 + NUM_SEGMENTS * per_segment, width)})
        self.blocks = nn.Sequential(*(GlobalBlock(sizes) for _ in range(sizes.global_depth)))
        self.off_head = nn.Linear(width, NUM_OFFSETS)

    def forward(self, pictures: Tensor, sound: Tensor) -> Tensor:
        """Rows [B, L, D] of each to logits [B, 21]."""
        off, mod = (token.expand(len(sound), -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        rows = torch.cat([off, self.vis_in_lnorm(pictures), mod, self.aud_in_lnorm(sound)], dim=1)
        logits: Tensor = self.off_head(self.ln_f(self.blocks(rows + self.pos_emb_cfg["pos_emb"]))[:, 0])
        return logits


class Synchformer(nn.Module):
    """Both towers and what compares them."""

    def __init__(self, sizes: Sizes = PUBLIC) -> None:
        super().__init__()
        self.vfeat_extractor, self.afeat_extractor = PictureTower(sizes), SoundTower(sizes)
        self.vproj, self.aproj = nn.Linear(sizes.width, sizes.width), nn.Linear(sizes.width, sizes.width)
        self.transformer = OffsetHead(sizes)

    def compare(self, pictures: Tensor, sound: Tensor) -> Tensor:
        """What the towers made of 14 segments, [14, 8, D] and [14, 6, D], to logits of offsets [21]."""
        rows = (self.vproj(pictures).flatten(0, 1)[None], self.aproj(sound).flatten(0, 1)[None])
        logits: Tensor = self.transformer(*rows)[0]
        return logits


def read_synchformer(path: Path, device: str = "cpu") -> Synchformer:
    """Read the public weights, a state dict; nothing that the file names is executed.

    Raises:
        ValueError: If the file cannot be read so, or holds the weights of another network.
    """
    given = read_pickle(path)
    with torch.device("meta"):
        network = Synchformer(PUBLIC)
    advice = "give synchformer_state_dict.pth of hkchengrex/av-benchmark"
    check_weights(path, given, network.state_dict(), "Synchformer", advice)
    network = network.to_empty(device=device)
    network.load_state_dict(given)
    return network.eval().requires_grad_(False)
