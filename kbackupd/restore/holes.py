"""Filling holes: a partition's log ends at one offset and shall end at a later one, with nothing there for any reader.

Two ways, one protocol. Markers written straight to the leaders, where the target permits it: some ten thousand a
second, answered when they are in the log. Else empty transactions, which leave one marker each in every partition they
name: their end is answered *before* the marker is written, so the log's end is awaited, or the next record would
overtake it. If a broker fails in that moment, the coordinator may write a marker twice, which nobody can prevent: the
partition ends there, with an error, unless the hole has room for it. Both ways begin at the log's real end, so a run
that takes over from a dead one fills what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from kbackupd.kafka.types import KafkaErrorCode, TopicPartition, TransactionMarker
from kbackupd.model.clock import Clock
from kbackupd.model.errors import IncompleteError, KbackupError, UnreachableError
from kbackupd.restore.markers import Hole, HoleSchedule, LogEndQuestion, MarkerRequest
from kbackupd.restore.send_queue import Patience

REQUEST_TIMEOUT_SECONDS = 10.0
_PARTITIONS_PER_TRANSACTION = 200
_FENCED = frozenset(
    {
        KafkaErrorCode.INVALID_PRODUCER_EPOCH,
        KafkaErrorCode.PRODUCER_FENCED,
        KafkaErrorCode.INVALID_TXN_STATE,
        KafkaErrorCode.INVALID_PRODUCER_ID_MAPPING,
    }
)
"""The coordinator gave our transaction up, as it does with one that takes too long."""
_FIRST_POLL_SECONDS = 0.002
_LONGEST_POLL_SECONDS = 0.1

Leaders = Callable[[], Awaitable[Mapping[TopicPartition, int]]]
"""Asks the target who leads what now; a partition without a leader is left out."""
LogEnds = Callable[[int, Sequence[TopicPartition]], Awaitable[Mapping[TopicPartition, tuple[int, int]]]]
"""Asks a broker for log end, replicated or not, and high watermark of logs it leads; what it does not tell is left
out."""


class HoleFiller(Protocol):
    """Use as an async context; leaving it cancels what is under way."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def fill(self, tp: TopicPartition, first_offset: int, next_offset: int) -> None:
        """Make the log of `tp`, which ends at `first_offset`, end at `next_offset`; replicated on return.

        After an exception or a cancellation the log ends anywhere in between, and may still grow up to `next_offset`.

        Raises:
            KbackupError: not within the patience, not permitted, or somebody else writes into the partition.
        """


class Markers(Protocol):
    """What this module needs of a marker writer (`kbackupd.kafka.transactions.MarkerWriter` is one)."""

    async def write(
        self, node_id: int, markers: Sequence[TransactionMarker], *, timeout_seconds: float
    ) -> dict[tuple[int, TopicPartition], int]: ...


class Transactions(Protocol):
    """What this module needs of a producer (`kbackupd.kafka.transactions.EmptyTransactions` is one)."""

    async def open(self, *, timeout_seconds: float = ...) -> None: ...

    async def end_one(self, partitions: Sequence[TopicPartition], *, timeout_seconds: float = ...) -> None: ...


