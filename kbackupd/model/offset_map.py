"""Where restored records went, as a value that outlives the restore: source positions → target positions.

Pure. Owns the rule of docs/offset-map.md: a position is the next offset to be read, so it maps to the first restored
record at or after it, and behind the last one to the end of what was restored. Run-length, so that its size follows the
log's irregularities and never its records (hazard 35).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kbackupd.model.positions import TopicId


class Exactness(StrEnum):
    """How a target position was come by."""

    EXACT = "exact"
    """The record at the source position itself was restored."""
    NEXT = "next"
    """It was not (a marker, aborted, compacted away, cut off, missing): the next restored record after it."""
    END = "end"
    """Nothing at or after it was restored: the end of what was."""
    BEFORE_START = "before start"
    """Below the restored range: its first record."""
    AMBIGUOUS = "ambiguous"
    """By content, several records of the target are equal: the first of them, so that none is skipped."""
    GIVEN = "given"
    """Not worked out from a source position."""


class OffsetsMode(StrEnum):
    """What a restore did with offsets."""

    COMPACT = "compact"
    """New ones, without holes."""
    PRESERVE = "preserve"
    """Every record kept its own: positions are valid as they are."""


@dataclass(frozen=True, slots=True)
class MappedPosition:
    source_offset: int
    target_offset: int
    exactness: Exactness


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionMap:
    """One partition's records: runs in three columns of equal length, ascending and without overlap in both offsets."""

    source_partition: int
    target_partition: int
    source_first_offset: int
    """The restored range of the source is [source_first_offset, source_next_offset)."""
    source_next_offset: int
    target_first_offset: int
    """The log end of the target before the restore: where its first record landed, or would have."""
    target_next_offset: int
    complete: bool
    """False: the restore ended before this partition did, and the ranges are of what was acknowledged."""
    source_offsets: Sequence[int]
    """First source offset of each run."""
    target_offsets: Sequence[int]
    counts: Sequence[int]
    mode: OffsetsMode = OffsetsMode.COMPACT

    @property
    def records(self) -> int:
        return sum(self.counts)

    def mapped(self, position: int) -> MappedPosition:
        """Where a consumer goes on whose next offset at the source was `position`; any integer has an answer."""
        target, exactness = self._mapped(position)
        return MappedPosition(position, target, exactness)

    def _mapped(self, position: int) -> tuple[int, Exactness]:
        if position >= self.source_next_offset:
            return self.target_next_offset, Exactness.END
        if position < self.source_first_offset:
            return self._first_restored(), Exactness.BEFORE_START
        if self.mode is OffsetsMode.PRESERVE:
            # Holes were reproduced: the position is as good in the target's log as it was at the source.
            return position, Exactness.EXACT
        following = bisect_right(self.source_offsets, position)
        if following:
            into = position - self.source_offsets[following - 1]
            if into < self.counts[following - 1]:
                return self.target_offsets[following - 1] + into, Exactness.EXACT
        if following < len(self.source_offsets):
            return self.target_offsets[following], Exactness.NEXT
        return self.target_next_offset, Exactness.END

    def _first_restored(self) -> int:
        if self.mode is OffsetsMode.PRESERVE:
            return self.source_first_offset
        return self.target_offsets[0] if len(self.target_offsets) else self.target_next_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMap:
    source: str
    topic_id: TopicId
    target: str
    target_topic_id: TopicId
    partitions: tuple[PartitionMap, ...]

    def partition(self, source_partition: int) -> PartitionMap | None:
        return next((one for one in self.partitions if one.source_partition == source_partition), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetMapDocument:
    """One restore's whole map."""

    archive: str
    """Where the archive was: for people."""
    backup_id: str
    archive_id: str
    source_cluster_id: str
    target_cluster_id: str
    made_ms: int
    topics: tuple[TopicMap, ...]
    digest: str = ""
    """Over the canonical content; "" until it is encoded."""

    def topic(self, source: str) -> TopicMap | None:
        """By the topic's name at the source."""
        return next((one for one in self.topics if one.source == source), None)
