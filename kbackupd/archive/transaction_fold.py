"""From the records of one partition of `__transaction_state` to transactions: which was decided, when, over what.

Pure. A transactional id's records are one story: Ongoing (again for every partition that joins), Prepare, Complete, and
from the start. What makes two records speak of one transaction is its start time, which every one of them carries. The
producer id and epoch do not: clients before transaction version 2 keep both over many transactions, later ones end each
with the next epoch (KIP-890), a coordinator that fences or times out does so for any client, and where epochs run out
the Complete record bears another producer id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from kbackupd.archive.coordinator_items import (
    CoordinatorBatch,
    CoordinatorMarker,
    CoordinatorRecord,
    LogItem,
    LostRange,
)
from kbackupd.format.coordinator_fields import UnknownRecordError
from kbackupd.format.records import MalformedRecordError
from kbackupd.format.transaction_log import decode_transaction, decode_transactional_id
from kbackupd.model.coordinators import TransactionEntry, TransactionState

_EPOCH_PER_TRANSACTION = 2
"""Client transaction version from which on every transaction has an epoch of its own (KIP-890)."""


class Decision(StrEnum):
    COMMITTED = "committed"
    ABORTED = "aborted"
    OPEN = "open"
    """Not decided by then."""
    UNKNOWN = "unknown"
    """What decided it is not in the archive, or not placed."""


class Step(NamedTuple):
    """A record of the coordinator's log, and when it was appended, by the coordinator's clock.

    Not the update time inside the record: that of Complete is taken before the first marker is written.
    """

    offset: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedTransaction:
    """One transaction as its coordinator's log tells it."""

    transactional_id: str
    log_partition: int
    """Of `__transaction_state`: offsets in steps are of this partition, and so is the cut they are compared with."""
    producer_id: int
    producer_epoch: int
    """Of its data; −1 where no record says so for certain (its beginning is not in the log)."""
    marker_epoch: int
    """Of its markers; −1 until it is decided, or where that record is missing."""
    client_version: int
    partitions: frozenset[tuple[str, int]]
    """(topic, partition), of `__consumer_offsets` too where groups' positions are part of it."""
    partitions_known: bool
    """False: they are at least these."""
    started_ms: int
    begun: Step | None = None
    decided: Step | None = None
    completed: Step | None = None
    decision: Decision = Decision.OPEN

    def decision_at(self, next_offset: int) -> Decision:
        """What was decided below that offset of its coordinator's log, whatever came later."""
        if self.decided is not None:
            return self.decision if self.decided.offset < next_offset else Decision.OPEN
        if self.begun is not None and self.begun.offset >= next_offset:
            return Decision.OPEN
        if self.completed is not None:
            # It was decided before it was completed, but nobody knows how long before.
            return self.decision if self.completed.offset < next_offset else Decision.UNKNOWN
        return self.decision

    def writes_with(self, producer_id: int, producer_epoch: int) -> bool:
        """Data of that producer id and epoch may be of this transaction."""
        if producer_id != self.producer_id:
            return False
        if self.producer_epoch >= 0:
            return producer_epoch == self.producer_epoch
        return self.marker_epoch < 0 or producer_epoch in (self.marker_epoch, self.marker_epoch - 1)

    @property
    def has_its_own_epoch(self) -> bool:
        """(producer id, epoch) names this transaction and no other."""
        return self.client_version >= _EPOCH_PER_TRANSACTION


_ENDINGS = {
    TransactionState.PREPARE_COMMIT: Decision.COMMITTED,
    TransactionState.PREPARE_ABORT: Decision.ABORTED,
    TransactionState.COMPLETE_COMMIT: Decision.COMMITTED,
    TransactionState.COMPLETE_ABORT: Decision.ABORTED,
}
_PREPARED = (TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT)
_COMPLETED = (TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT)