class MarkerFiller:
    """Fills holes with markers; does what `markers` decides. A HoleFiller.

    Args:
        run: see `markers.marker_for`.
        timeout_seconds: of one request.
    """

    def __init__(
        self,
        writer: Markers,
        *,
        leaders: Leaders,
        log_ends: LogEnds,
        clock: Clock,
        run: int,
        patience: Patience | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> None:
        self._writer = writer
        self._timeout_seconds = timeout_seconds
        self._ask_leaders = leaders
        self._ask_log_ends = log_ends
        self._clock = clock
        self._run = run
        self._patience = patience or Patience()
        self._schedule = HoleSchedule(patience=self._patience)
        self._done: dict[TopicPartition, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._spawn(self._dispatch(), "restore-holes")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def fill(self, tp: TopicPartition, first_offset: int, next_offset: int) -> None:
        hole = Hole(tp=tp, first_offset=first_offset, next_offset=next_offset, run=self._run, patience=self._patience)
        self._done[tp] = asyncio.get_running_loop().create_future()
        self._schedule.add(hole)
        self._wake.set()
        try:
            await self._done[tp]
        finally:
            del self._done[tp]
            self._schedule.forget(tp)
        if hole.failed is not None:
            raise hole.failed

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            if self._schedule.leaders_due(self._clock.monotonic()):
                await self._refresh_leaders()
            now = self._clock.monotonic()
            self._schedule.give_up(now)
            for hole in self._schedule.ended():
                if not self._done[hole.tp].done():
                    self._done[hole.tp].set_result(None)
            for question in self._schedule.questions(now):
                self._spawn(self._ask(question), f"restore-holes-ends-{question.node_id}")
            for request in self._schedule.requests(now):
                self._spawn(self._send(request), f"restore-holes-{request.node_id}")
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

    async def _send(self, request: MarkerRequest) -> None:
        try:
            codes = await self._writer.write(request.node_id, request.markers, timeout_seconds=self._timeout_seconds)
        except KbackupError as error:
            self._schedule.unanswered(request, error, self._clock.monotonic())
        else:
            self._schedule.answered(request, codes, self._clock.monotonic())
        self._wake.set()

    async def _ask(self, question: LogEndQuestion) -> None:
        ends: Mapping[TopicPartition, tuple[int, int]] = {}
        failure: KbackupError | None = None
        try:
            ends = await self._ask_log_ends(question.node_id, question.partitions)
        except KbackupError as error:
            failure = error
        self._schedule.ends_are(question, ends, failure, self._clock.monotonic())
        self._wake.set()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._tasks.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


class _Gap:
    """What is left of a hole, and who waits for it."""

    def __init__(self, position: int, next_offset: int) -> None:
        self.position = position
        self.next_offset = next_offset
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def reached(self, log_end: int) -> None:
        self.position = log_end
        if log_end == self.next_offset and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class TransactionFiller:
    """Fills holes with empty transactions, one offset of every waiting partition at a time. A HoleFiller."""

    def __init__(
        self,
        transactions: Transactions,
        *,
        leaders: Leaders,
        log_ends: LogEnds,
        clock: Clock,
        patience: Patience | None = None,
    ) -> None:
        self._transactions = transactions
        self._ask_leaders = leaders
        self._ask_log_ends = log_ends
        self._clock = clock
        self._patience = patience or Patience()
        self._gaps: dict[TopicPartition, _Gap] = {}
        self._leaders: Mapping[TopicPartition, int] = {}
        self._failing_since: float | None = None
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Takes the transactional id: a dead run's transaction is at its end then, and its markers count."""
        await self._transactions.open()
        self._worker = asyncio.create_task(self._work(), name="restore-holes")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])

    async def fill(self, tp: TopicPartition, first_offset: int, next_offset: int) -> None:
        if first_offset >= next_offset:
            return
        gap = self._gaps[tp] = _Gap(first_offset, next_offset)
        self._wake.set()
        try:
            await gap.done
        finally:
            del self._gaps[tp]

    async def _work(self) -> None:
        while True:
            gaps = {tp: gap for tp, gap in self._gaps.items() if not gap.done.done()}
            if not gaps:
                self._wake.clear()
                await self._wake.wait()
                continue
            chosen = dict(list(gaps.items())[:_PARTITIONS_PER_TRANSACTION])
            try:
                await self._fill_one(chosen)
            except Exception as error:  # noqa: BLE001  whoever waits is told, whatever it was
                for gap in chosen.values():
                    gap.fail(error)

    async def _fill_one(self, gaps: Mapping[TopicPartition, _Gap]) -> None:
        """One offset of each; after a failure, of some."""
        try:
            await self._transactions.end_one(list(gaps))
        except KbackupError as error:
            self._give_up_if_due(error)
            # Nobody knows how far it came, and what is on its way may still arrive: not any more when this returns.
            await self._transactions.open(timeout_seconds=self._patience.give_up_seconds)
            await self._await_ends(gaps, certain=False)
        else:
            await self._await_ends(gaps, certain=True)
            self._failing_since = None

    def _give_up_if_due(self, error: KbackupError) -> None:
        if not error.retryable and getattr(error, "code", None) not in _FENCED:
            raise error
        now = self._clock.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since > self._patience.give_up_seconds:
            raise error

    async def _await_ends(self, gaps: Mapping[TopicPartition, _Gap], *, certain: bool) -> None:
        """Return when each partition's marker is in its log and replicated; if not `certain`, it may be missing."""
        deadline = self._clock.monotonic() + self._patience.give_up_seconds
        waiting = dict(gaps)
        pause = _FIRST_POLL_SECONDS
        while True:
            for tp, (log_end, high_watermark) in (await self._log_ends(list(waiting))).items():
                gap = waiting[tp]
                if not gap.position <= log_end <= gap.next_offset:
                    gap.fail(_one_too_many(tp, log_end, gap.next_offset))
                elif high_watermark < log_end or (log_end == gap.position and certain):
                    continue
                else:
                    gap.reached(log_end)
                del waiting[tp]
            if not waiting:
                return
            if self._clock.monotonic() > deadline:
                names = ", ".join(f"{tp.topic}-{tp.partition}" for tp in list(waiting)[:5])
                raise IncompleteError(
                    f"transaction markers did not appear within {self._patience.give_up_seconds:g} s in {names}",
                    hint="are all brokers and the transaction coordinator up?",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_POLL_SECONDS)

    async def _log_ends(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """As far as somebody tells."""
        ends: dict[TopicPartition, tuple[int, int]] = {}
        try:
            if any(tp not in self._leaders for tp in partitions):
                self._leaders = await self._ask_leaders()
            by_leader: dict[int, list[TopicPartition]] = {}
            for tp in partitions:
                if tp in self._leaders:
                    by_leader.setdefault(self._leaders[tp], []).append(tp)
            for node_id, asked in by_leader.items():
                ends.update(await self._ask_log_ends(node_id, asked))
        except KbackupError as error:
            if not error.retryable:
                raise
        if len(ends) < len(partitions):
            self._leaders = {}
        return ends


def _one_too_many(tp: TopicPartition, log_end: int, expected: int) -> IncompleteError:
    return IncompleteError(
        f"{tp.topic}-{tp.partition}: the log ends at offset {log_end} instead of {expected}",
        hint="somebody else writes into the target, or a broker failed and the transaction coordinator wrote a marker"
        " twice: delete the topic and restore it again, best with Alter or ClusterAction on the cluster",
    )
