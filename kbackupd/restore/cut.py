"""Which records of what is read come back: pure. Decided by a run's index, else by a batch's header, else by record.

Owns the exactness of a cut (hazards 33 and 39): first inclusive, next exclusive, whatever order the timestamps are in.
A header's largest timestamp is an upper bound for every record of the batch (brokers compute it on append, compaction
can only lower it); of the smallest a header knows nothing, for its base timestamp is only the first record's. So what
is older than a window's start is skipped unread, and at the other edge the records themselves are asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from re import Pattern

from kbackupd.archive.history import PartitionHistory
from kbackupd.format.header import BatchHeader
from kbackupd.format.records import Headers, decode_record, read_nullable
from kbackupd.model.scope import OffsetBounds, RecordPatterns, TimeWindow
from kbackupd.model.segment import Run


class Reach(Enum):
    """How much of something is wanted."""

    NONE = auto()
    ALL = auto()
    SOME = auto()
    """Or all, or none: only the records can tell."""


class Fate(Enum):
    """What becomes of a record."""

    KEPT = auto()
    CUT_AWAY = auto()
    """Outside of the offsets or the time window asked for."""
    FILTERED = auto()
    """Inside, and not what the filters look for."""


class RecordFilter:
    """Patterns over keys, values and headers, ready to be matched. An empty one matches every record."""

    __slots__ = ("_headers", "_key", "_value", "is_empty")

    def __init__(self, patterns: RecordPatterns) -> None:
        """`patterns` are known to compile."""
        self._key = _searching(patterns.key)
        self._value = _searching(patterns.value)
        self._headers = [(header.name.encode(), _searching(header.value)) for header in patterns.headers]
        self.is_empty = not patterns

    def matches(self, body: bytes) -> bool:
        """Whether the record of that `body` is looked for; a null never is.

        Raises:
            MalformedRecordError: the body is not a record's.
        """
        # No further than must be: most records are not looked for, and most patterns are of the key.
        key, position = read_nullable(body, 0)
        if not _found(self._key, key):
            return False
        if self._value is not None and not _found(self._value, read_nullable(body, position)[0]):
            return False
        if not self._headers:
            return True
        _, _, headers = decode_record(body)
        return all(_has(headers, name, pattern) for name, pattern in self._headers)


_Search = Callable[[bytes], object]


def _searching(pattern: str | None) -> _Search | None:
    return None if pattern is None else compiled(pattern).search


def compiled(pattern: str) -> Pattern[bytes]:
    """The expression over bytes; text beyond ASCII stands for its UTF-8.

    Raises:
        re.error: it is not one.
    """
    return re.compile(pattern.encode())


def _found(search: _Search | None, content: bytes | None) -> bool:
    return search is None or (content is not None and search(content) is not None)


def _has(headers: Headers, wanted: bytes, search: _Search | None) -> bool:
    return any(name == wanted and _found(search, content) for name, content in headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionCut:
    """What of one partition is wanted: offsets, a time window, and records to look for; all of them hold."""

    offsets: OffsetBounds = field(default_factory=OffsetBounds)
    window: TimeWindow = field(default_factory=TimeWindow)
    filter: RecordFilter = field(default_factory=lambda: RecordFilter(RecordPatterns()))
    instant_offset: int | None = None
    """At or beyond it a batch is wanted only if it is of a transaction in `completed`; None: there is no such edge."""
    completed: Mapping[int, int] = field(default_factory=dict)
    """Producer id → offset of the last marker that counts."""

    @property
    def needs_all(self) -> bool:
        """Whether every run must be read, whatever it holds."""
        return not self.offsets and self.window.start_ms is None

    def may_want(self, run: Run, first_offset: int, next_offset: int) -> bool:
        """Whether anything between the two offsets in `run` can be wanted; if not it need not be read."""
        if not self.offsets.reach_into(first_offset, next_offset):
            return False
        # A compressed message of format 0 or 1 may bear any timestamp: its producer made it.
        start_ms = self.window.start_ms
        return start_ms is None or run.max_timestamp_ms >= start_ms or run.flags.legacy

    def needed(self, history: PartitionHistory) -> PartitionHistory:
        """`history` less the slices in which nothing can be wanted: they need not be downloaded."""
        slices = tuple(
            one
            for one in history.slices
            if any(self.may_want(stored.run, one.first_offset, one.next_offset) for stored in one.sources)
        )
        return history if len(slices) == len(history.slices) else replace(history, slices=slices)

    def of_batch(self, header: BatchHeader) -> Reach:
        """What offsets and window say of a batch with records; the filter is not asked."""
        edge = self.instant_offset
        if edge is not None and header.base_offset >= edge and not self._completes(header):
            return Reach.NONE
        if not self.offsets and not self.window:
            return Reach.ALL
        if header.is_legacy:
            # A wrapper bears its last record's offset and does not say how many it holds.
            return Reach.SOME
        if not self.offsets.reach_into(header.base_offset, header.next_offset):
            return Reach.NONE
        whole = self.offsets.hold(header.base_offset, header.next_offset)
        if not self.window:
            return Reach.ALL if whole else Reach.SOME
        start_ms, end_ms = self.window.start_ms, self.window.end_ms
        if header.is_log_append_time:
            if header.max_timestamp not in self.window:
                return Reach.NONE
        elif start_ms is not None and header.max_timestamp < start_ms:
            return Reach.NONE
        elif start_ms is not None or (end_ms is not None and header.max_timestamp >= end_ms):
            return Reach.SOME
        return Reach.ALL if whole else Reach.SOME

    def _completes(self, header: BatchHeader) -> bool:
        return header.is_transactional and header.base_offset < self.completed.get(header.producer_id, -1)

    def of_timestamps(self, least_ms: int, most_ms: int) -> Reach:
        """What the window says of records whose smallest and largest timestamps are these."""
        start_ms, end_ms = self.window.start_ms, self.window.end_ms
        if (start_ms is not None and most_ms < start_ms) or (end_ms is not None and least_ms >= end_ms):
            return Reach.NONE
        return Reach.ALL if least_ms in self.window and most_ms in self.window else Reach.SOME

    def of_record(self, offset: int, timestamp_ms: int, body: bytes) -> Fate:
        """Raises MalformedRecordError: see `RecordFilter.matches`."""
        if offset not in self.offsets or timestamp_ms not in self.window:
            return Fate.CUT_AWAY
        return Fate.KEPT if self.filter.is_empty or self.filter.matches(body) else Fate.FILTERED


EVERYTHING = PartitionCut()
