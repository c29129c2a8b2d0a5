"""Partitions told by the sums that roll-ups hold of their runs, wherever these tell as much as the runs would.

That is so where nothing was cut, overlaps or is still open: stretches of runs on the root branch that follow each other
with leader epochs that do not fall ("Roll-ups" in docs/format.md). Of any other partition the sums say that they do not
tell, and its rows have to be read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kbackupd.archive.catalog import Catalog
from kbackupd.archive.evidence import abandonment, gather_evidence
from kbackupd.archive.history import PartitionEvidence, PartitionHistory, SegmentPlace, build_history
from kbackupd.archive.rollup_footers import gap_of, sample_of, seen_of
from kbackupd.archive.rollup_read import rolled_segments
from kbackupd.archive.rollup_rows import Row
from kbackupd.archive.rollup_source import UsableRollup, read_tables
from kbackupd.archive.stretches import told_by_stretches
from kbackupd.format.tables import GAPS, PARTITIONS, SEEN, STRETCHES, TRUNCATIONS, Columns
from kbackupd.model.events import Gap, PartitionSeen
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Sample
from kbackupd.store.protocol import ObjectStore

_TABLES = (PARTITIONS, STRETCHES, SEEN, GAPS, TRUNCATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SummedPartition:
    """A history as the runs would give it, but that each of its runs stands for many."""

    history: PartitionHistory
    first_captured_ms: int | None
    last_captured_ms: int | None


@dataclass(slots=True)
class _Summed:
    """One roll-up's sums; those of one topic at a time are at hand by partition."""

    rollup: UsableRollup
    topics: Mapping[TopicId, int]
    tables: Mapping[str, Columns]
    _topic: TopicId | None = None
    _at_hand: dict[str, dict[int, list[Row]]] = field(default_factory=dict)

    def rows(self, table: str, id: PartitionId) -> Sequence[Row]:
        if id.topic_id != self._topic:
            self._topic = id.topic_id
            self._at_hand = {name: self._by_partition(name, id.topic_id) for name in self.tables}
        return self._at_hand[table].get(id.partition, ())

    def _by_partition(self, table: str, topic_id: TopicId) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = {}
        topic, columns = self.topics.get(topic_id), self.tables[table]
        if topic is not None and columns[0]:
            first, following = bisect_left(columns[0], topic), bisect_left(columns[0], topic + 1)
            for row in zip(*(column[first:following] for column in columns), strict=True):
                found.setdefault(row[1], []).append(row)
        return found

    def place(self, segment: int) -> SegmentPlace:
        columns = self.rollup.segments
        return SegmentPlace(self.rollup.writer, columns[0][segment], columns[1][segment])


class Sums:
    """Everything that all roll-ups of a catalog sum up: some 2 KB for a partition in twenty of them."""

    def __init__(self, catalog: Catalog, summed: Sequence[_Summed]) -> None:
        self._summed = summed
        self._abandoned = abandonment(catalog.segments)

    def runs(self, topic_id: TopicId) -> int:
        """How many there are of the topic."""
        found = 0
        for one in self._summed:
            topic = one.topics.get(topic_id)
            if topic is not None:
                columns = one.tables[PARTITIONS]
                found += sum(columns[2][bisect_left(columns[0], topic) : bisect_left(columns[0], topic + 1)])
        return found

    def partition(self, id: PartitionId) -> SummedPartition | None:
        """The partition as its sums tell it; None if they do not."""
        stretches: list[Row] = []
        seen: list[tuple[SegmentPlace, PartitionSeen]] = []
        gaps: list[tuple[SegmentPlace, Gap]] = []
        last: tuple[SegmentPlace, Sample] | None = None
        for one in self._summed:
            for row in one.rows(PARTITIONS, id):
                if row[4]:
                    return None  # transactions were open
                if row[6] >= 0 and (last is None or last[0] < one.place(row[6])):
                    last = one.place(row[6]), sample_of(id, row[7:])
            if one.rows(TRUNCATIONS, id):
                return None
            stretches += one.rows(STRETCHES, id)
            for _, _, segment, *values in one.rows(SEEN, id):
                if not self._abandoned(place := one.place(segment)):
                    seen.append((place, seen_of(id, values)))
            gaps += ((one.place(row[2]), gap_of(id, row[3:])) for row in one.rows(GAPS, id))
        found = told_by_stretches(id, stretches, seen=seen, gaps=gaps, samples=() if last is None else (last[1],))
        return (
            None
            if found is None
            else SummedPartition(
                history=build_history(found.evidence),
                first_captured_ms=min((row[10] for row in found.stretches), default=None),
                last_captured_ms=max((row[11] for row in found.stretches), default=None),
            )
        )


async def read_sums(store: ObjectStore, catalog: Catalog) -> Sums:
    """The sums of every roll-up of the catalog, and of its rest; `store` is scoped to the archive.

    Raises:
        CorruptObjectError: one of them is damaged.
        KbackupError: one of them could not be read.
    """
    summed = []
    for rollup in (*catalog.rollups, *catalog.rest):
        topics = {topic_id: row for row, (topic_id, _) in enumerate(rollup.opened.footer.head.topics)}
        summed.append(_Summed(rollup, topics, await read_tables(store, rollup.opened, _TABLES)))
    return Sums(catalog, summed)


async def rows_of(
    store: ObjectStore, catalog: Catalog, topics: set[TopicId]
) -> Mapping[PartitionId, PartitionEvidence]:
    """All that is said of the partitions of some topics, from the rows themselves.

    Raises: as `read_sums`.
    """
    if not topics:
        return {}
    names = {name for rollup in (*catalog.rollups, *catalog.rest) for id, name in _topics(rollup) if id in topics}
    segments = [segment for segment in catalog.segments if segment.footer.earlier]
    told = {segment.place for segment in segments}
    for rollup in (*catalog.rollups, *catalog.rest):
        for segment in await rolled_segments(store, rollup, names.__contains__):
            if segment.place not in told:
                segments.append(segment)
            else:
                segments = [segment if one.place == segment.place else one for one in segments]
    return gather_evidence(sorted(segments, key=lambda segment: segment.place))


def _topics(rollup: UsableRollup) -> Sequence[tuple[TopicId, str]]:
    return rollup.opened.footer.head.topics
