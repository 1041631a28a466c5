"""Prepare a data set: encode video, sound and text of every clip once, into one safetensors record each.

A rerun skips what is done. A broken or unsuitable clip is named and left out. Captions and lists that cannot be read,
and files that they name and that are not there, end the run before anything is done, all of them named. A record is
complete or not there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from diffusers_jova.devices import choose_device
from diffusers_jova.evaluation.measures import PARTLY
from diffusers_jova.evaluation.prepared_clips import MOUTHS, PreparedClipMeter
from diffusers_jova.media import exact_frame_rate
from diffusers_jova.prompt import PROMPT_TEMPLATE
from diffusers_jova.saved_pipeline import model_defaults
from diffusers_jova.training.data.clip import ClipSettings
from diffusers_jova.training.data.clip_filter import ClipFilter
from diffusers_jova.training.data.encoder import fingerprint_model, video_factors
from diffusers_jova.training.data.filter_report import REPORT, Surveyor, survey
from diffusers_jova.training.data.manifest import Sample, read_samples
from diffusers_jova.training.data.preparation import Preparer, PrepareSettings, prepare
from diffusers_jova.training.data.summary import (
    describe,
    describe_found,
    describe_unread,
    describe_whole_captions,
    find_strangers,
)
from jova_cli.clip_filters import GROUPS, left_out, measures, read_filter, without_network
from jova_cli.clip_limits import Bucket
from jova_cli.evaluate import NETWORKS
from jova_cli.model_clips import sound_channels
from jova_cli.model_info import read_index
from jova_cli.parser import Parser, one_line
from jova_cli.prepare import given_networks, parse
from jova_cli.tables import some


def check_detector(samples: Sequence[Sample], settings: PrepareSettings) -> None:
    """Fail before the work starts if a clip needs a detector and there is none."""
    lacking = [sample.source.name for sample in samples if sample.video is not None and sample.mouth_boxes is None]
    if not lacking:
        return
    try:
        settings.make_detector()
    except ImportError as error:
        raise ImportError(f"{error}; {len(lacking)} of {len(samples)} have no boxes: {some(lacking)}") from error


def clip_settings(args: argparse.Namespace) -> ClipSettings:
    """Build the settings that the words ask for; what is not given comes from the model.

    Raises:
        ValueError: If a bucket does not fit the model, or the frame rate is no rate.
    """
    _, temporal_factor, size_multiple = video_factors(args.model)
    defaults = model_defaults(args.model)
    frame_rate = defaults.frame_rate if args.frame_rate is None else args.frame_rate
    exact_frame_rate(frame_rate)
    own = Bucket(defaults.num_frames, defaults.height, defaults.width)
    buckets = tuple(Bucket.parse(text) for text in args.buckets) if args.buckets else (own,)
    for bucket in buckets:
        bucket.check(temporal_factor, size_multiple)
    return ClipSettings(
        buckets=buckets,
        frame_rate=frame_rate,
        cut=args.cut,
        fit=args.fit,
        follow_face=not args.centre_crop,
        audio_track=args.audio_track,
        allow_truncated=args.allow_truncated,
        upscale=args.upscale,
        num_channels=sound_channels(args.model),
        loudness_lufs=args.loudness_lufs,
        require_mouth=args.require_mouth,
        require_sound=args.require_sound,
        require_words=args.require_words,
        min_sync=args.min_sync,
    )


def make_filter(args: argparse.Namespace) -> ClipFilter | None:
    """The filter that the words ask for, with all measures where they are to be reported; None without one.

    Raises:
        ValueError: If a rule needs what is not installed, or no recogniser of words, or another network, is where one
            should be.
    """
    given = given_networks(args)
    rules = read_filter(args.filter or (), given)
    if not rules and not args.filter_report:
        return None
    for sentence in (*left_out(args.filter or ()), *without_network(args.filter or (), given)):
        print(sentence)
    needed = {measures()[rule.measure].group for rule in rules}
    known = [group for group in GROUPS if NETWORKS.get(group) in (None, *given)]
    wanted = [group for group in known if args.filter_report or group in needed]
    groups = tuple(group for group in wanted if group not in MOUTHS or not args.no_mouth)
    networks = {option: path for group, option in NETWORKS.items() if group in groups and (path := given.get(option))}
    meter = PreparedClipMeter(groups, args.whisper, networks=networks)
    missing = meter.missing()
    for rule in rules:
        group = measures()[rule.measure].group
        if group in missing and (group != "sound" or rule.measure == "loudness_lufs"):
            raise ValueError(f"`--filter {rule}` needs what is not installed: {missing[group]}")
    for group, reason in missing.items():
        if args.filter_report:
            print(f"left out: {PARTLY.get(group, group)}: {reason}; see `jova evaluate --help`")
    groups = tuple(group for group in meter.groups if group not in missing or group in PARTLY)
    return ClipFilter(tuple(rules), replace(meter, groups=groups), drops_unjudged=args.unjudged == "drop")


def report_filter(samples: Sequence[Sample], surveyor: Surveyor, args: argparse.Namespace) -> None:
    """Measure clips, say how the measures are spread and what the filter would drop, and write it down."""
    report = survey(samples, surveyor, args.num_processes, args.ray)
    report.write(args.output)
    print(report.describe())
    print(f"{args.output / REPORT} has all numbers; nothing was encoded")


def default_device() -> str:
    """Where the encoders run if nobody says so; they were not tried on other devices than these."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare a data set."""
    parser, args = parse(argv)
    parser.run(execute, args)


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Prepare the data set that the words name, and say what became of it."""
    try:
        settings = PrepareSettings(
            clips=clip_settings(args),
            dtype=args.dtype,
            mouths=not args.no_mouth,
            face_landmarker=args.face_landmarker_path,
            whisper=args.whisper,
            keyframes=args.keyframes,
        )
        clip_filter = make_filter(args)
        samples = read_samples(args.source, captions_required=args.whisper is None)
        check_detector(samples, settings)
        device = str(choose_device(args.device or default_device()))
        how = (args.model, args.output, settings, fingerprint_model(args.model), device, clip_filter)
        if args.filter_report:
            print(describe_found(args.source, samples), end="")
            report_filter(samples, Surveyor(*how), args)
            return
        preparer = Preparer(*how)
        outcomes = prepare(samples, preparer, args.num_processes, args.ray)
    except torch.OutOfMemoryError as error:
        parser.error(
            f"a clip must fit into the GPU's memory, got {one_line(error)!r}; use smaller `--buckets` or fewer "
            "`--num-processes` per GPU, what is done stays done"
        )
    except (ValueError, OSError, ImportError) as error:
        parser.error(one_line(error))
    index = read_index(args.model)
    reads_transcripts = index.get("spoken_text_encoder", [None])[0] is not None
    heard = describe_found(args.source, samples)
    heard += describe_unread(samples, index.get("prompt_template", PROMPT_TEMPLATE), reads_transcripts)
    heard += "" if args.whisper is None else describe_whole_captions(samples)
    given = {str(sample.source) for sample in samples if sample.mouth_boxes is not None}
    print(heard + describe(outcomes, find_strangers(samples, args.output), None if settings.mouths else given))
    if not any(outcome.num_records for outcome in outcomes):
        parser.exit(1, f"no clip of `{args.source}` was kept\n")


if __name__ == "__main__":
    main()