@dataclass(slots=True)
class TransactionFold:
    """Fed with one partition's log in order; memory grows with the transactional ids that are in a transaction.

    Args:
        log_partition: of `__transaction_state`.
        settled_below: of what lies below this offset only the last record of each id is looked at, as compaction would
            leave it. It tells what was under way there, its partitions included; what was over is not told in full.
    """

    log_partition: int
    settled_below: int = 0
    lost: list[LostRange] = field(default_factory=list)
    """Whole transactions may be missing there, and steps of others."""
    unreadable: int = 0
    """Records that this version cannot read: newer than it, or malformed."""
    compacted: bool = False
    """It was compacted before it was captured: whole transactions may be missing."""
    _open: dict[str, LoggedTransaction] = field(default_factory=dict)
    _last_settled: dict[bytes, CoordinatorRecord] = field(default_factory=dict)

    def feed(self, item: LogItem) -> Iterator[LoggedTransaction]:
        """Take the next item in; yields the transactions that are over with it."""
        match item:
            case CoordinatorBatch():
                self.compacted |= item.compacted
                for record in item.records:
                    if record.offset < self.settled_below:
                        self._last_settled[record.key] = record
                        continue
                    yield from self._settled()
                    yield from self._record(record)
            case LostRange():
                yield from self._settled()
                self._lose(item)
            case CoordinatorMarker():
                pass

    def still_open(self) -> Iterator[LoggedTransaction]:
        """What had not been completed where the log ends, decided or not."""
        yield from self._settled()
        yield from self._open.values()

    def _settled(self) -> Iterator[LoggedTransaction]:
        last, self._last_settled = self._last_settled, {}
        for record in sorted(last.values(), key=lambda one: one.offset):
            yield from self._record(record)

    def _lose(self, lost: LostRange) -> None:
        """Whatever was under way may have grown or ended there; a later record of it says so."""
        self.lost.append(lost)
        for name, told in self._open.items():
            if told.decided is None:
                self._open[name] = _doubtful(told)

    def _record(self, record: CoordinatorRecord) -> Iterator[LoggedTransaction]:
        try:
            name = decode_transactional_id(record.key)
            entry = None if record.value is None else decode_transaction(record.value)
        except (MalformedRecordError, UnknownRecordError):
            self.unreadable += 1
            return
        current = self._open.get(name)
        if current is not None and (entry is None or not _continues(current, entry)):
            # Its end is lost: between Ongoing and another beginning of the same id there is always a decision.
            del self._open[name]
            yield current if current.decided is not None else _doubtful(current)
            current = None
        if entry is None or entry.state in (TransactionState.EMPTY, TransactionState.DEAD):
            return
        step = Step(record.offset, record.timestamp_ms)
        told = current or self._begun(name, entry)
        if entry.state is TransactionState.ONGOING:
            told = replace(
                told,
                partitions=told.partitions | frozenset(entry.partitions),
                begun=told.begun or step,
                client_version=max(told.client_version, entry.client_version),
            )
        elif entry.state in _PREPARED:
            told = _decided(told, entry, step)
        elif entry.state in _COMPLETED:
            self._open.pop(name, None)
            # Only the Prepare record names all partitions.
            known = told.partitions_known and told.decided is not None
            yield replace(told, completed=step, decision=_ENDINGS[entry.state], partitions_known=known)
            return
        self._open[name] = told

    def _begun(self, name: str, entry: TransactionEntry) -> LoggedTransaction:
        """A transaction that is first heard of in `entry`."""
        completed = entry.state in _COMPLETED
        producer_id, marker_epoch, data_epoch = entry.producer_id, -1, -1
        if completed and entry.producer_epoch == 0 and entry.previous_producer_id not in (-1, producer_id):
            # Epochs ran out, and this record is of the next producer id already.
            producer_id = entry.previous_producer_id
        else:
            marker_epoch = entry.producer_epoch if completed else -1
            if entry.state is TransactionState.ONGOING:
                data_epoch = entry.producer_epoch
            elif _ENDINGS.get(entry.state) is Decision.COMMITTED:
                # Only clients commit: the epoch is raised by it, or it is not. With aborts one cannot tell.
                data_epoch = entry.producer_epoch - (entry.client_version >= _EPOCH_PER_TRANSACTION)
        return LoggedTransaction(
            transactional_id=name,
            log_partition=self.log_partition,
            producer_id=producer_id,
            producer_epoch=data_epoch,
            marker_epoch=marker_epoch,
            client_version=entry.client_version,
            partitions=frozenset(entry.partitions),
            partitions_known=not completed,
            started_ms=entry.started_ms,
        )


def _doubtful(told: LoggedTransaction) -> LoggedTransaction:
    return replace(told, decision=Decision.UNKNOWN, partitions_known=False)


def _continues(current: LoggedTransaction, entry: TransactionEntry) -> bool:
    """Whether `entry` speaks of the transaction that is under way."""
    if entry.state in (TransactionState.EMPTY, TransactionState.DEAD):
        return False
    return entry.started_ms == current.started_ms and (
        current.decided is None or entry.state is not TransactionState.ONGOING
    )


def _decided(told: LoggedTransaction, entry: TransactionEntry, step: Step) -> LoggedTransaction:
    return replace(
        told,
        partitions=told.partitions | frozenset(entry.partitions),
        marker_epoch=entry.producer_epoch,
        client_version=max(told.client_version, entry.client_version),
        decided=told.decided or step,
        decision=_ENDINGS[entry.state],
        partitions_known=True,
    )
