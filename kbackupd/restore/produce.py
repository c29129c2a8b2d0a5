"""Many partitions' batches into the target: grouped by leader, five requests in flight each, every batch exactly once.

Owns the order of each partition and its retries. A batch whose answer is lost, late or retriable is sent again with the
same producer id, epoch and sequence, so the broker drops what it has already (hazard 27); nothing later of that
partition is sent before it is settled. One partition's failure stops that partition alone (principle P6).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from kbackupd.flow.budget import MemoryBudget
from kbackupd.kafka.types import KafkaErrorCode, ProduceAnswer, TopicPartition
from kbackupd.model.clock import Clock
from kbackupd.model.errors import IncompleteError, KbackupError, UnreachableError
from kbackupd.restore.refusals import LEADER_MOVED, is_retriable, refusal
from kbackupd.restore.rewrite import ProduceBatch

REQUESTS_IN_FLIGHT = 5
"""Per broker and lane: brokers remember a producer's last five batches, so no repeated one goes unrecognised."""
REQUEST_BYTES = 4 << 20
"""Batches of one request; a larger single batch goes alone."""
REQUEST_TIMEOUT_MS = 30_000
GIVE_UP_SECONDS = 180.0
"""A partition none of whose batches is taken for so long has failed."""
_MOST_DOUBLINGS = 5
_TRIES_OF_A_CORRUPT_BATCH = 5
"""Retriable by its name, since the wire may have damaged it; a batch that is wrong inside stays wrong."""


class BatchSender(Protocol):
    """What this module needs of a producer (`kbackupd.kafka.produce.RawProducer` is one)."""

    async def produce(
        self, node_id: int, batches: Mapping[TopicPartition, bytes], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]: ...


