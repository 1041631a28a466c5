"""What papers and benchmarks report, as tables: which measure of ours stands for each, and what stands for none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from diffusers_jova.evaluation.measures import CORRECTED_WAY, FIELD_WAY, MEASURES, VERSIONS, WAYS, Measure
from diffusers_jova.evaluation.set_distance import SET_MEASURES, SetDistance, SetMeasure
from diffusers_jova.evaluation.set_score import SCORES, ScoreMeasure, SetScore
from diffusers_jova.evaluation.summary import summarize
from jova_cli.evaluate import NETWORKS, option_of


Sets = Callable[[str], Sequence[SetDistance | SetScore]]
NUMBERS_OF_SETS: tuple[SetMeasure | ScoreMeasure, ...] = (*SET_MEASURES, *SCORES)
GROUP_OF_VECTORS = {  # with which they are taken
    "clap": "clap",
    "clap_verse_bench": "clap",
    "dino": "identity",
    "inception": "fid",
    "videomae": "fvd",
    "classes": "classes",
}
SPOKEN, SOUNDING = "spoken", "sounding"  # clips with words to say, and with a caption of the sound


class Entry(NamedTuple):
    """A number that is published.

    Attributes:
        name: As published.
        measures: Ours, of which `WAYS` says whether they are as the field does or corrected.
        clips: Which clips count: `SPOKEN`, `SOUNDING`, or all where empty.
        deviates: What differs from the published code all the same.
        sets: Our distances of two sets, or numbers of one, in place of measures of a clip.
    """

    name: str
    measures: tuple[str, ...]
    clips: str = ""
    deviates: str = ""
    sets: tuple[str, ...] = ()


class Protocol(NamedTuple):
    """What is reported together.

    Attributes:
        source: Who says so, and where.
        entries: Numbers.
        not_measured: Published numbers that nothing here stands for, with the reason.
    """

    source: str
    entries: tuple[Entry, ...]
    not_measured: Mapping[str, str]


BOXES = "faces are estimated around mouths, not found by S3FD or insightface"
WHISPER = "Whisper of `--whisper`; whose text it is decides the number"
AUDIOBOX = tuple(Entry(axis, (f"audiobox_{axis.lower()}",)) for axis in ("CE", "CU", "PC", "PQ"))
TWO_SETS = "there of set1 and set2 alone"
AESTHETICS = "aesthetic-predictor-v2-5 is AGPL-3, MUSIQ and MANIQA of pyiqa are for non-commercial use"
SYNCHFORMER = "there the offset with its sign, of 11 segments in the first 4 s; resized by Pillow"
IMAGEBIND = "ImageBind's weights are for non-commercial use"
RAFT = "up to 256 pairs of frames, not all"
LAION = "weights of `--clap`; the published ones are 630k-audioset-fusion"

# fmt: off
PROTOCOLS = {
    "jova": Protocol(
        "JoVA (arXiv:2512.13677v1), Sec. 4.1",
        (
            Entry("LSE-C", ("lse_c", "lse_c_verse_bench", "lse_c_corrected"), SPOKEN,
                  f"the paper says SyncNet and no more; {BOXES}"),
            Entry("WER", ("word_error_rate_verse_bench", "word_error_rate_seed_tts", "word_error_rate"), SPOKEN,
                  "the paper says Whisper-large-v3, and no normaliser"),
            Entry("FD", (), SOUNDING, "the paper says PANNs and PaSST, here CLAP; its values fit that of pairs",
                  ("fd_clap", "fd_clap_corrected", "fd_clap_verse_bench")),
            Entry("KL", (), SOUNDING, "the paper says PaSST, here AST, and not which way round",
                  ("kl_verse_bench", "kl_av_benchmark")),
            Entry("CS", ("clap_score_verse_bench", "clap_score"), SOUNDING, f"the paper names no weights; {LAION}"),
            Entry("IS", (), SOUNDING, "the paper names it, and reports none; here AST", ("is_classes",)),
            Entry("ID", ("identity_verse_bench", "identity_picture", "identity_face"), "",
                  "the paper says DINOv3, and no token"),
            Entry("MS", ("motion_score_verse_bench", "motion_score"), "",
                  f"the paper says RAFT, and no unit; {RAFT}"),
            *AUDIOBOX,
        ),
        {"AS": AESTHETICS},
    ),
    "verse-bench": Protocol(
        "Dorniwang/Verse-Bench @ 5645a09, calculate_metrics.py",
        (
            Entry("ID", ("identity_verse_bench", "identity_picture", "identity_face"), "", "32 frames, not all"),
            Entry("MS", ("motion_score_verse_bench", "motion_score"), "",
                  f"the code has it, and does not call it; {RAFT}"),
            Entry("FD", (), SOUNDING, f"{LAION}; there of set2 alone", ("fd_clap_verse_bench", "fd_clap_corrected")),
            Entry("KL", (), SOUNDING, "there PaSST, here AST of `--classifier`; there of set2 alone",
                  ("kl_verse_bench",)),
            Entry("CS", ("clap_score_verse_bench", "clap_score"), SOUNDING, f"{LAION}; {TWO_SETS}"),
            Entry("WER", ("word_error_rate_verse_bench", "word_error_rate"), SPOKEN,
                  f"there SenseVoiceSmall, here {WHISPER}"),
            Entry("LSE-C", ("lse_c_verse_bench", "lse_c_corrected"), SPOKEN, BOXES),
            Entry("AV-A", ("desync_s",), SOUNDING, f"{SYNCHFORMER}; {TWO_SETS}"),
            *(entry._replace(deviates=TWO_SETS) for entry in AUDIOBOX),
        ),
        {"AS": AESTHETICS},
    ),
    "mova": Protocol(
        "MOVA (arXiv:2602.08794v2), Tables 4 to 6",
        (
            Entry("LSE-D", ("lse_d", "lse_d_corrected"), "", BOXES),
            Entry("LSE-C", ("lse_c", "lse_c_corrected"), "", BOXES),
            Entry("DeSync", ("desync_s",)),
            Entry("DNSMOS", ("dnsmos_overall",), "", "which of DNSMOS's numbers the paper does not say"),
            Entry("IS", (), "", "there PANNs of the first 10 s, as loud as they are, and the mean of the scores of "
                  "set1, set2 and set3; here AST of `--classifier`, and all clips at once", ("is_classes",)),
        ),
        {"IB-Score": IMAGEBIND, "cpCER": "it asks a service to tell speakers apart"},
    ),
}
# fmt: on


def groups_of(protocol: Protocol) -> list[str]:
    """The groups of measures that a protocol needs, in the order of the table."""
    measures = {name for entry in protocol.entries for name in entry.measures}
    sets = {name for entry in protocol.entries for name in entry.sets}
    wanted = {measure.group for measure in MEASURES if measure.name in measures}
    wanted |= {GROUP_OF_VECTORS[measure.vectors] for measure in NUMBERS_OF_SETS if measure.name in sets}
    order = dict.fromkeys([*(measure.group for measure in MEASURES), *VERSIONS])  # some have numbers of sets alone
    return [group for group in order if group in wanted]


class Line(NamedTuple):
    """A line of a protocol's table.

    Attributes:
        name: As published.
        way: "as the field does", "corrected", or empty where there is one way alone.
        measure: Ours; None where nothing stands for it.
        clips: Which clips count.
        mean: Over them; None where none can be judged.
        standard_error: Of the mean; None for less than two.
        num_clips: That can be judged.
        note: What differs from the published code, or why it is not measured.
    """

    name: str
    way: str
    measure: str | None
    clips: str
    mean: float | None
    standard_error: float | None
    num_clips: int
    note: str


def lines_of(protocol: Protocol, rows: Sequence[Any], sets: Sets = lambda _clips: []) -> list[Line]:
    """The numbers of clips by a protocol: as the field does first, and what is not measured last.

    Args:
        protocol: One of `PROTOCOLS`.
        rows: Of the report.
        sets: The distances to the other side, and the numbers of ours as a set, of a kind of clips.
    """
    lines = [
        line
        for entry in protocol.entries
        for line in (*_lines_of(entry, rows), *_lines_of_sets(entry, sets(entry.clips) if entry.sets else []))
    ]
    return lines + [
        Line(name, "", None, "", None, None, 0, f"not measured: {why}") for name, why in protocol.not_measured.items()
    ]


def _lines_of(entry: Entry, rows: Sequence[Any]) -> Iterator[Line]:
    table: dict[str, Measure] = {measure.name: measure for measure in MEASURES}
    counted = [row.values for row in rows if not entry.clips or entry.clips in row.kinds]
    for name in sorted(entry.measures, key=lambda name: WAYS.get(name) == CORRECTED_WAY):
        found = summarize([{name: values.get(name)} for values in counted]).get(name)
        note = entry.deviates if WAYS.get(name) == FIELD_WAY or name not in WAYS else ""
        if found is None:
            group, was_taken = table[name].group, any(name in values for values in counted)
            option = f" without `{option_of(NETWORKS[group])}`" if group in NETWORKS and not was_taken else ""
            needed = f"not measured: group {group} has no number of {entry.clips or 'these'} clips{option}"
            yield Line(entry.name, WAYS.get(name, ""), name, entry.clips, None, None, 0, needed)
        else:
            error = found["standard_error"] if found["count"] > 1 else None
            count = int(found["count"])
            yield Line(entry.name, WAYS.get(name, ""), name, entry.clips, found["mean"], error, count, note)


def _lines_of_sets(entry: Entry, found: Sequence[SetDistance | SetScore]) -> Iterator[Line]:
    known = {distance.name: distance for distance in found}
    for measure in (measure for measure in NUMBERS_OF_SETS if measure.name in entry.sets):
        distance = known.get(measure.name)
        about = (entry.name, measure.way, measure.name)
        if distance is None:
            yield Line(*about, entry.clips, None, None, 0, f"not measured: it needs {_needs(measure, entry.clips)}")
        else:
            note = "; ".join(filter(None, (entry.deviates if measure.way == FIELD_WAY else "", distance.warning)))
            yield Line(*about, entry.clips, distance.value, None, distance.num_clips, note)


def _needs(measure: SetMeasure | ScoreMeasure, clips: str) -> str:
    """What there must be to take a number of sets of a kind of clips."""
    option = f"`{option_of(NETWORKS[GROUP_OF_VECTORS[measure.vectors]])}`"
    if isinstance(measure, ScoreMeasure):
        return f"{option}, and two {clips} clips or more" if clips else f"{option}, and two clips or more"
    counted = f"{clips or 'two'} clips on both sides, {'a pair' if measure.pairs else 'two'} or more"
    return f"`--against` with the reference clips, {option}, and {counted}"


def table_of(lines: Iterable[Line]) -> list[list[str]]:
    """Cells of a table, with its heading."""
    cells = [["published as", "way", "mean +- s.e.", "clips", "by", "what differs"]]
    for line in lines:
        error = "" if line.standard_error is None else f" +- {line.standard_error:.2g}"
        mean = "-" if line.mean is None else f"{line.mean:.3g}{error}"
        count = f"{line.num_clips}{f' {line.clips}' if line.clips else ''}"
        cells.append([line.name, line.way or "-", mean, count, line.measure or "-", line.note])
    return cells
