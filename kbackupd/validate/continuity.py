"""Is every offset of every partition stored, or is there a reason why not? Invariant I6, judged from footers alone.

A hole is damage, unless it ends where a segment begins its say that was sealed while an earlier one was still in flight
in a life that was killed: then the next life captures it again, and until it has, the hole is unfinished work.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kbackupd.archive.archive import archived_topics
from kbackupd.archive.history import PartitionEvidence, PartitionHistory, SegmentPlace, build_history
from kbackupd.archive.segments import CatalogSegment
from kbackupd.archive.sequences import EpochJudgement, WriterEpoch
from kbackupd.model.events import GAP_MEANING, Gap, GapCause, Truncated
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.segment import Checkpoint, RunFlag
from kbackupd.validate.report import Code, Finding, Severity

GAP_ACTION: Mapping[GapCause, str] = {
    GapCause.LOG_START_MOVED: "if that was not meant to be: longer retention, or a backup that is paused less",
    GapCause.CORRUPT_AT_SOURCE: "repair the broker's disk; the bytes it served are kept in a flagged run",
}
LOST_RECORDS = "put the missing or damaged segment back from a copy of the archive; these records cannot be restored"


@dataclass(frozen=True, slots=True)
class _Start:
    """Something that a segment says begins at an offset."""

    place: SegmentPlace
    branch: int
    first_offset: int


class Continuity:
    """The partitions of an archive and where each segment's say about them begins."""

    def __init__(
        self,
        segments: Iterable[CatalogSegment],
        evidence: Mapping[PartitionId, PartitionEvidence],
        judgements: Iterable[EpochJudgement],
        newest: Iterable[Checkpoint],
    ) -> None:
        kept = tuple(segments)
        self._evidence = evidence
        self._unfinished: dict[WriterEpoch, tuple[int, ...]] = {
            (one.writer, one.writer_epoch): one.unfinished for one in judgements if one.unfinished
        }
        self._names = {topic.topic_id: topic.name for topic in archived_topics(kept)}
        for segment in kept:
            for topic_id, name in segment.footer.topics.items():
                self._names.setdefault(topic_id, name)
        self._starts = _starts(kept) if self._unfinished else {}
        self._newest = tuple(newest)

    def name(self, topic_id: TopicId) -> str:
        return self._names.get(topic_id, topic_id)

    def findings(self) -> Iterator[Finding]:
        claimed: dict[tuple[PartitionId, int], list[OffsetRange]] = defaultdict(list)
        for checkpoint in self._newest:
            for row in checkpoint.partitions:
                if row.first_offset < row.next_offset:
                    claimed[row.id, row.branch].append(OffsetRange(row.first_offset, row.next_offset))
        for id, evidence in self._evidence.items():
            newest = build_history(evidence)
            # Branches share what lies below their cuts: one hole is told once, of the newest branch that has it.
            holes: dict[OffsetRange, PartitionHistory] = {}
            promised: set[OffsetRange] = set()
            for branch in sorted(newest.branches, key=lambda number: (number != newest.branch, -number)):
                history = newest if branch == newest.branch else build_history(evidence, branch)
                for hole in history.holes:
                    holes.setdefault(hole, history)
                    if any(_overlap(hole, one) for one in claimed.get((id, branch), ())):
                        promised.add(hole)
            for hole, history in holes.items():
                yield self._hole(history, hole, promised=hole in promised)
            yield from self._gaps(newest)
            yield from self._notes(newest)
        for checkpoint in self._newest:
            yield from self._reached(checkpoint)

    def _finding(
        self,
        severity: Severity,
        code: Code,
        id: PartitionId,
        offsets: OffsetRange | None,
        message: str,
        action: str = "",
        *,
        branch: int | None = None,
        object: str | None = None,
    ) -> Finding:
        return Finding(
            severity=severity,
            code=code,
            message=message,
            action=action,
            object=object,
            topic=self._names.get(id.topic_id, id.topic_id),
            topic_id=id.topic_id,
            partition=id.partition,
            branch=branch,
            first_offset=None if offsets is None else offsets.first_offset,
            next_offset=None if offsets is None else offsets.next_offset,
        )

    def _hole(self, history: PartitionHistory, hole: OffsetRange, *, promised: bool) -> Finding:
        cause = None if promised else self._in_flight(history, hole)
        if cause is None:
            return self._finding(
                Severity.ERROR,
                Code.CONTINUITY_HOLE,
                history.id,
                hole,
                "neither stored nor explained" + ("; a checkpoint says it is durable" if promised else ""),
                LOST_RECORDS,
                branch=history.branch,
            )
        return self._finding(
            Severity.INFORMATION,
            Code.CONTINUITY_UNFINISHED,
            history.id,
            hole,
            f"not captured yet: sequence {cause.seq} of writer {cause.writer}, epoch {cause.writer_epoch}, was in "
            "flight when that life was killed",
            "start the daemon: it resumes before this range",
            branch=history.branch,
        )

    def _in_flight(self, history: PartitionHistory, hole: OffsetRange) -> SegmentPlace | None:
        """The unfinished sequence that may hold the hole's records, if what follows the hole was sealed after it.

        Only the last life of a writer that says anything behind the hole counts: a later life starts before it, so what
        that leaves out must have been in flight again.
        """
        branches = {span.branch for span in history.lineage}
        behind: dict[str, SegmentPlace] = {}
        for start in self._starts.get(history.id, ()):
            if start.branch not in branches or start.first_offset < hole.next_offset:
                continue
            held = behind.get(start.place.writer)
            if held is None or start.place.writer_epoch > held.writer_epoch:
                behind[start.place.writer] = start.place
            elif start.place.writer_epoch == held.writer_epoch:
                behind[start.place.writer] = min(held, start.place)
        for place in behind.values():
            unfinished = self._unfinished.get((place.writer, place.writer_epoch), ())
            position = bisect_left(unfinished, place.seq)
            if position:
                return place._replace(seq=unfinished[position - 1])
        return None

    def _gaps(self, history: PartitionHistory) -> Iterator[Finding]:
        for gap in history.gaps:
            yield self._finding(
                Severity.INFORMATION,
                Code.CONTINUITY_GAP,
                history.id,
                OffsetRange(gap.first_offset, gap.next_offset),
                f"{gap.cause.value}: {GAP_MEANING[gap.cause]}",
                GAP_ACTION.get(gap.cause, ""),
                branch=gap.branch,
            )
        for stored in history.corrupt_runs:
            yield self._finding(
                Severity.INFORMATION,
                Code.CONTENT_CORRUPT_AT_SOURCE,
                history.id,
                OffsetRange(stored.run.asked_offset, max(stored.run.asked_offset, stored.run.next_offset)),
                "kept as the source served it, with a checksum that fails",
                GAP_ACTION[GapCause.CORRUPT_AT_SOURCE],
                branch=stored.run.branch,
                object=stored.ref.key,
            )

    def _notes(self, history: PartitionHistory) -> Iterator[Finding]:
        for branch in history.orphans:
            yield self._finding(
                Severity.INFORMATION if self._unfinished else Severity.ERROR,
                Code.CONTINUITY_BRANCH,
                history.id,
                None,
                f"branch {branch} is stored, but the segment that says where it begins is not",
                "start the daemon: it meets the cut again and opens a branch of its own"
                if self._unfinished
                else "put the missing or damaged segment back from a copy of the archive",
                branch=branch,
            )
        for one in history.merged:
            yield self._finding(
                Severity.INFORMATION,
                Code.CONTINUITY_OVERLAP,
                history.id,
                OffsetRange(one.first_offset, one.next_offset),
                f"{len(one.sources)} captures of a compacted log differ; the union of their batches counts",
                branch=one.run.branch,
            )

    def _reached(self, checkpoint: Checkpoint) -> Iterator[Finding]:
        """The archive must reach what the newest checkpoint says is durable."""
        for row in checkpoint.partitions:
            evidence = self._evidence.get(row.id)
            if evidence is None:
                continue  # coverage says that the partition is missing altogether
            offsets = OffsetRange(min(row.first_offset, row.next_offset), row.next_offset)
            try:
                reached = build_history(evidence, row.branch).next_offset
            except KeyError:
                reached = offsets.first_offset
            if reached < row.next_offset:
                yield self._finding(
                    Severity.ERROR,
                    Code.CHECKPOINT_CONTRADICTED,
                    row.id,
                    OffsetRange(reached, row.next_offset),
                    f"a checkpoint says that all below {row.next_offset} is durable, the segments end at {reached}",
                    LOST_RECORDS,
                    branch=row.branch,
                    object=checkpoint.key,
                )


def _overlap(one: OffsetRange, other: OffsetRange) -> bool:
    return one.first_offset < other.next_offset and other.first_offset < one.next_offset


def _starts(segments: Iterable[CatalogSegment]) -> dict[PartitionId, list[_Start]]:
    starts: dict[PartitionId, list[_Start]] = defaultdict(list)
    for segment in segments:
        for run in segment.footer.runs:
            if not run.flags & RunFlag.CORRUPT:
                starts[run.id].append(_Start(segment.place, run.branch, run.asked_offset))
        for event in segment.footer.events:
            if isinstance(event, Gap):
                starts[event.id].append(_Start(segment.place, event.branch, event.first_offset))
            elif isinstance(event, Truncated):
                starts[event.id].append(_Start(segment.place, event.branch, event.offset))
    return starts
