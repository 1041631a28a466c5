"""Prove that the chain is right: train a tiny pipeline on a clip and its twin, save it, load it, make the clips again.

    python -m diffusers_jova.recipes.overfit --output runs/overfit

trains codecs and text encoder on both, encodes them, trains the transformer as `jova train` does, and saves
`OUTPUT/pipeline`. Loaded again, the pipeline makes one of the two from noise, and a certain one from its prompt, from
its first frame alone, and from both. Picture and sound must be of the same clip, so what is given has to reach both
branches, and the branches each other. Wrong signs, conditions or decoding miss the goals; then the exit code is 1.
It takes minutes on two cores; started again, it leaves finished parts alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLWan, MMAudioVAE
from diffusers.pipelines.ltx2 import LTX2Vocoder
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline, JoVATransformer3DModel
from diffusers_jova.evaluation.contact_sheet import save_contact_sheet
from diffusers_jova.evaluation.spectrogram import log_mel
from diffusers_jova.media import to_uint8_frames
from diffusers_jova.recipes.disc_clip import (
    COLOURS,
    FRAME_RATE,
    NUM_FRAMES,
    SAMPLING_RATE,
    SIZE_PX,
    draw_clip,
    measure_radius,
)
from diffusers_jova.training.codecs.audio_vae import AudioVAETraining, set_audio_statistics
from diffusers_jova.training.codecs.codec_config import CodecsConfig, load_config
from diffusers_jova.training.codecs.timed_loop import decisive_settings, run
from diffusers_jova.training.codecs.train_text_encoder import train_text_encoder
from diffusers_jova.training.codecs.video_vae import VideoVAETraining, set_video_statistics
from diffusers_jova.training.codecs.vocoder import VocoderTraining
from diffusers_jova.training.data.envelope_sync import EnvelopeSync, envelope, envelope_sync
from diffusers_jova.training.data.record import EMPTY_PROMPT, write_record
from diffusers_jova.training.loop.config import TrainConfig, load_yaml
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.whole_files import explained_full_disk, written_whole
from jova_cli.parser import Parser
from jova_cli.shipped import CONFIGS


GOAL_PSNR_DB = 25.0
GOAL_MEL_CORRELATION = 0.95
GOAL_LAG_FRAMES = 1

LONGEST_PROMPT = 64  # tokens
DEFAULTS = {
    "height": SIZE_PX,
    "width": SIZE_PX,
    "num_frames": NUM_FRAMES,
    "frame_rate": float(FRAME_RATE),
    "num_inference_steps": 20,
    "guidance_scale": 2.0,
    "max_sequence_length": LONGEST_PROMPT,
}


# 1. Codecs and text encoder


def clip_tensors() -> tuple[Tensor, Tensor]:
    """Both clips: frames uint8 [2, F, H, W, 3] and sound int16 [2, S], on the device to train on."""
    clips, device = [draw_clip(colour) for colour in COLOURS], "cuda" if torch.cuda.is_available() else "cpu"
    frames, sound = (
        np.stack(arrays) for arrays in zip(*((clip.frames, clip.waveform) for clip in clips), strict=True)
    )
    return torch.from_numpy(frames).to(device), (torch.from_numpy(sound) * 32767).round().short().to(device)


def train_codec(name: str, training: Any, folder: Path) -> Any:
    """Run a training of `train_codecs` to the end of its schedule; returns its model."""
    print(name, flush=True)
    config = training.config
    run(training, config.schedule, checkpoint_file(folder, name), decisive_settings(config))
    return training.modules["model"].eval()


def save(model: Any, folder: Path) -> None:
    """Save a component, whole or not at all: a folder that is there is complete."""
    with explained_full_disk(folder), written_whole(folder) as partial:
        model.save_pretrained(partial)


def checkpoint_file(folder: Path, name: str) -> Path:
    """Where the training of a component is interrupted and continued."""
    return folder / "checkpoints" / f"{name}.safetensors"


def make_video_vae(config: CodecsConfig, folder: Path) -> None:
    """Train and save the video VAE."""
    frames, _ = clip_tensors()
    no_mouth = torch.full((len(frames), 1, NUM_FRAMES, 4), float("nan"), device=frames.device)
    torch.manual_seed(0)
    vae = train_codec("vae", VideoVAETraining(config.video_vae, frames, no_mouth), folder)
    set_video_statistics(vae, frames)
    save(vae, folder / "vae")


def make_audio_codec(config: CodecsConfig, folder: Path) -> None:
    """Train and save the audio VAE, then the vocoder that belongs to it."""
    _, sound = clip_tensors()
    torch.manual_seed(0)
    audio_vae = train_codec("audio_vae", AudioVAETraining(config.audio_vae, sound), folder)
    set_audio_statistics(audio_vae, sound.float() / 32767)
    vocoder = train_codec("vocoder", VocoderTraining(config.vocoder, audio_vae, sound), folder)
    save(audio_vae, folder / "audio_vae")
    save(vocoder, folder / "vocoder")


def make_text_encoder(config: CodecsConfig, folder: Path) -> None:
    """Train and save the tokenizer and the text encoder."""
    print("text_encoder", flush=True)
    places = {"folder": folder / "text_encoder", "checkpoint": checkpoint_file(folder, "text_encoder")}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    captions = [draw_clip(colour).caption for colour in COLOURS]
    train_text_encoder(config.text_encoder, captions, captions, **places, device=device)


def share_cores(num_processes: int) -> None:
    """Leave the other processes their cores."""
    torch.set_num_threads(max(1, torch.get_num_threads() // num_processes))


def make_codecs(config: CodecsConfig, folder: Path, num_processes: int) -> None:
    """Make what is not there yet; several processes make picture and sound side by side."""
    makers = {"vae": make_video_vae, "vocoder": make_audio_codec, "text_encoder": make_text_encoder}
    missing = [make for name, make in makers.items() if not (folder / name).exists()]
    if num_processes == 1:
        for make in missing:
            make(config, folder)
        return
    with ProcessPoolExecutor(num_processes, get_context("spawn"), share_cores, (num_processes,)) as pool:
        for future in [pool.submit(make, config, folder) for make in missing]:
            future.result()


# 2. From the clip to a pipeline


def assemble(codecs: Path, transformer: JoVATransformer3DModel | None, shifts: tuple[float, float]) -> JoVAPipeline:
    """Put the parts into one pipeline; without a transformer it only encodes."""
    return JoVAPipeline(
        tokenizer=AutoTokenizer.from_pretrained(codecs / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(codecs / "text_encoder", dtype=torch.float32).eval(),
        transformer=transformer,
        vae=AutoencoderKLWan.from_pretrained(codecs / "vae").eval(),
        audio_vae=MMAudioVAE.from_pretrained(codecs / "audio_vae").eval(),
        vocoder=LTX2Vocoder.from_pretrained(codecs / "vocoder").eval(),
        scheduler=FlowMatchAudioVideoScheduler(*shifts),
        defaults=DEFAULTS,
    )


@torch.no_grad()
def write_records(pipeline: JoVAPipeline, folder: Path) -> None:
    """Encode both clips, their first frames and their prompts once, as `jova prepare` does with a data set."""
    write_record(folder / EMPTY_PROMPT, {"prompt_embeds": pipeline.encode_texts([""], LONGEST_PROMPT).features[0]}, {})
    video_codec, audio_codec = pipeline.video_codec, pipeline.audio_codec
    metadata = {
        "num_frames": NUM_FRAMES,
        "height": SIZE_PX,
        "width": SIZE_PX,
        "frame_rate": FRAME_RATE,
        "audio_latent_rate_hz": audio_codec.latent_rate_hz,
        "sampling_rate": SAMPLING_RATE,
        "spatial_factor": video_codec.spatial_factor,
        "temporal_factor": video_codec.temporal_factor,
    }
    for colour in COLOURS:
        clip = draw_clip(colour)
        pixels = torch.from_numpy(clip.frames).movedim(-1, 0)[None] / 127.5 - 1  # [1, 3, F, H, W]
        record = {
            "video_latents": video_codec.encode(pixels)[0],
            "image_latents": video_codec.encode(pixels[:, :, :1])[0],
            "audio_latents": audio_codec.encode(torch.from_numpy(clip.waveform)[None, None])[0],
            "prompt_embeds": pipeline.encode_texts([clip.caption], LONGEST_PROMPT).features[0],
        }
        write_record(folder / f"{colour}.safetensors", record, {**metadata, "caption": clip.caption})


def train_pipeline(codecs_config: CodecsConfig, config: TrainConfig, output: Path, num_processes: int) -> Path:
    """Train everything and save it; returns the folder of the pipeline, written whole or not at all."""
    folder, codecs, shifts = output / "pipeline", output / "codecs", (config.shift, config.audio_shift)
    if folder.exists():
        return folder
    make_codecs(codecs_config, codecs, num_processes)
    write_records(assemble(codecs, None, shifts), Path(config.data))
    print("transformer", flush=True)
    trained = Trainer(config).train()
    save(assemble(codecs, JoVATransformer3DModel.from_pretrained(trained / "transformer"), shifts), folder)
    return folder


# 3. What comes back


@dataclass(frozen=True)
class Agreement:
    """How well a generated clip agrees with the one that was trained on, and with itself.

    Attributes:
        psnr_db: Peak signal-to-noise ratio of the picture.
        mel_correlation: Correlation of the log-mel spectrograms.
        sync: Correlation of the disc's radius with the envelope of the sound, and the lag where it is highest.
    """

    psnr_db: float
    mel_correlation: float
    sync: EnvelopeSync

    @property
    def meets_goals(self) -> bool:
        """Whether picture, sound and their sync are good enough."""
        is_close = self.psnr_db >= GOAL_PSNR_DB and self.mel_correlation >= GOAL_MEL_CORRELATION
        return is_close and abs(self.sync.lag) <= GOAL_LAG_FRAMES


def compare(frames: npt.NDArray[np.uint8], waveform: npt.NDArray[np.float32], colour: str) -> Agreement:
    """Compare frames [F, H, W, 3] and waveform [S] with one of the clips."""
    clip = draw_clip(colour)
    num_samples = min(len(waveform), len(clip.waveform))
    made, true = (log_mel(sound[:num_samples], SAMPLING_RATE).ravel() for sound in (waveform, clip.waveform))
    loudness = envelope(waveform, NUM_FRAMES, FRAME_RATE, SAMPLING_RATE)
    return Agreement(
        psnr_db=psnr_db(frames, clip.frames),
        mel_correlation=float(np.corrcoef(made, true)[0, 1]),
        sync=envelope_sync(measure_radius(frames, colour), loudness),
    )


def psnr_db(frames: npt.NDArray[np.uint8], true: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of uint8 frames."""
    return float(10 * np.log10(255**2 / max(np.square(frames.astype(np.float64) - true).mean(), 1e-9)))


