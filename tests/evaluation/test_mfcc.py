"""Cepstra are those of python_speech_features, and of the formula written out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from diffusers_jova.evaluation.mfcc import mfcc


# fmt: off
PUBLIC = {  # rows of python_speech_features 0.6 for `counted()`, rounded to eight places
    0: [22.26193937, -22.69355299, -15.028685, -10.94018514, 0.41644894, 3.22793544, -3.18872187, -0.55796248,
        7.05847522, 0.86953544, -6.25558181, 2.3737219, -3.54148822],
    24: [23.59822518, -41.58318243, -1.42110641, -11.18149271, -5.70676351, 0.90528049, -5.54989175, 7.88313786,
         -9.35919549, 11.09774595, -8.76211575, -0.46596302, -7.86612476],
    48: [23.38387916, -35.95425722, 4.50509154, -6.71781638, -2.93468328, 4.18486239, -2.47558414, 7.0138374,
         -12.32775662, 7.07064127, -18.6270619, 6.53761247, -3.03567813],
}
# fmt: on
ROUNDING = 1e-7  # ten times what eight places lose


def counted() -> npt.NDArray[np.int64]:
    """A signal of whole numbers, the same on every processor, 0.5 s."""
    n = np.arange(8000, dtype=np.int64)
    return n * n * 37 // 11 % 20011 - 10005


def test_the_coefficients_are_those_of_the_public_package() -> None:
    rows = mfcc(counted())
    assert rows.shape == (49, 13)
    for index, row in PUBLIC.items():
        np.testing.assert_allclose(rows[index], row, atol=ROUNDING)


def test_a_row_follows_from_the_formula_written_out() -> None:
    samples = [float(value) for value in counted()]
    at = 160 * 7
    window = [samples[n] - 0.97 * samples[n - 1] for n in range(at, at + 400)]
    power = []
    for k in range(257):
        real = sum(x * math.cos(2 * math.pi * k * n / 512) for n, x in enumerate(window))
        imaginary = sum(x * math.sin(2 * math.pi * k * n / 512) for n, x in enumerate(window))
        power.append((real**2 + imaginary**2) / 512)
    top = 2595 * math.log10(1 + 8000 / 700)
    edges = [math.floor(513 * 700 * (10 ** (top * i / 27 / 2595) - 1) / 16000) for i in range(28)]
    bands = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        rising = sum(power[k] * (k - low) / (middle - low) for k in range(low, middle))
        bands.append(math.log(rising + sum(power[k] * (high - k) / (high - middle) for k in range(middle, high))))
    expected = [math.log(sum(power))]
    for i in range(1, 13):
        cosine = sum(band * math.cos(math.pi * i * (2 * n + 1) / 52) for n, band in enumerate(bands))
        expected.append(cosine * math.sqrt(2 / 26) * (1 + 11 * math.sin(math.pi * i / 22)))
    np.testing.assert_allclose(mfcc(counted())[7], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("num_samples", "num_rows"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3)])
def test_the_last_row_is_filled_with_zeros(num_samples: int, num_rows: int) -> None:
    assert mfcc(np.ones(num_samples)).shape == (num_rows, 13)


def test_silence_has_finite_coefficients() -> None:
    assert np.isfinite(mfcc(np.zeros(1600))).all()
