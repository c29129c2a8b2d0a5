"""Who an archive is and who writes it: the two documents behind every archive, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveDocument:
    """`backup.json`: the identity of an archive, written once, before anything else."""

    backup_id: str
    archive_id: str
    """A random UUID; a copy of the archive keeps it, wherever it lies."""
    cluster_id: str
    created_ms: int
    start: str
    """`earliest` or `latest`: where coverage of the partitions that existed at `created_ms` begins."""
    ends: Mapping[TopicId, tuple[int, ...]] = field(default_factory=dict)
    """With `latest`: where each log ended at `created_ms`, by topic and partition; -1 where no leader could say."""
    texts: dict[str, str] = field(default_factory=dict)
    """Key of a plain text beside it → SHA-256 of its bytes, hex."""
    compatible: tuple[str, ...] = ()
    """Features a reader may ignore."""

    @property
    def identity(self) -> Identity:
        return Identity(backup_id=self.backup_id, archive_id=self.archive_id, cluster_id=self.cluster_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterClaim:
    """`writers/<writer>/<epoch>.json`: from then on this life of the writer writes, earlier ones stop (fencing)."""

    key: str
    identity: Identity
    writer: str
    writer_epoch: int
    claimed_ms: int
    software: str
    """`kbackupd/<version>`."""
