"""Which transactions whose markers lie beyond a partition's cut were decided by an instant. Pure.

A producer's transactions come one after the other: the next begins when all markers of the last are written. So one
piece of evidence settles all before it, and what is left to find out is the order. The coordinator's log has it. Where
it is missing, marker epochs have it for clients that raise them with each transaction (KIP-890), for others nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kbackupd.archive.transaction_fold import Decision, LoggedTransaction
from kbackupd.archive.transaction_owners import TransactionOwners
from kbackupd.model.positions import PartitionId
from kbackupd.restore.instant import AmbiguousTransaction, DecidedTransactions

CLOCKS_APART_MS = 1_000
"""Between brokers that are synchronised; a marker farther from its transaction by their clocks belongs to another."""
NO_LOG = (
    "its producer uses one epoch for many transactions, and __transaction_state of then, which could tell them apart,"
    " is not in the archive"
)
NOT_TOLD_APART = "its producer uses one epoch for many transactions, and by their times its marker may be of several"


class Marker(NamedTuple):
    """A commit marker in a user's partition."""

    id: PartitionId
    offset: int
    producer_id: int
    producer_epoch: int


class LeftOpen(NamedTuple):
    """Data of a producer in a user's partition, of which the archive holds no marker."""

    id: PartitionId
    producer_id: int
    producer_epoch: int
    """Of the data."""
    next_offset: int
    """Where what was captured of the partition ends."""
    last: Marker | None
    """The producer's last marker there, of whatever outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOfCoordinators:
    """What `__transaction_state` tells: each partition's transactions, and how far it went at the instant."""

    transactions: tuple[LoggedTransaction, ...] = ()
    next_offsets: Mapping[int, int]
    """Cuts by partition; one that is not here had not been heard of by then."""


