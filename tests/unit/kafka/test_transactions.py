"""A transactional producer that never produces: what is asked again, of whom, and what is not."""

from __future__ import annotations

from collections import deque
from typing import TypeVar, cast

import pytest

from kbackupd.kafka.answers import Coordinator
from kbackupd.kafka.codec import WireRequest
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.transactions import EmptyTransactions, MarkerWriter
from kbackupd.kafka.types import BrokerInfo, KafkaErrorCode, TopicPartition
from kbackupd.kafka.wire import InitProducerIdAnswer
from kbackupd.kafka.wire_transactions import (
    AddPartitionsToTransactionRequest,
    EndTransactionRequest,
    FindTransactionCoordinatorRequest,
    InitTransactionsRequest,
    WriteMarkersRequest,
)
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.settings import SecuritySettings

T = TypeVar("T")
CODE = KafkaErrorCode
TP = TopicPartition("orders", 0)
WORDS = {
    FindTransactionCoordinatorRequest: "find",
    InitTransactionsRequest: "init",
    AddPartitionsToTransactionRequest: "add",
    EndTransactionRequest: "end",
    WriteMarkersRequest: "markers",
}


class Brokers(KafkaConnection):
    """Answers with the codes it is given, one after the other, then without an error; an exception is a lost answer."""

    def __init__(self, *codes: int | KafkaUnavailableError | KafkaDeniedError) -> None:
        super().__init__(bootstrap_servers=(), security=SecuritySettings(), client_id="test", clock=SystemClock())
        self.learn([BrokerInfo(node_id=1, host="127.0.0.1", port=1)])
        self.codes = deque(codes)
        self.asked: list[str] = []

    async def send_any(self, request: WireRequest[T], *, timeout_seconds: float | None = None, lane: int = 0) -> T:
        return await self.send(1, request)

    async def send(
        self, node_id: int, request: WireRequest[T], *, timeout_seconds: float | None = None, lane: int = 0
    ) -> T:
        self.asked.append(WORDS[type(request)])
        code = self.codes.popleft() if self.codes else CODE.NONE
        if isinstance(code, Exception):
            raise code
        return cast(T, self._answer(request, code))

    @staticmethod
    def _answer(request: WireRequest[T], code: int) -> object:
        match request:
            case FindTransactionCoordinatorRequest():
                return Coordinator(error_code=code, node_id=1)
            case InitTransactionsRequest():
                return InitProducerIdAnswer(error_code=code, producer_id=7, producer_epoch=0)
            case AddPartitionsToTransactionRequest():
                return dict.fromkeys(request.partitions, code)
            case WriteMarkersRequest():
                return {(marker.producer_id, marker.tp): code for marker in request.markers}
            case _:
                return code


async def test_a_coordinator_that_starts_or_ends_another_transaction_is_waited_for() -> None:
    brokers = Brokers(
        CODE.COORDINATOR_NOT_AVAILABLE, CODE.NONE, CODE.COORDINATOR_LOAD_IN_PROGRESS, CODE.CONCURRENT_TRANSACTIONS
    )
    transactions = EmptyTransactions(brokers, "id")
    await transactions.open()
    brokers.codes.extend([CODE.CONCURRENT_TRANSACTIONS, CODE.NONE, CODE.CONCURRENT_TRANSACTIONS, CODE.NONE])
    await transactions.end_one([TP])

    assert brokers.asked == ["find", "find", "init", "init", "init", "add", "add", "end", "end"]


async def test_a_coordinator_that_moved_is_looked_for() -> None:
    brokers = Brokers(CODE.NONE, CODE.NOT_COORDINATOR)
    transactions = EmptyTransactions(brokers, "id")
    await transactions.open()
    brokers.codes.extend([CODE.NONE, CODE.NOT_COORDINATOR])
    await transactions.end_one([TP])

    assert brokers.asked == ["find", "init", "find", "init", "add", "end", "find", "end"]


async def test_opening_may_be_repeated_and_is_and_a_transaction_whose_answer_is_lost_is_the_callers_to_settle() -> None:
    brokers = Brokers(CODE.NONE, KafkaUnavailableError("gone"))
    transactions = EmptyTransactions(brokers, "id")
    await transactions.open()
    brokers.codes.extend([CODE.NONE, KafkaUnavailableError("gone")])
    with pytest.raises(KafkaUnavailableError, match="gone"):
        await transactions.end_one([TP])

    assert brokers.asked == ["find", "init", "find", "init", "add", "end"]


@pytest.mark.parametrize(
    "code", [CODE.PRODUCER_FENCED, CODE.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, CODE.TOPIC_AUTHORIZATION_FAILED]
)
async def test_a_final_refusal_is_told_at_once_with_its_code(code: KafkaErrorCode) -> None:
    brokers = Brokers()
    transactions = EmptyTransactions(brokers, "id")
    await transactions.open()
    brokers.codes.append(code)
    with pytest.raises(KafkaDeniedError) as refused:
        await transactions.end_one([TP])

    assert refused.value.code == code
    assert brokers.asked == ["find", "init", "add"]


async def test_a_coordinator_that_never_comes_is_given_up() -> None:
    with pytest.raises(KafkaUnavailableError, match="COORDINATOR_NOT_AVAILABLE"):
        await EmptyTransactions(Brokers(*[CODE.COORDINATOR_NOT_AVAILABLE] * 1_000), "id").open(timeout_seconds=0.02)


@pytest.mark.parametrize(
    ("answer", "permitted"),
    [
        (CODE.UNKNOWN_TOPIC_OR_PARTITION, True),
        (CODE.CLUSTER_AUTHORIZATION_FAILED, False),
        (CODE.UNKNOWN_SERVER_ERROR, False),
        (KafkaDeniedError("no such request", code=CODE.UNSUPPORTED_VERSION), False),
    ],
)
async def test_markers_are_permitted_where_a_partition_that_cannot_be_is_all_that_is_found_wrong(
    answer: int | KafkaDeniedError, permitted: bool
) -> None:
    assert await MarkerWriter(Brokers(answer)).permitted("orders") is permitted
