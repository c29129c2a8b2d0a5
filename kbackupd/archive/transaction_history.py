"""The transactions of a cluster as the captured logs of their coordinators tell them.

Owns the reading of one partition of `__transaction_state`, and of nothing else of the archive. A restore to
an instant asks it which transactions were decided by then: `LoggedTransaction.decision_at(cut)`, where the cut is
that of the coordinator's own log, and which partitions they cover.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from kbackupd.archive.archive import Archive
from kbackupd.archive.coordinator_items import LostRange
from kbackupd.archive.coordinator_log import READ_AHEAD_BYTES, read_coordinator_log
from kbackupd.archive.cut import Cut, cut_at, told_after
from kbackupd.archive.history import PartitionEvidence, PartitionHistory, build_history
from kbackupd.archive.transaction_fold import LoggedTransaction, TransactionFold
from kbackupd.model.positions import PartitionId


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionsOfPartition:
    """What one partition of `__transaction_state` tells, beyond its cut too: a decision that came later is one."""

    id: PartitionId
    cut: Cut | None
    """How far this log went at the instant; None: no leader had answered by then."""
    transactions: tuple[LoggedTransaction, ...]
    """In the order in which they were over, then those that were not."""
    lost: tuple[LostRange, ...]
    """Transactions of these offsets may be missing."""
    unreadable: int
    told_until: int | None
    """Below it lies all that the log held at the instant (None: at last); None: nobody asked for it afterwards."""
    read_until: int
    """Below it everything was read that the archive has."""
    compacted: bool
    """Something of it was captured after it had been compacted: whole transactions may be missing."""

    @property
    def complete(self) -> bool:
        """No transaction can be missing that was decided at the instant and not over before what was read."""
        if self.told_until is None or self.told_until > self.read_until or self.compacted or self.unreadable:
            return False
        return all(one.first_offset >= self.told_until for one in self.lost)


async def transactions_of(
    archive: Archive,
    id: PartitionId,
    at_ms: int | None,
    *,
    wanted: Callable[[LoggedTransaction], bool] | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    settled_below: int = 0,
    read_ahead_bytes: int = READ_AHEAD_BYTES,
) -> TransactionsOfPartition:
    """The transactions of one partition of `__transaction_state`, and where it stood at `at_ms` (None: at last).

    Memory is bounded by the read-ahead, one transaction for each transactional id, and what is `wanted`. Damage and
    gaps are told in the answer and never raised.

    Args:
        archive: opened at least for this topic.
        wanted: which transactions are kept, say by producer id; None: all.
        since_ms: read from the cut at that instant on; None: from the beginning. No transaction is longer than the
            brokers' `transaction.max.timeout.ms` (15 min): of one begun earlier, Prepare still names all partitions.
        until_ms: read up to the cut at that instant; None, or where another log was there by then: to the end of what
            was captured.
        settled_below: as of `TransactionFold`.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """
    evidence = await asyncio.to_thread(archive.evidence, id)
    cut = cut_at(evidence, at_ms)
    history = build_history(evidence, None if cut is None else cut.branch)
    since = None if since_ms is None else cut_at(evidence, since_ms)
    until = None if until_ms is None else cut_at(evidence, until_ms)
    # A log that was cut back in between has other records at those offsets, and may be shorter than that of then.
    same_log = until is not None and until.branch == history.branch
    next_offset = until.next_offset if until is not None and same_log else history.next_offset
    fold = TransactionFold(id.partition, settled_below=settled_below)
    found: list[LoggedTransaction] = []
    reading = read_coordinator_log(
        archive,
        history,
        first_offset=since.next_offset if since is not None and since.branch == history.branch else 0,
        next_offset=next_offset,
        read_ahead_bytes=read_ahead_bytes,
    )
    async with aclosing(reading):
        async for item in reading:
            found += [one for one in fold.feed(item) if wanted is None or wanted(one)]
    found += [one for one in fold.still_open() if wanted is None or wanted(one)]
    return TransactionsOfPartition(
        id=id,
        cut=cut,
        transactions=tuple(found),
        lost=tuple(fold.lost),
        unreadable=fold.unreadable,
        told_until=_told_until(history, evidence, cut, at_ms),
        read_until=next_offset,
        compacted=fold.compacted,
    )


def _told_until(
    history: PartitionHistory, evidence: PartitionEvidence, cut: Cut | None, at_ms: int | None
) -> int | None:
    if at_ms is None or cut is None:
        return None if cut is None else cut.next_offset
    later = told_after(evidence, at_ms)
    # A log that was cut back since has other records at those offsets.
    return later.high_watermark if later is not None and history.branch == max(history.branches) else None
