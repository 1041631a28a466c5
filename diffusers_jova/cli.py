"""The command line `jova`: make clips, look at models, and reach the repository's training and conversion.

Bad input ends with exit code 2 and one sentence that says what to do; nothing half-written is left behind.
"""

import argparse
import importlib
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError

from . import __version__, media
from .generation_defaults import GenerationDefaults
from .model_info import info_table, read_index
from .pipeline_jova import JoVAPipeline
from .pipeline_output import JoVAPipelineOutput
from .prompt import JoVAPrompt
from .shipped import find_model, model_folder
from .transformer_jova import MODALITIES


REPOSITORY = Path(__file__).parent.parent  # where training/ and conversion/ lie beside the package
FORWARDED = {  # command: module, what it does
    "prepare": ("diffusers_jova.training.prepare", "encode a data set once, for training"),
    "preview": ("diffusers_jova.training.preview", "show what prepared clips and their mouth masks look like"),
    "train": ("diffusers_jova.training.train", "train a transformer"),
    "train-lora": ("diffusers_jova.training.train_lora", "train an adapter"),
    "convert": ("diffusers_jova.conversion.convert", "convert other people's weights"),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CODECS = ("vae", "audio_vae", "vocoder")  # always in float32
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
LARGEST_SEED = 2**32 - 1


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence and whose description keeps its lines."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        """Print the sentence to stderr and exit with 2."""
        self.exit(2, f"{self.prog}: {message}\n")


class Adapter(NamedTuple):
    """A LoRA adapter: file, folder or hub name, and its scale."""

    source: str
    scale: float


# 1. The parser


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(prog="jova", description="Generate video with sound by JoVA.")
    parser.add_argument("--version", action="version", version=f"diffusers_jova {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="make a clip", description="Make one clip of video with sound.")
    add_generate_arguments(generate)
    info = commands.add_parser("info", help="show what a model consists of", description="Print the parts of a model.")
    info.add_argument("model", type=model_folder, help="folder of a saved pipeline, or jova-tiny")
    for name, (_, purpose) in FORWARDED.items():
        commands.add_parser(name, help=f"{purpose} (needs the repository)", add_help=False)
    return parser


def add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a person changes by hand; what is left out comes from the model."""
    add = parser.add_argument
    add(
        "--model",
        type=find_model,
        default=find_model("jova-tiny"),
        help="folder of a saved pipeline, or its hub name owner/name; jova-tiny if not given",
    )
    add("--output", type=Path, required=True, help="file to write: .mp4, or .wav for sound alone")
    add("--prompt", help="what is to be seen, heard and said, in one text")
    for name, what in (("video-caption", "seen"), ("audio-caption", "heard"), ("transcript", "said")):
        add(f"--{name}", default="", help=f"what is to be {what}, in place of --prompt")
    add("--negative-prompt", help="what guidance moves away from")
    add("--image", type=Path, help="the first frame")
    add("--audio", type=Path, help="sound that drives the picture; if the clip is longer, it goes on")
    add("--video", type=Path, help="video to add sound to; --num-frames cuts it, or lets it go on with its sound")
    add("--modalities", nargs="+", choices=MODALITIES, default=list(MODALITIES), help="what to generate")
    add("--seed", type=int, help="the same seed makes the same clip; drawn if not given")
    add("--steps", type=int, help="denoising steps")
    add("--guidance-scale", type=float, help="how strongly the prompt guides; 1 is off")
    add("--audio-guidance-scale", type=float, help="the same for the sound alone")
    add("--height", type=int, help="pixels")
    add("--width", type=int, help="pixels")
    add("--num-frames", type=int, help="frames, 4k + 1")
    add("--frame-rate", type=float, help="frames per second")
    add("--lora", type=parse_adapter, action="append", default=[], metavar="PATH[:SCALE]", help="may be repeated")
    add("--device", help="cuda, mps or cpu; the fastest there is if not given")
    add("--dtype", choices=DTYPES, help="of transformer and text encoders; bfloat16 on a GPU, float32 elsewhere")
    add("--cpu-offload", action="store_true", help="keep on the GPU only what is working")


def parse_adapter(text: str) -> Adapter:
    """Split PATH[:SCALE]; a path may hold colons itself."""
    source, colon, scale = text.rpartition(":")
    try:
        return Adapter(source, float(scale)) if colon else Adapter(text, 1.0)
    except ValueError:
        return Adapter(text, 1.0)


# 2. generate


def generate(args: argparse.Namespace) -> None:
    """Make one clip and write it; everything that can be checked is checked before the model is loaded."""
    check_output(args.output, has_video="video" in args.modalities)
    for adapter in args.lora:
        check_source("--lora", adapter.source)
    arguments = {**prompt_arguments(args), **number_arguments(args), **given_media(args)}
    device = choose_device(args.device)
    seed = random.randint(0, LARGEST_SEED) if args.seed is None else args.seed
    pipeline = load_pipeline(args, device)
    if "audio" in arguments:
        arguments["audio"] = media.mix_channels(arguments["audio"], pipeline.audio_codec.num_channels)
    print(f"seed {seed}", file=sys.stderr)
    generator = torch.Generator().manual_seed(seed)
    made: Any = pipeline(**arguments, modalities=args.modalities, generator=generator)
    save(made, args.output)
    print(f"wrote {args.output}")


def prompt_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The prompt, whole or in three parts."""
    parts = JoVAPrompt(video=args.video_caption, audio=args.audio_caption, transcript=args.transcript)
    has_parts = parts != JoVAPrompt()
    if has_parts == (args.prompt is not None):
        raise ValueError(
            "the prompt must be given either by `--prompt` or by `--video-caption`, `--audio-caption` and "
            f"`--transcript`, got {'both' if has_parts else 'neither'}"
        )
    return {"prompt": parts if has_parts else args.prompt, "negative_prompt": args.negative_prompt}


def number_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Numbers of a call; None takes the model's."""
    for option in ("steps", "height", "width", "num_frames"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ValueError(f"`--{option.replace('_', '-')}` must be at least 1, got {value}")
    if args.seed is not None and not 0 <= args.seed <= LARGEST_SEED:
        raise ValueError(f"`--seed` must be from 0 to {LARGEST_SEED}, got {args.seed}")
    names = ("height", "width", "num_frames", "frame_rate", "guidance_scale", "audio_guidance_scale")
    return {"num_inference_steps": args.steps, **{name: getattr(args, name) for name in names}}


def given_media(args: argparse.Namespace) -> dict[str, Any]:
    """Image, sound and frames that the files hold, as the pipeline takes them."""
    given: dict[str, Any] = {}
    if args.image is not None:
        with errors_name("--image"):
            given["image"] = media.read_image(args.image)
    if args.video is not None:
        with errors_name("--video"):
            given |= given_video(args)
    if args.audio is not None:
        with errors_name("--audio"):
            given["audio"], given["audio_sampling_rate"] = media.read_audio(args.audio)
    return given


def given_video(args: argparse.Namespace) -> dict[str, Any]:
    """Frames at the clip's frame rate; where the clip is longer than they are, their sound goes on as well."""
    frame_rate = args.frame_rate or model_defaults(args.model).frame_rate
    clip = media.read_video(args.video, frame_rate=frame_rate, max_num_frames=args.num_frames)
    goes_on = args.num_frames is not None and args.num_frames > len(clip.frames)
    if goes_on and clip.audio is not None and "audio" in args.modalities:
        return {"video": clip.frames, "audio": clip.audio, "audio_sampling_rate": clip.sampling_rate}
    return {"video": clip.frames}


def model_defaults(model: str) -> GenerationDefaults:
    """What the model takes for arguments that are not given."""
    check_source("--model", model)
    index = read_index(Path(model)) if Path(model).exists() else JoVAPipeline.load_config(model)
    return GenerationDefaults.from_dict(index.get("defaults") or {})


def load_pipeline(args: argparse.Namespace, device: torch.device) -> JoVAPipeline:
    """Load the model with its adapters, ready to run."""
    check_source("--model", args.model)
    if Path(args.model).exists():
        read_index(Path(args.model))
    if args.cpu_offload and device.type == "cpu":
        raise ValueError("`--cpu-offload` must be used with a GPU, got the device cpu; leave it out")
    dtype = DTYPES[args.dtype or ("float32" if device.type == "cpu" else "bfloat16")]
    dtypes = {"default": dtype, **dict.fromkeys(CODECS, torch.float32)}
    pipeline: JoVAPipeline = JoVAPipeline.from_pretrained(args.model, dtype=dtypes)
    names = [f"lora_{index}" for index in range(len(args.lora))]
    for name, adapter in zip(names, args.lora, strict=True):
        load_adapter(pipeline, name, adapter.source)
    if names:
        pipeline.set_adapters(names, [adapter.scale for adapter in args.lora])
    if args.cpu_offload:
        pipeline.enable_model_cpu_offload(device=device)
        return pipeline
    return pipeline.to(device)


def load_adapter(pipeline: JoVAPipeline, name: str, source: str) -> None:
    """Load one adapter, and insist that the model has places for it."""
    try:
        pipeline.load_lora_weights(source, adapter_name=name)
    except Exception as error:  # of the file, or of the Hub and the network that it is looked for on
        raise ValueError(
            f"`--lora` must be an adapter of this model, got {source} ({one_line(error)}); name its file or folder"
        ) from error
    if name not in pipeline.transformer.peft_config:
        raise ValueError(f"`--lora` must be an adapter of this model, got {source}, which fits none of its layers")


def choose_device(name: str | None) -> torch.device:
    """The device that is asked for, or the fastest there is."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"`--device` must be a device of this machine, got {name}; leave it out or use cpu"
        ) from error
    return torch.device(name)


def check_source(option: str, source: str) -> None:
    """Refuse what is neither on this machine nor a hub name."""
    if not Path(source).exists() and not HUB_NAME.fullmatch(source):
        raise ValueError(f"`{option}` must be an existing path or a hub name owner/name, got {source}")


def check_output(path: Path, has_video: bool) -> None:
    """Refuse a file that cannot be written, before any work is done for it."""
    suffix = ".mp4" if has_video else ".wav"
    if path.suffix.lower() != suffix:
        raise ValueError(f"`--output` must end in {suffix} for this clip, got {path}; use {path.with_suffix(suffix)}")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"`--output` must be a file that can be written, got {path} ({reason}); choose another or make its folder"
        ) from error


def save(output: JoVAPipelineOutput, path: Path) -> None:
    """Write the clip, or the sound alone."""
    if output.frames is None:
        media.write_audio(path, output.audio[0], output.sampling_rate)
    else:
        output.save(path)


# 3. Other commands


def forwarded_main(command: str) -> Callable[[Sequence[str]], object]:
    """The `main` of a command of the repository that the installed package does not bring."""
    module, _ = FORWARDED[command]
    if not (REPOSITORY / f"{module.replace('.', '/')}.py").is_file():
        raise ValueError(
            f"`{command}` must be run from the repository, got an installed package without {module.split('.')[0]}/; "
            "clone it and `pip install --editable .` there"
        )
    sys.path.insert(0, str(REPOSITORY))
    sys.argv[0] = f"jova {command}"  # what its help and its errors are headed with
    main: Callable[[Sequence[str]], object] = importlib.import_module(module).main
    return main


# 4. Errors


@contextmanager
def errors_name(option: str) -> Iterator[None]:
    """Let errors about a file name the option that gave it."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(one_line(error).replace("`path`", f"`{option}`")) from error


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    if arguments and arguments[0] in FORWARDED:
        try:
            command = forwarded_main(arguments[0])
        except (ValueError, ImportError) as error:
            parser.error(one_line(error))
        command(arguments[1:])  # it words its own errors; what it does not expect shows where it arose
        return
    try:
        args = parser.parse_args(arguments)
        if args.command == "info":
            print(info_table(args.model))
        else:
            generate(args)
    except torch.OutOfMemoryError:
        parser.exit(
            1, "jova: the clip must fit into the memory; use `--cpu-offload`, fewer frames or a smaller size\n"
        )
    except (ValueError, OSError, ImportError, SafetensorError) as error:
        parser.error(one_line(error))


if __name__ == "__main__":
    main()
