"""From the words of a single clip to a loaded pipeline and the arguments of its call; what is wrong is said before."""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from jova_cli.adapter_info import find_adapter
from jova_cli.cache_words import cache_settings
from jova_cli.clip_limits import GivenLengths
from jova_cli.file_arguments import as_options
from jova_cli.generate import LARGEST_SEED, PARTS, Adapter, check_fits, check_keyframes, default_arguments
from jova_cli.guidance_words import guidance_settings
from jova_cli.keyframes import Keyframe
from jova_cli.latent_lengths import whole_frames
from jova_cli.long_clips import has_media, is_long, lay_out
from jova_cli.model_clips import config_of, read_geometry
from jova_cli.model_info import read_metadata
from jova_cli.parser import one_line

from . import media
from .call_stages import PlannedCall
from .clip_shape import frames_of_given_media, lacks_frames
from .content_credentials import Credentials
from .cost_estimate import check_affordable, estimate, machine_memory_bytes
from .domain import EMPTY_PROMPT, NO_WORDS, PICTURES, describe_strangers, text_of, words_of
from .few_steps import FewSteps
from .generation_defaults import GenerationDefaults
from .hub_access import HubAccessError
from .long_clip import LongClip, ScriptLine
from .memory_fitting import GIVEN, fitting_plan
from .memory_plan import MemoryPlan
from .pipeline_jova import JoVAPipeline
from .prompt import JoVAPrompt
from .saved_pipeline import SavedPipeline, config_folder, model_defaults, saved_estimate
from .sound_cache import JoVACacheConfig
from .speaker_encoder import SpeakerEncoder
from .speakers import read_voices


BAD_INPUT = (ValueError, FloatingPointError, OSError, ImportError, SafetensorError)  # what one sentence explains
CONFIRM = "use fewer `--num-frames` or `--steps` or a smaller size, or confirm it by `--yes`"
OF_WINDOWS = ("prompt", "num_frames", "audio", "video")  # arguments that a clip by windows deals out to them
OUT_OF_MEMORY = "the clip must fit into the memory; use `--memory GB`, fewer frames or a smaller size"


def draw_seed(args: argparse.Namespace) -> int:
    """The seed that is given, or any."""
    return random.randint(0, LARGEST_SEED) if args.seed is None else args.seed


def tell(line: str) -> None:
    """Say something about a call beside its result."""
    print(line, file=sys.stderr)


def tell_strangers(pipeline: JoVAPipeline, args: argparse.Namespace, tell: Callable[[str], None] = tell) -> None:
    """Say what of a prompt a model of few things may not know, or that there is nothing to know."""
    tell_strangers_of([prompt_of(vars(args))], pipeline, has_picture(args), tell)


def has_picture(args: argparse.Namespace) -> bool:
    """Whether the words of a clip give it pictures."""
    return any(given is not None for given in (args.image, args.last_image, args.video)) or bool(args.keyframe)


def tell_strangers_of(
    prompts: Sequence[str | JoVAPrompt], pipeline: JoVAPipeline, has_image: bool, tell: Callable[[str], None] = tell
) -> None:
    """The same of one or several prompts of a clip."""
    text = text_of(prompts)
    if not text.strip():
        tell(EMPTY_PROMPT)
    if strangers := describe_strangers(pipeline.config.get("domain"), text, has_image):
        tell(strangers)
    pipeline.told_strangers |= {*words_of(text), PICTURES, NO_WORDS}  # the call need not say it again


def call_arguments(args: argparse.Namespace, tell: Callable[[str], None] = tell) -> dict[str, Any]:
    """Arguments of the pipeline's call, but for the generator; the files that are given are read.

    Args:
        args: The words of a single clip.
        tell: Told in one line what of the files is left out.
    """
    given = given_media(args, tell)
    check_given_lengths(args, given)
    return {**prompt_arguments(args), **number_arguments(args), **given, "modalities": args.modalities}


