"""A cluster's groups in memory, as a coordinator keeps them; a test breaks what it wants to see survived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kbackupd.groups.plan import Position
from kbackupd.groups.state import TargetTopic
from kbackupd.kafka.answers import Coordinator, FetchedOffset, FetchedOffsets, GroupMember, GroupMembers
from kbackupd.kafka.types import KafkaErrorCode, OffsetToCommit, TopicPartition
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.model.positions import OffsetRange
from tests.unit.groups.examples import topics


@dataclass(slots=True)
class FakeTarget:
    """Both what `Coordinators` asks and what `execute_plan` asks. `log` is every change, in order."""

    groups: dict[str, dict[TopicPartition, Position]]
    members: dict[str, int] = field(default_factory=dict)
    refused: dict[tuple[str, int], int] = field(default_factory=dict)
    """(group, partition) → error code of every commit or deletion."""
    lost_answers: int = 0
    """So many commits are made and not answered."""
    unstable: int = 0
    """So many answers about positions say that an open transaction is about to commit them."""
    joins_before_commit: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)

    async def topics(self, names: Sequence[str] | None) -> tuple[str, dict[str, TargetTopic]]:
        return "here", topics()

    async def ranges(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
        return {tp: OffsetRange(0, 100) for tp in partitions}

    async def find_coordinators(self, group_ids: Sequence[str]) -> Mapping[str, Coordinator]:
        return {id: Coordinator(error_code=0, node_id=1) for id in group_ids}

    async def describe_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]:
        return {
            id: GroupMembers(
                error_code=0,
                state="Stable" if self.members.get(id) else "Empty" if id in self.groups else "Dead",
                members=tuple(
                    GroupMember(member_id=str(n), client_id="c", client_host="h")
                    for n in range(self.members.get(id, 0))
                ),
            )
            for id in group_ids
        }

    async def describe_consumer_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]:
        return {id: GroupMembers(error_code=KafkaErrorCode.GROUP_ID_NOT_FOUND, state="") for id in group_ids}

    async def fetch_offsets(
        self, node_id: int, group_ids: Sequence[str], *, stable: bool = False
    ) -> Mapping[str, FetchedOffsets]:
        return {
            id: FetchedOffsets(
                error_code=0,
                offsets=tuple(
                    FetchedOffset(
                        topic=tp.topic,
                        partition=tp.partition,
                        offset=one.offset,
                        leader_epoch=one.leader_epoch,
                        metadata=one.metadata,
                        error_code=self._stability(stable),
                    )
                    for tp, one in self.groups.get(id, {}).items()
                ),
            )
            for id in group_ids
        }

    def _stability(self, stable: bool) -> int:
        if not (stable and self.unstable):
            return KafkaErrorCode.NONE
        self.unstable -= 1
        return KafkaErrorCode.UNSTABLE_OFFSET_COMMIT

    async def commit_offsets(
        self, node_id: int, group_id: str, offsets: Mapping[TopicPartition, OffsetToCommit]
    ) -> Mapping[TopicPartition, int]:
        if group_id in self.joins_before_commit:
            return dict.fromkeys(offsets, int(KafkaErrorCode.UNKNOWN_MEMBER_ID))
        codes = {tp: self.refused.get((group_id, tp.partition), 0) for tp in offsets}
        for tp, one in offsets.items():
            if not codes[tp]:
                self.groups.setdefault(group_id, {})[tp] = Position(*one)
                self.log.append(f"commit {group_id}/{tp.partition}={one.offset}")
        if self.lost_answers:
            self.lost_answers -= 1
            raise KafkaUnavailableError("the connection broke")
        return codes

    async def delete_offsets(
        self, node_id: int, group_id: str, partitions: Sequence[TopicPartition]
    ) -> tuple[int, Mapping[TopicPartition, int]]:
        if group_id not in self.groups:
            return KafkaErrorCode.GROUP_ID_NOT_FOUND, {}
        codes = {tp: self.refused.get((group_id, tp.partition), 0) for tp in partitions}
        for tp, code in codes.items():
            if not code:
                self.groups[group_id].pop(tp, None)
                self.log.append(f"delete {group_id}/{tp.partition}")
        return 0, codes

    async def delete_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, int]:
        for id in group_ids:
            del self.groups[id]
            self.log.append(f"delete {id}")
        return dict.fromkeys(group_ids, 0)
