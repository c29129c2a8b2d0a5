"""The fetch loops: one task per broker and kind (following, catching-up), each with its own session and connection.

A loop reserves memory before it asks, paces its requests, and turns a broker's failure into backoff and a visible
state of its partitions; other brokers' loops and the other kind's are not touched.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from kbackupd.capture.budget import HOLDING_FACTOR, MemoryBudget
from kbackupd.capture.intake import Intake, scan_answers
from kbackupd.capture.partition import PartitionCapture, SessionKind
from kbackupd.capture.rate import RateLimit
from kbackupd.capture.roster import Roster
from kbackupd.capture.source import Session, Source
from kbackupd.kafka.types import FetchAnswer, KafkaErrorCode, PartitionAnswer
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import PartitionId
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems

REQUEST_BYTES = {SessionKind.FOLLOWING: 8 << 20, SessionKind.CATCHING_UP: 8 << 20}
MAX_WAIT_MS = 500
TIMEOUT_SECONDS = 30.0
RECEIVING_COPIES = 2
"""An answer being received exists twice for a moment: in the socket's buffer and as bytes."""
INLINE_SCAN_BYTES = 64 << 10
"""Less than this is checked at once: handing it to a thread would cost more."""
BACKOFF_MAX_SECONDS = 10.0

log = structlog.get_logger()


