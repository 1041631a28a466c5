"""SyncNet's scores of a clip by three protocols, whose numbers must not be compared with each other.

Letters: P persons, F frames, N windows, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusers_jova.evaluation.clip_signals import PictureTracks, Signals, frames_at, survey_at
from diffusers_jova.evaluation.face_tracks import FaceTrack, crop_corners, cut_out, find_tracks
from diffusers_jova.evaluation.lip_distance import MAX_SHIFT, LipDistance, lip_distance
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.mfcc import RATE_HZ, mfcc
from diffusers_jova.evaluation.sound_level import why_unheard
from diffusers_jova.evaluation.syncnet import LIP_FRAMES, SOUND_ROWS, SyncNet
from diffusers_jova.media import mix_channels, resample
from diffusers_jova.training.data.face_crop import faces_of


FloatArray = npt.NDArray[np.floating]

FRAME_RATE = 25
FRAME_SAMPLES = RATE_HZ // FRAME_RATE
ROWS_PER_FRAME = 4  # of the sound's coefficients
BATCH = 16  # windows at a time


class Protocol(NamedTuple):
    """How faces become a score.

    Attributes:
        suffix: Of the names of its measures.
        crop_scale: Of the surroundings of a face.
        smoothing: Frames of the median filter over boxes.
        max_gap: Frames without a face that a track bridges.
        min_found: Frames in which a face must be found.
        min_face_px: Size that a face must have; 0 for any.
        lost_frames: At the end of a track, without sound.
        is_padded: Whether lips beyond the ends of the sound count, against zeros.
        largest_offset: Beyond which a clip has no score; None for any.
        takes_best: Whether the face that fits best counts, and not the mean of all.
    """

    suffix: str
    crop_scale: float
    smoothing: int
    max_gap: int
    min_found: int
    min_face_px: float
    lost_frames: int
    is_padded: bool
    largest_offset: int | None
    takes_best: bool


# fmt: off
PROTOCOLS = (  # scale filter gap found  px lost padded offset best
    Protocol("",             .40, 13, 24, 101, 100, 0, True,  None, False),  # joonson/syncnet_python @ 6efbb1c
    Protocol("_verse_bench", .30,  1,  0,  50,   0, 1, True,    13, False),  # Dorniwang/Verse-Bench @ 5645a09
    Protocol("_corrected",   .40, 13, 24,  50,   0, 0, False, None, True),
)
# fmt: on
OFFSETS = {"": "syncnet_offset_frames", "_corrected": "syncnet_offset_corrected_frames"}  # Verse-Bench tells none
Embeddings = tuple[Tensor, Tensor]  # of lips and of sound, [N, D] each


def measure_syncnet(video: Path | None, signals: Signals, network: SyncNet) -> Measured:
    """Score the lips of a clip against its sound.

    Args:
        video: The file of the pictures; None for sound alone.
        signals: Its tracks, with mouth boxes.
        network: With the user's weights.

    Raises:
        ValueError: If the file cannot be read.
    """
    picture = signals.picture
    if video is None or picture is None or picture.boxes is None:
        return signals.without_boxes()
    if signals.audio is None or why_unheard(signals.audio):
        return Measured({}, why_unheard(signals.audio))
    taken = survey_at(video, picture, Fraction(FRAME_RATE))
    ticks = np.rint(np.arange(len(taken.numbers)) * picture.frame_rate / FRAME_RATE).astype(int)
    faces = faces_of(picture.boxes[:, ticks.clip(max=picture.boxes.shape[1] - 1)])
    if not np.isfinite(faces).all(-1).any():
        return Measured({}, "no face")
    tracks = {protocol: _tracks_of(protocol, faces, taken.cuts) for protocol in PROTOCOLS}
    wanted = [(track, protocol) for protocol in PROTOCOLS for track in tracks[protocol]]
    sound = np.rint(32768 * resample(mix_channels(signals.audio, 1), signals.sampling_rate, RATE_HZ)[0].astype(float))
    embedded = _embed((video, picture), sound.clip(-32768, 32767), wanted, network)
    measured = score({key: list(pairs.values()) for key, pairs in embedded.items()})
    rate = f"{picture.frame_rate:.5g} frames a second"
    told = rate if picture.frame_rate == FRAME_RATE else f"{rate}, taken at {FRAME_RATE} by time"
    return measured._replace(texts={"syncnet_frames": told})


def score(embedded: Mapping[Protocol, Sequence[Embeddings]]) -> Measured:
    """The numbers of each protocol from the embeddings of each of its faces."""
    values: dict[str, float | None] = {}
    reasons = []
    for protocol in PROTOCOLS:
        pairs = [pair for pair in embedded.get(protocol, ()) if len(pair[0]) > MAX_SHIFT]
        found = [lip_distance(*pair, is_padded=protocol.is_padded) for pair in pairs]
        reason = _why_none(protocol, found)
        if reason:
            reasons.append(f"{protocol.suffix.strip('_') or 'syncnet'}: {reason}")
            continue
        best = max(found)
        counted = [best] if protocol.takes_best else found
        values[f"lse_c{protocol.suffix}"] = float(np.mean([distance.lse_c for distance in counted]))
        values[f"lse_d{protocol.suffix}"] = float(np.mean([distance.lse_d for distance in counted]))
        if protocol.suffix in OFFSETS:
            values[OFFSETS[protocol.suffix]] = float(best.offset_frames)
    return Measured(values, "; ".join(reasons))


def _why_none(protocol: Protocol, found: Sequence[LipDistance]) -> str:
    if not found:
        size = f" of more than {protocol.min_face_px:g} px" if protocol.min_face_px else ""
        return f"no face{size} is found in {protocol.min_found} frames of {FRAME_RATE} a second with sound"
    largest = protocol.largest_offset
    if largest is not None and any(abs(distance.offset_frames) > largest for distance in found):
        return f"an offset of more than {largest} frames"
    return ""


def _tracks_of(protocol: Protocol, faces: FloatArray, cuts: Sequence[int]) -> list[FaceTrack]:
    return [
        track
        for track in find_tracks(faces, cuts, protocol.max_gap)
        if track.num_found >= protocol.min_found and track.size_px > protocol.min_face_px
    ]


def _embed(
    seen: tuple[Path, PictureTracks],
    sound: FloatArray,
    wanted: Sequence[tuple[FaceTrack, Protocol]],
    network: SyncNet,
) -> dict[Protocol, dict[int, Embeddings]]:
    """Embed tracks in one pass through the frames; those of two protocols that see the same are embedded once."""
    readers: dict[tuple[object, ...], _LipReader] = {}
    keys = []
    for track, protocol in wanted:
        key = (track.start, track.stop, track.boxes.tobytes(), protocol.crop_scale, protocol.smoothing)
        readers.setdefault(key, _LipReader(track, protocol, network))
        keys.append(key)
    for number, frame in enumerate(frames_at(*seen, Fraction(FRAME_RATE))):
        for reader in readers.values():
            reader.take(number, frame)
    lips = {key: reader.finish() for key, reader in readers.items()}
    embedded: dict[Protocol, dict[int, Embeddings]] = {}
    for index, ((track, protocol), key) in enumerate(zip(wanted, keys, strict=True)):
        stop = track.stop - protocol.lost_frames
        heard = embed_sound(sound[track.start * FRAME_SAMPLES : stop * FRAME_SAMPLES], network)
        num_windows = min(len(heard), len(lips[key]))
        embedded.setdefault(protocol, {})[index] = (lips[key][:num_windows], heard[:num_windows])
    return embedded


def embed_sound(sound: FloatArray, network: SyncNet) -> Tensor:
    """Embed each 0.2 s of sound [samples] that begins with a frame, [N, D]; as in the public code one less than fit.

    Args:
        sound: At 16 kHz, in units of 16-bit sound.
        network: With its weights.
    """
    num_windows = len(sound) // FRAME_SAMPLES - LIP_FRAMES
    if num_windows <= 0:
        return torch.zeros(0, 0)
    coefficients = torch.from_numpy(mfcc(sound)).float().T  # [13, rows]
    windows = coefficients.unfold(1, SOUND_ROWS, ROWS_PER_FRAME)[:, :num_windows]  # [13, N, rows]
    return _in_batches(network.embed_sound, windows.movedim(1, 0)[:, None], network)


def _in_batches(embed: Callable[[Tensor], Tensor], windows: Tensor, network: SyncNet) -> Tensor:
    device = next(network.parameters()).device
    return torch.cat([embed(batch.to(device)).cpu() for batch in windows.split(BATCH)])


class _LipReader:
    """Embeds a face while frames pass, and holds a batch of them.

    Args:
        track: The face.
        protocol: How it is cut out.
        network: With its weights.
    """

    def __init__(self, track: FaceTrack, protocol: Protocol, network: SyncNet) -> None:
        self._track, self._network = track, network
        self._corners = crop_corners(track.boxes, protocol.crop_scale, protocol.smoothing)
        self._crops: list[Tensor] = []
        self._parts: list[Tensor] = []

    def take(self, number: int, frame: npt.NDArray[np.uint8]) -> None:
        """Look at a frame, if the face is in it."""
        if not self._track.start <= number < self._track.stop:
            return
        crop = cut_out(frame, self._corners[number - self._track.start])
        self._crops.append(torch.from_numpy(crop.transpose(2, 0, 1).astype(np.float32)))
        if len(self._crops) == BATCH + LIP_FRAMES - 1:
            self._embed()

    def _embed(self) -> None:
        if len(self._crops) < LIP_FRAMES:
            return
        windows = torch.stack(self._crops).unfold(0, LIP_FRAMES, 1).movedim(-1, 2)  # [N, 3, frames, rows, columns]
        self._parts.append(_in_batches(self._network.embed_lips, windows, self._network))
        self._crops = self._crops[len(windows) :]

    def finish(self) -> Tensor:
        """Embeddings of all windows, [N, D]."""
        self._embed()
        return torch.cat(self._parts) if self._parts else torch.zeros(0, 0)
