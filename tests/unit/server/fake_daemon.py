"""A small daemon without Kafka or S3: it answers what a real one would, from state that its verbs really change."""

from __future__ import annotations

import asyncio
from fnmatch import fnmatchcase

from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import UsageError
from kbackupd.model.status import (
    CheckpointReport,
    DeferredSetting,
    FlushedPartition,
    FlushReport,
    HealthReport,
    LeftOutPartition,
    MemoryStatus,
    PartitionSample,
    PartitionState,
    PauseReport,
    Problem,
    ReloadReport,
    SegmentStatus,
    SettingChange,
    StatusReport,
)
from kbackupd.observe.exposure import aggregate
from kbackupd.observe.metrics import Metrics

RPO_TARGETS = {"critical": 30.0, "standard": 300.0}


def sample(
    topic: str = "orders",
    partition: int = 0,
    *,
    tier: str = "critical",
    state: PartitionState = PartitionState.FOLLOWING,
    exposure: float | None = 4.0,
    lag: int | None = 10,
    durable: int = 90,
    loss: float | None = None,
    topic_id: str | None = None,
) -> PartitionSample:
    return PartitionSample(
        topic=topic,
        topic_id=topic_id if topic_id is not None else f"id-of-{topic}",
        partition=partition,
        tier=tier,
        state=state,
        exposure_seconds=exposure,
        lag_records=lag,
        durable_offset=durable,
        high_watermark=-1 if lag is None else durable + lag,
        log_start_offset=0,
        time_to_loss_seconds=loss,
    )


class FakeDaemon:
    """Two topics of two partitions; a flush makes everything durable once `may_flush` is set."""

    def __init__(self, partitions: tuple[PartitionSample, ...] | None = None) -> None:
        self.clock = ManualClock()
        self.started_ms = self.clock.now_ms()
        self.partitions = list(
            partitions
            if partitions is not None
            else (
                sample("orders", 0),
                sample("orders", 1, exposure=8.5, lag=0),
                sample("audit", 0, tier="standard", exposure=None, lag=None, state=PartitionState.STARTING),
                sample("audit", 1, tier="standard", exposure=1.0, lag=1),
            )
        )
        self.ready = True
        self.health_failure: BaseException | None = None
        self.problems: tuple[Problem, ...] = ()
        self.notes: tuple[Problem, ...] = ()
        self.left_out: tuple[LeftOutPartition, ...] = ()
        self.may_flush = asyncio.Event()
        self.may_flush.set()
        self.flushing = asyncio.Event()
        self.flushed = asyncio.Event()
        self.failure: BaseException | None = None
        self.seq = 0
        self.last_segment: SegmentStatus | None = None
        self.reloaded = ReloadReport(
            applied=(SettingChange(key="backup.flush_interval", before="10s", after="5s"),),
            needs_restart=(DeferredSetting(key="backup_id", running="main", wanted="other", reason="another archive"),),
            unchanged=("writer", "tiers"),
        )
        self.checkpoint_key: str | None = None
        self.metrics = Metrics(self.clock, version="0.1.0", backup_id="main", writer="main")
        self.metrics.watch_partitions(lambda: self.partitions, rpo_targets=RPO_TARGETS)

    def status(self) -> StatusReport:
        if self.failure is not None:
            raise self.failure
        exposure = aggregate(self.partitions)
        return StatusReport(
            version="0.1.0",
            backup_id="main",
            archive_id="5d0c3f7e9a1b4c2d",
            cluster_id="4L6g3nShT-eMCtK--X86sw",
            writer="main",
            writer_epoch=3,
            started_ms=self.started_ms,
            now_ms=self.clock.now_ms(),
            ready=self.ready,
            healthy=self.health().healthy,
            memory=MemoryStatus(
                limit_bytes=384 << 20, budget_bytes=280 << 20, reserved_bytes=12 << 20, rss_bytes=150 << 20
            ),
            last_segment=self.last_segment,
            uploads_in_flight=1,
            last_checkpoint_ms=None,
            tiers=exposure.tier_statuses(RPO_TARGETS),
            topics=exposure.topic_statuses(),
            problems=self.problems,
            notes=self.notes,
        )

    def health(self) -> HealthReport:
        if self.health_failure is not None:
            raise self.health_failure
        reasons = [problem.message for problem in self.problems]
        if not self.ready:
            reasons.append("positions are being recovered")
        return HealthReport(ready=self.ready, healthy=self.ready and not self.problems, reasons=tuple(reasons))

    async def flush(self, topics: str) -> FlushReport:
        if self.failure is not None:
            raise self.failure
        self._matching(topics)
        self.flushing.set()
        await self.may_flush.wait()
        new = [p for p in self._matching(topics) if p.lag_records]
        if new:
            self.seq += 1
            key = f"segments/main/3/{self.seq:016}-{self.clock.now_ms()}.kbs"
            self.last_segment = SegmentStatus(key=key, sealed_ms=self.clock.now_ms(), stored_bytes=4_404_019)
        for p in new:
            self._replace(p, p._replace(durable_offset=p.high_watermark, lag_records=0, exposure_seconds=0.0))
        self.flushed.set()
        return FlushReport(
            topics=topics,
            partitions=tuple(
                FlushedPartition(
                    topic=p.topic, topic_id=p.topic_id, partition=p.partition, durable_offset=p.durable_offset
                )
                for p in self._matching(topics)
            ),
            segments=(self.last_segment.key,) if new and self.last_segment is not None else (),
            outcome="stored" if new else "nothing new",
            seconds=0.25,
            left_out=self.left_out,
        )

    async def checkpoint(self) -> CheckpointReport:
        report = await self.flush("*")
        if report.outcome == "stored":
            self.checkpoint_key = f"checkpoints/main/0000000003/{self.seq:016}.kbc"
        return CheckpointReport(
            key=self.checkpoint_key,
            segments=report.segments,
            outcome=report.outcome,
            partitions=len(self.partitions),
            seconds=report.seconds,
        )

    async def pause(self, topics: str) -> PauseReport:
        return self._set_paused(topics, True)

    async def resume(self, topics: str) -> PauseReport:
        return self._set_paused(topics, False)

    async def reload(self) -> ReloadReport:
        if self.failure is not None:
            raise self.failure
        return self.reloaded

    def render_metrics(self) -> bytes:
        return self.metrics.render()

    def _set_paused(self, topics: str, paused: bool) -> PauseReport:
        matching = self._matching(topics)
        for p in matching:
            self._replace(p, p._replace(state=PartitionState.PAUSED if paused else PartitionState.FOLLOWING))
        names = tuple(sorted({p.topic for p in matching}))
        return PauseReport(topics=names, partitions=len(matching), paused=paused, durable=True)

    def _matching(self, topics: str) -> list[PartitionSample]:
        matching = [p for p in self.partitions if fnmatchcase(p.topic, topics)]
        if not matching:
            raise UsageError(f"no topic matches {topics!r}", hint="kbackupd ctl status lists the topics")
        return matching

    def _replace(self, old: PartitionSample, new: PartitionSample) -> None:
        self.partitions[self.partitions.index(old)] = new
