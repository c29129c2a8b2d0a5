"""Which roll-ups can stand for footers: of all that a listing shows, those that cover most of its segments.

A roll-up stands for its segments only if the listing shows every one of them, with the size it says; a damaged one is
left out, and the footers are read instead (I3). One that cannot be fetched is an error (I5).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kbackupd.archive.rollup_source import OpenedRollup, Place, UsableRollup, open_stored, places_of, with_segments
from kbackupd.format import keys
from kbackupd.format.tables import Columns
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError, UnsupportedFormatError
from kbackupd.model.segment import Identity
from kbackupd.store.protocol import ObjectInfo, ObjectStore

Distrusted = Mapping[str, CorruptObjectError | UnsupportedFormatError]
"""Keys of roll-ups that proved damaged, and how."""


@dataclass(slots=True)
class Chosen:
    """Which roll-ups count, which objects they spare a reader, and which proved damaged."""

    usable: list[UsableRollup] = field(default_factory=list)
    damaged: dict[str, CorruptObjectError | UnsupportedFormatError] = field(default_factory=dict)
    uncovered: list[ObjectInfo] = field(default_factory=list)
    """Segments whose footers must be read."""


async def choose_rollups(
    store: ObjectStore,
    segments: Sequence[tuple[keys.SegmentKey, ObjectInfo]],
    rollups: Iterable[keys.RollupKey],
    identity: Identity | None,
    distrusted: Distrusted,
) -> Chosen:
    """The roll-ups that stand for most of `segments`, the highest level first.

    Args:
        segments: those in the listing that anybody wants, in its order.
        distrusted: keys of roll-ups that proved damaged before; they are left out.

    Raises:
        KbackupError: a roll-up could not be fetched.
    """
    chosen = Chosen(damaged=dict(distrusted))
    by_writer: dict[str, list[tuple[keys.SegmentKey, ObjectInfo]]] = defaultdict(list)
    for at, info in segments:
        by_writer[at.writer].append((at, info))
    candidates: dict[str, list[keys.RollupKey]] = defaultdict(list)
    for candidate in rollups:
        candidates[candidate.writer].append(candidate)
    for writer, listed in sorted(by_writer.items()):
        listed.sort(key=lambda one: one[0])
        cover = _Cover(listed)
        for candidate in sorted(candidates[writer], key=lambda at: (-at.level, at.first, at.last, -at.generation)):
            key = keys.rollup_key(candidate)
            if key in chosen.damaged or not cover.wants(candidate):
                continue
            try:
                usable = await _usable(store, key, identity, cover)
            except ObjectMissingError:
                continue  # gone since it was listed
            except (CorruptObjectError, UnsupportedFormatError) as error:
                chosen.damaged[key] = error
                continue
            if usable is not None:
                chosen.usable.append(usable)
        chosen.uncovered += [info for (_, info), taken in zip(listed, cover.taken, strict=True) if not taken]
    return chosen


class _Cover:
    """One writer's listed segments in the archive's order, and which of them some roll-up stands for."""

    def __init__(self, listed: Sequence[tuple[keys.SegmentKey, ObjectInfo]]) -> None:
        self._listed = listed
        self._places = [(at.writer_epoch, at.seq) for at, _ in listed]
        self.taken = bytearray(len(listed))

    def wants(self, at: keys.RollupKey) -> bool:
        """Whether something between its ends is still to be covered."""
        return self.taken.find(0, *self._rows(at.first, at.last)) >= 0

    def _rows(self, first: Place, last: Place) -> tuple[int, int]:
        return bisect_left(self._places, first), bisect_right(self._places, last)

    def rows_of(self, opened: OpenedRollup) -> list[tuple[int, int]] | None:
        """Where the segments it covers stand; None unless each is there exactly once and none is taken."""
        ranges = []
        for epoch, first, following in opened.coverage:
            begin, end = self._rows((epoch, first), (epoch, following - 1))
            if end - begin != following - first or self.taken.find(1, begin, end) >= 0:
                return None
            ranges.append((begin, end))
        return ranges

    def take(self, ranges: Sequence[tuple[int, int]], segments: Columns) -> bool:
        """Mark them if each is listed as the roll-up says."""
        listed = (self._listed[row] for begin, end in ranges for row in range(begin, end))
        for (at, info), (epoch, seq, sealed_ms, size) in zip(listed, places_of(segments), strict=True):
            if (at.writer_epoch, at.seq, at.sealed_ms, info.size_bytes) != (epoch, seq, sealed_ms, size):
                return False
        for begin, end in ranges:
            self.taken[begin:end] = b"\1" * (end - begin)
        return True


async def _usable(store: ObjectStore, key: str, identity: Identity | None, cover: _Cover) -> UsableRollup | None:
    opened = await open_stored(store, key, identity)
    ranges = cover.rows_of(opened)
    if ranges is None:
        return None
    usable = await with_segments(store, opened)
    return usable if cover.take(ranges, usable.segments) else None
