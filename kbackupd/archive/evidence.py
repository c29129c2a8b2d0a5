"""What the segments say about each partition, gathered from their footers; and which segments are abandoned.

Pure. An abandoned segment came after its writer's next life had recovered without it: its bytes count, its story does
not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from kbackupd.archive.history import OnBranches, PartitionEvidence, SegmentPlace, StoredRun
from kbackupd.archive.lineage import ROOT_BRANCH
from kbackupd.archive.segments import CatalogSegment
from kbackupd.model.events import Gap, LedgerEvent, PartitionSeen, Truncated
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import ObjectRef, OpenTransaction, Run, RunFlag, Sample, TransactionOutcome

Abandoned = Callable[[SegmentPlace], bool]
"""Whether the segment of that place is abandoned."""


class Rows(Protocol):
    """What a footer says of partitions."""

    @property
    def runs(self) -> Sequence[Run]: ...

    @property
    def outcomes(self) -> Sequence[TransactionOutcome]: ...

    @property
    def open_transactions(self) -> Sequence[OpenTransaction]: ...

    @property
    def samples(self) -> Sequence[Sample]: ...

    @property
    def events(self) -> Sequence[LedgerEvent]: ...


class Said(NamedTuple):
    """One segment's word."""

    place: SegmentPlace
    ref: ObjectRef
    rows: Rows


@dataclass(slots=True)
class _Gathered:
    runs: list[StoredRun] = field(default_factory=list)
    seen: list[PartitionSeen] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    truncations: list[Truncated] = field(default_factory=list)
    outcomes: list[OnBranches] = field(default_factory=list)
    open_transactions: list[OnBranches] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def abandonment(segments: Iterable[CatalogSegment]) -> Abandoned:
    """Which places are abandoned: they came after their writer's next life had recovered without them and gone on.

    Args:
        segments: at least those that say anything of earlier lives, in the archive's order.
    """
    durable: dict[tuple[str, int], tuple[tuple[int, int], ...]] = {}
    for segment in segments:  # in order: of several lives that describe an epoch, the last one's word stands
        for row in segment.footer.earlier:
            durable[segment.place.writer, row.writer_epoch] = row.durable

    def abandoned(place: SegmentPlace) -> bool:
        ranges = durable.get((place.writer, place.writer_epoch))
        return ranges is not None and not any(first <= place.seq < next_seq for first, next_seq in ranges)

    return abandoned


def abandoned_places(segments: Sequence[CatalogSegment]) -> frozenset[SegmentPlace]:
    """Those of the segments that are abandoned."""
    abandoned = abandonment(segments)
    return frozenset(segment.place for segment in segments if abandoned(segment.place))


def gather_evidence(segments: Sequence[CatalogSegment]) -> dict[PartitionId, PartitionEvidence]:
    """What the segments, in the archive's order, say about each partition they mention."""
    said = (Said(segment.place, segment.ref, segment.footer) for segment in segments)
    return gathered_from(said, abandonment(segments))


def gathered_from(said: Iterable[Said], abandoned: Abandoned) -> dict[PartitionId, PartitionEvidence]:
    """The same from what each of them says, in the archive's order, of all partitions or of some.

    An abandoned segment's bytes count, its story does not: where coverage begins and where a log was cut is told by the
    life that went on. A branch that only an abandoned segment opens would hide all that is captured after it.
    """
    gathered: dict[PartitionId, _Gathered] = {}
    opened: set[tuple[PartitionId, int]] = set()

    def of(id: PartitionId) -> _Gathered:
        found = gathered.get(id)
        if found is None:
            found = gathered[id] = _Gathered()
        return found

    for place, ref, footer in said:
        counts = not abandoned(place)
        opened.update((event.id, event.branch) for event in footer.events if counts and isinstance(event, Truncated))
        runs = [run for run in footer.runs if counts or run.branch == ROOT_BRANCH or (run.id, run.branch) in opened]
        for run in runs:
            of(run.id).runs.append(StoredRun(run=run, ref=ref, place=place))
        for event in footer.events:
            match event:
                case PartitionSeen() if counts:
                    of(event.id).seen.append(event)
                case Gap() if counts or event.branch == ROOT_BRANCH or (event.id, event.branch) in opened:
                    of(event.id).gaps.append(event)
                case Truncated() if counts:
                    of(event.id).truncations.append(event)
                case _:
                    pass
        for sample in footer.samples:
            of(sample.id).samples.append(sample)
        if footer.outcomes or footer.open_transactions:
            usable = _usable(runs)
            for outcome in footer.outcomes:
                of(outcome.id).outcomes.append(_outcome_row(outcome, usable.get(outcome.id, ())))
            for row in footer.open_transactions:
                of(row.id).open_transactions.append(_open_row(row, usable.get(row.id, ())))
    return {
        id: PartitionEvidence(
            id=id,
            runs=tuple(found.runs),
            seen=tuple(found.seen),
            gaps=tuple(found.gaps),
            truncations=tuple(found.truncations),
            outcomes=tuple(found.outcomes),
            open_transactions=tuple(found.open_transactions),
            samples=tuple(found.samples),
        )
        for id, found in gathered.items()
    }


def _usable(runs: Iterable[Run]) -> dict[PartitionId, list[Run]]:
    usable: dict[PartitionId, list[Run]] = {}
    for run in runs:
        if not run.flags.corrupt:
            usable.setdefault(run.id, []).append(run)
    return usable


def _outcome_row(row: TransactionOutcome, runs: Iterable[Run]) -> OnBranches:
    holding = tuple(
        run
        for run in runs
        if run.flags & RunFlag.CONTROL and min(run.first_offset, run.asked_offset) <= row.offset < run.next_offset
    )
    return OnBranches(branches=frozenset(run.branch for run in holding), row=row, runs=holding)


def _open_row(row: OpenTransaction, runs: Iterable[Run]) -> OnBranches:
    """A transaction open at a run's end is of its newest branch or, if begun below the cut, a parent's."""
    newest = max((run.branch for run in runs), default=0)
    return OnBranches(branches=frozenset(range(newest + 1)), row=row)
