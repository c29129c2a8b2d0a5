"""The forward path on one page.

    brokers ──sessions──▶ intake ──open segment──▶ seal ──publisher──▶ store ──▶ watermark ──▶ checkpoint
                             ▲
    discovery, positions ────┘  (ledger events)

Owns the order of life: recover, look around, fetch; on `stop`: fetch no more, seal, upload, checkpoint, leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import structlog

from kbackupd.archive.recovery import Recovery
from kbackupd.capture.assembly import ClosedSegment, OpenSegment
from kbackupd.capture.budget import MemoryBudget
from kbackupd.capture.checkpointing import Checkpointer
from kbackupd.capture.discovery import Discovery
from kbackupd.capture.intake import Intake
from kbackupd.capture.partition import PartitionCapture
from kbackupd.capture.positions import Positioner
from kbackupd.capture.publish import Publisher
from kbackupd.capture.roll import RollPolicy, RollReason, decide, next_deadline
from kbackupd.capture.roster import Roster
from kbackupd.capture.sessions import Sessions
from kbackupd.capture.source import Source
from kbackupd.kafka.types import LATEST_TIMESTAMP, KafkaErrorCode, TopicPartition
from kbackupd.model.clock import Clock
from kbackupd.model.errors import UnreachableError, UsageError
from kbackupd.model.events import Paused
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import Identity, OpenTransaction
from kbackupd.model.settings import UNTIERED, DaemonSettings
from kbackupd.model.status import (
    FlushedPartition,
    FlushReport,
    PartitionSample,
    PartitionState,
    PauseReport,
)
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.protocol import ObjectStore

FLUSH_DEADLINE_SECONDS = 120.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where this life begins: the claimed epoch and what recovery found."""

    identity: Identity
    writer_epoch: int
    recovery: Recovery
    starts_latest: bool
    """Partitions met in the first round begin at their end (`start: latest` on a new archive)."""


