"""What a broker's answer to a produced batch means: pure. Which refusals pass, which are final, and what to do then."""

from __future__ import annotations

from kbackupd.kafka.types import KafkaErrorCode, ProduceAnswer, TopicPartition
from kbackupd.model.errors import IncompleteError

LEADER_MOVED = frozenset(
    {
        KafkaErrorCode.NOT_LEADER_OR_FOLLOWER,
        KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        KafkaErrorCode.LEADER_NOT_AVAILABLE,
        KafkaErrorCode.NETWORK_EXCEPTION,
        KafkaErrorCode.FENCED_LEADER_EPOCH,
        KafkaErrorCode.KAFKA_STORAGE_ERROR,
    }
)
"""Ask who leads before trying again."""

_HINTS: dict[int, str] = {
    KafkaErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER: (
        "the target lost batches it had acknowledged (an unclean election?); delete the topic and restore it again"
    ),
    KafkaErrorCode.MESSAGE_TOO_LARGE: "raise the target's max.message.bytes, and message.max.bytes of its brokers",
    KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED: "grant Write on the target topic",
    KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED: "grant IdempotentWrite on the cluster, or Write on the topic",
    KafkaErrorCode.INVALID_TIMESTAMP: (
        "set message.timestamp.before.max.ms and after.max.ms of the target topic high"
        " (message.timestamp.difference.max.ms before Kafka 3.6)"
    ),
    KafkaErrorCode.UNSUPPORTED_COMPRESSION_TYPE: "the target is too old for the batch's codec",
}


def is_retriable(code: int) -> bool:
    try:
        return KafkaErrorCode(code).retriable
    except ValueError:
        return False


def _code_name(code: int) -> str:
    try:
        return f"{KafkaErrorCode(code).name} ({code})"
    except ValueError:
        return f"error {code}"


def refusal(tp: TopicPartition, answer: ProduceAnswer) -> IncompleteError:
    """The refusal as an error that names partition, code and the broker's own words."""
    said = f": {answer.error_message}" if answer.error_message else ""
    return IncompleteError(
        f"{tp.topic}-{tp.partition}: the target refused a batch with {_code_name(answer.error_code)}{said}",
        hint=_HINTS.get(answer.error_code, ""),
    )
