"""Make jova-tiny, the model that ships with the package, from nothing: clips, codecs, records, transformer, pipeline.

    python -m training.jova_tiny --output runs/jova-tiny

Every stage leaves a folder and is skipped when that is complete; an interrupted stage continues from its checkpoints.

    OUTPUT/corpus     synthetic clips as shards of arrays
    OUTPUT/codecs     video VAE, audio VAE, vocoder, tokenizer, text encoder; see training/train_codecs.py
    OUTPUT/records    the clips as latents and text features
    OUTPUT/video      the paper's stage 1: the video branch alone; see training/configs/jova_tiny_video.yaml
    OUTPUT/audio      stage 1: the audio branch alone, side by side with the video branch
    OUTPUT/start      the two branches in one transformer
    OUTPUT/training   stage 2: both together; see training/configs/jova_tiny.yaml
    OUTPUT/plain      the records again, every other one with a caption that leaves the look to the portrait
    OUTPUT/portraits  stage 2 goes on with these; see training/configs/jova_tiny_portraits.yaml
    OUTPUT/pipeline   the result: a folder for `JoVAPipeline.from_pretrained`

Without a GPU, every process computes on one core: stage 1 takes two, stage 2 shares each batch between `--processes`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, MMAudioVAE
from diffusers.pipelines.ltx2 import LTX2Vocoder
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, UMT5EncoderModel

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline, JoVATransformer3DModel
from diffusers_jova.cli import Parser
from diffusers_jova.prompt import full_mask
from training import train_codecs
from training.avatars import without_look
from training.branches import copy_branch
from training.config import load_yaml, parse_overrides
from training.corpus import make_shards
from training.dataset import EMPTY_PROMPT, RecordHeader, write_record


CONFIGS = Path(__file__).parent / "configs"
SHIFT = 2.0  # of the noise levels, in training and in sampling
DEFAULTS: dict[str, Any] = {
    "height": 64,
    "width": 64,
    "num_frames": 33,
    "frame_rate": 16.0,
    "num_inference_steps": 24,
    "guidance_scale": 1.5,
    "max_sequence_length": 96,
}
ENCODING_BATCH = 8
TEXT_BATCH = 100
CARD = """---
license: apache-2.0
library_name: diffusers
---

# jova-tiny

