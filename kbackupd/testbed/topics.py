"""Make and remove topics with an independent client (confluent-kafka); each call returns when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec, TimestampSpec
from confluent_kafka.cimpl import NewPartitions, NewTopic

from kbackupd.testbed.process import Deadline, ServerFailedError

_DEADLINE_SECONDS = 120.0


def create_topic(
    bootstrap: str,
    topic: str,
    *,
    partitions: int = 1,
    replication_factor: int = 1,
    config: Mapping[str, str] | None = None,
) -> str:
    """Create `topic` and wait until every partition has a leader that answers; returns its name.

    Raises:
        ServerFailedError: refused (it exists already, bad configuration), or no leaders in time.
    """
    admin = _admin(bootstrap)
    new = NewTopic(topic, num_partitions=partitions, replication_factor=replication_factor, config=dict(config or {}))
    try:
        admin.create_topics([new], operation_timeout=60, request_timeout=90)[topic].result(_DEADLINE_SECONDS)
    except KafkaException as error:
        raise ServerFailedError(f"cannot create topic {topic}: {error}") from error
    await_leaders(bootstrap, topic, partitions)
    return topic


def delete_topic(bootstrap: str, *topics: str) -> None:
    """Delete the topics and wait until they are gone from the metadata.

    Raises:
        ServerFailedError: refused, or still there at the deadline.
    """
    # Held in a name until the answer is here: a collected client cancels what it asked.
    admin = _admin(bootstrap)
    for topic, answer in admin.delete_topics(list(topics), operation_timeout=60, request_timeout=90).items():
        try:
            answer.result(_DEADLINE_SECONDS)
        except KafkaException as error:
            raise ServerFailedError(f"cannot delete topic {topic}: {error}") from error
    deadline = Deadline(_DEADLINE_SECONDS)
    while left := admin.list_topics(timeout=_DEADLINE_SECONDS).topics.keys() & set(topics):
        if deadline.passed:
            raise ServerFailedError(f"topics {', '.join(sorted(left))} are still there after {_DEADLINE_SECONDS:g} s")
        time.sleep(0.05)


def add_partitions(bootstrap: str, topic: str, *, total: int) -> None:
    """Grow `topic` to `total` partitions and wait until each has a leader that answers.

    Raises:
        ServerFailedError: refused, or no leaders in time.
    """
    admin = _admin(bootstrap)
    try:
        admin.create_partitions([NewPartitions(topic, total)], operation_timeout=60, request_timeout=90)[topic].result(
            _DEADLINE_SECONDS
        )
    except KafkaException as error:
        raise ServerFailedError(f"cannot grow topic {topic}: {error}") from error
    await_leaders(bootstrap, topic, total)


def partition_leaders(bootstrap: str, topic: str) -> dict[int, int]:
    """Leader's node id per partition (-1: none at the moment); empty if there is no such topic."""
    metadata = _admin(bootstrap).list_topics(topic, timeout=_DEADLINE_SECONDS).topics[topic]
    if metadata.error is not None:
        if metadata.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return {}
        # LEADER_NOT_AVAILABLE while the topic is being made.
        return dict.fromkeys(metadata.partitions, -1)
    return {number: partition.leader for number, partition in metadata.partitions.items()}


def await_leaders(bootstrap: str, topic: str, partitions: int) -> None:
    """Return when so many partitions have a leader that answers.

    Raises:
        ServerFailedError: not in time.
    """
    deadline = Deadline(_DEADLINE_SECONDS)
    while not deadline.passed:
        found = partition_leaders(bootstrap, topic)
        named = len(found) == partitions and all(leader >= 0 for leader in found.values())
        if named and _answer(bootstrap, topic, partitions):
            return
        time.sleep(0.05)
    raise ServerFailedError(f"topic {topic} has no leaders that answer after {_DEADLINE_SECONDS:g} s")


def _answer(bootstrap: str, topic: str, partitions: int) -> bool:
    """The leaders know that they lead: a broker tells of a new topic a moment before it takes its partitions on."""
    admin = _admin(bootstrap)
    wanted: dict[TopicPartition, OffsetSpec] = {
        TopicPartition(topic, number): TimestampSpec(0) for number in range(partitions)
    }
    try:
        for answer in admin.list_offsets(wanted).values():
            answer.result(_DEADLINE_SECONDS)
    except KafkaException:
        return False
    return True


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
