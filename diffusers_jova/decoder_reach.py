"""What each sample of a decoded sound depends on: the reach of the convolutions behind it, read from a config.

Sound is decoded in chunks that overlap by this reach, so that the result is that of the whole.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


RESAMPLER_REACH_SAMPLES = 7  # of the windowed sinc that carries the bandwidth extension's skip path
UNIT_REACH_SAMPLES = 3 * (1 + 3 + 9)  # of three residual units: 7 taps, dilated by 1, 3 and 9


@dataclass(frozen=True)
class Generator:
    """The kernels of a HiFi-GAN-like generator, enough to know what each output sample depends on."""

    factors: Sequence[int]
    kernel_sizes: Sequence[int]
    resnet_kernel_sizes: Sequence[int]
    resnet_dilations: Sequence[Sequence[int]]
    activation_reach: int  # frames to each side of one (anti-aliased) activation
    last_activation_reach: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], prefix: str = "") -> "Generator":
        """Read the kernels of a vocoder, or of the second stage that a prefix names."""
        if "upsample_rates" in config:  # BigVGAN's own names; always anti-aliased, by 2 with 12 taps
            names = ["upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes"]
            inner_reach = last_reach = _antialias_reach(2, 12)
        else:
            suffixes = ("upsample_factors", "upsample_kernel_sizes", "resnet_kernel_sizes", "resnet_dilations")
            names = [prefix + suffix for suffix in suffixes]
            reach = _antialias_reach(config[f"{prefix}antialias_ratio"], config[f"{prefix}antialias_kernel_size"])
            inner_reach = reach if config[f"{prefix}antialias"] else 0
            last_reach = 0 if config[f"{prefix}act_fn"] == "leaky_relu" else reach
        factors, kernel_sizes, resnet_kernel_sizes, resnet_dilations = (config[name] for name in names)
        return cls(factors, kernel_sizes, resnet_kernel_sizes, resnet_dilations, inner_reach, last_reach)

    def input_interval(self, low: int, high: int) -> tuple[int, int]:
        """First and last mel frame that the output samples ``low`` to ``high`` depend on."""
        margin = 3 + self.last_activation_reach  # the last convolution has 7 taps
        resnet_reach = max(map(self._resnet_reach, self.resnet_kernel_sizes, self.resnet_dilations))
        for factor, kernel_size in zip(reversed(self.factors), reversed(self.kernel_sizes), strict=True):
            low, high = low - margin - resnet_reach, high + margin + resnet_reach
            padding = (kernel_size - factor) // 2
            low, high = -((kernel_size - 1 - padding - low) // factor), (high + padding) // factor
            margin = 0
        return low - 3, high + 3  # the first convolution has 7 taps

    def _resnet_reach(self, kernel_size: int, dilations: Sequence[int]) -> int:
        per_layer = 2 * self.activation_reach + kernel_size // 2  # two activations and an undilated convolution
        return sum(per_layer + kernel_size // 2 * dilation for dilation in dilations)


def _antialias_reach(ratio: int, kernel_size: int) -> int:
    """Frames to each side that up-sampling, an activation and down-sampling mix."""
    return (kernel_size - 1) // ratio


def reach_mel_frames(config: Mapping[str, Any]) -> int:
    """Mel frames to each side of its own that the samples of one mel frame depend on."""
    generator = Generator.from_config(config)
    low, high = 0, math.prod(generator.factors) - 1
    if "bwe_out_channels" in config:
        low, high = _bandwidth_extension_interval(config, high)
    low, high = generator.input_interval(low, high)
    return max(-low, high)


def _bandwidth_extension_interval(config: Mapping[str, Any], high: int) -> tuple[int, int]:
    """First and last sample of the first stage that the final samples of its samples 0 to ``high`` depend on."""
    hop, window = config["hop_length"], config["window_length"]
    if (high + 1) % hop:
        raise ValueError(
            f"`vocoder` must upsample by a multiple of its own `hop_length` {hop}, got {high + 1}; correct its config"
        )
    ratio = config["output_sampling_rate"] // config["input_sampling_rate"]
    first, last = Generator.from_config(config, "bwe_").input_interval(0, (high + 1) * ratio - 1)
    # Its spectrogram is causal: frame i ends with sample (i + 1) * hop - 1 and spans one window.
    first, last = (first + 1) * hop - window, (last + 1) * hop - 1
    return min(first, -RESAMPLER_REACH_SAMPLES), max(last, high + RESAMPLER_REACH_SAMPLES)


def reach_latents(decoder_rates: Sequence[int]) -> int:
    """Latents to each side of its own that the samples of one latent of a DAC-like decoder depend on.

    Args:
        decoder_rates: Samples per sample of each up-sampling, from the latents on.
    """
    low, high = -3, math.prod(decoder_rates) - 1 + 3  # the last convolution has 7 taps
    for rate in reversed(decoder_rates):
        low, high = low - UNIT_REACH_SAMPLES, high + UNIT_REACH_SAMPLES
        padding = math.ceil(rate / 2)  # of a transposed convolution of 2 * rate taps
        low, high = -((2 * rate - 1 - padding - low) // rate), (high + padding) // rate
    return max(3 - low, high + 3)  # the first convolution has 7 taps
