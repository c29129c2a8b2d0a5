"""What the operator asked for, as plain frozen values: checked by `settings/`, used by everybody else.

Durations are seconds, sizes are bytes, secrets are wrapped. The defaults here are the documented ones; a test compares
them with those of the configuration file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from kbackupd.model.globs import is_literal, taken_by_star
from kbackupd.model.scope import RestoreScope

MIB = 1 << 20

SEGMENTS_IN_MEMORY = 3
"""One filling, one sealing, one uploading: `memory_limit` that has no room for so many of the largest is refused."""

UNTIERED = "untiered"
"""Name under which topics are reported that no tier matches; it has no targets and is refused as a tier's name."""
SYSTEM_TOPICS = frozenset({"__consumer_offsets", "__transaction_state"})
"""Captured as evidence if `internal_topics` says so, whatever the globs say; never restored by producing."""
SYSTEM_TIER = "system"
"""Name under which they are reported; without targets and refused as a tier's name, too."""


class Secret:
    """Text that must not reach a log, a status answer or an error message (hazard 48)."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the library call that needs it and nothing else."""
        return self._text

    def __repr__(self) -> str:
        return "'**********'"

    def __str__(self) -> str:
        return "**********"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class SecurityProtocol(StrEnum):
    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def encrypted(self) -> bool:
        return self in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def authenticated(self) -> bool:
        """True when SASL credentials belong to it."""
        return self in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)


class SaslMechanism(StrEnum):
    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class StartPolicy(StrEnum):
    """Where a partition begins that existed when the archive was created."""

    EARLIEST = "earliest"
    LATEST = "latest"


class KeepOffsets(StrEnum):
    """Which topics' records are restored at the offsets they had."""

    AUTO = "auto"
    """Those of topics that others need first, unless they are appended to what is there."""
    COMPACT = "compact"
    """None."""
    PRESERVE = "preserve"
    """All."""


