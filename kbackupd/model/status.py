"""What the running daemon says about itself: the values behind `ctl status`, /status, /healthz and the metrics.

Everything here is plain data, so `dataclasses.asdict` turns any report into what `json.dumps` takes. `None` always
means "not known", never zero: a partition nobody has heard from yet must not look like one that is up to date.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple


class PartitionState(StrEnum):
    """Every condition a partition of the backup can be in."""

    STARTING = "starting"
    """Known, but no answer of its leader has been seen yet."""
    FOLLOWING = "following"
    """At the end of the log, waiting for what is appended."""
    CATCHING_UP = "catching-up"
    """Reading older records; new ones wait behind them."""
    RETRYING = "retrying"
    """The last request failed; it is tried again with backoff."""
    QUARANTINED = "quarantined"
    """Failing for long enough that somebody must look; still tried, rarely."""
    PAUSED = "paused"
    """An operator asked for it; survives a restart."""
    CLOSED = "closed"
    """This incarnation of the topic was deleted; what was captured is kept, nothing more will come."""


FlushOutcome = Literal["stored", "nothing new"]


class PartitionSample(NamedTuple):
    """Where one partition stands at this moment; what the live gauges are computed from at a scrape."""

    topic: str
    topic_id: str
    partition: int
    tier: str
    state: PartitionState
    exposure_seconds: float | None
    """Since the last proof that all below the leader's high watermark is durable; None until there is one to count
    from."""
    lag_records: int | None
    """High watermark − durable offset."""
    durable_offset: int
    """Everything below it is in the archive or a declared gap."""
    high_watermark: int
    """As of the last answer; -1 if there was none."""
    log_start_offset: int
    """As of the last answer; -1 if there was none."""
    time_to_loss_seconds: float | None
    """Until the log start, at its present pace, reaches the durable offset; None if it does not move or is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStatus:
    limit_bytes: int
    """`backup.memory_limit`: what the process may use."""
    budget_bytes: int
    """What is left of it for data asked for, fetched and not yet durable."""
    reserved_bytes: int
    """How much of the budget is taken now."""
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStatus:
    """The newest durable segment."""

    key: str
    sealed_ms: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStatus:
    name: str
    rpo_target_seconds: float | None
    """None for streams that no tier sets a target for."""
    exposure_seconds: float | None
    """The worst known of its partitions; None if none is known."""
    lag_records: int | None
    """Sum over the partitions it is known for; None if for none."""
    topics: int
    partitions: int
    """Open ones: partitions of deleted incarnations do not count."""
    unknown_partitions: int
    """Open partitions whose exposure is not known: the tier's exposure may be worse than it says."""
    states: dict[str, int] = field(default_factory=dict)
    """`PartitionState` value → how many partitions are in it; states without partitions are left out."""
    time_to_loss_seconds: float | None = None
    """The shortest of its partitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicStatus:
    """One incarnation of a topic."""

    name: str
    topic_id: str
    tier: str
    partitions: int
    states: dict[str, int]
    """`PartitionState` value → how many partitions are in it; states without partitions are left out."""
    exposure_seconds: float | None
    lag_records: int | None
    time_to_loss_seconds: float | None
    """The shortest of its partitions."""
    unknown_partitions: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something an operator should know about, once, however often it happened."""

    subject: str
    """What it concerns: `orders/3`, `s3://bucket/prefix`, `tier critical`."""
    message: str
    hint: str
    """What to do about it; empty when nothing sensible can be said."""
    since_ms: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    version: str
    backup_id: str
    archive_id: str
    cluster_id: str
    writer: str
    writer_epoch: int
    started_ms: int
    now_ms: int
    ready: bool
    healthy: bool
    memory: MemoryStatus
    last_segment: SegmentStatus | None
    uploads_in_flight: int
    last_checkpoint_ms: int | None
    tiers: tuple[TierStatus, ...]
    topics: tuple[TopicStatus, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...] = ()
    """What happened and stays so, for somebody to read: no reason to call the backup unhealthy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushedPartition:
    """Everything of the partition below `durable_offset` is durable."""

    topic: str
    topic_id: str
    partition: int
    durable_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutPartition:
    """A flush did without it: what its leader has above `durable_offset`, if anything, is not covered."""

    topic: str
    topic_id: str
    partition: int
    durable_offset: int
    state: PartitionState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushReport:
    """What a flush made durable, or found durable already; incomplete if partitions were left out."""

    topics: str
    """The glob it covered."""
    partitions: tuple[FlushedPartition, ...]
    segments: tuple[str, ...]
    """Keys of those that became durable while it ran, in order; if there are many, of the newest."""
    outcome: FlushOutcome
    seconds: float
    left_out: tuple[LeftOutPartition, ...] = ()
    """Of `partitions`, those that were not being fetched when it was over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReport:
    """A checkpoint over everything that was captured when it was asked for."""

    key: str | None
    """Of this life's newest checkpoint; None if it has stored no segment yet, so that there is nothing to add to what
    it began from."""
    segments: tuple[str, ...]
    """Keys of the segments that became durable while it ran, in order; if there are many, of the newest."""
    outcome: FlushOutcome
    partitions: int
    """How many it says the positions of."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseReport:
    topics: tuple[str, ...]
    """Names of the topics the glob matched now; one that appears later and matches is treated alike."""
    partitions: int
    paused: bool
    """What they are now."""
    durable: bool
    """Whether a restart would remember it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """A key of the configuration that is obeyed anew; secrets are masked on both sides."""

    key: str
    """As the file writes it: `backup.flush_interval`."""
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredSetting:
    """A key of the configuration whose new value only the next start obeys."""

    key: str
    running: str
    """Still in force."""
    wanted: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadReport:
    """What a configuration that was read again came to."""

    applied: tuple[SettingChange, ...]
    needs_restart: tuple[DeferredSetting, ...]
    unchanged: tuple[str, ...]
    """Keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """That the daemon lives is not in it: the event loop proves that by answering at all."""

    ready: bool
    """Positions are recovered and partitions are followed."""
    healthy: bool
    """Every tier meets its target and nothing asks for a person."""
    reasons: tuple[str, ...]
    """Why any of the above is false, one sentence each; empty when all hold."""
