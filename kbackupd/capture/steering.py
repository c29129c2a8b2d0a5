"""What operators ask of a running pipeline: flush, pause, resume (docs/control.md)."""

from __future__ import annotations

import asyncio
from fnmatch import fnmatchcase
from typing import NamedTuple

import structlog

from kbackupd.capture.partition import PartitionCapture
from kbackupd.capture.pipeline import Pipeline
from kbackupd.capture.roll import RollReason
from kbackupd.capture.waiting import woken
from kbackupd.model.clock import Clock
from kbackupd.model.errors import UnreachableError, UsageError
from kbackupd.model.events import Paused
from kbackupd.model.positions import PartitionId
from kbackupd.model.status import (
    CheckpointReport,
    FlushedPartition,
    FlushReport,
    LeftOutPartition,
    PartitionState,
    PauseReport,
)
from kbackupd.observe import events

FLUSH_DEADLINE_SECONDS = 290.0
"""Below what the control socket waits, so that the answer can still say what was slow."""
CAPTURE_DEADLINE_SECONDS = 200.0
"""Partitions that have not caught up by then are left out: what they are behind by may be hours of back-fill."""
CHECKPOINT_DEADLINE_SECONDS = 110.0
"""Below what the control socket waits: an upload and a checkpoint, each with the store's minute of patience."""
PAUSE_DEADLINE_SECONDS = 45.0
"""Below what the control socket waits, so that the answer can still say that a restart would not remember yet."""
LOOK_AROUND_SECONDS = 5.0
PATIENCE_FAILURES = 4
"""A partition that failed so often in a row (a few seconds) is left out of a flush: no passing change of leader."""

log = structlog.get_logger()


class _LeftOut(NamedTuple):
    state: PartitionState
    reason: str


