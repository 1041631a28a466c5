"""The words of `jova generate`."""

import argparse
import math
import os
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .adapter_info import check_adapter
from .benchmark_lists import FOLDER, FORMATS, benchmark_of, check_benchmark, has_voices
from .cache_words import cache_settings
from .clip_limits import GivenLengths
from .file_arguments import add_file_arguments, as_options, check_file_arguments
from .given_paths import check_file, check_readable, check_suffix, check_writable
from .guidance_words import KINDS, guidance_settings
from .keyframes import named_frames, parse_keyframe, place_frames
from .long_clips import add_long_arguments, check_long, check_no_long_options, is_long
from .media_files import check_image, check_sound, check_video
from .model_clips import MODALITIES, check_clip_fits, config_of, index_defaults, read_places
from .model_info import read_index
from .number_options import MAX_RATE_HZ, MEMORY_GB, check_between, check_count
from .optional_packages import check_installed, of_extra
from .parser import DTYPES, NOTHING_WRITTEN, Parser, dtype_name, one_line
from .prompt_list import RowParser, check_list, read_rows
from .shipped import check_source, find_model, model_folder, model_name


WORK = "diffusers_jova.generate"
DESCRIPTION = """Make one clip of video with sound, or one for each row of a list.

    jova generate --prompt "A cartoon dog barks." --output dog.mp4
    jova generate --prompts list.jsonl --output clips/
    jova generate --script script.csv --num-frames 481 --output long.mp4

Every option of a single clip is a column of the list (.jsonl, .csv), with _ for -; the last lines here name them.
On the command line it holds for the rows that leave it empty. The same command again makes only what is missing;
clips.jsonl in the folder tells how each was made. `torchrun --nproc-per-node N -m jova_cli generate ...` shares the
rows between N GPUs, `--ray` between machines.

A clip of more frames than the model makes, or with a script, is made window by window; `OUTPUT.windows/preview.mp4`
shows what is done, and the same command goes on where one ended. A script (.jsonl, .csv) has a row for each time from
which a prompt holds: the columns start (seconds), prompt or video_caption, audio_caption and transcript, and perhaps
end, when its words are said."""
PARTS = ("video_caption", "audio_caption", "transcript")  # of a prompt
SPEECH_START = "<S>"  # of what one speaker says
SHIPPED = "jova-tiny"
LARGEST_SEED = 2**32 - 1
OPTIONS_OF_PICTURES = {  # arguments that give pictures for frames, and what their refusals speak of
    "last_image": "--last-image",
    "keyframes": "--keyframe",
    "image": "--image",
    "video": "--video",
    "audio": "--audio",
    "num_frames": "--num-frames",
}
OF_MODALITY = {"image": "video", "video": "video", "audio": "audio"}  # which modality a given file is for


class Adapter(NamedTuple):
    """A LoRA adapter: file, folder or hub name, and its scale."""

    source: str
    scale: float


def parse(argv: Sequence[str] | None = None) -> tuple[Parser, argparse.Namespace]:
    """Read the words, and refuse what cannot work."""
    columns = ", ".join(RowParser(add_arguments).options)
    epilog = textwrap.fill(f"columns of a list, all of which may be left out: {columns}", break_on_hyphens=False)
    parser = Parser(said_of_interrupt, prog="jova generate", description=DESCRIPTION, epilog=epilog)
    add_arguments(parser)
    add_long_arguments(parser)
    add_sharing_arguments(parser)
    return parser, parser.parse_checked(argv, check)


def said_of_interrupt(args: argparse.Namespace) -> str:
    """What Ctrl-C leaves behind."""
    if args.prompts is None and is_long(args):
        windows = Path(f"{args.output}.windows")
        if not any(windows.glob("window-*.safetensors")):
            return NOTHING_WRITTEN
        return f"the windows in `{windows}` are whole; the same command goes on"
    if args.prompts is None:
        return NOTHING_WRITTEN
    return f"the clips in `{args.output}` are whole; the same command goes on"


def add_arguments(parser: Parser) -> None:
    """Add what a person changes by hand; what is left out comes from the model."""
    add_model_arguments(parser)
    add_clip_arguments(parser)


