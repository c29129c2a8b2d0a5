"""What of an archive is to come back: which topics' partitions, offsets, times and records, in plain frozen values.

`settings` makes them from a restore's file, a plan shows them, `restore.cut` decides by them. The defaults are:
everything that is committed, of the newest incarnation and branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kbackupd.model.positions import TopicId


class RecordsOf(StrEnum):
    """Whose records are restored, of transactional producers."""

    COMMITTED = "committed"
    """Those of committed transactions, and of decided ones whose marker the archive lacks."""
    UNCOMMITTED = "uncommitted"
    """Those of aborted, undecided and open ones too; never a marker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindow:
    """Record timestamps `start_ms <= t < end_ms`; None leaves that side open.

    A record without a timestamp (−1) counts as older than every other.
    """

    start_ms: int | None = None
    end_ms: int | None = None

    def __contains__(self, timestamp_ms: int) -> bool:
        if self.start_ms is not None and timestamp_ms < self.start_ms:
            return False
        return self.end_ms is None or timestamp_ms < self.end_ms

    def __bool__(self) -> bool:
        """False: every timestamp is in it."""
        return self.start_ms is not None or self.end_ms is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetBounds:
    """Source offsets `first_offset <= o < next_offset`; None leaves that side open."""

    first_offset: int | None = None
    next_offset: int | None = None

    def __contains__(self, offset: int) -> bool:
        if self.first_offset is not None and offset < self.first_offset:
            return False
        return self.next_offset is None or offset < self.next_offset

    def __bool__(self) -> bool:
        """False: every offset is in them."""
        return self.first_offset is not None or self.next_offset is not None

    def reach_into(self, first_offset: int, next_offset: int) -> bool:
        """Whether anything of `[first_offset, next_offset)` lies within."""
        below = self.first_offset is not None and next_offset <= self.first_offset
        above = self.next_offset is not None and first_offset >= self.next_offset
        return not below and not above

    def hold(self, first_offset: int, next_offset: int) -> bool:
        """Whether all of `[first_offset, next_offset)` lies within."""
        reaches_down = self.first_offset is None or first_offset >= self.first_offset
        return reaches_down and (self.next_offset is None or next_offset <= self.next_offset)

    def __str__(self) -> str:
        first = "…" if self.first_offset is None else self.first_offset
        return f"[{first}, {'…' if self.next_offset is None else self.next_offset})"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderPattern:
    """A header of that name, whose value holds the pattern; None: whatever its value is, null too."""

    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPatterns:
    """Regular expressions over bytes (Python's `re`, searched anywhere), as they were written and known to compile.

    All that are given must match; a null never does.
    """

    key: str | None = None
    value: str | None = None
    headers: tuple[HeaderPattern, ...] = ()

    def __bool__(self) -> bool:
        """False: every record matches."""
        return self.key is not None or self.value is not None or bool(self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreScope:
    """The choice within the topics that are restored; topics by their names in the archive."""

    as_of_ms: int | None = None
    """The instant of capture as of which everything is restored; None: as of the end."""
    window: TimeWindow = TimeWindow()
    records_of: RecordsOf = RecordsOf.COMMITTED
    patterns: RecordPatterns = RecordPatterns()
    offsets: Mapping[tuple[str, int], OffsetBounds] = field(default_factory=dict)
    """(topic, partition) → bounds; other partitions are restored whole."""
    partitions: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Topic → its partitions that are restored; other topics with all of theirs."""
    incarnations: Mapping[str, TopicId] = field(default_factory=dict)
    """Topic → which incarnation, instead of the newest."""
    branches: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """(topic, partition) → which branch, instead of the newest."""
    target_partitions: Mapping[str, int] = field(default_factory=dict)
    """Topic → partitions in the target, instead of the recorded number."""

    def offsets_of(self, topic: str, partition: int) -> OffsetBounds:
        return self.offsets.get((topic, partition), OffsetBounds())

    def takes(self, topic: str, partition: int) -> bool:
        """Whether the partition is restored, of a topic that is."""
        chosen = self.partitions.get(topic)
        return chosen is None or partition in chosen

    @property
    def topics_named(self) -> tuple[str, ...]:
        """Every topic that some part of the choice is about."""
        pairs = (*self.offsets, *self.branches)
        names = (*(name for name, _ in pairs), *self.partitions, *self.incarnations, *self.target_partitions)
        return tuple(dict.fromkeys(names))
