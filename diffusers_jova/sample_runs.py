"""Samples of a batch that attend alike: which modalities read each other, and which rows they have.

The rows lie packed as [video; video_text; audio; audio_text]; a branch is a medium and its text.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

from .row_spans import Spans, joined_spans


Coupling = bool | Literal["a2v", "v2a"]
OTHER = {"video": "audio", "audio": "video"}
DIRECTIONS = {"video": "a2v", "audio": "v2a"}  # by the modality that reads


def reads_other(modality: str, coupled: Coupling) -> bool:
    """Whether the rows of a modality read those of the other one."""
    return coupled in (True, DIRECTIONS[modality])


class StreamLengths(NamedTuple):
    """Rows of each stream in the packed sequence on this device; 0 where the modality is absent."""

    video: int
    video_text: int
    audio: int
    audio_text: int

    @property
    def branches(self) -> tuple[int, int]:
        """Rows of the video branch and of the audio branch."""
        return self.video + self.video_text, self.audio + self.audio_text

    def rows_of(self, streams: Sequence[str]) -> dict[str, int]:
        """Rows of four streams, or of two whose text is part of the medium's stream; absent streams are left out."""
        per_stream = self._asdict() if len(streams) == len(self) else dict(zip(streams, self.branches, strict=True))
        return {name: rows for name, rows in per_stream.items() if rows}


class BranchSpans(NamedTuple):
    """Rows of both branches that exist in a sample; None for all of a branch."""

    video: Spans | None = None
    audio: Spans | None = None

    def joined(self, lengths: StreamLengths) -> Spans | None:
        """Packed rows that exist."""
        return joined_spans(list(zip(self, lengths.branches, strict=True)))


WHOLE = BranchSpans()


class SampleRun(NamedTuple):
    """Consecutive samples of a batch that share one coupling and the same rows.

    Args:
        coupled: Which modalities read each other.
        num_samples: How many they are.
        spans: Rows that exist.
    """

    coupled: Coupling
    num_samples: int
    spans: BranchSpans = WHOLE

    @property
    def audio_reads_video(self) -> bool:
        """Whether audio rows read video rows."""
        return reads_other("audio", self.coupled)

    @property
    def is_plain(self) -> bool:
        """Whether all rows read all rows."""
        return self.coupled is True and self.spans == WHOLE


def sample_runs(
    coupled: Coupling | Sequence[Coupling], batch_size: int, spans: Sequence[BranchSpans] | None = None
) -> tuple[SampleRun, ...]:
    """Check `coupled`, one value for the batch or one per sample, and group equal neighbours.

    Args:
        coupled: True: both directions; False: none; `"a2v"`: video reads audio; `"v2a"`: audio reads video.
        batch_size: Samples in the batch.
        spans: Rows of each sample that exist; None where all do.
    """
    if isinstance(coupled, Sequence) and not isinstance(coupled, str):
        per_sample = list(coupled)
    else:
        per_sample = [coupled] * batch_size
    if len(per_sample) != batch_size:
        raise ValueError(
            f"`coupled` must be one value or one per sample, got {len(per_sample)} values for a batch of {batch_size}"
        )
    allowed = (True, False, *get_args(get_args(Coupling)[1]))
    for value in per_sample:
        if not isinstance(value, bool | str) or value not in allowed:
            raise ValueError(f"`coupled` must be True, False, 'a2v' or 'v2a', got {value!r}; True is both directions")
    return grouped(zip(per_sample, spans or [WHOLE] * batch_size, strict=True))


def grouped(samples: Iterable[tuple[Coupling, BranchSpans]]) -> tuple[SampleRun, ...]:
    """Runs of samples, each given by its coupling and its rows; a loop that a compiler follows."""
    runs: list[SampleRun] = []
    for coupled, spans in samples:
        if runs and runs[-1].coupled == coupled and runs[-1].spans == spans:
            runs[-1] = SampleRun(coupled, runs[-1].num_samples + 1, spans)
        else:
            runs.append(SampleRun(coupled, 1, spans))
    return tuple(runs)


def with_coupling(runs: Sequence[SampleRun], coupled: Coupling) -> tuple[SampleRun, ...]:
    """The runs of the same samples where all have one coupling."""
    return grouped((coupled, run.spans) for run in runs for _ in range(run.num_samples))


def readers_of_video(runs: Sequence[SampleRun]) -> tuple[list[int], list[int]]:
    """Samples whose audio rows read video rows, and those whose do not."""
    reads = [run.audio_reads_video for run in runs for _ in range(run.num_samples)]
    return [index for index, is_so in enumerate(reads) if is_so], [i for i, is_so in enumerate(reads) if not is_so]
