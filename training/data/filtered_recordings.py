"""The clips of recordings that a filter keeps; what was measured of the others is remembered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from diffusers_jova.training.data.clip import Clip, Recording, SkippedClipError
from diffusers_jova.training.data.clip_filter import (
    ClipFilter,
    DroppedClip,
    MeasuredClip,
    MeasuredClips,
    MeasuredRecording,
)
from diffusers_jova.training.data.clips import broken_files, skipped_seconds
from diffusers_jova.training.data.manifest import Sample


DROPPED = "dropped by `--filter`"  # seconds of a file


class FilteredRecordings:
    """Goes through the clips of recordings, and drops those that break a rule.

    Args:
        clip_filter: The rules; None keeps all.
        measures: What was measured before, and takes what is measured now.
        digest: Changes with a sample, and with what decides which clips it is cut into.
        frame_rate: Of the clips, frames per second.
    """

    def __init__(
        self,
        clip_filter: ClipFilter | None,
        measures: MeasuredClips,
        digest: Callable[[Sample], str],
        frame_rate: float,
    ) -> None:
        self._filter, self._measures, self._digest, self._frame_rate = clip_filter, measures, digest, frame_rate

    def known(self, sample: Sample) -> MeasuredRecording | None:
        """What was measured of the clips of a sample; None if it was not, or there is no filter."""
        return None if self._filter is None else self._measures.find(self._digest(sample), self._filter.meter)

    def dropped(self, sample: Sample) -> list[DroppedClip] | None:
        """The clips of a sample that are dropped; None if they are not known yet."""
        if self._filter is None:
            return []
        if (known := self.known(sample)) is None:
            return None
        judged = ((clip, self._filter.breaches(sample, clip)) for clip in known.clips)
        return [DroppedClip(clip.start_s, clip.duration_s, breaches) for clip, breaches in judged if breaches]

    def refuse_known(self, sample: Sample) -> None:
        """Refuse a sample all of whose clips are known to be dropped, without reading it.

        Raises:
            SkippedClipError: If it is one.
        """
        known, dropped = self.known(sample), self.dropped(sample)
        if known is not None and dropped and len(known.clips) == len(dropped):
            with skipped_seconds(known.length_s):
                raise SkippedClipError(self._why_none(sample))

    def _why_none(self, sample: Sample) -> str:
        """Say why nothing of a sample is left."""
        dropped = self.dropped(sample) or ()
        names = Counter(breach.measure for clip in dropped for breach in clip.breaches)
        counted = ", ".join(f"{name} ({count})" for name, count in names.most_common())
        return f"`--filter` keeps none of its {len(dropped)} clips: {counted}"

    def kept(self, sample: Sample, recording: Recording) -> Iterator[Clip]:
        """The clips of a recording that are kept; the seconds of the others are added to those not used.

        Raises:
            SkippedClipError: At the end, if none was kept.
        """
        assert self._filter is not None
        is_any = False
        for clip, measured in self.measured(sample, recording):
            if self._filter.breaches(sample, measured):
                recording.unused_s[DROPPED] += measured.duration_s
            else:
                is_any = True
                yield clip
        if not is_any:
            raise SkippedClipError(self._why_none(sample))

    def measured(self, sample: Sample, recording: Recording) -> Iterator[tuple[Clip, MeasuredClip]]:
        """The clips of a recording with their measures, which are remembered once all were gone through."""
        assert self._filter is not None
        known = self.known(sample)
        found: list[MeasuredClip] = []
        lasting = set(self._filter.meter.groups)
        for index, clip in enumerate(recording.clips):
            if known is None:
                with broken_files():
                    measured, is_final = self._filter.measure(sample, clip, self._frame_rate)
                found.append(measured)
                lasting -= {group for group, is_so in is_final.items() if not is_so}
            yield clip, found[index] if known is None else known.clips[index]
        if known is None:
            measured_all = MeasuredRecording(recording.length_s, found)
            self._measures.add(self._digest(sample), self._filter.meter, sample.source, measured_all, lasting)
