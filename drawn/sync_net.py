"""A small contrastive network that hears whether a mouth moves with its sound, after SyncNet (Chung, Zisserman, 2016).

Two towers embed five frames of the mouth and a third of a second of log-mel; the offset with the smallest distance
between them is the clip's offset. LSE-D is that smallest distance, LSE-C the median over offsets less the smallest.
It knows the synthetic corpus only. `python -m diffusers_jova.drawn.sync_net` trains it (a few minutes on one core) and
writes `drawn/assets/sync_net.safetensors`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_jova.drawn.avatars import AvatarClip, make_clip
from diffusers_jova.evaluation.spectrogram import HOP_LENGTH_SAMPLES, LOG_FLOOR, log_mel


WEIGHTS = Path(__file__).parent / "assets" / "sync_net.safetensors"
FRAMES_PER_WINDOW = 5
MELS_PER_WINDOW = 20
MAX_OFFSET = 8  # frames, either way
CROP_ROWS, CROP_COLUMNS = slice(36, 60), slice(16, 48)  # of a 64 x 64 picture


class MiniSyncNet(nn.Module):
    """Two towers of three strided convolutions; about 260 thousand parameters.

    Args:
        dim: Width of the embeddings.
    """

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.video = nn.Sequential(*_tower(3 * FRAMES_PER_WINDOW), nn.Flatten(), nn.Linear(64 * 3 * 4, dim))
        self.audio = nn.Sequential(*_tower(1), nn.Flatten(), nn.Linear(64 * 10 * 3, dim))
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Embed windows of `sync_windows`; two sets of unit vectors, [N, dim] each."""
        audio = (audio + 6) / 3  # log-mel of the corpus has about this mean and spread
        return F.normalize(self.video(video), dim=-1), F.normalize(self.audio(audio), dim=-1)


