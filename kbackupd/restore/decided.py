"""Which transactions whose markers lie beyond a partition's cut were decided by an instant. Pure.

A producer's transactions come one after the other: the next begins when all markers of the last are written. So one
piece of evidence settles all before it, and what is left to find out is the order. The coordinator's log has it. Where
it is missing, marker epochs have it for clients that raise them with each transaction (KIP-890), for others nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from kbackupd.archive.transaction_fold import Decision, LoggedTransaction
from kbackupd.archive.transaction_owners import CLOCKS_NEVER_APART_MS, TransactionOwners
from kbackupd.model.positions import PartitionId
from kbackupd.restore.instant import AmbiguousTransaction, DecidedTransactions
from kbackupd.restore.told import Facts, LeftOpen, LogOfCoordinators, Marker

CLOCKS_APART_MS = 1_000
"""Between brokers that are synchronised; a marker farther from its transaction by their clocks belongs to another."""
NO_LOG = (
    "its producer uses one epoch for many transactions, and __transaction_state of then, which could tell them apart,"
    " is not in the archive, or not all of it"
)
NOT_TOLD_APART = "its producer uses one epoch for many transactions, and by their times its marker may be of several"

DECISION_LACKING = "what decided it is not in what the archive has of __transaction_state, which tells of its end alone"


class Owned(NamedTuple):
    """Which of its transactional id's transactions, by its place in their order."""

    transactional_id: str
    place: int


class _Possible(NamedTuple):
    """The transactions that a marker can be of, by all that is known."""

    owners: tuple[Owned, ...]
    surely: bool
    """It is one of them; else it may also be of one that the log does not tell of."""


_OF_NONE = _Possible((), False)


