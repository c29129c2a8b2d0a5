"""Exact counts of what became of one partition's records. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kbackupd.format.header import BatchHeader
from kbackupd.model.positions import OffsetRange
from kbackupd.restore.visibility import Visibility

_LISTED = 100
"""Ranges listed one by one in a report; more are only counted (hazard 35)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Records that could not be restored, and why."""

    offsets: OffsetRange
    records: int
    reason: str


class TransactionKey(NamedTuple):
    producer_id: int
    producer_epoch: int
    visibility: Visibility


@dataclass(slots=True, kw_only=True)
class TransactionTally:
    """What was done with the batches of a producer whose outcome is not plainly known."""

    first_offset: int
    next_offset: int
    records: int = 0


@dataclass(slots=True, kw_only=True)
class Tally:
    """Exact counts of what became of one partition's records. Every record read is in exactly one of them."""

    restored: int = 0
    cut_away: int = 0
    """Outside of the offsets or the time window asked for; of batches that were read, not of those nobody had to."""
    filtered: int = 0
    """Inside of those, and not what the filters look for."""
    aborted: int = 0
    """By whole batches, whatever a cut or filter would have left of them; as `undecided`."""
    undecided: int = 0
    outside: int = 0
    """In a batch that reaches over the partition's coverage, a branch's end or a batch read before."""
    missing: int = 0
    control_batches: int = 0
    empty_batches: int = 0
    unknown_outcome: int = 0
    """Of the restored ones."""
    restored_aborted: int = 0
    """Of the restored ones: of aborted transactions, asked for as uncommitted."""
    restored_undecided: int = 0
    """Of the restored ones: of undecided transactions, asked for as uncommitted."""
    restamped: int = 0
    """Of the restored ones: LogAppendTime became CreateTime, the timestamp itself is the same."""
    converted: int = 0
    """Of the restored ones: from magic 0 or 1."""
    fast_batches: int = 0
    slow_batches: int = 0
    missing_parts: list[Missing] = field(default_factory=list)
    """The first ones; `missing` counts all."""
    transactions: dict[TransactionKey, TransactionTally] = field(default_factory=dict)
    """Undecided ones and those of unknown outcome."""
    oldest_max_timestamp_ms: int | None = None
    """Smallest of the produced batches' largest timestamps: what time-based retention would meet first. Batches without
    timestamps do not count: for a segment without any, the broker takes the file's own time."""

    def add_missing(self, offsets: OffsetRange, records: int, reason: str) -> None:
        self.missing += records
        if len(self.missing_parts) < _LISTED:
            self.missing_parts.append(Missing(offsets=offsets, records=records, reason=reason))

    def note(self, visibility: Visibility, header: BatchHeader, records: int) -> None:
        """List `records` of a transaction that is undecided or of unknown outcome."""
        key = TransactionKey(header.producer_id, header.producer_epoch, visibility)
        row = self.transactions.get(key)
        if row is None:
            if len(self.transactions) >= _LISTED:
                return
            row = self.transactions[key] = TransactionTally(
                first_offset=header.base_offset, next_offset=header.next_offset
            )
        row.records += records
        row.next_offset = header.next_offset
