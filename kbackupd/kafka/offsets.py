"""Where logs begin and end, and where a leader epoch ended: asked of the partitions' leader, grouped by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TypeVar

from kbackupd.kafka.codec import WireRequest
from kbackupd.kafka.connection import Sender
from kbackupd.kafka.types import EpochEnd, KafkaErrorCode, OffsetAnswer, TopicPartition
from kbackupd.kafka.wire import ListOffsetsRequest, OffsetForLeaderEpochRequest

V = TypeVar("V")

_PARTITIONS_PER_REQUEST = 2_000
"""Bounds one request's time in the broker, and how long it keeps the connection's other answers waiting."""


async def list_offsets(
    connection: Sender,
    node_id: int,
    asked: Mapping[TopicPartition, tuple[int, int]],
    *,
    unreplicated: bool = False,
    timeout_seconds: float | None = None,
) -> dict[TopicPartition, OffsetAnswer]:
    """Offsets by timestamp: `asked` maps a partition to (timestamp, current leader epoch).

    Timestamps: epoch milliseconds, −1 the high watermark, −2 the log start. Epoch −1: unchecked. Every partition asked
    for is in the answer; one the broker left out has UNKNOWN_SERVER_ERROR. The deadline is per request of 2,000.
    With `unreplicated` −1 is the end of the leader's log, which lies behind its high watermark while replicas follow.

    Raises: KafkaUnavailableError, KafkaDeniedError.
    """
    answers: dict[TopicPartition, OffsetAnswer] = {}
    for part in _parts(asked):
        request = ListOffsetsRequest(asked=part, unreplicated=unreplicated)
        answers.update(await _ask(connection, node_id, request, timeout_seconds))
    unanswered = OffsetAnswer(error_code=KafkaErrorCode.UNKNOWN_SERVER_ERROR, offset=-1, leader_epoch=-1)
    return {tp: answers.get(tp, unanswered) for tp in asked}


async def epoch_end_offsets(
    connection: Sender,
    node_id: int,
    asked: Mapping[TopicPartition, tuple[int, int]],
    *,
    timeout_seconds: float | None = None,
) -> dict[TopicPartition, EpochEnd]:
    """Ends of leader epochs (KIP-320): `asked` maps a partition to (current leader epoch, the epoch asked about).

    For the leader's own epoch the end is its high watermark, as far as consumers are told. Completeness, deadline and
    errors as with `list_offsets`.
    """
    answers: dict[TopicPartition, EpochEnd] = {}
    for part in _parts(asked):
        request = OffsetForLeaderEpochRequest(asked=part)
        answers.update(await _ask(connection, node_id, request, timeout_seconds))
    unanswered = EpochEnd(error_code=KafkaErrorCode.UNKNOWN_SERVER_ERROR, leader_epoch=-1, end_offset=-1)
    return {tp: answers.get(tp, unanswered) for tp in asked}


async def _ask(
    connection: Sender,
    node_id: int,
    request: WireRequest[dict[TopicPartition, V]],
    timeout_seconds: float | None,
) -> dict[TopicPartition, V]:
    return await connection.send(node_id, request, timeout_seconds=timeout_seconds)


def _parts(asked: Mapping[TopicPartition, V]) -> list[dict[TopicPartition, V]]:
    rows = iter(asked.items())
    parts = []
    while part := dict(islice(rows, _PARTITIONS_PER_REQUEST)):
        parts.append(part)
    return parts
