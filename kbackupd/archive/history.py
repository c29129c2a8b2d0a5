"""What the archive holds of one partition, on one branch: stored ranges, gaps and holes, each offset in one place.

Pure. Keeps I6 (every offset between first and next is stored, a gap with a cause, or a hole that somebody must explain;
a stored range beats any gap) and I8 (overlapping captures are harmless: the earliest counts, the union counts).
The rules are those of docs/format.md, "Reading a partition".
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from kbackupd.archive.lineage import MAX_OFFSET, ROOT_BRANCH, BranchSpan, lineage_of, root_of, valid_below_of
from kbackupd.model.events import Gap, GapCause, PartitionSeen, Truncated
from kbackupd.model.positions import OffsetRange, PartitionId
from kbackupd.model.segment import ObjectRef, OpenTransaction, Run, Sample, TransactionOutcome


class SegmentPlace(NamedTuple):
    """A segment's place in the archive's order; comparing two of one writer tells which was sealed first."""

    writer: str
    writer_epoch: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run and the segment that holds it."""

    run: Run
    ref: ObjectRef
    place: SegmentPlace

    @property
    def precedence(self) -> tuple[int, SegmentPlace, int]:
        """The smallest counts where several runs hold the same batch."""
        return self.run.captured_ms, self.place, self.run.position

    @property
    def corrupt(self) -> bool:
        return self.run.flags.corrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBranches:
    """A footer's row that does not say its branch, and the branches it can belong to by the runs of that footer."""

    branches: frozenset[int]
    row: TransactionOutcome | OpenTransaction
    runs: tuple[Run, ...] = ()
    """Of that footer, those that hold the marker: it counts as far as they do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionEvidence:
    """All that readable segments say about one partition of one incarnation, in the archive's order."""

    id: PartitionId
    runs: tuple[StoredRun, ...] = ()
    seen: tuple[PartitionSeen, ...] = ()
    gaps: tuple[Gap, ...] = ()
    truncations: tuple[Truncated, ...] = ()
    outcomes: tuple[OnBranches, ...] = ()
    open_transactions: tuple[OnBranches, ...] = ()
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Offsets that are read from one place.

    `sources[0]` is the run that counts. Further ones are there only if it has holes: batches whose base offset it lacks
    count too, and of equal base offsets the batch with the most records, then the first of `sources` (a compaction came
    between two captures); a run without holes ends the list.
    """

    sources: tuple[StoredRun, ...]
    first_offset: int
    next_offset: int

    @property
    def run(self) -> Run:
        return self.sources[0].run

    @property
    def key(self) -> str:
        return self.sources[0].ref.key


@dataclass(frozen=True, slots=True, kw_only=True)
class GapSpan:
    """Offsets that no run holds, and why."""

    first_offset: int
    next_offset: int
    cause: GapCause
    at_ms: int
    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionHistory:
    """One partition's coverage `[first_offset, next_offset)` on `branch`: slices, gaps and holes add up to it."""

    id: PartitionId
    branch: int
    branches: tuple[int, ...]
    """All that any segment mentions, ascending."""
    orphans: tuple[int, ...]
    """Branches nobody can place: the segment that said where they begin is not readable."""
    lineage: tuple[BranchSpan, ...]
    """Which branch tells which offsets, ascending, without empty ones."""
    first_offset: int
    next_offset: int
    slices: tuple[Slice, ...]
    gaps: tuple[GapSpan, ...]
    holes: tuple[OffsetRange, ...]
    replaced: Mapping[tuple[str, int], int]
    """(segment's key, position of a run) → from which offset on the run is a tail that its log has lost."""
    corrupt_runs: tuple[StoredRun, ...]
    """Kept as the source served them, never delivered as records; their offsets are a gap."""
    outcomes: tuple[TransactionOutcome, ...]
    """Transaction markers, by offset."""
    open_transactions: tuple[OpenTransaction, ...]
    """Begun and not known to have ended, by first offset; also those whose marker fell into a gap."""
    samples: tuple[Sample, ...]
    """In the archive's order."""

    @property
    def last_sample(self) -> Sample | None:
        return self.samples[-1] if self.samples else None

    @property
    def complete(self) -> bool:
        """No hole; gaps with a cause do not count."""
        return not self.holes

    @property
    def merged(self) -> tuple[Slice, ...]:
        """Slices that are the union of several captures of a compacted log."""
        return tuple(one for one in self.slices if len(one.sources) > 1)

    @property
    def contiguous_next_offset(self) -> int:
        """Everything from `first_offset` to here is stored or a gap."""
        return self.holes[0].first_offset if self.holes else self.next_offset

    def limit_of(self, stored: StoredRun) -> int:
        """Where another branch, or what grew in place of a lost tail, takes over from the run in this history."""
        spans = (span.next_offset for span in self.lineage if span.branch == stored.run.branch)
        return min(next(spans, MAX_OFFSET), self.replaced.get((stored.ref.key, stored.run.position), MAX_OFFSET))


