"""The keys of `kbackupd.yaml`. The reference is printed from here.

Sections only say what one value may be; what two values must not say together stands in `contradictions`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kbackupd.model.settings import StartPolicy
from kbackupd.settings.fields import (
    AbsolutePath,
    AlwaysOn,
    Brokers,
    Bucket,
    Duration,
    DurationOrOff,
    Flag,
    Group,
    Kind,
    Listed,
    Listen,
    Name,
    Prefix,
    Rate,
    Size,
    SomeTopicGlobs,
    TopicGlobs,
    Whole,
    at_least_bytes,
    at_least_seconds,
    between,
    off_or_at_least_seconds,
    one_of,
)
from kbackupd.settings.sections import Root, S3Access, Section, SecuritySection, written


class TopicsSection(Section):
    include: SomeTopicGlobs = ("*",)
    """Topics that are backed up. A name without wildcard that does not exist is reported until it does."""
    exclude: TopicGlobs = ()
    """Topics that are not, even if included. The internal topics are governed by `internal_topics` alone."""


class SourceSection(Section):
    bootstrap_servers: Brokers
    """Some brokers of the cluster; the others are found through them."""
    topics: TopicsSection = TopicsSection()
    """Which user topics, by globs (`*`, `?`, `[…]`) over their names."""
    internal_topics: Flag = written("true")
    """Also keep `__consumer_offsets` and `__transaction_state`, where the cluster permits reading them."""
    consumer_group: Group | None = None
    """Consumer group to which durable offsets are committed, so that Kafka's tools show the backup's lag; nobody else
    may use it. Default: `kbackupd-` and `backup_id` (and `-` and `writer`, if that is not `main`). `off`: none."""
    security: SecuritySection = SecuritySection()
    """TLS and SASL towards the brokers."""
    rate_limit: Rate | None = None
    """Bytes per second fetched from all brokers together; default: unlimited."""


class S3Section(S3Access):
    bucket: Bucket
    """Bucket that holds the archives."""
    prefix: Prefix = ""
    """Key prefix within the bucket; the archive is at `prefix/backup_id/`."""


class FilesystemSection(Section):
    path: AbsolutePath
    """Directory that holds the archives, on a disk that is not the brokers'. It must exist: a missing one may be a
    volume that is not mounted."""


class StorageSection(Section):
    type: Annotated[Literal["s3", "filesystem"], one_of("s3", "filesystem"), Kind("s3 or filesystem")]
    """Which of the two sections below is meant; the other must be absent."""
    s3: S3Section | None = None
    """Amazon S3 or a server that speaks it."""
    filesystem: FilesystemSection | None = None
    """A local or mounted directory."""


class CompressionSection(Section):
    codec: Annotated[Literal["zstd", "none"], one_of("zstd", "none"), Kind("zstd or none")] = written("zstd")
    """For batches their producer left uncompressed; compressed ones are stored as they are."""
    level: Annotated[Whole, between(1, 19)] = written("2")
    """zstd level, 1 (fastest) to 19 (smallest); means nothing with codec none."""


class BackupSection(Section):
    flush_interval: Annotated[Duration, at_least_seconds("100ms")] = written("10s")
    """Age at which the oldest byte in memory is sealed into a segment and uploaded: the floor of the RPO."""
    segment_max_bytes: Annotated[Size, at_least_bytes("4KiB", "smaller segments are all footer")] = written("32MiB")
    """Size at which a segment is sealed before that."""
    checkpoint_interval: Annotated[Duration, at_least_seconds("100ms")] = written("30s")
    """How often positions are checkpointed, if they moved. A restart reads the segments written since."""
    per_partition_isolation: AlwaysOn = written("true")
    """Always on; there to be stated. `false` is refused."""
    compression: CompressionSection = CompressionSection()
    """How stored runs are compressed."""
    memory_limit: Annotated[Size, at_least_bytes("256MiB", "the process itself needs about 100MiB")] = written("384MiB")
    """Bound of the process. When it is reached, fetching pauses and the RPO grows; at least 3 × `segment_max_bytes`."""
    start: Annotated[StartPolicy, one_of(*StartPolicy), Kind("earliest or latest")] = written("earliest")
    """Where partitions begin that exist when the archive is created; later ones begin at their beginning."""
    discovery_interval: Annotated[Duration, at_least_seconds("100ms")] = written("15s")
    """How often the cluster is asked for new topics and partitions."""
    snapshot_interval: Annotated[Duration, at_least_seconds("1s")] = written("60s")
    """How often group positions, configurations, ACLs and quotas are asked for; they are stored when they changed."""
    rollup_interval: Annotated[DurationOrOff, off_or_at_least_seconds("1s")] = written("1h")
    """How often what segments say is rolled up, where there is enough of it, so that old archives open quickly; first
    one interval after a start. A process of its own does it, with up to 210 MiB outside of `memory_limit`. `off`:
    `kbackupd rollup` is run by somebody else, or nobody."""
    shutdown_timeout: Annotated[Duration, at_least_seconds("1s")] = written("30s")
    """How long SIGTERM may take to seal, upload and checkpoint. Give the service manager a little more."""


class TierSection(Section):
    name: Name
    """Label in metrics, alerts and reports."""
    topics: SomeTopicGlobs
    """Globs; a topic belongs to the first tier that matches it."""
    rpo: Annotated[Duration, at_least_seconds("100ms")]
    """How much may be lost; must be above `backup.flush_interval`."""
    rto: Annotated[Duration, at_least_seconds("1s")]
    """How long a restore may take. `kbackupd restore --tiers` compares with it."""


class ObservabilitySection(Section):
    listen: Listen = written("0.0.0.0:9464")
    """Address of /metrics, /livez, /readyz, /healthz and /status; port 0 takes a free one."""
    per_partition_metrics: Flag = written("false")
    """Also give lag and RPO per partition: one series per partition and metric."""
    log_format: Annotated[Literal["json", "console"], one_of("json", "console"), Kind("json or console")] = written(
        "json"
    )
    """One JSON object per line, or coloured lines for people."""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        one_of("debug", "info", "warning", "error"),
        Kind("debug, info, warning or error"),
    ] = written("info")
    """Least severe event that is logged."""


class ControlSection(Section):
    socket: AbsolutePath = written("/run/kbackupd/control.sock")
    """UNIX socket for `kbackupd ctl`; created with mode 0600."""


class DaemonFile(Root):
    """Configuration of `kbackupd run`."""

    backup_id: Name
    """Name of the archive: the directory below the storage prefix."""
    writer: Name = "main"
    """Name of this daemon within the archive. A second daemon with the same name fences the first. Leave it as it is:
    under another name everything is captured again, and a start is refused where a log was ever cut."""
    source: SourceSection
    """The cluster that is backed up."""
    storage: StorageSection
    """Where the archive is kept."""
    backup: BackupSection = BackupSection()
    """How segments are cut."""
    tiers: Annotated[tuple[TierSection, ...], Listed, Kind("list of tiers")] = Field(
        default=({"name": "standard", "topics": ["*"], "rpo": "5m", "rto": "4h"},), validate_default=True
    )
    """Targets by topic, first match wins. A topic no tier matches is backed up alike, as `untiered`, without any."""
    observability: ObservabilitySection = ObservabilitySection()
    """Metrics, health and logs."""
    control: ControlSection = ControlSection()
    """Steering the running daemon."""
