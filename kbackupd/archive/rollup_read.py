"""Reading an archive through its roll-ups: which of them can stand for footers, and the segments they tell of.

What comes out is what the footers would have said, as far as somebody wanted to know it. A roll-up stands for its
segments only if the listing shows every one of them, with the size it says; a damaged one is left out, and the footers
are read instead (I3). One that cannot be fetched is an error (I5).
"""

from __future__ import annotations

import asyncio
import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter

from kbackupd.archive.history import SegmentPlace
from kbackupd.archive.rollup_draft import ROWS_PER_DRAFT, RollupDraft
from kbackupd.archive.rollup_rows import GAP_CAUSES, OF_SEGMENTS
from kbackupd.archive.rollup_source import OpenedRollup, Place, open_stored, places_of, read_tables
from kbackupd.archive.segments import CatalogSegment, SealedPlace, TopicMention, WantedTopic, narrowed
from kbackupd.format import keys
from kbackupd.format.run_table import made_runs
from kbackupd.format.tables import (
    COLUMNS,
    GAPS,
    IN_FLIGHT,
    LEADER_EPOCHS,
    OPEN_TRANSACTIONS,
    OUTCOMES,
    RUNS,
    SAMPLES,
    SEEN,
    SEGMENTS,
    TRUNCATIONS,
    Columns,
)
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError, UnsupportedFormatError
from kbackupd.model.events import Gap, LedgerEvent, PartitionSeen, Truncated
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import (
    Footer,
    Identity,
    ObjectRef,
    OpenTransaction,
    Run,
    Sample,
    TransactionOutcome,
)
from kbackupd.store.memory import MemoryStore
from kbackupd.store.protocol import ObjectInfo, ObjectStore

_DIGEST = struct.Struct(">4q")
_DIGEST_AT = COLUMNS[SEGMENTS].index("digest_0")
_BODY_DIGEST_AT = COLUMNS[SEGMENTS].index("body_sha256_0")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableRollup:
    """A roll-up that stands for the segments it covers; each of them is in the listing."""

    opened: OpenedRollup
    segments: Columns
    in_flight: Mapping[int, tuple[int, ...]]
    """Row of `segments` → what was in flight when it was sealed; left out where nothing was."""

    @property
    def writer(self) -> str:
        return self.opened.at.writer

    @property
    def stored_bytes(self) -> int:
        """Of the segments it covers."""
        return sum(self.segments[COLUMNS[SEGMENTS].index("size")])

    def places(self) -> Iterator[SegmentPlace]:
        return (SegmentPlace(self.writer, epoch, seq) for epoch, seq, _, _ in places_of(self.segments))

    def sealed(self) -> Iterator[SealedPlace]:
        earlier = dict(self.opened.footer.head.earlier)
        for row, (epoch, seq, _, _) in enumerate(places_of(self.segments)):
            yield SealedPlace(self.writer, epoch, seq, self.in_flight.get(row, ()), earlier.get(row, ()))

    def ref(self, row: int) -> ObjectRef:
        columns = self.segments
        key = keys.segment_key(self.writer, columns[0][row], columns[1][row], columns[2][row])
        return ObjectRef(key, self._hex(row, _DIGEST_AT))

    def body_sha256(self, row: int) -> str:
        return self._hex(row, _BODY_DIGEST_AT)

    def _hex(self, row: int, at: int) -> str:
        return _DIGEST.pack(*(column[row] for column in self.segments[at : at + 4])).hex()


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


async def with_segments(store: ObjectStore, opened: OpenedRollup) -> UsableRollup:
    """The roll-up and its list of segments; whether these are there is not asked.

    Raises:
        CorruptObjectError: the list is damaged.
    """
    tables = await read_tables(store, opened, (SEGMENTS, IN_FLIGHT))
    flying: dict[int, tuple[int, ...]] = {}
    for row, seq in zip(*tables[IN_FLIGHT], strict=True):
        flying[row] = (*flying.get(row, ()), seq)
    return UsableRollup(opened=opened, segments=tables[SEGMENTS], in_flight=flying)


