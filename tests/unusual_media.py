"""Makes media files as they come from phones, editors, broken downloads: each with what is to be read from it.

    python -m tests.unusual_media FOLDER

writes them all, to try other programs with. Pictures show `picture()`, track k of sound is a tone of (k + 1) * 440 Hz.
"""

import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import PIL.Image
import scipy.io.wavfile


ORANGE, BLUE = (230, 120, 40), (30, 60, 200)  # left and right half of a picture
RATE = 16000
NUM_FRAMES, FRAME_RATE = 25, 25
DURATION_S = NUM_FRAMES / FRAME_RATE


class Expected(NamedTuple):
    """What is read from a file; None is not looked at.

    Attributes:
        kind: `video`, `audio` or `image`: which `media.read_*`.
        size: Height and width.
        left: Colour of the left half, within `tolerance`.
        num_frames: Frames.
        seconds: Of sound.
        hz: Of its tone.
        num_channels: Of the sound; 0 for none.
        refusal: Pattern of the sentence that is said instead.
        options: Of `media.read_*`.
    """

    kind: str
    size: tuple[int, int] | None = (64, 96)
    left: tuple[int, int, int] | None = ORANGE
    tolerance: int = 12
    num_frames: int | None = NUM_FRAMES
    seconds: float | None = None
    hz: float = 440.0
    num_channels: int | None = None
    refusal: str | None = None
    options: dict[str, Any] = {}


class Case(NamedTuple):
    """A file, how it is made, what is read from it."""

    name: str
    make: Callable[[Path], None]
    expected: Expected


def picture(height: int = 64, width: int = 96) -> np.ndarray:
    """Orange on the left, blue on the right."""
    array = np.empty((height, width, 3), np.uint8)
    array[:, : width // 2], array[:, width // 2 :] = ORANGE, BLUE
    return array


def tone(hz: float = 440.0, seconds: float = DURATION_S, rate: int = RATE, num_channels: int = 1) -> np.ndarray:
    """Float32 [channels, samples]."""
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[None], num_channels, axis=0).astype(np.float32)


# Video


def video(
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    size: tuple[int, int] = (64, 96),
    rate: Fraction | int = FRAME_RATE,
    alpha: int | None = None,
    times: Sequence[int] | None = None,
    sounds: Sequence[dict[str, Any]] = (),
    container: dict[str, Any] | None = None,
    **context: Any,
) -> Callable[[Path], None]:
    """A maker of 25 frames with sound tracks.

    Args:
        codec: Of libav.
        pixels: Its pixel format.
        size: Height and width.
        rate: Frames per second.
        alpha: Of every pixel; None for formats without.
        times: Frame times in frames; None for 0, 1, 2, ...
        sounds: Per track `codec`, and perhaps `is_default`, `delay_s`.
        container: Options of `av.open`.
        context: Attributes of the codec context.
    """

    def make(path: Path) -> None:
        with av.open(str(path), "w", **(container or {})) as file:
            stream = file.add_stream(codec, rate=rate)
            stream.height, stream.width = size
            stream.pix_fmt = pixels
            for name, value in context.items():
                setattr(stream.codec_context, name, value)
            tracks = [
                file.add_stream(s["codec"], rate=s.get("rate", RATE), layout=s.get("layout", "mono")) for s in sounds
            ]
            for track, sound in zip(tracks, sounds, strict=True):
                if "is_default" in sound:
                    track.disposition = av.stream.Disposition.default if sound["is_default"] else 0
            for index in range(NUM_FRAMES):
                file.mux(stream.encode(frame_of(size, pixels, alpha, index if times is None else times[index], rate)))
            file.mux(stream.encode(None))
            for number, (track, sound) in enumerate(zip(tracks, sounds, strict=True)):
                encode_tone(file, track, (number + 1) * 440.0, sound.get("delay_s", 0.0))

    return make


