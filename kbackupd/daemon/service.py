"""The running daemon as its servers see it: status, health, metrics, and the verbs of the control socket."""

from __future__ import annotations

from kbackupd import __version__
from kbackupd.capture.pipeline import Pipeline
from kbackupd.capture.sampling import partition_samples
from kbackupd.capture.steering import Steering
from kbackupd.daemon.memory import rss_bytes
from kbackupd.model.archive import ArchiveDocument
from kbackupd.model.clock import Clock
from kbackupd.model.settings import DaemonSettings
from kbackupd.model.status import (
    FlushReport,
    HealthReport,
    MemoryStatus,
    PartitionState,
    PauseReport,
    SegmentStatus,
    StatusReport,
)
from kbackupd.model.units import format_duration
from kbackupd.observe.exposure import Exposure, aggregate
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems


class Service:
    """Implements `server.protocol.ControlledDaemon`."""

    def __init__(
        self,
        *,
        settings: DaemonSettings,
        document: ArchiveDocument,
        writer_epoch: int,
        pipeline: Pipeline,
        steering: Steering,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        self._settings = settings
        self._document = document
        self._writer_epoch = writer_epoch
        self._pipeline = pipeline
        self._steering = steering
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._started_ms = clock.now_ms()
        self._started = clock.monotonic()
        self._was_ready = False
        self.rpo_targets = {tier.name: tier.rpo_seconds for tier in settings.tiers}

    def memory(self) -> MemoryStatus:
        budget = self._pipeline.budget
        return MemoryStatus(
            limit_bytes=self._settings.backup.memory_limit_bytes,
            budget_bytes=budget.limit_bytes,
            reserved_bytes=budget.reserved_bytes,
            rss_bytes=rss_bytes(),
        )

    def status(self) -> StatusReport:
        exposure = aggregate(partition_samples(self._pipeline, self._clock))
        health = self._health(exposure)
        publisher = self._pipeline.publisher
        last = publisher.last_stored
        return StatusReport(
            version=__version__,
            backup_id=self._settings.backup_id,
            archive_id=self._document.archive_id,
            cluster_id=self._document.cluster_id,
            writer=self._settings.writer,
            writer_epoch=self._writer_epoch,
            started_ms=self._started_ms,
            now_ms=self._clock.now_ms(),
            ready=health.ready,
            healthy=health.healthy,
            memory=self.memory(),
            last_segment=None
            if last is None
            else SegmentStatus(key=last.ref.key, sealed_ms=last.footer.sealed_ms, stored_bytes=last.size_bytes),
            uploads_in_flight=publisher.in_flight,
            last_checkpoint_ms=self._pipeline.checkpointer.last_ms,
            tiers=exposure.tier_statuses(self.rpo_targets),
            topics=exposure.topic_statuses(),
            problems=self._problems.current(),
        )

    def health(self) -> HealthReport:
        return self._health(aggregate(partition_samples(self._pipeline, self._clock)))

    def _health(self, exposure: Exposure) -> HealthReport:
        reasons = []
        if not self._was_ready:
            starting = sum(group.states.get(PartitionState.STARTING, 0) for group in exposure.tiers.values())
            if self._pipeline.discovery.rounds == 0:
                reasons.append("the cluster's topics are not known yet")
            elif starting:
                reasons.append(f"{starting} partitions have not been answered for yet")
            else:
                self._was_ready = True
        up = self._clock.monotonic() - self._started
        healthy = True
        for tier in exposure.tier_statuses(self.rpo_targets):
            if tier.rpo_target_seconds is None:
                continue
            worst = tier.exposure_seconds or 0.0
            if tier.unknown_partitions:
                worst = max(worst, up)
            if worst > tier.rpo_target_seconds:
                healthy = False
                reasons.append(
                    f"tier {tier.name}: exposure {format_duration(worst)} is above its target of "
                    f"{format_duration(tier.rpo_target_seconds)}"
                )
        for problem in self._problems.current():
            healthy = False
            reasons.append(f"{problem.subject}: {problem.message}")
        return HealthReport(live=True, ready=self._was_ready, healthy=healthy, reasons=tuple(reasons))

    async def flush(self, topics: str) -> FlushReport:
        return await self._steering.flush(topics)

    async def pause(self, topics: str) -> PauseReport:
        return await self._steering.pause(topics)

    async def resume(self, topics: str) -> PauseReport:
        return await self._steering.resume(topics)

    def render_metrics(self) -> bytes:
        return self._metrics.render()