Drawn avatars that speak: a small JoVA pipeline, trained by `make jova-tiny` of diffusers_jova on drawn clips alone.
Its model card is `model_cards/jova-tiny/README.md` there.
"""


# 1. Codecs to records


def assemble(
    codecs: Path, transformer: JoVATransformer3DModel | None, dtype: torch.dtype = torch.float32
) -> JoVAPipeline:
    """Put trained components into one pipeline.

    Args:
        codecs: Folder that `training.train_codecs` wrote.
        transformer: Trained transformer; None for a pipeline that only encodes.
        dtype: Number format of the codecs and the text encoder.
    """
    return JoVAPipeline(
        tokenizer=AutoTokenizer.from_pretrained(codecs / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(codecs / "text_encoder", dtype=dtype).eval(),
        transformer=transformer,
        vae=AutoencoderKLWan.from_pretrained(codecs / "vae", torch_dtype=dtype).eval(),
        audio_vae=MMAudioVAE.from_pretrained(codecs / "audio_vae", torch_dtype=dtype).eval(),
        vocoder=LTX2Vocoder.from_pretrained(codecs / "vocoder", torch_dtype=dtype).eval(),
        scheduler=FlowMatchAudioVideoScheduler(shift=SHIFT, audio_shift=SHIFT),
        defaults=DEFAULTS,
    )


@torch.inference_mode()
def encode_clips(pipeline: JoVAPipeline, arrays: dict[str, Any], first: int) -> list[dict[str, Tensor]]:
    """Records of `ENCODING_BATCH` clips of a shard, from index `first` on.

    Args:
        pipeline: With codecs and text encoder; its transformer may be missing.
        arrays: Frames uint8 [N, F, H, W, 3], waveforms float [N, S] or int16, mouth boxes [N, P, F, 4], captions.
        first: First clip of the batch.
    """
    rows = slice(first, first + ENCODING_BATCH)
    frames = torch.from_numpy(arrays["frames"][rows]).to(pipeline.device)
    video = pipeline.video_codec.encode(frames.movedim(-1, 1) / 127.5 - 1)
    image = pipeline.video_codec.encode(frames[:, :1].movedim(-1, 1) / 127.5 - 1)
    codec = pipeline.audio_codec
    num_samples = codec.num_samples_for(codec.num_latents_for(frames.shape[1] / DEFAULTS["frame_rate"]))
    waveforms = as_float(arrays["waveforms"][rows])[:, None, :num_samples]
    audio = codec.encode(waveforms.to(pipeline.device))
    embeds = encode_captions(pipeline, [str(text) for text in arrays["captions"][rows]])
    boxes = torch.from_numpy(arrays["mouth_boxes"][rows])
    return [
        {
            "video_latents": video[row].to(torch.bfloat16).cpu(),
            "image_latents": image[row].to(torch.bfloat16).cpu(),
            "audio_latents": audio[row].to(torch.bfloat16).cpu(),
            "prompt_embeds": embeds[row],
            "mouth_boxes": boxes[row],
        }
        for row in range(len(frames))
    ]


def as_float(waveforms: np.ndarray) -> Tensor:
    """Waveforms as float32 in [-1, 1]."""
    scale = 32767 if waveforms.dtype == np.int16 else 1
    return torch.from_numpy(waveforms.astype(np.float32) / scale)


def write_records(codecs: Path, shards: Sequence[Path], folder: Path, num_processes: int = 1) -> None:
    """Encode every clip once; shards whose records are complete are skipped."""
    pipeline = assemble(codecs, None)
    empty = pipeline.encode_texts([""], DEFAULTS["max_sequence_length"]).features[0].to(torch.bfloat16)
    write_record(folder / EMPTY_PROMPT, {"prompt_embeds": empty}, {})
    marks = [folder / "shards" / shard.stem for shard in shards]
    missing = [(shard, mark) for shard, mark in zip(shards, marks, strict=True) if not mark.exists()]
    encode = partial(encode_shard, codecs, folder)
    if num_processes <= 1 or torch.cuda.is_available():
        for pair in tqdm(missing, desc="records"):
            encode(pair)
        return
    with get_context("spawn").Pool(num_processes, torch.set_num_threads, (1,)) as pool:
        for _ in tqdm(pool.imap_unordered(encode, missing), desc="records", total=len(missing)):
            pass


def encode_shard(codecs: Path, folder: Path, paths: tuple[Path, Path]) -> None:
    """Write the records of one shard, and then the empty file that says so."""
    shard, mark = paths
    pipeline = assemble(codecs, None).to("cuda" if torch.cuda.is_available() else "cpu")
    codec = pipeline.video_codec
    metadata = {
        "num_frames": DEFAULTS["num_frames"],
        "height": DEFAULTS["height"],
        "width": DEFAULTS["width"],
        "frame_rate": DEFAULTS["frame_rate"],
        "audio_latent_rate_hz": pipeline.audio_codec.latent_rate_hz,
        "sampling_rate": pipeline.audio_codec.sampling_rate,
        "spatial_factor": codec.spatial_factor,
        "temporal_factor": codec.temporal_factor,
    }
    with np.load(shard) as stored:
        arrays = dict(stored)
    for first in range(0, len(arrays["frames"]), ENCODING_BATCH):
        for row, record in enumerate(encode_clips(pipeline, arrays, first)):
            caption = str(arrays["captions"][first + row])
            name = f"{shard.stem}_{first + row:04d}.safetensors"
            write_record(folder / name, record, metadata | {"caption": caption})
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def write_plain_records(codecs: Path, records: Path, folder: Path) -> None:
    """Copy records, every other one with the embedding of a caption without the look; those there are left alone."""
    pipeline = assemble(codecs, None)
    paths = sorted(records.glob("*.safetensors"))
    for first in tqdm(range(0, len(paths), TEXT_BATCH), desc="captions"):
        batch = [path for path in paths[first : first + TEXT_BATCH] if not (folder / path.name).exists()]
        headers = [RecordHeader.read(path) for path in batch]
        captions = [
            without_look(header.metadata["caption"]) if paths.index(path) % 2 else header.metadata["caption"]
            for path, header in zip(batch, headers, strict=True)
        ]
        embeds = encode_captions(pipeline, captions)
        for path, header, caption, embed in zip(batch, headers, captions, embeds, strict=True):
            record = load_file(path) | {"prompt_embeds": embed}
            write_record(folder / path.name, record, {**header.metadata, "caption": caption})
    write_record(folder / EMPTY_PROMPT, load_file(records / EMPTY_PROMPT), {})


@torch.inference_mode()
def encode_captions(pipeline: JoVAPipeline, captions: Sequence[str]) -> list[Tensor]:
    """Text features of each caption, without padding: bfloat16 [S, D]."""
    if not captions:
        return []
    texts = pipeline.encode_texts(list(captions), DEFAULTS["max_sequence_length"])
    masks = full_mask(texts.features) if texts.mask is None else texts.mask
    return [row[mask].to(torch.bfloat16).cpu() for row, mask in zip(texts.features, masks, strict=True)]


# 2. Records to a pipeline


def start_training(config: Path, settings: Sequence[str], num_processes: int = 1) -> subprocess.Popen[bytes]:
    """Start `training.train` on a preset; on the CPU every process has one thread."""
    launcher = ["-m"]
    if num_processes > 1:
        per_process, rest = divmod(load_yaml(config, parse_overrides(list(settings))).batch_size, num_processes)
        if rest:
            raise ValueError(f"`--processes` must divide `batch_size` of {config}, got {num_processes}; use 1")
        settings = [*settings, f"batch_size={per_process}", "distribution=ddp"]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}", "-m"]
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "training.train", "--config", str(config), *settings]
    return subprocess.Popen(command, env=environment)


def wait_for(*processes: subprocess.Popen[bytes]) -> None:
    """Wait until all have ended; the exit code of the first that failed becomes that of this program."""
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(next(code for code in codes if code))


def join_branches(video: Path, audio: Path, folder: Path) -> None:
    """Save a transformer with the video branch of one and the audio branch of another, whole or not at all."""
    transformer = JoVATransformer3DModel.from_pretrained(video)
    copy_branch(JoVATransformer3DModel.from_pretrained(audio), transformer, "audio")
    partial_folder = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial_folder, ignore_errors=True)
    transformer.save_pretrained(partial_folder)
    partial_folder.rename(folder)


def save_pipeline(codecs: Path, transformer: Path, folder: Path) -> None:
    """Save the finished pipeline in bfloat16, whole or not at all."""
    dtype = torch.bfloat16
    pipeline = assemble(codecs, JoVATransformer3DModel.from_pretrained(transformer, torch_dtype=dtype), dtype)
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.save_pretrained(partial)
    (partial / "README.md").write_text(CARD)
    for config in partial.glob("*/config.json"):
        forget_origin(config)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def forget_origin(config: Path) -> None:
    """Take from a component's config the folder that it was loaded from, which means nothing elsewhere."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