class RetentionAfter(StrEnum):
    """What becomes of a restored topic's recorded retention, compaction and timestamp type."""

    AUTO = "auto"
    """Applied last, and only if it would delete nothing that was restored."""
    RECORDED = "recorded"
    """Applied last, whatever it deletes."""
    HOLD = "hold"
    """Never applied; the report gives the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaslSettings:
    mechanism: SaslMechanism
    username: str
    password: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings:
    """How to speak to a Kafka cluster; `sasl` is set exactly when the protocol asks for it."""

    protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    sasl: SaslSettings | None = None
    ca_file: Path | None = None
    """None: the system's certificate authorities."""
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSelection:
    """Globs (`*`, `?`, `[…]`, case-sensitive) over topic names; an exclusion beats an inclusion."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def selects(self, topic: str) -> bool:
        return any(fnmatchcase(topic, glob) for glob in self.include) and not any(
            fnmatchcase(topic, glob) for glob in self.exclude
        )

    @property
    def literals(self) -> tuple[str, ...]:
        """Included names without a wildcard: one that does not exist is a visible problem (hazard 12)."""
        return tuple(name for name in self.include if is_literal(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    bootstrap_servers: tuple[str, ...]
    topics: TopicSelection = field(default_factory=TopicSelection)
    internal_topics: bool = True
    consumer_group: str | None = None
    """Where durable offsets are committed; None: a group named after the archive, empty: nowhere."""
    security: SecuritySettings = field(default_factory=SecuritySettings)
    rate_limit_bytes_per_second: int | None = None
    """None: unlimited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """A bucket and how to reach it; without keys the AWS chain supplies credentials."""

    bucket: str
    prefix: str = ""
    """Without leading or trailing slash."""
    region: str = ""
    """Empty: the AWS chain decides."""
    endpoint: str = ""
    """Empty: the AWS chain decides (`AWS_ENDPOINT_URL` included)."""
    force_path_style: bool = False
    profile: str | None = None
    access_key_id: Secret | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemSettings:
    path: Path
    """Absolute; archives are directories below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    backend: S3Settings | FilesystemSettings

    @property
    def type(self) -> Literal["s3", "filesystem"]:
        return "s3" if isinstance(self.backend, S3Settings) else "filesystem"

    @property
    def url(self) -> str:
        """As `--path` writes it: `s3://bucket/prefix` or `file:///dir`."""
        if isinstance(self.backend, S3Settings):
            return f"s3://{self.backend.bucket}/{self.backend.prefix}".rstrip("/")
        return f"file://{self.backend.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSettings:
    flush_interval_seconds: float = 10.0
    segment_max_bytes: int = 32 * MIB
    checkpoint_interval_seconds: float = 30.0
    compression_codec: Literal["zstd", "none"] = "zstd"
    compression_level: int = 2
    memory_limit_bytes: int = 384 * MIB
    start: StartPolicy = StartPolicy.EARLIEST
    discovery_interval_seconds: float = 15.0
    snapshot_interval_seconds: float = 60.0
    rollup_interval_seconds: float = 3600.0
    """0: the daemon rolls nothing up."""
    shutdown_timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSettings:
    """Targets, alerts and the order of service for the topics whose first matching tier this is."""

    name: str
    topics: tuple[str, ...]
    rpo_seconds: float
    rto_seconds: float

    def matches(self, topic: str) -> bool:
        return any(fnmatchcase(topic, glob) for glob in self.topics)


DEFAULT_TIERS = (TierSettings(name="standard", topics=("*",), rpo_seconds=300.0, rto_seconds=14_400.0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservabilitySettings:
    host: str = "0.0.0.0"
    port: int = 9464
    """0 lets the system choose a free port."""
    per_partition_metrics: bool = False
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    socket: Path = Path("/run/kbackupd/control.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """Everything `kbackupd run` obeys."""

    backup_id: str
    source: SourceSettings
    storage: StorageSettings
    writer: str = "main"
    backup: BackupSettings = field(default_factory=BackupSettings)
    tiers: tuple[TierSettings, ...] = DEFAULT_TIERS
    observability: ObservabilitySettings = field(default_factory=ObservabilitySettings)
    control: ControlSettings = field(default_factory=ControlSettings)

    @property
    def commits_to(self) -> str | None:
        """The consumer group that durable offsets are committed to; None: none is.

        Two writers of one archive are two backups with offsets of their own, and so have two groups.
        """
        named = self.source.consumer_group
        if named is None:
            return f"kbackupd-{self.backup_id}" + ("" if self.writer == "main" else f"-{self.writer}")
        return named or None

    def tier_of(self, topic: str) -> TierSettings | None:
        """The first tier that matches; None means `UNTIERED`: backed up like any other, measured against no target."""
        return next((tier for tier in self.tiers if tier.matches(topic)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSource:
    """Where the archive is; `storage` is `path` taken apart."""

    path: str
    backup_id: str
    storage: StorageSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreTarget:
    bootstrap_servers: tuple[str, ...]
    security: SecuritySettings = field(default_factory=SecuritySettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMapping:
    """A rename. `source` may be a glob; a `*` in `target` is what the one `*` of it stood for."""

    source: str
    target: str

    def target_of(self, topic: str) -> str | None:
        """Name under which `topic` is restored; None: the mapping is about others."""
        if not fnmatchcase(topic, self.source):
            return None
        taken = taken_by_star(self.source, topic) if "*" in self.target else None
        return self.target if taken is None else self.target.replace("*", taken)

    def may_make(self, target: str) -> bool:
        """Whether a topic of that name can come of it."""
        return fnmatchcase(target, self.target) if "*" in self.target else target == self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredGroups:
    """Consumer groups whose positions a restore brings along."""

    restore: bool = False
    include: tuple[str, ...] = ("*",)
    """Globs over group ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    topics: TopicSelection = field(default_factory=TopicSelection)
    topic_mapping: tuple[TopicMapping, ...] = ()
    """Renames, of which the first that matches a topic counts. Where the file gives it without `topics.include`, its
    sources become `topics.include`."""
    scope: RestoreScope = field(default_factory=RestoreScope)
    retention_after: RetentionAfter = RetentionAfter.AUTO
    offsets: KeepOffsets = KeepOffsets.AUTO
    append: bool = False
    """Topics that hold records are no reason to refuse."""
    acls: bool = False
    """Recorded ACLs of what is restored are set at the end."""
    rate_limit_bytes_per_second: int | None = None
    """None: unlimited."""
    verify: bool = True
    provenance_headers: bool = False
    consumer_groups: RestoredGroups = field(default_factory=RestoredGroups)

    def target_of(self, topic: str) -> str | None:
        """Name under which `topic` is restored; None: it is not."""
        if not self.topics.selects(topic):
            return None
        renamed = (target for mapping in self.topic_mapping if (target := mapping.target_of(topic)) is not None)
        return next(renamed, topic)

    def may_make(self, target: str) -> bool:
        """Whether a topic of that name can come of what is restored."""
        return self.target_of(target) == target or any(mapping.may_make(target) for mapping in self.topic_mapping)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSettings:
    """Everything `kbackupd restore` obeys."""

    source: RestoreSource
    target: RestoreTarget
    options: RestoreOptions = field(default_factory=RestoreOptions)
