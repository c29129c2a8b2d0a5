"""Limits of the target that would stop a restore half-way: replicas that acknowledge, the size of requests. Pure.

What a topic's own configuration can lift (sizes of batches, timestamp bounds, LogAppendTime) is lifted for the time of
the restore and is no limit, unless the target will not have it set; that is asked of the controller (hazard 36).
"""

from __future__ import annotations

from kbackupd.kafka.types import KafkaErrorCode, TopicMetadata
from kbackupd.restore.permissions import Problem

REQUEST_BYTES_KEY = "socket.request.max.bytes"
_ROOM_BYTES = 64 << 10
"""Of a request, beside its batch; a rebuilt batch may be larger than the stored one as well."""


def too_few_to_create(topic: str, *, replicas: int, min_insync_replicas: int | None) -> Problem | None:
    """Where the topic would be created with fewer replicas than must acknowledge, none of its records would be."""
    if min_insync_replicas is None or not 0 < replicas < min_insync_replicas:
        return None
    return Problem(
        what=f"topic {topic} would be created with a replication factor of {replicas}, and min.insync.replicas is"
        f" {min_insync_replicas}: no record would be acknowledged",
        remedy=f"raise default.replication.factor of the target's brokers to {min_insync_replicas}, lower their"
        " min.insync.replicas, or create the topic yourself, empty",
    )


def too_few_in_sync(topic: TopicMetadata, min_insync_replicas: int | None) -> Problem | None:
    """Likewise of a topic that exists, by its partition that has the fewest."""
    if min_insync_replicas is None or not topic.partitions:
        return None
    fewest = min(topic.partitions, key=lambda one: len(one.replicas))
    never = f"and min.insync.replicas is {min_insync_replicas}: no record would be acknowledged"
    if (replicas := len(fewest.replicas)) < min_insync_replicas:
        return Problem(
            what=f"topic {topic.name}: partition {fewest.partition} has a replication factor of {replicas}, {never}",
            remedy=f"lower min.insync.replicas of {topic.name}, or give it more replicas"
            " (kafka-reassign-partitions.sh)",
        )
    lacking = [one for one in topic.partitions if len(one.isr) < min_insync_replicas]
    if lacking:
        first, more = lacking[0], f" (and {len(lacking) - 1} more partitions likewise)" if len(lacking) > 1 else ""
        return Problem(
            what=f"topic {topic.name}: partition {first.partition} has {len(first.isr)} of {len(first.replicas)}"
            f" replicas in sync, {never}{more}",
            remedy="bring the target's brokers back first, or lower min.insync.replicas of the topic",
        )
    return None


def request_too_large(topic: str, *, largest_batch_bytes: int, request_max_bytes: int | None) -> Problem | None:
    """A broker closes the connection on a request above its limit, without a word."""
    if request_max_bytes is None or largest_batch_bytes + _ROOM_BYTES <= request_max_bytes:
        return None
    return Problem(
        what=f"topic {topic}: its largest batch has {largest_batch_bytes} bytes, and the target's brokers take no"
        f" request above {request_max_bytes} ({REQUEST_BYTES_KEY})",
        remedy=f"raise {REQUEST_BYTES_KEY} of the target's brokers to {largest_batch_bytes + _ROOM_BYTES} or more",
    )


_CREATION_REMEDIES = {
    KafkaErrorCode.INVALID_REPLICATION_FACTOR: (
        "bring the target's brokers back, or lower their default.replication.factor to how many there are"
    ),
    KafkaErrorCode.POLICY_VIOLATION: (
        "have the target's create.topic.policy allow what a restore sets for its time (docs/restore.md, \"Topics during"
        ' and after a restore"), create the topic yourself, empty, or choose another name in topic_mapping'
    ),
}


def creation_remedy(topic: str, code: int) -> str:
    remedy = next((text for known, text in _CREATION_REMEDIES.items() if known == code), "")
    return remedy or f"create {topic} yourself, empty, or choose another name in topic_mapping"


def cannot_be_made_safe(topic: str, said: str) -> Problem:
    """A policy, or a value the broker does not take, keeps a topic from being protected while records come in."""
    return Problem(
        what=f"topic {topic} cannot be made safe for a restore: {said}",
        remedy="have the target's alter.config.policy allow what a restore sets for its time (docs/restore.md, \"Topics"
        ' during and after a restore"), or choose another name in topic_mapping',
    )