async def rolled_up_in_memory(
    segments: AsyncIterator[CatalogSegment], rest: list[UsableRollup], wanted: WantedTopic | None
) -> AsyncIterator[CatalogSegment]:
    """The segments, narrowed to `wanted`; as they are given, whole and in the archive's order, they go to `rest`."""
    draft: RollupDraft | None = None
    last = SegmentPlace("", 0, 0)
    async for segment in segments:
        # A sequence that exists twice goes into two of them: one cannot say so.
        if (
            draft is None
            or segment.place.writer != last.writer
            or segment.place == last
            or draft.rows >= ROWS_PER_DRAFT
        ):
            if draft is not None:
                rest.append(await _in_memory(draft))
            draft = RollupDraft(segment.place.writer, segment.footer.identity)
        last = segment.place
        draft.add(segment)
        yield narrowed(segment, wanted)
    if draft is not None:
        rest.append(await _in_memory(draft))


async def _in_memory(draft: RollupDraft) -> UsableRollup:
    sealed = await asyncio.to_thread(draft.seal)
    at = keys.parse_rollup_key(sealed.ref.key)
    assert at is not None
    body = b"".join(sealed.parts)[: sealed.footer.body_bytes]
    opened = OpenedRollup(at=at, ref=sealed.ref, footer=sealed.footer, size_bytes=sealed.size_bytes, tail=body)
    return await with_segments(MemoryStore(), opened)


@dataclass(slots=True)
class _Said:
    """What one segment says, while its rows are gathered."""

    runs: list[Run] = field(default_factory=list)
    outcomes: list[TransactionOutcome] = field(default_factory=list)
    open_transactions: list[OpenTransaction] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    events: list[LedgerEvent] = field(default_factory=list)
    mentions: list[TopicMention] = field(default_factory=list)


async def rolled_segments(store: ObjectStore, rollup: UsableRollup, wanted: WantedTopic | None) -> list[CatalogSegment]:
    """The covered segments that say something of the topics `wanted` (None: all), or of what topics there are.

    As from their footers, but that in a footer the events of the cluster and its topics come before those of
    partitions, and rows of different partitions may stand in another order.

    Raises:
        CorruptObjectError: a block is damaged.
        KbackupError: the roll-up could not be read.
    """
    topics = rollup.opened.footer.head.topics
    chosen = [row for row, (_, name) in enumerate(topics) if wanted is None or wanted(name)]
    tables: dict[str, Columns] = {}
    if chosen:
        tables = await read_tables(store, rollup.opened, OF_SEGMENTS, None if len(chosen) == len(topics) else chosen)
    return await asyncio.to_thread(_assembled, rollup, tables)


def _assembled(rollup: UsableRollup, tables: Mapping[str, Columns]) -> list[CatalogSegment]:
    footer = rollup.opened.footer
    head = footer.head
    said: dict[int, _Said] = defaultdict(_Said)
    for row, event in head.events:
        said[row].events.append(event)
    for mention in head.mentions:
        topic_id = head.topics[mention.topic][0]
        said[mention.segment].mentions.append(TopicMention(topic_id, mention.partitions, mention.internal))
    earlier = dict(head.earlier)
    for row in earlier:
        said[row]  # it is kept for what it says of lives before
    if tables:
        _gather(said, _Ids(head.topics), tables)
    previous = dict(head.previous)
    names = dict(head.topics)
    segments = rollup.segments
    found = []
    for row, one in sorted(said.items(), key=itemgetter(0)):
        ref = rollup.ref(row)
        epoch, seq, sealed_ms, monotonic_ms, size, body_bytes = (column[row] for column in segments[:6])
        found.append(
            CatalogSegment(
                place=SegmentPlace(rollup.writer, epoch, seq),
                ref=ref,
                footer=Footer(
                    identity=footer.identity,
                    key=ref.key,
                    writer=rollup.writer,
                    writer_epoch=epoch,
                    seq=seq,
                    previous=previous[row] if row in previous else rollup.ref(row - 1),
                    in_flight=rollup.in_flight.get(row, ()),
                    earlier=earlier.get(row, ()),
                    sealed_ms=sealed_ms,
                    sealed_monotonic_ms=monotonic_ms,
                    body_bytes=body_bytes,
                    body_sha256=rollup.body_sha256(row),
                    topics=names,
                    runs=tuple(sorted(one.runs, key=lambda run: run.position)),
                    outcomes=tuple(one.outcomes),
                    open_transactions=tuple(one.open_transactions),
                    samples=tuple(one.samples),
                    events=tuple(one.events),
                ),
                size_bytes=size,
                mentions=tuple(one.mentions),
            )
        )
    return found


