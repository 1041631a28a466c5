"""What all transformers share: how they are asked, what they return, which tools of diffusers they have.

Every `forward` takes the arguments of `ARGUMENTS` and those of its class. It reads them with `read_inputs`, embeds
each modality, packs the rows as [video; video text; audio; audio text] (without the text rows where text is only
read), lets its blocks work on the packed rows, and returns the rows of its heads with `join_outputs`.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L rows of a modality or audio
latents, S text tokens.
"""

import inspect
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from diffusers.utils import BaseOutput
from torch import Tensor

from .adapter_layers import JoVAAdapterMixin
from .config_class import JoVAConfigClassMixin, check_config_class
from .context_parallel import JoVAContextParallelMixin
from .latent_rows import audio_grid, batch_size_of, check_tensor, check_timestep, present_media, unpatchify, video_grid
from .lost_weights import check_weights
from .number_arguments import finite_number, positive_number, whole_numbers
from .row_spans import Spans, TextLengths, check_text_lengths, text_spans
from .shipped_names import JoVAShippedMixin
from .single_file import JoVASingleFileMixin
from .step_caches import JoVACacheMixin
from .temporal_rope import TemporalAlignment, check_alignment, check_axes_dim


MODALITIES = ("video", "audio")  # packed order
BLOCK_COUNTS = ("num_layers", "num_single_layers")
SIZES = (  # of a config, from 1 on
    *("in_channels", "out_channels", "audio_in_channels", "num_attention_heads", "attention_head_dim", "ffn_dim"),
    *("text_dim", "freq_dim", "temporal_compression_ratio", "audio_position_table_size"),
    *("audio_num_layers", "audio_num_attention_heads", "audio_ffn_dim", "audio_text_dim"),
)
OPTIONAL_SIZES = ("text_dim_2", "speaker_dim")  # None for a model without
SIZES_OF_AXES = ("patch_size", "position_table_sizes")  # along (frames, height, width)
POSITIVE = {"rope_theta": "10000 is usual", "eps": "1e-6 is usual"}
ARGUMENTS = {
    "hidden_states": "Video latents [B, in_channels, F, H, W], or None.",
    "audio_hidden_states": "Audio latents [B, L, C], or None.",
    "timestep": "Video timestep, 1000 * sigma, [B] or per latent frame [B, F]; a condition has timestep 0.",
    "audio_timestep": "The same for audio, [B] or per latent [B, L]; None takes `timestep`, which is then [B].",
    "audio_encoder_hidden_states": "Text that audio reads; None takes the video's text and mask.",
    "audio_encoder_attention_mask": "Its mask.",
    "text_lengths": "In place of `encoder_attention_mask`, the first rows of the features that each sample reads: one "
    "Python int for each text encoder, such as `[(7,), (1,)]`. Attention then runs without a mask, so that every "
    "attention backend is available.",
    "audio_text_lengths": "The same in place of `audio_encoder_attention_mask`.",
    "frame_rate": "Frames per second of the video, for the clock that both modalities share.",
    "audio_latent_rate_hz": "Audio latents per second.",
    "coupled": "Whether video and audio read each other: True, False, `'a2v'` (video reads audio), `'v2a'` (audio "
    "reads video), or a sequence with one of these per sample.",
    "attention_kwargs": "`{'scale': 0.5}` multiplies the weights of the active adapters, those of `set_adapters`, in "
    "this forward; None leaves them. There is no other entry: the attention here takes no arguments.",
    "return_dict": "Whether to return a `JoVATransformerOutput` instead of a tuple.",
}
RETURNS = "Velocities [B, out_channels, F, H, W] and [B, L, C]; None for an absent modality."
Forward = TypeVar("Forward", bound=Callable[..., Any])


@dataclass
class JoVATransformerOutput(BaseOutput):
    """Predicted velocities.

    Args:
        sample: Video velocity [B, C, F, H, W]; None where no video was given.
        audio_sample: Audio velocity [B, L, C]; None where no audio was given.
        face_masks: Shares of a face per row in every block that has a mask, [B, blocks, F, height, width] in [0, 1];
            None where they were not asked for.
    """

    sample: Tensor | None = None
    audio_sample: Tensor | None = None
    face_masks: Tensor | None = None