def add_clip_arguments(parser: Parser) -> None:
    """Add what may differ from clip to clip of one model."""
    add, of_tiny = parser.add_argument, own_values(SHIPPED)
    add(
        "--output",
        type=Path,
        required=True,
        help="file to write, in place of one that is there: .mp4, or .wav for sound alone; a folder for a list",
    )
    add("--prompt", help="what is to be seen, heard and said, in one text")
    for name, what in zip(PARTS, ("seen", "heard", "said"), strict=True):
        add(f"--{name.replace('_', '-')}", default="", help=f"what is to be {what}, in place of --prompt")
    add("--negative-prompt", help="what guidance moves away from")
    add("--image", type=Path, help="the first frame")
    add("--last-image", type=Path, help="the last frame, for models that were trained with some")
    add(
        "--keyframe",
        type=parse_keyframe,
        action="append",
        default=[],
        metavar="FRAME=FILE",
        help="a picture at a frame, counted from 0, or from the end where it is negative; may be repeated",
    )
    add("--audio", type=Path, help="sound that drives the picture; with a longer --num-frames it goes on")
    add("--video", type=Path, help="video to add sound to; --num-frames cuts it, or lets it go on with its sound")
    add("--reference-audio", type=Path, help="a voice to speak with, for models that read one; no part of the clip")
    add("--reference-transcript", help="what --reference-audio says, for models that read it")
    add(
        "--speaker-embeds",
        type=Path,
        metavar="FILE",
        help="voices of a prompt's speakers, for models that read vectors",
    )
    add(
        "--speaker-audio",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="recordings of these voices instead, the i-th for the i-th <S>; --speaker-encoder makes vectors of them",
    )
    add("--speaker-encoder", type=Path, metavar="FILE", help="checkpoint of ReDimNet, as NAVA was trained with")
    add("--start", type=float, help="seconds to leave out at the beginning of --audio and --video")
    add("--duration", type=float, help="seconds to take of --audio and --video")
    add_file_arguments(parser)
    add("--modalities", nargs="+", choices=MODALITIES, default=list(MODALITIES), help="what to generate")
    add("--seed", type=int, help="the same seed makes the same clip; drawn if not given")
    add("--steps", type=int, help=f"denoising steps{of_tiny['num_inference_steps']}")
    add("--guidance-scale", type=float, help=f"how strongly the prompt guides; 1 is off{of_tiny['guidance_scale']}")
    add("--audio-guidance-scale", type=float, help="the same for the sound alone")
    add(
        "--guidance",
        metavar="NAME=VALUE[,...]",
        help="what else guides: coupling_scale=2 is how strongly picture and sound do each other, 1 is off; further "
        f"{', '.join(name for name in KINDS if name != 'coupling_scale')}, as of the pipeline's call",
    )
    add(
        "--max-sequence-length",
        type=int,
        help=f"tokens of a prompt, of which further ones are cut{of_tiny['max_sequence_length']}",
    )
    add("--height", type=int, help=f"pixels{of_tiny['height']}")
    add("--width", type=int, help=f"pixels{of_tiny['width']}")
    add("--num-frames", type=int, help=f"frames, 4k + 1{of_tiny['num_frames']}")
    add("--frame-rate", type=float, help=f"frames per second{of_tiny['frame_rate']}")
    add("--no-metadata", action="store_true", help="do not write into the file that it was generated, and how")
    add("--sign-certificate", type=Path, metavar="PEM", help="sign what the file says, after C2PA, with --sign-key")
    add("--sign-key", type=Path, metavar="PEM", help="private key of --sign-certificate")


def add_model_arguments(parser: Parser) -> None:
    """Add which model runs, with which adapters, where and how far: what stays the same from clip to clip."""
    add = parser.add_argument
    add(
        "--model",
        type=find_model,
        default=find_model(SHIPPED),
        help="folder of a saved pipeline, or its hub name owner/name; jova-tiny if not given",
    )
    add("--lora", type=parse_adapter, action="append", default=[], metavar="PATH[:SCALE]", help="may be repeated")
    add("--skip-unknown", action="store_true", help="leave out what adapters hold for other models, and say how much")
    add("--device", help="cuda, mps or cpu; the fastest there is if not given")
    add(
        "--dtype",
        type=dtype_name,
        choices=DTYPES,
        help="of transformer and text encoders; bfloat16 on a GPU, float32 elsewhere",
    )
    add("--cpu-offload", action="store_true", help="keep on the GPU only what is working")
    add("--memory", type=float, metavar="GB", help="fit into so much of the device; `jova estimate --help` tells how")
    add(
        "--cache",
        metavar="NAME=VALUE[,...]",
        help="compute the sound in every step and the video in some: video_interval=3, say, is every third; for many "
        "steps, since between few the video goes astray",
    )
    add("--yes", action="store_true", help="begin even what is estimated to take more than the memory, or than a day")