def build_history(evidence: PartitionEvidence, branch: int | None = None) -> PartitionHistory:
    """The history of one branch: the newest that can be placed, unless `branch` says which.

    Raises:
        KeyError: the partition has no such branch.
    """
    origins = {event.branch: event for event in evidence.truncations}
    branches = sorted(
        {ROOT_BRANCH, *origins}
        | {stored.run.branch for stored in evidence.runs}
        | {gap.branch for gap in evidence.gaps}
        | {event.parent for event in evidence.truncations}
    )
    orphans = tuple(number for number in branches if root_of(number, origins) != ROOT_BRANCH)
    if branch is None:
        branch = max(number for number in branches if number not in orphans)
    elif branch not in branches:
        raise KeyError(branch)
    lineage = lineage_of(branch, origins)
    spans = {span.branch: span for span in lineage}

    usable = [stored for stored in evidence.runs if not stored.corrupt]
    valid_below = valid_below_of(stored.run for stored in usable)
    proven: list[tuple[int, int]] = []
    held: list[tuple[StoredRun, tuple[int, int]]] = []
    replaced: dict[tuple[str, int], int] = {}
    for stored in usable:
        span, below = spans.get(stored.run.branch), valid_below(stored.run)
        if clipped := _clip(stored.run.covers, span, below):
            proven.append(clipped)
        if clipped := _clip(_extent(stored.run), span, below):
            held.append((stored, clipped))
        if below < MAX_OFFSET:
            replaced[stored.ref.key, stored.run.position] = below
    proven = _union(proven)
    slices = _within_proven(_slices(held), proven)
    gap_pieces = [
        (gap, clipped)
        for gap in evidence.gaps
        if (clipped := _clip(OffsetRange(gap.first_offset, gap.next_offset), spans.get(gap.branch)))
    ]
    cuts = [span.first_offset for span in lineage if span.branch != ROOT_BRANCH]
    starts = [event.first_offset for event in evidence.seen] + cuts + [first for first, _ in proven]
    first_offset = min([*starts, *(first for _, (first, _) in gap_pieces)], default=0)
    gaps = _gap_spans([*gap_pieces, *_below_first_sights(evidence.seen, first_offset, spans)], proven)

    covered = _union(proven + [(gap.first_offset, gap.next_offset) for gap in gaps])
    next_offset = max([first_offset, *cuts, *(end for _, end in covered)])
    return PartitionHistory(
        id=evidence.id,
        branch=branch,
        branches=tuple(branches),
        orphans=orphans,
        lineage=lineage,
        first_offset=first_offset,
        next_offset=next_offset,
        slices=slices,
        gaps=gaps,
        holes=tuple(OffsetRange(first, end) for first, end in _missing(first_offset, next_offset, covered)),
        replaced=replaced,
        corrupt_runs=tuple(
            stored for stored in evidence.runs if stored.corrupt and _reaches(spans.get(stored.run.branch), stored.run)
        ),
        outcomes=(outcomes := _outcomes(evidence.outcomes, spans, valid_below)),
        open_transactions=_still_open(evidence, spans, outcomes),
        samples=evidence.samples,
    )


