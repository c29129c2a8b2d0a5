"""What is told about transactions near an instant: markers, data without one, the coordinators' log, single batches.

Pure; values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kbackupd.archive.transaction_fold import LoggedTransaction
from kbackupd.model.positions import PartitionId


class Marker(NamedTuple):
    """A commit marker in a user's partition."""

    id: PartitionId
    offset: int
    producer_id: int
    producer_epoch: int


class LeftOpen(NamedTuple):
    """Data of a producer in a user's partition, of which the archive holds no marker."""

    id: PartitionId
    producer_id: int
    producer_epoch: int
    """Of the data."""
    next_offset: int
    """Where what was captured of the partition ends."""
    last: Marker | None
    """The producer's last marker there, of whatever outcome."""
    last_committed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOfCoordinators:
    """What `__transaction_state` tells: each partition's transactions, and how far it went at the instant."""

    transactions: tuple[LoggedTransaction, ...] = ()
    next_offsets: Mapping[int, int]
    """Cuts by partition; one that is not here had not been heard of by then."""
    sent_ms: Mapping[int, int] = field(default_factory=dict)
    """Likewise: what was appended before then is below the cut."""
    complete: frozenset[int] = frozenset()
    """Partitions of which no transaction can be missing that was decided by the instant and is of concern."""
    partitions: int = 0
    """How many that topic had at the instant."""

    @property
    def is_complete(self) -> bool:
        return 0 < self.partitions == len(self.complete)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was read of single batches."""

    marker_ms: Mapping[tuple[PartitionId, int], int]
    """(partition, offset of a marker) → its timestamp."""
    data_epochs: Mapping[tuple[PartitionId, int], int]
    """(partition, offset of a marker) → producer epoch of the data it ended."""
