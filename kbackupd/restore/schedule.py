"""Many partitions' batches: which go into which request to which broker, and when. Pure.

Grouped by leader, five requests in flight for each broker and lane, one batch of a partition per request. One
partition's failure stops that partition alone (principle P6). `produce` does what is decided here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kbackupd.kafka.types import ProduceAnswer, TopicPartition
from kbackupd.model.errors import KbackupError
from kbackupd.restore.produce_batch import ProduceBatch, RawBatch
from kbackupd.restore.refusals import LEADER_MOVED
from kbackupd.restore.send_queue import (
    PAUSES_BEFORE_ASKING_AGAIN,
    REQUESTS_IN_FLIGHT,
    Entry,
    Listener,
    LogEnd,
    Patience,
    SendQueue,
)

REQUEST_BYTES = 4 << 20
"""Batches of one request; a larger single batch goes alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Batches for one broker; each partition at most once."""

    node_id: int
    lane: int
    chosen: tuple[tuple[SendQueue, Entry], ...]

    @property
    def batches(self) -> dict[TopicPartition, RawBatch]:
        return {queue.tp: entry.batch.data for queue, entry in self.chosen}

    @property
    def size_bytes(self) -> int:
        return sum(len(entry.batch.data) for _, entry in self.chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A broker is to say where logs end that it leads and that may hold unanswered batches."""

    node_id: int
    queues: tuple[SendQueue, ...]

    @property
    def partitions(self) -> list[TopicPartition]:
        return [queue.tp for queue in self.queues]