def nearest_colour(frames: npt.NDArray[np.uint8]) -> str:
    """Which of the clips frames look like."""
    return max(COLOURS, key=lambda colour: psnr_db(frames, draw_clip(colour).frames))


class Mode(NamedTuple):
    """One way to make a clip: its name, the clip that must come back (None: either), arguments of the pipeline."""

    name: str
    colour: str | None
    arguments: dict[str, Any]


def generation_modes() -> list[Mode]:
    """From noise, and for each clip from its prompt, from its first frame, and from both."""
    modes = [Mode("noise", None, {"prompt": "", "guidance_scale": 1.0})]
    for colour in COLOURS:
        clip = draw_clip(colour)
        image = Image.fromarray(clip.frames[0])
        modes += [
            Mode(f"{colour} prompt", colour, {"prompt": clip.caption}),
            Mode(f"{colour} first frame", colour, {"prompt": "", "image": image, "guidance_scale": 1.0}),
            Mode(f"{colour} prompt and first frame", colour, {"prompt": clip.caption, "image": image}),
        ]
    return modes


def regenerate(folder: Path, output: Path) -> dict[str, Agreement]:
    """Load the saved pipeline, make a clip in every mode, write the clips, and compare them with what they must be."""
    pipeline = JoVAPipeline.from_pretrained(folder)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    agreements, clips = {}, []
    for seed, mode in enumerate(generation_modes()):
        made: Any = pipeline(**mode.arguments, generator=torch.Generator().manual_seed(seed), output_type="np")
        made.save(output / f"{mode.name.replace(' ', '_')}.mp4")
        frames, waveform = to_uint8_frames(made.frames[0]), made.audio[0, 0]
        clips.append((frames, waveform))
        agreements[mode.name] = compare(frames, waveform, mode.colour or nearest_colour(frames))
    save_contact_sheet(output / "contact_sheet.png", clips, [f"from {name}" for name in agreements])
    return agreements


