"""Many partitions' batches into the target, every batch exactly once: does what `schedule` decides.

Owns the tasks and what is awaited: requests to brokers, questions about leaders and log ends, and sleep in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Protocol

from kbackupd.flow.budget import MemoryBudget
from kbackupd.kafka.types import ProduceAnswer, TopicPartition
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KbackupError, UnreachableError
from kbackupd.restore.produce_batch import ProduceBatch, RawBatch
from kbackupd.restore.schedule import Question, Request, Schedule
from kbackupd.restore.send_queue import GIVE_UP_SECONDS, Entry, Listener, LogEnd, Patience, SendQueue

REQUEST_TIMEOUT_MS = 30_000


class BatchSender(Protocol):
    """What this module needs of a producer (`kbackupd.kafka.produce.RawProducer` is one)."""

    async def produce(
        self, node_id: int, batches: Mapping[TopicPartition, RawBatch], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]: ...


Leaders = Callable[[], Awaitable[Mapping[TopicPartition, int]]]
"""Asks the target who leads what now; a partition without a leader is left out."""
LogEnds = Callable[[int, Sequence[TopicPartition]], Awaitable[Mapping[TopicPartition, LogEnd]]]
"""Asks a broker where logs that it leads end, and with what; what it does not tell is left out."""
FillHole = Callable[[TopicPartition, int, int], Awaitable[None]]
"""Has the log of a partition, which ends at one offset, end at another, as `kbackupd.restore.holes.HoleFiller.fill`."""
Acknowledged = Callable[[TopicPartition, ProduceBatch], None]


class Producing:
    """Takes batches of many partitions and gets them into the target. Use as an async context.

    Leaving the context cancels what is under way; wait for `finish` of each partition first.

    Args:
        senders: one for each lane, all with the same producer id: a broker works on one request of a connection at a
            time, so it takes several connections to keep more than one of its threads busy. A partition keeps its lane.
        leaders: asked at the start and whenever an answer suggests a change.
        log_ends: asked before batches whose answers are missing are sent again.
        acknowledged: called once for each batch that is in the target's log, in the partition's order.
        fill_hole: for batches that hold nothing; None: there are none.
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
        fill_hole: FillHole | None = None,
        rate_limit_bytes_per_second: int | None = None,
        give_up_seconds: float = GIVE_UP_SECONDS,
        first_pause_seconds: float = 0.1,
    ) -> None:
        self._senders = senders
        self._ask_leaders = leaders
        self._ask_log_ends = log_ends
        self._fill_hole = fill_hole
        self._budget = budget
        self._clock = clock
        self._schedule = Schedule(
            lanes=len(senders),
            listener=Listener(acknowledged=acknowledged, freed=budget.release, ended=self._ended),
            patience=Patience(first_pause_seconds=first_pause_seconds, give_up_seconds=give_up_seconds),
            rate_limit_bytes_per_second=rate_limit_bytes_per_second,
        )
        self._idle: dict[TopicPartition, asyncio.Event] = {}
        """Set when a partition has nothing left to send, or failed."""
        self._wake = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Producing:
        await self._tasks.__aenter__()
        self._spawn(self._dispatch(), "restore-dispatch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def begin(self, tp: TopicPartition, *, next_offset: int, repeats: bool = False, appends: bool = False) -> None:
        """Accept batches for `tp`, whose log ends at `next_offset` now.

        Args:
            repeats: an earlier run produced the same batches; it is dead, its last requests may still be on their way.
            appends: the topic held records of others before.
        """
        self._schedule.begin(tp, next_offset=next_offset, repeats=repeats, appends=appends)
        self._idle[tp] = asyncio.Event()
        self._idle[tp].set()

    def put(self, tp: TopicPartition, batch: ProduceBatch) -> None:
        """Queue the partition's next batch; its bytes were taken from the budget before.

        Raises:
            KbackupError: why the partition failed; the batch's bytes are given back.
        """
        failed = self._schedule[tp].failed
        if failed is not None:
            self._budget.release(len(batch.data))
            raise failed
        self._schedule.put(tp, batch)
        self._idle[tp].clear()
        self._wake.set()

    async def settled(self, tp: TopicPartition) -> None:
        """Return when every batch of `tp` that was put is in the target's log, and nothing behind it.

        Raises:
            KbackupError: why it failed.
        """
        await self._idle[tp].wait()
        if (failed := self._schedule[tp].failed_so_far()) is not None:
            raise failed

    async def finish(self, tp: TopicPartition) -> None:
        """Return when every batch of `tp` is in the target's log, and forget the partition.

        Raises:
            KbackupError: why it failed; what was acknowledged before stays in the target.
        """
        await self._idle[tp].wait()
        failed = self._schedule[tp].failed_so_far()
        self._schedule.forget(tp)
        del self._idle[tp]
        if failed is not None:
            raise failed

    def _ended(self, tp: TopicPartition) -> None:
        self._idle[tp].set()

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            if self._schedule.leaders_due(self._clock.monotonic()):
                await self._refresh_leaders()
            now = self._clock.monotonic()
            self._schedule.give_up(now)
            for question in self._schedule.questions(now):
                self._spawn(self._ask(question), f"restore-log-ends-{question.node_id}")
            for queue, entry in self._schedule.holes():
                self._spawn(self._fill(queue, entry), f"restore-hole-{queue.tp.topic}-{queue.tp.partition}")
            for request in self._schedule.requests(now):
                self._spawn(self._send(request), f"restore-produce-{request.node_id}-{request.lane}")
            try:
                async with asyncio.timeout(self._schedule.nap_seconds(now)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _refresh_leaders(self) -> None:
        try:
            leaders = await self._ask_leaders()
        except UnreachableError as error:
            self._schedule.leaders_untold(error, self._clock.monotonic())
        else:
            self._schedule.leaders_are(leaders, self._clock.monotonic())

    async def _send(self, request: Request) -> None:
        try:
            answers = await self._senders[request.lane].produce(
                request.node_id, request.batches, timeout_ms=REQUEST_TIMEOUT_MS
            )
        except KbackupError as error:
            self._schedule.unanswered(request, error, self._clock.monotonic())
        else:
            self._schedule.answered(request, answers, self._clock.monotonic())
        self._wake.set()

    async def _ask(self, question: Question) -> None:
        ends: Mapping[TopicPartition, LogEnd] = {}
        failure: KbackupError | None = None
        try:
            ends = await self._ask_log_ends(question.node_id, question.partitions)
        except KbackupError as error:
            failure = error
        self._schedule.log_ends_are(question, ends, failure, self._clock.monotonic())
        self._wake.set()

    async def _fill(self, queue: SendQueue, entry: Entry) -> None:
        failure: KbackupError | None = None
        try:
            if self._fill_hole is None:
                raise RuntimeError("a hole was queued, and nobody is there to fill it")
            await self._fill_hole(queue.tp, queue.next_offset, queue.next_offset + entry.batch.records)
        except KbackupError as error:
            failure = error
        queue.filled(entry, failure)
        self._wake.set()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._tasks.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
