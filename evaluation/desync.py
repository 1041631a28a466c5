"""How far sound and picture of a clip are apart by Synchformer: DeSync, as hkchengrex/av-benchmark tells it.

Letters: S segments, T frames, D numbers of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from diffusers_jova.evaluation.clip_signals import Signals, frames_at
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.network_pictures import PictureForm
from diffusers_jova.evaluation.sound_level import why_unheard
from diffusers_jova.evaluation.synchformer import (
    COLUMNS,
    LARGEST_S,
    MELS,
    NUM_OFFSETS,
    NUM_SEGMENTS,
    SEGMENT_FRAMES,
    SIZE_PX,
    Synchformer,
)
from diffusers_jova.media import mix_channels, resample


FloatArray = npt.NDArray[np.floating]

FRAME_RATE, RATE_HZ = 25, 16000
STEP = SEGMENT_FRAMES // 2  # frames from one segment to the next
FRAME_SAMPLES = RATE_HZ // FRAME_RATE
WINDOW, HOP, FFT = 400, 160, 1024  # samples of the spectrogram
FLOOR, MEAN, STD = 1e-6, -4.2677393, 4.5689974  # of its logarithm
BATCH = 2  # segments at a time
FORM = PictureForm((SIZE_PX,), (SIZE_PX, SIZE_PX), int(Image.Resampling.BICUBIC), (0.5,) * 3, (0.5,) * 3)
NEEDED = SEGMENT_FRAMES + (NUM_SEGMENTS - 1) * STEP  # frames of the segments that are compared together


def measure_desync(video: Path | None, signals: Signals, network: Synchformer) -> Measured:
    """Mean of the distances that the first 14 and the last 14 segments of a clip seem to be apart, in seconds.

    Args:
        video: The file of the pictures; None for sound alone.
        signals: Its tracks.
        network: With the user's weights.

    Raises:
        ValueError: If the file cannot be read.
    """
    if video is None or signals.picture is None:
        return Measured({}, "no picture")
    if signals.audio is None or why_unheard(signals.audio):
        return Measured({}, why_unheard(signals.audio))
    sound = resample(mix_channels(signals.audio, 1), signals.sampling_rate, RATE_HZ)[0]
    frames = [FORM.cut(Image.fromarray(frame)) for frame in frames_at(video, signals.picture, Fraction(FRAME_RATE))]
    num_frames = min(len(frames), len(sound) // FRAME_SAMPLES)
    if num_frames < NEEDED:
        return Measured({}, f"less than {NEEDED / FRAME_RATE:g} s of picture and sound")
    num_segments = (num_frames - SEGMENT_FRAMES) // STEP + 1
    offsets = [offset_s(frames, sound, first, network) for first in dict.fromkeys((0, num_segments - NUM_SEGMENTS))]
    return Measured({"desync_s": float(np.mean(np.abs(offsets)))})


def offset_s(frames: Sequence[Image.Image], sound: FloatArray, first: int, network: Synchformer) -> float:
    """The likeliest of the offsets from -2 s to 2 s of 14 segments, from one on.

    Args:
        frames: Of 224 x 224, 25 a second.
        sound: At 16 kHz, [samples].
        first: Segment.
        network: With its weights.
    """
    device = network.vproj.weight.device
    starts = [(first + number) * STEP for number in range(NUM_SEGMENTS)]
    mels = mels_of(np.stack([sound[s * FRAME_SAMPLES : (s + SEGMENT_FRAMES) * FRAME_SAMPLES] for s in starts]))
    with torch.inference_mode():
        pictures = []
        for number in range(0, NUM_SEGMENTS, BATCH):
            parts = [FORM(frames[start : start + SEGMENT_FRAMES]) for start in starts[number : number + BATCH]]
            pictures.append(network.vfeat_extractor(torch.stack(parts).transpose(1, 2).to(device)))
        logits = network.compare(torch.cat(pictures), network.afeat_extractor(mels.to(device)))
    return float(torch.linspace(-LARGEST_S, LARGEST_S, NUM_OFFSETS)[int(logits.argmax())])


def mels_of(segments: FloatArray) -> Tensor:
    """Log-mel spectrograms of segments [S, samples] at 16 kHz, as torchaudio's defaults make them, [S, 128, 66]."""
    wave = torch.from_numpy(np.asarray(segments, np.float32))
    spectrum = torch.stft(wave, FFT, HOP, WINDOW, torch.hann_window(WINDOW), center=True, return_complex=True)
    bank = mel_filter_bank(FFT // 2 + 1, MELS, 0.0, RATE_HZ / 2, RATE_HZ, norm=None, mel_scale="htk")
    mels = torch.from_numpy(bank.astype(np.float32)).T @ spectrum.abs() ** 2
    padded = F.pad((mels + FLOOR).log(), (0, COLUMNS - mels.shape[-1]))
    return (padded - MEAN) / (2 * STD)
