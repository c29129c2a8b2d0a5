"""What a broker's answer to a produced batch means: pure. Which refusals pass, which are final, and what to do then.

Owns the rule that nobody is told to delete a topic which held records before (`append`).
"""

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

SET_ASIDE = "--plans DIR with an empty directory begins anew, and what is there of it stays"
"""How to begin anew where topics cannot be deleted, for they hold what others wrote."""

_HINTS: dict[int, str] = {
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


def begin_anew(tp: TopicPartition, *, appends: bool) -> str:
    """What is left to do where a partition's log cannot be gone on with; follows an "and" or a semicolon.

    Args:
        appends: the topic held records of others before: deleting it is no remedy.
    """
    if not appends:
        return "delete the topics of this restore and begin anew"
    return f"restore into another topic (topic_mapping), or the rest of {tp.topic} (offset_ranges); {SET_ASIDE}"


def foreign_end(tp: TopicPartition, what: str, *, appends: bool) -> IncompleteError:
    """A log that does not go on where ours did; `what` says where it does."""
    return IncompleteError(
        f"{tp.topic}-{tp.partition}: {what}",
        hint=f"somebody else writes into the target; stop them, and {begin_anew(tp, appends=appends)}",
    )


def refusal(tp: TopicPartition, answer: ProduceAnswer, *, appends: bool = False) -> IncompleteError:
    """The refusal as an error that names partition, code and the broker's own words."""
    said = f": {answer.error_message}" if answer.error_message else ""
    hint = _HINTS.get(answer.error_code, "")
    if answer.error_code == KafkaErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER:
        hint = (
            "the target lost batches it had acknowledged (an unclean election?), or another run of this restore is"
            f" under way: let that one end, or {begin_anew(tp, appends=appends)}"
        )
    return IncompleteError(
        f"{tp.topic}-{tp.partition}: the target refused a batch with {_code_name(answer.error_code)}{said}", hint=hint
    )