class _Ids:
    """Partition ids by a roll-up's numbers, each made once."""

    def __init__(self, topics: Sequence[tuple[TopicId, str]]) -> None:
        self._topics = topics
        self._held: dict[tuple[int, int], PartitionId] = {}

    def of(self, topic: int, partition: int) -> PartitionId:
        held = self._held.get((topic, partition))
        if held is None:
            held = self._held[topic, partition] = PartitionId(self._topics[topic][0], partition)
        return held


def _gather(said: dict[int, _Said], ids: _Ids, tables: Mapping[str, Columns]) -> None:
    for row, run in _runs(ids, tables[RUNS], tables[LEADER_EPOCHS]):
        said[row].runs.append(run)
    for topic, partition, row, offset, producer_id, producer_epoch, committed in zip(*tables[OUTCOMES], strict=True):
        said[row].outcomes.append(
            TransactionOutcome(
                id=ids.of(topic, partition),
                offset=offset,
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                committed=committed == 1,
            )
        )
    for topic, partition, row, producer_id, producer_epoch, first in zip(*tables[OPEN_TRANSACTIONS], strict=True):
        said[row].open_transactions.append(
            OpenTransaction(
                id=ids.of(topic, partition),
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                first_offset=first,
            )
        )
    for topic, partition, row, *values in zip(*tables[SAMPLES], strict=True):
        said[row].samples.append(sample_of(ids.of(topic, partition), values))
    for topic, partition, row, *values in zip(*tables[SEEN], strict=True):
        said[row].events.append(seen_of(ids.of(topic, partition), values))
    for topic, partition, row, *values in zip(*tables[GAPS], strict=True):
        said[row].events.append(gap_of(ids.of(topic, partition), values))
    for topic, partition, row, branch, parent, offset, epoch, at_ms in zip(*tables[TRUNCATIONS], strict=True):
        said[row].events.append(
            Truncated(
                id=ids.of(topic, partition),
                branch=branch,
                parent=parent,
                offset=offset,
                leader_epoch=epoch,
                at_ms=at_ms,
            )
        )


def sample_of(id: PartitionId, values: Sequence[int]) -> Sample:
    return Sample(id, *values)


def seen_of(id: PartitionId, values: Sequence[int]) -> PartitionSeen:
    first, log_start, high, epoch, at_ms = values
    return PartitionSeen(
        id=id, first_offset=first, log_start_offset=log_start, high_watermark=high, leader_epoch=epoch, at_ms=at_ms
    )


def gap_of(id: PartitionId, values: Sequence[int]) -> Gap:
    branch, first, following, cause, at_ms = values
    return Gap(id=id, branch=branch, first_offset=first, next_offset=following, cause=GAP_CAUSES[cause], at_ms=at_ms)


def _runs(ids: _Ids, table: Columns, epochs: Columns) -> Iterator[tuple[int, Run]]:
    topics, partitions, rows, *columns, counts = table
    pairs = zip(epochs[2], epochs[3], strict=True)
    leader_epochs = (tuple(islice(pairs, count)) for count in counts)
    return zip(rows, made_runs(map(ids.of, topics, partitions), columns, leader_epochs), strict=True)