def _below_first_sights(
    seen: Iterable[PartitionSeen], first_offset: int, spans: dict[int, BranchSpan]
) -> list[tuple[Gap, tuple[int, int]]]:
    """What was below the log start when a life saw the partition for the first time, as gaps.

    A dead life's segment can land when that has happened: then something is held of offsets below the first sight, and
    what the log lost in between was never anybody's to capture.
    """
    found: list[tuple[Gap, tuple[int, int]]] = []
    for event in seen:
        clipped = _clip(OffsetRange(first_offset, max(first_offset, event.log_start_offset)), spans.get(ROOT_BRANCH))
        if clipped is not None:
            gap = Gap(
                id=event.id,
                branch=ROOT_BRANCH,
                first_offset=clipped[0],
                next_offset=clipped[1],
                cause=GapCause.LOG_START_MOVED,
                at_ms=event.at_ms,
            )
            found.append((gap, clipped))
    return found


def _clip(offsets: OffsetRange, span: BranchSpan | None, below: int = MAX_OFFSET) -> tuple[int, int] | None:
    if span is None:
        return None
    first, end = max(offsets.first_offset, span.first_offset), min(offsets.next_offset, span.next_offset, below)
    return (first, end) if first < end else None


def _extent(run: Run) -> OffsetRange:
    """What the run holds: also the beginning of a batch that reaches across the offset asked for."""
    return OffsetRange(min(run.first_offset, run.covers.first_offset), run.next_offset)


def _within_proven(slices: Sequence[Slice], proven: Sequence[tuple[int, int]]) -> tuple[Slice, ...]:
    """The slices less what no run was asked for: below a log start, records that the source had deleted."""
    if (
        len(proven) == 1
        and slices
        and proven[0][0] <= slices[0].first_offset
        and slices[-1].next_offset <= proven[0][1]
    ):
        return tuple(slices)
    kept: list[Slice] = []
    number = 0
    for one in slices:
        while number < len(proven) and proven[number][1] <= one.first_offset:
            number += 1
        at = number
        while at < len(proven) and proven[at][0] < one.next_offset:
            first, end = max(one.first_offset, proven[at][0]), min(one.next_offset, proven[at][1])
            kept.append(Slice(sources=one.sources, first_offset=first, next_offset=end))
            at += 1
    return tuple(kept)


def _reaches(span: BranchSpan | None, run: Run) -> bool:
    return span is not None and run.asked_offset < span.next_offset and run.next_offset > span.first_offset


def _slices(pieces: Sequence[tuple[StoredRun, tuple[int, int]]]) -> tuple[Slice, ...]:
    """Sweep over the pieces' borders; between two of them the same runs hold everything."""
    in_order = [
        Slice(sources=(stored,), first_offset=first, next_offset=following) for stored, (first, following) in pieces
    ]
    if all(one.next_offset <= other.first_offset for one, other in pairwise(in_order)):
        return tuple(in_order)  # captured once: nothing is held twice
    starting = sorted(pieces, key=lambda piece: (piece[1][0], piece[0].precedence))
    slices: list[Slice] = []
    active: list[tuple[StoredRun, int]] = []
    ends: list[int] = []
    at, position = 0, 0
    while position < len(starting) or active:
        if not active:
            at = starting[position][1][0]
        while position < len(starting) and starting[position][1][0] <= at:
            stored, (_, end) = starting[position]
            active.append((stored, end))
            heapq.heappush(ends, end)
            position += 1
        border = ends[0]
        if position < len(starting):
            border = min(border, starting[position][1][0])
        sources = _sources(active)
        if slices and slices[-1].sources == sources and slices[-1].next_offset == at:
            slices[-1] = Slice(sources=sources, first_offset=slices[-1].first_offset, next_offset=border)
        else:
            slices.append(Slice(sources=sources, first_offset=at, next_offset=border))
        at = border
        if ends[0] <= at:
            active = [(stored, end) for stored, end in active if end > at]
            while ends and ends[0] <= at:
                heapq.heappop(ends)
    return tuple(slices)