class Decisions:
    """Asked once for what must be read of the archive, and then, with that, for what was decided.

    Args:
        beyond: commit markers at or beyond their partitions' cuts, which may be of transactions decided by then.
        below: of each partition and producer of those, the last marker below the cut, whatever its outcome.
        left_open: what capture ended in the middle of, begun by the instant.
        names: topic of a partition.
        log: None: not captured by then.
        heard_ms: when a leader first told of the marker at that offset; None: not known.
    """

    def __init__(
        self,
        beyond: Iterable[Marker],
        below: Iterable[tuple[Marker, bool]],
        left_open: Iterable[LeftOpen] = (),
        *,
        names: Mapping[PartitionId, str],
        log: LogOfCoordinators | None,
        heard_ms: Callable[[Marker], int | None] = lambda _: None,
    ) -> None:
        self._beyond = sorted(beyond, key=lambda one: (one.id, one.offset))
        self._below = list(below)
        self._last_below = {marker for marker, _ in self._below}
        self._left_open = list(left_open)
        self._open_epochs = {(data.producer_id, data.producer_epoch) for data in self._left_open}
        self._names = names
        self._log = log
        self._heard_ms = heard_ms
        told = () if log is None else log.transactions
        self._owners = TransactionOwners(told)
        self._places: dict[LoggedTransaction, Owned] = {}
        counted: dict[str, int] = {}
        for one in told:
            place = counted[one.transactional_id] = counted.get(one.transactional_id, -1) + 1
            self._places[one] = Owned(one.transactional_id, place)
        ends = {} if log is None else log.next_offsets
        self._untold = {
            owned
            for one, owned in self._places.items()
            if one.decision_at(ends.get(one.log_partition, 0)) is Decision.UNKNOWN
        }
        """Of these the log tells, and not whether they were decided by then."""

    def asks_time(self) -> Iterator[Marker]:
        """Markers of which the timestamp is needed: those that by their epoch may be of several transactions."""
        for marker, committed in self._below:
            if not self._tells_nothing_new(marker) and self._is_of_several(marker, committed=committed):
                yield marker
        for marker in self._beyond:
            if self._is_of_several(marker, committed=True):
                yield marker
        yield from (one.last for one in self._left_open if one.last is not None and self._log is not None)

    def asks_epoch(self) -> Iterator[Marker]:
        """Markers of which the epoch of the data before them is needed: those of which only epochs can tell."""
        epochs = self._last_epochs()
        for marker in self._beyond:
            last = epochs.get(marker.producer_id, -1)
            if marker.producer_epoch == last and not self._log_is_complete(marker.producer_id):
                yield marker
        for marker, _ in self._below:
            # Where it raised the epoch of its data, data of that epoch elsewhere had the same end.
            if (marker.producer_id, marker.producer_epoch - 1) in self._open_epochs:
                yield marker

    def decided(self, facts: Facts) -> Mapping[PartitionId, DecidedTransactions]:
        """What was decided by the instant, of each partition of which there is anything to say."""
        frontier = self._frontier(facts)
        epochs = self._last_epochs(frontier)
        completed: dict[PartitionId, dict[int, int]] = {}
        doubtful: dict[PartitionId, list[AmbiguousTransaction]] = {}
        before = {(marker.id, marker.producer_id): self._owner(marker, facts, committed=c) for marker, c in self._below}
        for marker in self._beyond:
            possible = self._possible(marker, facts, committed=True, after=before.get((marker.id, marker.producer_id)))
            if possible.surely and len(possible.owners) == 1:
                before[marker.id, marker.producer_id] = possible.owners[0]
            verdict = self._verdict(marker, possible, facts, frontier, epochs)
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
        aborted: dict[PartitionId, list[int]] = {}
        for data in self._left_open:
            decision = self._decision_of(data, facts, frontier)
            if decision is Decision.COMMITTED:
                completed.setdefault(data.id, {})[data.producer_id] = data.next_offset
                unmarked.setdefault(data.id, []).append(data.producer_id)
            elif decision is Decision.ABORTED:
                aborted.setdefault(data.id, []).append(data.producer_id)
        return {
            id: DecidedTransactions(
                completed=completed.get(id, {}),
                unmarked=tuple(sorted(unmarked.get(id, ()))),
                aborted=tuple(sorted(aborted.get(id, ()))),
                # One before another that was decided was decided itself.
                ambiguous=tuple(
                    one
                    for one in doubtful.get(id, ())
                    if one.marker_offset > completed.get(id, {}).get(one.producer_id, -1)
                ),
            )
            for id in {**completed, **doubtful, **aborted}
        }

    def _partition(self, id: PartitionId) -> tuple[str, int]:
        return self._names[id], id.partition

    def _candidates(self, marker: Marker, *, committed: bool) -> list[LoggedTransaction]:
        """Two at most: there is none, or one, or time must tell."""
        partition = self._partition(marker.id)
        found = self._owners.ended_with(marker.producer_id, marker.producer_epoch, partition, committed=committed)
        return list(islice(found, 2))

    def _is_of_several(self, marker: Marker, *, committed: bool) -> bool:
        found = self._candidates(marker, committed=committed)
        return bool(found) and not (len(found) == 1 and found[0].has_its_own_epoch)

    def _tells_nothing_new(self, marker: Marker) -> bool:
        """It was there before its coordinator's log was heard of, so that log tells of it, and of all before it."""
        told = self._owners.of_producer(marker.producer_id)
        if self._log is None or not told or not self._owners.all_over(marker.producer_id):
            return False
        heard_ms, sent_ms = self._heard_ms(marker), self._log.sent_ms.get(told[0].log_partition)
        return heard_ms is not None and sent_ms is not None and heard_ms <= sent_ms

    def _log_is_complete(self, producer_id: int) -> bool:
        if self._log is None:
            return False
        told = self._owners.of_producer(producer_id)
        return told[0].log_partition in self._log.complete if told else self._log.is_complete

    def _possible(self, marker: Marker, facts: Facts, *, committed: bool, after: Owned | None = None) -> _Possible:
        """`after`: whose marker came before it in that partition; each transaction has one."""
        found = self._candidates(marker, committed=committed)
        if not found:
            return _OF_NONE
        if len(found) == 1 and found[0].has_its_own_epoch:
            return _Possible((self._places[found[0]],), True)
        of, partition = (marker.producer_id, marker.producer_epoch), self._partition(marker.id)
        at_ms = facts.marker_ms.get((marker.id, marker.offset))
        if at_ms is None:
            all_of_them = self._owners.ended_with(*of, partition, committed=committed)
            return _Possible(tuple(self._places[one] for one in all_of_them), False)
        told: list[tuple[int, Owned]] = []
        # Of a busy producer the next minute holds hundreds, and the next second nearly always the one.
        complete = self._log_is_complete(marker.producer_id)
        for within_ms in (2 * CLOCKS_APART_MS, CLOCKS_NEVER_APART_MS) if complete else (CLOCKS_NEVER_APART_MS,):
            near = self._owners.about(*of, partition, committed=committed, timestamp_ms=at_ms, within_ms=within_ms)
            told = [(off_by_ms, self._places[one]) for off_by_ms, one in near]
            told = [(off_by_ms, owned) for off_by_ms, owned in told if not _is_over(owned, after)]
            if told and told[0][0] <= CLOCKS_APART_MS:
                break
        if not told:
            return _OF_NONE
        nearest_ms = told[0][0]
        within = tuple(owned for off_by_ms, owned in told if off_by_ms == 0)
        if within:
            # Between its own Prepare and Complete a marker can be of no other.
            return _Possible(within, True)
        close = tuple(owned for off_by_ms, owned in told if off_by_ms <= nearest_ms + CLOCKS_APART_MS)
        if nearest_ms <= CLOCKS_APART_MS and complete:
            return _Possible(close, True)
        return _Possible(tuple(owned for _, owned in told), False)

    def _owner(self, marker: Marker, facts: Facts, *, committed: bool) -> Owned | None:
        """The first of the transactions that it can be of; None: the log does not tell of it for certain."""
        possible = self._possible(marker, facts, committed=committed)
        return min(possible.owners, key=lambda one: one.place) if possible.surely else None

    def _decision_of(self, data: LeftOpen, facts: Facts, frontier: Mapping[str, int]) -> Decision:
        """What the log tells of its transaction by then, though its marker was never captured."""
        before, certain = None, True
        if data.last is not None:
            possible = self._possible(data.last, facts, committed=data.last_committed)
            before = possible.owners[0] if possible.surely and len(possible.owners) == 1 else None
            certain = before is not None or (not possible.owners and self._log_is_complete(data.producer_id))
            if certain and before is None and data.last not in self._last_below:
                # A whole log does not tell of the one before: it came later than what was read, and so did this one.
                return Decision.OPEN
        perhaps: set[Decision] = set()
        for one in self._owners.of_data(data.producer_id, data.producer_epoch, self._partition(data.id)):
            owned = self._places[one]
            if not one.has_its_own_epoch:
                if not certain:
                    return Decision.UNKNOWN
                if _is_over(owned, before):
                    continue
                if one.completed is not None and not one.partitions_known:
                    # Of its end alone nobody knows that it ever was here.
                    perhaps.add(one.decision)
                    continue
            # The first that the last marker did not end: a later one's data would follow this one's marker.
            decision = one.decision if self._is_decided(owned, frontier) else Decision.OPEN
            return decision if perhaps <= {decision} else Decision.UNKNOWN
        return self._by_epoch(data, facts)

    def _by_epoch(self, data: LeftOpen, facts: Facts) -> Decision:
        """What a marker elsewhere tells of it, that ended data of the same epoch and raised it."""
        for marker, committed in self._below:
            ended_epoch = facts.data_epochs.get((marker.id, marker.offset))
            same = marker.producer_id == data.producer_id and ended_epoch == data.producer_epoch
            if same and marker.producer_epoch == data.producer_epoch + 1:
                return Decision.COMMITTED if committed else Decision.ABORTED
        return Decision.UNKNOWN

    @staticmethod
    def _is_decided(one: Owned, frontier: Mapping[str, int]) -> bool:
        return one.place <= frontier.get(one.transactional_id, -1)

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
            if owner is not None:
                frontier[owner.transactional_id] = max(owner.place, frontier.get(owner.transactional_id, -1))
        return frontier

    def _last_epochs(self, frontier: Mapping[str, int] | None = None) -> dict[int, int]:
        """Producer id → the last marker epoch of which it is known that it was decided."""
        last: dict[int, int] = {}
        for marker, _ in self._below:
            last[marker.producer_id] = max(marker.producer_epoch, last.get(marker.producer_id, -1))
        for one, owned in self._places.items():
            if frontier is not None and self._is_decided(owned, frontier):
                last[one.producer_id] = max(one.marker_epoch, last.get(one.producer_id, -1))
        return last

    def _verdict(
        self,
        marker: Marker,
        possible: _Possible,
        facts: Facts,
        frontier: Mapping[str, int],
        epochs: Mapping[int, int],
    ) -> bool | str:
        """Whether its transaction was decided by then, or why nobody can tell."""
        last = epochs.get(marker.producer_id, -1)
        if marker.producer_epoch < last:
            return True
        decided = {self._is_decided(one, frontier) for one in possible.owners}
        if decided == {False} and not self._untold.isdisjoint(possible.owners):
            return DECISION_LACKING
        if possible.surely:
            return decided.pop() if len(decided) == 1 else NOT_TOLD_APART
        complete = self._log_is_complete(marker.producer_id)
        if possible.owners and True in decided:
            return NOT_TOLD_APART if complete else NO_LOG
        if complete or marker.producer_epoch > last:
            # One that the log does not tell of had not been decided.
            return False
        data_epoch = facts.data_epochs.get((marker.id, marker.offset), marker.producer_epoch)
        # An epoch that its own end has raised names one transaction.
        return True if data_epoch < marker.producer_epoch else NO_LOG


def _is_over(one: Owned, after: Owned | None) -> bool:
    return after is not None and one.transactional_id == after.transactional_id and one.place <= after.place
