"""Which sizes and lengths of clips a loaded model takes."""

from typing import NamedTuple

from .clip_shape import whole_latents
from .pipeline_jova import JoVAPipeline


BEYOND_DEFAULT = 2  # lengths and sizes of the default, where a model states no limit


class ClipLimits(NamedTuple):
    """The sizes and lengths of a model's clips, in pixels and frames.

    Attributes:
        size_multiple: What height and width are multiples of.
        frame_multiple: What the number of frames exceeds a multiple of by one.
        height: The largest.
        width: The largest.
        num_frames: The largest.
    """

    size_multiple: int
    frame_multiple: int
    height: int
    width: int
    num_frames: int


def limits_of(pipeline: JoVAPipeline) -> ClipLimits:
    """The limits that a transformer's tables of positions set; of one without tables, a multiple of the defaults."""
    config, defaults, factor = pipeline.transformer.config, pipeline.defaults, pipeline.temporal_factor
    size_multiple = pipeline.video_codec.spatial_factor * config.patch_size[1]
    height, width, num_frames = (
        BEYOND_DEFAULT * value for value in (defaults.height, defaults.width, defaults.num_frames)
    )
    if tables := config.get("position_table_sizes"):
        height, width = (rows * size_multiple for rows in tables[1:])
        sounding_s = config.audio_position_table_size / pipeline.audio_codec.latent_rate_hz
        num_frames = min((tables[0] - 1) * factor + 1, int(sounding_s * defaults.frame_rate))
    return ClipLimits(size_multiple, factor, height, width, whole_latents(num_frames, factor))
