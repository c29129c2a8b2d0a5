"""Reading what a restore to an instant must know before its plan is made: little of the archive, and near the cuts.

Owns that only the opened archive is asked, and so, where it is pinned, that a later run is told what the first one was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kbackupd.archive.archive import Archive, ArchivedTopic
from kbackupd.archive.cut import Cut, cut_at, told_after
from kbackupd.archive.group_history import DecidedPositions, coordinator_topic_at
from kbackupd.archive.history import build_history
from kbackupd.archive.transaction_fold import Decision, LoggedTransaction
from kbackupd.archive.transaction_history import TransactionsOfPartition, transactions_of
from kbackupd.model.clock import iso
from kbackupd.model.coordinators import CONSUMER_OFFSETS, TRANSACTION_STATE
from kbackupd.model.errors import UsageError
from kbackupd.model.positions import PartitionId
from kbackupd.model.scope import RecordsOf
from kbackupd.model.settings import RestoreOptions
from kbackupd.restore.around_cut import AroundCut, heard_ms, last_below, left_open, markers
from kbackupd.restore.batch_facts import begun_in_lost_tails, read_facts
from kbackupd.restore.choice import choose_topics
from kbackupd.restore.decided import Decisions
from kbackupd.restore.instant import Instant
from kbackupd.restore.told import LeftOpen, LogOfCoordinators, Marker

_COORDINATORS = (TRANSACTION_STATE, CONSUMER_OFFSETS)
LONGEST_TRANSACTION_MS = 20 * 60_000
"""The brokers' `transaction.max.timeout.ms`, 15 minutes, and the markers that are then to be written."""
_LONGEST_OUTAGE_MS = 24 * 3_600_000
"""Of a coordinator, where something tells of one; so far back the log is read then."""
_SETTLED_MS = 60_000
"""So long after the instant the log is read, for what came next, and so long before it for what was over."""
_READ_AHEAD_BYTES = 1 << 20
_LOGS_AT_ONCE = 16


def wanted_at(options: RestoreOptions, topic: str) -> bool:
    """Whether an archive must be opened with that topic's rows to restore by `options`."""
    return options.target_of(topic) is not None or (options.scope.as_of_ms is not None and topic in _COORDINATORS)


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
    cuts = await _cuts(archive, names, at_ms)
    coordinators = coordinator_topic_at(archive, TRANSACTION_STATE, at_ms)
    if options.scope.records_of is RecordsOf.UNCOMMITTED:
        # As a reader of uncommitted records would have seen it: all that was there, and no more.
        return Instant(at_ms=at_ms, cuts=cuts, coordinators_known=coordinators is not None)
    # A group's position can be part of a transaction: evidence like any record, and to be as whole.
    positions = coordinator_topic_at(archive, CONSUMER_OFFSETS, at_ms)
    of_groups = {} if positions is None else await _cuts(archive, positions.partition_ids, at_ms)
    names |= dict.fromkeys(of_groups, CONSUMER_OFFSETS)
    cut_of = {id: cut for id, cut in {**cuts, **of_groups}.items() if cut is not None}

    def around(id: PartitionId) -> AroundCut:
        cut, evidence = cut_of[id], archive.evidence(id)
        return AroundCut.of(build_history(evidence, cut.branch), evidence, cut, at_ms)

    looked = await asyncio.to_thread(_look, archive, cut_of, around)
    beyond = [marker for one in looked for marker in one.beyond]
    unended = [data for one in looked for data in one.unended]
    below = [row for one in looked for row in one.below]
    cut_back = [one.id for one in looked if one.was_cut_back]
    if coordinators is not None:
        unended += await begun_in_lost_tails(archive, cut_back, around, besides=unended)
    producers = {marker.producer_id for marker in beyond} | {data.producer_id for data in unended}
    if not producers:
        return Instant(at_ms=at_ms, cuts=cuts, coordinators_known=coordinators is not None)
    log = None
    if coordinators is not None:
        concerned = {marker.id for marker in beyond} | {data.id for data in unended}
        earliest_ms = min(at_ms, *(cut_of[id].sent_ms for id in concerned))
        log = await _log(archive, coordinators, at_ms, producers, earliest_ms=earliest_ms)
    # Asked for each producer of one partition after the other, and made of all that its leaders ever told.
    told = lru_cache(maxsize=1)(archive.told)
    decisions = Decisions(
        beyond,
        [row for row in below if row[0].producer_id in producers],
        unended,
        names=names,
        log=log,
        heard_ms=lambda marker: heard_ms(told(marker.id), marker.offset),
    )
    facts = await read_facts(archive, around, decisions)
    decided = decisions.decided(facts)
    return Instant(
        at_ms=at_ms,
        cuts=cuts,
        decided={id: one for id, one in decided.items() if id in cuts},
        coordinators_known=log is not None,
        positions={
            id.partition: DecidedPositions(one.completed, one.unmarked)
            for id, one in decided.items()
            if id in of_groups
        },
    )


