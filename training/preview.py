"""Show what training will see: the clips of a data set with mouth boxes and latent mouth masks drawn over them.

With `--debug-mouth-mask`, each clip is also shown decoded from its latents, as they are and with the masked ones set
to zero (JoVA, arXiv:2512.13677v1, Appendix A): the mouth, and nothing but the mouth, must go.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from diffusers_jova.devices import choose_device
from diffusers_jova.evaluation.burnt_words import burn_in
from diffusers_jova.evaluation.viewing import enlarge, zoom_for
from diffusers_jova.media import AAC_SAMPLING_RATES_HZ, resample, write_video
from diffusers_jova.moviepy_clips import import_moviepy
from diffusers_jova.training.data.buckets import SHAPE_NOTES
from diffusers_jova.training.data.clip import BrokenFileError, Clip, ClipSettings, Recording, SkippedClipError
from diffusers_jova.training.data.clips import Transcribe, read_recording
from diffusers_jova.training.data.encoder import Encoder, video_factors
from diffusers_jova.training.data.manifest import CAPTION, Sample, read_samples
from diffusers_jova.training.data.mouth_detector import MouthDetector
from diffusers_jova.training.data.mouth_mask import latent_mask, windows
from diffusers_jova.training.data.mouth_quality import measure_mouths
from diffusers_jova.training.data.preparation import PrepareSettings
from diffusers_jova.training.data.subtitles import Speech, write_subtitles
from diffusers_jova.training.data.summary import describe_found, describe_seconds, names_apart
from diffusers_jova.training.data.transcriber import Transcriber
from diffusers_jova.training.prepare import check_detector, clip_settings, default_device
from jova_cli.file_arguments import of_this_file
from jova_cli.parser import Parser, one_line
from jova_cli.preview import parse
from jova_cli.progress import followed
from jova_cli.tables import some


Frames = NDArray[np.uint8]

BOX_COLOURS = ((255, 64, 64), (64, 255, 64), (64, 160, 255), (255, 224, 64))  # one person each, then again
MASK_COLOUR = (255, 0, 255)
MASK_OPACITY = 0.35
LABELS = ("boxes and latent mask", "decoded", "decoded without the mouth")
LABEL_PX = 24  # even, as mp4 wants
UNTOLD = f"it has no caption, so `jova prepare` leaves it out; {CAPTION}"
COMMON_RATE_HZ = 48000  # for sound of a rate that an mp4 does not take


def draw_boxes(frames: Frames, boxes: NDArray[np.floating]) -> Frames:
    """Outline the box of each person.

    Args:
        frames: uint8 [F, H, W, 3].
        boxes: [P, F, 4] xyxy in pixels, NaN = no mouth.
    """
    drawn = frames.copy()
    for person, track in enumerate(boxes):
        for frame, box in zip(drawn, track, strict=True):
            if np.isfinite(box).all():
                _outline(frame, box, BOX_COLOURS[person % len(BOX_COLOURS)])
    return drawn


def tint_mask(frames: Frames, mask: NDArray[np.bool_], spatial_factor: int, temporal_factor: int) -> Frames:
    """Tint the pixels of masked latents in the frames that each latent encodes.

    Args:
        frames: uint8 [F, H, W, 3].
        mask: bool [K + 1, h, w].
        spatial_factor: Pixels of `frames` per latent cell.
        temporal_factor: Frames per latent after the first.
    """
    tinted = frames.astype(np.float32)
    cells = mask.repeat(spatial_factor, axis=1).repeat(spatial_factor, axis=2)
    for latent, of_latent in enumerate(windows(len(frames), temporal_factor)):
        part = tinted[of_latent.start : of_latent.stop]
        colour = (1 - MASK_OPACITY) * part + MASK_OPACITY * np.array(MASK_COLOUR, np.float32)
        tinted[of_latent.start : of_latent.stop] = np.where(cells[latent][..., None], colour, part)
    return tinted.round().astype(np.uint8)


def draw_clip(clip: Clip, spatial_factor: int, temporal_factor: int) -> Frames:
    """Draw boxes and mask over a clip, enlarged if it is small: uint8 [F, n * H, n * W, 3]."""
    assert clip.frames is not None
    bucket = clip.bucket
    mask = latent_mask(clip.mouth_boxes, *bucket, spatial_factor, temporal_factor)
    zoom = zoom_for(clip.frames)
    frames = tint_mask(enlarge(clip.frames), mask, spatial_factor * zoom, temporal_factor)
    return draw_boxes(frames, clip.mouth_boxes * zoom)


@torch.inference_mode()
def decode_without_mouth(clip: Clip, encoder: Encoder) -> tuple[Frames, Frames]:
    """Decode the latents of a clip as they are, and with those of the mouth mask set to zero (Appendix A).

    Returns:
        Two clips, uint8 [F, H, W, 3].
    """
    assert clip.frames is not None
    codec = encoder.video_codec
    latents = encoder.encode_video(clip.frames).float()[None]
    mask = latent_mask(clip.mouth_boxes, *clip.bucket, codec.spatial_factor, codec.temporal_factor)
    without = latents.masked_fill(torch.from_numpy(mask), 0)  # 0 is the mean of normalised latents
    device = encoder.pipeline.vae.device
    decoded = (codec.decode(part.to(device))[0].movedim(0, -1).float().cpu() for part in (latents, without))
    plain, masked = (((pixels + 1) * 127.5).round().byte().numpy() for pixels in decoded)
    return plain, masked


def compose(clip: Clip, spatial_factor: int, temporal_factor: int, encoder: Encoder | None) -> Frames:
    """Lay the views of a clip side by side: drawn over, and with an encoder also decoded with and without mouth."""
    views = [label(draw_clip(clip, spatial_factor, temporal_factor), LABELS[0])]
    if encoder is not None:
        decoded = (enlarge(frames) for frames in decode_without_mouth(clip, encoder))
        views += [label(frames, text) for frames, text in zip(decoded, LABELS[1:], strict=True)]
    return np.concatenate(views, axis=2)


def label(frames: Frames, text: str) -> Frames:
    """Put a strip with a text above frames [F, H, W, 3]: [F, H + LABEL_PX, W, 3]."""
    strip = Image.new("RGB", (frames.shape[2], LABEL_PX))
    ImageDraw.Draw(strip).text((6, LABEL_PX // 2), text, fill=(255, 255, 255), anchor="lm", font_size=LABEL_PX // 2)
    strips = np.broadcast_to(np.asarray(strip), (len(frames), LABEL_PX, *frames.shape[2:]))
    return np.concatenate([strips, frames], axis=1)


def describe_clip(
    clip: Clip, settings: ClipSettings, spatial_factor: int, temporal_factor: int, looked: bool = True
) -> str:
    """Say where a clip lies in its file, what its shape does to it, how its mouths are seen, and what is said.

    Args:
        clip: What is described.
        settings: By which it was cut.
        spatial_factor: Pixels per latent cell.
        temporal_factor: Frames per latent after the first.
        looked: Whether mouths were looked for.
    """
    mask = latent_mask(clip.mouth_boxes, *clip.bucket, spatial_factor, temporal_factor)
    mouths = measure_mouths(clip.mouth_boxes, clip.cut_share)
    seen = (
        f"{mouths.num_faces} mouth{'' if mouths.num_faces == 1 else 's'}, in {mouths.share:.0%} of the frames, "
        f"{mask.mean():.1%} of the latents"
    )
    end_s = clip.start_s + clip.bucket.num_frames / settings.frame_rate
    notes = [
        f"from {clip.start_s:.1f} to {end_s:.1f} s" if clip.bucket.num_frames > 1 or clip.start_s else "one frame",
        SHAPE_NOTES[settings.fit](clip.shape_share),
        seen if looked or mouths.num_faces else "mouths not looked for",
    ]
    if mouths.num_jumps:
        notes.append(f"{mouths.num_jumps} jumps")
    if mouths.cut_share:
        notes.append(f"{mouths.cut_share:.0%} of the faces cut")
    return ", ".join(notes) + (f", says: {clip.words}" if clip.words else "")


class _Unfinished(NamedTuple):
    """A recording of which some clips were cut, the last of them at `last_s`."""

    sample: Sample
    recording: Recording
    last_s: float


def previews(
    samples: Sequence[Sample],
    settings: PrepareSettings,
    transcriber: Transcribe | None = None,
    tell: Callable[[str], None] = tqdm.write,
    max_clips: int | None = None,
    tells_untold: bool = False,
) -> Iterator[tuple[Sample, Clip]]:
    """Cut the clips with a picture, and tell what of a file is left out and why; of sound alone that is all.

    Args:
        samples: Of the data set.
        settings: How files become clips.
        transcriber: Writes down what is said, where nobody wrote it.
        tell: Takes the lines.
        max_clips: How many clips are cut; they are shared out among the files, each of which is looked at while there
            are some. How many more there are is told at the end, where a file that was not read counts as one. Of
            sound alone as many files are told.
        tells_untold: Tell as well what lacks a caption.
    """

    def is_untold(sample: Sample) -> bool:
        return tells_untold and settings.is_untold(sample)

    detector = settings.detector_on_demand()
    names = names_apart(str(sample.source) for sample in samples)
    sounds = [sample for sample in samples if sample.video is None]
    samples = [sample for sample in samples if sample.video is not None]
    num_shown = num_hidden = 0
    not_opened = sounds[len(sounds[:max_clips]) :]
    unfinished: list[_Unfinished] = []
    for index, sample in enumerate(samples):
        name, num_files = names[str(sample.source)], len(samples) - index
        share = None if max_clips is None else math.ceil((max_clips - num_shown) / num_files)
        if share == 0:
            num_hidden += num_files
            not_opened += samples[index:]
            break
        try:
            recording = read_recording(sample, settings.clips, detector, transcriber)
            planned_s = recording.length_s - sum(recording.unused_s.values())
            if not sample.is_still:
                line = describe_seconds(name, planned_s, recording.length_s, recording.unused_s)
                tell(f"{line}; {UNTOLD}" if is_untold(sample) else line)
            elif is_untold(sample):
                tell(f"{name}: {UNTOLD}")
            for num_of_file, clip in enumerate(recording.clips, start=1):
                yield sample, clip
                num_shown += 1
                if num_of_file == share:
                    unfinished.append(_Unfinished(sample, recording, clip.start_s))
                    break
            else:
                used_s = recording.length_s - sum(recording.unused_s.values())
                if used_s < planned_s:
                    tell(describe_seconds(name, used_s, recording.length_s, recording.unused_s))
        except (SkippedClipError, BrokenFileError) as error:
            tell(f"{name}: left out: {why_left_out(error)}")
    for sample, recording, last_s in unfinished:  # what files with fewer clips leave goes to the others
        try:
            for clip in islice(recording.clips, max(0, (max_clips or 0) - num_shown)):
                yield sample, clip
                num_shown, last_s = num_shown + 1, clip.start_s
        except (SkippedClipError, BrokenFileError) as error:
            tell(f"{names[str(sample.source)]}: left out: {why_left_out(error)}")
        starts_s = (segment.start / settings.clips.frame_rate for segment in recording.segments)
        num_hidden += sum(start_s > last_s for start_s in starts_s)
    for sample in sounds[:max_clips]:
        line = describe_sound_alone(sample, names[str(sample.source)], settings, detector, transcriber)
        tell(f"{line}; {UNTOLD}" if is_untold(sample) else line)
    if lacking := [names[str(sample.source)] for sample in not_opened if is_untold(sample)]:
        told = f"no caption in {len(lacking)} of the files that were not looked at: {some(lacking)}"
        tell(f"{told}; `jova prepare` leaves them out")
    if num_more := len(sounds) - len(sounds[:max_clips]):
        tell(f"{num_more} more file{'s are' if num_more > 1 else ' is'} sound alone; `--max-clips` tells more")
    if num_hidden:
        about = "" if settings.clips.cut == "first" else "about "
        tell(f"{num_shown} of {about}{num_shown + num_hidden} shown; `--max-clips` shows more")


def why_left_out(error: SkippedClipError | BrokenFileError) -> str:
    """What is told of a file that becomes no clips."""
    return of_this_file(error.told if isinstance(error, SkippedClipError) else one_line(error))


def describe_sound_alone(
    sample: Sample, name: str, settings: PrepareSettings, detector: MouthDetector, transcriber: Transcribe | None
) -> str:
    """Say how many seconds of a sound without a picture become clips, or why none do.

    Args:
        sample: The sound.
        name: Of its file.
        settings: How files become clips.
        detector: Finds mouths, of which a sound has none.
        transcriber: Writes down what is said, where nobody wrote it.
    """
    try:
        recording = read_recording(sample, settings.clips, detector, transcriber)
        num_frames = sum(clip.bucket.num_frames for clip in recording.clips)
    except (SkippedClipError, BrokenFileError) as error:
        return f"{name}: left out: {why_left_out(error)}"
    line = describe_seconds(name, num_frames / settings.clips.frame_rate, recording.length_s, recording.unused_s)
    return f"{line}; sound alone, nothing to show"


def spoken_parts(sample: Sample, clip: Clip, frame_rate: float) -> Sequence[Speech]:
    """What is said in a clip when; a transcript without times is said all the time."""
    if clip.speech is None and sample.transcript:
        return [Speech(sample.transcript, 0.0, clip.bucket.num_frames / frame_rate)]
    return clip.speech or ()


def playable_sound(clip: Clip) -> tuple[NDArray[np.float32] | None, int | None]:
    """Bring the sound [channels, samples] of a clip to a rate that an mp4 takes; returns both."""
    if clip.audio is None:
        return None, None
    rate = clip.sampling_rate if clip.sampling_rate in AAC_SAMPLING_RATES_HZ else COMMON_RATE_HZ
    return resample(clip.audio, clip.sampling_rate, rate), rate


def write_preview(
    path: Path,
    clip: Clip,
    settings: ClipSettings,
    factors: tuple[int, int],
    encoder: Encoder | None = None,
    spoken: Sequence[Speech] | None = None,
    looked: bool = True,
) -> str:
    """Write the views of a clip as a video with its sound.

    Args:
        path: File to write.
        clip: What is shown.
        settings: By which it was cut.
        factors: Pixels per latent cell, and frames per latent after the first.
        encoder: Shows the clip decoded as well.
        spoken: Subtitles to burn in; None for none.
        looked: Whether mouths were looked for.

    Returns:
        What the views show, in words.
    """
    frames = compose(clip, *factors, encoder)
    if spoken is not None:
        frames = burn_in(frames, settings.frame_rate, spoken)
    write_video(path, frames, settings.frame_rate, *playable_sound(clip))
    return describe_clip(clip, settings, *factors, looked)


def main(argv: Sequence[str] | None = None) -> None:
    """Write one preview video for each clip."""
    parser, args = parse(argv)
    parser.run(execute, args)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Write the previews that the words ask for, and say what they show."""
    try:
        if args.subtitles:
            import_moviepy()
        spatial_factor, temporal_factor, _ = video_factors(args.model)
        settings = PrepareSettings(
            clips=clip_settings(args),
            mouths=not args.no_mouth,
            face_landmarker=args.face_landmarker_path,
            whisper=args.whisper,
        )
        samples = read_samples(args.source, captions_required=False)
        print(describe_found(args.source, samples), end="")
        check_detector(samples, settings)
        device = str(choose_device(args.device or default_device()))
        encoder = Encoder.from_pretrained(args.model, device) if args.debug_mouth_mask else None
        args.output.mkdir(parents=True, exist_ok=True)
        paths: list[Path] = []
        transcriber = None if args.whisper is None else Transcriber(args.whisper, device)
        shown = previews(samples, settings, transcriber, max_clips=args.max_clips, tells_untold=True)
        for sample, clip in followed(shown, None, "previewing"):
            paths.append(args.output / f"{len(paths):03d}-{sample.source.stem}.mp4")
            spoken = spoken_parts(sample, clip, settings.clips.frame_rate) if args.subtitles else None
            if args.subtitles and clip.speech:
                write_subtitles(paths[-1].with_suffix(".srt"), clip.speech)
            factors = spatial_factor, temporal_factor
            said = write_preview(paths[-1], clip, settings.clips, factors, encoder, spoken, settings.mouths)
            untimed = f", says: {sample.transcript}" if clip.words is None and sample.transcript else ""
            tqdm.write(f"{paths[-1]}: {said}{untimed}")
    except (ValueError, OSError, ImportError) as error:
        parser.error(one_line(error))
    if not paths:
        parser.exit(1, f"no clip of `{args.source}` can be shown\n")


def _outline(frame: Frames, box: NDArray[np.floating], colour: tuple[int, int, int]) -> None:
    """Draw the rectangle of a box into a frame [H, W, 3]; parts outside of the frame are not drawn."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    rows = np.arange(max(y1, 0), min(y2, height))
    columns = np.arange(max(x1, 0), min(x2, width))
    for y in (y1, y2 - 1):
        if 0 <= y < height:
            frame[y, columns] = colour
    for x in (x1, x2 - 1):
        if 0 <= x < width:
            frame[rows, x] = colour


if __name__ == "__main__":
    main()
