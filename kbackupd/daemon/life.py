"""One life of the daemon, from taking the archive over to the end of the drain: what it is made of, and what of that a
reload changes."""

from __future__ import annotations

import asyncio

from kbackupd.capture.group_commit import GroupCommitter, committable
from kbackupd.capture.pipeline import Pipeline, Resume
from kbackupd.capture.snapshots import Snapshots
from kbackupd.capture.source import ClusterQuestions, GroupPositions, Source
from kbackupd.capture.steering import Steering
from kbackupd.daemon.errand import Errand
from kbackupd.daemon.memory import budget_bytes, collect_seldom, left_for_data
from kbackupd.daemon.reload import Reloader
from kbackupd.daemon.rollups import RollUp, Rollups
from kbackupd.daemon.service import Service, nothing_to_reload
from kbackupd.daemon.systemd import Heartbeat
from kbackupd.daemon.take_over import take_over
from kbackupd.flow.budget import MemoryBudget
from kbackupd.model.clock import Clock
from kbackupd.model.settings import DaemonSettings
from kbackupd.observe.logging import set_level
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.protocol import ObjectStore


class DaemonLife:
    """From taking over the archive to the end of the drain."""

    _reloader: Reloader | None = None
    """None: nobody asks this life to obey another configuration."""
    _committer: GroupCommitter | None = None
    _errand: Errand | None = None
    """What this life is for; None: to go on until it is stopped."""
    _rollups: Rollups | None = None
    _rolling_up: asyncio.Task[None] | None = None

    def __init__(
        self,
        *,
        settings: DaemonSettings,
        source: Source,
        questions: ClusterQuestions,
        positions: GroupPositions | None = None,
        store: ObjectStore,
        service: Service,
        heart: Heartbeat,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
        reloader: Reloader | None = None,
        errand: Errand | None = None,
        roll_up: RollUp | None = None,
    ) -> None:
        """
        Args:
            positions: where durable offsets are committed; None: nowhere.
            roll_up: rolls up what segments say; None: somebody else does.
        """
        self.service = service
        self._errand = errand
        self._heart = heart
        self._reloader = reloader
        self._settings = settings
        self._source = source
        self._questions = questions
        self._positions = positions
        self._roll_up = roll_up
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self.problems = problems
        self._pipeline: Pipeline | None = None
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Take over, back up until `stop`, drain. Stopped before the take-over is done it leaves at most a claim."""
        taking = asyncio.ensure_future(self._take_over())
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({taking, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                return
            pipeline, snapshots = taking.result()
        finally:
            for future in (taking, stopped):
                future.cancel()
            await asyncio.gather(taking, stopped, return_exceptions=True)
        self._pipeline = pipeline
        if self._stopped.is_set():
            pipeline.stop()
        else:
            self._heart.began()
            if self._reloader is not None:
                self._reloader.began(lambda wanted: self._obey(wanted, pipeline, snapshots))
        # Beside the pipeline, not among its tasks: nothing that happens to a snapshot, or to the consumer group, is the
        # records' concern.
        beside = [asyncio.create_task(collect_seldom(), name="garbage")]
        if self._committer is not None:
            beside.append(asyncio.create_task(self._committer.run(), name="group-commits"))
        if self._errand is None:
            beside.append(asyncio.create_task(snapshots.run(), name="snapshots"))
        if self._rollups is not None and not self._stopped.is_set():
            self._rolling_up = asyncio.create_task(self._rollups.run(), name="roll-ups")
            beside.append(self._rolling_up)
        try:
            if self._errand is None:
                await pipeline.run()
            else:
                await self._errand.run(pipeline, snapshots, source=self._source, problems=self.problems)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        if self._committer is not None:
            await self._committer.leave()

    def stop(self) -> None:
        """Ask `run` to return; idempotent."""
        within = self._settings.backup.shutdown_timeout_seconds
        self._heart.stopping(within_seconds=within)
        if self._reloader is not None:
            self._reloader.stopping()
        if self._committer is not None:
            self._committer.stopping(within_seconds=within)
        self._stopped.set()
        # At once, and not after the drain: that has the processor and the store for itself, and nothing waits for it.
        if self._rolling_up is not None:
            self._rolling_up.cancel()
        if self._errand is not None:
            self._errand.stop()
        if self._pipeline is not None:
            self._pipeline.stop()

    def _obey(self, wanted: DaemonSettings, pipeline: Pipeline, snapshots: Snapshots) -> None:
        """Run with `wanted` from now on: all of it when this returns."""
        self._settings = wanted
        set_level(wanted.observability.log_level)
        pipeline.reconfigure(wanted)
        snapshots.every(wanted.backup.snapshot_interval_seconds)
        if self._committer is not None:
            self._committer.every(wanted.backup.checkpoint_interval_seconds)
        if self._rollups is not None:
            self._rollups.every(wanted.backup.rollup_interval_seconds)
        self.service.reconfigure(wanted)

    async def _take_over(self) -> tuple[Pipeline, Snapshots]:
        # Too little to begin with is told before the claim of an epoch fences a daemon that has enough.
        left_for_data(self._settings.backup.memory_limit_bytes)
        if self._errand is not None:
            await self._errand.begin(self._store)
        document, resume = await take_over(
            self._settings, store=self._store, source=self._source, clock=self._clock, problems=self.problems
        )
        for key in resume.recovery.damaged:
            self._metrics.damaged_object_found()
            self.problems.note(
                f"object {key}",
                "damaged in the archive; its offsets are captured again where the source still has them",
                hint="kbackupd validate --deep says what is missing; look at the store: written bytes have changed",
            )
        pipeline = Pipeline(
            settings=self._settings,
            source=self._source,
            store=self._store,
            resume=resume,
            budget=MemoryBudget(budget_bytes(self._settings.backup.memory_limit_bytes)),
            clock=self._clock,
            metrics=self._metrics,
            problems=self.problems,
        )
        self._committer = self._commits_to(pipeline, resume)
        self._rollups = self._rolls_up(pipeline)
        steering = Steering(pipeline, clock=self._clock)
        self.service.began(
            document,
            writer_epoch=resume.writer_epoch,
            pipeline=pipeline,
            steering=steering,
            reload=nothing_to_reload if self._reloader is None else self._reloader.reload,
        )
        snapshots = Snapshots(
            source=self._questions,
            store=self._store,
            identity=resume.identity,
            writer=self._settings.writer,
            writer_epoch=resume.writer_epoch,
            interval_seconds=self._settings.backup.snapshot_interval_seconds,
            own_group=self._settings.commits_to,
            clock=self._clock,
            metrics=self._metrics,
            problems=self.problems,
        )
        return pipeline, snapshots

    def _rolls_up(self, pipeline: Pipeline) -> Rollups | None:
        # A life with an end ends when its errand is done; whoever starts such lives runs `kbackupd rollup` after them.
        if self._roll_up is None or self._errand is not None:
            return None
        rollups = Rollups(
            roll_up=self._roll_up,
            writer=self._settings.writer,
            stored=lambda: pipeline.publisher.first_pending,
            interval_seconds=self._settings.backup.rollup_interval_seconds,
            metrics=self._metrics,
            problems=self.problems,
        )
        self._metrics.watch_rollups(rollups.not_rolled_up)
        return rollups

    def _commits_to(self, pipeline: Pipeline, resume: Resume) -> GroupCommitter | None:
        group = self._settings.commits_to
        if group is None or self._positions is None:
            return None
        state = resume.recovery.state
        committer = GroupCommitter(
            source=self._positions,
            group=group,
            recovered=committable(state.topics.values(), state.partitions.values()),
            interval_seconds=self._settings.backup.checkpoint_interval_seconds,
            clock=self._clock,
            metrics=self._metrics,
            problems=self.problems,
        )
        pipeline.checkpointer.on_stored = committer.covered
        self._metrics.watch_group(committer.behind_seconds)
        return committer
