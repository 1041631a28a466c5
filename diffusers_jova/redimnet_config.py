"""What a public checkpoint of ReDimNet says of its network and its spectrogram; what is not known here is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


SAMPLING_RATE_HZ = 16_000
LARGEST = 16_384  # channels, mel bands or samples; far more than any checkpoint has, and little memory
MOST_BLOCKS, MOST_STAGES = 100, 20
TIME_BLOCKS = ("fc", "conv", "att", "conv+att")
PLANE_BLOCKS = ("convnext_like", "basic_resnet", "basic_resnet_fwse")
SPECTROGRAMS = {"pt": "pt", "pt_mel": "pt", "tf": "tf", "tf_mel": "tf"}
SPECTRUM_NORMS = ("mn", "mvn")
ADVICE = "give a checkpoint of IDRnD/ReDimNet, such as M-vb2+vox2+cnc-ft_mix.pt"
# fmt: off
OWN = {  # fields of a `model_config`, and what the public code takes where one is missing
    "F": 72, "C": 16, "block_1d_type": "att", "block_2d_type": "convnext_like", "group_divisor": 4,
    "out_channels": None, "embed_dim": 192, "num_classes": None, "hop_length": 160, "pooling_func": "ASTP",
    "feat_type": "pt", "global_context_att": False, "emb_bn": False, "spec_params": {}, "tf_optimized_arch": False,
    "stages_setup": ((1, 2, 1, [(3, 3)], 12), (2, 2, 1, [(3, 3)], 12), (1, 3, 1, [(3, 3)], 12),
                     (2, 4, 1, [(3, 3)], 8), (1, 4, 1, [(3, 3)], 8), (2, 4, 1, [(3, 3)], 4)),
}
OF_TRAINING = ("class_dropout", "feat_agg_dropout", "head_activation", "return_all_outputs")  # decide no vector
OWN_SPECTRUM = {
    "sample_rate": SAMPLING_RATE_HZ, "n_fft": 512, "win_length": 400, "f_min": 20, "f_max": 7600,
    "norm_signal": False, "do_preemph": True,
}
OF_AUGMENTING = ("do_spec_aug", "freq_start_bin", "num_apply_spec_aug", "freq_mask_width", "time_mask_width")
CHOICES = {  # fields of which other values ask for what is not here
    "block_1d_type": TIME_BLOCKS, "block_2d_type": PLANE_BLOCKS, "feat_type": tuple(SPECTROGRAMS),
    "pooling_func": ("ASTP",), "num_classes": (None,), "tf_optimized_arch": (False,),
    "global_context_att": (False, True), "emb_bn": (False, True),
}
# fmt: on


class Stage(NamedTuple):
    """One stage of the network.

    Attributes:
        stride: By which frequencies become fewer and channels more.
        num_blocks: Of planes.
        widening: Factor of the channels within the blocks.
        narrowing: Divisor of the channels within the layers over time; None without such layers.
    """

    stride: int
    num_blocks: int
    widening: float
    narrowing: int | None


class Spectrum(NamedTuple):
    """The log-mel spectrogram that a network reads.

    Attributes:
        kind: "pt", as of torchaudio, or "tf", as of an older front end.
        num_mels: Bands.
        fft_length, window_length, hop_length: In samples.
        lowest_hz, highest_hz: Of the bands.
        levels_sound: Whether the sound is brought to a mean of 0 and a deviation of 1 first.
        has_preemphasis: Whether high frequencies are raised.
        norm: "mn" takes each band's mean over time away, "mvn" divides by its deviation, too.
        floor: Least energy of a band.
    """

    kind: str
    num_mels: int
    fft_length: int
    window_length: int
    hop_length: int
    lowest_hz: float
    highest_hz: float
    levels_sound: bool
    has_preemphasis: bool
    norm: str
    floor: float


class ReDimNetConfig(NamedTuple):
    """The network and what it reads.

    Attributes:
        spectrum: What it reads.
        channels: Of the planes in front of the stages.
        time_block, plane_block: Kinds of layers, by their public names.
        stages: One after the other.
        group_divisor: Channels of a group; None for convolutions without groups.
        width: Channels in front of the pooling; None for those of the rows.
        dim: Of a vector.
        reads_statistics: Whether the pooling sees means and deviations.
        has_last_norm: Whether a norm follows the vector.
    """

    spectrum: Spectrum
    channels: int
    time_block: str
    plane_block: str
    stages: tuple[Stage, ...]
    group_divisor: int | None
    width: int | None
    dim: int
    reads_statistics: bool
    has_last_norm: bool

    @property
    def num_mels(self) -> int:
        """Mel bands, which are the frequencies of the first planes."""
        return self.spectrum.num_mels

    def groups_of(self, channels: int) -> int | None:
        """Groups of a convolution of so many channels; None without."""
        if self.group_divisor is None:
            return None
        if channels % self.group_divisor:
            raise ValueError(f"{channels} channels in groups of {self.group_divisor}")
        return channels // self.group_divisor


def read_config(found: object) -> ReDimNetConfig:
    """The config of a public checkpoint.

    Args:
        found: Its `model_config`. Sizes of kernels in `stages_setup` are not read, as in the public code, where they
            are 3 x 3.

    Raises:
        ValueError: If it asks for a network that is not here; the sentence names the field.
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"`model_config` must be a table, got {type(found).__name__}; {ADVICE}")
    fields = _known(found, OWN, OF_TRAINING, "model_config")
    for name, choices in CHOICES.items():
        if not any(fields[name] is one or (isinstance(one, str) and fields[name] == one) for one in choices):
            allowed = ", ".join(map(repr, choices))
            raise ValueError(f"`{name}` of `model_config` must be one of {allowed}, got {fields[name]!r}; {ADVICE}")
    config = ReDimNetConfig(
        spectrum=_spectrum(fields),
        channels=_whole("C", fields["C"]),
        time_block=fields["block_1d_type"],
        plane_block=fields["block_2d_type"],
        stages=_stages(fields["stages_setup"]),
        group_divisor=_optional("group_divisor", fields["group_divisor"]),
        width=_optional("out_channels", fields["out_channels"]),
        dim=_whole("embed_dim", fields["embed_dim"]),
        reads_statistics=fields["global_context_att"],
        has_last_norm=fields["emb_bn"],
    )
    if config.num_mels % math.prod(stage.stride for stage in config.stages):
        raise ValueError(f"`F` of `model_config` must divide by all strides, got {config.num_mels}; {ADVICE}")
    return config


