"""Bytes of the requests about transactions, written out field by field from Kafka's message definitions."""

from __future__ import annotations

from kbackupd.kafka.answers import Coordinator
from kbackupd.kafka.types import TopicPartition, TransactionMarker
from kbackupd.kafka.wire import InitProducerIdAnswer, ListOffsetsRequest
from kbackupd.kafka.wire_transactions import (
    AddPartitionsToTransactionRequest,
    EndTransactionRequest,
    FindTransactionCoordinatorRequest,
    InitTransactionsRequest,
    WriteMarkersRequest,
)

ORDERS = [TopicPartition("orders", 3), TopicPartition("orders", 4)]


def _hex(*parts: str) -> bytes:
    return bytes.fromhex("".join(parts))


def test_a_marker_names_its_producer_outcome_partition_and_coordinator_epoch() -> None:
    marker = TransactionMarker(ORDERS[0], producer_id=258, producer_epoch=7, coordinator_epoch=9, committed=True)
    encoded = WriteMarkersRequest(markers=[marker]).encode()

    orders = "07" + b"orders".hex()
    one = "0000000000000102" + "0007" + "01" + "02" + orders + "02" + "00000003" + "00" + "00000009" + "00"
    assert encoded == _hex("02", one, "00")


def test_an_answer_about_markers_has_a_code_by_producer_and_partition() -> None:
    orders = "07" + b"orders".hex()
    rows = "03" + "00000003" + "0000" + "00" + "00000004" + "0034" + "00"
    told = _hex("02", "0000000000000102", "02", orders, rows, "00", "00", "00")

    assert WriteMarkersRequest(markers=[]).decode(told, 0) == {(258, ORDERS[0]): 0, (258, ORDERS[1]): 52}


def test_a_transactional_producer_is_asked_for_by_its_id_and_gets_an_epoch() -> None:
    request = InitTransactionsRequest(transactional_id="t", transaction_timeout_ms=256)

    assert request.encode() == _hex("0274", "00000100", "00")
    told = _hex("00000000", "0000", "0000000000000102", "0007", "00")
    assert request.decode(told, 0) == InitProducerIdAnswer(error_code=0, producer_id=258, producer_epoch=7)


def test_partitions_are_added_by_topic_and_answered_one_by_one() -> None:
    request = AddPartitionsToTransactionRequest(
        transactional_id="t", producer_id=258, producer_epoch=7, partitions=ORDERS
    )

    orders = "07" + b"orders".hex()
    who = "0274" + "0000000000000102" + "0007"
    assert request.encode() == _hex(who, "02", orders, "03", "00000003", "00000004", "00", "00")
    told = _hex("00000000", "02", orders, "03", "00000003", "0000", "00", "00000004", "0033", "00", "00", "00")
    assert request.decode(told, 0) == {ORDERS[0]: 0, ORDERS[1]: 51}


def test_a_transaction_is_ended_under_its_producers_name() -> None:
    request = EndTransactionRequest(transactional_id="t", producer_id=258, producer_epoch=7, committed=False)

    assert request.encode() == _hex("0274", "0000000000000102", "0007", "00", "00")
    assert request.decode(_hex("00000000", "0033", "00"), 0) == 51


def test_the_coordinator_of_a_transactional_id_is_asked_for_by_type() -> None:
    request = FindTransactionCoordinatorRequest(transactional_id="t")

    assert request.encode() == _hex("01", "02", "0274", "00")
    told = _hex("00000000", "02", "0274", "00000005", "0268", "00002384", "000f", "00", "00", "00")
    assert request.decode(told, 0) == Coordinator(error_code=15, node_id=5)


def test_only_who_asks_for_what_is_not_replicated_is_told_the_logs_own_end() -> None:
    asked = {ORDERS[0]: (-1, -1)}

    assert ListOffsetsRequest(asked=asked).encode()[:4] == _hex("ffffffff")
    assert ListOffsetsRequest(asked=asked, unreplicated=True).encode()[:4] == _hex("fffffffe")
