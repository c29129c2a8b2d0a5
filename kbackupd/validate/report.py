"""What validation found, as values: each finding names where, how bad, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from kbackupd.model.errors import ArchiveInvalidError
from kbackupd.model.positions import TopicId


class Severity(StrEnum):
    ERROR = "error"
    """The archive does not hold what it says, or what it was expected to hold."""
    INFORMATION = "information"
    """Worth knowing; the archive is as valid as without it."""


class Code(StrEnum):
    """Stable names for programs; docs/validate.md lists them."""

    OBJECT_DAMAGED = "object.damaged"
    OBJECT_UNSUPPORTED = "object.unsupported"
    OBJECT_MISSING = "object.missing"
    OBJECT_UNKNOWN = "object.unknown"
    IDENTITY_FOREIGN = "identity.foreign"
    CHAIN_BROKEN = "chain.broken"
    SEQUENCE_DOUBLED = "sequence.doubled"
    SEQUENCE_UNFINISHED = "sequence.unfinished"
    SEQUENCE_ABANDONED = "sequence.abandoned"
    CHECKPOINT_MISSING = "checkpoint.missing"
    CHECKPOINT_CONTRADICTED = "checkpoint.contradicted"
    ROLLUP_CONTRADICTED = "rollup.contradicted"
    ROLLUP_MISSING = "rollup.missing"
    CONTINUITY_HOLE = "continuity.hole"
    CONTINUITY_UNFINISHED = "continuity.unfinished"
    CONTINUITY_GAP = "continuity.gap"
    CONTINUITY_BRANCH = "continuity.branch"
    CONTINUITY_OVERLAP = "continuity.overlap"
    CONTENT_BATCH = "content.batch"
    CONTENT_RUN = "content.run"
    CONTENT_INDEX = "content.index"
    CONTENT_BODY = "content.body"
    CONTENT_OPAQUE = "content.opaque"
    CONTENT_CORRUPT_AT_SOURCE = "content.corrupt_at_source"
    COVERAGE_TOPIC = "coverage.topic"
    COVERAGE_PARTITION = "coverage.partition"
    COVERAGE_TIME = "coverage.time"
    COVERAGE_END = "coverage.end"
    COVERAGE_UNCHECKED = "coverage.unchecked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    severity: Severity
    code: Code
    message: str
    """What is the matter, without the place; one sentence."""
    action: str = ""
    """What to do about it; empty where there is nothing to do."""
    object: str | None = None
    """Key relative to the archive."""
    topic: str | None = None
    topic_id: TopicId | None = None
    partition: int | None = None
    branch: int | None = None
    first_offset: int | None = None
    next_offset: int | None = None

    @property
    def place(self) -> str:
        """Topic, partition, offsets and object, as far as they are known."""
        words = []
        if self.topic is not None:
            words.append(self.topic if self.partition is None else f"{self.topic}/{self.partition}")
        if self.branch:
            words.append(f"branch {self.branch}")
        if self.first_offset is not None:
            words.append(f"offsets [{self.first_offset}, {self.next_offset})")
        where = " ".join(words)
        if self.object is not None:
            where = f"{where} in {self.object}" if where else self.object
        return where


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How much was looked at, so that "nothing found" can be told from "nothing read"."""

    objects: int = 0
    segments: int = 0
    checkpoints: int = 0
    snapshots: int = 0
    """Of groups and of the cluster."""
    rollups: int = 0
    topics: int = 0
    partitions: int = 0
    runs: int = 0
    batches: int = 0
    """By the footers; with `deep` each of them was read."""
    records: int = 0
    body_bytes: int = 0
    """Read of segment bodies: 0 unless `deep`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    location: str
    backup_id: str
    archive_id: str | None
    cluster_id: str | None
    deep: bool
    started_ms: int
    duration_seconds: float
    checked: Checked
    valid: bool
    errors: int
    informations: int
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        return 0 if self.valid else ArchiveInvalidError.exit_code


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, causes (objects) before what follows from them, then by place; nothing twice."""
    rank = {code: number for number, code in enumerate(Code)}
    return tuple(
        sorted(
            dict.fromkeys(findings),
            key=lambda one: (
                one.severity is not Severity.ERROR,
                rank[one.code],
                one.object or "",
                one.topic or "",
                -1 if one.partition is None else one.partition,
                -1 if one.first_offset is None else one.first_offset,
                one.message,
            ),
        )
    )
