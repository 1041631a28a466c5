"""Make the pictures of README.md: jova-tiny speaks beside its waveform, and the mouth masks of a drawn clip.

    python -m diffusers_jova.recipes.pictures

writes `speaking.webp`, `speaking.mp4` with the sound, and `mouth_mask.webp`; `make pictures` does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from diffusers_jova import JoVAPipeline, JoVAPrompt
from diffusers_jova.drawn.avatars import make_clip
from diffusers_jova.evaluation.contact_sheet import BACKGROUND, INK, draw_wave
from diffusers_jova.evaluation.viewing import enlarge
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.media import to_uint8_frames, write_video
from diffusers_jova.recipes.evidence import load_pipeline
from diffusers_jova.recipes.generation import FIRST_SEED
from diffusers_jova.training.data.clip import Clip
from diffusers_jova.training.data.encoder import Encoder, video_factors
from diffusers_jova.training.preview import compose
from jova_cli.clip_limits import Bucket
from jova_cli.parser import Parser
from jova_cli.shipped import model_folder


Frames = npt.NDArray[np.uint8]

PROMPT = JoVAPrompt(  # of the quickstart, which makes the same clip
    video="A cartoon woman with tan skin and spiky red hair, wearing a navy shirt, speaks on a mint background.",
    audio="a female voice speaking",
    transcript="hello blue moon",
)
SEED = 0
WAVE_PX = 384  # width of the waveform; both heights are that of the picture
LATER_INK = (190, 198, 220)  # of what is not heard yet
QUALITY = 80  # of the WebP


def beside_waveform(frames: Frames, waveform: npt.NDArray[np.floating]) -> Frames:
    """Put the waveform beside a clip; what has been heard is dark.

    Args:
        frames: uint8 [F, H, W, 3].
        waveform: [samples] in [-1, 1], as long as the frames.

    Returns:
        uint8 [F, H, W + WAVE_PX, 3].
    """
    num_frames, height = frames.shape[:2]
    panels = []
    for ink in (INK, LATER_INK):
        panel = Image.new("RGB", (WAVE_PX, height), BACKGROUND)
        draw_wave(panel, waveform / max(float(np.abs(waveform).max()), 1e-6), 0, height, ink)
        panels.append(np.asarray(panel))
    is_heard = np.arange(WAVE_PX)[None] < np.linspace(0, WAVE_PX, num_frames + 1)[1:, None]  # [F, WAVE_PX]
    waves = np.where(is_heard[:, None, :, None], *panels)
    return np.concatenate([frames, waves], axis=2)


def save_animation(path: Path, frames: Frames, frame_rate: float) -> None:
    """Write frames as an animated WebP that repeats."""
    images = [Image.fromarray(frame) for frame in frames]
    times_ms = np.diff((np.arange(len(frames) + 1) * 1000 / frame_rate).round().astype(int)).tolist()
    options: dict[str, Any] = {"save_all": True, "append_images": images[1:], "duration": times_ms, "loop": 0}
    images[0].save(path, quality=QUALITY, **options)


def show_speaking(pipeline: JoVAPipeline, folder: Path) -> None:
    """Write the clip of the quickstart with its waveform, moving and with sound."""
    output: Any = pipeline(PROMPT, generator=torch.Generator().manual_seed(SEED), output_type="np")
    view = beside_waveform(enlarge(to_uint8_frames(output.frames[0])), output.audio[0].mean(0))
    save_animation(folder / "speaking.webp", view, output.frame_rate)
    sound = (output.audio[0], output.sampling_rate)
    write_video(folder / "speaking.mp4", view, output.frame_rate, *sound, provenance=output.record())


def show_mouth_mask(model: Path, defaults: GenerationDefaults, folder: Path) -> None:
    """Write what `jova preview --debug-mouth-mask` shows of a drawn clip."""
    bucket = Bucket(defaults.num_frames, defaults.height, defaults.width)
    bucket = bucket._replace(height=max(64, bucket.height), width=max(64, bucket.width))  # the smallest drawing
    sizes: dict[str, Any] = bucket._asdict()
    drawn = make_clip(FIRST_SEED, subject="speaker", **sizes)
    clip = Clip(bucket, drawn.frames, None, 0, drawn.mouth_boxes, None)
    encoder = Encoder.from_pretrained(model, "cpu", dtype=torch.float32)
    spatial_factor, temporal_factor, _ = video_factors(model)
    save_animation(folder / "mouth_mask.webp", compose(clip, spatial_factor, temporal_factor, encoder), 16)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the pictures and say how large they are."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model", type=model_folder, default="jova-tiny", help="folder of a saved pipeline")
    parser.add_argument("--output", type=Path, default=Path("model_cards/jova-tiny/samples"), help="folder to fill")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(args.model)
    show_speaking(pipeline, args.output)
    show_mouth_mask(args.model, pipeline.defaults, args.output)
    for name in ("speaking.webp", "speaking.mp4", "mouth_mask.webp"):
        print(f"{args.output / name}: {(args.output / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
