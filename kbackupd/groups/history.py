"""Where groups stood at an instant, as the archive's snapshots tell: the source positions of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kbackupd.archive.group_history import DecidedPositions
from kbackupd.archive.group_reports import GroupReport, GroupsReport
from kbackupd.archive.groups import groups_at
from kbackupd.archive.pins import Pins
from kbackupd.groups.plan import NotPlanned
from kbackupd.groups.planning import selects
from kbackupd.groups.strategies import SourcePosition
from kbackupd.model.clock import iso
from kbackupd.model.snapshots import NEVER_MS, ReadOutcome
from kbackupd.store.protocol import ObjectStore

_UNCERTAIN = "a newer position may have been in what the archive lacks of the log of positions"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedPositions:
    """What was committed by `as_of_ms`; `unknown` are groups whose positions the backup was never told."""

    as_of_ms: int
    positions: tuple[SourcePosition, ...]
    unknown: tuple[NotPlanned, ...]
    notes: tuple[str, ...]
    """What stands between these positions and the whole truth of that instant, for people."""


async def positions_at(
    store: ObjectStore,
    backup_id: str,
    at_ms: int | None,
    globs: Sequence[str],
    *,
    pinned: Pins | None = None,
    decided: Mapping[int, DecidedPositions] | None = None,
) -> ArchivedPositions:
    """The positions of the groups that `globs` match, at `at_ms` (None: the newest); see `groups_at` for who tells.

    The backup's own groups count only where they are named: how far a backup of the source was means nothing elsewhere.

    Args:
        pinned, decided: as of `groups_at`.

    Raises:
        IncompleteError: nothing had been captured by then.
        KbackupError: as `groups_at`.
    """
    report = await groups_at(store, backup_id, at_ms, pinned=pinned, decided=decided)
    own = f"kbackupd-{backup_id}"
    chosen = [
        group
        for group in report.groups
        if selects(globs, group.group_id) and (not group.group_id.startswith(own) or group.group_id in globs)
    ]
    notes = [f"snapshot {one.key} is damaged, an older one was used: {one.reason}" for one in report.damaged]
    if report.log is None or not report.log.complete:
        notes += _what_a_snapshot_leaves_open(report)
    return ArchivedPositions(
        as_of_ms=report.as_of_ms,
        positions=tuple(
            SourcePosition(
                group=group.group_id,
                topic=one.topic,
                partition=one.partition,
                offset=one.offset,
                topic_id=one.topic_id,
                metadata=one.metadata,
                note=_age(group) if one.certain else _UNCERTAIN,
            )
            for group in chosen
            for one in group.positions
        ),
        unknown=tuple(
            NotPlanned(
                group=group.group_id,
                topic="",
                partition=-1,
                source_offset=None,
                reason=f"its positions were never told to the backup: {group.outcome}: {group.cause}",
            )
            for group in chosen
            if group.answered_ms == NEVER_MS
        ),
        notes=tuple(notes),
    )


def _what_a_snapshot_leaves_open(report: GroupsReport) -> Iterator[str]:
    if not report.lists_all:
        yield "groups that the backup's principal may not describe are not in the archive"
    for one in report.coordinators:
        if one.outcome is not ReadOutcome.OK:
            yield f"broker {one.node_id} did not tell its groups then: {one.cause}"


def _age(group: GroupReport) -> str:
    """What to say of positions that are older than the snapshot."""
    if group.outcome is ReadOutcome.OK:
        return ""
    return f"as of {iso(group.answered_ms)}, later ones were not told ({group.outcome})"
