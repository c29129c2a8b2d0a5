"""What to believe of a consumer group, by what its coordinator answered and what was known before. Pure.

Keeps I5 for groups: what could not be read, or came up short, leaves what was known before, marked as such.
Coordinators answer short, without an error, while partitions of `__consumer_offsets` move between them (hazard 15): a
group is gone, or without positions, only when its own coordinator says so in two rounds.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace

from kbackupd.capture.failed_part import failed_part
from kbackupd.kafka.answers import FetchedOffsets, ListedGroup
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.positions import TopicId
from kbackupd.model.snapshots import NEVER_MS, CommittedOffset, GroupState, PartState, ReadOutcome

BELIEVED_AFTER = 2
"""Rounds in a row in which a group had lost all it had, before that is believed."""
NOTHING = FetchedOffsets(error_code=KafkaErrorCode.NONE, offsets=())


@dataclass(slots=True)
class GroupAnswer:
    """What became of asking for one group's positions; `result` None: `why` says why."""

    node_id: int
    sent_ms: int = NEVER_MS
    answered_ms: int = NEVER_MS
    result: FetchedOffsets | None = None
    why: PartState = field(default_factory=lambda: PartState(outcome=ReadOutcome.FAILED, cause="not asked"))
    members: int = -1

    def settle(self, found: FetchedOffsets | None, sent_ms: int, answered_ms: int) -> None:
        """Take in what its coordinator answered; None: it left the group out."""
        code: int = KafkaErrorCode.UNKNOWN_SERVER_ERROR if found is None else found.error_code
        if found is not None and code == KafkaErrorCode.NONE:
            # A single position that is not told makes the whole group's picture one that cannot be trusted.
            code = next((one.error_code for one in found.offsets if one.error_code != KafkaErrorCode.NONE), code)
        if found is not None and code == KafkaErrorCode.GROUP_ID_NOT_FOUND:
            found, code = NOTHING, KafkaErrorCode.NONE
        if found is None or code != KafkaErrorCode.NONE:
            self.why = failed_part(code, NEVER_MS)
            return
        self.result, self.sent_ms, self.answered_ms = found, sent_ms, answered_ms


class GroupBeliefs:
    """Remembers between rounds which losses have been seen once."""

    def __init__(self) -> None:
        self._doubted: dict[str, int] = {}

    def forget_others(self, known: Container[str]) -> None:
        """A round is over: of groups that nobody knew before it, nothing is lost."""
        self._doubted = {id: count for id, count in self._doubted.items() if id in known}

    def judge(
        self,
        group_id: str,
        listed: ListedGroup | None,
        before: GroupState | None,
        answer: GroupAnswer,
        topic_ids: Mapping[str, TopicId],
        hidden: frozenset[str],
    ) -> GroupState | None:
        """What to write down of one group; None: it is gone.

        Args:
            before: what was known of it; None: nothing.
            hidden: topics that answers leave out because permissions do.
        """
        before_ms = before.answered_ms if before else NEVER_MS
        held = before.positions if before else ()
        if answer.result is None:
            return _state(listed, before, answer, replace(answer.why, answered_ms=before_ms), held)
        # A topic that metadata leaves out now is still the one these positions were committed for.
        ids_held = {one.topic: one.topic_id for one in held}
        told = tuple(
            CommittedOffset(
                topic_ids.get(one.topic) or ids_held.get(one.topic),
                one.topic,
                one.partition,
                one.offset,
                one.leader_epoch,
                one.metadata,
            )
            for one in sorted(answer.result.offsets, key=lambda one: (one.topic, one.partition))
            if one.offset >= 0
        )
        kept = tuple(one for one in held if one.topic in hidden)
        if kept:
            cause = f"topics are hidden: {', '.join(sorted({one.topic for one in kept}))}"
            part = PartState(outcome=ReadOutcome.DENIED, cause=cause, answered_ms=before_ms)
            return _state(listed, before, answer, part, held)
        if not told and (listed is None or held):
            count = self._doubted[group_id] = self._doubted.get(group_id, 0) + 1
            if count < BELIEVED_AFTER:
                cause = "its coordinator lists no positions any more; asked again before that is believed"
                part = PartState(outcome=ReadOutcome.FAILED, cause=cause, answered_ms=before_ms)
                return _state(listed, before, answer, part, held)
            if listed is None:
                return None
        else:
            self._doubted.pop(group_id, None)
        part = PartState(outcome=ReadOutcome.OK, answered_ms=answer.answered_ms)
        return _state(listed, before, answer, part, told)


def _state(
    listed: ListedGroup | None,
    before: GroupState | None,
    answer: GroupAnswer,
    part: PartState,
    positions: tuple[CommittedOffset, ...],
) -> GroupState:
    row = listed or ListedGroup(
        group_id=before.group_id if before else "",
        protocol_type=before.protocol_type if before else "",
        state=before.state if before else "",
        type=before.type if before else "",
    )
    fresh = part.outcome is ReadOutcome.OK
    return GroupState(
        group_id=row.group_id,
        type=row.type.lower(),
        protocol_type=row.protocol_type,
        state=row.state,
        coordinator=answer.node_id if answer.node_id >= 0 or before is None else before.coordinator,
        members=0 if listed is not None and listed.state == "Empty" else answer.members,
        part=part,
        sent_ms=answer.sent_ms if fresh else before.sent_ms if before else NEVER_MS,
        positions=positions,
    )
