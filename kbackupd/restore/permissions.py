"""What a restore must be allowed to do in the target, and which of it is lacking. Pure.

Kafka tells with its metadata what a principal may do with a topic (KIP-430). A broker that does not tell is believed
capable: a restore that works today must not fail because we could not ask first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kbackupd.kafka.types import KafkaErrorCode, TopicOperation

CAN = TopicOperation
NOT_ALLOWED = (KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED, KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED)
"""Answers that mean a missing permission."""

_ORDER = (CAN.DESCRIBE, CAN.CREATE, CAN.READ, CAN.WRITE, CAN.DELETE, CAN.ALTER_CONFIGS, CAN.DESCRIBE_CONFIGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One reason not to begin. `denied`: nothing would be harmed, we are only not allowed."""

    what: str
    remedy: str
    denied: bool = False


def needed(*, exists: bool, reads_back: bool, moves_log_start: bool = False) -> frozenset[TopicOperation]:
    """What a restore does with a topic that may be described.

    Create is not in it: it may be granted on the cluster instead, so the controller is asked whether it would.

    Args:
        reads_back: what was restored is verified, or what an earlier run restored is gone on with.
        moves_log_start: offsets are kept, and do not begin at 0.
    """
    always = {CAN.WRITE, CAN.ALTER_CONFIGS}
    if moves_log_start:
        always |= {CAN.DELETE}
    return frozenset(always | ({CAN.DESCRIBE_CONFIGS} if exists else set()) | ({CAN.READ} if reads_back else set()))


def lacking(topic: str, operations: Collection[TopicOperation]) -> Problem:
    names = ", ".join(one.label for one in _ORDER if one in operations)
    return Problem(
        what=f"topic {topic}: this principal lacks {names}", remedy=f"grant {names} on topic {topic}", denied=True
    )


def hidden(topic: str, *, reads_back: bool, moves_log_start: bool = False) -> Problem:
    """Without Describe the broker tells nothing about the topic, not even whether it exists."""
    wanted = {CAN.DESCRIBE, CAN.CREATE} | needed(exists=False, reads_back=reads_back, moves_log_start=moves_log_start)
    names = ", ".join(one.label for one in _ORDER if one in wanted)
    return Problem(
        what=f"topic {topic}: this principal lacks {CAN.DESCRIBE.label}",
        remedy=f"grant {names} on topic {topic}",
        denied=True,
    )


NO_PRODUCER = Problem(
    what="this principal may not produce idempotently",
    remedy="grant Write on the target topics, or IdempotentWrite on the cluster",
    denied=True,
)