def own_values(model: str) -> defaultdict[str, str]:
    """What a help text says of the values that a model takes for options that are not given; nothing without it."""
    said: defaultdict[str, str] = defaultdict(str)
    try:
        values = index_defaults(read_index(model_folder(model)))
    except ValueError:  # help is given even where the model is broken
        return said
    said.update({name: f"; the model's own if not given: {value:g} of {model}" for name, value in numbers(values)})
    return said


def numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Those of some values that are numbers."""
    return ((name, value) for name, value in values.items() if type(value) in (int, float))


def add_sharing_arguments(parser: Parser) -> None:
    """Add what is about many clips, and many processes."""
    group = parser.add_argument_group("many clips, many GPUs").add_argument
    group(
        "--prompts",
        type=Path,
        metavar="LIST",
        help="make a clip for each row of a .jsonl or .csv file, or for each a.txt of a folder, with a.png and a.wav",
    )
    group(
        "--benchmark",
        choices=FORMATS,
        help="`--prompts` is Verse-Bench's folder, or JavisBench's list, as published; a folder alone is uniavatar",
    )
    group(
        "--batch-size",
        type=int,
        default=1,
        help="clips at a time, of rows that differ in prompt and seed alone; more than 1 rounds differently",
    )
    group("--ray", action="store_true", help="share the rows on a Ray cluster, or start a local one")
    group("--num-processes", type=int, default=1, help="Ray actors that share the rows, each with its own GPU")
    group("--context-parallel", type=int, default=1, metavar="N", help="N processes of torchrun share each clip")
    group("--guidance-parallel", type=int, default=1, metavar="N", help="or each clip's predictions of guidance")


def default_arguments() -> argparse.Namespace:
    """What the words are where none is given, for a caller that has no command line; `output` is a name alone."""
    parser = Parser()
    add_arguments(parser)
    return parser.parse_args(["--output", "clip.mp4"])


def parse_adapter(text: str) -> Adapter:
    """Split PATH[:SCALE]; a path may hold colons itself."""
    source, colon, scale = text.rpartition(":")
    try:
        return Adapter(source, float(scale)) if colon else Adapter(text, 1.0)
    except ValueError:
        return Adapter(text, 1.0)


def check(args: argparse.Namespace) -> None:
    """Refuse what shows to be wrong before anything is loaded, and read the rows of a list."""
    check_sharing(args)
    if args.prompts is not None:
        args.benchmark = benchmark_of(args.benchmark, args.prompts)
        if args.benchmark is None:
            check_list(args.prompts, args.output)
        else:
            check_benchmark(args.benchmark, args.prompts, args.output)
        check_no_long_options(args)
        left_out = voices_left_out(args)
        args.rows, args.refused = read_rows(
            args, add_arguments, check_clip, benchmark=args.benchmark, left_out=left_out
        )
        return
    check_numbers(args)
    if is_long(args):
        check_long(args, check_clip, check_prompt, check_keyframes)
        check_media(args)
    else:
        check_clip(args)
    check_writable("--output", args.output)


def check_sharing(args: argparse.Namespace) -> None:
    """Refuse numbers of clips or processes that do not fit each other, or the processes that were started."""
    for option in ("batch_size", "num_processes", "context_parallel", "guidance_parallel"):
        check_count(f"--{option.replace('_', '-')}", getattr(args, option))
        if not option.endswith("_parallel") and args.prompts is None and getattr(args, option) > 1:
            raise ValueError(f"`--{option.replace('_', '-')}` must go with `--prompts`, got one clip; leave it out")
    if args.benchmark is not None and args.prompts is None:
        raise ValueError("`--benchmark` must go with `--prompts`, got one clip; leave it out")
    if args.ray and args.prompts is None:
        raise ValueError("`--ray` must go with `--prompts`, got one clip; leave it out")
    if args.num_processes > 1 and not args.ray:
        raise ValueError(f"`--num-processes` must go with `--ray`, got {args.num_processes}; use `torchrun`")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if min(args.context_parallel, args.guidance_parallel) > 1:
        raise ValueError("`--guidance-parallel` must be used without `--context-parallel`, got both; leave one out")
    option = "--guidance-parallel" if args.guidance_parallel > 1 else "--context-parallel"
    number = max(args.context_parallel, args.guidance_parallel)
    if args.ray and max(started, number) > 1:
        raise ValueError(f"`--ray` must be used in one process and without `{option}`, got more; leave it out")
    if number != started and (number > 1 or args.prompts is None):
        raise ValueError(
            f"`{option}` must be the number of processes, got {number} in {started}; start "
            f"`torchrun --nproc-per-node {max(number, started)} -m jova_cli generate` with as many"
        )


def check_clip(args: argparse.Namespace) -> None:
    """Refuse what shows to be wrong with the arguments of a single clip, but for a file that cannot be written."""
    if args.output.suffix.lower() == ".wav" and "video" in args.modalities and not is_long(args):
        raise ValueError(
            f"`--output` must end in .mp4 for this clip, got {args.output}; use {args.output.with_suffix('.mp4')}, or "
            "`--modalities audio` for sound alone"
        )
    check_suffix("--output", args.output, ".mp4" if "video" in args.modalities else ".wav")
    check_prompt(args)
    check_numbers(args)
    check_model(args)
    if args.num_frames is not None or (args.audio is None and args.video is None):  # else their length counts
        check_fits(args)
    check_signature(args)
    check_first_frame(args)
    check_keyframes(args)
    check_reference(args)
    check_speakers(args)
    check_media(args)


def voices_left_out(args: argparse.Namespace) -> tuple[str, ...]:
    """Columns of a folder of speakers that its model does not read, which are told in one line: the voices."""
    if args.benchmark != FOLDER or not has_voices(args.prompts) or not Path(args.model).exists():
        return ()
    if read_index(Path(args.model)).get("max_reference_s") is not None:
        return ()
    told = f"the voices of {args.prompts} are left out: {args.model} reads none; `jova evaluate --prompts` reads them"
    print(told, file=sys.stderr)
    return ("reference_audio",)


def check_reference(args: argparse.Namespace) -> None:
    """Refuse a reference voice that the model does not read, or the transcript of none."""
    if args.reference_audio is None:
        if args.reference_transcript is not None:
            raise ValueError(
                "`--reference-transcript` must go with `--reference-audio`, got it alone; give the voice that says it"
            )
        return
    if "audio" not in args.modalities:
        raise ValueError("`--reference-audio` must go with sound, got `--modalities video`; leave one of them out")
    if not Path(args.model).exists():  # on the hub: the pipeline refuses the same
        return
    index = read_index(Path(args.model))
    if index.get("max_reference_s") is None:
        raise ValueError(
            f"`--reference-audio` must go with a model that reads a voice, got {model_name(args.model)}, which reads "
            "none; leave it out, or use a model such as UniAVGen"
        )
    if index.get("spoken_text_encoder", [None])[0] is not None and not (args.reference_transcript or "").strip():
        raise ValueError(
            "`--reference-transcript` must be what `--reference-audio` says, which this model reads with it, got "
            f"{args.reference_transcript!r}; write it down"
        )


def check_speakers(args: argparse.Namespace) -> None:
    """Refuse voices of speakers that the model does not read, and recordings that nothing makes vectors of."""
    words = {"--speaker-embeds": args.speaker_embeds, "--speaker-audio": args.speaker_audio or None}
    given = [option for option, value in words.items() if value is not None]
    if len(given) > 1:
        raise ValueError("`--speaker-audio` must be given without `--speaker-embeds`, got both; leave one out")
    if (args.speaker_encoder is None) == bool(args.speaker_audio):
        alone, other = (
            ("--speaker-audio", "--speaker-encoder")
            if args.speaker_audio
            else ("--speaker-encoder", "--speaker-audio")
        )
        advice = "give a checkpoint of ReDimNet" if args.speaker_audio else "give the recordings of the voices"
        raise ValueError(f"`{alone}` must go with `{other}`, got it alone; {advice}")
    if not given:
        return
    if "audio" not in args.modalities:
        raise ValueError(f"`{given[0]}` must go with sound, got `--modalities video`; leave one of them out")
    if Path(args.model).exists() and config_of(Path(args.model), "transformer").get("speaker_dim") is None:
        raise ValueError(
            f"`{given[0]}` must go with a model that reads vectors of a speaker encoder, got "
            f"{model_name(args.model)}, which reads none; leave it out, or use a model such as NAVA"
        )
    num_speakers = count_speakers(args)
    if getattr(args, "script", None) is None and len(args.speaker_audio) > num_speakers:
        raise ValueError(
            f"`--speaker-audio` must be at most one recording for each `{SPEECH_START}` of the prompt, a transcript "
            f"being one, got {len(args.speaker_audio)} for {num_speakers}; mark what each speaker says by "
            f"`{SPEECH_START}`"
        )
    files = {"--speaker-embeds": args.speaker_embeds, "--speaker-encoder": args.speaker_encoder}
    for option, path in files.items():
        if path is not None:
            check_file(option, path)


def count_speakers(args: argparse.Namespace) -> int:
    """Who speaks in a prompt: what is marked in the text, and a transcript."""
    text = args.prompt or args.video_caption + args.audio_caption
    return text.count(SPEECH_START) + bool(not args.prompt and args.transcript)


def check_media(args: argparse.Namespace) -> None:
    """Refuse given files that hold no image, no sound or no video, as their headers tell."""
    parts = {"allow_truncated": args.allow_truncated}
    checks: dict[str, Callable[[Path], None]] = {
        "image": check_image,
        "last_image": check_image,
        "audio": lambda path: check_sound(path, args.audio_track, **parts),
        "video": lambda path: check_video(path, **parts),
        "reference_audio": lambda path: check_sound(path, None, **parts),
    }
    found = [(option, getattr(args, option), check_content) for option, check_content in checks.items()]
    found += [("keyframe", keyframe.path, check_image) for keyframe in args.keyframe]
    found += [("speaker_audio", path, checks["reference_audio"]) for path in args.speaker_audio]
    for option, path, check_content in found:
        words = f"--{option.replace('_', '-')}"
        if path is None:
            continue
        if (modality := OF_MODALITY.get(option)) is not None and modality not in args.modalities:
            raise ValueError(
                f"`{words}` must go with {modality}, got `--modalities {' '.join(args.modalities)}`; leave one of "
                "them out"
            )
        check_file(words, path)
        try:
            check_content(path)
        except (ValueError, OSError) as error:
            raise ValueError(as_options(one_line(error), path=words, **OPTIONS_OF_PICTURES)) from error
        except ImportError:  # said by the work, with what to install
            continue


def check_fits(args: argparse.Namespace, num_frames: int | None = None, given: GivenLengths | None = None) -> None:
    """Refuse sizes and lengths that a model on this machine cannot hold.

    Args:
        args: The words of a single clip.
        num_frames: Of the clip, where given media decide it.
        given: How long these are, once they are read.
    """
    arguments = {name: getattr(args, name) for name in ("height", "width", "num_frames", "frame_rate")}
    if num_frames is not None:
        arguments["num_frames"] = num_frames
    check_clip_fits(Path(args.model), arguments, args.modalities, given)


def check_model(args: argparse.Namespace) -> None:
    """Refuse a model or an adapter that is not there."""
    check_source("--model", args.model)
    if Path(args.model).exists():
        read_index(Path(args.model))
    if args.cache is not None:
        cache_settings(args.cache)
    check_between("--memory", args.memory, *MEMORY_GB, "24, say")
    if args.memory is not None and args.cpu_offload:
        raise ValueError(
            "`--memory` must be given without `--cpu-offload`, got both, two answers to one question; leave one out"
        )
    if args.skip_unknown and not args.lora:
        raise ValueError("`--skip-unknown` must go with `--lora`, got no adapter")
    check_adapters(args.lora)


def check_adapters(adapters: Sequence[Adapter]) -> None:
    """Refuse an adapter that is not there, and a scale that is no number."""
    for adapter in adapters:
        if not math.isfinite(adapter.scale):
            raise ValueError(f"`--lora` must have a finite scale, got {adapter.scale}; 1 is the adapter as trained")
        check_scale(adapter.source)
        check_source("--lora", adapter.source)
        if Path(adapter.source).exists():
            check_readable("--lora", Path(adapter.source), "name the file or the folder of an adapter")
            check_adapter("--lora", Path(adapter.source))


def check_scale(source: str) -> None:
    """Refuse a word behind an adapter that is there which is no scale."""
    path, colon, word = source.rpartition(":")
    if colon and not Path(source).exists() and Path(path).exists():
        raise ValueError(
            f"`--lora` must have one number behind the colon, got {word!r} behind {path}; write {path}:0.8, say"
        )


def check_first_frame(args: argparse.Namespace) -> None:
    """Refuse a clip with two first frames, or without one of a model that never begins so."""
    has_one = args.image is not None or args.video is not None
    if args.image is not None and args.video is not None:
        raise ValueError("`--image` and `--video` must not both be given; a given video brings its first frame")
    if has_one or "video" not in args.modalities or not Path(args.model).exists():  # on the hub: the pipeline refuses
        return
    if read_index(Path(args.model)).get("needs_image"):
        raise ValueError(
            "`--image` must be given to this model, whose clips begin with one, got neither `--image` nor `--video`; "
            "give the first frame, or `--modalities audio`"
        )


def check_keyframes(args: argparse.Namespace, num_frames: int | None = None, num_given_frames: int = 0) -> None:
    """Refuse pictures for frames that the clip has not, or that the model has no place for, as far as that is known.

    Args:
        args: The words of a clip.
        num_frames: Of the clip, where something else than its words decides it.
        num_given_frames: Of a given video that the clip begins with, once it is read.
    """
    given = named_frames(args)
    num_frames = args.num_frames if num_frames is None else num_frames
    if given and "video" not in args.modalities:
        raise ValueError(
            "`--last-image` and `--keyframe` must go with video, got `--modalities audio`; leave one of them out"
        )
    if num_frames is None and args.audio is None and args.video is None and Path(args.model).exists():
        num_frames = index_defaults(read_index(Path(args.model)))["num_frames"]
    if given and num_frames is not None:
        try:
            frames = place_frames(given, num_frames, num_given_frames)
            if (places := read_places(Path(args.model))) is not None:
                places.check({frame: name for frame, (name, _) in zip(frames, given, strict=True)})
        except ValueError as error:
            raise ValueError(as_options(one_line(error), **OPTIONS_OF_PICTURES)) from error


def check_prompt(args: argparse.Namespace) -> None:
    """Insist on one prompt, whole or in its parts."""
    has_parts = any(getattr(args, name) for name in PARTS)
    if has_parts == (args.prompt is not None):
        raise ValueError(
            "the prompt must be given either by `--prompt` or by `--video-caption`, `--audio-caption` and "
            f"`--transcript`, got {'both; leave one out' if has_parts else 'neither; write what the clip shows'}"
        )


def check_signature(args: argparse.Namespace) -> None:
    """Insist on both files of a signature, and on something to sign."""
    files = {"--sign-certificate": args.sign_certificate, "--sign-key": args.sign_key}
    given = [option for option, path in files.items() if path is not None]
    if len(given) == 1:
        raise ValueError(f"`--sign-certificate` and `--sign-key` must be given together, got `{given[0]}` alone")
    if given and args.no_metadata:
        raise ValueError("`--sign-certificate` must be given without `--no-metadata`, got both; leave one out")
    for option in given:
        if not files[option].is_file():
            raise ValueError(f"`{option}` must be an existing PEM file, got {files[option]}")
    if given:
        check_installed(given[0], "c2pa", of_extra("c2pa"))


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that no model takes."""
    if args.steps is not None:
        check_count("--steps", args.steps)
    # how much of these is too much, the model tells
    for option in ("height", "width", "num_frames", "max_sequence_length"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ValueError(f"`--{option.replace('_', '-')}` must be at least 1, got {value}")
    for option in ("start", "duration", "audio_track"):
        if getattr(args, option) is not None and args.audio is None and args.video is None:
            raise ValueError(f"`--{option.replace('_', '-')}` must be used with `--audio` or `--video`, got neither")
    check_between("--frame-rate", args.frame_rate, 1 / MAX_RATE_HZ, MAX_RATE_HZ, "24, say")
    for option in ("guidance_scale", "audio_guidance_scale"):
        if not math.isfinite(getattr(args, option) or 0):
            raise ValueError(f"`--{option.replace('_', '-')}` must be finite, got {getattr(args, option)}; 1 is off")
    guidance_settings(args.guidance)
    check_file_arguments(args.audio_track)
    if args.seed is not None and not 0 <= args.seed <= LARGEST_SEED:
        raise ValueError(f"`--seed` must be from 0 to {LARGEST_SEED}, got {args.seed}")
