"""Clips that a pipeline makes for held-out prompts, kept on disk so that an interrupted measurement goes on.

Letters in shapes: B clips of a batch, N frames, S samples.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tqdm.auto import tqdm

import diffusers_jova
from diffusers_jova import JoVAPipeline, drawn
from diffusers_jova.drawn.avatars import AvatarClip, make_clip, without_look
from diffusers_jova.drawn.corpus import HELD_OUT_SEED
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.origin import digest_components
from diffusers_jova.prediction_plan import PredictionPlan
from diffusers_jova.transformer_jova import MODALITIES
from diffusers_jova.whole_files import written_whole


# the clips from HELD_OUT_SEED on have trained the sync net and scored the codecs
FIRST_SEED = HELD_OUT_SEED + 1_000_000
BATCH_SIZE = 8
PACKAGE = Path(diffusers_jova.__file__).parent
DRAWING = ("avatars", "espeak", "portraits", "sounding_objects", "speech", "visemes")


class Generated(NamedTuple):
    """One clip: frames uint8 [N, H, W, 3], waveform float32 [S], and the seconds that it took."""

    frames: npt.NDArray[np.uint8]
    waveform: npt.NDArray[np.float32]
    seconds: float


Media = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]  # frames [B, N, H, W, 3] in [0, 1], sound [B, S]
Task = Callable[..., Media]


def held_out_clips(pipeline: JoVAPipeline, seeds: Sequence[int], **options: Any) -> list[AvatarClip]:
    """Make clips of the size and rates of a pipeline, whose prompts it has not seen; `options` are of `make_clip`."""
    defaults = pipeline.defaults
    geometry: dict[str, Any] = {
        "num_frames": defaults.num_frames,
        "frame_rate": defaults.frame_rate,
        "height": defaults.height,
        "width": defaults.width,
        "sampling_rate": pipeline.audio_codec.sampling_rate,
    }
    return [make_clip(seed, **geometry, **options) for seed in seeds]


def generate(
    pipeline: JoVAPipeline,
    references: Sequence[AvatarClip],
    folder: Path,
    *,
    task: str = "text",
    batch_size: int = BATCH_SIZE,
    **arguments: Any,
) -> list[Generated]:
    """Make one clip per reference, from its prompt and with its seed; those that `folder` holds are only read.

    Args:
        pipeline: Makes the clips.
        references: Sources of the prompts, of one geometry.
        folder: Keeps the clips; it belongs to one model, one task and one set of arguments, see `fingerprint`.
        task: A key of `TASKS`: what else is given.
        batch_size: Clips at a time.
        arguments: Of the pipeline's call.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {clip.seed: folder / f"{clip.subject}-{clip.seed:08d}.npz" for clip in references}
    missing = [clip for clip in references if not paths[clip.seed].exists()]
    batches = [missing[first : first + batch_size] for first in range(0, len(missing), batch_size)]
    for batch in tqdm(batches, desc=task, disable=not batches):
        started = time.monotonic()
        frames, sound = TASKS[task](pipeline, batch, **arguments)
        seconds = (time.monotonic() - started) / len(batch)
        for clip, pixels, waveform in zip(batch, frames, sound, strict=True):
            _write(paths[clip.seed], Generated(np.round(255 * pixels).astype(np.uint8), waveform, seconds))
    return [_read(path) for path in paths.values()]


def _write(path: Path, clip: Generated) -> None:
    with written_whole(path) as partial:
        np.savez(partial, **clip._asdict())


def _read(path: Path) -> Generated:
    with np.load(path) as arrays:
        return Generated(arrays["frames"], arrays["waveform"], float(arrays["seconds"]))


def num_predictions(settings: GenerationDefaults) -> int:
    """Predictions of the transformer that a clip of both modalities asks for."""
    plan = PredictionPlan(names=MODALITIES, generated=MODALITIES)
    runs = plan.runs(settings.guidance(), settings.num_inference_steps)
    return sum(len(run.steps) * len(run.rows_read) for run in runs)


def fingerprint(model: Path, settings: Mapping[str, Any]) -> str:
    """Digest a saved pipeline, without what else lies in its folder, and settings: names a folder for their clips."""
    parts = digest_components(sorted(path for path in model.glob("*") if path.is_dir()))
    index = [path.read_text(encoding="utf-8") for path in model.glob("model_index.json")]
    text = json.dumps([settings, index, parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest() -> str:
    """Digest the code that generates clips and draws their references: of other code, kept clips may not be true."""
    drawing = (Path(drawn.__file__).with_name(f"{name}.py") for name in DRAWING)
    paths = sorted([*PACKAGE.glob("*.py"), Path(__file__), *drawing])
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


# The tasks: what is given besides the prompt


def from_text(pipeline: JoVAPipeline, clips: Sequence[AvatarClip], **arguments: Any) -> Media:
    """Generate both modalities from the prompts; `arguments` may give more."""
    return _from_prompts(pipeline, clips, [clip.caption for clip in clips], **arguments)


def from_plain_text(pipeline: JoVAPipeline, clips: Sequence[AvatarClip], **arguments: Any) -> Media:
    """Generate both modalities from prompts that do not say what the speakers look like."""
    return _from_prompts(pipeline, clips, [without_look(clip.caption) for clip in clips], **arguments)


def _from_prompts(
    pipeline: JoVAPipeline, clips: Sequence[AvatarClip], prompts: Sequence[str], **arguments: Any
) -> Media:
    output: Any = pipeline(
        prompt=list(prompts),
        generator=[torch.Generator().manual_seed(clip.seed) for clip in clips],
        num_frames=len(clips[0].frames),
        output_type="np",
        **arguments,
    )
    return output.frames, output.audio.mean(1)


def from_audio(pipeline: JoVAPipeline, clips: Sequence[AvatarClip], **arguments: Any) -> Media:
    """Generate the video of given sounds."""
    sound = np.stack([clip.waveform for clip in clips])[:, None]
    return from_text(pipeline, clips, audio=sound, audio_sampling_rate=clips[0].sampling_rate, **arguments)


def from_image(pipeline: JoVAPipeline, clips: Sequence[AvatarClip], **arguments: Any) -> Media:
    """Generate both modalities from given portraits, which the prompts do not describe."""
    return from_plain_text(pipeline, clips, image=[Image.fromarray(clip.frames[0]) for clip in clips], **arguments)


@torch.inference_mode()
def through_codecs(pipeline: JoVAPipeline, clips: Sequence[AvatarClip]) -> Media:
    """Encode and decode the references themselves: what no generator behind these codecs can surpass."""
    video, audio = pipeline.video_codec, pipeline.audio_codec
    pixels = torch.from_numpy(np.stack([clip.frames for clip in clips])).movedim(-1, 1) / 127.5 - 1
    sound = torch.from_numpy(np.stack([clip.waveform for clip in clips]))[:, None].expand(-1, audio.num_channels, -1)
    frames = pipeline.decode_video(video.encode(pixels.to(pipeline.device)), "np")
    waveform = audio.decode(audio.encode(sound.to(pipeline.device)))
    return frames, waveform.float().mean(1).cpu().numpy()


TASKS: dict[str, Task] = {
    "text": from_text,
    "audio": from_audio,
    "image": from_image,
    "plain": from_plain_text,
    "codecs": through_codecs,
}
