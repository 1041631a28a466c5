"""Make jova-tiny, the model that ships with the package, from nothing: clips, codecs, records, transformer, pipeline.

    python -m diffusers_jova.recipes.jova_tiny --output runs/jova-tiny

Every stage leaves a folder and is skipped when that is complete; an interrupted stage continues from its checkpoints.
A folder that was made from something else, other clips, codecs or branches, is refused.

    OUTPUT/corpus     synthetic clips as shards of arrays
    OUTPUT/codecs     video VAE, audio VAE, vocoder, tokenizer, text encoder; see training/codecs/train_codecs.py
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
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKLWan, MMAudioVAE
from diffusers.pipelines.ltx2 import LTX2Vocoder
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, UMT5EncoderModel

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline, JoVATransformer3DModel
from diffusers_jova.drawn.avatars import without_look
from diffusers_jova.drawn.corpus import caption_words, make_shards
from diffusers_jova.origin import OriginError, digest_components, keep_origin, read_origin
from diffusers_jova.prompt import full_mask
from diffusers_jova.training.codecs import train_codecs
from diffusers_jova.training.codecs.codec_config import load_config
from diffusers_jova.training.data.record import EMPTY_PROMPT, RecordHeader, write_record
from diffusers_jova.training.loop.branches import copy_branch
from diffusers_jova.training.loop.config import load_yaml, parse_overrides
from diffusers_jova.training.loop.model import load_transformer
from diffusers_jova.whole_files import FullDiskError, explained_full_disk, write_json, written_whole
from jova_cli.parser import Parser, one_line
from jova_cli.shipped import CONFIGS


SHIFT = 2.0  # of the noise levels, in training and in sampling
SOLVER: Literal["unipc"] = "unipc"  # with the steps below, chosen by `step_curve.py`
DEFAULTS: dict[str, Any] = {
    "height": 64,
    "width": 64,
    "num_frames": 33,
    "frame_rate": 16.0,
    "num_inference_steps": 12,
    "guidance_scale": 1.5,
    "coupling_scale": None,  # as that of text, so that one prediction without both serves both
    "max_sequence_length": 96,
}
PRESETS = {"video": "jova_tiny_video.yaml", "audio": "jova_tiny_audio.yaml"}  # of stage 1
RECORDED = ("vae", "audio_vae", "tokenizer", "text_encoder")  # what decides the records; the vocoder does not
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
        codecs: Folder that `diffusers_jova.training.codecs.train_codecs` wrote.
        transformer: Trained transformer; None for a pipeline that only encodes.
        dtype: Number format of the codecs; the text encoder has float32, in which a clip is the same in any batch.
    """
    return JoVAPipeline(
        tokenizer=AutoTokenizer.from_pretrained(codecs / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(codecs / "text_encoder", dtype=torch.float32).eval(),
        transformer=transformer,
        vae=AutoencoderKLWan.from_pretrained(codecs / "vae", torch_dtype=dtype).eval(),
        audio_vae=MMAudioVAE.from_pretrained(codecs / "audio_vae", torch_dtype=dtype).eval(),
        vocoder=LTX2Vocoder.from_pretrained(codecs / "vocoder", torch_dtype=dtype).eval(),
        scheduler=FlowMatchAudioVideoScheduler(shift=SHIFT, audio_shift=SHIFT, solver=SOLVER),
        defaults=DEFAULTS,
        domain={"name": "drawn speakers and a few sounding objects", "words": caption_words()},
    )


@torch.inference_mode()
def encode_clips(pipeline: JoVAPipeline, arrays: dict[str, Any], first: int) -> list[dict[str, Tensor]]:
    """Records of `ENCODING_BATCH` clips of a shard, from index `first` on.

    Args:
        pipeline: With codecs and text encoder; its transformer may be missing.
        arrays: Frames uint8 [N, F, H, W, 3], waveforms float [N, S], mouth boxes [N, P, F, 4], captions.
        first: First clip of the batch.
    """
    rows = slice(first, first + ENCODING_BATCH)
    frames = torch.from_numpy(arrays["frames"][rows]).to(pipeline.device)
    video = pipeline.video_codec.encode(frames.movedim(-1, 1) / 127.5 - 1)
    image = pipeline.video_codec.encode(frames[:, :1].movedim(-1, 1) / 127.5 - 1)
    codec = pipeline.audio_codec
    num_samples = codec.num_samples_for(codec.num_latents_for(frames.shape[1] / DEFAULTS["frame_rate"]))
    waveforms = torch.from_numpy(arrays["waveforms"][rows])[:, None, :num_samples]
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


def write_records(codecs: Path, shards: Sequence[Path], folder: Path, num_processes: int = 1) -> None:
    """Encode every clip once; shards whose records are complete are skipped."""
    if not (folder / EMPTY_PROMPT).exists():
        empty = assemble(codecs, None).encode_texts([""], DEFAULTS["max_sequence_length"]).features[0]
        write_record(folder / EMPTY_PROMPT, {"prompt_embeds": empty.to(torch.bfloat16)}, {})
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
    numbered = list(enumerate(sorted(records.glob("*.safetensors"))))
    for first in tqdm(range(0, len(numbered), TEXT_BATCH), desc="captions"):
        batch = [(n, path) for n, path in numbered[first : first + TEXT_BATCH] if not (folder / path.name).exists()]
        headers = [RecordHeader.read(path) for _, path in batch]
        captions = [
            without_look(header.metadata["caption"]) if number % 2 else header.metadata["caption"]
            for (number, _), header in zip(batch, headers, strict=True)
        ]
        embeds = encode_captions(pipeline, captions)
        for (_, path), header, caption, embed in zip(batch, headers, captions, embeds, strict=True):
            record = load_file(path) | {"prompt_embeds": embed}
            write_record(folder / path.name, record, {**header.metadata, "caption": caption})
    if not (folder / EMPTY_PROMPT).exists():
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


def training_arguments(config: Path, settings: Sequence[str], num_processes: int = 1) -> list[str]:
    """Arguments of Python for `diffusers_jova.training.train` on a preset, whose batch the processes share.

    Raises:
        ValueError: If the settings are none, or the processes cannot share the batch.
    """
    batch_size = load_yaml(config, parse_overrides(list(settings))).batch_size
    if num_processes < 1 or batch_size % num_processes:
        raise ValueError(
            f"`--processes` must divide `batch_size` of {config}, {batch_size}, got {num_processes}; use 1"
        )
    launcher = ["-m"]
    if num_processes > 1:
        shared = {"batch_size": batch_size // num_processes, "distribution": "ddp"}
        own = [word for word in settings if word.partition("=")[0] not in shared]
        settings = [*own, *(f"{name}={value}" for name, value in shared.items())]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}", "-m"]
    return [*launcher, "diffusers_jova.training.train", "--config", str(config), *settings]


def start_training(config: Path, settings: Sequence[str], num_processes: int = 1) -> subprocess.Popen[bytes]:
    """Start `diffusers_jova.training.train` on a preset; on the CPU every process has one thread."""
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *training_arguments(config, settings, num_processes)], env=environment)


