"""Size and length of a clip, of widgets and given media; nothing of core."""

from typing import Any

from .package import jova


CUT_AUDIO = "cut it with TrimAudioDuration to {} s"
CUT_IMAGES = "set `length` to {} to take their beginning"


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
    given = given_lengths(audio, images) if length == 0 else checks.GivenLengths()
    check_limits(settings, outline, transformer, given)  # before a length near by is advised, which may be beyond it
    checks.check_whole_frames(settings.num_frames, outline.temporal_factor, "length")
    checks.check_size(settings, outline.video_codec.spatial_factor, transformer["patch_size"])
    return settings, length == 0 and audio is not None and images is None


def given_lengths(audio: Any, images: Any) -> Any:
    """`GivenLengths` of an AUDIO and an IMAGE, each of which may be None."""
    lengths = jova("pipeline_checks").GivenLengths(None if images is None else len(images))
    if audio is None:
        return lengths
    return lengths._replace(num_samples=audio["waveform"].shape[-1], sampling_rate=audio["sample_rate"])


def check_limits(settings: Any, outline: Any, transformer: Any, given: Any) -> None:
    """Refuse a clip that is longer or larger than the transformer has positions for, by what makes it so.

    Args:
        settings: Of the clip.
        outline: Codecs of the pipeline.
        transformer: Its config.
        given: `GivenLengths` of the media that set its length.
    """
    checks, temporal_factor = jova("pipeline_checks"), outline.temporal_factor
    limits = jova("pipeline_codecs").clip_limits(transformer, temporal_factor, outline.video_codec.spatial_factor)
    if limits is None:
        return
    longest = limits.longest(settings.frame_rate, outline.audio_codec.clock, temporal_factor)
    words = checks.LengthWords("length", "images", CUT_AUDIO, CUT_IMAGES)
    checks.check_length(settings.num_frames, settings.frame_rate, longest, given, words)
    checks.check_largest_size(settings, limits)
