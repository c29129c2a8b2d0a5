"""A pipeline's life that ends by itself: to the ends that leaders tell at the start, then a drain (docs/once.md).

Owns when such a life is over. What is captured, and how, is the pipeline's business: a run like this leaves the archive
as a daemon leaves it, and a later one, or a daemon, goes on from there.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from kbackupd.capture.goals import GONE, Goals, Standing
from kbackupd.capture.noting import NotedLogs, note_logs
from kbackupd.capture.once_progress import OncePhase, OnceProgress
from kbackupd.capture.once_tally import Tally
from kbackupd.capture.pipeline import Pipeline
from kbackupd.capture.sessions import BEING_ASKED
from kbackupd.capture.snapshots import Snapshots
from kbackupd.capture.source import Source
from kbackupd.capture.tail_probe import TailProbe
from kbackupd.capture.waiting import woken
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.clock import Clock
from kbackupd.model.errors import (
    IncompleteError,
    KafkaDeniedError,
    KafkaUnavailableError,
    StoreUnavailableError,
)
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.status import PartitionState
from kbackupd.observe import events
from kbackupd.observe.problems import Problems

TICK_SECONDS = 0.25
NOTING_SECONDS = 1.0
"""Between two rounds of asking leaders that did not answer where their logs end."""
UNMET_SECONDS = 2.0
BELIEVED_AFTER = 2
"""Brokers deny so often in a row, by name, a topic that capture has not met yet, before it counts as deleted (I5)."""

_HELD_UP = frozenset({PartitionState.RETRYING, PartitionState.QUARANTINED, PartitionState.PAUSED})

log = structlog.get_logger()


class Once:
    """
    Args:
        deadline: monotonic time at which the run ends with what it has; None: none.
        patience_seconds: how long what does not move may keep the run waiting once nothing else moves either.
        drain_seconds: how long the drain may take after the deadline.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        source: Source,
        snapshots: Snapshots,
        clock: Clock,
        problems: Problems,
        progress: OnceProgress,
        patience_seconds: float,
        deadline: float | None,
        drain_seconds: float,
    ) -> None:
        self.goals = Goals(patience_seconds=patience_seconds)
        self.tally = Tally()
        self.noted_ms: int | None = None
        """The instant before which everything the leaders had is below the goals' ends; None: nothing was noted."""
        self.names: frozenset[str] = frozenset()
        """Of all topics the cluster showed then."""
        self.unreadable: dict[str, str] = {}
        """Topics of the backup that metadata answers with an error since then, and why."""
        self.interrupted = False
        self.timed_out = False
        self._pipeline = pipeline
        self._source = source
        self._snapshots = snapshots
        self._clock = clock
        self._problems = problems
        self._progress = progress
        self._patience_seconds = patience_seconds
        self._deadline = deadline
        self._drain_seconds = drain_seconds
        self._tails = TailProbe(goals=self.goals, pipeline=pipeline, source=source, clock=clock)
        self._stopped = asyncio.Event()
        self._began = clock.monotonic()
        self._denied: dict[TopicId, int] = {}
        self._unreachable: KafkaUnavailableError | KafkaDeniedError | None = None
        self._over_since: float | None = None
        self._store_at: tuple[int, float] = (0, self._began)
        pipeline.publisher.on_stored = self.tally.add

    async def run(self) -> None:
        """Capture to the ends, drain. On return everything fetched is durable and checkpointed.

        Raises (in an ExceptionGroup), besides what ends any pipeline:
            KafkaUnavailableError, KafkaDeniedError: nobody could say which partitions there are.
            StoreUnavailableError: the store took nothing for as long as patience lasts.
            IncompleteError: the drain after the deadline took too long.
        """
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self._pipeline.run(), name="pipeline")
            beside = [
                group.create_task(self._note(), name="ends"),
                group.create_task(self._tails.run(), name="tails"),
                group.create_task(self._look_for_unmet(), name="unmet"),
            ]
            await self._until_over(running)
            for task in beside:
                task.cancel()
            self._progress.enter(OncePhase.DRAINING, self._clock.monotonic())
            self._pipeline.stop()
            await self._drained(running)

    def stop(self) -> None:
        """Leave with what there is: the caller has the pipeline drain. Idempotent."""
        self.interrupted = True
        self._stopped.set()

    async def _until_over(self, running: asyncio.Task[None]) -> None:
        while not (self._stopped.is_set() or running.done()):
            now = self._clock.monotonic()
            self.goals.observe(now, self._standing)
            self._show()
            self._check_store(now)
            if self._over(now):
                return
            if self._deadline is not None and now >= self._deadline:
                self.timed_out = True
                return
            await woken(self._stopped, TICK_SECONDS)

    def _over(self, now: float) -> bool:
        if self.noted_ms is None:
            if self._unreachable is not None and now - self._began >= self._patience_seconds:
                raise self._unreachable
            return False
        if not self.goals.over(now):
            self._over_since = None
            return False
        if self._over_since is None:
            self._over_since = now
        # Group positions and whole topics are worth the same patience as a partition.
        lacking = bool(self._snapshots.failing or self.unreadable)
        return not lacking or now - self._over_since >= self._patience_seconds

    def _check_store(self, now: float) -> None:
        """Partitions that wait because nothing becomes durable are not to blame, and no list of them would help."""
        publisher = self._pipeline.publisher
        at, since = self._store_at
        if publisher.first_pending != at or not publisher.in_flight:
            self._store_at = (publisher.first_pending, now)
        elif now - since >= self._patience_seconds:
            told = next((one for one in self._problems.current() if one.subject in ("uploads", "store put")), None)
            raise StoreUnavailableError(
                f"the store took nothing for {self._patience_seconds:.0f} s" + (f": {told.message}" if told else ""),
                hint=told.hint if told and told.hint else "nothing acknowledged is lost; run it again",
            )

    async def _drained(self, running: asyncio.Task[None]) -> None:
        began = self._clock.monotonic()
        while not running.done():
            await asyncio.wait({running}, timeout=TICK_SECONDS)
            now = self._clock.monotonic()
            self._show()
            if running.done() or self.interrupted:
                continue
            self._check_store(now)
            if self.timed_out and now - began >= self._drain_seconds:
                raise IncompleteError(
                    f"the last flush did not finish within backup.shutdown_timeout ({self._drain_seconds:.0f} s) after "
                    "the time that was given",
                    hint="the archive is as of the last stored segment; a later run goes on from there",
                )

    # Ends -------------------------------------------------------------------------------------------------------------

    async def _note(self) -> None:
        """Take the first snapshot, then note the ends: no group stands beyond what this run captures.

        Whoever did not answer is asked again, and so is what a snapshot did not get, until both are there.
        """
        self._progress.enter(OncePhase.NOTING, self._clock.monotonic())
        await self._snapshots.take()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._retake_snapshots(), name="snapshots")
            while True:
                asked_ms = self._clock.now_ms()
                try:
                    logs = await note_logs(
                        self._source,
                        self._pipeline.incarnations.selects,
                        told={goal.id for goal in self.goals if goal.noted},
                    )
                except (KafkaUnavailableError, KafkaDeniedError) as error:
                    self._unreachable = error
                else:
                    if self._noted(logs, asked_ms):
                        return
                await asyncio.sleep(NOTING_SECONDS)

    async def _retake_snapshots(self) -> None:
        while self._snapshots.failing:
            await asyncio.sleep(self._snapshots.pause_seconds)
            await self._snapshots.take()

    def _noted(self, logs: NotedLogs, asked_ms: int) -> bool:
        """Take a round of answers in; True if nothing is left to ask."""
        now = self._clock.monotonic()
        first = self.noted_ms is None
        if first:
            self.noted_ms = asked_ms
        roster = self._pipeline.roster
        for one in logs.logs:
            # A topic made since is not this run's; one that could not be read before was there.
            if one.id not in self.goals and (first or one.topic in self.unreadable):
                self.goals.add(one.id, one.topic, listed=True, now=now)
        if first:
            self.names = logs.names
            self.unreadable = dict(logs.unreadable)
            for partition in roster.partitions.values():
                if partition.id not in self.goals and not partition.closed:
                    self.goals.add(partition.id, partition.topic, listed=False, now=now)
        else:
            self.unreadable = {name: why for name, why in logs.unreadable.items() if name in self.unreadable}
        unnoted = {goal.id for goal in self.goals if not goal.noted}
        for one in logs.logs:
            if one.id not in unnoted:
                continue
            if one.unknown:
                self.goals.not_told(one.id, one.unknown)
            else:
                unnoted.discard(one.id)
                held = roster.partitions.get(one.id)
                self.goals.note(
                    one.id,
                    first_offset=one.first_offset,
                    end_offset=one.end_offset,
                    held_to=held.position if held is not None else -1,
                    now=now,
                )
        roster.metadata_wanted.set()
        if first:
            self._progress.enter(OncePhase.CAPTURING, now)
            log.info(
                events.ENDS_NOTED,
                partitions=len(self.goals),
                unknown=len(unnoted),
                offsets=sum(goal.offsets for goal in self.goals),
            )
        return not unnoted and not self.unreadable

    def _standing(self, id: PartitionId) -> Standing | None:
        pipeline = self._pipeline
        partition = pipeline.roster.partitions.get(id)
        if partition is None:
            return GONE if self._denied.get(id.topic_id, 0) >= BELIEVED_AFTER else None
        state, reason = partition.state, partition.reason
        if partition.paused:
            reason = "paused by an operator"
        elif (failure := pipeline.sessions.failure(partition)) is not None:
            reason = failure
            if state in BEING_ASKED:
                state = PartitionState.RETRYING
        return Standing(
            branch=partition.branch,
            position=partition.position,
            high_watermark=partition.proof.high_watermark,
            heard=pipeline.sessions.heard(partition),
            state=state,
            reason=reason,
        )

    async def _look_for_unmet(self) -> None:
        """Discovery closes what it has met; a topic that was deleted before that, nobody else would miss."""
        while True:
            await asyncio.sleep(UNMET_SECONDS)
            met = self._pipeline.roster.partitions
            unmet = {goal.id.topic_id: goal.topic for goal in self.goals.open if goal.id not in met and goal.waiting}
            if not unmet:
                continue
            self._pipeline.roster.metadata_wanted.set()
            try:
                metadata = await self._source.metadata(sorted(set(unmet.values())))
            except (KafkaUnavailableError, KafkaDeniedError):
                continue
            rows = {row.name: row for row in metadata.topics}
            for topic_id, name in unmet.items():
                row = rows.get(name)
                denied = row is not None and (
                    row.error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                    or (row.error_code == KafkaErrorCode.NONE and row.topic_id != topic_id)
                )
                self._denied[topic_id] = self._denied.get(topic_id, 0) + 1 if denied else 0

    # Progress ---------------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        progress, goals = self._progress, self.goals
        progress.partitions, progress.partitions_done = len(goals), goals.reached_count
        progress.offsets, progress.offsets_done = goals.offsets, goals.offsets_done
        progress.records, progress.bytes = self._pipeline.intake.taken_records, self._pipeline.intake.taken_bytes
        progress.held_up = Counter(goal.state.value for goal in goals.open if goal.state in _HELD_UP)