def _sources(active: Sequence[tuple[StoredRun, int]]) -> tuple[StoredRun, ...]:
    if len(active) == 1:
        return (active[0][0],)
    ordered = sorted((stored for stored, _ in active), key=lambda stored: stored.precedence)
    for count, stored in enumerate(ordered, start=1):
        if not stored.run.flags.holes:
            return tuple(ordered[:count])
    return tuple(ordered)


def _gap_spans(pieces: Iterable[tuple[Gap, tuple[int, int]]], stored: Iterable[tuple[int, int]]) -> tuple[GapSpan, ...]:
    """What the gaps leave when stored ranges, and gaps reported before, are taken off."""
    taken = _union(stored)
    found: list[GapSpan] = []
    for gap, (first, end) in pieces:
        left = _missing(first, end, taken)
        found += [
            GapSpan(first_offset=low, next_offset=high, cause=gap.cause, at_ms=gap.at_ms, branch=gap.branch)
            for low, high in left
        ]
        if left:
            taken = _union([*taken, *left])
    return tuple(sorted(found, key=lambda span: span.first_offset))


def _union(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same offsets as ascending ranges that do not touch."""
    merged: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        elif first < end:
            merged.append((first, end))
    return merged


def _missing(first: int, end: int, covered: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of `[first, end)` outside `covered`, which is ascending and disjoint."""
    missing: list[tuple[int, int]] = []
    for low, high in covered:
        if high <= first:
            continue
        if low >= end:
            break
        if low > first:
            missing.append((first, low))
        first = max(first, high)
    if first < end:
        missing.append((first, end))
    return missing


def _within(branches: frozenset[int], offset: int, spans: dict[int, BranchSpan]) -> bool:
    """Whether a row at `offset` of one of `branches` is part of the chosen history."""
    return any(span.first_offset <= offset < span.next_offset for b in branches if (span := spans.get(b)) is not None)


def _outcomes(
    rows: Iterable[OnBranches], spans: dict[int, BranchSpan], valid_below: Callable[[Run], int]
) -> tuple[TransactionOutcome, ...]:
    """The markers of the chosen history. One on a tail that the log lost would end a transaction that another ended."""
    found: dict[tuple[int, int], TransactionOutcome] = {}
    for one in rows:
        if not isinstance(one.row, TransactionOutcome) or not _within(one.branches, one.row.offset, spans):
            continue
        if not one.runs or any(run.branch in spans and one.row.offset < valid_below(run) for run in one.runs):
            found.setdefault((one.row.offset, one.row.producer_id), one.row)
    return tuple(found[at] for at in sorted(found))


def _still_open(
    evidence: PartitionEvidence, spans: dict[int, BranchSpan], outcomes: Iterable[TransactionOutcome]
) -> tuple[OpenTransaction, ...]:
    """Every transaction a footer called open, less those whose marker is stored at a higher offset.

    By producer id alone: a fenced producer's transaction is ended by a marker of the next producer epoch.
    """
    begun: dict[tuple[int, int], OpenTransaction] = {}
    for one in evidence.open_transactions:
        row = one.row
        if isinstance(row, OpenTransaction) and _within(one.branches, row.first_offset, spans):
            begun.setdefault((row.first_offset, row.producer_id), row)
    last_marker: dict[int, int] = {}
    for outcome in outcomes:
        last_marker[outcome.producer_id] = outcome.offset
    return tuple(
        begun[at] for at in sorted(begun) if last_marker.get(begun[at].producer_id, -1) < begun[at].first_offset
    )