def frame_of(size: tuple[int, int], pixels: str, alpha: int | None, time: int, rate: Fraction | int) -> av.VideoFrame:
    array = picture(*size)
    if alpha is None:
        frame = av.VideoFrame.from_ndarray(array, format="rgb24")
    else:
        layer = np.full((*size, 1), alpha, np.uint8)
        frame = av.VideoFrame.from_ndarray(np.concatenate([array, layer], axis=-1), format="rgba")
    frame = frame.reformat(format=pixels)
    frame.pts, frame.time_base = time, 1 / Fraction(rate)
    return frame


def encode_tone(file: Any, track: Any, hz: float, delay_s: float = 0.0) -> None:
    rate, layout = track.rate, track.layout.name
    samples = tone(hz, rate=rate, num_channels=track.layout.nb_channels)
    wanted = track.format.name
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    resampler = av.AudioResampler(format=wanted, layout=layout, rate=rate, frame_size=track.frame_size or 1024)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        piece.pts = (piece.pts or 0) + round(delay_s * rate)
        file.mux(track.encode(piece))
    file.mux(track.encode(None))


def sound(codec: str, *, rate: int = RATE, layout: str = "mono") -> Callable[[Path], None]:
    """A maker of one second of sound."""

    def make(path: Path) -> None:
        with av.open(str(path), "w") as file:
            encode_tone(file, file.add_stream(codec, rate=rate, layout=layout), 440.0)

    return make


def wav(dtype: str, rate: int = RATE, num_channels: int = 1) -> Callable[[Path], None]:
    """A maker of one second of samples of a type."""

    def make(path: Path) -> None:
        samples = tone(rate=rate, num_channels=num_channels).T
        if dtype == "uint8":
            samples = (128 + 127 * samples).astype(dtype)
        elif dtype != "float32":
            samples = (np.iinfo(dtype).max * samples.astype(np.float64)).astype(dtype)
        scipy.io.wavfile.write(path, rate, samples)

    return make


# What becomes of files


