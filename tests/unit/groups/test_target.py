"""What is believed of the target's groups: each from its own coordinator, and unknown is not "none" (I5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from kbackupd.groups.coordinators import Coordinators
from kbackupd.groups.state import GroupInTarget
from kbackupd.groups.target import groups_in_target, refuse_untold
from kbackupd.kafka.answers import FetchedOffsets, GroupMember, GroupMembers
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KafkaUnavailableError
from tests.unit.groups.fake_target import FakeTarget
from tests.unit.groups.test_execute import orders
from tests.virtual_time import run


def seen(target: FakeTarget, *ids: str) -> dict[str, GroupInTarget]:
    clock = ManualClock()
    return run(groups_in_target(Coordinators([target], clock=clock, deadline_seconds=5.0), ids), clock=clock)


class NewProtocol(FakeTarget):
    """Its groups are of KIP-848's protocol: to the classic question they do not exist."""

    async def describe_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]:
        return {id: GroupMembers(error_code=0, state="Dead") for id in group_ids}

    async def describe_consumer_groups(self, node_id: int, group_ids: Sequence[str]) -> Mapping[str, GroupMembers]:
        member = GroupMember(member_id="m", client_id="c", client_host="h")
        return {
            id: GroupMembers(error_code=0, state="Stable", members=(member,))
            if id in self.groups
            else GroupMembers(error_code=KafkaErrorCode.GROUP_ID_NOT_FOUND, state="")
            for id in group_ids
        }


class Hidden(FakeTarget):
    async def fetch_offsets(
        self, node_id: int, group_ids: Sequence[str], *, stable: bool = False
    ) -> Mapping[str, FetchedOffsets]:
        denied = FetchedOffsets(error_code=KafkaErrorCode.GROUP_AUTHORIZATION_FAILED, offsets=())
        return dict.fromkeys(group_ids, denied)


def test_a_group_is_there_with_its_positions_or_known_not_to_be() -> None:
    found = seen(FakeTarget({"g": orders(p0=7)}), "g", "absent")

    assert (found["g"].exists, found["g"].positions, found["g"].live) == (True, orders(p0=7), False)
    assert (found["absent"].exists, found["absent"].live) == (False, False)
    refuse_untold(found)


def test_hazard_32_members_of_the_new_protocol_are_members() -> None:
    found = seen(NewProtocol({"g": orders(p0=7)}), "g", "absent")

    assert (found["g"].live, len(found["g"].members)) == (True, 1)
    assert not found["absent"].live


def test_positions_that_are_not_told_are_not_taken_for_none() -> None:
    found = seen(Hidden({"g": orders(p0=7)}), "g", "h")

    assert "GROUP_AUTHORIZATION_FAILED" in found["g"].problem
    with pytest.raises(KafkaUnavailableError, match="the state of group g and of 1 more is not known"):
        refuse_untold(found)


def test_positions_an_open_transaction_is_about_to_commit_are_waited_for() -> None:
    assert seen(FakeTarget({"g": orders(p0=7)}, unstable=3), "g")["g"].positions == orders(p0=7)
    assert "UNSTABLE_OFFSET_COMMIT" in seen(FakeTarget({"g": orders(p0=7)}, unstable=1_000), "g")["g"].problem
