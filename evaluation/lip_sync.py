"""Whether lips move with the sound, and by how much one of them is late: mouth opening against loudness.

Letters: F frames. Openings are height over width of the mouth, NaN where it is not seen.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from diffusers_jova.media import is_silence
from diffusers_jova.training.data.envelope_sync import envelope, lag_correlations


FloatArray = npt.NDArray[np.floating]

MAX_OFFSET_S = 1.0
LARGEST_SHARE = 1 / 3  # of a clip; a larger offset leaves too little to compare
MIN_SEEN_S = 1.0  # of a mouth
MIN_MOVEMENT = 0.01  # standard deviation of the opening; of 22 mouths that spoke the least had 0.05
MIN_LOUDNESS = 0.1  # standard deviation of the envelope, in nepers; speech has 0.25 and more
MIN_RMS_DBFS = -60.0  # of the sound, in dB of full scale
ENOUGH = 0.95  # confidence with which an offset is told


class LipSync(NamedTuple):
    """What can be said of a clip.

    Attributes:
        correlation: Of opening and loudness as they are; None where neither can be judged.
        offset_ms: By which the picture comes later than the sound; None where no offset is likelier than chance.
        confidence: Probability that a mouth and a sound that have nothing to do with each other fit less well.
        reason: Why something is None.
        mouth: Which of several the numbers are of; None where they are of none.
    """

    correlation: float | None
    offset_ms: float | None
    confidence: float | None
    reason: str = ""
    mouth: int | None = None


def measure_lip_sync(
    openings: FloatArray, waveform: FloatArray | None, frame_rate: float, sampling_rate: int
) -> LipSync:
    """Search the offset at which a mouth opens with the loudness; of several mouths that which fits best counts.

    The confidence takes the smoothness of both tracks into account, by the effective number of frames of Bartlett
    (J. R. Stat. Soc. B 8, 1946): N / (1 + 2 sum_k r_a(k) r_b(k)), and the number of offsets and mouths tried.

    Args:
        openings: [P, F], NaN in frames without a mouth.
        waveform: [samples]; None for a clip without sound.
        frame_rate: Frames per second.
        sampling_rate: Of the waveform, in Hz.
    """
    least = max(5, round(MIN_SEEN_S * frame_rate))
    seen = {mouth: opening for mouth, opening in enumerate(openings) if np.isfinite(opening).sum() >= least}
    if not seen:
        return _unjudged(
            "no face" if not np.isfinite(openings).any() else f"a mouth is seen in less than {least} frames"
        )
    if waveform is None:
        return _unjudged("no sound")
    if is_silence(waveform):
        return _unjudged("the sound is silence")
    if (rms_dbfs := 10 * math.log10(float((np.asarray(waveform, np.float64) ** 2).mean()))) < MIN_RMS_DBFS:
        return _unjudged(
            f"the sound is too quiet to judge: {rms_dbfs:.0f} dB of full scale, and {MIN_RMS_DBFS:.0f} is needed"
        )
    loudness = envelope(waveform, openings.shape[1], frame_rate, sampling_rate)
    if loudness.std() < MIN_LOUDNESS:
        return _unjudged("the sound is as loud all the time, so nobody speaks")
    if all(np.nanstd(opening) < MIN_MOVEMENT for opening in seen.values()):
        return LipSync(0.0, None, 0.0, "the mouth does not move")
    found = (
        _best_offset(opening, loudness, frame_rate, len(seen))._replace(mouth=mouth) for mouth, opening in seen.items()
    )
    return max(found, key=_fit)


def _unjudged(reason: str) -> LipSync:
    return LipSync(None, None, None, reason)


def _fit(sync: LipSync) -> tuple[float, float]:
    return sync.confidence or 0.0, sync.correlation or 0.0


def _best_offset(opening: FloatArray, loudness: FloatArray, frame_rate: float, num_mouths: int) -> LipSync:
    """The offset of one mouth; the best of several mouths is the best of as many times the offsets."""
    max_lag = max(1, min(round(MAX_OFFSET_S * frame_rate), int(LARGEST_SHARE * len(opening))))
    correlations = lag_correlations(opening, loudness, max_lag)
    best = int(correlations.argmax())
    num_seen = int(np.isfinite(opening).sum()) - abs(best - max_lag)
    confidence = chance_below(float(correlations[best]), num_seen, num_mouths * len(correlations), opening, loudness)
    correlation = float(correlations[max_lag])
    if confidence < ENOUGH or best in (0, len(correlations) - 1):
        return LipSync(correlation, None, confidence, "no offset fits better than chance")
    return LipSync(correlation, 1000 * (_peak(correlations, best) - max_lag) / frame_rate, confidence)


def chance_below(
    correlation: float, num_frames: int, num_offsets: int, opening: FloatArray, loudness: FloatArray
) -> float:
    """Probability that unrelated tracks as smooth as these reach less than a correlation at every offset.

    Offsets count as if they were independent, which errs on the careful side: of 150 pairs of drawn syllables that had
    nothing to do with each other, 1 to 4 in a hundred reached 0.95.

    Args:
        correlation: The largest.
        num_frames: From which it comes.
        num_offsets: That were tried, of all mouths.
        opening: [F], NaN where it is not known.
        loudness: [F].
    """
    filled = np.where(np.isfinite(opening), opening, np.nanmean(opening))
    stretch = max(1.0, float(1 + 2 * (_autocorrelation(filled) * _autocorrelation(loudness)).sum()))
    num_effective = num_frames / stretch
    if num_effective <= 3.5 or correlation <= 0:
        return 0.0
    z = math.atanh(min(correlation, 1 - 1e-9)) * math.sqrt(num_effective - 3)  # Fisher's transformation
    return float(scipy.special.ndtr(z) ** num_offsets)


def _autocorrelation(track: FloatArray) -> npt.NDArray[np.float64]:
    """At lags from 1 to a quarter of the track."""
    centred = np.asarray(track, np.float64) - track.mean()
    power = float((centred**2).sum())
    lags = range(1, max(2, len(centred) // 4))
    return np.array([float((centred[lag:] * centred[:-lag]).sum()) / max(power, 1e-12) for lag in lags])


def _peak(values: FloatArray, index: int) -> float:
    """Place of the vertex of the parabola through a largest value and its neighbours."""
    before, at, behind = (float(value) for value in values[index - 1 : index + 2])
    bend = before - 2 * at + behind
    return index + (0.5 * (before - behind) / bend if bend < 0 else 0.0)
