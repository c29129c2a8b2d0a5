"""Bytes of our requests and answers, written out field by field from Kafka's message definitions."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.kafka.answers import (
    ClusterAccess,
    Coordinator,
    CreatedAcl,
    DescribedAcls,
    DescribedQuotas,
    FetchedOffset,
    FetchedOffsets,
    GroupMember,
    GroupMembers,
    ListedGroup,
    ListedGroups,
)
from kbackupd.kafka.codec import Reader, WireError, WireRequest, int32, read_uvarint, string, uvarint
from kbackupd.kafka.types import (
    DivergingEpoch,
    EpochEnd,
    FetchTarget,
    OffsetAnswer,
    OffsetToCommit,
    PartitionAnswer,
    ProduceAnswer,
    TopicOperation,
    TopicPartition,
)
from kbackupd.kafka.wire import (
    ListOffsetsRequest,
    MetadataRequest,
    OffsetForLeaderEpochRequest,
    ProduceRequest,
)
from kbackupd.kafka.wire_admin import AlterTopicConfigsRequest, CreateTopicRequest, DeleteTopicRequest
from kbackupd.kafka.wire_cluster import (
    CreateAclsRequest,
    DescribeAclsRequest,
    DescribeClusterRequest,
    DescribeQuotasRequest,
)
from kbackupd.kafka.wire_fetch import FetchRequest
from kbackupd.kafka.wire_groups import (
    CommitOffsetsRequest,
    DescribeGroupsRequest,
    FetchOffsetsRequest,
    FindCoordinatorsRequest,
    ListGroupsRequest,
    ListTypedGroupsRequest,
)
from kbackupd.model.errors import KafkaDeniedError
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.snapshots import Acl, Quota

_TOPIC = TopicId("AAECAwQFBgcICQoLDA0ODw")
_TOPIC_BYTES = "000102030405060708090a0b0c0d0e0f"
_OTHER = TopicId("_____________________w")
_OTHER_BYTES = "ff" * 16


def _hex(*parts: str) -> bytes:
    return bytes.fromhex("".join(parts))


def _fetch(*, asked: dict[PartitionId, FetchTarget] | None = None) -> FetchRequest:
    return FetchRequest(500, 1, 0x01000000, 0, 0, [], [], {} if asked is None else asked, "")


def test_a_fetch_request_names_topics_by_id_and_groups_their_partitions() -> None:
    first = FetchTarget(offset=0x0102030405, max_bytes=0x100000, current_leader_epoch=7, last_fetched_epoch=6)
    plain = FetchTarget(offset=0, max_bytes=0x400)
    request = FetchRequest(
        max_wait_ms=500,
        min_bytes=1,
        max_bytes=0x01000000,
        session_id=0x11223344,
        session_epoch=9,
        targets=[(PartitionId(_TOPIC, 2), first), (PartitionId(_OTHER, 0), plain), (PartitionId(_TOPIC, 3), plain)],
        forgotten=[PartitionId(_OTHER, 5)],
        asked={},
        rack="eu-1",
    )

    assert request.encode() == _hex(
        "ffffffff 000001f4 00000001 01000000",  # consumer, max wait, min bytes, max bytes
        "00 11223344 00000009",  # read uncommitted, session id, session epoch
        "03",  # two topics
        _TOPIC_BYTES,
        "03",  # two partitions
        "00000002 00000007 0000000102030405 00000006 ffffffffffffffff 00100000 00",
        "00000003 ffffffff 0000000000000000 ffffffff ffffffffffffffff 00000400 00",
        "00",
        _OTHER_BYTES,
        "02",
        "00000000 ffffffff 0000000000000000 ffffffff ffffffffffffffff 00000400 00",
        "00",
        "02",  # one forgotten topic
        _OTHER_BYTES,
        "02 00000005 00",
        "05 65752d31",  # rack
        "00",
    )


def test_a_fetch_answer_gives_offsets_records_and_divergence_and_skips_what_it_does_not_know() -> None:
    one, two, three = (PartitionId(_TOPIC, partition) for partition in (1, 2, 3))
    buffer = _hex(
        "deadbeef 00",  # the header, read by others
        "00000064 0000 11223344",  # throttled 100 ms, no error, session
        "02",
        _TOPIC_BYTES,
        "04",
        # partition 1: records, null aborted transactions
        "00000001 0000 000000000000000a 0000000000000009 0000000000000002 00 ffffffff 04 aabbcc 00",
        # partition 2: two aborted transactions, a preferred replica, null records, leader and divergence tags
        "00000002 0000 0000000000000005 0000000000000005 0000000000000000",
        "03 0000000000000001 0000000000000002 00 0000000000000003 0000000000000004 01 07 02 ffff",
        "00000004 00",
        "02 00 0d 00000003 0000000000000007 00 01 09 00000001 00000002 00",
        # partition 3: an error
        "00000003 0064 ffffffffffffffff ffffffffffffffff ffffffffffffffff 01 ffffffff 01 00",
        "00",  # tags of the topic
        "01 00 02 beef",  # tags of the answer
    )
    response = _fetch(asked={one: FetchTarget(offset=8, max_bytes=1)}).decode(buffer, 5)

    assert (response.throttle_ms, response.error_code, response.session_id) == (100, 0, 0x11223344)
    assert response.size_bytes == len(buffer)
    assert response.partitions == [
        PartitionAnswer(
            id=one,
            error_code=0,
            high_watermark=10,
            last_stable_offset=9,
            log_start_offset=2,
            diverging=None,
            preferred_read_replica=-1,
            records=b"\xaa\xbb\xcc",
            asked_offset=8,
        ),
        PartitionAnswer(
            id=two,
            error_code=0,
            high_watermark=5,
            last_stable_offset=5,
            log_start_offset=0,
            diverging=DivergingEpoch(epoch=3, end_offset=7),
            preferred_read_replica=4,
            records=b"",
        ),
        PartitionAnswer(
            id=three,
            error_code=100,
            high_watermark=-1,
            last_stable_offset=-1,
            log_start_offset=-1,
            diverging=None,
            preferred_read_replica=-1,
            records=b"",
        ),
    ]


def test_a_fetch_answer_cut_anywhere_is_refused_instead_of_read_short() -> None:
    whole = _hex(
        "00000000 0000 00000007 02",
        _TOPIC_BYTES,
        "02 00000001 0000 000000000000000a 0000000000000009 0000000000000002 00 ffffffff 09 aabbccddeeff0011 00",
    )
    assert len(_fetch().decode(whole + b"\x00\x00", 0).partitions) == 1
    for length in range(len(whole)):
        with pytest.raises((WireError, IndexError, ValueError, struct.error)):
            _fetch().decode(whole[:length], 0)


def test_a_metadata_request_never_creates_topics_and_tells_all_from_none() -> None:
    assert MetadataRequest(topics=None).encode() == _hex("00 00 00 00")
    assert MetadataRequest(topics=[]).encode() == _hex("01 00 00 00")
    assert MetadataRequest(topics=["ab"]).encode() == _hex("02", "00" * 16, "03 6162 00", "00 00 00")


@pytest.mark.parametrize(
    ("bits", "operations"),
    [
        (0x0D18, {TopicOperation(n) for n in (3, 4, 8, 10, 11)}),
        (1 << 8, {TopicOperation.DESCRIBE}),
        (-(1 << 31), None),  # not asked for
        (0, None),  # what a broker says that knows the field and nothing more
        (-1, set(TopicOperation)),  # no authorizer, and operations of the future
    ],
)
def test_what_we_may_do_is_a_field_of_bits_and_none_where_the_broker_does_not_tell(
    bits: int, operations: set[TopicOperation] | None
) -> None:
    assert MetadataRequest(topics=["ab"], operations=True).encode() == _hex("02", "00" * 16, "03 6162 00", "00 01 00")
    answer = _hex("00000000 01 00 00000001 02 0000 02 74", _TOPIC_BYTES, "00 01", int32(bits).hex(), "00 00")
    (topic,) = MetadataRequest(topics=["t"], operations=True).decode(answer, 0).topics

    assert topic.operations == operations


def test_a_topic_can_be_tried_out_without_creating_it() -> None:
    request = CreateTopicRequest(name="t", partitions=1, replication_factor=-1, configs={}, timeout_ms=1)

    assert request.encode() == _hex("02 02 74 00000001 ffff 01 01 00 00000001 00 00")
    assert replace(request, validate_only=True).encode() == _hex("02 02 74 00000001 ffff 01 01 00 00000001 01 00")


def test_an_answer_about_creation_tells_the_replicas_and_how_many_must_be_in_sync() -> None:
    request = CreateTopicRequest(name="t", partitions=1, replication_factor=-1, configs={}, timeout_ms=1)
    key, other = b"min.insync.replicas".hex(), b"segment.ms".hex()
    configs = f"03 0b {other} 02 35 00 05 00 00 14 {key} 02 32 00 01 00 00"
    told = request.decode(_hex("00000000 02 02 74", "00" * 16, "0000 00 00000001 0003", configs, "00 00"), 0)
    hidden = request.decode(_hex("00000000 02 02 74", "00" * 16, "0000 00 ffffffff ffff 00 00 00"), 0)

    assert (told["t"].replicas, told["t"].min_insync_replicas) == (3, 2)
    assert (hidden["t"].replicas, hidden["t"].min_insync_replicas) == (-1, None)


def test_a_change_of_configuration_can_be_tried_out() -> None:
    request = AlterTopicConfigsRequest(changes={"t": {"k": "v"}})

    assert request.encode() == _hex("02 02 02 74 02 02 6b 00 02 76 00 00 00 00")
    assert replace(request, validate_only=True).encode() == _hex("02 02 02 74 02 02 6b 00 02 76 00 00 01 00")


def test_a_metadata_answer_keeps_hidden_topics_leaderless_partitions_and_racks() -> None:
    metadata = MetadataRequest(topics=None).decode(
        _hex(
            "00000000",
            "03 00000001 03 6831 00002384 02 61 00 00000002 03 6832 00002385 00 00",  # brokers: h1 rack a, h2 none
            "03 6364 00000002",  # cluster id, controller
            "03",
            "0000 02 74",
            _TOPIC_BYTES,
            "01 02",
            "0005 00000000 ffffffff 00000004 03 00000001 00000002 02 00000002 01 00",
            "80000000 00",
            "001d 02 78",
            "00" * 16,
            "00 01 80000000 00",
            "00",
        ),
        0,
    )

    assert [(b.node_id, b.host, b.port, b.rack) for b in metadata.brokers] == [
        (1, "h1", 9092, "a"),
        (2, "h2", 9093, ""),
    ]
    assert (metadata.cluster_id, metadata.controller_id) == ("cd", 2)
    seen, hidden = metadata.topics
    assert (seen.name, seen.topic_id, seen.internal, seen.error_code) == ("t", _TOPIC, True, 0)
    (part,) = seen.partitions
    assert (part.error_code, part.leader_id, part.leader_epoch, part.replicas, part.isr) == (5, -1, 4, (1, 2), (2,))
    assert (hidden.name, hidden.error_code, hidden.partitions) == ("x", 29, ())


def test_list_offsets_asks_by_leader_epoch_and_timestamp() -> None:
    tp = TopicPartition("t", 3)
    request = ListOffsetsRequest(asked={tp: (-2, 5)})

    assert request.encode() == _hex("ffffffff 00 02 02 74 02 00000003 00000005 fffffffffffffffe 00 00 00")
    answer = _hex("00000000 02 02 74 02 00000003 0000 ffffffffffffffff 000000000000002a 00000004 00 00 00")
    assert request.decode(answer, 0) == {tp: OffsetAnswer(error_code=0, offset=42, leader_epoch=4)}


def test_epoch_ends_are_asked_with_the_current_epoch_first() -> None:
    tp = TopicPartition("t", 3)
    request = OffsetForLeaderEpochRequest(asked={tp: (9, 5)})

    assert request.encode() == _hex("ffffffff 02 02 74 02 00000003 00000009 00000005 00 00 00")
    answer = _hex("00000000 02 02 74 02 0000 00000003 00000004 000000000000002a 00 00 00")
    assert request.decode(answer, 0) == {tp: EpochEnd(error_code=0, leader_epoch=4, end_offset=42)}


def test_produce_carries_batches_whole_and_reads_what_was_wrong_with_them() -> None:
    one, two = TopicPartition("t", 1), TopicPartition("t", 2)
    batch = bytearray(b"\x03")
    request = ProduceRequest(batches={one: b"\x01\x02", two: batch}, timeout_ms=1000)

    assert b"".join(request.parts()) == request.encode()
    views = [part for part in request.parts() if isinstance(part, memoryview)]
    assert any(view.obj is batch for view in views), "it is to be sent from where it lies"
    assert request.encode() == _hex("00 ffff 000003e8 02 02 74 03 00000001 03 0102 00 00000002 02 03 00 00 00")
    answer = _hex(
        "02 02 74 03",
        "00000001 0000 0000000000000007 ffffffffffffffff 0000000000000002 01 00 00",
        "00000002 0057 ffffffffffffffff ffffffffffffffff ffffffffffffffff 02 00000000 03 6e6f 00 04 626164 00",
        "00 00000000 00",
    )
    assert request.decode(answer, 0) == {
        one: ProduceAnswer(error_code=0, base_offset=7, log_append_time=-1, log_start_offset=2),
        two: ProduceAnswer(
            error_code=87,
            base_offset=-1,
            log_append_time=-1,
            log_start_offset=-1,
            error_message="bad; record 0: no",
        ),
    }


def test_altering_a_key_to_none_deletes_it() -> None:
    request = AlterTopicConfigsRequest(changes={"t": {"a": "1", "b": None}})

    assert request.encode() == _hex("02 02 02 74 03 02 61 00 02 31 00 02 62 01 00 00 00 00 00")


def test_a_topic_is_deleted_by_id_or_by_name_never_by_both() -> None:
    by_id = DeleteTopicRequest(name="t", topic_id=_TOPIC, timeout_ms=1)
    by_name = DeleteTopicRequest(name="t", topic_id=None, timeout_ms=1)

    assert by_id.encode() == _hex("02 00", _TOPIC_BYTES, "00 00000001 00")
    assert by_name.encode() == _hex("02 02 74", "00" * 16, "00 00000001 00")


def test_the_request_header_is_the_flexible_one() -> None:
    header = _fetch().build_request_header(correlation_id=5, client_id="kb")

    assert header.encode() == _hex("0001 000d 00000005 0002 6b62 00")
    assert _fetch().parse_response_header(BytesIO(_hex("00000005 00 ff"))).correlation_id == 5


def test_a_broker_without_fetch_by_topic_id_is_refused_and_told_why() -> None:
    FetchRequest.check({1: (4, 17)})
    with pytest.raises(KafkaDeniedError, match=r"FetchRequest v13 \(it offers v0 to v12\)") as refused:
        FetchRequest.check({1: (0, 12)})
    with pytest.raises(KafkaDeniedError, match="it offers none"):
        MetadataRequest.check({1: (0, 12)})

    assert "3.1" in refused.value.hint


def test_requests_show_neither_records_nor_values_when_printed() -> None:
    request = ProduceRequest(batches={TopicPartition("t", 1): b"payload"}, timeout_ms=1000)

    assert repr(request) == "ProduceRequest_v9"


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_unsigned_varints_come_back(value: int) -> None:
    encoded = uvarint(value)

    assert read_uvarint(b"x" + encoded + b"y", 1) == (value, 1 + len(encoded))


@given(st.none() | st.text(max_size=300))
def test_null_and_empty_strings_stay_apart(value: str | None) -> None:
    assert Reader(string(value)).nullable_string() == value


def test_an_endless_varint_is_refused() -> None:
    with pytest.raises(WireError):
        read_uvarint(b"\xff" * 12, 0)


_THROTTLE = "00000000"


def test_groups_are_listed_with_their_types_where_the_broker_tells_them() -> None:
    assert ListGroupsRequest().encode() == _hex("01 00")
    assert ListTypedGroupsRequest().encode() == _hex("01 01 00")
    rows = "0000 02 03 6731 09 636f6e73756d6572 06 456d707479"
    assert ListGroupsRequest().decode(_hex(_THROTTLE, rows, "00 00"), 0) == ListedGroups(
        error_code=0, groups=(ListedGroup(group_id="g1", protocol_type="consumer", state="Empty", type=""),)
    )
    assert ListTypedGroupsRequest().decode(_hex(_THROTTLE, rows, "08 436c6173736963 00 00"), 0) == ListedGroups(
        error_code=0, groups=(ListedGroup(group_id="g1", protocol_type="consumer", state="Empty", type="Classic"),)
    )
    assert ListGroupsRequest().decode(_hex(_THROTTLE, "000e 01 00"), 0) == ListedGroups(error_code=14, groups=())


def test_coordinators_of_many_groups_are_found_at_once() -> None:
    request = FindCoordinatorsRequest(group_ids=["g1", "g2"])
    assert request.encode() == _hex("00 03 03 6731 03 6732 00")
    answer = _hex(
        _THROTTLE,
        "03",
        "03 6731 00000002 03 6232 00002384 0000 00 00",
        "03 6732 ffffffff 01 ffffffff 000f 03 6e6f 00",
        "00",
    )
    assert request.decode(answer, 0) == {
        "g1": Coordinator(error_code=0, node_id=2),
        "g2": Coordinator(error_code=15, node_id=-1),
    }


def test_who_is_in_a_classic_group_is_told_by_member_client_and_host() -> None:
    request = DescribeGroupsRequest(group_ids=["g1"])
    assert request.encode() == _hex("02 03 6731 00 00")
    member = "03 6d31 00 02 63 02 68 04 aabbcc 03 ddee 00"
    answer = _hex(
        _THROTTLE,
        "02 0000 03 6731 07 537461626c65 09 636f6e73756d6572 06 72616e6765",
        "03",
        member,
        member,
        "80000000 00 00",
    )
    told = GroupMember(member_id="m1", client_id="c", client_host="h")
    assert request.decode(answer, 0) == {"g1": GroupMembers(error_code=0, state="Stable", members=(told, told))}


def test_positions_are_committed_by_one_who_is_no_member_and_answered_one_by_one() -> None:
    one, two, other = TopicPartition("t", 1), TopicPartition("t", 2), TopicPartition("u", 0)
    request = CommitOffsetsRequest(
        group_id="g1", offsets={one: OffsetToCommit(42, 7), other: OffsetToCommit(0, -1), two: OffsetToCommit(3, 0)}
    )
    assert request.encode() == _hex(
        "03 6731 ffffffff 01 00",  # group; no generation, no member, no static member
        "03",
        "02 74 03 00000001 000000000000002a 00000007 01 00 00000002 0000000000000003 00000000 01 00 00",
        "02 75 02 00000000 0000000000000000 ffffffff 01 00 00",
        "00",
    )
    answer = _hex(
        _THROTTLE, "03", "02 74 03 00000001 0000 00 00000002 0019 00 00", "02 75 02 00000000 0003 01 00 01 ff 00", "00"
    )
    assert request.decode(answer, 0) == {one: 0, two: 25, other: 3}


def test_all_a_group_has_committed_is_asked_for_with_a_null_list_of_topics() -> None:
    request = FetchOffsetsRequest(group_ids=["g1", "g2"])
    assert request.encode() == _hex("03", "03 6731 00 00", "03 6732 00 00", "00 00")
    answer = _hex(
        _THROTTLE,
        "03",
        "03 6731 02 02 74 03",
        "00000000 000000000000002b 00000003 00 0000 00",
        "00000001 ffffffffffffffff ffffffff 02 6d 0058 00",
        "00 0000 00",
        "03 6732 01 001e 00",
        "00",
    )
    assert request.decode(answer, 0) == {
        "g1": FetchedOffsets(
            error_code=0,
            offsets=(
                FetchedOffset(topic="t", partition=0, offset=43, leader_epoch=3, metadata="", error_code=0),
                FetchedOffset(topic="t", partition=1, offset=-1, leader_epoch=-1, metadata="m", error_code=88),
            ),
        ),
        "g2": FetchedOffsets(error_code=30, offsets=()),
    }


def test_what_the_principal_may_do_with_the_cluster_is_a_bit_each() -> None:
    request = DescribeClusterRequest()
    assert request.encode() == _hex("01 00")
    broker = "02 00000001 02 62 00002384 00 00"
    for operations, may in (("00000100", True), ("00000080", False), ("00000000", False), ("80000000", False)):
        answer = _hex(_THROTTLE, "0000 00 02 63 00000001", broker, operations, "00")
        alters = operations == "00000080"
        assert request.decode(answer, 0) == ClusterAccess(error_code=0, may_describe=may, may_alter=alters)


def test_acls_come_in_kafkas_words_and_unknown_ones_as_numbers() -> None:
    request = DescribeAclsRequest()
    assert request.encode() == _hex("01 00 01 00 00 01 01 00")
    answer = _hex(
        _THROTTLE,
        "0000 00 02",
        "02 07 6f7264657273 03 03",
        "07 557365723a61 02 2a 03 03 00",
        "07 557365723a62 02 2a 63 02 00",
        "00 00",
    )
    assert request.decode(answer, 0) == DescribedAcls(
        error_code=0,
        detail="",
        acls=(
            Acl("TOPIC", "orders", "LITERAL", "User:a", "*", "READ", "ALLOW"),
            Acl("TOPIC", "orders", "LITERAL", "User:b", "*", "99", "DENY"),
        ),
    )
    assert request.decode(_hex(_THROTTLE, "0036 03 6e6f 01 00"), 0).error_code == 54


def test_acls_are_set_as_they_were_told_and_answered_in_their_order() -> None:
    request = CreateAclsRequest(
        acls=[
            Acl("TOPIC", "orders", "LITERAL", "User:a", "*", "READ", "ALLOW"),
            Acl("GROUP", "g", "PREFIXED", "User:b", "*", "99", "DENY"),
        ]
    )
    assert request.encode() == _hex(
        "03",
        "02 07 6f7264657273 03 07 557365723a61 02 2a 03 03 00",
        "03 02 67 04 07 557365723a62 02 2a 63 02 00",
        "00",
    )
    answer = _hex(_THROTTLE, "03 0000 00 00 002a 03 6e6f 00 00")
    assert request.decode(answer, 0) == (CreatedAcl(error_code=0, detail=""), CreatedAcl(error_code=42, detail="no"))


def test_quotas_of_the_default_entity_have_no_name() -> None:
    request = DescribeQuotasRequest()
    assert request.encode() == _hex("01 00 00")
    answer = _hex(
        _THROTTLE,
        "0000 00 02",
        "03 05 75736572 02 61 00 0a 636c69656e742d6964 00 00",
        "02 04 6b6579 3ff8000000000000 00",
        "00 00",
    )
    assert request.decode(answer, 0) == DescribedQuotas(
        error_code=0, detail="", quotas=(Quota(entity={"user": "a", "client-id": None}, values={"key": 1.5}),)
    )


ANSWERS: list[tuple[WireRequest[Any], bytes]] = [
    (ListTypedGroupsRequest(), _hex(_THROTTLE, "0000 02 03 6731 02 63 02 45 02 43 00 00")),
    (FindCoordinatorsRequest(group_ids=["g1"]), _hex(_THROTTLE, "02 03 6731 00000002 03 6232 00002384 0000 00 00 00")),
    (CommitOffsetsRequest(group_id="g", offsets={}), _hex(_THROTTLE, "02 02 74 02 00000001 0019 00 00 00")),
    (FetchOffsetsRequest(group_ids=["g2"]), _hex(_THROTTLE, "02 03 6732 01 001e 00 00")),
]


@pytest.mark.parametrize(("request_", "answer"), ANSWERS, ids=[repr(request) for request, _ in ANSWERS])
def test_an_answer_about_groups_cut_anywhere_is_refused_instead_of_read_short(
    request_: WireRequest[Any], answer: bytes
) -> None:
    request_.decode(answer, 0)
    for length in range(len(answer) - 1):  # the last byte ends the tags, which nobody needs
        with pytest.raises((struct.error, IndexError, WireError)):
            request_.decode(answer[:length], 0)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused_as_one(data: bytes) -> None:
    for request in (
        ListTypedGroupsRequest(),
        FindCoordinatorsRequest(group_ids=[]),
        DescribeGroupsRequest(group_ids=[]),
        FetchOffsetsRequest(group_ids=[]),
        CommitOffsetsRequest(group_id="g", offsets={}),
        DescribeClusterRequest(),
        DescribeAclsRequest(),
        DescribeQuotasRequest(),
    ):
        with contextlib.suppress(struct.error, IndexError, WireError, UnicodeDecodeError):
            request.decode(data, 0)
