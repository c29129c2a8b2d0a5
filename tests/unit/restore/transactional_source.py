"""A source whose producers write transactions over several partitions, with its coordinator's log, and a brute model.

Every event happens at a moment of its own. The model is told each of them and answers, for an instant, with what a
restore must bring back, by the rule of docs/restore.md ("As of an instant") and by nothing that the product computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from kbackupd.model.coordinators import TRANSACTION_STATE, TransactionState
from kbackupd.model.positions import TopicId
from tests.archive_builder import ArchiveBuilder, Life, SourceLog
from tests.coordinator_logs import transaction

STEP_MS = 20
_COMMIT = (TransactionState.PREPARE_COMMIT, TransactionState.COMPLETE_COMMIT)
_ABORT = (TransactionState.PREPARE_ABORT, TransactionState.COMPLETE_ABORT)


@dataclass(slots=True)
class WrittenTransaction:
    """What the model knows of one."""

    producer: int
    number: int
    """Of its producer's, ascending."""
    data: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    """Partition → (offset, value) of each record."""
    started_ms: int = 0
    committed: bool | None = None
    prepared_offset: int | None = None
    """In the coordinator's log."""
    markers: dict[int, int] = field(default_factory=dict)
    """Partition → offset."""
    completed: bool = False


class TransactionalSource:
    """Topic `orders` and its producers; use `step` with what happens next.

    Args:
        own_epochs: producers raise their epoch with each transaction (KIP-890).
        brokers_ahead_ms: of the daemon, by their clocks.
        padding: behind every value.
    """

    def __init__(
        self,
        built: ArchiveBuilder,
        life: Life,
        partitions: int,
        *,
        own_epochs: bool,
        logged: bool,
        brokers_ahead_ms: int = 0,
        padding: bytes = b"",
    ) -> None:
        self.built, self.life = built, life
        self.brokers_ahead_ms, self.padding = brokers_ahead_ms, padding
        self.own_epochs, self.logged = own_epochs, logged
        self.partitions = partitions
        self.orders: TopicId = built.topic("orders", partitions=partitions)
        self.coordinators = built.topic(TRANSACTION_STATE, internal=True)
        self.transactions: list[WrittenTransaction] = []
        self.plain: dict[int, list[tuple[int, bytes]]] = {number: [] for number in range(partitions)}
        self.heard: list[tuple[int, int, int]] = []
        """(partition, answered_ms, high watermark); −1 is the coordinators' log."""
        life.see(self.orders)
        if logged:
            life.see(self.coordinators)

    @classmethod
    async def create(
        cls,
        partitions: int,
        *,
        own_epochs: bool = True,
        logged: bool = True,
        brokers_ahead_ms: int = 0,
        padding: bytes = b"",
    ) -> Self:
        built = await ArchiveBuilder.create()
        return cls(
            built,
            await built.start(),
            partitions,
            own_epochs=own_epochs,
            logged=logged,
            brokers_ahead_ms=brokers_ahead_ms,
            padding=padding,
        )

    def now(self) -> int:
        return self.built.clock.now_ms()

    def tick(self) -> int:
        self.built.clock.advance(STEP_MS / 1000)
        return self.now()

    def write_plain(self, partition: int) -> None:
        log = self.built.log(self.orders, partition)
        value = b"plain-%d-%d" % (partition, log.next_offset) + self.padding
        self.plain[partition].append((log.next_offset, value))
        log.append([value])

    def write(self, producer: int, partition: int) -> None:
        """A record in the producer's transaction, which begins with it; none while the last is not over."""
        current = self._current(producer)
        if current is not None and current.committed is not None:
            return
        if current is None:
            number = sum(one.producer == producer for one in self.transactions)
            current = WrittenTransaction(producer=producer, number=number, started_ms=self.now())
            self.transactions.append(current)
        log = self.built.log(self.orders, partition)
        value = b"tx-%d-%d-%d-%d" % (producer, current.number, partition, log.next_offset) + self.padding
        if partition not in current.data:
            current.data[partition] = []
            self._log(current, TransactionState.ONGOING, epoch=self._epoch(current))
        current.data[partition].append((log.next_offset, value))
        log.append([value], producer_id=producer, producer_epoch=self._epoch(current), transactional=True)

    def go_on(self, producer: int, *, commit: bool) -> None:
        """The next step of the transaction's end: decide it, write one of its markers, or complete it."""
        current = self._current(producer)
        if current is None:
            return
        epoch = self._epoch(current) + self.own_epochs
        if current.committed is None:
            current.committed = commit
            current.prepared_offset = self._coordinators().next_offset
            self._log(current, (_COMMIT if commit else _ABORT)[0], epoch=epoch)
            return
        left = [number for number in current.data if number not in current.markers]
        if left:
            log = self.built.log(self.orders, left[0])
            current.markers[left[0]] = log.next_offset
            log.end_transaction(
                producer,
                committed=current.committed,
                producer_epoch=epoch,
                timestamp_ms=self.now() + self.brokers_ahead_ms,
            )
            return
        self._log(current, (_COMMIT if current.committed else _ABORT)[1], epoch=epoch, partitions=False)
        current.completed = True

    def hear(self, partition: int, *, capture: bool) -> None:
        """The leader of one partition answers (−1: of the coordinators' log)."""
        topic, number = (self.coordinators, 0) if partition < 0 else (self.orders, partition)
        if partition < 0 and not self.logged:
            return
        if capture:
            self.life.capture(topic, number)
        else:
            self.life.sample(topic, number)
        self.heard.append((partition, self.now(), self.built.log(topic, number).next_offset))

    async def end(self) -> None:
        """Everything is captured and stored."""
        for number in range(-1, self.partitions):
            self.tick()
            self.hear(number, capture=True)
        await self.life.flush()

    def cut(self, partition: int, at_ms: int) -> int:
        return next((mark for one, ms, mark in reversed(self.heard) if one == partition and ms <= at_ms), 0)

    def decided(self, at_ms: int) -> list[WrittenTransaction]:
        """Those with evidence of their own by then, or of a later one of their producer."""
        proven = [one for one in self.transactions if self._proven(one, at_ms)]
        last = {one.producer: one.number for one in sorted(proven, key=lambda one: one.number)}
        return [one for one in self.transactions if one.number <= last.get(one.producer, -1)]

    def state(self, at_ms: int) -> dict[int, list[bytes]]:
        """What a restore must bring back: partition → values in order."""
        found = {
            number: [row for row in self.plain[number] if row[0] < self.cut(number, at_ms)]
            for number in range(self.partitions)
        }
        for one in self.decided(at_ms):
            if one.committed:
                for number, rows in one.data.items():
                    found[number] += rows
        return {number: [value for _, value in sorted(rows)] for number, rows in found.items()}

    def _proven(self, one: WrittenTransaction, at_ms: int) -> bool:
        if any(offset < self.cut(number, at_ms) for number, offset in one.markers.items()):
            return True
        logged = self.logged and one.prepared_offset is not None
        return logged and (one.prepared_offset or 0) < self.cut(-1, at_ms)

    def _current(self, producer: int) -> WrittenTransaction | None:
        return next((one for one in self.transactions if one.producer == producer and not one.completed), None)

    def _epoch(self, one: WrittenTransaction) -> int:
        return one.number if self.own_epochs else 0

    def _coordinators(self) -> SourceLog:
        return self.built.log(self.coordinators, 0)

    def _log(self, one: WrittenTransaction, state: TransactionState, *, epoch: int, partitions: bool = True) -> None:
        transaction(
            self.built.log(self.coordinators, 0),
            f"tx-{one.producer}",
            state,
            producer_id=one.producer,
            producer_epoch=epoch,
            partitions=[("orders", number) for number in sorted(one.data)] if partitions else (),
            started_ms=one.started_ms + self.brokers_ahead_ms,
            updated_ms=self.now() + self.brokers_ahead_ms,
            client_version=2 if self.own_epochs else 0,
        )
