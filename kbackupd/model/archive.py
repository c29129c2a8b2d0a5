"""Who an archive is and who writes it: the two documents behind every archive, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from kbackupd.model.segment import Identity


class StartPolicy(StrEnum):
    """Where the coverage of partitions that existed when the archive was created begins."""

    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveDocument:
    """`backup.json`: the identity of an archive, written once, before anything else."""

    identity: Identity
    created_ms: int
    start: StartPolicy
    texts: dict[str, str] = field(default_factory=dict)
    """Key of a plain text beside it → SHA-256 of its bytes, hex."""
    compatible: tuple[str, ...] = ()
    """Features a reader may ignore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterClaim:
    """`writers/<writer>/<epoch>.json`: from then on this life of the writer writes, earlier ones stop (fencing)."""

    identity: Identity
    writer: str
    writer_epoch: int
    claimed_ms: int
    software: str
    """`kbackupd/<version>`."""