async def _cuts(archive: Archive, ids: Iterable[PartitionId], at_ms: int) -> dict[PartitionId, Cut | None]:
    """By partition, in the order of `ids`."""
    wanted = list(ids)

    def found() -> dict[PartitionId, Cut | None]:
        # In the order in which the archive holds their rows: it has a few of them at hand.
        return {id: cut_at(archive.told(id), at_ms) for id in sorted(wanted)}

    cuts = await asyncio.to_thread(found)
    return {id: cuts[id] for id in wanted}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """What one partition tells of transactions around its cut."""

    id: PartitionId
    beyond: Sequence[Marker]
    unended: Sequence[LeftOpen]
    below: Sequence[tuple[Marker, bool]]
    was_cut_back: bool


def _look(
    archive: Archive, ids: Iterable[PartitionId], around: Callable[[PartitionId], AroundCut]
) -> Sequence[_Looked]:
    """The partitions in their order, but for those that tell nothing.

    One history at a time, and of most partitions none: there can be ten thousand of them.
    """
    wanted, found = list(ids), dict[PartitionId, _Looked]()
    for id in sorted(wanted):
        plain = archive.plain(id)
        if plain is not None and not plain.has_transactions:
            continue
        one = around(id)
        found[id] = _Looked(
            id=id,
            beyond=tuple(markers(one)),
            unended=tuple(left_open(one)),
            below=last_below(one),
            was_cut_back=one.was_cut_back,
        )
    return [found[id] for id in wanted if id in found]


def _refuse_before_capture(archive: Archive, at_ms: int) -> None:
    first_ms = min((topic.first_seen_ms for topic in archive.topics), default=None)
    if first_ms is None or first_ms > at_ms:
        raise UsageError(
            f"restore.options.as_of: nothing had been captured by {iso(at_ms)}",
            hint="the archive is empty" if first_ms is None else f"the archive begins at {iso(first_ms)}",
        )


def _end(part: TransactionsOfPartition) -> int:
    return 0 if part.cut is None else part.cut.next_offset


async def _log(
    archive: Archive, topic: ArchivedTopic, at_ms: int, producers: set[int], *, earliest_ms: int
) -> LogOfCoordinators:
    """What the coordinators' log tells of the producers' transactions, but for those over long before `earliest_ms`."""
    at_once = asyncio.Semaphore(_LOGS_AT_ONCE)

    async def read(id: PartitionId) -> TransactionsOfPartition:
        evidence = archive.told(id)
        long_before, settled = cut_at(evidence, earliest_ms - _SETTLED_MS), told_after(evidence, at_ms + _SETTLED_MS)
        then = cut_at(evidence, at_ms)
        # A log that was cut back in between has other records at those offsets.
        same_log = long_before is not None and then is not None and long_before.branch == then.branch
        over_below = long_before.next_offset if long_before is not None and same_log else 0

        def wanted(one: LoggedTransaction) -> bool:
            return one.producer_id in producers and (one.completed is None or one.completed.offset >= over_below)

        async def since(since_ms: int) -> TransactionsOfPartition:
            return await transactions_of(
                archive,
                id,
                at_ms,
                wanted=wanted,
                since_ms=since_ms,
                settled_below=over_below,
                until_ms=None if settled is None else settled.answered_ms,
                read_ahead_bytes=_READ_AHEAD_BYTES,
            )

        async with at_once:
            found = await since(earliest_ms - LONGEST_TRANSACTION_MS)
            if any(
                one.decided is None and one.decision_at(_end(found)) is Decision.UNKNOWN for one in found.transactions
            ):
                # Its coordinator was away for longer than that between the decision and the markers.
                found = await since(earliest_ms - _LONGEST_OUTAGE_MS)
            return found

    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(read(id)) for id in topic.partition_ids]
    parts = [task.result() for task in reading]
    return LogOfCoordinators(
        transactions=tuple(one for part in parts for one in part.transactions),
        next_offsets={part.id.partition: part.cut.next_offset for part in parts if part.cut is not None},
        sent_ms={part.id.partition: part.cut.sent_ms for part in parts if part.cut is not None},
        complete=frozenset(part.id.partition for part in parts if part.complete),
        partitions=topic.partitions,
    )
