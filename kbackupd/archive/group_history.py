"""Where consumer groups stood at an instant, exactly, by the captured log of their coordinators.

Owns the reading: one partition of `__consumer_offsets` after the other, up to its cut, and nothing else of the archive.
Memory is bounded by the read-ahead and by the positions that one partition leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from kbackupd.archive.archive import Archive, ArchivedTopic
from kbackupd.archive.coordinator_items import CoordinatorBatch, CoordinatorMarker, LogItem, LostRange
from kbackupd.archive.coordinator_log import READ_AHEAD_BYTES, read_coordinator_log
from kbackupd.archive.cut import Cut, cut_at
from kbackupd.archive.group_base import GroupsBase
from kbackupd.archive.group_fold import DELETE_RETENTION_MS, FoldedPosition, GroupFold, PendingPosition
from kbackupd.archive.history import PartitionHistory, build_history
from kbackupd.model.positions import PartitionId


class DecidedPositions(NamedTuple):
    """Of one partition: transactions that were committed by the instant, as somebody found out elsewhere."""

    completed: Mapping[int, int]
    """Producer id → offset of the last commit marker at or beyond the cut that counts; all before it do too."""
    unmarked: tuple[int, ...] = ()
    """Producers of these whose marker is not in the archive: the offset is where what was captured ends."""

    @property
    def reads_until(self) -> int:
        return max((offset + 1 for offset in self.completed.values()), default=0)

    def count(self, item: LogItem) -> bool:
        """Whether the item, at or beyond the cut, is of one of them."""
        match item:
            case CoordinatorBatch():
                return item.first_offset < self.completed.get(item.producer_id, -1)
            case CoordinatorMarker():
                return item.offset <= self.completed.get(item.producer_id, -1)
            case _:
                return False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsOfPartition:
    """What one partition of `__consumer_offsets` tells of the groups that lie in it."""

    id: PartitionId
    cut: Cut | None
    """None: no leader had answered by that instant; then there is nothing here."""
    positions: tuple[FoldedPosition, ...] = ()
    pending: tuple[PendingPosition, ...] = ()
    """Count if their transactions were decided by the cut of `__transaction_state`, or by a marker elsewhere."""
    groups: Mapping[str, Mapping[str, bytes | None]]
    """As `GroupFold.groups`."""
    certain: bool
    """Nothing below the cut is lost: groups and positions that are not here did not exist."""
    lost: tuple[LostRange, ...] = ()
    unreadable: int = 0
    """Records that this version cannot read."""
    base: str = ""
    """Key of the snapshot from which on the log was read; empty: from its beginning.

    Of groups that the snapshot does not know, nothing is certain then.
    """


def coordinator_topic_at(archive: Archive, name: str, at_ms: int | None) -> ArchivedTopic | None:
    """The incarnation of a coordinator's topic that was there at `at_ms` (None: at last), if the archive knows one."""
    found = [
        topic
        for topic in archive.topics
        if topic.name == name
        and (at_ms is None or topic.first_seen_ms <= at_ms)
        and (topic.deleted_ms is None or (at_ms is not None and topic.deleted_ms > at_ms))
    ]
    return max(found, key=lambda topic: topic.first_seen_ms, default=None)


async def groups_in_log(
    archive: Archive,
    topic: ArchivedTopic,
    at_ms: int | None,
    *,
    wanted: Callable[[str], bool] | None = None,
    bases: Mapping[int, GroupsBase] | None = None,
    decided: Mapping[int, DecidedPositions] | None = None,
    read_ahead_bytes: int = READ_AHEAD_BYTES,
) -> AsyncGenerator[GroupsOfPartition, None]:
    """For each partition of `topic`, by number: its groups at `at_ms` (None: as of the last sample).

    Damage and gaps are told in the answers and never raised. Close it (`aclosing`) when you leave early.

    Args:
        archive: opened at least for this topic.
        topic: an incarnation of `__consumer_offsets`.
        wanted: whose groups are asked for.
        bases: by partition, of the same groups; spares reading what lies before it, where it fits.
        decided: by partition, what counts beyond the cut; None: nothing does.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """
    retention_ms = _delete_retention_ms(topic)
    for id in topic.partition_ids:
        evidence = await asyncio.to_thread(archive.evidence, id)
        cut = cut_at(evidence, at_ms)
        if cut is None:
            yield GroupsOfPartition(id=id, cut=None, groups={}, certain=False)
            continue
        fold = GroupFold(wanted=wanted, grown_ms=cut.grown_ms, delete_retention_ms=retention_ms)
        base = (bases or {}).get(id.partition)
        first_offset = None if base is None else base.begins_at(cut_at(evidence, base.asked_ms), cut)
        if base is not None and first_offset is not None:
            fold.base, fold.base_groups = base.positions[id.partition], base.groups
        history = build_history(evidence, cut.branch)
        reading = read_coordinator_log(
            archive,
            history,
            first_offset=first_offset or 0,
            next_offset=cut.next_offset,
            read_ahead_bytes=read_ahead_bytes,
        )
        async with aclosing(reading):
            async for item in reading:
                fold.feed(item)
        if decided is not None and id.partition in decided:
            await _complete(fold, archive, history, cut, decided[id.partition], read_ahead_bytes)
        positions, pending = tuple(fold.positions()), tuple(fold.pending())
        yield GroupsOfPartition(
            id=id,
            cut=cut,
            positions=positions,
            pending=pending,
            groups=fold.groups(),
            certain=fold.certain,
            lost=tuple(fold.lost),
            unreadable=fold.unreadable,
            base="" if base is None or first_offset is None else base.key,
        )


async def _complete(
    fold: GroupFold,
    archive: Archive,
    history: PartitionHistory,
    cut: Cut,
    decided: DecidedPositions,
    read_ahead_bytes: int,
) -> None:
    """Feed what counts beyond the cut."""
    reading = read_coordinator_log(
        archive,
        history,
        first_offset=cut.next_offset,
        next_offset=min(decided.reads_until, history.next_offset),
        read_ahead_bytes=read_ahead_bytes,
    )
    async with aclosing(reading):
        async for item in reading:
            if decided.count(item):
                fold.feed(item)
    for producer_id in decided.unmarked:
        fold.feed(CoordinatorMarker(decided.completed[producer_id], producer_id, -1, True))


def _delete_retention_ms(topic: ArchivedTopic) -> int:
    text = topic.configs.get("delete.retention.ms", "")
    return int(text) if text.isdigit() else DELETE_RETENTION_MS
