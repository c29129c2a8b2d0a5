"""What a transaction's coordinator does, and what a transactional producer does, without a record in between.

Both leave control records, which take one offset each and show to no consumer. `write_markers` needs Alter or
ClusterAction on the cluster; `EmptyTransactions` needs Write on the topics and on its transactional id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code
from kbackupd.kafka.types import KafkaErrorCode, TopicPartition, TransactionMarker
from kbackupd.kafka.wire import InitProducerIdAnswer
from kbackupd.kafka.wire_transactions import (
    AddPartitionsToTransactionRequest,
    EndTransactionRequest,
    FindTransactionCoordinatorRequest,
    InitTransactionsRequest,
    WriteMarkersRequest,
)
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError

T = TypeVar("T")

_NO_SUCH_PARTITION = (1 << 31) - 1
_TRANSACTION_TIMEOUT_MS = 60_000
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.5
_COORDINATOR_MOVED = frozenset({KafkaErrorCode.NOT_COORDINATOR, KafkaErrorCode.COORDINATOR_NOT_AVAILABLE})
_NOT_YET = _COORDINATOR_MOVED | {KafkaErrorCode.COORDINATOR_LOAD_IN_PROGRESS, KafkaErrorCode.CONCURRENT_TRANSACTIONS}


class _AskAgain(Exception):
    def __init__(self, failure: KafkaUnavailableError) -> None:
        super().__init__(failure.message)
        self.failure = failure


class MarkerWriter:
    """Markers straight to the leaders, on a connection lane of its own.

    A broker that leads only some of a request's partitions may answer never, and then answers nothing else on that
    connection either: hence the lane, and a deadline that is not long.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._lane = connection.new_lane()

    async def permitted(self, topic: str, *, timeout_seconds: float = 60.0) -> bool:
        """Whether this principal may write markers, found out by one for a partition that no topic has.

        Not where brokers do not know the request, or answer it in a way we do not.

        Raises: KafkaUnavailableError, KafkaDeniedError.
        """
        tp = TopicPartition(topic, _NO_SUCH_PARTITION)
        marker = TransactionMarker(tp, producer_id=1 << 61, producer_epoch=0, coordinator_epoch=0)
        request = WriteMarkersRequest(markers=[marker])
        try:
            answers = await self._connection.send_any(request, timeout_seconds=timeout_seconds, lane=self._lane)
        except KafkaDeniedError as error:
            if error.code != KafkaErrorCode.UNSUPPORTED_VERSION:
                raise
            return False
        return answers.get((marker.producer_id, tp)) == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    async def write(
        self, node_id: int, markers: Sequence[TransactionMarker], *, timeout_seconds: float
    ) -> dict[tuple[int, TopicPartition], int]:
        """Append `markers`, in order, to partitions that `node_id` leads; error codes by producer id and partition.

        With code 0 a marker is in the log of every in-sync replica. After an exception or a cancellation nobody knows,
        and the request may be carried out later, after others on another connection.

        Raises: KafkaUnavailableError, KafkaDeniedError.
        """
        request = WriteMarkersRequest(markers=markers)
        return await self._connection.send(node_id, request, timeout_seconds=timeout_seconds, lane=self._lane)


