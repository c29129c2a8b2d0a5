"""The running daemon as its servers see it: status, health, metrics, and the verbs of the control socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kbackupd import __version__
from kbackupd.capture.pipeline import Pipeline
from kbackupd.capture.sampling import exposure_of, partition_samples
from kbackupd.capture.steering import Steering
from kbackupd.daemon.memory import rss_bytes
from kbackupd.daemon.reload import no_configuration
from kbackupd.model.archive import ArchiveDocument
from kbackupd.model.clock import Clock
from kbackupd.model.errors import UnreachableError
from kbackupd.model.settings import DaemonSettings
from kbackupd.model.status import (
    CheckpointReport,
    FlushReport,
    HealthReport,
    MemoryStatus,
    PartitionState,
    PauseReport,
    ReloadReport,
    SegmentStatus,
    StatusReport,
)
from kbackupd.model.units import format_duration
from kbackupd.observe.exposure import Exposure
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems

Reload = Callable[[], Awaitable[ReloadReport]]


async def nothing_to_reload() -> ReloadReport:
    """What a daemon answers that is not made to obey another configuration."""
    no_configuration()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What there is to ask once the archive has been taken over."""

    document: ArchiveDocument
    writer_epoch: int
    pipeline: Pipeline
    steering: Steering
    reload: Reload


class Service:
    """Implements `server.protocol.ControlledDaemon`, from before the take-over on."""

    def __init__(
        self,
        *,
        settings: DaemonSettings,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._started_ms = clock.now_ms()
        self._started = clock.monotonic()
        self._was_ready = False
        self._running_now: Running | None = None
        self._rpo_targets = {tier.name: tier.rpo_seconds for tier in settings.tiers}
        self._unknown_since = dict.fromkeys(self._rpo_targets, self._started)

    def began(
        self,
        document: ArchiveDocument,
        *,
        writer_epoch: int,
        pipeline: Pipeline,
        steering: Steering,
        reload: Reload = nothing_to_reload,
    ) -> None:
        """The archive is ours: from now on everything can be asked and is measured."""
        self._running_now = Running(
            document=document, writer_epoch=writer_epoch, pipeline=pipeline, steering=steering, reload=reload
        )
        self._metrics.watch_partitions(
            lambda: partition_samples(pipeline, self._clock),
            exposure=lambda: exposure_of(pipeline, self._clock),
            rpo_targets=self._rpo_targets,
            per_partition=self._settings.observability.per_partition_metrics,
        )
        self._metrics.watch_memory(self.memory)
        self._metrics.watch_uploads(lambda: pipeline.publisher.in_flight)

    def reconfigure(self, settings: DaemonSettings) -> None:
        """Judge and report by `settings` from now on; the archive must have been taken over."""
        self._settings = settings
        self._rpo_targets = {tier.name: tier.rpo_seconds for tier in settings.tiers}
        self._metrics.reconfigure_partitions(
            rpo_targets=self._rpo_targets, per_partition=settings.observability.per_partition_metrics
        )

    @property
    def _running(self) -> Running:
        if self._running_now is None:
            raise UnreachableError(
                f"the daemon is still starting: {'; '.join(self._start_reasons())}", hint="ask again in a moment"
            )
        return self._running_now

    def memory(self) -> MemoryStatus:
        budget = self._running.pipeline.budget
        return MemoryStatus(
            limit_bytes=self._settings.backup.memory_limit_bytes,
            budget_bytes=budget.limit_bytes,
            reserved_bytes=budget.reserved_bytes,
            rss_bytes=rss_bytes(),
        )

    def status(self) -> StatusReport:
        exposure = exposure_of(self._running.pipeline, self._clock)
        health = self._health(exposure)
        publisher = self._running.pipeline.publisher
        last = publisher.last_stored
        return StatusReport(
            version=__version__,
            backup_id=self._settings.backup_id,
            archive_id=self._running.document.archive_id,
            cluster_id=self._running.document.cluster_id,
            writer=self._settings.writer,
            writer_epoch=self._running.writer_epoch,
            started_ms=self._started_ms,
            now_ms=self._clock.now_ms(),
            ready=health.ready,
            healthy=health.healthy,
            memory=self.memory(),
            last_segment=None
            if last is None
            else SegmentStatus(key=last.ref.key, sealed_ms=last.footer.sealed_ms, stored_bytes=last.size_bytes),
            uploads_in_flight=publisher.in_flight,
            last_checkpoint_ms=self._running.pipeline.checkpointer.last_ms,
            tiers=exposure.tier_statuses(self._rpo_targets),
            topics=exposure.topic_statuses(),
            problems=self._problems.current(),
            notes=self._problems.notes(),
        )

    def health(self) -> HealthReport:
        if self._running_now is None:
            return HealthReport(ready=False, healthy=False, reasons=self._start_reasons())
        return self._health(exposure_of(self._running.pipeline, self._clock))

    def _start_reasons(self) -> tuple[str, ...]:
        """What a start is doing, and what it waits for."""
        waits = [f"{problem.subject}: {problem.message}" for problem in self._problems.current()]
        return ("taking over the archive", *waits)

    def _health(self, exposure: Exposure) -> HealthReport:
        reasons = []
        if not self._was_ready:
            starting = sum(group.states.get(PartitionState.STARTING, 0) for group in exposure.tiers.values())
            if self._running.pipeline.discovery.rounds == 0:
                reasons.append("the cluster's topics are not known yet")
            elif starting:
                reasons.append(f"{starting} partitions have not been answered for yet")
            else:
                self._was_ready = True
        # Of what is not known yet nobody can say that it meets its target.
        healthy = self._was_ready
        for tier in exposure.tier_statuses(self._rpo_targets):
            if tier.rpo_target_seconds is None:
                continue
            worst = tier.exposure_seconds or 0.0
            if tier.unknown_partitions:
                worst = max(worst, self._unknown_for(tier.name))
            else:
                self._unknown_since.pop(tier.name, None)
            if worst > tier.rpo_target_seconds:
                healthy = False
                reasons.append(
                    f"tier {tier.name}: exposure {format_duration(worst)} is above its target of "
                    f"{format_duration(tier.rpo_target_seconds)}"
                )
        for problem in self._problems.current():
            healthy = False
            reasons.append(f"{problem.subject}: {problem.message}")
        return HealthReport(ready=self._was_ready, healthy=healthy, reasons=tuple(reasons))

    def _unknown_for(self, tier: str) -> float:
        """How long some partition of the tier has not been proven, in seconds.

        From the start until all are proven once; later from when one appears: a topic made just now is not as exposed
        as the daemon is old.
        """
        now = self._clock.monotonic()
        return now - self._unknown_since.setdefault(tier, now)

    async def flush(self, topics: str) -> FlushReport:
        return await self._running.steering.flush(topics)

    async def checkpoint(self) -> CheckpointReport:
        return await self._running.steering.checkpoint()

    async def pause(self, topics: str) -> PauseReport:
        return await self._running.steering.pause(topics)

    async def resume(self, topics: str) -> PauseReport:
        return await self._running.steering.resume(topics)

    async def reload(self) -> ReloadReport:
        return await self._running.reload()

    def render_metrics(self) -> bytes:
        return self._metrics.render()