class TextInput(NamedTuple):
    """Text of one modality.

    Args:
        features_1: Of the first encoder, [B, S, text_dim].
        features_2: Of the second, [B, S2, text_dim_2].
        mask: Rows that are read, bool [B, S + S2]; None for all, or where there are lengths.
        lengths: Rows that are read, per sample and encoder; None for all, or where there is a mask.
    """

    features_1: Tensor
    features_2: Tensor | None
    mask: Tensor | None
    lengths: TextLengths | None

    @property
    def features(self) -> tuple[Tensor, Tensor | None]:
        """Features of both encoders."""
        return self.features_1, self.features_2

    @property
    def num_rows(self) -> int:
        """Rows of the concatenated features, S + S2."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Rows of each encoder's features."""
        return [part.shape[1] for part in self.features if part is not None]

    @property
    def spans(self) -> tuple[Spans | None, ...] | None:
        """Rows that each sample has, by its lengths."""
        return None if self.lengths is None else text_spans(self.lengths, self.sizes)

    def check(self, prefix: str, batch_size: int, widths: Sequence[int | None]) -> None:
        """Refuse features of another shape, a mask or lengths that do not fit them, and a mask beside lengths.

        Args:
            prefix: Of the names of its arguments.
            batch_size: B.
            widths: That the model reads, of each encoder's features; None where it reads none.
        """
        for name, part, width in zip(("", "_2"), self.features, widths, strict=True):
            if width is not None and part is None and name:
                raise ValueError(
                    f"`{prefix}encoder_hidden_states{name}` must be given for a model with `text_dim_2`; use its own "
                    "text encoders"
                )
            if width is not None:
                check_features(f"{prefix}encoder_hidden_states{name}", part, batch_size, width)
        if self.mask is not None:
            check_text_mask(f"{prefix}encoder_attention_mask", self.mask, [batch_size, self.num_rows])
        if self.lengths is None:
            return
        if self.mask is not None:
            raise ValueError(
                f"`{prefix}text_lengths` must be None beside `{prefix}encoder_attention_mask`, got both; leave one out"
            )
        check_text_lengths(f"{prefix}text_lengths", self.lengths, batch_size, self.sizes)


class ModalityInput(NamedTuple):
    """What one modality brings into a forward.

    Args:
        latents: Video [B, C, F, H, W] or audio [B, L, C].
        grid: Rows per axis, (frames, height, width) or (latents,).
        timestep: [B], or one per latent frame or audio latent, [B, N].
        text: Its text.
    """

    latents: Tensor
    grid: tuple[int, ...]
    timestep: Tensor
    text: TextInput

    @property
    def num_rows(self) -> int:
        """Rows on all devices together, L."""
        return math.prod(self.grid)


def describe_arguments(**own: str) -> Callable[[Forward], Forward]:
    """Complete the docstring of a `forward` with the arguments that all share and those of its class.

    Args:
        own: Descriptions by name, for arguments that are not in `ARGUMENTS` or mean more here.

    Raises:
        TypeError: An argument has no description, or a description no argument.
    """

    def describe(forward: Forward) -> Forward:
        texts = {**ARGUMENTS, **own}
        names = [name for name in inspect.signature(forward).parameters if name != "self"]
        if wrong := set(names) - set(texts) | set(own) - set(names):
            raise TypeError(f"arguments of `{forward.__qualname__}` must each have a description, got {sorted(wrong)}")
        lines = [textwrap.fill(f"{name}: {texts[name]}", 115, subsequent_indent=" " * 4) for name in names]
        sections = [inspect.cleandoc(forward.__doc__ or ""), "Args:\n" + textwrap.indent("\n".join(lines), " " * 4)]
        forward.__doc__ = "\n\n".join([*sections, f"Returns:\n    {RETURNS}\n"])
        return forward

    return describe


