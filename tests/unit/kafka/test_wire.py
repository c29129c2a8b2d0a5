"""Bytes of our requests and answers, written out field by field from Kafka's message definitions."""

from __future__ import annotations

import struct
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.kafka.codec import Reader, WireError, int32, read_uvarint, string, uvarint
from kbackupd.kafka.types import (
    DivergingEpoch,
    EpochEnd,
    FetchTarget,
    OffsetAnswer,
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
from kbackupd.kafka.wire_fetch import FetchRequest
from kbackupd.model.errors import KafkaDeniedError
from kbackupd.model.positions import PartitionId, TopicId

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
    request = ProduceRequest(batches={one: b"\x01\x02", two: bytearray(b"\x03")}, timeout_ms=1000)

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
