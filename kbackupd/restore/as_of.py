"""Reading what a restore to an instant must know before its plan is made: little of the archive, and near the cuts.

Owns which markers are looked at. What was decided by the instant was written before it, so of each partition only
transactions count that had begun below what its leader told first after the instant; their markers may lie anywhere.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import groupby

from kbackupd.archive.archive import Archive
from kbackupd.archive.cut import Cut, cut_at
from kbackupd.archive.group_history import coordinator_topic_at
from kbackupd.archive.history import PartitionHistory
from kbackupd.archive.transaction_history import TransactionsOfPartition, transactions_of
from kbackupd.format.header import BatchHeader
from kbackupd.model.clock import iso
from kbackupd.model.coordinators import TRANSACTION_STATE
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError, UsageError
from kbackupd.model.positions import PartitionId
from kbackupd.model.scope import RecordsOf
from kbackupd.model.settings import RestoreOptions
from kbackupd.restore.choice import choose_topics
from kbackupd.restore.decided import Decisions, Facts, LeftOpen, LogOfCoordinators, Marker
from kbackupd.restore.instant import Instant

LONGEST_TRANSACTION_MS = 20 * 60_000
"""The brokers' `transaction.max.timeout.ms`, 15 minutes, and the markers that are then to be written."""
_READ_AHEAD_BYTES = 1 << 20
_LOGS_AT_ONCE = 16
_READS_AT_ONCE = 32
"""With a run each: a few hundred MiB at the very most, where every run were of the largest batches."""


def wanted_at(options: RestoreOptions, topic: str) -> bool:
    """Whether an archive must be opened with that topic's rows to restore by `options`."""
    return options.target_of(topic) is not None or (options.scope.as_of_ms is not None and topic == TRANSACTION_STATE)


def refuse_future(options: RestoreOptions, now_ms: int) -> None:
    """Raises UsageError: the instant is still to come, and what will be decided by then nobody knows."""
    at_ms = options.scope.as_of_ms
    if at_ms is not None and at_ms > now_ms:
        raise UsageError(
            f"restore.options.as_of: {iso(at_ms)} is in the future",
            hint=f"it is {iso(now_ms)}; leave it out for the end",
        )


async def read_instant(archive: Archive, options: RestoreOptions) -> Instant | None:
    """What the archive tells of the instant that `options` name; None: they name none. The same for the same pins.

    Raises:
        UsageError: as `choose_topics`, or nothing had been captured by then.
        KbackupError: the store could not say for certain what is there.
    """
    at_ms = options.scope.as_of_ms
    if at_ms is None:
        return None
    _refuse_before_capture(archive, at_ms)
    names = {id: one.topic.name for one in choose_topics(archive, options) for id in one.topic.partition_ids}
    cuts = {id: cut_at(archive.evidence(id), at_ms) for id in names}
    coordinators = coordinator_topic_at(archive, TRANSACTION_STATE, at_ms)
    if options.scope.records_of is RecordsOf.UNCOMMITTED:
        # As a reader of uncommitted records would have seen it: all that was there, and no more.
        return Instant(at_ms=at_ms, cuts=cuts, coordinators_known=coordinators is not None)
    histories = {id: archive.history(id, cut.branch) for id, cut in cuts.items() if cut is not None}
    ended = {
        id: list(_markers(archive, history, cut, at_ms))
        for id, history in histories.items()
        if (cut := cuts[id]) is not None
    }
    beyond = [marker for one in ended.values() for marker in one]
    left_open = [
        row
        for id, history in histories.items()
        if (cut := cuts[id]) is not None
        for row in _left_open(archive, history, cut, at_ms)
    ]
    producers = {marker.producer_id for marker in beyond} | {data.producer_id for data in left_open}
    if not producers:
        return Instant(at_ms=at_ms, cuts=cuts, coordinators_known=coordinators is not None)
    concerned = {marker.id for marker in beyond} | {data.id for data in left_open}
    earliest_ms = min(cut.sent_ms for id in concerned if (cut := cuts[id]) is not None)
    log = None
    if coordinators is not None:
        log = await _log(archive, at_ms, producers, since_ms=min(earliest_ms, at_ms) - LONGEST_TRANSACTION_MS)
    below = [row for id, history in histories.items() for row in _last_below(history, cuts[id], producers)]
    decisions = Decisions(beyond, below, left_open, names=names, log=log)
    facts = await _read(archive, histories, cuts, decisions)
    return Instant(at_ms=at_ms, cuts=cuts, decided=decisions.decided(facts), coordinators_known=log is not None)


def _refuse_before_capture(archive: Archive, at_ms: int) -> None:
    first_ms = min((topic.first_seen_ms for topic in archive.topics), default=None)
    if first_ms is None or first_ms > at_ms:
        raise UsageError(
            f"restore.options.as_of: nothing had been captured by {iso(at_ms)}",
            hint="the archive is empty" if first_ms is None else f"the archive begins at {iso(first_ms)}",
        )


def _markers(archive: Archive, history: PartitionHistory, cut: Cut, at_ms: int) -> Iterator[Marker]:
    """Commit markers at or beyond the cut that can be of transactions begun by the instant."""
    begun_below = _told_after(archive, history, cut, at_ms)
    passed: set[int] = set()
    for row in history.outcomes:
        if row.offset < cut.next_offset or row.producer_id in passed:
            continue
        if row.offset >= begun_below:
            # The first one there ends what may have begun below; the next ones begin and end beyond.
            passed.add(row.producer_id)
        if row.committed:
            yield Marker(history.id, row.offset, row.producer_id, row.producer_epoch)


