"""Size and length of a clip, of widgets and given media; nothing of core."""

from typing import Any

from .package import jova


def settle_clip(
    saved: Any,
    outline: Any,
    width: int,
    height: int,
    length: int,
    frame_rate: float,
    audio: Any = None,
    images: Any = None,
) -> tuple[Any, bool]:
    """Settings of a clip, and whether a given sound set its length and is filled up with silence.

    Args:
        saved: The pipeline.
        outline: Its codecs.
        width: Pixels; 0 takes the model's own.
        height: Pixels; 0 takes the model's own.
        length: Frames; 0 takes the length of `audio` or `images`, or the model's own.
        frame_rate: Frames per second; 0 takes the model's own.
        audio: AUDIO that sets the length.
        images: IMAGE that sets the length; a sound beside it is continued, as in a call of the pipeline.

    Returns:
        `GenerationDefaults`, and a bool.

    Raises:
        ValueError: The model makes no such clip.
    """
    checks = jova("pipeline_checks")
    settings = outline.defaults.override(
        width=width or None, height=height or None, num_frames=length or None, frame_rate=frame_rate or None
    )
    checks.check_frame_rate(settings.frame_rate)
    if length == 0 and (audio is not None or images is not None):
        waveform, rate = (None, None) if audio is None else (audio["waveform"], audio["sample_rate"])
        arguments = (images, waveform, rate, settings.frame_rate, outline.temporal_factor)
        settings = settings.override(num_frames=jova("clip_shape").frames_of_given_media(*arguments))
    transformer = saved.component_config("transformer")
    checks.check_size(settings, outline.video_codec.spatial_factor, transformer["patch_size"])
    jova("pipeline_checks").check_whole_frames(settings.num_frames, outline.temporal_factor)
    check_limits(settings, length, outline, transformer, audio, images)
    return settings, length == 0 and audio is not None and images is None


def check_limits(settings: Any, length: int, outline: Any, transformer: Any, audio: Any, images: Any) -> None:
    """Refuse a clip that is longer or larger than the transformer has positions for, by what makes it so.

    Args:
        settings: Of the clip.
        length: Of the widget.
        outline: Codecs of the pipeline.
        transformer: Its config.
        audio: AUDIO that may have set the length.
        images: IMAGE that may have set it.
    """
    temporal_factor = outline.temporal_factor
    limits = jova("pipeline_media").clip_limits(transformer, temporal_factor, outline.video_codec.spatial_factor)
    if limits is None:
        return
    jova("pipeline_checks").check_largest_size(settings, limits)
    rate = settings.frame_rate
    longest = limits.longest(rate, outline.audio_codec.clock, temporal_factor)
    if settings.num_frames <= longest:
        return
    longest_s = jova("pipeline_checks").rounded_down(longest / rate)
    limit = f"{longest_s} s, {longest} frames at {rate:g} per second, the longest clip of this model"
    audio_s = 0.0 if audio is None else audio["waveform"].shape[-1] / audio["sample_rate"]
    if length == 0 and round(audio_s * rate, 3) > longest:
        advice = f"cut it with TrimAudioDuration to {longest_s} s"
        raise ValueError(f"`audio` must last at most {limit}, got {audio_s:.2f} s; {advice}")
    if length == 0 and images is not None and len(images) > longest:
        advice = f"set `length` to {longest} to take their beginning"
        raise ValueError(f"`images` must last at most {limit}, got {len(images)} frames; {advice}")
    raise ValueError(f"`length` must be at most {longest} ({limit}), got {settings.num_frames}; use {longest}")