def cut(make: Callable[[Path], None], share: float) -> Callable[[Path], None]:
    """A maker of the first share of a file's bytes."""

    def make_part(path: Path) -> None:
        make(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return make_part


def turned(quarter_turns: int) -> Callable[[Path], None]:
    """A maker of a phone's video, held another way: its header turns the picture clockwise."""

    def make(path: Path) -> None:
        FASTSTART(path)
        content = bytearray(path.read_bytes())
        matrix = content.index(b"tkhd") + 44  # the display matrix in a track header of version 0
        cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter_turns]
        values = (cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
        content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
        path.write_bytes(content)

    return make


def renamed(make: Callable[[Path], None], *names: tuple[bytes, bytes]) -> Callable[[Path], None]:
    """A maker of a file in whose bytes the first of each name has become another: of a codec that nobody knows."""

    def make_other(path: Path) -> None:
        make(path)
        content = path.read_bytes()
        for name, other in names:
            assert name in content
            content = content.replace(name, other, 1)
        path.write_bytes(content)

    return make_other


def claiming(rate: int) -> Callable[[Path], None]:
    """A maker of a wav whose header claims another sampling rate."""

    def make(path: Path) -> None:
        wav("int16")(path)
        content = bytearray(path.read_bytes())
        content[24:28] = rate.to_bytes(4, "little")
        path.write_bytes(content)

    return make


def with_cover(path: Path) -> None:
    """A song with the picture of its record."""
    with av.open(str(path), "w") as file:
        track = file.add_stream("libmp3lame", rate=RATE, layout="mono")
        cover = file.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 64, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        file.mux(cover.encode(frame_of((64, 96), "yuvj420p", None, 0, 1)))
        file.mux(cover.encode(None))
        encode_tone(file, track, 440.0)


def animation(path: Path) -> None:
    """A picture of 25 frames, 20 a second, that differ in one dot: equal ones would become one."""
    frames = [picture() for _ in range(NUM_FRAMES)]
    for index, frame in enumerate(frames):
        frame[0, 95 - index] = 255
    first, *others = [PIL.Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=50)


# Images


def image(mode: str, **options: Any) -> Callable[[Path], None]:
    """A maker of one picture of a mode of PIL."""

    def make(path: Path) -> None:
        converted = PIL.Image.fromarray(picture()).convert(mode, palette=PIL.Image.Palette.ADAPTIVE)
        converted.save(path, **options)

    return make


def deep(scale: float, dtype: str) -> Callable[[Path], None]:
    """A maker of one grey picture of 200 / 255 in numbers of a type."""

    def make(path: Path) -> None:
        PIL.Image.fromarray(np.full((64, 96), 200 / 255 * scale).astype(dtype)).save(path)

    return make


def clear(path: Path) -> None:
    """A picture that is transparent all over."""
    PIL.Image.new("RGBA", (96, 64), (0, 0, 0, 0)).save(path)


def sideways(path: Path) -> None:
    """A photograph of a camera held upright."""
    photograph = PIL.Image.fromarray(picture())
    exif = photograph.getexif()
    exif[0x0112] = 6
    photograph.save(path, exif=exif, quality=95)


AAC = ({"codec": "aac"},)
MP2 = ({"codec": "mp2", "rate": 48000},)  # which loses some ms to its filters
DUBBED = ({"codec": "aac", "is_default": False}, {"codec": "aac", "is_default": True})
LATE = ({"codec": "pcm_s16le", "delay_s": 0.5},)
FASTSTART = video(sounds=AAC, container={"options": {"movflags": "+faststart"}})
UNKNOWN_SOUND = ((b"mp4a", b"apac"), (b"esds", b"zzzz"))
UNKNOWN_PICTURE = ((b"avc1\0\0", b"zzzz\0\0"), (b"avcC", b"zzzz"))  # the brand in front is avc1 as well
FRAGMENTS = {"options": {"movflags": "frag_keyframe+empty_moov"}}
LATER = [*range(10), *range(15, 30)]  # times of frames that stand still for a while
BROKEN = [*range(10), *range(10**7, 10**7 + 15)]
GREY = (200, 200, 200)
LUMA = tuple([round(0.299 * ORANGE[0] + 0.587 * ORANGE[1] + 0.114 * ORANGE[2])] * 3)
IMAGE = Expected("image")
VIDEO = Expected("video", seconds=None, num_channels=0)
HEARD = Expected("video", seconds=DURATION_S, num_channels=1)
SOUND = Expected("audio", seconds=1.0, num_channels=1)
WHOLE = VIDEO._replace(refusal=r"`path` must be a whole file, got .*, which lacks \d+ of the bytes that it announces")

# fmt: off
CASES = [
    # pixel formats and codecs
    Case("yuv420p.mkv", video("ffv1"), VIDEO),
    Case("yuv422p10.mkv", video("ffv1", "yuv422p10le"), VIDEO),
    Case("yuv444p16.mkv", video("ffv1", "yuv444p16le"), VIDEO),
    Case("grey.mkv", video("ffv1", "gray"), VIDEO._replace(left=LUMA)),
    Case("grey16.mkv", video("ffv1", "gray16le"), VIDEO._replace(left=LUMA)),
    Case("half_clear.mkv", video("ffv1", "bgra", alpha=128), VIDEO._replace(left=(242, 187, 147))),
    Case("clear.mov", video("png", "rgba", alpha=0), VIDEO._replace(left=(255, 255, 255))),
    Case("mjpeg.avi", video("mjpeg", "yuvj420p"), VIDEO),
    Case("animation.gif", animation, VIDEO),
    Case("animation.webp", animation, VIDEO),
    Case("animation.png", animation, VIDEO),
    Case("animation.avif", animation, VIDEO),
    Case("pq.mp4", video(color_trc=16), VIDEO),
    # sizes, turns, pixels that are not square
    Case("odd.mp4", video(pixels="yuv444p", size=(61, 63)), VIDEO._replace(size=(61, 63))),
    Case("small.mkv", video("ffv1", "bgr0", size=(2, 2)), VIDEO._replace(size=(2, 2))),
    Case("turned_once.mp4", turned(1), HEARD._replace(size=(96, 64), left=None)),
    Case("turned_twice.mp4", turned(2), HEARD._replace(left=BLUE)),
    Case("wide_pixels.mp4", video(sample_aspect_ratio=Fraction(3, 2)), VIDEO._replace(size=(64, 144))),
    # rates and times
    Case("film.mp4", video(rate=Fraction(24000, 1001)), VIDEO),
    Case("slow.mp4", video(rate=1), VIDEO._replace(num_frames=25)),
    Case("slow_at_4.mp4", video(rate=1), VIDEO._replace(num_frames=100, options={"frame_rate": 4})),
    Case("still.mkv", video("ffv1", times=LATER), VIDEO._replace(num_frames=30, options={"frame_rate": 25})),
    Case("broken_times.mkv", video("ffv1", times=BROKEN), VIDEO._replace(
        options={"frame_rate": 25}, refusal=r"must be a video with sound time stamps, got a frame 400000 s after")),
    Case("bare.h264", video(container={"format": "h264"}), VIDEO),
    Case("part.mp4", FASTSTART, HEARD._replace(
        num_frames=10, seconds=0.4, options={"start_s": 0.2, "duration_s": 0.4})),
    Case("past.mp4", FASTSTART, VIDEO._replace(options={"start_s": 7}, refusal="`start_s` must lie within the file")),
    # containers and their ends
    Case("fragments.mp4", video(sounds=AAC, container=FRAGMENTS), HEARD),
    Case("broadcast.ts", video("mpeg2video", sounds=({"codec": "aac"},)), HEARD),
    Case("mp2.ts", video("mpeg2video", sounds=MP2), HEARD._replace(seconds=DURATION_S - 0.01)),
    Case("ac3.ts", video("mpeg2video", sounds=({"codec": "ac3", "rate": 48000},)), HEARD),
    Case("late_sound.ts", video("mpeg2video", sounds=({**MP2[0], "delay_s": 0.2},)),
         HEARD._replace(seconds=DURATION_S + 0.19)),
    Case("late_picture.ts", video("mpeg2video", times=range(5, 30), sounds=AAC),
         HEARD._replace(seconds=DURATION_S - 0.2)),  # sound begins with the first frame
    Case("late_picture_heard.ts", video("mpeg2video", times=range(5, 30), sounds=MP2), SOUND),
    Case("long_picture.ts", video("mpeg2video", rate=5, sounds=AAC), HEARD),
    Case("take:1.mp4", FASTSTART, HEARD),
    *(Case(f"cut_{percent}.mp4", cut(FASTSTART, percent / 100), WHOLE) for percent in (99, 60, 30)),
    Case("cut_60_taken.mp4", cut(FASTSTART, 0.6), Expected(
        "video", num_frames=None, options={"allow_truncated": True})),
    Case("cut.mkv", cut(video("ffv1"), 0.9), WHOLE),
    Case("cut.avi", cut(video("mjpeg", "yuvj420p"), 0.9), WHOLE),
    Case("cut.wav", cut(wav("int16"), 0.9), SOUND._replace(refusal=WHOLE.refusal)),
    Case("cut.flac", cut(sound("flac"), 0.6), SOUND._replace(refusal="that libav can decode")),
    Case("empty.mp4", Path.touch, VIDEO._replace(refusal="which is empty; copy it again")),
    # tracks
    Case("second_is_default.mkv", video(sounds=DUBBED),
         HEARD._replace(hz=880.0)),
    Case("first_of_two.mkv", video(sounds=DUBBED),
         HEARD._replace(hz=440.0, options={"audio_track": 0})),
    Case("third_of_two.mkv", video(sounds=({"codec": "aac"}, {"codec": "aac"})), HEARD._replace(
        options={"audio_track": 2}, refusal="`audio_track` must be from 0 to 1 for .*, got 2")),
    Case("late_sound.mkv", video("ffv1", sounds=LATE), HEARD._replace(seconds=1.5)),
    Case("cover.mp3", with_cover, SOUND),
    Case("cover_is_no_video.mp3", with_cover, VIDEO._replace(refusal="must be a file with a video stream")),
    # codecs that libav does not know
    Case("spatial.mp4", renamed(FASTSTART, *UNKNOWN_SOUND), VIDEO),
    Case("spatial_asked.mp4", renamed(FASTSTART, *UNKNOWN_SOUND), VIDEO._replace(
        options={"audio_track": 0}, refusal="whose sound is of a codec that it does not know; convert it")),
    Case("spatial_heard.mp4", renamed(FASTSTART, *UNKNOWN_SOUND), SOUND._replace(refusal="whose sound is of a codec")),
    Case("spatial_first.mp4", renamed(video(sounds=AAC + AAC), *UNKNOWN_SOUND), HEARD._replace(hz=880.0)),
    Case("spatial_first_heard.mp4", renamed(video(sounds=AAC + AAC), *UNKNOWN_SOUND), SOUND._replace(hz=880.0)),
    Case("unknown_picture.mp4", renamed(FASTSTART, *UNKNOWN_PICTURE), VIDEO._replace(
        refusal="whose picture is of a codec that it does not know; convert it with ffmpeg")),
    Case("unknown_picture_heard.mp4", renamed(FASTSTART, *UNKNOWN_PICTURE), SOUND),
    Case("unknown.wav", renamed(wav("int16"), (b"fmt \x10\0\0\0\1\0", b"fmt \x10\0\0\0\x34\x12")), SOUND._replace(
        refusal="whose sound is of a codec")),
    # sound
    *(Case(f"{dtype}.wav", wav(dtype), SOUND) for dtype in ("uint8", "int16", "int32", "float32")),
    Case("fast.wav", wav("int16", 192000), SOUND),
    Case("slow.wav", wav("int16", 8000, 2), SOUND._replace(num_channels=2)),
    Case("surround.flac", sound("flac", rate=48000, layout="5.1"), SOUND._replace(num_channels=2)),
    Case("surround_to_mono.flac", sound("flac", layout="5.1"), SOUND._replace(options={"num_channels": 1})),
    Case("song.mp3", sound("libmp3lame", rate=44100, layout="stereo"), SOUND._replace(num_channels=2)),
    Case("speech.opus", sound("libopus", rate=48000), SOUND),
    Case("claim.wav", claiming(2**31 - 1), SOUND._replace(refusal="of up to 768000 samples per second")),
    # images
    *(Case(f"{mode}.png", image(mode), IMAGE) for mode in ("RGBA", "P")),
    Case("LA.png", image("LA"), IMAGE._replace(left=LUMA)),
    Case("1.png", image("1", ), IMAGE._replace(left=None)),
    Case("CMYK.jpg", image("CMYK", quality=95), IMAGE),
    Case("clear.png", clear, IMAGE._replace(left=(255, 255, 255))),
    Case("16_bits.png", deep(65535, "uint16"), IMAGE._replace(left=GREY)),
    Case("floats.tiff", deep(1, "float32"), IMAGE._replace(left=GREY)),
    Case("large_floats.tiff", deep(255, "float32"), IMAGE._replace(refusal=r"of floats must lie in \[0, 1\]")),
    Case("sideways.jpg", sideways, IMAGE._replace(size=(96, 64), left=None)),
    Case("cut.png", cut(image("RGB"), 0.5), IMAGE._replace(refusal="`path` must be a readable image")),
    Case("film.webp", image("RGB", quality=95), IMAGE),
]
# fmt: on


def case(name: str, folder: Path) -> Path:
    """Make the file of one case in a folder."""
    (made,) = (case for case in CASES if case.name == name)
    made.make(folder / name)
    return folder / name


if __name__ == "__main__":
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        case.make(folder / case.name)
