"""Every partition capture knows, where it is being fetched, and when a failed one is tried again.

One event loop owns it. Moving a partition between sessions, stopping it and starting it again all happen here, so
that a partition is wanted of one broker at most.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import structlog

from kbackupd.capture.partition import QUARANTINE_AFTER_FAILURES, PartitionCapture, SessionKind
from kbackupd.capture.waiting import woken
from kbackupd.kafka.errors import code_name
from kbackupd.model.clock import Clock
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems

NO_LEADER = "the partition has no leader"

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class CapturedTopic:
    """One incarnation of a topic."""

    id: TopicId
    name: str
    internal: bool
    partitions: int
    tier: str
    configs: dict[str, str]
    closed: bool = False
    returned: bool = False
    """It had been closed before: what is durable of that says nothing about a second time."""


class Place(Protocol):
    """A session loop, as the roster sees it."""

    def put(self, partition: PartitionCapture) -> None: ...

    def remove(self, id: PartitionId) -> None: ...


class Roster:
    """
    Args:
        place_for: the session loop for a broker and kind, started if need be.
    """

    def __init__(
        self, *, clock: Clock, metrics: Metrics, problems: Problems, place_for: Callable[[int, SessionKind], Place]
    ) -> None:
        self.partitions: dict[PartitionId, PartitionCapture] = {}
        self.topics: dict[TopicId, CapturedTopic] = {}
        self.names: dict[TopicId, str] = {}
        self.pauses: dict[str, None] = {}
        self.lookups: dict[PartitionId, None] = {}
        """Partitions whose position must be asked for (new ones, and those out of the log's range)."""
        self.lookup_wanted = asyncio.Event()
        self.metadata_wanted = asyncio.Event()
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._place_for = place_for
        self._of_topic: dict[TopicId, dict[PartitionId, None]] = {}
        self._placed: dict[PartitionId, Place] = {}
        self._retries: list[tuple[float, PartitionId]] = []
        self._waiting: dict[PartitionId, int] = {}
        """How many retries each failed partition has ahead."""
        self._retry_changed = asyncio.Event()
        self._halted = False

    def add(self, partition: PartitionCapture) -> None:
        self.partitions[partition.id] = partition
        self._of_topic.setdefault(partition.id.topic_id, {})[partition.id] = None
        partition.paused = self.is_paused(partition.topic)

    def is_paused(self, topic: str) -> bool:
        return any(fnmatchcase(topic, glob) for glob in self.pauses)

    def place(self, partition: PartitionCapture) -> None:
        """Have it fetched by the right session, or by none if it must not be."""
        self.unplace(partition)
        if partition.closed or partition.paused or self._halted:
            return
        if partition.leader_id < 0:
            self.metadata_wanted.set()
        elif partition.position < 0:
            self.want_lookup(partition)
        else:
            place = self._place_for(partition.leader_id, partition.kind)
            self._placed[partition.id] = place
            place.put(partition)

    def unplace(self, partition: PartitionCapture) -> None:
        place = self._placed.pop(partition.id, None)
        if place is not None:
            place.remove(partition.id)

    def settled(self, partition: PartitionCapture) -> bool:
        """Nothing is to be looked up for it: it is closed, or being fetched (where the leader says what is wrong)."""
        return partition.closed or partition.id in self._placed

    def halt(self) -> None:
        """From now on nothing is fetched: an operator's `resume` during the drain would keep it from ending."""
        self._halted = True
        for partition in self.partitions.values():
            self.unplace(partition)

    def want_lookup(self, partition: PartitionCapture) -> None:
        self.unplace(partition)
        self.lookups[partition.id] = None
        self.lookup_wanted.set()

    def fail(
        self, partition: PartitionCapture, reason: str, *, code: int, hint: str = "", refresh: bool = False
    ) -> None:
        """Stop fetching it, try again after its backoff; its neighbours go on.

        Args:
            code: Kafka's for it, whether a broker said so or we; the failure is counted under its name.
        """
        self.unplace(partition)
        delay = partition.failed(reason)
        self._metrics.partition_failed(code_name(code))
        heapq.heappush(self._retries, (self._clock.monotonic() + delay, partition.id))
        self._waiting[partition.id] = self._waiting.get(partition.id, 0) + 1
        self._retry_changed.set()
        if partition.failures == QUARANTINE_AFTER_FAILURES:
            log.error(events.PARTITION_QUARANTINED, partition=partition.name, reason=reason)
        elif partition.failures == 1:
            log.warning(events.PARTITION_RETRIED, partition=partition.name, reason=reason)
        if partition.failures >= QUARANTINE_AFTER_FAILURES:
            self._problems.report(partition.name, reason, hint=hint)
        if refresh:
            self.metadata_wanted.set()

    def lacks_leader(self, partition: PartitionCapture) -> bool:
        """Whether it ought to be fetched and there is no leader to fetch from, and no retry of it is to come."""
        wanted = not (partition.closed or partition.paused or self._halted)
        return wanted and partition.leader_id < 0 and partition.id not in self._waiting

    def recovered(self, partition: PartitionCapture) -> None:
        if partition.failures:
            log.info(events.PARTITION_RECOVERED, partition=partition.name, failures=partition.failures)
            partition.recovered()
            self._problems.clear(partition.name)

    def close(self, partition: PartitionCapture) -> None:
        """Its incarnation is gone."""
        self.unplace(partition)
        partition.closed = True
        self.lookups.pop(partition.id, None)
        self._problems.clear(partition.name)

    def of_topic(self, topic_id: TopicId) -> list[PartitionCapture]:
        """Every partition of the incarnation, closed ones too, in ascending order."""
        found = (self.partitions[id] for id in self._of_topic.get(topic_id, ()))
        return sorted(found, key=lambda partition: partition.id.partition)

    def forget(self, topic_ids: Iterable[TopicId]) -> list[PartitionId]:
        """Drop incarnations whose deletion is durable for long; returns their partitions.

        One that came back is kept for the rest of this life: segments not sealed yet may speak of it.
        """
        known = self.topics
        gone = {id for id in topic_ids if id not in known or (known[id].closed and not known[id].returned)}
        dropped = [id for topic_id in gone for id in self._of_topic.get(topic_id, ())]
        for id in dropped:
            del self.partitions[id]
        for topic_id in gone:
            self._of_topic.pop(topic_id, None)
            self.topics.pop(topic_id, None)
            self.names.pop(topic_id, None)
        return dropped

    def matching(self, glob: str) -> Iterator[PartitionCapture]:
        """Open partitions of topics whose name matches `glob`."""
        names: dict[str, bool] = {}
        for partition in self.partitions.values():
            if partition.closed:
                continue
            if partition.topic not in names:
                names[partition.topic] = fnmatchcase(partition.topic, glob)
            if names[partition.topic]:
                yield partition

    async def run_retries(self) -> None:
        """Put failed partitions back when their time has come; runs until cancelled."""
        while True:
            self._retry_changed.clear()
            now = self._clock.monotonic()
            while self._retries and self._retries[0][0] <= now:
                _, id = heapq.heappop(self._retries)
                self._waiting[id] -= 1
                if not self._waiting[id]:
                    del self._waiting[id]
                partition = self.partitions.get(id)
                if partition is not None and partition.failures and id not in self._placed and id not in self.lookups:
                    self.place(partition)
            timeout = self._retries[0][0] - now if self._retries else None
            await woken(self._retry_changed, timeout)
