"""Whose marker is it: from a control batch in a user's partition to the transaction in the coordinator's log.

Pure. Producer id, marker epoch, partition and outcome narrow it down; with an epoch for each transaction (KIP-890) to
one. Clients before that repeat all four, and only time is left: a coordinator writes Prepare, then has the markers
written, then writes Complete. The clocks are those of brokers, so the answer says by how much it was the nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kbackupd.archive.transaction_fold import Decision, LoggedTransaction

NO_OTHER_MS = (1 << 63) - 1
"""Margin where there is no second candidate."""


class Owner(NamedTuple):
    transaction: LoggedTransaction
    off_by_ms: int
    """How far the marker's time is from those of the transaction's Prepare and Complete records; 0: between them."""
    margin_ms: int
    """How much farther it is from those of any other. Below the skew of the brokers' clocks the answer is a guess."""


class TransactionOwners:
    """Everything the coordinators' logs tell of the producers somebody is interested in.

    Args:
        transactions: of one transactional id in the order of its log.
    """

    def __init__(self, transactions: Iterable[LoggedTransaction]) -> None:
        self._by_producer: dict[int, list[LoggedTransaction]] = {}
        for one in transactions:
            self._by_producer.setdefault(one.producer_id, []).append(one)

    def of_data(self, producer_id: int, producer_epoch: int, partition: tuple[str, int]) -> Iterator[LoggedTransaction]:
        """Those that may have written a data batch of that producer id and epoch into (topic, partition), in order."""
        for one in self._by_producer.get(producer_id, ()):
            if one.writes_with(producer_id, producer_epoch) and _may_cover(one, partition):
                yield one

    def ended_with(
        self, producer_id: int, marker_epoch: int, partition: tuple[str, int], *, committed: bool
    ) -> Iterator[LoggedTransaction]:
        """Those that such a marker in (topic, partition) may have ended, in order."""
        outcome = Decision.COMMITTED if committed else Decision.ABORTED
        for one in self._by_producer.get(producer_id, ()):
            if (
                one.decision in (outcome, Decision.UNKNOWN)
                and one.marker_epoch in (marker_epoch, -1)
                and _may_cover(one, partition)
            ):
                yield one

    def of_marker(
        self, producer_id: int, marker_epoch: int, partition: tuple[str, int], *, committed: bool, timestamp_ms: int
    ) -> Owner | None:
        """The transaction that a marker in (topic, partition) ended; None: the logs do not tell of it.

        Args:
            timestamp_ms: of the control batch.
        """
        distances = [
            (_distance_ms(one, timestamp_ms), number, one)
            for number, one in enumerate(self.ended_with(producer_id, marker_epoch, partition, committed=committed))
        ]
        if not distances:
            return None
        distances.sort()
        nearest, _, owner = distances[0]
        margin = distances[1][0] - nearest if len(distances) > 1 else NO_OTHER_MS
        return Owner(owner, nearest, margin)


def _may_cover(one: LoggedTransaction, partition: tuple[str, int]) -> bool:
    return partition in one.partitions or not one.partitions_known


def _distance_ms(one: LoggedTransaction, timestamp_ms: int) -> int:
    earliest = one.decided.at_ms if one.decided is not None else one.started_ms
    if timestamp_ms < earliest:
        return earliest - timestamp_ms
    # Not completed as far as the log goes: its markers may have been written at any later time.
    return max(0, timestamp_ms - one.completed.at_ms) if one.completed is not None else 0
