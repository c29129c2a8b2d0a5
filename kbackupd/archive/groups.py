"""The positions of consumer groups at an instant: the captured log of their coordinators, and snapshots beside it."""

from __future__ import annotations

from contextlib import aclosing
from fnmatch import fnmatchcase

from kbackupd.archive.archive import Archive
from kbackupd.archive.group_history import GroupsOfPartition, coordinator_topic_at, groups_in_log
from kbackupd.archive.group_reports import BOTH, LOG, SNAPSHOT, CoordinatorReport
from kbackupd.archive.group_reports import GroupReport as GroupReport
from kbackupd.archive.group_reports import GroupsReport as GroupsReport
from kbackupd.archive.group_witnesses import GroupWitnesses
from kbackupd.archive.snapshots import FoundSnapshot, archive_snapshot_at
from kbackupd.format.groups_snapshot import GROUPS_FORMAT
from kbackupd.model.clock import iso
from kbackupd.model.coordinators import CONSUMER_OFFSETS
from kbackupd.model.errors import IncompleteError
from kbackupd.model.snapshots import NEVER_MS, GroupsContent
from kbackupd.store.protocol import ObjectStore

_NO_CONTENT = GroupsContent(lists_all=False, coordinators=(), groups=())


async def groups_at(store: ObjectStore, backup_id: str, at_ms: int | None, glob: str = "*") -> GroupsReport:
    """The groups that `glob` matches as they were at `at_ms` (None: last), in the archive `backup_id` under `store`.

    Reads footers or roll-ups, `__consumer_offsets` up to the instant, and one snapshot.

    Raises:
        IncompleteError: nothing had been captured by then, or nothing of it can be trusted.
        KbackupError: as `Archive.open` and `archive_snapshot_at`.
    """
    found = await archive_snapshot_at(store, backup_id, GROUPS_FORMAT, at_ms)
    archive = await Archive.open(store, backup_id, wanted=lambda name: name == CONSUMER_OFFSETS)
    topic = coordinator_topic_at(archive, CONSUMER_OFFSETS, at_ms)
    parts: list[GroupsOfPartition] = []
    if topic is not None:
        reading = groups_in_log(archive, topic, at_ms, wanted=lambda group: fnmatchcase(group, glob))
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


def _nothing(backup_id: str, at_ms: int | None, found: FoundSnapshot[GroupsContent]) -> IncompleteError:
    when = "" if at_ms is None else f" by {iso(at_ms)}"
    damaged = "".join(f"; {one.key} is damaged: {one.reason}" for one in found.damaged)
    return IncompleteError(
        f"{backup_id}: no positions of groups had been captured{when}{damaged}",
        hint="the daemon takes them at backup.snapshot_interval"
        if found.first_ms is None
        else f"the first snapshot is of {iso(found.first_ms)}",
    )
