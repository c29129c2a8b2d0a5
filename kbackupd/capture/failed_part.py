"""What a failure makes of a part of a snapshot: denied or failed, why, and as of when its content is. Pure."""

from __future__ import annotations

from kbackupd.kafka.errors import code_name
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.snapshots import PartState, ReadOutcome

_HIDDEN = frozenset(
    {
        KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED,
        KafkaErrorCode.GROUP_AUTHORIZATION_FAILED,
        KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED,
    }
)


def failed_part(code: int, answered_ms: int) -> PartState:
    """What an error code makes of a part whose content is of `answered_ms`."""
    outcome = ReadOutcome.DENIED if code in _HIDDEN else ReadOutcome.FAILED
    return PartState(outcome=outcome, cause=f"{code_name(code)} ({code})", answered_ms=answered_ms)


def failed_by(error: KafkaUnavailableError | KafkaDeniedError, answered_ms: int) -> PartState:
    """The same for an error that was raised."""
    if error.code in _HIDDEN:
        return failed_part(error.code, answered_ms)
    return PartState(outcome=ReadOutcome.FAILED, cause=error.message, answered_ms=answered_ms)
