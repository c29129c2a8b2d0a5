"""What a segment and a checkpoint say: the values behind `docs/format.md`, without their bytes.

What there is one of per partition and segment is a named tuple: ten thousand of each are made at a flush
(docs/adr/0019).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag
from typing import NamedTuple

from kbackupd.model.events import LedgerEvent
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object by name and content: its key (relative to the archive) and its digest (hex SHA-256)."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """To which archive an object belongs; every object carries it (invariant I7)."""

    backup_id: str
    archive_id: str
    cluster_id: str


class RunFlag(IntFlag):
    HOLES = 1
    """Offsets are missing between or inside its batches (compaction)."""
    TRANSACTIONAL = 2
    LOG_APPEND_TIME = 4
    LEGACY_MAGIC = 8
    """Holds messages of magic 0 or 1, which have no CRC-32C and no last offset delta."""
    CORRUPT = 16
    """The bytes failed their CRC at the source and are kept as they came (invariant I1's exemption)."""
    CONTROL = 32
    """Holds at least one control batch (transaction marker)."""

    # Asked of every run of every segment: an `&` of two flags is ten times as slow.
    @property
    def corrupt(self) -> bool:
        """Whether `CORRUPT` is among them."""
        return int(self) & 16 != 0

    @property
    def legacy(self) -> bool:
        """Whether `LEGACY_MAGIC` is among them."""
        return int(self) & 8 != 0

    @property
    def log_append_time(self) -> bool:
        """Whether `LOG_APPEND_TIME` is among them."""
        return int(self) & 4 != 0

    @property
    def holes(self) -> bool:
        """Whether `HOLES` is among them."""
        return int(self) & 1 != 0


RUN_FLAGS = tuple(RunFlag(bits) for bits in range(64))
"""Every combination of them by its bits: to look one up costs a tenth of making it."""

CODEC_NONE = "none"
CODEC_ZSTD = "zstd"


class Run(NamedTuple):
    """One partition's consecutive record batches inside one segment.

    It proves the offsets `[asked_offset, next_offset)`; those between batches that it lacks did not exist any more.
    The fields stand in the order of a footer's columns (`kbackupd.format.run_table`).
    """

    id: PartitionId
    system: bool
    asked_offset: int
    first_offset: int
    """Base offset of the first batch; below `asked_offset` when the broker's batch began earlier."""
    next_offset: int
    branch: int
    replica: int
    """Node id of the broker that served it."""
    captured_ms: int
    batches: int
    records: int
    """By the batch headers; control batches count as they say."""
    flags: RunFlag
    base_timestamp_ms: int
    """Smallest of the batches' base timestamps: not the minimum record timestamp, which headers do not know."""
    max_timestamp_ms: int
    largest_batch_bytes: int
    position: int
    """Of its first stored byte in the object."""
    stored_bytes: int
    raw_bytes: int
    codec: str
    crc32c: int
    """Over the stored bytes."""
    leader_epochs: tuple[tuple[int, int], ...]
    """(leader epoch, first offset under it), ascending."""

    @property
    def covers(self) -> OffsetRange:
        return OffsetRange(min(self.asked_offset, self.next_offset), self.next_offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionOutcome:
    """A transaction marker seen at `offset`."""

    id: PartitionId
    offset: int
    producer_id: int
    producer_epoch: int
    committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTransaction:
    """A transaction whose first batch in the partition was seen, its marker not."""

    id: PartitionId
    producer_id: int
    producer_epoch: int
    first_offset: int


class Sample(NamedTuple):
    """What a leader's answer said about its log: true at some moment within [sent_ms, answered_ms].

    The fields have the order and the names of the columns in footers and roll-ups.
    """

    id: PartitionId
    sent_ms: int
    answered_ms: int
    log_start_offset: int
    last_stable_offset: int
    high_watermark: int
    leader_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierEpoch:
    """What a writer's new life found of an earlier one: sequences not in `durable` are abandoned.

    An abandoned one may still appear (a straggling upload); it is harmless.
    """

    writer_epoch: int
    durable: tuple[tuple[int, int], ...]
    """Half-open sequence ranges, ascending."""
    last: ObjectRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """A segment's index and its share of the ledger."""

    identity: Identity
    key: str
    writer: str
    writer_epoch: int
    seq: int
    previous: ObjectRef | None
    """The segment sealed before this one by the same writer; across epochs, the newest durable one."""
    in_flight: tuple[int, ...]
    """Sequences of this epoch sealed before this one and not known durable when it was sealed."""
    earlier: tuple[EarlierEpoch, ...]
    sealed_ms: int
    sealed_monotonic_ms: int
    body_bytes: int
    body_sha256: str
    topics: dict[TopicId, str]
    """Names of every topic id this footer mentions."""
    runs: tuple[Run, ...] = ()
    outcomes: tuple[TransactionOutcome, ...] = ()
    open_transactions: tuple[OpenTransaction, ...] = ()
    samples: tuple[Sample, ...] = ()
    events: tuple[LedgerEvent, ...] = ()


class PartitionCheckpoint(NamedTuple):
    """Where one partition stands: everything below `next_offset` (from `first_offset` on) is durable or a known gap."""

    id: PartitionId
    first_offset: int
    next_offset: int
    branch: int
    next_branch: int
    """The number the next truncation gives its branch: above every number any segment has used for this partition."""
    state: str
    leader_epoch: int
    """Of the last batch captured, -1 if none: the broker is asked where that epoch ends before the first fetch."""
    leader_epochs: tuple[tuple[int, int], ...]
    open_transactions: tuple[tuple[int, int, int], ...]
    """(producer id, producer epoch, first offset)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicCheckpoint:
    id: TopicId
    name: str
    partitions: int
    internal: bool
    configs: dict[str, str] = field(default_factory=dict)
    """Overrides set on the topic; the broker's defaults are not the topic's."""
    closed: bool = False
    """Deleted at the source, or excluded by configuration."""
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    identity: Identity
    key: str
    writer: str
    writer_epoch: int
    number: int
    sealed_ms: int
    chain_head: ObjectRef | None
    coverage: dict[int, tuple[tuple[int, int], ...]]
    """Writer epoch → half-open sequence ranges whose content this checkpoint accounts for."""
    declared_next_epoch: int
    """Every writer epoch below this one was described by a durable footer's `earlier`, or wrote nothing."""
    segments: tuple[tuple[str, str, int], ...]
    """(key, digest, size in bytes) of segments that became durable since the checkpoint before."""
    events: int
    """Ledger head: how many ledger events the covered segments of this writer hold."""
    topics: tuple[TopicCheckpoint, ...]
    partitions: tuple[PartitionCheckpoint, ...]
    pauses: tuple[str, ...]
    """Topic globs paused by an operator."""