def wait_for(*processes: subprocess.Popen[bytes]) -> None:
    """Wait until all have ended; the exit code of the first that failed becomes that of this program."""
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(next(code for code in codes if code))


def join_branches(video: Path, audio: Path, folder: Path) -> None:
    """Save a transformer with the video branch of one and the audio branch of another, whole or not at all."""
    transformer = load_transformer(str(video))
    copy_branch(load_transformer(str(audio)), transformer, "audio")
    with explained_full_disk(folder), written_whole(folder) as partial_folder:
        transformer.save_pretrained(partial_folder)


def save_pipeline(codecs: Path, transformer: Path, folder: Path) -> None:
    """Save the finished pipeline, transformer and codecs in bfloat16, whole or not at all."""
    dtype = torch.bfloat16
    pipeline = assemble(codecs, JoVATransformer3DModel.from_pretrained(transformer, torch_dtype=dtype), dtype)
    with explained_full_disk(folder), written_whole(folder) as partial_folder:
        pipeline.save_pretrained(partial_folder)
        (partial_folder / "README.md").write_text(CARD)
        for config in partial_folder.glob("*/config.json"):
            forget_place(config)


def forget_place(config: Path) -> None:
    """Take from a component's config the folder that it was loaded from, which means nothing elsewhere."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


# 3. The stages


def make_codecs(args: Namespace) -> None:
    """Make the clips and train the codecs on them."""
    codecs, config = args.output / "codecs", load_config(args.codecs_config)
    if all(train_codecs.is_finished(name, config, codecs) for name in train_codecs.FOLDERS):
        return
    places = ["--output", str(codecs), "--corpus", str(args.output / "corpus")]
    try:
        train_codecs.main(["--config", str(args.codecs_config), *places])
    except SystemExit as ended:
        if ended.code:
            raise


def make_records(args: Namespace) -> None:
    """Encode the clips."""
    corpus, codecs, records = load_config(args.codecs_config).corpus, args.output / "codecs", args.output / "records"
    origin = {"codecs": digest_components(codecs / name for name in RECORDED)}
    keep_origin(records, {**origin, "clips": corpus.clips, "speech": corpus.speech})
    cores = os.cpu_count() or 1
    shards = make_shards(args.output / "corpus", range(corpus.clips), num_processes=cores, speech=corpus.speech)
    write_records(codecs, shards, records, cores)


def train_branches(args: Namespace) -> None:
    """Stage 1: each branch alone, side by side; then both in one transformer."""
    train_stage_1(args.output / "records", args.output)


def train_stage_1(records: Path, output: Path, overrides: Sequence[str] = ()) -> Path:
    """Train each branch alone, side by side, and join them, unless that is done.

    Args:
        records: To train on.
        output: Folder of the two runs and of the transformer that has both branches.
        overrides: Settings of both runs that differ from their presets.

    Returns:
        Folder of the transformer with both branches.
    """
    start = output / "start"
    branches = {name: output / name / "transformer" for name in PRESETS}
    origin = {"records": read_origin(records)}
    if not start.is_dir():
        for branch in branches.values():
            keep_origin(branch.parent, origin)
        places = {name: [f"data={records}", f"output_dir={branch.parent}"] for name, branch in branches.items()}
        wait_for(*(start_training(CONFIGS / PRESETS[name], [*places[name], *overrides]) for name in PRESETS))
        join_branches(branches["video"], branches["audio"], start)
    joined = {name: digest_components([branch]) for name, branch in branches.items() if branch.is_dir()}
    keep_origin(start, {**origin, **joined})
    return start


def train_together(args: Namespace) -> None:
    """Stage 2: both branches together, then with records whose captions leave the look to the portrait."""
    output: Path = args.output
    records, plain, training, portraits = (output / name for name in ("records", "plain", "training", "portraits"))
    go_on(output / "start", records, training, args.config, args.overrides, args.processes)
    if not (training / "transformer").is_dir():
        return  # `stop_after_minutes`: to be continued
    keep_origin(plain, {"records": read_origin(records)})
    write_plain_records(output / "codecs", records, plain)
    go_on(training / "transformer", plain, portraits, args.portraits_config, (), args.processes)


def go_on(
    model: Path, records: Path, folder: Path, preset: Path, overrides: Sequence[str], num_processes: int
) -> None:
    """Train a transformer further.

    Args:
        model: Saved transformer.
        records: To train on.
        folder: Of the run; one that began with another model or other records is refused.
        preset: Settings of the run.
        overrides: Of the preset.
        num_processes: Processes that share a batch.
    """
    keep_origin(folder, {"model": digest_components([model]), "records": read_origin(records)})
    places = [f"model={model}", f"data={records}", f"output_dir={folder}"]
    wait_for(start_training(preset, [*places, *overrides], num_processes))


def make_pipeline(args: Namespace) -> None:
    """Put everything together, with what the codecs' reports say."""
    codecs, transformer, folder = (args.output / name for name in ("codecs", "portraits/transformer", "pipeline"))
    if not transformer.is_dir():
        return
    save_pipeline(codecs, transformer, folder)
    reports = {name: json.loads((codecs / name / "report.json").read_text()) for name in train_codecs.FOLDERS.values()}
    write_json(folder / "codecs_report.json", reports)
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
    parser.add_argument(
        "--codecs-config", type=Path, default=CONFIGS / "codecs_tiny.yaml", help="clips, and preset of the codecs"
    )
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


def check_arguments(args: Namespace) -> None:
    """Refuse now what would end a later stage.

    Raises:
        ValueError: If a preset, an override or the number of processes cannot be used.
    """
    load_config(args.codecs_config)
    places = ["data=records", "output_dir=run"]
    for preset in PRESETS.values():
        training_arguments(CONFIGS / preset, places)
    training_arguments(args.config, [*places, *args.overrides], args.processes)
    training_arguments(args.portraits_config, places, args.processes)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stages that are not complete yet."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    try:
        check_arguments(args)
    except (OSError, ValueError) as error:
        parser.error(one_line(error))
    try:
        for run_stage in list(STAGES.values())[: list(STAGES).index(args.until) + 1]:
            run_stage(args)
    except (OriginError, FullDiskError) as error:
        parser.error(one_line(error))


if __name__ == "__main__":
    main()