class JoVATransformerMixin(
    JoVAConfigClassMixin,
    JoVAShippedMixin,
    JoVAContextParallelMixin,
    JoVAAdapterMixin,
    JoVACacheMixin,
    JoVASingleFileMixin,
):
    """Ends of a `forward`, and diffusers' tools: context parallelism, adapters, caches between steps, single files."""

    _supports_gradient_checkpointing = True

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a transformer as diffusers does; `"jova-tiny"` with `subfolder="transformer"` comes with the package.

        Raises:
            ValueError: The checkpoint lacks weights, which diffusers leaves without values, or `load_config` refuses.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        if not isinstance(loaded, tuple):  # which tells what is missing
            fields = inspect.signature(cls.__init__).parameters
            check_weights("transformer", loaded, [name for name in kwargs if name in fields])
        return loaded

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a config as diffusers does.

        Raises:
            ValueError: `from_pretrained` asks, and it is that of another class, whose weights would be left out for
                random ones.
        """
        loaded = super().load_config(*args, **kwargs)
        if not isinstance(loaded, tuple):  # a config alone, which may be of any class
            return loaded
        check_config_class(cls, loaded[0], "`config.json`")
        return loaded

    def check_sizes(self) -> None:
        """Refuse a config whose sizes are no counts, that has no blocks, or epsilon and base that are not positive.

        Counts become ints.

        Raises:
            TypeError: What is one number for each axis is neither a tuple nor a list.
            ValueError: Naming the field.
        """
        config = self.config
        sizes = {name: config[name] for name in SIZES if name in config}
        sizes |= {name: config[name] for name in OPTIONAL_SIZES if config.get(name) is not None}
        blocks = {name: config[name] for name in BLOCK_COUNTS if name in config}
        least = 2 - len(blocks)  # of two kinds of blocks, one may be missing
        self.register_to_config(**whole_numbers(sizes, least=1), **whole_numbers(blocks, least))
        if not any(blocks.values()):
            raise ValueError(f"`{'` and `'.join(blocks)}` must not both be 0, got no block; the paper has 16 and 40")
        for name in SIZES_OF_AXES:
            if name in config:
                check_sizes_of_axes(name, config[name])
        for name, advice in POSITIVE.items():
            positive_number(name, config[name], advice)

    def read_inputs(
        self,
        latents: tuple[Tensor | None, Tensor | None],
        timesteps: tuple[Tensor, Tensor | None],
        text: tuple[Tensor, Tensor | None, Tensor | None, TextLengths | None],
        audio_text: tuple[Tensor | None, Tensor | None, Tensor | None, TextLengths | None],
        attention_kwargs: Mapping[str, Any] | None,
    ) -> dict[str, ModalityInput]:
        """Check the arguments of a `forward` and let audio take from video what it does not have.

        Args:
            latents: Of video and audio; None where a modality is absent.
            timesteps: Of video and audio; None for audio takes video's.
            text: Features of both encoders, mask and lengths, for video.
            audio_text: The same for audio, which without features reads `text`.
            attention_kwargs: What is left of them once adapters are weighed.

        Returns:
            The inputs of every modality that is present, in packed order.

        Raises:
            ValueError: Shapes do not fit, latents or features are no tensors, both modalities are absent, the audio
                has a mask without a text, a text has a mask and lengths or a mask of floats, or `attention_kwargs`
                hold more than `scale`.
        """
        check_attention_kwargs(attention_kwargs)
        media = present_media(*latents)
        timestep, audio_timestep = timesteps
        times = {"video": timestep, "audio": timestep if audio_timestep is None else audio_timestep}
        texts = {"video": TextInput(*text), "audio": own_text(*audio_text) or TextInput(*text)}
        grids = {name: self.grid_of(name, part) for name, part in media.items()}
        batch_size = batch_size_of(media)
        for name, grid in grids.items():
            is_of_video = name == "audio" and audio_timestep is None and "video" in grids
            check_timestep(name, times[name], batch_size, grid[0], is_of_video)
        second, width = self.config.get("text_dim_2"), self.config.text_dim
        widths = {"video": width, "audio": self.config.get("audio_text_dim", width)}
        for name in media:
            texts[name].check("" if name == "video" else "audio_", batch_size, (widths[name], second))
        return {name: ModalityInput(part, grids[name], times[name], texts[name]) for name, part in media.items()}

    def video_tower(self, timestep: Tensor) -> str:
        """The part of the model that serves the video at timesteps [B] or [B, F]; one serves all of them."""
        return "video"

    def grid_of(self, modality: str, latents: Tensor) -> tuple[int, ...]:
        """Rows per axis of video latents [B, C, F, H, W] or audio latents [B, L, C], after checking their shape."""
        if modality == "audio":
            return audio_grid(latents, self.config.audio_in_channels)
        return video_grid(latents, self.config.in_channels, self.config.patch_size)

    def join_outputs(
        self, velocities: Mapping[str, Tensor], inputs: Mapping[str, ModalityInput], return_dict: bool
    ) -> JoVATransformerOutput | tuple[Tensor | None, Tensor | None]:
        """Rows of the heads [B, L, C] as what a `forward` returns; rows behind L are padding and are cut off."""
        rows = {name: velocity[:, : inputs[name].num_rows] for name, velocity in velocities.items()}
        sample, audio_sample = rows.get("video"), rows.get("audio")
        if sample is not None:
            sample = unpatchify(sample, inputs["video"].grid, self.config.patch_size)
        if not return_dict:
            return sample, audio_sample
        return JoVATransformerOutput(sample=sample, audio_sample=audio_sample)


def own_text(
    features: Tensor | None, features_2: Tensor | None, mask: Tensor | None, lengths: TextLengths | None
) -> TextInput | None:
    """Text of the audio; None where it reads the video's.

    Raises:
        ValueError: Second features, a mask or lengths are given without the text that they belong to.
    """
    if features is not None:
        return TextInput(features, features_2, mask, lengths)
    if features_2 is not None or mask is not None or lengths is not None:
        raise ValueError(
            "`audio_encoder_hidden_states` must be given with its mask and second features, got None; leave all out "
            "for the video's text"
        )
    return None


def check_features(name: str, features: Tensor | None, batch_size: int, width: int) -> None:
    """Refuse text features that are not [batch_size, S, width]."""
    if features is not None:
        check_tensor(name, features)
    if features is None or features.ndim != 3 or features.shape[0] != batch_size or features.shape[2] != width:
        got = None if features is None else list(features.shape)
        raise ValueError(
            f"`{name}` must be features [{batch_size}, S, {width}] of the encoder that the model was trained with, "
            f"one row of samples for each of the latents, got {got}; take them from `encode_prompt` of its pipeline"
        )


def check_text_mask(name: str, mask: Tensor, shape: list[int]) -> None:
    """Refuse a mask of another shape than the text's, and floats: those that are added to scores mean the opposite."""
    check_tensor(name, mask)
    if mask.is_floating_point():
        raise ValueError(
            f"`{name}` must be bool, True where a row is read, or 1 and 0 as whole numbers, got {mask.dtype}; make it "
            "so by `mask > 0`, or by `mask == 0` of one that is added to scores"
        )
    if list(mask.shape) != shape:
        raise ValueError(
            f"`{name}` must be {shape}, a row of every text encoder's features for each sample, got "
            f"{list(mask.shape)}; give it for all of them"
        )


