"""The positions of consumer groups at an instant: the captured log of their coordinators, and snapshots beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from fnmatch import fnmatchcase

from kbackupd.archive.archive import Archive, ArchivedTopic
from kbackupd.archive.cut import cut_at
from kbackupd.archive.group_base import GroupsBase, base_of
from kbackupd.archive.group_history import DecidedPositions, GroupsOfPartition, coordinator_topic_at, groups_in_log
from kbackupd.archive.group_reports import BOTH, LOG, SNAPSHOT, CoordinatorReport, GroupsReport
from kbackupd.archive.group_witnesses import GroupWitnesses
from kbackupd.archive.pins import Pins
from kbackupd.archive.snapshots import FoundSnapshot, archive_snapshot_at, snapshot_among
from kbackupd.format.groups_snapshot import GROUPS_FORMAT
from kbackupd.model.clock import iso
from kbackupd.model.coordinators import CONSUMER_OFFSETS
from kbackupd.model.errors import IncompleteError
from kbackupd.model.positions import PartitionId
from kbackupd.model.snapshots import NEVER_MS, GroupsContent
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore

WHOLE_LOG_BYTES = 256 << 20
"""Some two and a half million commits: seconds of reading."""
_SNAPSHOTS_TRIED = 6
_NO_CONTENT = GroupsContent(lists_all=False, coordinators=(), groups=())


async def groups_at(
    store: ObjectStore,
    backup_id: str,
    at_ms: int | None,
    glob: str = "*",
    *,
    whole_log_bytes: int = WHOLE_LOG_BYTES,
    pinned: Pins | None = None,
    decided: Mapping[int, DecidedPositions] | None = None,
) -> GroupsReport:
    """The groups that `glob` matches as they were at `at_ms` (None: last), in the archive `backup_id` under `store`.

    Reads footers or roll-ups, `__consumer_offsets` up to the instant, and a snapshot or two.

    Args:
        whole_log_bytes: up to so much of the log is read from its beginning; more of it from a snapshot on, if it can.
        pinned: go by these segments' log.
        decided: as of `groups_in_log`.

    Raises:
        IncompleteError: nothing had been captured by then, or nothing of it can be trusted.
        KbackupError: as `Archive.open` and `archive_snapshot_at`.
    """
    found = await archive_snapshot_at(store, backup_id, GROUPS_FORMAT, at_ms)
    archive = await Archive.open(store, backup_id, pinned=pinned, wanted=lambda name: name == CONSUMER_OFFSETS)
    topic = coordinator_topic_at(archive, CONSUMER_OFFSETS, at_ms)
    parts: list[GroupsOfPartition] = []
    if topic is not None:

        def wanted(group: str) -> bool:
            return fnmatchcase(group, glob)

        bases: dict[int, GroupsBase] = {}
        if _log_bytes(archive, topic) > whole_log_bytes:
            bases = await _bases(ScopedStore(store, backup_id), archive, topic, at_ms, wanted)
        reading = groups_in_log(archive, topic, at_ms, wanted=wanted, bases=bases, decided=decided)
        async with aclosing(reading):
            parts = [part async for part in reading]
    snapshot = found.snapshot
    if snapshot is None and not any(part.cut is not None for part in parts):
        raise _nothing(backup_id, at_ms, found)
    content = _NO_CONTENT if snapshot is None else snapshot.content
    witnesses = GroupWitnesses(archive.topics, parts, content.groups, at_ms=at_ms)
    groups = tuple(one for one in witnesses.groups() if fnmatchcase(one.group_id, glob))
    log = witnesses.log_report()
    sources = {group.source for group in groups} or {SNAPSHOT if log is None else LOG}
    ages = [group.as_of_ms for group in groups] or ([] if log is None else [log.as_of_ms])
    return GroupsReport(
        backup_id=backup_id,
        at_ms=at_ms,
        taken_ms=NEVER_MS if snapshot is None else snapshot.taken_ms,
        snapshot="" if snapshot is None else snapshot.key,
        complete=(log is not None and log.complete) or (snapshot is not None and content.complete),
        lists_all=content.lists_all,
        coordinators=tuple(
            CoordinatorReport(
                node_id=one.node_id,
                outcome=one.part.outcome,
                cause=one.part.cause,
                answered_ms=one.part.answered_ms,
            )
            for one in content.coordinators
        ),
        groups=groups,
        damaged=found.damaged,
        source=sources.pop() if len(sources) == 1 else BOTH,
        as_of_ms=min(ages, default=NEVER_MS if snapshot is None else snapshot.asked_ms),
        log=log,
    )


def _log_bytes(archive: Archive, topic: ArchivedTopic) -> int:
    def of(id: PartitionId) -> int:
        plain = archive.plain(id)
        return plain.sums().raw_bytes if plain else sum(stored.run.raw_bytes for stored in archive.evidence(id).runs)

    return sum(map(of, topic.partition_ids))


async def _bases(
    store: ObjectStore, archive: Archive, topic: ArchivedTopic, at_ms: int | None, wanted: Callable[[str], bool]
) -> dict[int, GroupsBase]:
    """For each partition the last snapshot before its cut at the instant, if it knows everything.

    Partitions that were busy by then have a cut close to the instant, and share a snapshot; idle ones were heard of at
    some time within ten minutes. After a few snapshots the rest is left to be read from its beginning.

    Args:
        store: scoped to the archive.
    """
    cuts = {id.partition: cut_at(archive.told(id), at_ms) for id in topic.partition_ids}
    waiting = {number: cut.sent_ms for number, cut in cuts.items() if cut is not None}
    listed = [info.key for info in archive.catalog.objects]
    found: dict[int, GroupsBase] = {}
    for _ in range(_SNAPSHOTS_TRIED):
        if not waiting:
            break
        latest_ms = max(waiting.values())
        snapshot = (await snapshot_among(store, GROUPS_FORMAT, listed, latest_ms, archive.document.identity)).snapshot
        if snapshot is None:
            break
        base = base_of(snapshot, topic.partitions, wanted)
        served = [number for number, sent_ms in waiting.items() if sent_ms >= snapshot.taken_ms]
        for number in served:
            del waiting[number]
            if base is not None:
                found[number] = base
    return found


def _nothing(backup_id: str, at_ms: int | None, found: FoundSnapshot[GroupsContent]) -> IncompleteError:
    when = "" if at_ms is None else f" by {iso(at_ms)}"
    damaged = "".join(f"; {one.key} is damaged: {one.reason}" for one in found.damaged)
    return IncompleteError(
        f"{backup_id}: no positions of groups had been captured{when}{damaged}",
        hint="the daemon takes them at backup.snapshot_interval"
        if found.first_ms is None
        else f"the first snapshot is of {iso(found.first_ms)}",
    )