def _tower(in_channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in (32, 48, 64):
        layers += [nn.Conv2d(in_channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.GELU()]
        in_channels = width
    return layers


class SyncScore(NamedTuple):
    """How well sound and mouth agree.

    Attributes:
        offset: Frames by which the picture comes later than the sound.
        lse_d: Distance at that offset; smaller is better.
        lse_c: Confidence: median distance over all offsets less the smallest; larger is better.
    """

    offset: int
    lse_d: float
    lse_c: float


def sync_windows(
    frames: npt.NDArray[np.uint8], waveform: npt.NDArray[np.floating], frame_rate: float, sampling_rate: int
) -> tuple[Tensor, Tensor]:
    """All windows of a clip that are one frame apart.

    Args:
        frames: uint8 [F, H, W, 3]; the mouth is expected where `portraits` draws it.
        waveform: [samples].
        frame_rate: Frames per second.
        sampling_rate: Of the waveform, in Hz.

    Returns:
        Mouths [N, 15, 24, 32] in [-1, 1], and the log-mel around their middles [N, 1, 80, 20]; N = F - 4.
    """
    crops = torch.from_numpy(np.ascontiguousarray(_at_64(frames)[:, CROP_ROWS, CROP_COLUMNS])).float() / 127.5 - 1
    video = crops.permute(0, 3, 1, 2).unfold(0, FRAMES_PER_WINDOW, 1)  # [N, 3, 24, 32, 5]
    video = video.permute(0, 4, 1, 2, 3).flatten(1, 2)
    middles = (np.arange(len(video)) + FRAMES_PER_WINDOW / 2) / frame_rate * sampling_rate / HOP_LENGTH_SAMPLES
    starts = torch.from_numpy(np.round(middles).astype(np.int64))  # after padding by half a window
    mel = F.pad(
        torch.from_numpy(log_mel(waveform, sampling_rate)),
        (0, 0, MELS_PER_WINDOW // 2, MELS_PER_WINDOW),
        value=LOG_FLOOR,
    )
    audio = mel[starts[:, None] + torch.arange(MELS_PER_WINDOW)].transpose(1, 2)[:, None]
    return video, audio


def _at_64(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The 64 x 64 square at the middle of the lower edge, where `Canvas` puts its drawing."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    left = (width - side) // 2
    square = frames[:, height - side :, left : left + side]
    if side == 64:
        return square
    return np.stack([np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BOX)) for frame in square])


def offset_distances(video: Tensor, audio: Tensor, max_offset: int = MAX_OFFSET) -> Tensor:
    """Mean distance of embeddings [N, dim] at each offset of the picture, [2 * max_offset + 1]."""
    count = len(video)
    distances = []
    for offset in range(-max_offset, max_offset + 1):
        late, early = max(offset, 0), max(-offset, 0)
        length = count - abs(offset)
        distances.append((video[late : late + length] - audio[early : early + length]).norm(dim=-1).mean())
    return torch.stack(distances)


@torch.no_grad()
def sync_score(
    net: MiniSyncNet,
    frames: npt.NDArray[np.uint8],
    waveform: npt.NDArray[np.floating],
    frame_rate: float = 16,
    sampling_rate: int = 16000,
) -> SyncScore:
    """Score one clip; the arguments are those of `sync_windows`."""
    video, audio = sync_windows(frames, waveform, frame_rate, sampling_rate)
    if len(video) <= MAX_OFFSET:
        raise ValueError(
            f"`frames` must be at least {MAX_OFFSET + FRAMES_PER_WINDOW} to search offsets, got {len(frames)}; "
            "use a longer clip"
        )
    distances = offset_distances(*net(video, audio))
    best = int(distances.argmin())
    smallest = float(distances[best])
    return SyncScore(best - MAX_OFFSET, smallest, float(distances.median()) - smallest)


@lru_cache(maxsize=1)
def load_sync_net() -> MiniSyncNet:
    """The trained network that is shipped with the code."""
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"`{WEIGHTS}` must exist to score sync; run `python -m diffusers_jova.drawn.sync_net`")
    net = MiniSyncNet()
    net.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return net.eval()


# Training


def contrastive_loss(net: MiniSyncNet, video: Tensor, audio: Tensor) -> Tensor:
    """InfoNCE over the windows of several clips, a scalar.

    Windows next to the right one are no negatives, because they are nearly right. What lies at the log-mel's floor is
    no anchor, so silence is one only where `_corrupted` has raised it above that.

    Args:
        net: The network.
        video: [clips, N, 15, 24, 32].
        audio: [clips, N, 1, 80, 20].
    """
    clips, windows = video.shape[:2]
    video_embedding, audio_embedding = net(video.flatten(0, 1), audio.flatten(0, 1))
    logits = video_embedding @ audio_embedding.T * net.log_scale.exp()
    index = torch.arange(clips * windows)
    is_next = ((index[:, None] - index).abs() == 1) & (index[:, None] // windows == index // windows)
    logits = logits.masked_fill(is_next, -1e4)
    voiced = audio.flatten(0, 1).mean((1, 2, 3)) > LOG_FLOOR + 0.7
    by_video = F.cross_entropy(logits[voiced], index[voiced])
    by_audio = F.cross_entropy(logits.T[voiced], index[voiced])
    return (by_video + by_audio) / 2


def _corrupted(video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """What decoders do to clips: blur and noise in the picture, noise, gain and a higher floor in the sound."""
    clips = len(video)
    blurred = F.avg_pool2d(video.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False).view_as(video)
    share = torch.rand(clips, 1, 1, 1, 1) * (torch.rand(clips, 1, 1, 1, 1) < 0.6)
    video = torch.lerp(video, blurred, share)
    video = video + 0.15 * torch.rand(clips, 1, 1, 1, 1) * torch.randn_like(video)
    video = video * (1 + 0.1 * torch.randn(clips, 1, 1, 1, 1)) + 0.08 * torch.randn(clips, 1, 1, 1, 1)
    audio = audio + 0.3 * torch.randn(clips, 1, 1, 1, 1)
    audio = audio + 0.5 * torch.rand(clips, 1, 1, 1, 1) * torch.randn_like(audio)
    floor = LOG_FLOOR + 3 * torch.rand(clips, 1, 1, 1, 1) * (torch.rand(clips, 1, 1, 1, 1) < 0.5)
    return video, torch.maximum(audio, floor)


def _training_windows(clip: AvatarClip) -> tuple[Tensor, Tensor]:
    return sync_windows(clip.frames, clip.waveform, clip.frame_rate, clip.sampling_rate)


def train(num_steps: int, num_clips: int, speeches: Sequence[str], seed: int = 10_000_000) -> MiniSyncNet:
    """Train on `num_clips` speakers from `seed` on, which no generator is trained on or measured with."""
    torch.manual_seed(0)
    speakers = (
        make_clip(seed + index, speech=speeches[index % len(speeches)], subject="speaker")
        for index in range(num_clips)
    )
    windows = [_training_windows(clip) for clip in speakers]
    video, audio = (torch.stack(parts) for parts in zip(*windows, strict=True))
    net = MiniSyncNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.5e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=num_steps)
    for step in range(num_steps):
        chosen = torch.randperm(num_clips)[:6]
        loss = contrastive_loss(net, *_corrupted(video[chosen], audio[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f}", flush=True)
    return net.eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write the weights in bfloat16."""
    parser = argparse.ArgumentParser(description="Train the sync net on the synthetic corpus.")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps of six clips")
    parser.add_argument("--clips", type=int, default=1500, help="clips to train on")
    parser.add_argument("--speech", nargs="+", default=["formant", "espeak"], help="who speaks, in turn")
    args = parser.parse_args(argv)
    net = train(args.steps, args.clips, args.speech)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.bfloat16() for name, tensor in net.state_dict().items()}, args.output)
    print(f"wrote {sum(p.numel() for p in net.parameters()):,} parameters to {args.output}")


if __name__ == "__main__":
    main()
