"""The forward path, one type per arrow:

    RecordBatches ──seal──▶ SealedSegment ──put──▶ StoredSegment ──▶ CatalogEntry ──▶ Watermark ──▶ checkpoint

Acknowledging before durability must not type-check: a `Watermark` moves only on `CatalogEntry`s, an entry is made only
from a `StoredSegment`, and only the publisher, after the store said "durable", makes one of those (invariant I4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import Footer, ObjectRef, RunFlag


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkerSeen:
    """A transaction marker (control batch) inside scanned bytes."""

    offset: int
    producer_id: int
    producer_epoch: int
    committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionBegun:
    """The first transactional data batch of a producer in scanned bytes, or the first after its marker there."""

    offset: int
    producer_id: int
    producer_epoch: int


class BatchScan(NamedTuple):
    """What the headers of the whole, CRC-checked batches at the start of some fetched bytes say."""

    first_offset: int
    next_offset: int
    """The asked offset when there is no whole batch."""
    batches: int
    records: int
    flags: RunFlag
    base_timestamp_ms: int
    max_timestamp_ms: int
    largest_batch_bytes: int
    leader_epochs: tuple[tuple[int, int], ...]
    """(leader epoch, first base offset under it), ascending, no repeats."""
    markers: tuple[MarkerSeen, ...]
    begun: tuple[TransactionBegun, ...]
    good_bytes: int
    """Length of the whole batches whose CRC holds, from the start."""
    compressed_bytes: int
    """Of those, bytes in batches that their producer compressed."""
    partial_bytes: int
    """Length of an incomplete last batch, to be dropped and fetched again."""
    partial_needs_bytes: int
    """Whole length of that batch by its header, 0 if even the header is incomplete."""
    corrupt_bytes: int
    """Length of everything from the first batch whose CRC fails (or whose header is senseless) to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBatches:
    """Consecutive whole batches of one partition from one leader's answer, checked and not yet durable."""

    id: PartitionId
    system: bool
    asked_offset: int
    branch: int
    replica: int
    captured_ms: int
    chunk: bytes | memoryview
    scan: BatchScan


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSegment:
    """A whole segment in memory: its bytes in `parts`, in order. Nothing of it is durable."""

    ref: ObjectRef
    footer: Footer
    parts: Sequence[bytes | memoryview]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSegment:
    """A segment the store has acknowledged: durable."""

    ref: ObjectRef
    footer: Footer
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A durable segment's place in the catalog; its footer is already inside the object."""

    ref: ObjectRef
    footer: Footer
    size_bytes: int

    @classmethod
    def of(cls, stored: StoredSegment) -> CatalogEntry:
        return cls(ref=stored.ref, footer=stored.footer, size_bytes=stored.size_bytes)
