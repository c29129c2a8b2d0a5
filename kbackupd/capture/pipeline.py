"""The forward path on one page.

    brokers ──sessions──▶ intake ──open segment──▶ seal ──publisher──▶ store ──▶ watermark ──▶ checkpoint
                             ▲
    discovery, positions ────┘  (ledger events)

What a checkpoint covers is committed to a consumer group beside this (`group_commit`), for Kafka's tools to see.

Owns the order of life: recover, look around, fetch; on `stop`: fetch no more, seal, upload, checkpoint, leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from kbackupd.archive.recovery import Recovery
from kbackupd.capture.assembly import ClosedSegment, OpenSegment
from kbackupd.capture.checkpointing import Checkpointer
from kbackupd.capture.discovery import Discovery
from kbackupd.capture.incarnations import Incarnations
from kbackupd.capture.intake import Intake
from kbackupd.capture.positions import Positioner
from kbackupd.capture.publish import Publisher
from kbackupd.capture.quiet import sample_quiet, take_quiet
from kbackupd.capture.rate import RateLimit
from kbackupd.capture.roll import RollPolicy, RollReason, decide, next_deadline
from kbackupd.capture.roster import Roster
from kbackupd.capture.session_loop import FetchContext
from kbackupd.capture.sessions import Sessions
from kbackupd.capture.source import Source
from kbackupd.capture.waiting import woken
from kbackupd.flow.budget import MemoryBudget
from kbackupd.format.segment import StoredBody
from kbackupd.model.clock import Clock
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Identity, OpenTransaction
from kbackupd.model.settings import UNTIERED, BackupSettings, DaemonSettings
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.protocol import ObjectStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where this life begins: the claimed epoch and what recovery found."""

    identity: Identity
    writer_epoch: int
    recovery: Recovery
    left_out: Mapping[TopicId, tuple[int, ...]]
    """Offsets below which partitions are left out (`start: latest`), by topic and partition; -1: those there now."""


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
        self.identity = resume.identity
        self.writer_epoch = resume.writer_epoch
        self._source = source
        self._clock = clock
        self._stopping = asyncio.Event()
        self.progress = asyncio.Event()
        self._seal_lock = asyncio.Lock()
        self._uploads: asyncio.TaskGroup | None = None
        self._publishing: set[asyncio.Task[int]] = set()
        self._policy = _policy(backup)
        self._fetching = FetchContext(
            budget=budget,
            rate=RateLimit(settings.source.rate_limit_bytes_per_second, clock),
            clock=clock,
            metrics=metrics,
            problems=problems,
            pace_seconds=_pace_seconds(backup),
            request_bytes=_request_bytes(backup),
            after_answer=self.progress.set,
        )
        self.sessions = Sessions(source=source, context=self._fetching)
        self.roster = Roster(clock=clock, metrics=metrics, problems=problems, place_for=self.sessions.place_for)
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
            on_forgotten=self._forget,
        )
        self.intake = Intake(
            roster=self.roster, watermark=self.publisher.watermark, clock=clock, metrics=metrics, problems=problems
        )
        self.incarnations = Incarnations(
            settings=settings.source,
            tier_of=lambda topic: tier.name if (tier := self.settings.tier_of(topic)) else UNTIERED,
            roster=self.roster,
            intake=self.intake,
            state=resume.recovery.state,
            clock=clock,
            problems=problems,
        )
        self.discovery = Discovery(
            source=source,
            literals=settings.source.topics.literals,
            interval_seconds=backup.discovery_interval_seconds,
            incarnations=self.incarnations,
            roster=self.roster,
            clock=clock,
            metrics=metrics,
            problems=problems,
        )
        self._positioner = Positioner(
            source=source, roster=self.roster, intake=self.intake, clock=clock, left_out=resume.left_out
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
                self.incarnations.exclude_unselected()
                self.incarnations.resume_known()
                loops = [
                    fetching.create_task(self.discovery.run(), name="discovery"),
                    fetching.create_task(self._positioner.run(), name="positions"),
                    fetching.create_task(self.roster.run_retries(), name="retries"),
                    fetching.create_task(self._roll(), name="roll"),
                    fetching.create_task(self.checkpointer.run(), name="checkpoints"),
                    fetching.create_task(sample_quiet(self.roster, self.sessions, self.intake), name="samples"),
                ]
                await self._stopping.wait()
                # The newest answers say that all was captured until now, and no later life can say it of this moment.
                take_quiet(self.roster, self.sessions, self.intake)
                self.roster.halt()
                for task in loops:
                    task.cancel()
                await self.sessions.stop()
            self.seal(RollReason.FLUSH)
            await self.all_durable()
            await self.checkpointer.write()

    def stop(self) -> None:
        """Ask `run` to drain and return; idempotent."""
        self._stopping.set()

    def reconfigure(self, settings: DaemonSettings) -> None:
        """Obey `settings` from now on: the choice of topics, tiers, intervals, sizes, compression and the rate limit.

        Done when it returns, all of it; whatever else differs from what the pipeline was built with is not looked at.
        """
        backup = settings.backup
        self.settings = settings
        self._policy = _policy(backup)
        self._fetching.pace_seconds = _pace_seconds(backup)
        self._fetching.request_bytes = _request_bytes(backup)
        self._fetching.rate.change(settings.source.rate_limit_bytes_per_second)
        self.publisher.compress(backup)
        self.checkpointer.every(backup.checkpoint_interval_seconds)
        self.incarnations.reconfigure(settings.source)
        self.discovery.reconfigure(settings.source.topics.literals, interval_seconds=backup.discovery_interval_seconds)
        self.progress.set()

    async def _roll(self) -> None:
        """Seal the open segment whenever the policy says so."""
        while True:
            self.progress.clear()
            facts = self.intake.open.facts
            reason = decide(
                self._policy,
                facts,
                now=self._clock.monotonic(),
                starved=self.budget.starved_by(self.intake.open.charged_bytes),
                in_flight=self.publisher.in_flight + len(self._publishing),
            )
            if reason is not None:
                self.seal(reason)
                continue
            deadline = next_deadline(self._policy, facts)
            # Half a second bounds how late starvation is noticed: a waiting fetch loop reports no progress.
            wait = 0.5 if deadline is None else min(0.5, max(0.0, deadline - self._clock.monotonic()))
            await woken(self.progress, wait)

    def seal(self, reason: RollReason) -> asyncio.Task[int] | None:
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
        log.debug(events.SEGMENT_CLOSED, reason=reason.value, bytes=closed.held_bytes)
        body = self._uploads.create_task(self.publisher.prepare(closed), name="prepare")
        task = self._uploads.create_task(self._publish(closed, body), name="publish")
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        return task

    async def _publish(self, closed: ClosedSegment, body: asyncio.Task[StoredBody]) -> int:
        # Tasks start in the order they were made and the lock is fair: segments get their sequence as they were closed.
        async with self._seal_lock:
            if self._uploads is None:
                raise RuntimeError("the pipeline does not run")
            return await self.publisher.publish(closed, await body, self._uploads)

    async def all_durable(self) -> None:
        """Return once everything closed so far is durable."""
        if self._publishing:
            await asyncio.wait(set(self._publishing))
        await self.publisher.wait_all()

    def _became_durable(self, moved: list[PartitionId]) -> None:
        for id in moved:
            partition = self.roster.partitions.get(id)
            if partition is not None:
                partition.proof.durable_moved(self.publisher.watermark.durable(id))
        self.progress.set()

    def _forget(self, topic_ids: frozenset[TopicId]) -> None:
        self.publisher.watermark.forget(self.roster.forget(topic_ids))

    def _states(self) -> Mapping[PartitionId, str]:
        return {id: partition.state.value for id, partition in self.roster.partitions.items()}


def _policy(backup: BackupSettings) -> RollPolicy:
    return RollPolicy(
        segment_max_bytes=backup.segment_max_bytes,
        flush_interval_seconds=backup.flush_interval_seconds,
        system_interval_seconds=max(backup.checkpoint_interval_seconds, backup.flush_interval_seconds),
    )


def _pace_seconds(backup: BackupSettings) -> float:
    return min(0.5, backup.flush_interval_seconds / 20)


def _request_bytes(backup: BackupSettings) -> int:
    return max(1 << 20, backup.segment_max_bytes // 2)