class EmptyTransactions:
    """A transactional producer that never produces. `open` it first; one call at a time."""

    def __init__(self, connection: KafkaConnection, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self._connection = connection
        self._lane = connection.new_lane()
        self._coordinator: int | None = None
        self._producer = InitProducerIdAnswer(error_code=0, producer_id=-1, producer_epoch=-1)

    async def open(self, *, timeout_seconds: float = 60.0) -> None:
        """Take the transactional id. On return nobody who used it before can do anything under it any more, and every
        marker of what they left open is in its partition.

        Raises: KafkaUnavailableError, also when that takes longer than `timeout_seconds`; KafkaDeniedError.
        """

        async def init(node_id: int, left: float) -> InitProducerIdAnswer:
            request = InitTransactionsRequest(
                transactional_id=self.transactional_id, transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS
            )
            return await self._connection.send(node_id, request, timeout_seconds=left, lane=self._lane)

        what = f"taking the transactional id {self.transactional_id}"
        self._producer = await self._until_done(
            what, init, lambda answer: answer.error_code, timeout_seconds, lost_answers_matter=False
        )

    async def end_one(self, partitions: Sequence[TopicPartition], *, timeout_seconds: float = 60.0) -> None:
        """A transaction over `partitions`, aborted: each gets one marker. On return that is decided, and the markers
        are on their way: a record produced now may come before them.

        After an exception or a cancellation each partition may get its marker or not: `open` settles it.

        Raises: KafkaUnavailableError, KafkaDeniedError.
        """

        async def add(node_id: int, left: float) -> Mapping[TopicPartition, int]:
            request = AddPartitionsToTransactionRequest(
                transactional_id=self.transactional_id,
                producer_id=self._producer.producer_id,
                producer_epoch=self._producer.producer_epoch,
                partitions=partitions,
            )
            return await self._connection.send(node_id, request, timeout_seconds=left, lane=self._lane)

        async def end(node_id: int, left: float) -> int:
            request = EndTransactionRequest(
                transactional_id=self.transactional_id,
                producer_id=self._producer.producer_id,
                producer_epoch=self._producer.producer_epoch,
                committed=False,
            )
            return await self._connection.send(node_id, request, timeout_seconds=left, lane=self._lane)

        await self._until_done("adding partitions to a transaction", add, _worst, timeout_seconds)
        await self._until_done("ending a transaction", end, lambda code: code, timeout_seconds)

    async def _until_done(
        self,
        what: str,
        ask: Callable[[int, float], Awaitable[T]],
        code_of: Callable[[T], int],
        timeout_seconds: float,
        *,
        lost_answers_matter: bool = True,
    ) -> T:
        """The coordinator's answer without an error; asked again while it starts, moves or ends a transaction."""
        clock = self._connection.clock
        deadline = clock.monotonic() + timeout_seconds
        pause = _FIRST_PAUSE_SECONDS
        failure = KafkaUnavailableError(f"{what}: not done within {timeout_seconds:g} s")
        while (left := deadline - clock.monotonic()) > 0:
            try:
                answer = await self._ask_coordinator(ask, left, lost_answers_matter=lost_answers_matter)
            except _AskAgain as again:
                failure = again.failure
            else:
                code = code_of(answer)
                if code == KafkaErrorCode.NONE:
                    return answer
                refusal = error_for_code(code, what)
                if isinstance(refusal, KafkaDeniedError) or (lost_answers_matter and code not in _NOT_YET):
                    raise refusal
                failure = refusal
                if code in _COORDINATOR_MOVED:
                    self._coordinator = None
            await asyncio.sleep(min(pause, max(deadline - clock.monotonic(), 0)))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        raise failure

    async def _ask_coordinator(
        self, ask: Callable[[int, float], Awaitable[T]], left_seconds: float, *, lost_answers_matter: bool
    ) -> T:
        try:
            node_id = await self._coordinator_node(left_seconds)
        except KafkaUnavailableError as error:
            raise _AskAgain(error) from error
        try:
            return await ask(node_id, left_seconds)
        except KafkaUnavailableError as error:
            self._coordinator = None
            if lost_answers_matter:
                raise
            raise _AskAgain(error) from error

    async def _coordinator_node(self, timeout_seconds: float) -> int:
        if self._coordinator is None:
            request = FindTransactionCoordinatorRequest(transactional_id=self.transactional_id)
            found = await self._connection.send_any(request, timeout_seconds=timeout_seconds, lane=self._lane)
            if found.error_code != KafkaErrorCode.NONE:
                raise error_for_code(found.error_code, f"finding the coordinator of {self.transactional_id}")
            self._coordinator = found.node_id
        return self._coordinator


def _worst(answers: Mapping[TopicPartition, int]) -> int:
    """The code that says why nothing was added; the others have OPERATION_NOT_ATTEMPTED."""
    codes = [
        code for code in answers.values() if code not in (KafkaErrorCode.NONE, KafkaErrorCode.OPERATION_NOT_ATTEMPTED)
    ]
    return codes[0] if codes else max(answers.values(), default=KafkaErrorCode.NONE)