class Owned(NamedTuple):
    """Which of its transactional id's transactions, by its place in their order."""

    transactional_id: str
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was read of single batches."""

    marker_ms: Mapping[tuple[PartitionId, int], int]
    """(partition, offset of a marker) → its timestamp."""
    data_epochs: Mapping[tuple[PartitionId, int], int]
    """(partition, offset of a marker) → producer epoch of the data it ended."""


NOTHING_READ = Facts(marker_ms={}, data_epochs={})


class Decisions:
    """Asked once for what must be read of the archive, and then, with that, for what was decided.

    Args:
        beyond: commit markers at or beyond their partitions' cuts, which may be of transactions decided by then.
        below: of each partition and producer of those, the last marker below the cut, whatever its outcome.
        left_open: what capture ended in the middle of, begun by the instant.
        names: topic of a partition.
        log: None: not captured by then.
    """

    def __init__(
        self,
        beyond: Iterable[Marker],
        below: Iterable[tuple[Marker, bool]],
        left_open: Iterable[LeftOpen] = (),
        *,
        names: Mapping[PartitionId, str],
        log: LogOfCoordinators | None,
    ) -> None:
        self._beyond = sorted(beyond, key=lambda one: (one.id, one.offset))
        self._below = list(below)
        self._left_open = list(left_open)
        self._names = names
        self._log = log
        told = () if log is None else log.transactions
        self._owners = TransactionOwners(told)
        self._places: dict[LoggedTransaction, Owned] = {}
        counted: dict[str, int] = {}
        for one in told:
            place = counted[one.transactional_id] = counted.get(one.transactional_id, -1) + 1
            self._places[one] = Owned(one.transactional_id, place)

    def asks_time(self) -> Iterator[Marker]:
        """Markers of which the timestamp is needed: those that by their epoch may be of several transactions."""
        for marker in (*self._beyond, *(marker for marker, _ in self._below)):
            found = self._candidates(marker, committed=True) or self._candidates(marker, committed=False)
            if found and not (len(found) == 1 and found[0].has_its_own_epoch):
                yield marker
        yield from (one.last for one in self._left_open if one.last is not None and self._log is not None)

    def asks_epoch(self) -> Iterator[Marker]:
        """Markers of which the epoch of the data before them is needed: those of which only epochs can tell."""
        epochs = self._last_epochs()
        for marker in self._beyond:
            last = epochs.get(marker.producer_id, -1)
            if marker.producer_epoch == last and not self._candidates(marker, committed=True):
                yield marker

    def decided(self, facts: Facts) -> Mapping[PartitionId, DecidedTransactions]:
        """What was decided by the instant, of each partition of which there is anything to say."""
        frontier = self._frontier(facts)
        epochs = self._last_epochs(frontier)
        completed: dict[PartitionId, dict[int, int]] = {}
        doubtful: dict[PartitionId, list[AmbiguousTransaction]] = {}
        for marker in self._beyond:
            verdict = self._verdict(marker, facts, frontier, epochs)
            if verdict is True:
                completed.setdefault(marker.id, {})[marker.producer_id] = marker.offset
            elif verdict is not False:
                doubtful.setdefault(marker.id, []).append(
                    AmbiguousTransaction(
                        producer_id=marker.producer_id,
                        producer_epoch=marker.producer_epoch,
                        marker_offset=marker.offset,
                        reason=verdict,
                    )
                )
        unmarked: dict[PartitionId, list[int]] = {}
        for data in self._left_open:
            if self._committed(data, facts, frontier):
                completed.setdefault(data.id, {})[data.producer_id] = data.next_offset
                unmarked.setdefault(data.id, []).append(data.producer_id)
        return {
            id: DecidedTransactions(
                completed=completed.get(id, {}),
                unmarked=tuple(sorted(unmarked.get(id, ()))),
                # One before another that was decided was decided itself.
                ambiguous=tuple(
                    one
                    for one in doubtful.get(id, ())
                    if one.marker_offset > completed.get(id, {}).get(one.producer_id, -1)
                ),
            )
            for id in {**completed, **doubtful}
        }

    def _candidates(self, marker: Marker, *, committed: bool) -> list[LoggedTransaction]:
        partition = (self._names[marker.id], marker.id.partition)
        return list(self._owners.ended_with(marker.producer_id, marker.producer_epoch, partition, committed=committed))

    def _owner(self, marker: Marker, facts: Facts, *, committed: bool) -> Owned | str | None:
        """The transaction that it ended; None: the log does not tell of it; a text: why it is one of several."""
        found = self._candidates(marker, committed=committed)
        if len(found) == 1 and found[0].has_its_own_epoch:
            return self._places[found[0]]
        at_ms = facts.marker_ms.get((marker.id, marker.offset))
        if not found or at_ms is None:
            return NOT_TOLD_APART if found else None
        partition = (self._names[marker.id], marker.id.partition)
        owner = self._owners.of_marker(
            marker.producer_id, marker.producer_epoch, partition, committed=committed, timestamp_ms=at_ms
        )
        if owner is None or owner.off_by_ms > CLOCKS_APART_MS:
            return None
        # Within its own Prepare and Complete a marker can be of no other; beside them only if all others are far.
        certain = owner.margin_ms > (0 if owner.off_by_ms == 0 else CLOCKS_APART_MS)
        return self._places[owner.transaction] if certain else NOT_TOLD_APART

    def _committed(self, data: LeftOpen, facts: Facts, frontier: Mapping[str, int]) -> bool:
        """Whether the log tells that its transaction was committed by then, though its marker was never captured."""
        partition = (self._names[data.id], data.id.partition)
        last_ms = -1 if data.last is None else facts.marker_ms.get((data.id, data.last.offset))
        for one in self._owners.of_data(data.producer_id, data.producer_epoch, partition):
            if not one.has_its_own_epoch:
                if last_ms is None:
                    return False
                if one.decided is not None and one.decided.at_ms <= last_ms:
                    continue
            # The first that the last marker did not end: a later one's data would follow this one's marker.
            owned = self._places[one]
            decided = owned.place <= frontier.get(owned.transactional_id, -1)
            return decided and one.decision is Decision.COMMITTED
        return False

    def _frontier(self, facts: Facts) -> dict[str, int]:
        """Transactional id → the last of its transactions that was decided."""
        frontier: dict[str, int] = {}
        log = self._log
        if log is None:
            return frontier
        for one, owned in self._places.items():
            next_offset = log.next_offsets.get(one.log_partition, 0)
            if one.decision_at(next_offset) in (Decision.COMMITTED, Decision.ABORTED):
                frontier[owned.transactional_id] = owned.place
        for marker, committed in self._below:
            owner = self._owner(marker, facts, committed=committed)
            if isinstance(owner, Owned):
                frontier[owner.transactional_id] = max(owner.place, frontier.get(owner.transactional_id, -1))
        return frontier

    def _last_epochs(self, frontier: Mapping[str, int] | None = None) -> dict[int, int]:
        """Producer id → the last marker epoch of which it is known that it was decided."""
        last: dict[int, int] = {}
        for marker, _ in self._below:
            last[marker.producer_id] = max(marker.producer_epoch, last.get(marker.producer_id, -1))
        for one, owned in self._places.items():
            if frontier is not None and owned.place <= frontier.get(owned.transactional_id, -1):
                last[one.producer_id] = max(one.marker_epoch, last.get(one.producer_id, -1))
        return last

    def _verdict(
        self, marker: Marker, facts: Facts, frontier: Mapping[str, int], epochs: Mapping[int, int]
    ) -> bool | str:
        """Whether its transaction was decided by then, or why nobody can tell."""
        owner = self._owner(marker, facts, committed=True)
        if isinstance(owner, Owned):
            return owner.place <= frontier.get(owner.transactional_id, -1)
        last = epochs.get(marker.producer_id, -1)
        if marker.producer_epoch != last:
            return marker.producer_epoch < last
        if isinstance(owner, str):
            return owner
        data_epoch = facts.data_epochs.get((marker.id, marker.offset), marker.producer_epoch)
        # An epoch that its own end has raised names one transaction.
        return True if data_epoch < marker.producer_epoch else NO_LOG
