"""One partition around its cut at an instant: which of its markers can be of transactions begun by then. Pure.

What was decided by the instant was written before it, so only transactions count that had begun below what the leader
told first after the instant; their markers may lie anywhere.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kbackupd.archive.cut import Cut, told_after
from kbackupd.archive.history import PartitionEvidence, PartitionHistory
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import OpenTransaction, TransactionOutcome
from kbackupd.restore.told import LeftOpen, Marker


@dataclass(frozen=True, slots=True, kw_only=True)
class AroundCut:
    """A partition that was there, and what of it can be of transactions that were begun by the instant."""

    history: PartitionHistory
    evidence: PartitionEvidence
    cut: Cut
    begun_below: int
    """All that was in the log at the instant lies below it."""
    all_ended: bool
    """Whatever was begun below it had its marker below it too."""

    @classmethod
    def of(cls, history: PartitionHistory, evidence: PartitionEvidence, cut: Cut, at_ms: int) -> AroundCut:
        told = told_after(evidence, at_ms)
        if told is None or _was_cut_back(history):
            # What was told afterwards may be of the log that went on.
            begun_below, all_ended = history.next_offset, False
        else:
            begun_below = max(told.high_watermark, cut.next_offset)
            all_ended = told.last_stable_offset >= begun_below
        return cls(history=history, evidence=evidence, cut=cut, begun_below=begun_below, all_ended=all_ended)

    @property
    def was_cut_back(self) -> bool:
        """The log that was there at the instant lost a tail since."""
        return _was_cut_back(self.history)


def heard_ms(evidence: PartitionEvidence, offset: int) -> int | None:
    """By when a leader had told that its log goes beyond that offset; None: not known."""
    samples = evidence.samples
    # High watermarks grow, or nearly so; where they do not, one that is found tells the truth all the same.
    at = bisect_right(samples, offset, key=lambda one: one.high_watermark)
    # A log that was cut back had been farther before.
    if evidence.truncations or at == len(samples) or samples[at].high_watermark <= offset:
        return None
    return samples[at].answered_ms


def _was_cut_back(history: PartitionHistory) -> bool:
    return history.branch != max(history.branches)


def _marker(id: PartitionId, row: TransactionOutcome) -> Marker:
    return Marker(id, row.offset, row.producer_id, row.producer_epoch)


def markers(there: AroundCut) -> Iterator[Marker]:
    """Commit markers at or beyond the cut that can be of transactions begun by the instant."""
    outcomes = there.history.outcomes
    passed: set[int] = set()
    for row in outcomes[bisect_left(outcomes, there.cut.next_offset, key=lambda row: row.offset) :]:
        if row.offset >= there.begun_below:
            if there.all_ended:
                return
            if row.producer_id in passed:
                continue
            # The first one there ends what may have begun below; the next ones begin and end beyond.
            passed.add(row.producer_id)
        if row.committed:
            yield _marker(there.history.id, row)


def left_open(there: AroundCut) -> Iterator[LeftOpen]:
    """What was begun by the instant, and has no marker in the archive."""
    history = there.history
    for row in history.open_transactions:
        if row.first_offset < there.begun_below:
            yield left_open_by(history, row.producer_id, row.producer_epoch)


def left_open_by(history: PartitionHistory, producer_id: int, producer_epoch: int) -> LeftOpen:
    """Data of that producer behind its last marker."""
    rows = (row for row in reversed(history.outcomes) if row.producer_id == producer_id)
    last = next(rows, None)
    return LeftOpen(
        history.id,
        producer_id,
        producer_epoch,
        history.next_offset,
        None if last is None else _marker(history.id, last),
        last is not None and last.committed,
    )


def last_below(there: AroundCut) -> Sequence[tuple[Marker, bool]]:
    """Of each producer the last marker below the cut, and whether it commits."""
    last: dict[int, TransactionOutcome] = {}
    for row in there.history.outcomes:
        if row.offset >= there.cut.next_offset:
            break
        last[row.producer_id] = row
    return [(_marker(there.history.id, row), row.committed) for row in last.values()]


def begun_before(there: AroundCut, marker: Marker) -> OpenTransaction | None:
    """What a footer called open of the transaction that the marker ended; None: it is all in the marker's segment."""
    before = -1
    for outcome in there.history.outcomes:
        if outcome.producer_id == marker.producer_id and outcome.offset < marker.offset:
            before = outcome.offset
    for one in there.evidence.open_transactions:
        row = one.row
        if (
            isinstance(row, OpenTransaction)
            and row.producer_id == marker.producer_id
            and before < row.first_offset < marker.offset
        ):
            return row
    return None


def segment_of(history: PartitionHistory, offset: int) -> int:
    """Where what one segment holds of the partition, that offset in it, begins."""
    at = bisect_right(history.slices, offset, key=lambda one: one.first_offset) - 1
    if at < 0:
        return offset
    while at and history.slices[at - 1].key == history.slices[at].key:
        at -= 1
    return history.slices[at].first_offset