class Schedule:
    """Every partition that is being restored. Whatever it gives out counts as begun, and must be answered for.

    Args:
        lanes: how many connections there are to each broker; a partition keeps its own.
        rate_limit_bytes_per_second: None for unlimited.
    """

    def __init__(
        self,
        *,
        lanes: int,
        listener: Listener,
        patience: Patience,
        rate_limit_bytes_per_second: int | None = None,
    ) -> None:
        self._lanes = itertools.cycle(range(lanes))
        self._listener = listener
        self._patience = patience
        self._rate_limit = rate_limit_bytes_per_second
        self._queues: dict[TopicPartition, SendQueue] = {}
        self._leaders: Mapping[TopicPartition, int] = {}
        self._leaders_wanted = True
        self._leaders_not_before = 0.0
        self._in_flight: dict[tuple[int, int], int] = {}
        self._paced_until = 0.0

    def __getitem__(self, tp: TopicPartition) -> SendQueue:
        return self._queues[tp]

    def begin(self, tp: TopicPartition, *, next_offset: int, repeats: bool = False, appends: bool = False) -> None:
        """As `Producing.begin`."""
        self._queues[tp] = SendQueue(
            tp=tp,
            lane=next(self._lanes),
            next_offset=next_offset,
            listener=self._listener,
            patience=self._patience,
            repeats=repeats,
            appends=appends,
        )

    def put(self, tp: TopicPartition, batch: ProduceBatch) -> None:
        self._queues[tp].entries.append(Entry(batch))

    def forget(self, tp: TopicPartition) -> None:
        del self._queues[tp]

    def leaders_due(self, now: float) -> bool:
        """Whether the cluster should be asked now who leads what."""
        return self._leaders_wanted and now >= self._leaders_not_before and bool(self._queues)

    def leaders_are(self, leaders: Mapping[TopicPartition, int], now: float) -> None:
        """A partition without a leader is left out of `leaders`."""
        self._leaders = leaders
        self._leaders_wanted = any(tp not in leaders for tp in self._queues)
        self._ask_leaders_later(now)

    def leaders_untold(self, error: KbackupError, now: float) -> None:
        for queue in self._queues.values():
            queue.last_error = queue.last_error or error
        self._ask_leaders_later(now)

    def requests(self, now: float) -> Iterator[Request]:
        """Every request there are places and batches for."""
        while now >= self._paced_until:
            ready = self._ready_by_lane(now)
            if not ready:
                return
            for (node_id, lane), candidates in ready.items():
                yield self._request(node_id, lane, candidates, now)

    def holes(self) -> list[tuple[SendQueue, Entry]]:
        """Every hole whose turn it is; `filled` must be called for each."""
        found = [(queue, entry) for queue in self._queues.values() if (entry := queue.hole_to_fill()) is not None]
        for queue, entry in found:
            queue.started(entry)
        return found

    def answered(self, request: Request, answers: Mapping[TopicPartition, ProduceAnswer], now: float) -> None:
        """`answers` has every partition of the request."""
        self._in_flight[request.node_id, request.lane] -= 1
        for queue, entry in request.chosen:
            answer = answers[queue.tp]
            self._leaders_wanted |= answer.error_code in LEADER_MOVED and queue.failed is None
            queue.answered(entry, answer, now)

    def unanswered(self, request: Request, failure: KbackupError, now: float) -> None:
        """The request failed as a whole."""
        self._in_flight[request.node_id, request.lane] -= 1
        # If that broker was restarted it has forgotten us, in every partition.
        for each in self._queues.values():
            each.known = False
        for queue, entry in request.chosen:
            self._leaders_wanted |= failure.retryable and queue.failed is None
            queue.unanswered(entry, failure, now)

    def questions(self, now: float) -> list[Question]:
        """Whom to ask where logs end, before unanswered batches go again."""
        by_leader: dict[int, list[SendQueue]] = {}
        for queue in self._queues.values():
            if queue.wants_log_end(now):
                node_id = self._leaders.get(queue.tp)
                if node_id is None:
                    self._leaders_wanted = True
                    queue.leaderless(now)
                else:
                    by_leader.setdefault(node_id, []).append(queue)
                    queue.asking = True
        return [Question(node_id=node_id, queues=tuple(queues)) for node_id, queues in by_leader.items()]

    def log_ends_are(
        self, question: Question, ends: Mapping[TopicPartition, LogEnd], failure: KbackupError | None, now: float
    ) -> None:
        """What the broker did not tell is left out of `ends`; `failure` if it did not answer at all."""
        for queue in question.queues:
            queue.asking = False
            if queue.tp in ends:
                queue.log_ends_at(ends[queue.tp])
            elif queue.failed is None:
                self._leaders_wanted = True
                queue.log_end_untold(failure, now)

    def give_up(self, now: float) -> None:
        """Fail the partitions that have waited too long."""
        for queue in self._queues.values():
            queue.give_up_if_due(now)

    def nap_seconds(self, now: float) -> float | None:
        """How long nothing can happen unless somebody wakes us; None: for ever."""
        waiting = [queue for queue in self._queues.values() if queue.entries]
        if not waiting:
            return None
        moments = [self._paced_until, *(moment for queue in waiting for moment in queue.moments())]
        if self._leaders_wanted:
            moments.append(self._leaders_not_before)
        ahead = [moment for moment in moments if moment > now]
        return max(min(ahead) - now, 0.001) if ahead else None

    def _ask_leaders_later(self, now: float) -> None:
        self._leaders_not_before = now + self._patience.first_pause_seconds * PAUSES_BEFORE_ASKING_AGAIN

    def _ready_by_lane(self, now: float) -> dict[tuple[int, int], list[tuple[SendQueue, Entry]]]:
        """The next batch of each partition that may send one, for brokers that may take a request."""
        ready: dict[tuple[int, int], list[tuple[SendQueue, Entry]]] = {}
        for queue in self._queues.values():
            entry = queue.next_to_send(now)
            if entry is None:
                continue
            node_id = self._leaders.get(queue.tp)
            if node_id is None:
                self._leaders_wanted = True
                queue.leaderless(now)
                continue
            place = (node_id, queue.lane)
            if self._in_flight.get(place, 0) < REQUESTS_IN_FLIGHT:
                ready.setdefault(place, []).append((queue, entry))
        return ready

    def _request(self, node_id: int, lane: int, candidates: list[tuple[SendQueue, Entry]], now: float) -> Request:
        """The first of `candidates`, as many as fit one request."""
        chosen: list[tuple[SendQueue, Entry]] = []
        size = 0
        for queue, entry in candidates:
            if chosen and size + len(entry.batch.data) > REQUEST_BYTES:
                break
            chosen.append((queue, entry))
            size += len(entry.batch.data)
        for queue, entry in chosen:
            queue.started(entry)
            # Served last next time, so that partitions share a broker fairly whatever their order.
            self._queues[queue.tp] = self._queues.pop(queue.tp)
        self._in_flight[node_id, lane] = self._in_flight.get((node_id, lane), 0) + 1
        if self._rate_limit is not None:
            self._paced_until = max(now, self._paced_until) + size / self._rate_limit
        return Request(node_id=node_id, lane=lane, chosen=tuple(chosen))
