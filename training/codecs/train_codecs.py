"""Train the small components of a model from scratch on synthetic clips: video VAE, audio VAE, vocoder, text encoder.

    python -m diffusers_jova.training.codecs.train_codecs --config training/configs/codecs_tiny.yaml --output DIR

makes the clips once (13 to 16 ms per clip and core), then trains; `all` runs three chains side by side: the video VAE,
the audio VAE followed by the vocoder, and the text encoder. Each component ends when the minutes or steps of its
schedule are spent, so the time of a run is what the config says.
Started again, a command continues from its checkpoints and leaves finished components alone.

Written are library classes in bfloat16, `vae`, `audio_vae`, `vocoder`, `text_encoder`, `tokenizer`, and in each folder
a `report.json` measured on held-out clips with the weights as they were saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import MMAudioVAE
from torch import Tensor, nn

from diffusers_jova.drawn.corpus import HELD_OUT_SEED, make_shards, make_shards_aside, read_array
from diffusers_jova.origin import OriginError, check_origin, digest_components
from diffusers_jova.training.codecs.audio_vae import (
    STATISTICS_CLIPS,
    AudioVAETraining,
    measure_audio_vae,
    set_audio_statistics,
)
from diffusers_jova.training.codecs.codec_config import (
    CodecsConfig,
    VideoDecoderConfig,
    VideoStage,
    component_settings,
    load_config,
)
from diffusers_jova.training.codecs.timed_loop import decisive_settings, run
from diffusers_jova.training.codecs.train_text_encoder import train_text_encoder
from diffusers_jova.training.codecs.video_vae import (
    VideoVAETraining,
    measure_video_vae,
    set_video_statistics,
)
from diffusers_jova.training.codecs.vocoder import VocoderTraining, measure_vocoder
from diffusers_jova.whole_files import FullDiskError, write_json
from jova_cli.parser import Parser, one_line


CHAINS = (("video_vae",), ("audio_vae", "vocoder"), ("text_encoder",))  # side by side; each in its own process
FOLDERS = {"video_vae": "vae", "audio_vae": "audio_vae", "vocoder": "vocoder", "text_encoder": "text_encoder"}


def save_rounded(model: Any, folder: Path) -> Any:
    """Save parameters in bfloat16 and buffers as they are; returns the model as it will be loaded, in float32.

    Buffers are filters and statistics: rounding them would move every spectrogram for the sake of a few kilobytes.
    """
    device = next(model.parameters()).device
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous().to(torch.bfloat16)
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval().to(device)


def digest(module: nn.Module) -> str:
    """Digest the weights of a module: other weights, another text."""
    weights = (value.detach().cpu().contiguous().numpy().tobytes() for value in module.state_dict().values())
    return hashlib.sha256(b"".join(weights)).hexdigest()[:16]


def is_finished(name: str, config: CodecsConfig, output: Path) -> bool:
    """Whether a component is complete: its report is written last.

    Raises:
        OriginError: If it was made with other settings; one whose report names none counts as made with these.
    """
    report = output / FOLDERS[name] / "report.json"
    if not report.exists():
        return False
    found = json.loads(report.read_text()).get("settings", {})
    if found:
        check_origin(found, component_settings(name, config, output / FOLDERS["audio_vae"]), report.parent)
    return True


class Workshop:
    """Where components are made: config, clips, output folder and device.

    Args:
        config: Clips, sizes and schedules.
        corpus: Folder of the clips, which are made unless they are there.
        output: Folder for the components and their checkpoints.
        processes: Processes that make clips.
    """

    def __init__(self, config: CodecsConfig, corpus: Path, output: Path, processes: int) -> None:
        self.config, self.output, self.audio_vae = config, output, output / FOLDERS["audio_vae"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.backends.cudnn.allow_tf32 = config.tf32
        torch.backends.cudnn.benchmark = True
        held_out = range(HELD_OUT_SEED, HELD_OUT_SEED + config.corpus.held_out)
        if processes > 1:
            make_shards_aside(corpus, range(config.corpus.clips), processes, config.corpus.speech)
        self.shards = make_shards(corpus, range(config.corpus.clips), speech=config.corpus.speech)
        self.held_out_shards = make_shards(corpus, held_out, speech=config.corpus.speech)

    def frames(self, shards: Sequence[Path]) -> tuple[Tensor, Tensor]:
        """Frames uint8 [N, F, H, W, 3] and mouth boxes [N, P, F, 4] of all clips, on the device."""
        boxes = torch.from_numpy(read_array(shards, "mouth_boxes"))
        return torch.from_numpy(read_array(shards, "frames")).to(self.device), boxes.to(self.device)

    def waveforms(self, shards: Sequence[Path]) -> Tensor:
        """Sound int16 [N, samples] of all clips, on the device."""
        return (torch.from_numpy(read_array(shards, "waveforms")) * 32767).round().short().to(self.device)

    def held_out_waveforms(self) -> Tensor:
        """Held-out sound, float [N, samples], on the device."""
        return self.waveforms(self.held_out_shards).float() / 32767

    def train(self, name: str, training: Any, **origin: str) -> dict[str, Any]:
        """Run a training to the end of its schedule; returns steps, seconds and last losses.

        Args:
            name: Of the checkpoint.
            training: With a `config`.
            origin: What else a checkpoint must have been made from to be continued.
        """
        config = training.config
        settings = {**decisive_settings(config), **origin}
        print(f"{name}: {sum(p.numel() for p in training.modules['model'].parameters()):,} parameters", flush=True)
        return run(training, config.schedule, self.output / "checkpoints" / f"{name}.safetensors", settings)

    def make_video_vae(self, folder: Path) -> dict[str, Any]:
        """Train, measure and save the video VAE."""
        training = VideoVAETraining(self.config.video_vae, *self.frames(self.shards))
        report = self.train("video_vae", training)
        set_video_statistics(training.vae, training.frames[:STATISTICS_CLIPS])
        held_out = self.frames(self.held_out_shards)
        if self.config.video_decoder is not None:
            report["before_decoder"] = measure_video_vae(training.vae, *held_out)
            report["decoder"] = self.go_on_with_decoder(self.config.video_decoder, training)
        vae = save_rounded(training.vae, folder)
        return {**report, "held_out": measure_video_vae(vae, *held_out)}

    def go_on_with_decoder(self, config: VideoDecoderConfig, training: VideoVAETraining) -> dict[str, Any]:
        """Train the decoder of a trained video VAE on whole clips."""
        stage = VideoStage(until=1.0, frames=training.frames.shape[1], batch=config.batch)
        settings = replace(
            training.config, schedule=config.schedule, stages=(stage,), mouth_weight=config.mouth_weight
        )
        decoder = VideoVAETraining(settings, training.frames, training.mouth_boxes, training.vae)
        return self.train("video_decoder", decoder, encoder=digest(training.vae.encoder))

    def make_audio_vae(self, folder: Path) -> dict[str, Any]:
        """Train, measure and save the audio VAE."""
        training = AudioVAETraining(self.config.audio_vae, self.waveforms(self.shards))
        report = self.train("audio_vae", training)
        set_audio_statistics(training.vae, training.waveforms[:STATISTICS_CLIPS].float() / 32767)
        vae = save_rounded(training.vae, folder)
        return {**report, "held_out": measure_audio_vae(vae, self.held_out_waveforms())}

    def make_vocoder(self, folder: Path) -> dict[str, Any]:
        """Train, measure and save the vocoder; the audio VAE has to be there."""
        audio_vae = MMAudioVAE.from_pretrained(self.audio_vae).eval().to(self.device)
        training = VocoderTraining(self.config.vocoder, audio_vae, self.waveforms(self.shards))
        report = self.train("vocoder", training, audio_vae=digest_components([self.audio_vae]))
        vocoder = save_rounded(training.vocoder, folder)
        return {**report, "held_out": measure_vocoder(vocoder, audio_vae, self.held_out_waveforms())}

    def make_text_encoder(self, folder: Path) -> dict[str, Any]:
        """Train, measure and save tokenizer and text encoder."""
        captions, held_out = (
            [str(caption) for caption in read_array(shards, "captions")]
            for shards in (self.shards, self.held_out_shards)
        )
        checkpoint = self.output / "checkpoints" / "text_encoder.safetensors"
        return train_text_encoder(self.config.text_encoder, captions, held_out, folder, checkpoint, self.device)

    def make(self, name: str) -> None:
        """Make one component unless it is finished, and write its report last: a folder with a report is complete."""
        folder = self.output / FOLDERS[name]
        if is_finished(name, self.config, self.output):
            print(f"{name} is finished: {folder}")
            return
        makers: dict[str, Callable[[Path], dict[str, Any]]] = {
            "video_vae": self.make_video_vae,
            "audio_vae": self.make_audio_vae,
            "vocoder": self.make_vocoder,
            "text_encoder": self.make_text_encoder,
        }
        report = {**makers[name](folder), "settings": component_settings(name, self.config, self.audio_vae)}
        report["megabytes"] = round(sum(f.stat().st_size for f in folder.glob("*.safetensors")) / 1e6, 2)
        if self.device.type == "cuda":
            report["gpu"] = torch.cuda.get_device_name()
            report["peak_gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        print(f"{name}: {json.dumps({key: value for key, value in report.items() if key != 'settings'})}", flush=True)
        write_json(folder / "report.json", report)


def run_chains(arguments: Sequence[str]) -> int:
    """Start every chain in its own process; returns 0 if all of them ended well."""
    command = [sys.executable, "-m", "diffusers_jova.training.codecs.train_codecs", *arguments, "--component"]
    environment = chain_environment(os.environ, os.cpu_count() or 1)
    running = [subprocess.Popen([*command, ",".join(chain)], env=environment) for chain in CHAINS]
    return max(abs(process.wait()) for process in running)


def chain_environment(environment: Mapping[str, str], num_cores: int) -> dict[str, str]:
    """Variables of a chain: it has its share of the cores, unless the user says how many threads there are.

    Chains that each take all cores wait for each other's threads: on two cores a step lasts ten times as long.
    """
    return {"OMP_NUM_THREADS": str(max(1, num_cores // len(CHAINS))), **environment}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what `--component` names."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see configs/codecs_tiny.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder for the components and their checkpoints")
    parser.add_argument("--corpus", type=Path, help="folder for the clips; OUTPUT/corpus if not given")
    parser.add_argument("--component", default="all", help=f"all, or some of {', '.join(FOLDERS)}, joined by commas")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes that make clips")
    args = parser.parse_args(argv)
    names = list(FOLDERS) if args.component == "all" else args.component.split(",")
    if unknown := [name for name in names if name not in FOLDERS]:
        parser.error(f"`--component` must be all or some of {', '.join(FOLDERS)}, got {', '.join(unknown)}")
    corpus = args.corpus or args.output / "corpus"
    try:
        config = load_config(args.config)
        for name in names:
            is_finished(name, config, args.output)  # refuses one of other settings before anything is made
        workshop = Workshop(config, corpus, args.output, args.processes)
    except (OSError, ValueError) as error:
        parser.error(one_line(error))
    if args.component == "all":
        places = ["--config", str(args.config), "--output", str(args.output), "--corpus", str(corpus)]
        sys.exit(run_chains([*places, "--processes", "1"]))  # the clips are there
    try:
        for name in names:
            workshop.make(name)
    except (OriginError, FloatingPointError, FullDiskError) as error:
        parser.error(one_line(error))


if __name__ == "__main__":
    main()