# 3. The stages


def make_codecs(args: Namespace) -> None:
    """Train the codecs, on the first clips of the corpus."""
    codecs = args.output / "codecs"
    if all((codecs / name / "report.json").exists() for name in train_codecs.FOLDERS.values()):
        return
    places = ["--output", str(codecs), "--corpus", str(args.output / "corpus")]
    try:
        train_codecs.main(["--config", str(args.codecs_config), *places])
    except SystemExit as ended:
        if ended.code:
            raise


def make_records(args: Namespace) -> None:
    """Encode the clips."""
    cores = os.cpu_count() or 1
    shards = make_shards(args.output / "corpus", range(args.clips), num_processes=cores, speech=args.speech)
    write_records(args.output / "codecs", shards, args.output / "records", cores)


def train_branches(args: Namespace) -> None:
    """Stage 1: each branch alone, side by side; then both in one transformer."""
    output: Path = args.output
    if (output / "start").is_dir():
        return
    wait_for(
        *(
            start_training(
                CONFIGS / f"jova_tiny_{name}.yaml", [f"data={output / 'records'}", f"output_dir={output / name}"]
            )
            for name in ("video", "audio")
        )
    )
    join_branches(output / "video" / "transformer", output / "audio" / "transformer", output / "start")


def train_together(args: Namespace) -> None:
    """Stage 2: both branches together, then with records whose captions leave the look to the portrait."""
    output: Path = args.output
    training, plain = output / "training", output / "plain"
    places = [f"model={output / 'start'}", f"data={output / 'records'}", f"output_dir={training}"]
    wait_for(start_training(args.config, [*places, *args.overrides], args.processes))
    if not (training / "transformer").is_dir():
        return  # `stop_after_minutes`: to be continued
    write_plain_records(output / "codecs", output / "records", plain)
    places = [f"model={training / 'transformer'}", f"data={plain}", f"output_dir={output / 'portraits'}"]
    wait_for(start_training(args.portraits_config, places, args.processes))


def make_pipeline(args: Namespace) -> None:
    """Put everything together, with what the codecs' reports say."""
    codecs, transformer, folder = (args.output / name for name in ("codecs", "portraits/transformer", "pipeline"))
    if not transformer.is_dir():
        return
    save_pipeline(codecs, transformer, folder)
    reports = {name: json.loads((codecs / name / "report.json").read_text()) for name in train_codecs.FOLDERS.values()}
    (folder / "codecs_report.json").write_text(json.dumps(reports, indent=2) + "\n")
    print(f"jova-tiny is in {folder}")


STAGES: dict[str, Callable[[Namespace], None]] = {
    "codecs": make_codecs,
    "records": make_records,
    "branches": train_branches,
    "transformer": train_together,
    "pipeline": make_pipeline,
}


# 4. The command


def build_parser() -> Parser:
    """What the command takes."""
    parser = Parser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of all stages")
    parser.add_argument("--clips", type=int, default=6_000, help="synthetic clips to train on")
    parser.add_argument("--speech", choices=("espeak", "formant"), default="espeak", help="voice of the speakers")
    parser.add_argument("--codecs-config", type=Path, default=CONFIGS / "codecs_tiny.yaml")
    parser.add_argument("--config", type=Path, default=CONFIGS / "jova_tiny.yaml", help="preset of stage 2")
    parser.add_argument(
        "--portraits-config", type=Path, default=CONFIGS / "jova_tiny_portraits.yaml", help="preset of its second part"
    )
    parser.add_argument(
        "--processes", type=int, default=1 if torch.cuda.is_available() else 2, help="that share a batch of stage 2"
    )
    parser.add_argument("--until", choices=tuple(STAGES), default="pipeline", help="stop after this stage")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings of the first part of stage 2")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stages that are not complete yet."""
    args = build_parser().parse_args(argv)
    for name, run_stage in STAGES.items():
        run_stage(args)
        if name == args.until:
            return


if __name__ == "__main__":
    main()