def check_attention_kwargs(attention_kwargs: Any) -> None:
    """Refuse what no transformer reads, and a weight of adapters that is no finite number.

    Raises:
        ValueError: Naming the entries.
    """
    if attention_kwargs is None:
        return
    if not isinstance(attention_kwargs, Mapping):
        raise ValueError(f"`attention_kwargs` must be a dict, got {attention_kwargs!r}; pass `{{'scale': 0.5}}`, say")
    if unknown := [name for name in attention_kwargs if name != "scale"]:
        raise ValueError(f"`attention_kwargs` must have no entries but `scale`, got {unknown}; leave these out")
    finite_number("attention_kwargs['scale']", attention_kwargs.get("scale", 1.0), "1 is the adapter as trained")


def check_sizes_of_axes(name: str, sizes: Any) -> None:
    """Refuse what is not one whole number for each axis of a video.

    Raises:
        TypeError: They are neither a tuple nor a list.
        ValueError: Naming the field, and its entry.
    """
    is_several = isinstance(sizes, tuple | list)
    if not is_several or len(sizes) != 3:
        raise (ValueError if is_several else TypeError)(
            f"`{name}` must be three whole numbers, of (frames, height, width), got {sizes!r}; give one for each"
        )
    whole_numbers({f"{name}[{axis}]": size for axis, size in enumerate(sizes)}, least=1)


def check_positions(
    rope_axes_dim: Sequence[int],
    attention_head_dim: int,
    temporal_alignment: TemporalAlignment,
    name: str = "rope_axes_dim",
) -> None:
    """Refuse settings by which positions cannot rotate the channels of a head."""
    check_axes_dim(name, rope_axes_dim)
    if sum(rope_axes_dim) != attention_head_dim:
        raise ValueError(
            f"`{name}` must add up to `attention_head_dim`, {attention_head_dim}, got {list(rope_axes_dim)}"
        )
    check_alignment(temporal_alignment)