def _known(found: Any, own: Mapping[str, Any], unread: tuple[str, ...], where: str) -> dict[str, Any]:
    """The fields of a table with their own values where they are missing; a field that is not known is refused."""
    if strange := [name for name in found if name not in own and name not in unread]:
        raise ValueError(f"`{where}` must hold fields that are known here, got {strange[0]!r} as well; {ADVICE}")
    return {name: found.get(name, value) for name, value in own.items()}


def _whole(name: str, value: Any, most: int = LARGEST) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(
            f"`{name}` of `model_config` must be a whole number from 1 to {most}, got {value!r}; {ADVICE}"
        )
    return value


def _optional(name: str, value: Any) -> int | None:
    return None if value is None else _whole(name, value)


def _stages(found: Any) -> tuple[Stage, ...]:
    rows = list(found) if isinstance(found, (list, tuple)) else []
    if not 1 <= len(rows) <= MOST_STAGES or not all(isinstance(row, (list, tuple)) and len(row) == 5 for row in rows):
        raise ValueError(f"`stages_setup` of `model_config` must be rows of five values, got {found!r}; {ADVICE}")
    return tuple(_stage(*row) for row in rows)


def _stage(stride: Any, num_blocks: Any, widening: Any, _: Any, narrowing: Any) -> Stage:
    name = "stages_setup"
    if isinstance(widening, bool) or not isinstance(widening, (int, float)) or not 0 < widening <= MOST_BLOCKS:
        raise ValueError(f"`{name}` of `model_config` must widen channels by a number, got {widening!r}; {ADVICE}")
    return Stage(_whole(name, stride, 3), _whole(name, num_blocks, MOST_BLOCKS), widening, _optional(name, narrowing))


def _spectrum(fields: Mapping[str, Any]) -> Spectrum:
    params, kind = fields["spec_params"], SPECTROGRAMS[fields["feat_type"]]
    if not isinstance(params, Mapping):
        raise ValueError(f"`spec_params` of `model_config` must be a table, got {params!r}; {ADVICE}")
    own = OWN_SPECTRUM | ({"spec_norm": "mn"} if kind == "pt" else {"eps": 1e-8})
    values = _known(params, own, OF_AUGMENTING, "spec_params")
    fft_length, window_length = (_whole(name, values[name]) for name in ("n_fft", "win_length"))
    checks = {
        "sample_rate": values["sample_rate"] == SAMPLING_RATE_HZ,
        "win_length": window_length <= fft_length,
        "f_max": _is_number(values["f_min"])
        and _is_number(values["f_max"])
        and 0 <= values["f_min"] < values["f_max"] <= SAMPLING_RATE_HZ / 2,
        "norm_signal": isinstance(values["norm_signal"], bool),
        "do_preemph": isinstance(values["do_preemph"], bool),
        "spec_norm": values.get("spec_norm", "mn") in SPECTRUM_NORMS,
        "eps": _is_number(values.get("eps", 1e-8)) and 0 < values.get("eps", 1e-8) < 1,
    }
    for name, is_right in checks.items():
        if not is_right:
            raise ValueError(
                f"`{name}` of `spec_params` must be one that is known here, got {values[name]!r}; {ADVICE}"
            )
    return Spectrum(
        kind=kind,
        num_mels=_whole("F", fields["F"]),
        fft_length=fft_length,
        window_length=window_length,
        hop_length=_whole("hop_length", fields["hop_length"]),
        lowest_hz=values["f_min"],
        highest_hz=values["f_max"],
        levels_sound=values["norm_signal"],
        has_preemphasis=values["do_preemph"],
        norm=values.get("spec_norm", "mn"),
        floor=values.get("eps", 1e-6),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
