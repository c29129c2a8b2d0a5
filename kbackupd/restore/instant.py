"""An archive as it was at an instant of capture: how far each partition goes, and what was decided by then. Pure.

Leaders were heard at different moments, so cuts are skewed. A transaction decided by the instant is complete
everywhere, beyond a partition's own cut too; every other one is dropped everywhere (hazard 38). For one producer in one
partition transactions come one after the other, so what counts beyond the cut is a prefix of them: an offset tells it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from kbackupd.archive.cut import Cut
from kbackupd.archive.group_history import DecidedPositions
from kbackupd.archive.history import GapSpan, OnBranches, PartitionEvidence, PartitionHistory, Slice, build_history
from kbackupd.model.positions import OffsetRange, PartitionId
from kbackupd.model.segment import OpenTransaction, Sample, TransactionOutcome

Offsets = TypeVar("Offsets", Slice, GapSpan, OffsetRange)


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguousTransaction:
    """Its commit marker lies beyond the partition's cut, and whether it was decided by then cannot be told: dropped."""

    producer_id: int
    producer_epoch: int
    """Of the marker."""
    marker_offset: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedTransactions:
    """Of one partition: what counts though its marker lies beyond the cut, and of what nobody can tell."""

    completed: Mapping[int, int] = field(default_factory=dict)
    """Producer id → offset of the last commit marker at or beyond the cut that counts; all before it do too."""
    unmarked: tuple[int, ...] = ()
    """Producers of these whose last commit marker is not in the archive: the offset is where what was captured ends."""
    aborted: tuple[int, ...] = ()
    """Producers whose last transaction was aborted, the marker of which is not in the archive."""
    ambiguous: tuple[AmbiguousTransaction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionAsOf:
    """One partition at an instant: what its leader said last by then, and what that makes of its transactions."""

    next_offset: int
    """The cut: what was there. Records at or beyond it come back only with transactions that were decided by then."""
    log_start_offset: int
    sent_ms: int
    answered_ms: int
    """The log was as far as that at a moment in between; −1: no leader had answered by the instant."""
    held_until_ms: int
    """Up to then, at least, nothing more came."""
    exact: bool
    """At the very instant asked for the log was as far as that."""
    compacted_since: bool
    """Records that were there may be missing: it was captured, in part, after newer ones could have replaced them."""
    completed: Mapping[int, int]
    """As `DecidedTransactions.completed`."""
    unmarked: tuple[int, ...]
    """As `DecidedTransactions.unmarked`."""
    aborted: tuple[int, ...]
    """As `DecidedTransactions.aborted`."""
    ambiguous: tuple[AmbiguousTransaction, ...]

    @property
    def known(self) -> bool:
        return self.answered_ms >= 0

    @property
    def reads_until(self) -> int:
        """Nothing at or beyond that offset comes back."""
        ends = (marker + (producer not in self.unmarked) for producer, marker in self.completed.items())
        return max([self.next_offset, *ends])


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """What was read of an archive for an instant; a plan is made of it without reading more."""

    at_ms: int
    cuts: Mapping[PartitionId, Cut | None]
    """Of every partition that is restored. None: no leader had answered by then."""
    decided: Mapping[PartitionId, DecidedTransactions] = field(default_factory=dict)
    coordinators_known: bool = False
    """`__transaction_state` was captured by then."""
    positions: Mapping[int, DecidedPositions] = field(default_factory=dict)
    """By partition of `__consumer_offsets`: positions of groups that are part of what was decided."""


def partition_as_of(instant: Instant, evidence: PartitionEvidence) -> PartitionAsOf:
    cut, decided = instant.cuts[evidence.id], instant.decided.get(evidence.id, DecidedTransactions())
    if cut is None:
        return PartitionAsOf(
            next_offset=0,
            log_start_offset=0,
            sent_ms=-1,
            answered_ms=-1,
            held_until_ms=-1,
            exact=False,
            compacted_since=False,
            completed={},
            unmarked=(),
            aborted=(),
            ambiguous=(),
        )
    return PartitionAsOf(
        next_offset=cut.next_offset,
        log_start_offset=cut.log_start_offset,
        sent_ms=cut.sent_ms,
        answered_ms=cut.answered_ms,
        held_until_ms=cut.held_until_ms,
        exact=cut.exact_at(instant.at_ms),
        compacted_since=_compacted_since(evidence, cut),
        completed=dict(sorted(decided.completed.items())),
        unmarked=decided.unmarked,
        aborted=decided.aborted,
        ambiguous=decided.ambiguous,
    )


def _compacted_since(evidence: PartitionEvidence, cut: Cut) -> bool:
    """Whether something below the cut was captured with holes after the log had grown beyond it."""
    return cut.grown_ms is not None and any(
        stored.run.flags.holes and stored.run.captured_ms >= cut.grown_ms and stored.run.first_offset < cut.next_offset
        for stored in evidence.runs
    )


def history_at(evidence: PartitionEvidence, branch: int, state: PartitionAsOf) -> PartitionHistory:
    """The partition's history as if the archive ended there: nothing beyond is covered, no marker beyond it counts.

    Where capture had not come as far as the cut, the rest is a hole.
    """
    end = state.reads_until
    rows = tuple(one for one in evidence.outcomes if _counts(one.row, state))
    rows += tuple(_marker_of(evidence, producer, branch, state.completed[producer]) for producer in state.unmarked)
    if state.aborted:
        captured_until = build_history(evidence, branch).next_offset
        rows += tuple(
            _marker_of(evidence, producer, branch, captured_until, committed=False) for producer in state.aborted
        )
    begun = tuple(one for one in evidence.open_transactions if _was_open(one.row, state))
    whole = build_history(replace(evidence, outcomes=rows, open_transactions=begun), branch)
    first = min(max(whole.first_offset, state.log_start_offset), end)
    uncaptured = OffsetRange(max(whole.next_offset, first), max(whole.next_offset, end))
    return replace(
        whole,
        first_offset=first,
        next_offset=end,
        slices=_within(whole.slices, first, end),
        gaps=_within(whole.gaps, first, end),
        holes=_within((*whole.holes, uncaptured), first, end),
        # What a later sample says was decided was not decided yet.
        samples=_samples(evidence, state),
    )


def _within(ranges: Iterable[Offsets], first_offset: int, next_offset: int) -> tuple[Offsets, ...]:
    """What lies in `[first_offset, next_offset)` of each, where anything does."""
    return tuple(
        replace(one, first_offset=first, next_offset=end)
        for one in ranges
        if (first := max(one.first_offset, first_offset)) < (end := min(one.next_offset, next_offset))
    )


def _marker_of(
    evidence: PartitionEvidence, producer_id: int, branch: int, offset: int, *, committed: bool = True
) -> OnBranches:
    """The marker that the archive lacks, behind all that it holds."""
    row = TransactionOutcome(
        id=evidence.id, offset=offset, producer_id=producer_id, producer_epoch=-1, committed=committed
    )
    return OnBranches(branches=frozenset((branch,)), row=row)


def _counts(row: TransactionOutcome | OpenTransaction, state: PartitionAsOf) -> bool:
    if not isinstance(row, TransactionOutcome):
        return False
    return row.offset < state.next_offset or row.offset <= state.completed.get(row.producer_id, -1)


def _was_open(row: TransactionOutcome | OpenTransaction, state: PartitionAsOf) -> bool:
    return isinstance(row, OpenTransaction) and row.first_offset < state.next_offset


def _samples(evidence: PartitionEvidence, state: PartitionAsOf) -> tuple[Sample, ...]:
    found = [
        one
        for one in evidence.samples
        if one.answered_ms == state.answered_ms
        and one.sent_ms == state.sent_ms
        and one.high_watermark == state.next_offset
    ]
    return tuple(found[-1:])