def table(agreements: dict[str, Agreement]) -> str:
    """The measures as lines of text, the goals below them."""
    lines = [f"{'given':30} {'PSNR':>9} {'log-mel r':>10} {'sync r':>7} {'lag':>9}"]
    for name, entry in agreements.items():
        measures = f"{entry.psnr_db:6.1f} dB {entry.mel_correlation:10.3f} {entry.sync.correlation:7.3f}"
        lines.append(f"{name:30} {measures} {entry.sync.lag:2d} frames")
    goals = f"{GOAL_PSNR_DB:6.1f} dB {GOAL_MEL_CORRELATION:10.3f} {'':7} {GOAL_LAG_FRAMES:2d} frames"
    return "\n".join([*lines, f"{'goal':30} {goals}"])


def main(argv: Sequence[str] | None = None) -> None:
    """Train, regenerate, print the table; exit with 1 if a goal is missed."""
    parser = Parser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the pipeline and what it makes")
    parser.add_argument("--codecs-config", type=Path, default=CONFIGS / "codecs_overfit.yaml")
    parser.add_argument("--config", type=Path, default=CONFIGS / "overfit.yaml", help="preset of the transformer")
    parser.add_argument("--processes", type=int, default=2, help="processes that train the codecs")
    args = parser.parse_args(argv)
    started = time.monotonic()
    overrides = {
        "model": str(args.config.with_name("overfit_transformer.json")),
        "data": str(args.output / "records"),
        "output_dir": str(args.output / "training"),
    }
    configs = load_config(args.codecs_config), load_yaml(args.config, overrides)
    folder = train_pipeline(*configs, args.output, args.processes)
    agreements = regenerate(folder, args.output)
    print(table(agreements))
    print(f"{time.monotonic() - started:.0f} s; the clips are in {args.output}")
    missed = [name for name, agreement in agreements.items() if not agreement.meets_goals]
    if missed:
        sys.exit(f"goals missed from: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
