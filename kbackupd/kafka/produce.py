"""Producing record batches as they are: the caller has rewritten their headers, the broker drops what it has already.

Owns no sequence numbers: whoever rewrites the batches (`restore/`) counts them, because a resumed run goes on with the
sequence of the target's last batch. A repeated batch (same producer id, epoch and sequence) appends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code
from kbackupd.kafka.types import KafkaErrorCode, ProduceAnswer, TopicPartition
from kbackupd.kafka.wire import InitProducerIdRequest, ProduceRequest
from kbackupd.model.errors import KafkaUnavailableError

_COORDINATOR_STARTING = frozenset(
    {
        KafkaErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaErrorCode.COORDINATOR_NOT_AVAILABLE,
        KafkaErrorCode.NOT_COORDINATOR,
    }
)
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_ANSWER_MARGIN_SECONDS = 5.0
"""What a broker may take to answer beyond the time it was given to replicate."""


class RawProducer:
    """An idempotent producer's identity and its own connection lane. Use `open` for a fresh identity."""

    def __init__(self, connection: KafkaConnection, *, producer_id: int, producer_epoch: int) -> None:
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self._connection = connection
        self._lane = connection.new_lane()

    @classmethod
    async def open(cls, connection: KafkaConnection, *, timeout_seconds: float = 60.0) -> RawProducer:
        """A producer with a fresh id, as the cluster gives it (KIP-98). Nothing is appended anywhere.

        Waits while the coordinator is only starting, which on a new cluster it does at the first request.

        Raises: KafkaUnavailableError, also when that takes longer than `timeout_seconds`; KafkaDeniedError.
        """
        clock = connection.clock
        deadline = clock.monotonic() + timeout_seconds
        pause = _FIRST_PAUSE_SECONDS
        what = "asking for a producer id"
        while True:
            left = deadline - clock.monotonic()
            if left <= 0:
                raise KafkaUnavailableError(
                    f"{what}: the coordinator was not ready within {timeout_seconds:g} s",
                    hint="do the brokers have enough replicas for __transaction_state?",
                    code=KafkaErrorCode.COORDINATOR_NOT_AVAILABLE,
                )
            answer = await connection.send_any(InitProducerIdRequest(), timeout_seconds=left)
            if answer.error_code == KafkaErrorCode.NONE:
                return cls(connection, producer_id=answer.producer_id, producer_epoch=answer.producer_epoch)
            if answer.error_code not in _COORDINATOR_STARTING:
                raise error_for_code(answer.error_code, what)
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def produce(
        self, node_id: int, batches: Mapping[TopicPartition, bytes | bytearray], *, timeout_ms: int
    ) -> dict[TopicPartition, ProduceAnswer]:
        """Append one batch per partition, all led by broker `node_id`, and wait for all in-sync replicas.

        Up to five calls may be under way at once; the broker takes them in the order they were started. On return
        without error in a partition's answer its batch is in the log; after an exception or a cancellation nobody
        knows, and the same batches must be sent again before any with a later sequence.

        The broker takes a batch only with base offset 0 in its header (else INVALID_RECORD), and counts itself.
        Every partition is in the answer; one the broker left out has UNKNOWN_SERVER_ERROR.

        Raises: KafkaUnavailableError, KafkaDeniedError.
        """
        answers = await self._connection.send(
            node_id,
            ProduceRequest(batches=batches, timeout_ms=timeout_ms),
            timeout_seconds=timeout_ms / 1000 + _ANSWER_MARGIN_SECONDS,
            lane=self._lane,
        )
        unanswered = ProduceAnswer(
            error_code=KafkaErrorCode.UNKNOWN_SERVER_ERROR, base_offset=-1, log_append_time=-1, log_start_offset=-1
        )
        return {tp: answers.get(tp, unanswered) for tp in batches}
