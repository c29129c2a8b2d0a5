"""Where each restored record went: source offset → target offset, run-length, so that its size follows the log's
irregularities and never its records (hazard 35)."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedRun:
    """`count` consecutive source offsets from `source_offset` on became as many from `target_offset` on."""

    source_offset: int
    target_offset: int
    count: int


class OffsetMap:
    """Grows at its end only: source offsets ascend, target offsets ascend without a hole from 0 on.

    Target offsets count from the first restored record; the log's end before it is added by whoever knows it.

    Args:
        identity: offsets are kept: what is restored goes where it was.
    """

    __slots__ = ("_identity", "_sources", "_targets", "next_source_offset", "records")

    def __init__(self, *, identity: bool = False) -> None:
        self._identity = identity
        self._sources = array("q")
        self._targets = array("q")
        self.records = 0
        self.next_source_offset = 0

    def append(self, source_offset: int, count: int = 1) -> None:
        """The next `count` restored records had the source offsets from `source_offset` on."""
        if not self._sources or source_offset != self.next_source_offset:
            if self._sources and source_offset < self.next_source_offset:
                raise ValueError(f"offset {source_offset} is restored twice")
            self._sources.append(source_offset)
            self._targets.append(self.records)
        self.records += count
        self.next_source_offset = source_offset + count

    def cut(self, records: int) -> None:
        """Keep only the first `records`: a partition that failed never saw the others acknowledged."""
        while self.records > records:
            started = self._targets[-1]
            if started >= records:
                self._sources.pop()
                self._targets.pop()
            self.records = max(started, records)
        self.next_source_offset = self._sources[-1] + self.records - self._targets[-1] if self._sources else 0

    def __len__(self) -> int:
        return len(self._sources)

    def runs(self, *, target_first_offset: int = 0) -> Iterator[MappedRun]:
        for number, (source, target) in enumerate(zip(self._sources, self._targets, strict=True)):
            following = self._targets[number + 1] if number + 1 < len(self._targets) else self.records
            landed = source if self._identity else target + target_first_offset
            yield MappedRun(source_offset=source, target_offset=landed, count=following - target)

    def target_of(self, source_offset: int) -> int | None:
        """Where the record of `source_offset` went; None: it was not restored."""
        found = bisect_right(self._sources, source_offset) - 1
        if found < 0:
            return None
        following = self._targets[found + 1] if found + 1 < len(self._targets) else self.records
        target = self._targets[found] + source_offset - self._sources[found]
        if target >= following:
            return None
        return source_offset if self._identity else target