def check_given_lengths(args: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """Refuse given media that are too long, and pictures within them, before weights are loaded.

    That is where the configs of the model are here.

    Args:
        args: The words of a single clip.
        given: Arguments of the pipeline's call that hold the media.
    """
    video, sound = given.get("video"), given.get("audio")
    geometry = read_geometry(Path(args.model))
    if geometry is None or (video is None and sound is None):
        return
    samples = None if sound is None else sound.audio
    rate = None if sound is None else sound.sampling_rate
    frame_rate = args.frame_rate or model_defaults(args.model).frame_rate
    num_frames = args.num_frames
    if num_frames is None:
        num_frames = frames_of_given_media(video, samples, rate, frame_rate, geometry.temporal_factor)
    sound_length = () if sound is None else (sound.audio.shape[-1], sound.sampling_rate)
    check_fits(args, num_frames, GivenLengths(None if video is None else len(video), *sound_length))
    num_given_frames = 0 if video is None else whole_frames(min(len(video), num_frames), geometry.temporal_factor)
    check_keyframes(args, num_frames, num_given_frames)


def check_cost(
    pipeline: JoVAPipeline, args: argparse.Namespace, arguments: dict[str, Any], advice: str = CONFIRM
) -> None:
    """Refuse a clip that this machine hardly ends, unless it is confirmed; what none makes is left to the call.

    Args:
        pipeline: Loaded.
        args: The words of a single clip.
        arguments: Of the pipeline's call.
        advice: What whoever asked for the clip can do.
    """
    if args.yes:
        return
    settings, reference_s = call_settings(pipeline.defaults, args, arguments, pipeline.temporal_factor)
    limits = pipeline.clip_limits(args.modalities, settings.frame_rate)
    if limits is None or settings.num_frames <= limits.num_frames:
        available_bytes = machine_memory_bytes(pipeline._execution_device)
        given = {name for name, media in arguments.items() if media is not None}
        whole = given & {*args.modalities} - continued_media(arguments, settings, args.num_frames is None)
        taken = estimate(pipeline, settings, args.modalities, whole, reference_s)
        check_affordable(taken, available_bytes, advice)


def call_settings(
    defaults: GenerationDefaults, args: argparse.Namespace, arguments: Mapping[str, Any], temporal_factor: int
) -> tuple[GenerationDefaults, float]:
    """Settings of a call, and the seconds of its reference voice.

    Args:
        defaults: Of the model.
        args: The words of a single clip.
        arguments: Of the pipeline's call, whose media may say how long the clip is.
        temporal_factor: Frames per latent after the first.
    """
    settings = defaults.override(**number_arguments(args))
    if args.num_frames is None:
        video, sound = arguments.get("video"), arguments.get("audio")
        samples, rate = (None, None) if sound is None else (sound.audio, sound.sampling_rate)
        num_frames = frames_of_given_media(video, samples, rate, settings.frame_rate, temporal_factor)
        settings = settings.override(num_frames=num_frames)
    voice = arguments.get("reference_audio")
    return settings, 0.0 if voice is None else voice.audio.shape[-1] / voice.sampling_rate


def continued_media(arguments: Mapping[str, Any], settings: GenerationDefaults, fills_clip: bool) -> frozenset[str]:
    """Names of given media that end before the clip, which goes on with them.

    Args:
        arguments: Of the pipeline's call.
        settings: Of the call; the clip is as long as they say.
        fills_clip: Whether nothing but the media said how long the clip is: a sound alone is filled up then.
    """
    video, sound = arguments.get("video"), arguments.get("audio")
    names = {"video"} if video is not None and len(video) < settings.num_frames else set()
    if sound is not None and (video is not None or not fills_clip):
        num_samples = settings.num_frames / settings.frame_rate * sound.sampling_rate
        if lacks_frames(num_samples - sound.audio.shape[-1], sound.sampling_rate, settings.frame_rate):
            names.add("audio")
    return frozenset(names)


def long_clip(pipeline: JoVAPipeline, args: argparse.Namespace, seed: int, given: Mapping[str, Any]) -> LongClip:
    """The clip that words ask for to be made window by window.

    Args:
        pipeline: Loaded.
        args: The words, checked.
        seed: Of the noise.
        given: Media that the words name, as `given_media` reads them.
    """
    frame_rate = args.frame_rate or pipeline.defaults.frame_rate
    num_frames = args.num_frames
    if num_frames is None and not has_media(args) and args.script_rows[-1].end_s is not None:
        num_frames, _ = lay_out(args, frame_rate, pipeline.temporal_factor)
    own = {**prompt_arguments(args), **number_arguments(args), **given, "modalities": args.modalities}
    clip = LongClip(
        pipeline=pipeline,
        lines=[ScriptLine(row.start_s, prompt_of(row.texts), row.end_s) for row in args.script_rows],
        num_frames=num_frames,
        seed=seed,
        window_frames=args.window_frames,
        overlap_frames=args.overlap_frames,
        tries=args.tries or 1,
        audio=given.get("audio") if args.audio is not None else None,  # not that of a video that is too short
        video=given.get("video"),
        arguments={name: value for name, value in own.items() if name not in OF_WINDOWS},
    )
    if not args.yes:
        settings = pipeline.defaults.override(**number_arguments(args))
        settings = settings.override(num_frames=max(window.num_frames for window in clip.windows))
        whole = {"audio": clip.sound, "video": clip.given_video}
        taken = estimate(
            pipeline, settings, args.modalities, [name for name, media in whole.items() if media is not None]
        )
        taken = taken._replace(seconds=taken.seconds * len(clip.windows) * clip.tries)
        check_affordable(taken, machine_memory_bytes(pipeline._execution_device), CONFIRM)
    return clip


def prompt_of(texts: Mapping[str, str | None]) -> str | JoVAPrompt:
    """The prompt, whole or in three parts, by the names of its options."""
    if (whole := texts["prompt"]) is not None:
        return whole
    parts = (texts[name] or "" for name in PARTS)
    return JoVAPrompt(*parts)


def prompt_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The prompt, whole or in three parts."""
    return {"prompt": prompt_of(vars(args)), "negative_prompt": args.negative_prompt}


def number_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Numbers of a call; None takes the model's."""
    names = (
        *("height", "width", "num_frames", "frame_rate", "max_sequence_length"),
        *("guidance_scale", "audio_guidance_scale"),
    )
    guidance = guidance_settings(args.guidance)
    GenerationDefaults(**guidance)  # refuses what cannot be before a model is loaded
    return {"num_inference_steps": args.steps, **{name: getattr(args, name) for name in names}, **guidance}


def given_media(args: argparse.Namespace, tell: Callable[[str], None] = tell) -> dict[str, Any]:
    """Image, sound and frames that the files hold, as the pipeline takes them."""
    given: dict[str, Any] = {"fit": args.fit}
    if args.image is not None:
        with errors_name("--image"):
            given["image"] = media.read_image(args.image)
    if args.last_image is not None:
        with errors_name("--last-image"):
            given["last_image"] = media.read_image(args.last_image)
    if args.keyframe:
        with errors_name("--keyframe"):
            given["keyframes"] = read_keyframes(args.keyframe)
    if args.video is not None:
        with errors_name("--video", image="--image", audio="--audio"):
            given |= given_video(args, tell)
    if args.audio is not None:
        with errors_name("--audio"):
            given["audio"] = media.read_audio(args.audio, **part_of_file(args), from_first_frame=True)
    if args.reference_audio is not None:
        with errors_name("--reference-audio"):
            voice = media.read_audio(args.reference_audio, allow_truncated=args.allow_truncated)
        given |= {"reference_audio": voice, "reference_transcript": args.reference_transcript}
    if (voices := speaker_embeds(args)) is not None:
        given["speaker_embeds"] = voices
    return given


def speaker_embeds(args: argparse.Namespace) -> torch.Tensor | None:
    """Voices of the speakers, [1, P, D], from a file of vectors or from recordings; None where none are given.

    Raises:
        ValueError: They cannot be read, or a model that is here reads vectors of another width.
    """
    if args.speaker_embeds is None and not args.speaker_audio:
        return None
    if args.speaker_embeds is not None:
        option, verb, voices = "--speaker-embeds", "hold", read_voices(args.speaker_embeds)
    else:
        option, verb, voices = "--speaker-encoder", "make", encode_speakers(args)
    width = config_of(Path(args.model), "transformer").get("speaker_dim", voices.shape[-1])
    if width != voices.shape[-1]:
        raise ValueError(
            f"`{option}` must {verb} vectors of {width} values for this model, got {voices.shape[-1]}; use the "
            "speaker encoder that the model was trained with"
        )
    return voices


def encode_speakers(args: argparse.Namespace) -> torch.Tensor:
    """Vectors [1, P, D] of the recordings, by the speaker encoder."""
    with errors_name("--speaker-encoder"):
        encoder = read_encoder(args.speaker_encoder, Path(args.speaker_encoder).stat().st_mtime_ns)
    vectors = []
    for path in args.speaker_audio:
        with errors_name("--speaker-audio", voice=f"--speaker-audio {path}"):
            voice = media.read_audio(path, allow_truncated=args.allow_truncated)
            vectors.append(encoder(voice))
    return torch.cat(vectors)[None]


@lru_cache(maxsize=1)
def read_encoder(path: Path, _modified_ns: int) -> SpeakerEncoder:
    """The speaker encoder of a file, read once for all rows of a list as long as the file is the same."""
    return SpeakerEncoder.from_file(path)


def read_keyframes(keyframes: Sequence[Keyframe]) -> dict[int, Any]:
    """Pictures by the frames that words name, each once."""
    pictures: dict[int, Any] = {}
    for frame, path in keyframes:
        if frame in pictures:
            raise ValueError(f"`--keyframe` must be at a frame of its own, got {frame} twice; leave one out")
        pictures[frame] = media.read_image(path)
    return pictures


def given_video(args: argparse.Namespace, tell: Callable[[str], None] = tell) -> dict[str, Any]:
    """Frames at the clip's frame rate; where the clip is longer than they are, their sound goes on as well."""
    frame_rate = args.frame_rate or model_defaults(args.model).frame_rate
    part = part_of_file(args)
    clip = media.read_video(args.video, frame_rate=frame_rate, max_num_frames=args.num_frames, **part)
    if clip.audio is None or args.audio is not None or "audio" not in args.modalities:
        return {"video": clip.frames, "frame_rate": frame_rate}
    if args.num_frames is not None and args.num_frames > len(clip.frames):
        return {"video": clip.frames, "frame_rate": frame_rate, "audio": clip}
    to_stay = ": that of the clip is made" if is_long(args) else "; give the file as `--audio` as well for it to stay"
    tell(f"the sound of `--video` is left out{to_stay}")
    return {"video": clip.frames, "frame_rate": frame_rate}


def part_of_file(args: argparse.Namespace) -> dict[str, Any]:
    """Which part and track of a file is meant, as `media.read_audio` and `media.read_video` take it."""
    return {
        "start_s": args.start or 0.0,
        "duration_s": args.duration,
        "audio_track": args.audio_track,
        "allow_truncated": args.allow_truncated,
    }


def load_pipeline(
    args: argparse.Namespace,
    device: torch.device,
    arguments: Mapping[str, Any] | None = None,
    is_window: bool = False,
) -> JoVAPipeline:
    """Load the model with its adapters, ready to run.

    Args:
        args: The words of a single clip.
        device: Where it is to run.
        arguments: Of the pipeline's call, which say how large it is; None for the model's own clip.
        is_window: Whether the clip is a window of a longer one.

    Raises:
        ValueError: What it says cannot be loaded or does not fit; of a model that is here, before it is loaded.
    """
    if args.cpu_offload and device.type == "cpu":
        raise ValueError("`--cpu-offload` must be used with a GPU, got the device cpu; leave it out")
    dtype = getattr(torch, args.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    plan = None if args.memory is None else plan_memory(args, device, dtype, arguments or {}, is_window)
    with errors_name("--model", model="--model"):
        pipeline: JoVAPipeline = JoVAPipeline.from_pretrained(args.model, dtype=dtype)
    pipeline.set_progress_bar_config(disable=None)  # in a file, as tqdm has it
    for name, adapter in zip(adapter_names(args.lora), args.lora, strict=True):
        load_adapter(pipeline, name, adapter.source, args.skip_unknown)
    weigh_adapters(pipeline, args.lora)
    for source, times in Counter(adapter.source for adapter in args.lora).items():
        if times > 1:
            tell(f"`--lora` names {source} {times} times: its scales add up")
    if args.lora and pipeline.few_steps is not None:
        pipeline.use_few_steps()
        tell(f"an adapter is a student of few steps: {pipeline.few_steps}, unless other steps or guidance are given")
    if args.cache is not None:
        enable_cache(pipeline, args.cache)
    if plan is not None:
        tell(f"memory: {plan}")
        pipeline.take_plan(plan, device)
        return pipeline
    if args.cpu_offload:
        pipeline.enable_model_cpu_offload(device=device)
        return pipeline
    if device.type == "cpu" and dtype == torch.float16:  # which diffusers says once of every component
        tell("`--dtype float16` is a format of GPUs, got the device cpu: leave it out there, or take bfloat16")
    return pipeline.to(device, silence_dtype_warnings=True)


def plan_memory(
    args: argparse.Namespace,
    device: torch.device,
    dtype: torch.dtype,
    arguments: Mapping[str, Any],
    is_window: bool = False,
) -> MemoryPlan:
    """How the clip fits into `--memory`, found out from configs and the sizes of adapters.

    Args:
        args: As in `load_pipeline`.
        device: Where it is to run.
        dtype: Of transformer and text encoders.
        arguments: Of the pipeline's call.
        is_window: Whether the clip is a window of a longer one.

    Raises:
        ValueError: If nothing fits.
    """
    with errors_name("--model", model="--model"):
        saved = SavedPipeline(config_folder(args.model))
    call = planned_call(saved, args, device, arguments, is_window)
    tell_unseen(args.lora)
    adapters = bytes_of(args.lora)
    return fitting_plan(lambda call: saved_estimate(saved, call, dtype, adapters), call, args.memory, "--memory")


def planned_call(
    saved: SavedPipeline,
    args: argparse.Namespace,
    device: torch.device,
    arguments: Mapping[str, Any],
    is_window: bool = False,
) -> PlannedCall:
    """What the call of a clip is about.

    Args:
        saved: The model.
        args: As in `load_pipeline`.
        device: Where it is to run.
        arguments: Of the pipeline's call.
        is_window: Whether the clip is a window of a longer one: it goes on with the end of the one before, and with
            the voice of the first, where the model reads one and is given none.

    Raises:
        ValueError: If what is given leaves nothing to generate.
    """
    words = argparse.Namespace(**{**vars(default_arguments()), **vars(args)})  # a page has no single clip yet
    geometry = read_geometry(saved.folder)
    factor = 1 if geometry is None else geometry.temporal_factor
    settings, reference_s = call_settings(defaults_of(saved, words.lora), words, arguments, factor)
    given = frozenset(GIVEN) & {name for name, value in arguments.items() if value is not None}
    continued = continued_media(arguments, settings, words.num_frames is None)
    if is_window:
        continued = frozenset(words.modalities)
        given |= continued
        if not reference_s and "audio" in continued and (longest_s := saved.index.get("max_reference_s")) is not None:
            given |= {"reference_audio"}
            reference_s = min(longest_s, settings.num_frames / settings.frame_rate)
    return PlannedCall(
        settings=settings,
        modalities=tuple(words.modalities),
        given=given,
        continued=continued,
        reference_s=reference_s,
        num_clips=getattr(words, "batch_size", 1),
        cache=None if args.cache is None else cache_config(args.cache),
        device=device,
    )


def defaults_of(saved: SavedPipeline, adapters: Sequence[Adapter]) -> GenerationDefaults:
    """What a call takes where the caller is silent: what the model says, or a student among adapters."""
    student = student_of(adapters)
    return saved.defaults if student is None else replace(saved.defaults, **student.defaults)


def tell_unseen(adapters: Sequence[Adapter]) -> None:
    """Say of which adapters a plan knows neither the size nor whether they are students: those that are not here."""
    for adapter in adapters:
        if not Path(adapter.source).exists():
            tell(
                f"what {adapter.source} of the hub takes is not counted, and it is no student of few steps for this; "
                f"fetch it by `hf download {adapter.source} --local-dir FOLDER`"
            )


def student_of(adapters: Sequence[Adapter]) -> FewSteps | None:
    """How the student among adapters is asked, by the headers of files that are here; None without one."""
    files = (find_adapter(Path(adapter.source)) for adapter in adapters if adapter.scale)
    records = (FewSteps.from_header(read_metadata(file)) for file in files if file is not None)
    return next((record for record in records if record is not None), None)


def bytes_of(adapters: Sequence[Adapter]) -> int:
    """Size of the adapters that are here."""
    return sum(file_bytes(Path(adapter.source)) for adapter in adapters)


def file_bytes(path: Path) -> int:
    """Size of an adapter's file, or of the weights in its folder; 0 for one on the hub."""
    files = path.glob("*.safetensors") if path.is_dir() else [path] if path.is_file() else []
    return sum(file.stat().st_size for file in files)


def enable_cache(pipeline: JoVAPipeline, words: str) -> None:
    """Enable the cache between steps that `--cache` describes."""
    config = cache_config(words)
    with errors_name("--cache"):
        pipeline.transformer.enable_cache(config)


def cache_config(words: str) -> JoVACacheConfig:
    """The cache that `--cache` describes."""
    settings = cache_settings(words)
    if "storage_dtype" in settings:
        settings["storage_dtype"] = getattr(torch, settings["storage_dtype"])
    with errors_name("--cache"):
        return JoVACacheConfig(**settings)


def adapter_names(adapters: Sequence[Adapter]) -> list[str]:
    """The names under which adapters are loaded."""
    return [f"lora_{index}" for index in range(len(adapters))]


def weigh_adapters(pipeline: JoVAPipeline, adapters: Sequence[Adapter]) -> None:
    """Give all loaded adapters, in their order, their scales."""
    if adapters:
        pipeline.set_adapters(adapter_names(adapters), [adapter.scale for adapter in adapters])


def load_adapter(pipeline: JoVAPipeline, name: str, source: str, skip_unknown: bool) -> None:
    """Load one adapter, and insist that the model has places for it, or say how much is left out."""
    try:
        pipeline.load_lora_weights(source, adapter_name=name, skip_unknown=skip_unknown)
    except HubAccessError as error:
        raise ValueError(as_options(one_line(error), adapter="--lora")) from error
    except Exception as error:  # of the file, or of the Hub and the network that it is looked for on
        reason = as_options(one_line(error), skip_unknown="--skip-unknown")
        raise ValueError(
            f"`--lora` must be an adapter of this model, got {source} ({reason}); name its file or folder"
        ) from error


def read_credentials(args: argparse.Namespace) -> Credentials | None:
    """Who signs the clip, if anybody does."""
    if args.sign_certificate is None:
        return None
    with errors_name("--sign-certificate", certificate="--sign-certificate", key="--sign-key"):
        return Credentials(args.sign_certificate, args.sign_key)


@contextmanager
def errors_name(option: str, **others: str) -> Iterator[None]:
    """Let errors about a file name the options that gave it and its part; `others` are those of other arguments."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(as_options(one_line(error), path=option, **others)) from error
