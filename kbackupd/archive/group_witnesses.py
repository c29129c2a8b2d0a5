"""Two witnesses of where groups stood, the coordinators' log and a snapshot, and which of them is believed.

Pure. The log is, where it is certain: it is exact to the record. The snapshot is where the log was not heard of by the
instant, has lost something that could matter to the group, or where it was asked after all that the log can vouch for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kbackupd.archive.archive import ArchivedTopic
from kbackupd.archive.cut import Cut
from kbackupd.archive.group_fold import FoldedPosition
from kbackupd.archive.group_history import GroupsOfPartition
from kbackupd.archive.group_reports import LOG, SNAPSHOT, GroupReport, LogPartitionReport, LogReport, PositionReport
from kbackupd.format.committed_offsets import coordinator_partition, decode_classic_group
from kbackupd.format.coordinator_fields import UnknownRecordError
from kbackupd.format.records import MalformedRecordError
from kbackupd.model.coordinators import ClassicGroup
from kbackupd.model.snapshots import NEVER_MS, GroupState, ReadOutcome

_CLASSIC = "classic"


@dataclass(slots=True)
class _InLog:
    """One group by the log."""

    part: GroupsOfPartition
    positions: list[FoldedPosition] = field(default_factory=list)
    types: Mapping[str, bytes | None] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """A group whose positions are all deleted, and itself, is none."""
        return bool(self.positions) or any(value is not None for value in self.types.values())


class GroupWitnesses:
    """What both say, group by group.

    Args:
        topics: the archive's, for the ids of topics that the log knows by name alone.
        parts: every partition of `__consumer_offsets`; empty if it was not captured.
        asked: the groups of the snapshot.
        at_ms: the instant; None: the last one.
    """

    def __init__(
        self,
        topics: Iterable[ArchivedTopic],
        parts: Sequence[GroupsOfPartition],
        asked: Iterable[GroupState],
        *,
        at_ms: int | None,
    ) -> None:
        self._parts = parts
        self._asked = {one.group_id: one for one in asked}
        self._at_ms = at_ms
        self._logged: dict[str, _InLog] = {}
        for part in parts:
            for position in part.positions:
                self._logged.setdefault(position.key.group, _InLog(part)).positions.append(position)
            for group, types in part.groups.items():
                self._logged.setdefault(group, _InLog(part)).types = types
        self._topic_ids = {
            row.topic: row.topic_id for one in self._asked.values() for row in one.positions if row.topic_id is not None
        }
        for topic in sorted(topics, key=lambda one: one.first_seen_ms):
            if at_ms is None or topic.first_seen_ms <= at_ms:
                self._topic_ids[topic.name] = topic.topic_id

    def groups(self) -> Iterator[GroupReport]:
        """By id."""
        for group_id in sorted(self._logged.keys() | self._asked.keys()):
            logged = self._in_log(group_id)
            asked = self._asked.get(group_id)
            if logged is not None and logged.part.cut is not None and self._believed(logged, logged.part.cut, asked):
                if logged.alive:
                    yield self._by_log(group_id, logged, logged.part.cut, asked)
            elif asked is not None:
                yield _by_snapshot(asked)
            elif logged is not None and logged.alive and logged.part.cut is not None:
                # Shaken, and the only one who tells.
                yield self._by_log(group_id, logged, logged.part.cut, None)

    def log_report(self) -> LogReport | None:
        """How far each partition of the log went; None if no leader of it had answered by the instant."""
        heard = [part.cut for part in self._parts if part.cut is not None]
        if not heard:
            return None
        return LogReport(
            topic_id=self._parts[0].id.topic_id,
            complete=all(part.certain for part in self._parts),
            as_of_ms=min(self._as_of_ms(cut) for cut in heard),
            partitions=tuple(_log_partition(part) for part in self._parts),
        )

    def _in_log(self, group_id: str) -> _InLog | None:
        """The group by the log: one that it does not mention, by its absence from the partition where it would be."""
        found = self._logged.get(group_id)
        if found is None and self._parts:
            found = _InLog(self._parts[coordinator_partition(group_id, len(self._parts))])
        return found

    def _believed(self, logged: _InLog, cut: Cut, asked: GroupState | None) -> bool:
        if asked is None:
            return logged.part.certain or all(one.certain for one in logged.positions)
        by_snapshot = {(row.topic, row.partition): row.offset for row in asked.positions}
        by_log = {(one.key.topic, one.key.partition): one for one in logged.positions}
        if not logged.part.certain and not (
            all(one.certain for one in logged.positions) and by_snapshot.keys() <= by_log.keys() and by_log
        ):
            return False
        if not logged.alive and not by_snapshot and not logged.types:
            # A group without positions that its coordinator never wrote down: the log cannot know of it.
            return False
        same = by_snapshot == {key: one.position.offset for key, one in by_log.items()}
        return same or asked.sent_ms <= max(cut.answered_ms, cut.held_until_ms)

    def _by_log(self, group_id: str, logged: _InLog, cut: Cut, asked: GroupState | None) -> GroupReport:
        classic = _classic(logged)
        types = [type_ for type_, value in logged.types.items() if value is not None]
        told = GroupReport(
            group_id=group_id,
            type=types[0] if types else ("" if asked is None else asked.type),
            protocol_type="" if asked is None else asked.protocol_type,
            state="" if asked is None else asked.state,
            coordinator=-1 if asked is None else asked.coordinator,
            members=-1 if asked is None else asked.members,
            outcome=ReadOutcome.OK,
            cause="",
            sent_ms=cut.sent_ms,
            answered_ms=cut.answered_ms,
            positions=tuple(
                sorted((self._position(one) for one in logged.positions), key=lambda one: (one.topic, one.partition))
            ),
            source=LOG,
            as_of_ms=self._as_of_ms(cut),
        )
        if classic is None:
            return told
        # Written whenever a group became stable or empty, so newer than any answer before.
        return replace(
            told,
            protocol_type=classic.protocol_type,
            state="Stable" if classic.members else "Empty",
            members=len(classic.members),
        )

    def _position(self, one: FoldedPosition) -> PositionReport:
        position = one.position
        return PositionReport(
            topic=one.key.topic,
            topic_id=position.topic_id or self._topic_ids.get(one.key.topic),
            partition=one.key.partition,
            offset=position.offset,
            leader_epoch=position.leader_epoch,
            metadata=position.metadata,
            committed_ms=position.committed_ms,
            certain=one.certain,
        )

    def _as_of_ms(self, cut: Cut) -> int:
        return cut.held_until_ms if self._at_ms is None else min(cut.held_until_ms, self._at_ms)


def _classic(logged: _InLog) -> ClassicGroup | None:
    value = logged.types.get(_CLASSIC)
    if value is None:
        return None
    try:
        return decode_classic_group(value)
    except (MalformedRecordError, UnknownRecordError):
        return None  # its positions stand; what else it was is not known


def _by_snapshot(group: GroupState) -> GroupReport:
    told = group.answered_ms != NEVER_MS
    return GroupReport(
        group_id=group.group_id,
        type=group.type,
        protocol_type=group.protocol_type,
        state=group.state,
        coordinator=group.coordinator,
        members=group.members,
        outcome=group.part.outcome,
        cause=group.part.cause,
        sent_ms=group.sent_ms,
        answered_ms=group.answered_ms,
        positions=tuple(
            PositionReport(
                topic=one.topic,
                topic_id=one.topic_id,
                partition=one.partition,
                offset=one.offset,
                leader_epoch=one.leader_epoch,
                metadata=one.metadata,
            )
            for one in group.positions
        ),
        source=SNAPSHOT,
        as_of_ms=group.sent_ms if told else NEVER_MS,
    )


def _log_partition(part: GroupsOfPartition) -> LogPartitionReport:
    cut = part.cut
    return LogPartitionReport(
        partition=part.id.partition,
        next_offset=-1 if cut is None else cut.next_offset,
        sent_ms=NEVER_MS if cut is None else cut.sent_ms,
        answered_ms=NEVER_MS if cut is None else cut.answered_ms,
        held_until_ms=NEVER_MS if cut is None else cut.held_until_ms,
        lost=part.lost,
        unreadable=part.unreadable,
        base=part.base,
    )
