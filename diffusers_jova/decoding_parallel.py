"""Video decoding on several devices: each decodes some pieces of a clip, all get all of its frames.

Wan's decoder is causal: of what stands before a piece, each convolution in time reads the last frames of its own
input, and nothing else does. Devices decode neighbouring pieces layer by layer, and each hands those frames to the
next one, the last to the first for its next turn. So nothing is computed twice, and the result is that of the whole
clip. (A piece by itself would need all latents that the decoder reaches back to, which in Wan's are more than a clip
has.)

Every process gets all frames, as it would without the others: all of them return the same clip. An error in one of
them leaves the others waiting; whoever catches it has to end all.

Letters in shapes: B batch, C channels, N frames, F latent frames, H, W height and width, R processes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from .context_parallel import context_group
from .guidance_parallel import BranchSharing
from .wan_clip import decode_clip


LEAST_LATENTS = 2  # of a piece: with fewer, a convolution reads frames of two others


class Pieces(NamedTuple):
    """How a clip is cut: piece i is decoded by the process i mod R.

    Attributes:
        num_latents: Latent frames of a piece; the clip is filled up to whole pieces.
        num_turns: Pieces of each process.
    """

    num_latents: int
    num_turns: int


def cut_evenly(num_latents: int, num_processes: int, most_at_once: int) -> Pieces | None:
    """The fewest turns of pieces of the same length; None where no process would decode less than the whole clip.

    Args:
        num_latents: Latent frames of the clip.
        num_processes: R.
        most_at_once: Latent frames that fit a piece; it has two all the same.
    """
    num_turns = math.ceil(num_latents / (num_processes * max(most_at_once, LEAST_LATENTS)))
    size = max(math.ceil(num_latents / (num_processes * num_turns)), LEAST_LATENTS)
    return Pieces(size, num_turns) if size * num_turns < num_latents else None


class SharedDecoding(NamedTuple):
    """Processes that decode a clip together.

    Args:
        group: Of `torch.distributed`.
        pieces: What each of them decodes.
    """

    group: distributed.ProcessGroup
    pieces: Pieces

    def decode(self, vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
        """Frames [B, 3, N, H, W] of latents [B, C, F, h, w], on each process; clip by clip where the VAE is sliced."""
        clips = latents.split(1) if vae.use_slicing else [latents]
        return torch.cat([self.decode_clips(vae, clip) for clip in clips])

    def decode_clips(self, vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
        """The same of all clips at once."""
        rank, num_processes = distributed.get_rank(self.group), distributed.get_world_size(self.group)
        size, num_turns = self.pieces
        num_latents, factor = latents.shape[2], vae.config.scale_factor_temporal
        latents = F.pad(latents, (0, 0, 0, 0, 0, num_processes * num_turns * size - num_latents))
        handover, frames = Handover(self.group), []
        with handover.on(vae.decoder):
            for turn in range(num_turns):
                index = turn * num_processes + rank
                handover.is_last_turn = turn == num_turns - 1
                piece = decode_clip(vae, latents[:, :, index * size : (index + 1) * size], begins=index == 0)
                if index == 0:  # as long as the others, whose latents all hold several frames
                    piece = F.pad(piece, (0, 0, 0, 0, factor - 1, 0))
                everyones = [torch.empty_like(piece) for _ in range(num_processes)]
                distributed.all_gather(everyones, piece.contiguous(), group=self.group)
                frames += everyones
        return torch.cat(frames, dim=2)[:, :, factor - 1 : factor * num_latents]


class Handover:
    """Hands the last frames of what a convolution in time reads to the process that decodes the next piece.

    Args:
        group: The processes, in the order of their pieces.

    Attributes:
        is_last_turn: Whether nothing follows the piece of the last process.
    """

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self.group = group
        self.is_last_turn = False
        self.kept: dict[nn.Module, Tensor] = {}  # by the first process, of the last one's piece in the turn before

    @contextmanager
    def on(self, decoder: nn.Module) -> Iterator[None]:
        """Give the convolutions of a decoder what stands before their piece, as long as this lasts."""
        convolutions = [part for part in decoder.modules() if num_frames_before(part) > 0]
        hooks = [part.register_forward_pre_hook(self.with_frames_before) for part in convolutions]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def with_frames_before(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Arguments of a convolution: its input [B, C, N, H, W] and what stands before, None at the beginning."""
        (frames,) = inputs
        last = frames[:, :, -num_frames_before(module) :]
        last = F.pad(last, (0, 0, 0, 0, num_frames_before(module) - last.shape[2], 0))  # as before the beginning
        before: Tensor | None = from_previous(last, self.group)
        if distributed.get_rank(self.group) == 0:
            before, of_last = self.kept.pop(module, None), before
            if not self.is_last_turn and of_last is not None:
                self.kept[module] = of_last
        return frames, before