class SessionLoop:
    """Fetches what the roster puts here from one broker."""

    def __init__(
        self,
        *,
        node_id: int,
        kind: SessionKind,
        session: Session,
        intake: Intake,
        roster: Roster,
        budget: MemoryBudget,
        rate: RateLimit,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
        pace_seconds: float,
        request_bytes: int,
        after_answer: Callable[[], None],
    ) -> None:
        self.node_id = node_id
        self.kind = kind
        self.partitions: dict[PartitionId, PartitionCapture] = {}
        self.failing = False
        self.last_good_sent: float | None = None
        """When the last unthrottled answer was asked for: what it left out had not changed then."""
        self.last_good_ms: tuple[int, int] = (0, 0)
        """Epoch milliseconds at which that request was sent and answered."""
        self._told: dict[PartitionId, int] = {}
        """High watermark by partition as this session last told it, which is what the broker compares with: after a
        partition left and came back between two requests, an unchanged one is not answered again."""
        self._joined: dict[PartitionId, float] = {}
        self._session = session
        self._intake = intake
        self._roster = roster
        self._budget = budget
        self._rate = rate
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._pace_seconds = pace_seconds
        self._after_answer = after_answer
        self._request_bytes = min(REQUEST_BYTES[kind], request_bytes, max(1 << 20, budget.limit_bytes // 12))
        self._nonempty = asyncio.Event()

    def put(self, partition: PartitionCapture) -> None:
        self.partitions[partition.id] = partition
        self._joined[partition.id] = self._clock.monotonic()
        self._session.want(partition.id, partition.target())
        self._nonempty.set()

    def remove(self, id: PartitionId) -> None:
        if self.partitions.pop(id, None) is not None:
            del self._joined[id]
            self._session.forget(id)
            if not self.partitions:
                self._nonempty.clear()

    def unchanged_since(self, id: PartitionId) -> float | None:
        """Monotonic time at which this partition was still as last answered; None: unknown."""
        partition = self.partitions.get(id)
        if partition is None or self.last_good_sent is None or self.last_good_sent < self._joined[id]:
            return None
        return self.last_good_sent if self._told.get(id) == partition.proof.high_watermark else None

    async def run(self) -> None:
        """Until cancelled. What is in memory then was charged to the open segment or is given back."""
        failures = 0
        try:
            while True:
                if failures and not self.partitions:
                    # Its partitions went to other brokers: a broker nobody needs is no problem of ours.
                    failures = 0
                    self.failing = False
                    self._problems.clear(f"broker {self.node_id}")
                await self._nonempty.wait()
                try:
                    quiet = await self._fetch_once()
                except (KafkaUnavailableError, KafkaDeniedError) as error:
                    failures += 1
                    await self._failed(error, failures)
                    continue
                if failures:
                    failures = 0
                    self.failing = False
                    self._problems.clear(f"broker {self.node_id}")
                    log.info(events.BROKER_CONNECTED, node_id=self.node_id, session=self.kind.value)
                if quiet > 0:
                    await asyncio.sleep(quiet)
        finally:
            await self._session.close()

    async def _failed(self, error: KafkaUnavailableError | KafkaDeniedError, failures: int) -> None:
        self.failing = True
        self._told.clear()
        self._metrics.error_met(error)
        self._problems.report(f"broker {self.node_id}", error.message, hint=error.hint)
        if failures == 1:
            log.warning(events.FETCH_FAILED, node_id=self.node_id, session=self.kind.value, error=error.message)
        self._roster.metadata_wanted.set()
        ceiling = min(BACKOFF_MAX_SECONDS, 0.2 * 2.0 ** min(failures - 1, 8))
        await asyncio.sleep(ceiling * random.uniform(0.5, 1.0))

    async def _fetch_once(self) -> float:
        """One request and its consequences; returns how long to wait before the next, in seconds."""
        largest = (
            max((partition.fetch_bytes for partition in self.partitions.values()), default=0)
            if (self.kind is SessionKind.CATCHING_UP or len(self.partitions) < 64)
            else 0
        )
        ask_bytes = max(self._request_bytes, largest)
        await self._rate.admit()
        taken = await self._budget.reserve(ask_bytes * RECEIVING_COPIES)
        try:
            if not self.partitions:
                return 0.0
            answer = await self._session.fetch(
                max_bytes=ask_bytes, max_wait_ms=MAX_WAIT_MS, timeout_seconds=TIMEOUT_SECONDS
            )
            self._metrics.fetch_answered(self.kind.value)
            self._rate.spend(answer.size_bytes)
            received = sum(len(part.records) for part in answer.partitions)
            taken = self._budget.adjust(taken, received)
            await self._take_in(answer)
        finally:
            self._budget.release(taken)
        self._after_answer()
        if answer.throttle_ms:
            log.debug(events.FETCH_THROTTLED, node_id=self.node_id, throttle_ms=answer.throttle_ms)
            return answer.throttle_ms / 1000
        if received >= ask_bytes // 4:
            return 0.0
        return max(0.0, answer.sent_monotonic + self._pace_seconds - self._clock.monotonic())

    async def _take_in(self, answer: FetchAnswer) -> None:
        if not answer.throttle_ms:
            self.last_good_sent = answer.sent_monotonic
            self.last_good_ms = (answer.sent_ms, answer.answered_ms)
        todo: list[tuple[PartitionCapture, PartitionAnswer]] = []
        scans: list[tuple[bytes, int]] = []
        for part in answer.partitions:
            self._told[part.id] = part.high_watermark
            partition = self.partitions.get(part.id)
            if partition is None or part.asked_offset != partition.position:
                continue
            if part.error_code != KafkaErrorCode.NONE:
                self._intake.refused(partition, part.error_code)
                continue
            todo.append((partition, part))
            scans.append((part.records, part.asked_offset))
        if sum(len(records) for records, _ in scans) > INLINE_SCAN_BYTES:
            scanned = await asyncio.to_thread(scan_answers, scans)
        else:
            scanned = scan_answers(scans)
        for (partition, part), scan in zip(todo, scanned, strict=True):
            # While the thread worked, an operator may have paused it or the topic may have gone.
            if self.partitions.get(part.id) is not partition or part.asked_offset != partition.position:
                continue
            before = self._intake.open.facts.held_bytes
            more = self._intake.answered(partition, part, scan if part.records else None, answer, self.node_id)
            taken = self._intake.open.facts.held_bytes - before
            if taken:
                # The whole answer's bytes stay referenced by the part that is kept.
                charge = len(part.records) * HOLDING_FACTOR
                self._budget.adjust(0, charge)
                self._intake.open.charge(charge)
            if not more:
                continue
            if partition.kind is not self.kind:
                self._roster.place(partition)
            else:
                self._session.want(partition.id, partition.target())


class Sessions:
    """All loops, started when a partition first needs them."""

    def __init__(
        self,
        *,
        source: Source,
        budget: MemoryBudget,
        rate: RateLimit,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
        pace_seconds: float,
        request_bytes: int,
        after_answer: Callable[[], None],
    ) -> None:
        self._source = source
        self._budget = budget
        self._rate = rate
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._pace_seconds = pace_seconds
        self._request_bytes = request_bytes
        self._after_answer = after_answer
        self._loops: dict[tuple[int, SessionKind], SessionLoop] = {}
        self._tasks: dict[tuple[int, SessionKind], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._intake: Intake | None = None
        self._roster: Roster | None = None

    def start(self, group: asyncio.TaskGroup, *, intake: Intake, roster: Roster) -> None:
        self._group, self._intake, self._roster = group, intake, roster

    def place_for(self, node_id: int, kind: SessionKind) -> SessionLoop:
        if self._group is None or self._intake is None or self._roster is None:
            raise RuntimeError("sessions are used before they were started")
        loop = self._loops.get((node_id, kind))
        if loop is None:
            loop = SessionLoop(
                node_id=node_id,
                kind=kind,
                session=self._source.session(node_id),
                intake=self._intake,
                roster=self._roster,
                budget=self._budget,
                rate=self._rate,
                clock=self._clock,
                metrics=self._metrics,
                problems=self._problems,
                pace_seconds=self._pace_seconds,
                request_bytes=self._request_bytes,
                after_answer=self._after_answer,
            )
            self._loops[node_id, kind] = loop
            self._tasks[node_id, kind] = self._group.create_task(loop.run(), name=f"fetch-{node_id}-{kind.value}")
        return loop

    def loop_of(self, partition: PartitionCapture) -> SessionLoop | None:
        loop = self._loops.get((partition.leader_id, partition.kind))
        return loop if loop is not None and partition.id in loop.partitions else None

    def failing(self, partition: PartitionCapture) -> bool:
        """Whether the broker it is fetched from does not answer."""
        loop = self.loop_of(partition)
        return loop is not None and loop.failing

    def heard(self, partition: PartitionCapture) -> float:
        """When the last request was sent whose answer spoke of the partition, or left it out for being unchanged."""
        loop = self.loop_of(partition)
        unchanged = loop.unchanged_since(partition.id) if loop is not None else None
        return max(partition.answered_sent, partition.answered_sent if unchanged is None else unchanged)

    async def stop(self) -> None:
        """Cancel every loop and wait for them: afterwards nothing is added to the open segment."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        self._loops.clear()