def _left_open(archive: Archive, history: PartitionHistory, cut: Cut, at_ms: int) -> Iterator[LeftOpen]:
    """What was begun by the instant, and has no marker in the archive."""
    begun_below = _told_after(archive, history, cut, at_ms)
    begun = [row for row in history.open_transactions if row.first_offset < begun_below]
    producers = {row.producer_id for row in begun}
    last = {
        row.producer_id: Marker(history.id, row.offset, row.producer_id, row.producer_epoch)
        for row in history.outcomes
        if row.producer_id in producers
    }
    for row in begun:
        yield LeftOpen(history.id, row.producer_id, row.producer_epoch, history.next_offset, last.get(row.producer_id))


def _told_after(archive: Archive, history: PartitionHistory, cut: Cut, at_ms: int) -> int:
    """Below it lies all that was in the log at the instant."""
    later = [one for one in archive.evidence(history.id).samples if one.sent_ms >= at_ms and one.high_watermark >= 0]
    first = min(later, key=lambda one: one.answered_ms, default=None)
    if first is None or len(history.branches) > 1:
        return history.next_offset
    return max(first.high_watermark, cut.next_offset)


def _last_below(history: PartitionHistory, cut: Cut | None, producers: set[int]) -> Sequence[tuple[Marker, bool]]:
    """Of each of the producers the last marker below the cut, and whether it commits."""
    last = {
        row.producer_id: (Marker(history.id, row.offset, row.producer_id, row.producer_epoch), row.committed)
        for row in history.outcomes
        if cut is not None and row.offset < cut.next_offset and row.producer_id in producers
    }
    return list(last.values())


async def _log(archive: Archive, at_ms: int, producers: set[int], *, since_ms: int) -> LogOfCoordinators | None:
    topic = coordinator_topic_at(archive, TRANSACTION_STATE, at_ms)
    if topic is None:
        return None
    at_once = asyncio.Semaphore(_LOGS_AT_ONCE)

    async def read(id: PartitionId) -> TransactionsOfPartition:
        async with at_once:
            return await transactions_of(
                archive,
                id,
                at_ms,
                wanted=lambda one: one.producer_id in producers,
                since_ms=since_ms,
                until_ms=at_ms + LONGEST_TRANSACTION_MS,
                read_ahead_bytes=_READ_AHEAD_BYTES,
            )

    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(read(id)) for id in topic.partition_ids]
    parts = [task.result() for task in reading]
    return LogOfCoordinators(
        transactions=tuple(one for part in parts for one in part.transactions),
        next_offsets={part.id.partition: part.cut.next_offset for part in parts if part.cut is not None},
    )


async def _read(
    archive: Archive,
    histories: Mapping[PartitionId, PartitionHistory],
    cuts: Mapping[PartitionId, Cut | None],
    decisions: Decisions,
) -> Facts:
    """Each run once for all that is asked of it, many at a time: an object store answers late and to all at once."""
    marker_ms: dict[tuple[PartitionId, int], int] = {}
    data_epochs: dict[tuple[PartitionId, int], int] = {}
    at_once = asyncio.Semaphore(_READS_AT_ONCE)

    async def times(history: PartitionHistory, offsets: list[int]) -> None:
        async with at_once:
            async for header in _headers(archive, history, offsets[0], offsets[-1] + 1):
                if header.is_control:
                    marker_ms[history.id, header.base_offset] = header.max_timestamp

    async def epochs(history: PartitionHistory, marker: Marker, first_offset: int) -> None:
        async with at_once:
            async for header in _headers(archive, history, first_offset, marker.offset):
                if header.producer_id == marker.producer_id and header.is_transactional and not header.is_control:
                    data_epochs[marker.id, marker.offset] = header.producer_epoch

    asked: dict[PartitionId, set[int]] = {}
    for marker in decisions.asks_time():
        asked.setdefault(marker.id, set()).add(marker.offset)
    async with asyncio.TaskGroup() as group:
        for id, offsets in asked.items():
            for together in _by_run(histories[id], sorted(offsets)):
                group.create_task(times(histories[id], together))
        for marker in decisions.asks_epoch():
            cut = cuts[marker.id]
            if cut is not None and cut.stable_offset >= 0:
                first_offset = min(cut.stable_offset, cut.next_offset)
                group.create_task(epochs(histories[marker.id], marker, first_offset))
    return Facts(marker_ms=marker_ms, data_epochs=data_epochs)


def _by_run(history: PartitionHistory, offsets: Sequence[int]) -> Iterator[list[int]]:
    """The ascending offsets, those that are read from one place together."""
    firsts = [one.first_offset for one in history.slices]
    for _, together in groupby(offsets, key=lambda offset: bisect_right(firsts, offset)):
        yield list(together)


async def _headers(
    archive: Archive, history: PartitionHistory, first_offset: int, next_offset: int
) -> AsyncGenerator[BatchHeader, None]:
    """What cannot be read is not there: whoever would have been told apart by it is not."""
    reading = archive.read(
        history.id,
        first_offset=first_offset,
        next_offset=next_offset,
        history=history,
        read_ahead_bytes=_READ_AHEAD_BYTES,
    )
    try:
        async with aclosing(reading):
            async for batch in reading:
                yield batch.header
    except (CorruptObjectError, ObjectMissingError):
        return