def num_frames_before(module: nn.Module) -> int:
    """Frames that a module reads before each of its own."""
    return int(module._padding[4]) if isinstance(module, WanCausalConv3d) else 0


def from_previous(tensor: Tensor, group: distributed.ProcessGroup) -> Tensor:
    """The tensor of the previous process, the first one's being the last; all have one shape, and all call this."""
    rank, num_processes = distributed.get_rank(group), distributed.get_world_size(group)
    sent, received = [0] * num_processes, [0] * num_processes
    sent[(rank + 1) % num_processes] = received[rank - 1] = tensor.numel()
    result = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    distributed.all_to_all_single(result.view(-1), tensor.flatten(), received, sent, group=group)
    return result


def agreed_decoding(
    group: distributed.ProcessGroup,
    pieces: Pieces | None,
    latents: Tensor,
    is_sliced: bool,
    dtype: torch.dtype = torch.float32,
) -> SharedDecoding | None:
    """How all processes of a group decode a clip, once each has said what it is about to do.

    One that decodes nothing, or another way, would let the others wait for ever: then each decodes for itself.

    Args:
        group: That all enter this with.
        pieces: Of this process; None where it decodes the whole clip by itself, or nothing.
        latents: [B, C, F, h, w].
        is_sliced: Whether it decodes clip by clip.
        dtype: It decodes in.
    """
    if latents.device.type != "cpu" and distributed.get_backend(group) == "gloo":
        return None  # gloo has these exchanges between CPUs alone
    own = torch.tensor([*(pieces or (0, 0)), *latents.shape, is_sliced, dtype.itemsize], device=latents.device)
    said = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(said, own, group=group)
    is_agreed = pieces is not None and all(torch.equal(one, own) for one in said)
    return SharedDecoding(group, pieces) if is_agreed and pieces is not None else None


class JoVADecodingParallelMixin:
    """Lets the processes that work on a clip decode its video together."""

    vae: Any
    transformer: Any
    video_codec: Any
    branch_sharing: BranchSharing | None

    @property
    def clip_group(self) -> distributed.ProcessGroup | None:
        """The processes that work on each clip together, by its rows or by guidance; None for one alone."""
        if (sharing := self.branch_sharing) is not None:
            return sharing.group or distributed.group.WORLD
        return context_group(self.transformer._parallel_config)

    def shared_decoding(self, latents: Tensor, is_decoded: bool) -> SharedDecoding | None:
        """How the processes of a clip decode it together; None for one alone, and where each decodes the whole.

        Args:
            latents: Of the clip, [B, C, F, h, w].
            is_decoded: Whether this process decodes them; all ask, whether they do or not.
        """
        if (group := self.clip_group) is None:
            return None
        pieces = self.video_codec.pieces(latents, distributed.get_world_size(group)) if is_decoded else None
        is_sliced, dtype = getattr(self.vae, "use_slicing", False), getattr(self.vae, "dtype", torch.float32)
        return agreed_decoding(group, pieces, latents, is_sliced, dtype)