class Pipeline:
    def __init__(
        self,
        *,
        settings: DaemonSettings,
        source: Source,
        store: ObjectStore,
        resume: Resume,
        budget: MemoryBudget,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        backup = settings.backup
        self.settings = settings
        self.budget = budget
        self._source = source
        self._clock = clock
        self._stopping = asyncio.Event()
        self._progress = asyncio.Event()
        self._seal_lock = asyncio.Lock()
        self._uploads: asyncio.TaskGroup | None = None
        self._publishing: set[asyncio.Task[int]] = set()
        self._policy = RollPolicy(
            segment_max_bytes=backup.segment_max_bytes,
            flush_interval_seconds=backup.flush_interval_seconds,
            system_interval_seconds=max(backup.checkpoint_interval_seconds, backup.flush_interval_seconds),
        )
        self.sessions = Sessions(
            source=source,
            budget=budget,
            clock=clock,
            metrics=metrics,
            problems=problems,
            pace_seconds=min(0.5, backup.flush_interval_seconds / 20),
            request_bytes=max(1 << 20, backup.segment_max_bytes // 2),
            after_answer=self._progress.set,
        )
        self.roster = Roster(clock=clock, problems=problems, place_for=self.sessions.place_for)
        self.roster.pauses = dict(resume.recovery.state.pauses)
        self.publisher = Publisher(
            store=store,
            identity=resume.identity,
            writer_epoch=resume.writer_epoch,
            earlier=resume.recovery.earlier,
            state=resume.recovery.state,
            settings=backup,
            budget=budget,
            clock=clock,
            metrics=metrics,
            problems=problems,
            topic_names=self.roster.names,
            on_durable=self._became_durable,
        )
        self.intake = Intake(
            roster=self.roster, watermark=self.publisher.watermark, clock=clock, metrics=metrics, problems=problems
        )
        starts_latest: set[PartitionId] = set()
        self.discovery = Discovery(
            source=source,
            settings=settings.source,
            interval_seconds=backup.discovery_interval_seconds,
            tier_of=lambda topic: tier.name if (tier := settings.tier_of(topic)) else UNTIERED,
            roster=self.roster,
            intake=self.intake,
            state=resume.recovery.state,
            starts_latest=starts_latest,
            first_starts_latest=resume.starts_latest,
            clock=clock,
            metrics=metrics,
            problems=problems,
        )
        self._positioner = Positioner(
            source=source, roster=self.roster, intake=self.intake, clock=clock, starts_latest=starts_latest
        )
        self.checkpointer = Checkpointer(
            store=store,
            identity=resume.identity,
            writer_epoch=resume.writer_epoch,
            publisher=self.publisher,
            states=self._states,
            interval_seconds=backup.checkpoint_interval_seconds,
            clock=clock,
            metrics=metrics,
            problems=problems,
        )

    async def run(self) -> None:
        """Back up until `stop`, then drain.

        On return everything fetched is durable and checkpointed. Raises (in an ExceptionGroup) what ended it otherwise.
        Cancelled or failed it leaves an archive that a restart goes on from: only what was durable was acknowledged.
        """
        async with asyncio.TaskGroup() as uploads:
            self._uploads = uploads
            async with asyncio.TaskGroup() as fetching:
                self.sessions.start(fetching, intake=self.intake, roster=self.roster)
                self.discovery.exclude_unselected()
                self.discovery.resume_known()
                loops = [
                    fetching.create_task(self.discovery.run(), name="discovery"),
                    fetching.create_task(self._positioner.run(), name="positions"),
                    fetching.create_task(self.roster.run_retries(), name="retries"),
                    fetching.create_task(self._roll(), name="roll"),
                    fetching.create_task(self.checkpointer.run(), name="checkpoints"),
                ]
                await self._stopping.wait()
                for task in loops:
                    task.cancel()
                await self.sessions.stop()
            self._seal(RollReason.FLUSH)
            await self._all_durable()
            await self.checkpointer.write()

    def stop(self) -> None:
        """Ask `run` to drain and return; idempotent."""
        self._stopping.set()

    async def _roll(self) -> None:
        """Seal the open segment whenever the policy says so."""
        while True:
            self._progress.clear()
            facts = self.intake.open.facts
            reason = decide(
                self._policy,
                facts,
                now=self._clock.monotonic(),
                starved=self.budget.starved,
                in_flight=self.publisher.in_flight,
            )
            if reason is not None:
                self._seal(reason)
                continue
            deadline = next_deadline(self._policy, facts)
            # Half a second bounds how late starvation is noticed: a waiting fetch loop reports no progress.
            wait = 0.5 if deadline is None else min(0.5, max(0.0, deadline - self._clock.monotonic()))
            try:
                await asyncio.wait_for(self._progress.wait(), wait)
            except TimeoutError:
                continue

    def _seal(self, reason: RollReason) -> asyncio.Task[int] | None:
        """Close the open segment at once and have it sealed and uploaded after those before it; None if it is empty.

        How many wait for that is bounded by the memory budget, to which their bytes are charged.
        """
        if self._uploads is None:
            raise RuntimeError("the pipeline does not run")
        taken = self.intake.open
        if taken.facts.empty:
            return None
        rows = [
            OpenTransaction(id=id, producer_id=producer_id, producer_epoch=epoch, first_offset=first)
            for id in taken.partitions
            for producer_id, (epoch, first) in self.roster.partitions[id].open_transactions.items()
        ]
        self.intake.open = OpenSegment()
        closed = taken.close(rows)
        log.debug(events.SEGMENT_SEALED, reason=reason.value, bytes=closed.held_bytes)
        task = self._uploads.create_task(self._publish(closed), name="publish")
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        return task

    async def _publish(self, closed: ClosedSegment) -> int:
        # Tasks start in the order they were made and the lock is fair: segments get their sequence as they were closed.
        async with self._seal_lock:
            if self._uploads is None:
                raise RuntimeError("the pipeline does not run")
            return await self.publisher.publish(closed, self._uploads)

    async def _all_durable(self) -> None:
        """Return once everything closed so far is durable."""
        if self._publishing:
            await asyncio.wait(set(self._publishing))
        await self.publisher.wait_all()

    def _became_durable(self, moved: list[PartitionId]) -> None:
        for id in moved:
            partition = self.roster.partitions.get(id)
            if partition is not None:
                partition.proof.durable_moved(self.publisher.watermark.durable(id))
        self._progress.set()

    def _states(self) -> Mapping[PartitionId, str]:
        return {id: partition.state.value for id, partition in self.roster.partitions.items()}

    # What operators ask -------------------------------------------------------------------------------------------

    async def flush(self, topics: str) -> FlushReport:
        """Make durable what the matching partitions hold now, as their leaders tell it at this moment.

        On return everything below the offsets in the report is durable. Cancelled, the uploads go on.

        Raises:
            UsageError: no topic matches.
            UnreachableError: brokers or store did not get there in time; everything goes on meanwhile.
        """
        started = self._clock.monotonic()
        partitions = list(self.roster.matching(topics))
        if not partitions:
            raise UsageError(f"no topic of the backup matches {topics!r}", hint="kbackupd ctl status lists them")
        before = self.publisher.next_seq
        try:
            async with asyncio.timeout(FLUSH_DEADLINE_SECONDS):
                targets = await self._log_ends(partitions)
                await self._captured(targets)
                self._seal(RollReason.FLUSH)
                await self._all_durable()
        except TimeoutError as error:
            raise UnreachableError(
                f"the flush of {topics!r} did not finish within {FLUSH_DEADLINE_SECONDS:.0f} s",
                hint="kbackupd ctl status shows what is slow; nothing is lost, it goes on meanwhile",
            ) from error
        return FlushReport(
            topics=topics,
            partitions=tuple(
                FlushedPartition(
                    topic=partition.topic,
                    topic_id=partition.id.topic_id,
                    partition=partition.id.partition,
                    durable_offset=self.publisher.watermark.durable(partition.id),
                )
                for partition in partitions
            ),
            segments=tuple(self.publisher.keys_from(before)),
            outcome="stored" if self.publisher.next_seq > before else "nothing new",
            seconds=self._clock.monotonic() - started,
        )

    async def _log_ends(self, partitions: list[PartitionCapture]) -> dict[PartitionId, int]:
        """High watermarks now, of those that are being fetched; the rest are as they are and say so."""
        by_leader: dict[int, dict[TopicPartition, PartitionCapture]] = {}
        for partition in partitions:
            if partition.fetchable and not partition.failures:
                tp = TopicPartition(partition.topic, partition.id.partition)
                by_leader.setdefault(partition.leader_id, {})[tp] = partition
        targets: dict[PartitionId, int] = {}
        for node_id, group in by_leader.items():
            asked = {tp: (LATEST_TIMESTAMP, partition.leader_epoch) for tp, partition in group.items()}
            for tp, answer in (await self._source.list_offsets(node_id, asked)).items():
                if answer.error_code == KafkaErrorCode.NONE:
                    targets[group[tp].id] = answer.offset
        return targets

    async def _captured(self, targets: dict[PartitionId, int]) -> None:
        """Return once every target is fetched, or its partition cannot be fetched any more."""
        waiting = dict(targets)
        while True:
            self._progress.clear()
            for id in list(waiting):
                partition = self.roster.partitions[id]
                branched = partition.position < waiting[id] and partition.failures
                if partition.position >= waiting[id] or not partition.fetchable or branched:
                    del waiting[id]
            if not waiting:
                return
            try:
                await asyncio.wait_for(self._progress.wait(), 0.25)
            except TimeoutError:
                continue

    async def pause(self, topics: str) -> PauseReport:
        """Stop fetching the matching topics; remembered over restarts on return."""
        partitions = list(self.roster.matching(topics))
        if not partitions:
            raise UsageError(f"no topic of the backup matches {topics!r}", hint="kbackupd ctl status lists them")
        self.roster.pauses[topics] = None
        return await self._steer(topics, partitions, [topics], paused=True)

    async def resume(self, topics: str) -> PauseReport:
        """Undo every pause whose glob is `topics` or is matched by it; remembered over restarts on return."""
        undone = [glob for glob in self.roster.pauses if glob == topics or fnmatchcase(glob, topics)]
        partitions = list(self.roster.matching(topics))
        if not undone:
            held = [glob for glob in self.roster.pauses if any(fnmatchcase(p.topic, glob) for p in partitions)]
            what = f"{topics!r} is paused by {held[0]!r}" if held else f"nothing that matches {topics!r} is paused"
            hint = f"kbackupd ctl resume --topic {held[0]!r}" if held else "kbackupd ctl status shows what is paused"
            raise UsageError(what, hint=hint)
        affected = [p for p in self.roster.partitions.values() if any(fnmatchcase(p.topic, glob) for glob in undone)]
        for glob in undone:
            del self.roster.pauses[glob]
        return await self._steer(topics, [p for p in affected if not p.closed], undone, paused=False)

    async def _steer(
        self, topics: str, partitions: list[PartitionCapture], globs: list[str], *, paused: bool
    ) -> PauseReport:
        for partition in partitions:
            partition.paused = self.roster.is_paused(partition.topic)
            self.roster.place(partition)
        for glob in globs:
            self.intake.record(Paused(topics=glob, paused=paused, at_ms=self._clock.now_ms()))
        log.info(events.TOPICS_PAUSED if paused else events.TOPICS_RESUMED, topics=topics, partitions=len(partitions))
        self._seal(RollReason.FLUSH)
        try:
            async with asyncio.timeout(FLUSH_DEADLINE_SECONDS):
                await self._all_durable()
            durable = True
        except TimeoutError:
            durable = False
        return PauseReport(
            topics=tuple(sorted({partition.topic for partition in partitions})),
            partitions=len(partitions),
            paused=paused,
            durable=durable,
        )

    def samples(self) -> Iterator[PartitionSample]:
        """Where every partition stands at this moment."""
        now = self._clock.monotonic()
        for partition in self.roster.partitions.values():
            durable = self.publisher.watermark.durable(partition.id)
            state = partition.state
            loop = self.sessions.loop_of(partition)
            if loop is not None:
                unchanged = loop.unchanged_since(partition.id)
                if unchanged is not None:
                    partition.proof.left_out(unchanged, durable)
                if loop.failing and state in (PartitionState.FOLLOWING, PartitionState.CATCHING_UP):
                    state = PartitionState.RETRYING
            high_watermark = partition.proof.high_watermark
            yield PartitionSample(
                topic=partition.topic,
                topic_id=partition.id.topic_id,
                partition=partition.id.partition,
                tier=partition.tier,
                state=state,
                exposure_seconds=partition.proof.exposure(now),
                lag_records=max(0, high_watermark - durable) if high_watermark >= 0 and durable >= 0 else None,
                durable_offset=durable,
                high_watermark=high_watermark,
                log_start_offset=partition.log_start_offset,
                time_to_loss_seconds=None,
            )
