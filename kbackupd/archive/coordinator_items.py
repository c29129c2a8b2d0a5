"""What a coordinator would replay from its log, item by item, and what of it is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

NO_PRODUCER_ID = -1
"""Of records that are in no transaction."""


class CoordinatorRecord(NamedTuple):
    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorBatch:
    """Consecutive records; with a producer id they count only if that producer's next marker commits them."""

    first_offset: int
    next_offset: int
    producer_id: int
    producer_epoch: int
    captured_ms: int
    compacted: bool
    """Offsets are missing in the run it is from: a compaction was there before capture was."""
    records: tuple[CoordinatorRecord, ...]


class CoordinatorMarker(NamedTuple):
    """The end of a producer's transaction in this partition."""

    offset: int
    producer_id: int
    producer_epoch: int
    committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRange:
    """Offsets of which nothing is known, and why, for people."""

    first_offset: int
    next_offset: int
    reason: str


LogItem = CoordinatorBatch | CoordinatorMarker | LostRange
