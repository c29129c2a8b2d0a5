"""Members and deletions on the wire, by hand from Kafka's message definitions."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.kafka.answers import GroupMember, GroupMembers
from kbackupd.kafka.codec import WireError, WireRequest
from kbackupd.kafka.types import OffsetToCommit, TopicPartition
from kbackupd.kafka.wire_group_admin import (
    DeleteGroupsRequest,
    DeleteOffsetsRequest,
    DescribeConsumerGroupsRequest,
)
from kbackupd.kafka.wire_groups import CommitOffsetsRequest, FetchOffsetsRequest

_THROTTLE = "00000000"
_ID = "00112233445566778899aabbccddeeff"


def _hex(*parts: str) -> bytes:
    return bytes.fromhex("".join(parts))


def test_who_is_in_a_group_of_the_new_protocol_is_told_past_what_they_are_assigned() -> None:
    request = DescribeConsumerGroupsRequest(group_ids=["g1"])
    assert request.encode() == _hex("02 03 6731 00 00")
    assignment = f"02 {_ID} 02 74 03 00000001 00000002 00 00"
    member = f"03 6d31 00 02 72 00000005 02 63 02 68 02 02 74 00 {assignment} {assignment} 00"
    answer = _hex(
        _THROTTLE,
        "03",
        "0000 00 03 6731 07 537461626c65 00000001 00000001 02 75 02",
        member,
        "80000000 00",
        "0045 02 6e 03 6732 01 00000000 00000000 01 01 80000000 00",
        "00",
    )
    assert request.decode(answer, 0) == {
        "g1": GroupMembers(
            error_code=0, state="Stable", members=(GroupMember(member_id="m1", client_id="c", client_host="h"),)
        ),
        "g2": GroupMembers(error_code=69, state=""),
    }


def test_groups_are_deleted_by_name_and_answered_one_by_one() -> None:
    request = DeleteGroupsRequest(group_ids=["g1", "g2"])
    assert request.encode() == _hex("03 03 6731 03 6732 00")
    assert request.decode(_hex(_THROTTLE, "03 03 6731 0000 00 03 6732 0044 00 00"), 0) == {"g1": 0, "g2": 68}


def test_positions_are_deleted_by_a_request_of_the_old_kind() -> None:
    request = DeleteOffsetsRequest(
        group_id="g1", partitions=[TopicPartition("t", 1), TopicPartition("u", 0), TopicPartition("t", 2)]
    )
    assert request.encode() == _hex(
        "0002 6731 00000002", "0001 74 00000002 00000001 00000002", "0001 75 00000001 00000000"
    )
    answer = _hex("0000", _THROTTLE, "00000002", "0001 74 00000001 00000001 0000", "0001 75 00000001 00000000 0056")
    assert request.decode(answer, 0) == (0, {TopicPartition("t", 1): 0, TopicPartition("u", 0): 86})
    assert request.decode(_hex("0045", _THROTTLE, "00000000"), 0) == (69, {})
    assert request.build_request_header(7, "c").encode() == _hex("002f 0000 00000007 0001 63")


def test_a_position_is_committed_with_the_clients_own_metadata() -> None:
    request = CommitOffsetsRequest(group_id="g1", offsets={TopicPartition("t", 1): OffsetToCommit(42, 7, "AgA=")})
    assert request.encode() == _hex(
        "03 6731 ffffffff 01 00", "02 02 74 02 00000001 000000000000002a 00000007 05 4167413d 00 00", "00"
    )


def test_positions_are_asked_for_as_they_are_or_only_where_they_are_stable() -> None:
    assert FetchOffsetsRequest(group_ids=["g1"]).encode() == _hex("02 03 6731 00 00 00 00")
    assert FetchOffsetsRequest(group_ids=["g1"], stable=True).encode() == _hex("02 03 6731 00 00 01 00")


REQUESTS: list[WireRequest[Any]] = [
    DescribeConsumerGroupsRequest(group_ids=[]),
    DeleteGroupsRequest(group_ids=[]),
    DeleteOffsetsRequest(group_id="g", partitions=[]),
]


def test_an_answer_about_deleted_positions_cut_anywhere_is_refused_instead_of_read_short() -> None:
    answer = _hex("0000", _THROTTLE, "00000001", "0001 74 00000001 00000001 0000")
    for length in range(len(answer)):
        with pytest.raises((struct.error, IndexError, WireError)):
            REQUESTS[3].decode(answer[:length], 0)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused_as_one(data: bytes) -> None:
    for request in REQUESTS:
        with contextlib.suppress(struct.error, IndexError, WireError, UnicodeDecodeError):
            request.decode(data, 0)
