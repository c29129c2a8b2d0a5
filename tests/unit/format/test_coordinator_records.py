"""What brokers keep in `__consumer_offsets` and `__transaction_state` is read as Kafka itself reads it, or refused."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.committed_offsets import coordinator_partition, decode_classic_group, decode_key, decode_position
from kbackupd.format.coordinator_fields import UnknownRecordError
from kbackupd.format.records import MalformedRecordError
from kbackupd.format.transaction_log import decode_transaction, decode_transactional_id
from kbackupd.model.coordinators import (
    ClassicGroup,
    ClassicMember,
    CommittedPosition,
    GroupKey,
    OffsetKey,
    OtherKey,
    TransactionEntry,
    TransactionState,
)
from kbackupd.model.positions import TopicId
from tests.unit.format.coordinator_bytes import (
    classic_group_value,
    group_key,
    offset_key,
    position_value,
    transaction_value,
    transactional_id_key,
)
from tests.unit.format.strategies import INT64, TEXT

COORDINATORS = Path(__file__).parents[2] / "golden" / "coordinators"
VERSIONS = sorted(path.stem for path in COORDINATORS.iterdir())
INT32 = st.integers(-(2**31), 2**31 - 1)
INT16 = st.integers(-(2**15), 2**15 - 1)
TOPIC_IDS = st.one_of(st.none(), st.just(TopicId("b8tRS7h4TJ2Vt43Dp85v2A")))
POSITIONS = st.builds(CommittedPosition, INT64, INT32, TEXT, INT64, INT64, TOPIC_IDS)
MEMBERS = st.builds(
    ClassicMember,
    TEXT,
    st.one_of(st.none(), TEXT),
    TEXT,
    TEXT,
    INT32,
    INT32,
    st.binary(max_size=9),
    st.binary(max_size=9),
)
GROUPS = st.builds(
    ClassicGroup,
    protocol_type=TEXT,
    generation=INT32,
    protocol=st.one_of(st.none(), TEXT),
    leader=st.one_of(st.none(), TEXT),
    changed_ms=INT64,
    members=st.lists(MEMBERS, max_size=3).map(tuple),
)
ENTRIES = st.builds(
    TransactionEntry,
    producer_id=INT64,
    producer_epoch=INT16,
    timeout_ms=INT32,
    state=st.sampled_from(TransactionState),
    partitions=st.lists(st.tuples(TEXT, INT32), max_size=4, unique=True).map(lambda rows: tuple(sorted(rows))),
    updated_ms=INT64,
    started_ms=INT64,
    previous_producer_id=INT64,
    next_producer_id=INT64,
    next_producer_epoch=INT16,
    client_version=INT16,
)
POSITION = CommittedPosition(7, 3, "note", 1_000, -1, TopicId("b8tRS7h4TJ2Vt43Dp85v2A"))
ENTRY = TransactionEntry(
    producer_id=9,
    producer_epoch=4,
    timeout_ms=60_000,
    state=TransactionState.PREPARE_COMMIT,
    partitions=(("orders", 0), ("orders", 2), ("payments", 1)),
    updated_ms=2_000,
    started_ms=1_000,
    previous_producer_id=9,
    next_producer_id=12,
    next_producer_epoch=0,
    client_version=2,
)


def golden(version: str, topic: str) -> list[dict[str, Any]]:
    rows = json.loads((COORDINATORS / f"{version}.json").read_text())[topic]
    assert rows
    return list(rows)


def nothing_else_than_malformed(data: bytes) -> None:
    for decode in (decode_key, decode_position, decode_classic_group, decode_transactional_id, decode_transaction):
        with contextlib.suppress(MalformedRecordError, UnknownRecordError):
            decode(data)


@pytest.mark.parametrize("version", VERSIONS)
def test_records_of_consumer_offsets_say_what_kafkas_own_tool_reads_in_them(version: str) -> None:
    kinds = set()
    for row in golden(version, "consumer_offsets"):
        said, key = row["says_key"]["data"], decode_key(bytes.fromhex(row["key"]))
        value = None if row["value"] is None else bytes.fromhex(row["value"])
        kinds.add(type(key))
        match key:
            case OffsetKey():
                assert key._asdict() == said
                if value is not None:
                    told, position = row["says_value"]["data"], decode_position(value)
                    assert position.offset == told["offset"]
                    assert position.leader_epoch == told["leaderEpoch"]
                    assert position.metadata == told["metadata"]
                    assert position.committed_ms == told["commitTimestamp"]
                    assert position.topic_id == told.get("topicId")
            case GroupKey():
                assert key.group == said.get("group", said.get("groupId"))
                if value is not None and key.type == "classic":
                    assert_group(decode_classic_group(value), row["says_value"]["data"])
            case OtherKey():
                assert str(key.version) == row["says_key"]["type"]
        if value is None:
            assert row["says_value"] == "<DELETE>"
    assert {OffsetKey, GroupKey} <= kinds


def assert_group(group: ClassicGroup, told: dict[str, Any]) -> None:
    assert group.protocol_type == told["protocolType"]
    assert (group.generation, group.protocol, group.leader) == (told["generation"], told["protocol"], told["leader"])
    assert group.changed_ms == told["currentStateTimestamp"]
    assert len(group.members) == len(told["members"])
    for member, row in zip(group.members, told["members"], strict=True):
        assert (member.member_id, member.instance_id) == (row["memberId"], row["groupInstanceId"])
        assert (member.client_id, member.client_host) == (row["clientId"], row["clientHost"])
        assert (member.rebalance_timeout_ms, member.session_timeout_ms) == (
            row["rebalanceTimeout"],
            row["sessionTimeout"],
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_records_of_transaction_state_say_what_kafkas_own_tool_reads_in_them(version: str) -> None:
    states = set()
    for row in golden(version, "transaction_state"):
        assert decode_transactional_id(bytes.fromhex(row["key"])) == row["says_key"]["data"]["transactionalId"]
        told, entry = row["says_value"]["data"], decode_transaction(bytes.fromhex(row["value"]))
        assert (entry.producer_id, entry.producer_epoch) == (told["producerId"], told["producerEpoch"])
        assert (entry.timeout_ms, entry.state) == (told["transactionTimeoutMs"], told["transactionStatus"])
        assert entry.partitions == tuple(
            (topic["topic"], number)
            for topic in told["transactionPartitions"] or ()
            for number in topic["partitionIds"]
        )
        assert entry.updated_ms == told["transactionLastUpdateTimestampMs"]
        assert entry.started_ms == told["transactionStartTimestampMs"]
        assert entry.previous_producer_id == told.get("previousProducerId", -1)
        assert entry.client_version == told.get("clientTransactionVersion", 0)
        states.add(entry.state.title)
    assert {"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort"} <= states


@given(st.builds(OffsetKey, TEXT, TEXT, INT32), st.sampled_from((0, 1)))
def test_a_key_of_either_version_names_group_topic_and_partition(key: OffsetKey, version: int) -> None:
    assert decode_key(offset_key(key, version)) == key


@given(POSITIONS, st.integers(0, 4))
def test_a_position_of_every_version_is_read_as_it_was_written(position: CommittedPosition, version: int) -> None:
    expected = position._replace(
        leader_epoch=position.leader_epoch if version >= 3 else -1,
        expire_ms=position.expire_ms if version == 1 else -1,
        topic_id=position.topic_id if version >= 4 else None,
    )
    assert decode_position(position_value(position, version)) == expected


@given(GROUPS, st.integers(0, 4))
def test_a_classic_group_of_every_version_is_read_as_it_was_written(group: ClassicGroup, version: int) -> None:
    expected = replace(
        group,
        changed_ms=group.changed_ms if version >= 2 else -1,
        members=tuple(
            one._replace(
                instance_id=one.instance_id if version >= 3 else None,
                rebalance_timeout_ms=one.rebalance_timeout_ms if version >= 1 else -1,
            )
            for one in group.members
        ),
    )
    assert decode_classic_group(classic_group_value(group, version)) == expected


@given(ENTRIES)
def test_a_transaction_is_read_as_it_was_written(entry: TransactionEntry) -> None:
    assert decode_transaction(transaction_value(entry)) == entry
    before_kafka_4 = replace(
        entry, previous_producer_id=-1, next_producer_id=-1, next_producer_epoch=-1, client_version=0
    )
    assert decode_transaction(transaction_value(before_kafka_4, version=0)) == before_kafka_4


@given(st.dictionaries(st.integers(10, 2**32 - 1), st.binary(max_size=20), max_size=4))
def test_tagged_fields_that_came_later_are_skipped(tags: dict[int, bytes]) -> None:
    assert decode_position(position_value(POSITION, more_tags=tags)) == POSITION
    assert decode_transaction(transaction_value(ENTRY, more_tags=tags)) == ENTRY


@given(st.binary(max_size=120))
def test_no_bytes_whatever_make_a_decoder_fail_in_another_way_than_it_says(data: bytes) -> None:
    nothing_else_than_malformed(data)
    for version in range(8):
        nothing_else_than_malformed(struct.pack(">h", version) + data)


@given(st.sampled_from((position_value(POSITION), transaction_value(ENTRY))), st.data())
def test_a_record_with_bytes_changed_is_read_or_refused_but_never_worse(sound: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sound) - 1))
    nothing_else_than_malformed(sound[:at] + bytes((data.draw(st.integers(0, 255)),)) + sound[at + 1 :])


def test_a_record_that_was_cut_short_anywhere_or_grew_is_refused() -> None:
    group = ClassicGroup(
        protocol_type="consumer",
        generation=3,
        protocol="range",
        leader="one",
        changed_ms=5,
        members=(ClassicMember("one", None, "client", "/127.0.0.1", 1, 2, b"subscribed", b"assigned"),),
    )
    key = OffsetKey("billing", "orders", 1)
    sound: list[tuple[Callable[[bytes], object], bytes]] = [
        (decode_key, offset_key(key)),
        (decode_key, group_key("billing")),
    ]
    sound += [(decode_position, position_value(POSITION, version)) for version in range(5)]
    sound += [(decode_classic_group, classic_group_value(group, version)) for version in range(5)]
    sound += [(decode_transaction, transaction_value(ENTRY, version)) for version in range(2)]
    sound += [(decode_transactional_id, transactional_id_key("payments"))]
    for decode, data in sound:
        for length in range(len(data)):
            with pytest.raises(MalformedRecordError):
                decode(data[:length])
        with pytest.raises(MalformedRecordError):
            decode(data + b"\0")


def test_versions_and_states_that_came_later_are_told_and_not_guessed() -> None:
    for decode, data in (
        (decode_position, struct.pack(">h", 5) + position_value(POSITION)[2:]),
        (decode_classic_group, struct.pack(">h", 5)),
        (decode_transaction, struct.pack(">h", 2) + transaction_value(ENTRY)[2:]),
        (decode_transactional_id, transactional_id_key("payments", version=1)),
        (decode_transaction, transaction_value(ENTRY)[:16] + b"\x09" + transaction_value(ENTRY)[17:]),
    ):
        with pytest.raises(UnknownRecordError, match="is not known to this version"):
            decode(data)
    assert decode_key(struct.pack(">h", 99) + b"whatever") == OtherKey(99)


def test_groups_of_every_type_are_named_and_their_other_records_are_left_alone() -> None:
    assert decode_key(group_key("billing", 2)) == GroupKey("classic", "billing")
    assert decode_key(group_key("billing", 3)) == GroupKey("consumer", "billing")
    assert decode_key(group_key("billing", 11)) == GroupKey("share", "billing")
    assert decode_key(group_key("billing", 17)) == GroupKey("streams", "billing")
    assert decode_key(group_key("billing", 5)) == OtherKey(5)


@pytest.mark.parametrize(
    ("group", "code"),
    # What Java's String.hashCode is documented, or well known, to give; it hashes UTF-16 code units.
    [("", 0), ("hello", 99162322), ("Aa", 2112), ("BB", 2112), ("ä", 228), ("😀", 55357 * 31 + 56832)],
)
def test_a_group_lies_in_the_partition_that_the_broker_puts_it_into(group: str, code: int) -> None:
    assert coordinator_partition(group, 50) == code % 50


def test_the_least_of_javas_hashes_counts_as_zero() -> None:
    assert coordinator_partition("polygenelubricants", 50) == 0