Leaders = Callable[[], Awaitable[Mapping[TopicPartition, int]]]
"""Asks the target who leads what now; a partition without a leader is left out."""
LogEnds = Callable[[int, Sequence[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]]
"""Asks a broker where logs that it leads end; what it does not tell is left out."""
Acknowledged = Callable[[TopicPartition, ProduceBatch], None]
_Lane = tuple[int, int]
"""Broker and number of the sender."""


@dataclass(slots=True)
class _Entry:
    batch: ProduceBatch
    sent: bool = False
    in_flight: bool = False
    settled: bool = False


@dataclass(slots=True, kw_only=True)
class _Partition:
    """One partition's unacknowledged batches, oldest first."""

    tp: TopicPartition
    lane: int
    next_offset: int
    """Where the oldest unacknowledged batch must land."""
    entries: deque[_Entry] = field(default_factory=deque)
    in_flight: int = 0
    known: bool = False
    """The leader has taken a batch. One that knows nothing of a producer takes any sequence as its first: were the
    first batch refused, or the leader moved, with a second one under way, that would land in its place."""
    settling: bool = False
    """A batch failed: nothing new is sent until every answer is in, then all goes again from the oldest one."""
    failures: int = 0
    not_before: float = 0.0
    uncertain: bool = False
    """A batch has no answer or a bad one: whether it is in the log, the log's end must tell before it goes again."""
    asking: bool = False
    failing_since: float | None = None
    last_error: KbackupError | None = None
    failed: KbackupError | None = None
    emptied: asyncio.Event = field(default_factory=asyncio.Event)

    def next_to_send(self, now: float) -> _Entry | None:
        most = REQUESTS_IN_FLIGHT if self.known else 1
        if self.settling or self.uncertain or self.failed or self.in_flight >= most or now < self.not_before:
            return None
        # Counted from the oldest one without an answer: that may be in the log and hang at a broker that lost the
        # partition. Five batches later the new leader would no longer know it when it is sent again.
        window = itertools.islice(self.entries, REQUESTS_IN_FLIGHT)
        return next((entry for entry in window if not entry.in_flight and not entry.settled), None)


class Producing:
    """Takes batches of many partitions and gets them into the target. Use as an async context.

    Leaving the context cancels what is under way; wait for `finish` of each partition first.

    Args:
        senders: one for each lane, all with the same producer id: a broker works on one request of a connection at a
            time, so it takes several connections to keep more than one of its threads busy. A partition keeps its lane.
        leaders: asked at the start and whenever an answer suggests a change.
        log_ends: asked before batches whose answers are missing are sent again.
        acknowledged: called once for each batch that is in the target's log, in the partition's order.
        budget: gets each batch's bytes back once it is settled, or its partition failed.
        rate_limit_bytes_per_second: None for unlimited.
        first_pause_seconds: before a refused or unanswered batch is sent again; doubles up to 32 times that.
    """

    def __init__(
        self,
        senders: Sequence[BatchSender],
        *,
        leaders: Leaders,
        log_ends: LogEnds,
        acknowledged: Acknowledged,
        budget: MemoryBudget,
        clock: Clock,
        rate_limit_bytes_per_second: int | None = None,
        give_up_seconds: float = GIVE_UP_SECONDS,
        first_pause_seconds: float = 0.1,
    ) -> None:
        self._senders = senders
        self._lanes = itertools.cycle(range(len(senders)))
        self._ask_leaders = leaders
        self._ask_log_ends = log_ends
        self._acknowledged = acknowledged
        self._budget = budget
        self._clock = clock
        self._rate_limit = rate_limit_bytes_per_second
        self._give_up_seconds = give_up_seconds
        self._first_pause_seconds = first_pause_seconds
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._leaders: Mapping[TopicPartition, int] = {}
        self._leaders_wanted = True
        self._leaders_not_before = 0.0
        self._in_flight: dict[_Lane, int] = {}
        self._paced_until = 0.0
        self._wake = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._dispatcher: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Producing:
        await self._tasks.__aenter__()
        self._dispatcher = self._tasks.create_task(self._dispatch(), name="restore-dispatch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (self._dispatcher, *self._requests):
            if task is not None:
                task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def begin(self, tp: TopicPartition, *, next_offset: int) -> None:
        """Accept batches for `tp`, whose log ends at `next_offset` now."""
        self._partitions[tp] = _Partition(tp=tp, lane=next(self._lanes), next_offset=next_offset)

    def put(self, tp: TopicPartition, batch: ProduceBatch) -> None:
        """Queue the partition's next batch; its bytes were taken from the budget before.

        Raises:
            KbackupError: why the partition failed; the batch's bytes are given back.
        """
        partition = self._partitions[tp]
        if partition.failed is not None:
            self._budget.release(len(batch.data))
            raise partition.failed
        partition.entries.append(_Entry(batch))
        partition.emptied.clear()
        self._wake.set()

    async def finish(self, tp: TopicPartition) -> None:
        """Return when every batch of `tp` is in the target's log, and forget the partition.

        Raises:
            KbackupError: why it failed; what was acknowledged before stays in the target.
        """
        partition = self._partitions[tp]
        while partition.entries and partition.failed is None:
            await partition.emptied.wait()
        del self._partitions[tp]
        if partition.failed is not None:
            raise partition.failed

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock.monotonic()
            if self._leaders_wanted and now >= self._leaders_not_before and self._partitions:
                await self._refresh_leaders()
                now = self._clock.monotonic()
            self._give_up(now)
            self._resolve_uncertain(now)
            self._send_ready(now)
            try:
                async with asyncio.timeout(self._nap_seconds(now)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _nap_seconds(self, now: float) -> float | None:
        """How long nothing can happen unless somebody wakes us."""
        waiting = [partition for partition in self._partitions.values() if partition.entries]
        if not waiting:
            return None
        moments = [self._paced_until]
        for partition in waiting:
            moments.append(partition.not_before)
            if partition.failing_since is not None:
                moments.append(partition.failing_since + self._give_up_seconds)
        if self._leaders_wanted:
            moments.append(self._leaders_not_before)
        ahead = [moment for moment in moments if moment > now]
        return max(min(ahead) - now, 0.001) if ahead else None

    async def _refresh_leaders(self) -> None:
        try:
            self._leaders = await self._ask_leaders()
            self._leaders_wanted = any(tp not in self._leaders for tp in self._partitions)
        except UnreachableError as error:
            for partition in self._partitions.values():
                partition.last_error = partition.last_error or error
        self._leaders_not_before = self._clock.monotonic() + self._first_pause_seconds * 5

    def _send_ready(self, now: float) -> None:
        """Start as many requests as there are places and batches for."""
        while now >= self._paced_until:
            ready = self._ready_by_lane(now)
            if not ready:
                return
            for lane, candidates in ready.items():
                self._start_request(lane, candidates)

    def _ready_by_lane(self, now: float) -> dict[_Lane, list[tuple[_Partition, _Entry]]]:
        """The next batch of each partition that may send one, for brokers that may take a request."""
        ready: dict[_Lane, list[tuple[_Partition, _Entry]]] = {}
        for partition in self._partitions.values():
            entry = partition.next_to_send(now)
            if entry is None:
                continue
            node_id = self._leaders.get(partition.tp)
            if node_id is None:
                self._leaders_wanted = True
                partition.failing_since = now if partition.failing_since is None else partition.failing_since
                continue
            lane = (node_id, partition.lane)
            if self._in_flight.get(lane, 0) < REQUESTS_IN_FLIGHT:
                ready.setdefault(lane, []).append((partition, entry))
        return ready

    def _start_request(self, lane: _Lane, candidates: list[tuple[_Partition, _Entry]]) -> None:
        """Send the first of `candidates`, as many as fit one request."""
        chosen: list[tuple[_Partition, _Entry]] = []
        size = 0
        for partition, entry in candidates:
            if chosen and size + len(entry.batch.data) > REQUEST_BYTES:
                break
            chosen.append((partition, entry))
            size += len(entry.batch.data)
        for partition, entry in chosen:
            entry.in_flight = entry.sent = True
            partition.in_flight += 1
        # Served last next time, so that partitions share a broker fairly whatever their order.
        for partition, _ in chosen:
            self._partitions[partition.tp] = self._partitions.pop(partition.tp)
        self._in_flight[lane] = self._in_flight.get(lane, 0) + 1
        if self._rate_limit is not None:
            self._paced_until = max(self._clock.monotonic(), self._paced_until) + size / self._rate_limit
        task = self._tasks.create_task(self._request(lane, chosen), name=f"restore-produce-{lane}")
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _request(self, lane: _Lane, chosen: list[tuple[_Partition, _Entry]]) -> None:
        answers: dict[TopicPartition, ProduceAnswer] = {}
        failure: KbackupError | None = None
        try:
            node_id, number = lane
            answers = await self._senders[number].produce(
                node_id,
                {partition.tp: entry.batch.data for partition, entry in chosen},
                timeout_ms=REQUEST_TIMEOUT_MS,
            )
        except KbackupError as error:
            failure = error
            # If that broker was restarted it has forgotten us, in every partition.
            for each in self._partitions.values():
                each.known = False
        self._in_flight[lane] -= 1
        now = self._clock.monotonic()
        for partition, entry in chosen:
            entry.in_flight = False
            partition.in_flight -= 1
            if partition.failed is None:
                if failure is not None:
                    self._unanswered(partition, failure, now)
                else:
                    self._answered(partition, entry, answers[partition.tp], now)
            if partition.settling and partition.in_flight == 0:
                partition.settling = False
        self._wake.set()

    def _answered(self, partition: _Partition, entry: _Entry, answer: ProduceAnswer, now: float) -> None:
        code = answer.error_code
        if code in (KafkaErrorCode.NONE, KafkaErrorCode.DUPLICATE_SEQUENCE_NUMBER):
            self._settled(partition, entry, answer.base_offset)
            return
        oldest = next((each for each in partition.entries if not each.settled), entry)
        error = refusal(partition.tp, answer)
        follows_a_failure = code == KafkaErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and oldest is not entry
        hopeless = code == KafkaErrorCode.CORRUPT_MESSAGE and partition.failures >= _TRIES_OF_A_CORRUPT_BATCH
        if follows_a_failure or (is_retriable(code) and not hopeless):
            if code in LEADER_MOVED:
                self._leaders_wanted = True
            self._again(partition, error, now)
        else:
            self._fail(partition, error)

    def _unanswered(self, partition: _Partition, failure: KbackupError, now: float) -> None:
        """The request failed as a whole: whether the broker took the batch is unknown, so it is sent again."""
        if failure.retryable:
            self._leaders_wanted = True
            self._again(partition, failure, now)
        else:
            self._fail(partition, failure)

    def _settled(self, partition: _Partition, entry: _Entry, base_offset: int) -> None:
        entry.settled = partition.known = True
        partition.failing_since = None
        partition.failures = 0
        while partition.entries and partition.entries[0].settled:
            batch = partition.entries.popleft().batch
            # Only the oldest can be compared: what lies before it is known exactly. A repeated batch may come back
            # without its offset.
            if batch is entry.batch and base_offset not in (-1, partition.next_offset):
                partition.entries.appendleft(entry)
                self._fail(
                    partition,
                    _foreign(partition, f"a batch landed at offset {base_offset} instead of {partition.next_offset}"),
                )
                return
            partition.next_offset += batch.records
            self._budget.release(len(batch.data))
            self._acknowledged(partition.tp, batch)
        if not partition.entries:
            partition.emptied.set()

    def _resolve_uncertain(self, now: float) -> None:
        """Ask where logs end that may hold unanswered batches.

        Not left to the broker: one that was restarted remembers only a producer's last batch, and none at all if the
        records are a day old, as a restore's are (it takes their timestamps for the producer's last sign of life). It
        would refuse the repetition, or take it again.
        """
        by_leader: dict[int, list[_Partition]] = {}
        for partition in self._partitions.values():
            idle = partition.in_flight == 0 and not partition.asking and partition.failed is None
            if partition.uncertain and idle and now >= partition.not_before:
                node_id = self._leaders.get(partition.tp)
                if node_id is None:
                    self._leaders_wanted = True
                else:
                    by_leader.setdefault(node_id, []).append(partition)
        for node_id, partitions in by_leader.items():
            for partition in partitions:
                partition.asking = True
            task = self._tasks.create_task(self._resolve(node_id, partitions), name=f"restore-log-ends-{node_id}")
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _resolve(self, node_id: int, partitions: Sequence[_Partition]) -> None:
        ends: Mapping[TopicPartition, int] = {}
        failure: KbackupError | None = None
        try:
            ends = await self._ask_log_ends(node_id, [partition.tp for partition in partitions])
        except KbackupError as error:
            failure = error
        now = self._clock.monotonic()
        for partition in partitions:
            partition.asking = False
            if partition.failed is not None:
                continue
            if partition.tp in ends:
                partition.uncertain = False
                self._reconcile(partition, ends[partition.tp])
                continue
            self._leaders_wanted = True
            partition.last_error = failure or partition.last_error
            partition.not_before = now + self._first_pause_seconds * 5
        self._wake.set()

    def _reconcile(self, partition: _Partition, log_end: int) -> None:
        """Settle the unanswered batches that the log holds: whole ones, from the oldest on."""
        arrived: list[_Entry] = []
        end = partition.next_offset
        for entry in partition.entries:
            if end >= log_end or not entry.sent:
                break
            arrived.append(entry)
            end += entry.batch.records
        if end != log_end:
            self._fail(partition, _foreign(partition, f"the log ends at offset {log_end} instead of {end}"))
        elif arrived:
            for entry in arrived:
                entry.settled = True
            self._settled(partition, arrived[0], partition.next_offset)
            partition.known = False  # the log has them; a broker that was restarted does not know whose they are

    def _again(self, partition: _Partition, error: KbackupError, now: float) -> None:
        if not partition.settling:
            partition.failures += 1
            doublings = min(partition.failures - 1, _MOST_DOUBLINGS)
            partition.not_before = now + self._first_pause_seconds * 2**doublings
        if partition.failing_since is None:
            partition.failing_since = now
        # Some refusals come after the append, too.
        partition.settling = partition.uncertain = True
        partition.known = False
        partition.last_error = error

    def _give_up(self, now: float) -> None:
        for partition in list(self._partitions.values()):
            since = partition.failing_since
            if partition.entries and since is not None and now - since > self._give_up_seconds:
                reason = partition.last_error.message if partition.last_error else "it has no leader"
                self._fail(
                    partition,
                    IncompleteError(
                        f"{partition.tp.topic}-{partition.tp.partition}: the target took nothing for"
                        f" {self._give_up_seconds:g} s: {reason}",
                        hint=partition.last_error.hint if partition.last_error else "",
                    ),
                )

    def _fail(self, partition: _Partition, error: KbackupError) -> None:
        partition.failed = error
        self._budget.release(sum(len(entry.batch.data) for entry in partition.entries))
        partition.entries.clear()
        partition.emptied.set()


def _foreign(partition: _Partition, what: str) -> IncompleteError:
    return IncompleteError(
        f"{partition.tp.topic}-{partition.tp.partition}: {what}",
        hint="somebody else writes into the target; stop them, delete the topic and restore it again",
    )
