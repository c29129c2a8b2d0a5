"""One fetch loop: for one broker and one kind (following, catching-up), with a session and a connection of its own.

A loop reserves memory before it asks, paces its requests, and turns a broker's failure into backoff and a visible
state of its partitions; other brokers' loops and the other kind's are not touched. How much to ask for is decided in
`request_size`, what to ask for while an answer is still being checked in `look_ahead`, and what an answer says of the
partitions it leaves out in `heard`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from kbackupd.capture.heard import Heard
from kbackupd.capture.holding import HOLDING_FACTOR
from kbackupd.capture.intake import Intake, scan_answers
from kbackupd.capture.look_ahead import targets_ahead
from kbackupd.capture.partition import PartitionCapture, SessionKind
from kbackupd.capture.rate import RateLimit
from kbackupd.capture.request_size import RECEIVING_COPIES, RequestSize
from kbackupd.capture.roster import Roster
from kbackupd.capture.source import Session
from kbackupd.capture.waiting import TURN_PARTITIONS
from kbackupd.flow.budget import MemoryBudget
from kbackupd.kafka.types import FetchAnswer, KafkaErrorCode, PartitionAnswer
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.path import BatchScan
from kbackupd.model.positions import PartitionId
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems

MAX_WAIT_MS = 500
TIMEOUT_SECONDS = 30.0
INLINE_SCAN_BYTES = 64 << 10
"""Less than this is checked at once: handing it to a thread would cost more."""
BACKOFF_MAX_SECONDS = 10.0

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class FetchContext:
    """What every loop of a pipeline has in common. A reload changes the pace and the size of requests in place."""

    budget: MemoryBudget
    rate: RateLimit
    clock: Clock
    metrics: Metrics
    problems: Problems
    pace_seconds: float
    """Between two requests of a loop that found little."""
    request_bytes: int
    """No request asks for more, except where a batch is larger."""
    after_answer: Callable[[], None]
    """Called when an answer was taken in."""


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
        context: FetchContext,
        busy_loops: Callable[[SessionKind], int],
    ) -> None:
        """
        Args:
            busy_loops: how many loops of a kind have something to fetch and share the budget.
        """
        self.node_id = node_id
        self.kind = kind
        self.partitions: dict[PartitionId, PartitionCapture] = {}
        self.failing = False
        self.failure = ""
        """Why, while it is failing."""
        self.heard = Heard()
        self._session = session
        self._intake = intake
        self._roster = roster
        self._budget = context.budget
        self._rate = context.rate
        self._clock = context.clock
        self._metrics = context.metrics
        self._problems = context.problems
        self._context = context
        self._after_answer = context.after_answer
        self._busy_loops = busy_loops
        self._size = RequestSize(kind, timeout_seconds=TIMEOUT_SECONDS)
        self._nonempty = asyncio.Event()

    def put(self, partition: PartitionCapture) -> None:
        self.partitions[partition.id] = partition
        self.heard.joined(partition.id, now=self._clock.monotonic())
        self._size.needs(partition.id, partition.fetch_bytes)
        self._session.want(partition.id, partition.target())
        self._nonempty.set()

    def remove(self, id: PartitionId) -> None:
        self._keep_proof(id)
        if self.partitions.pop(id, None) is not None:
            self._size.needs(id, 0)
            self._session.forget(id)
            self.heard.left(id)
            if not self.partitions:
                self._nonempty.clear()

    def _keep_proof(self, id: PartitionId) -> None:
        """What answers said of it by leaving it out, before this loop forgets it.

        Kept only when somebody scraped, an hour of answers was as good as none: exposure of a quiet partition jumped by
        that hour when its broker failed, it was paused, or it got a record.
        """
        partition = self.partitions.get(id)
        if partition is None:
            return
        unchanged = self.heard.unchanged_since(partition)
        if unchanged is not None:
            self._intake.left_out(partition, unchanged)

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
        self.failing, self.failure = True, error.message
        if error.code == KafkaErrorCode.REQUEST_TIMED_OUT:
            self._size.timed_out()
        if self.heard.something:
            for id in self.partitions:
                self._keep_proof(id)
            self.heard.forget()
        self._metrics.error_met(error)
        self._problems.report(f"broker {self.node_id}", error.message, hint=error.hint)
        if failures == 1:
            log.warning(events.FETCH_FAILED, node_id=self.node_id, session=self.kind.value, error=error.message)
        self._roster.metadata_wanted.set()
        ceiling = min(BACKOFF_MAX_SECONDS, 0.2 * 2.0 ** min(failures - 1, 8))
        await asyncio.sleep(ceiling * random.uniform(0.5, 1.0))

    async def _fetch_once(self) -> float:
        """One request and its consequences; returns how long to wait before the next, in seconds.

        While an answer that shows more to come is checked, the next request is under way already.
        """
        came = await self._ask()
        while came is not None and came.full and not came.throttle_ms and self._look_ahead(came.answer):
            came = await self._check_and_ask(came)
        if came is None:
            return 0.0
        try:
            await self._take_in(came)
        finally:
            self._budget.release(came.charged_bytes)
        if came.throttle_ms:
            log.debug(events.FETCH_THROTTLED, node_id=self.node_id, throttle_ms=came.throttle_ms)
            return came.throttle_ms / 1000
        if came.full:
            return 0.0
        return max(0.0, came.sent_monotonic + self._context.pace_seconds - self._clock.monotonic())

    async def _check_and_ask(self, came: _Received) -> _Received | None:
        """Take `came` in while the next request is under way; its failure loses nothing of what came before it."""
        failure: KafkaUnavailableError | KafkaDeniedError | None = None
        following: _Received | None = None
        try:
            async with asyncio.TaskGroup() as both:
                check = both.create_task(self._take_in(came), name=f"check-{self.node_id}-{self.kind.value}")
                check.add_done_callback(lambda _: self._budget.release(came.charged_bytes))
                try:
                    following = await self._ask()
                except (KafkaUnavailableError, KafkaDeniedError) as error:
                    failure = error
        except BaseException:
            if following is not None:
                self._budget.release(following.charged_bytes)
            raise
        if failure is not None:
            try:
                raise failure
            finally:
                failure = None  # raised, it refers to this frame: the two would be garbage only a search finds
        return following

    async def _ask(self) -> _Received | None:
        """Reserve and fetch; None if no partition was left to ask for. What came is charged to the budget."""
        ask_bytes = self._size.next_bytes(
            limit_bytes=self._budget.limit_bytes,
            loops=self._busy_loops(self.kind),
            most_bytes=self._context.request_bytes,
        )
        await self._rate.admit()
        taken = await self._budget.reserve(ask_bytes * RECEIVING_COPIES)
        try:
            if not self.partitions:
                self._budget.release(taken)
                return None
            self.heard.asked()
            answer = await self._session.fetch(
                max_bytes=ask_bytes, max_wait_ms=MAX_WAIT_MS, timeout_seconds=TIMEOUT_SECONDS
            )
        except BaseException:
            self._budget.release(taken)
            raise
        self._metrics.fetch_answered(self.kind.value)
        self._rate.spend(answer.size_bytes)
        received = sum(len(part.records) for part in answer.partitions)
        self._size.received(
            received,
            asked_bytes=ask_bytes,
            seconds=answer.answered_monotonic - answer.sent_monotonic,
            now=self._clock.monotonic(),
        )
        charged = self._budget.adjust(taken, received * HOLDING_FACTOR)
        return _Received(answer, asked_bytes=ask_bytes, charged_bytes=charged, full=received >= ask_bytes // 4)

    def _look_ahead(self, answer: FetchAnswer) -> bool:
        """Want what follows the answer's records before they are checked; False, and nothing is, if that cannot be."""
        targets = targets_ahead(answer, self.partitions)
        if targets is None:
            return False
        for id, target in targets:
            self._session.want(id, target)
        return True

    async def _take_in(self, came: _Received) -> None:
        answer = came.hand_over()
        for part in answer.partitions:
            self._keep_proof(part.id)
        self.heard.answered(answer)
        todo: list[tuple[PartitionCapture, PartitionAnswer]] = []
        scans: list[tuple[bytes, int]] = []
        for part in answer.partitions:
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
        largest = max((scan.largest_batch_bytes for scan in scanned), default=0)
        self._size.checked(largest, now=self._clock.monotonic())
        try:
            await self._take_parts(came, answer, todo, scanned)
        finally:
            self._intake.count()
        self._after_answer()

    async def _take_parts(
        self,
        came: _Received,
        answer: FetchAnswer,
        parts: list[tuple[PartitionCapture, PartitionAnswer]],
        scans: list[BatchScan],
    ) -> None:
        for turn, ((partition, part), scan) in enumerate(zip(parts, scans, strict=True), start=1):
            if turn % TURN_PARTITIONS == 0:
                await asyncio.sleep(0)
            # While others had their turn, an operator may have paused it or the topic may have gone.
            if self.partitions.get(part.id) is not partition or part.asked_offset != partition.position:
                continue
            before = self._intake.open.facts.held_bytes
            more = self._intake.answered(
                partition, part, scan if part.records else None, answer, self.node_id, asked_bytes=came.asked_bytes
            )
            taken = self._intake.open.facts.held_bytes - before
            if taken:
                # The whole part's bytes stay referenced by what is kept of it.
                charge = len(part.records) * HOLDING_FACTOR
                came.charged_bytes -= charge
                self._intake.open.charge(charge)
            if not more:
                continue
            self._size.needs(partition.id, partition.fetch_bytes)
            if partition.kind is not self.kind:
                self._roster.place(partition)
            else:
                self._session.want(partition.id, partition.target())


class _Received:
    """An answer, and what is known of it once it was handed over: its bytes must live no longer than their charge."""

    def __init__(self, answer: FetchAnswer, *, asked_bytes: int, charged_bytes: int, full: bool) -> None:
        self.asked_bytes = asked_bytes
        self.charged_bytes = charged_bytes
        """Of the budget, for those of its records that the open segment was not charged with, as if it held them: what
        they will need must not be given to somebody else while they are checked."""
        self.full = full
        """So much that more is waiting."""
        self.throttle_ms = answer.throttle_ms
        self.sent_monotonic = answer.sent_monotonic
        self._answer: FetchAnswer | None = answer

    @property
    def answer(self) -> FetchAnswer:
        if self._answer is None:
            raise RuntimeError("the answer was handed over")
        return self._answer

    def hand_over(self) -> FetchAnswer:
        answer, self._answer = self.answer, None
        return answer