class Steering:
    def __init__(self, pipeline: Pipeline, *, clock: Clock) -> None:
        self._pipeline = pipeline
        self._clock = clock

    async def flush(self, topics: str) -> FlushReport:
        """Make durable what the matching partitions hold now, as their leaders tell it at this moment.

        On return everything below the offsets in the report is durable; partitions that leaders could not be asked
        for, or that did not catch up in time, are in it with the reason. Cancelled, the uploads go on.

        Raises:
            UsageError: no topic matches.
            UnreachableError: the store did not get there in time; everything goes on meanwhile.
        """
        started = self._clock.monotonic()
        await self._look_around()
        partitions = list(self._pipeline.roster.matching(topics))
        if not partitions:
            raise UsageError(f"no topic of the backup matches {topics!r}", hint="kbackupd ctl status lists them")
        before = self._pipeline.publisher.first_pending
        try:
            async with asyncio.timeout(FLUSH_DEADLINE_SECONDS - LOOK_AROUND_SECONDS):
                left_out = await self._captured(partitions, until=started + CAPTURE_DEADLINE_SECONDS)
                self._pipeline.seal(RollReason.FLUSH)
                await self._pipeline.all_durable()
        except TimeoutError as error:
            raise UnreachableError(
                f"the flush of {topics!r} did not finish within {FLUSH_DEADLINE_SECONDS:.0f} s",
                hint="kbackupd ctl status shows what is slow; nothing is lost, it goes on meanwhile",
            ) from error
        seconds = self._clock.monotonic() - started
        durable = self._pipeline.publisher.watermark.durable
        log.info(
            events.FLUSH_FINISHED,
            topics=topics,
            partitions=len(partitions),
            left_out=len(left_out),
            seconds=round(seconds, 3),
        )
        return FlushReport(
            topics=topics,
            partitions=tuple(
                FlushedPartition(
                    topic=partition.topic,
                    topic_id=partition.id.topic_id,
                    partition=partition.id.partition,
                    durable_offset=durable(partition.id),
                )
                for partition in partitions
            ),
            segments=tuple(self._pipeline.publisher.keys_from(before)),
            outcome="stored" if self._pipeline.publisher.next_seq > before else "nothing new",
            seconds=seconds,
            left_out=tuple(
                LeftOutPartition(
                    topic=partition.topic,
                    topic_id=partition.id.topic_id,
                    partition=partition.id.partition,
                    durable_offset=durable(partition.id),
                    state=why.state,
                    reason=why.reason,
                )
                for partition, why in left_out
            ),
        )

    async def _look_around(self) -> None:
        """Let discovery see what there is now: a topic made a moment ago is part of "now", and so is a start's first
        round. Brokers that do not answer must not keep a flush from storing what is held: the wait is short.
        """
        begun = self._clock.monotonic()
        self._pipeline.roster.metadata_wanted.set()
        # A round that is under way asked before: what was made since is not in its answer.
        while self._pipeline.discovery.looked_at < begun and self._clock.monotonic() < begun + LOOK_AROUND_SECONDS:
            self._pipeline.progress.clear()
            await woken(self._pipeline.progress, 0.1)

    async def _captured(
        self, partitions: list[PartitionCapture], *, until: float
    ) -> list[tuple[PartitionCapture, _LeftOut]]:
        """Return once all is fetched that leaders, asked from now on, say they have, or at `until`; and what is not.

        The offset alone would not do: it may be that of a log which was lost and has regrown, and only the next answer
        says so. Partitions that are not being fetched (paused, failing, without a leader) are as they are.
        """
        begun = self._clock.monotonic()
        meant = {partition.id: partition for partition in partitions}
        waiting: dict[PartitionId, tuple[int, int] | None] = dict.fromkeys(meant)
        left_out: list[tuple[PartitionCapture, _LeftOut]] = []
        while waiting:
            self._pipeline.progress.clear()
            late = self._clock.monotonic() >= until
            looked_around = self._pipeline.discovery.rounds > 0
            for id, goal in list(waiting.items()) if looked_around or late else ():
                partition = self._pipeline.roster.partitions.get(id)
                if partition is None or partition.closed:
                    # Brokers that lag behind deny a topic that is there, and what it had beyond the archive is lost.
                    excluded = partition is not None and partition.excluded
                    why_closed = (
                        "configuration leaves its topic out" if excluded else "brokers say that its topic is gone"
                    )
                    left_out.append((meant[id], _LeftOut(PartitionState.CLOSED, why_closed)))
                    del waiting[id]
                    continue
                why = self._why_not(partition)
                if why is not None:
                    left_out.append((partition, why))
                    del waiting[id]
                elif self._reached(partition, goal):
                    del waiting[id]
                elif late:
                    left_out.append((partition, _slow(partition)))
                    del waiting[id]
                elif partition.fetchable and self._pipeline.sessions.heard(partition) >= begun:
                    end = partition.proof.high_watermark
                    if end >= 0 and (goal is None or goal[0] != partition.branch):
                        # On a log that was cut back the end it had may never come.
                        waiting[id] = goal = (partition.branch, end)
                    if self._reached(partition, goal):
                        del waiting[id]
            if waiting:
                await woken(self._pipeline.progress, 0.25)
        return left_out

    @staticmethod
    def _reached(partition: PartitionCapture, goal: tuple[int, int] | None) -> bool:
        return goal is not None and goal[0] == partition.branch and goal[1] <= partition.position

    def _why_not(self, partition: PartitionCapture) -> _LeftOut | None:
        """Why a flush must do without it: it is not being fetched, and waiting would not help."""
        if partition.paused:
            return _LeftOut(PartitionState.PAUSED, "paused by an operator")
        if partition.failures >= PATIENCE_FAILURES:
            return _LeftOut(partition.state, partition.reason)
        failure = self._pipeline.sessions.failure(partition)
        return None if failure is None else _LeftOut(PartitionState.RETRYING, failure)

    async def checkpoint(self) -> CheckpointReport:
        """Store what is held in memory, then a checkpoint over it: a restart reads nothing older.

        Asks no leader: what was not captured yet when it was called is not in it. On return both are durable.
        Cancelled, the uploads go on, and the checkpoint is there or not; either is right.

        Raises:
            StoreUnavailableError, StoreDeniedError: the checkpoint could not be stored; the next one is tried at its
                interval.
            UnreachableError: the store did not get there in time; the uploads go on meanwhile.
        """
        started = self._clock.monotonic()
        pipeline = self._pipeline
        before, newest = pipeline.publisher.first_pending, pipeline.checkpointer.last_key
        try:
            async with asyncio.timeout(CHECKPOINT_DEADLINE_SECONDS):
                pipeline.seal(RollReason.FLUSH)
                await pipeline.all_durable()
                await pipeline.checkpointer.write()
        except TimeoutError as error:
            raise UnreachableError(
                f"no checkpoint within {CHECKPOINT_DEADLINE_SECONDS:.0f} s: the store is slow or away",
                hint="kbackupd ctl status shows what is slow; nothing is lost, it goes on meanwhile",
            ) from error
        return CheckpointReport(
            key=pipeline.checkpointer.last_key,
            segments=tuple(pipeline.publisher.keys_from(before)),
            # Whoever wrote it: a life's first segment is followed by a checkpoint that nobody asked for.
            outcome="nothing new" if pipeline.checkpointer.last_key == newest else "stored",
            partitions=len(pipeline.publisher.state.partitions),
            seconds=self._clock.monotonic() - started,
        )

    async def pause(self, topics: str) -> PauseReport:
        """Stop fetching the matching topics; remembered over restarts on return."""
        partitions = list(self._pipeline.roster.matching(topics))
        if not partitions:
            raise UsageError(f"no topic of the backup matches {topics!r}", hint="kbackupd ctl status lists them")
        self._pipeline.roster.pauses[topics] = None
        return await self._steer(topics, partitions, [topics], paused=True)

    async def resume(self, topics: str) -> PauseReport:
        """Undo every pause whose glob is `topics` or is matched by it; remembered over restarts on return."""
        roster = self._pipeline.roster
        undone = [glob for glob in roster.pauses if glob == topics or fnmatchcase(glob, topics)]
        partitions = list(roster.matching(topics))
        if not undone:
            held = [
                glob for glob in self._pipeline.roster.pauses if any(fnmatchcase(p.topic, glob) for p in partitions)
            ]
            what = f"{topics!r} is paused by {held[0]!r}" if held else f"nothing that matches {topics!r} is paused"
            hint = f"kbackupd ctl resume --topic {held[0]!r}" if held else "kbackupd ctl status shows what is paused"
            raise UsageError(what, hint=hint)
        affected = [
            p for p in self._pipeline.roster.partitions.values() if any(fnmatchcase(p.topic, glob) for glob in undone)
        ]
        for glob in undone:
            del roster.pauses[glob]
        return await self._steer(topics, [p for p in affected if not p.closed], undone, paused=False)

    async def _steer(
        self, topics: str, partitions: list[PartitionCapture], globs: list[str], *, paused: bool
    ) -> PauseReport:
        for partition in partitions:
            partition.paused = self._pipeline.roster.is_paused(partition.topic)
            self._pipeline.roster.place(partition)
        for glob in globs:
            self._pipeline.intake.record(Paused(topics=glob, paused=paused, at_ms=self._clock.now_ms()))
        log.info(events.TOPICS_PAUSED if paused else events.TOPICS_RESUMED, topics=topics, partitions=len(partitions))
        self._pipeline.seal(RollReason.FLUSH)
        try:
            async with asyncio.timeout(PAUSE_DEADLINE_SECONDS):
                await self._pipeline.all_durable()
            durable = True
        except TimeoutError:
            durable = False
        return PauseReport(
            topics=tuple(sorted({partition.topic for partition in partitions})),
            partitions=len(partitions),
            paused=paused,
            durable=durable,
        )


def _slow(partition: PartitionCapture) -> _LeftOut:
    left = partition.proof.high_watermark - partition.position
    if partition.failures:
        return _LeftOut(partition.state, partition.reason)
    reason = f"still {left:,} offsets behind its leader" if left > 0 else "its leader has not answered for it yet"
    return _LeftOut(partition.state, reason)
