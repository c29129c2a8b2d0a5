"""Whose marker is it: from a control batch in a user's partition to the transaction in the coordinator's log.

Pure. Producer id, marker epoch, partition and outcome narrow it down; with an epoch for each transaction (KIP-890) to
one. Clients before that repeat all four, and only time is left: a coordinator writes Prepare, then has the markers
written, then writes Complete. The clocks are those of brokers, so the answer says by how much it was the nearest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from kbackupd.archive.transaction_fold import Decision, LoggedTransaction

CLOCKS_NEVER_APART_MS = 60_000
"""A marker that is farther from a transaction, by the clocks of two brokers, is of another one."""
_FOR_EVER_MS = (1 << 63) - 1


class _Story:
    """One producer id's transactions in the order of its log, found by time without looking at all of them."""

    __slots__ = ("_begun_until_ms", "_ended_until_ms", "all_over", "began_ms", "ended_ms", "transactions")

    def __init__(self, transactions: list[LoggedTransaction]) -> None:
        self.transactions = transactions
        self.began_ms = [one.started_ms if one.decided is None else one.decided.at_ms for one in transactions]
        following = [one.started_ms for one in transactions[1:]] + [_FOR_EVER_MS]
        # Not completed as far as the log goes: its markers may have been written until the next one began.
        self.ended_ms = [
            max(began, after if one.completed is None else one.completed.at_ms)
            for one, began, after in zip(transactions, self.began_ms, following, strict=True)
        ]
        self.all_over = all(one.completed is not None for one in transactions)
        self._begun_until_ms = list(accumulate(self.began_ms, max))
        self._ended_until_ms = list(accumulate(self.ended_ms, max))

    def about(self, at_ms: int, within_ms: int) -> range:
        """Places of all that are no farther from that time, and of a few others."""
        first = bisect_right(self._ended_until_ms, at_ms - within_ms - 1)
        return range(first, bisect_right(self._begun_until_ms, at_ms + within_ms))

    def distance_ms(self, place: int, at_ms: int) -> int:
        return max(self.began_ms[place] - at_ms, at_ms - self.ended_ms[place], 0)


class TransactionOwners:
    """Everything the coordinators' logs tell of the producers somebody is interested in.

    Args:
        transactions: of one transactional id in the order of its log.
    """

    def __init__(self, transactions: Iterable[LoggedTransaction]) -> None:
        by_producer: dict[int, list[LoggedTransaction]] = {}
        self._of_epoch: dict[tuple[int, int], list[LoggedTransaction]] = {}
        for one in transactions:
            by_producer.setdefault(one.producer_id, []).append(one)
            self._of_epoch.setdefault((one.producer_id, one.marker_epoch), []).append(one)
        self._stories = {producer_id: _Story(told) for producer_id, told in by_producer.items()}

    def of_producer(self, producer_id: int) -> list[LoggedTransaction]:
        """All of that producer id, in order."""
        story = self._stories.get(producer_id)
        return [] if story is None else story.transactions

    def all_over(self, producer_id: int) -> bool:
        """All of that producer id are completed."""
        story = self._stories.get(producer_id)
        return story is None or story.all_over

    def of_data(self, producer_id: int, producer_epoch: int, partition: tuple[str, int]) -> Iterator[LoggedTransaction]:
        """Those that may have written a data batch of that producer id and epoch into (topic, partition), in order."""
        for one in self.of_producer(producer_id):
            if one.writes_with(producer_id, producer_epoch) and _may_cover(one, partition):
                yield one

    def ended_with(
        self, producer_id: int, marker_epoch: int, partition: tuple[str, int], *, committed: bool
    ) -> Iterator[LoggedTransaction]:
        """Those that such a marker in (topic, partition) may have ended; take as many as are needed."""
        for epoch in dict.fromkeys((marker_epoch, -1)):
            for one in self._of_epoch.get((producer_id, epoch), ()):
                if _may_end(one, marker_epoch, partition, committed=committed):
                    yield one

    def about(
        self,
        producer_id: int,
        marker_epoch: int,
        partition: tuple[str, int],
        *,
        committed: bool,
        timestamp_ms: int,
        within_ms: int = CLOCKS_NEVER_APART_MS,
    ) -> list[tuple[int, LoggedTransaction]]:
        """(distance in milliseconds, transaction) of those that such a marker of that time may have ended.

        The nearest first; empty: none `within_ms`.
        """
        story = self._stories.get(producer_id)
        if story is None:
            return []
        found = [
            (distance, place)
            for place in story.about(timestamp_ms, within_ms)
            if (distance := story.distance_ms(place, timestamp_ms)) <= within_ms
            and _may_end(story.transactions[place], marker_epoch, partition, committed=committed)
        ]
        return [(distance, story.transactions[place]) for distance, place in sorted(found)]


def _may_end(one: LoggedTransaction, marker_epoch: int, partition: tuple[str, int], *, committed: bool) -> bool:
    outcome = Decision.COMMITTED if committed else Decision.ABORTED
    return (
        one.decision in (outcome, Decision.UNKNOWN)
        and one.marker_epoch in (marker_epoch, -1)
        and _may_cover(one, partition)
    )


def _may_cover(one: LoggedTransaction, partition: tuple[str, int]) -> bool:
    return partition in one.partitions or not one.partitions_known
