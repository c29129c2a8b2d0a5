"""Describing and changing topics: batched, retried while the controller moves, returning when the effect is visible."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.types import (
    LATEST_TIMESTAMP,
    ClusterMetadata,
    DeletedRecords,
    KafkaErrorCode,
    TopicConfigs,
    TopicMetadata,
    TopicPartition,
)
from kbackupd.kafka.wire_admin import (
    AlterTopicConfigsRequest,
    ConfigEntry,
    ConfigSource,
    CreatePartitionsRequest,
    CreateTopicRequest,
    DeleteRecordsRequest,
    DeleteTopicRequest,
    DescribeTopicConfigsRequest,
    Outcome,
)
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import TopicId

_TOPICS_PER_REQUEST = 500
"""A topic has some forty configuration entries: 500 topics are an answer of about a megabyte."""
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = 60.0


async def describe_topic_configs(
    connection: KafkaConnection, names: Sequence[str], *, timeout_seconds: float | None = None, lane: int = 0
) -> dict[str, TopicConfigs]:
    """What was configured on each topic itself, without broker defaults and without sensitive values.

    This is what a restore has to set again. A topic that may not be described, or is gone, has its error code. The
    deadline is per request of 500 topics.

    Raises: KafkaUnavailableError, KafkaDeniedError.
    """

    def own(entry: ConfigEntry) -> bool:
        return entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG

    return await _describe(connection, names, None, own, timeout_seconds, lane)


async def effective_topic_configs(
    connection: KafkaConnection,
    names: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    timeout_seconds: float | None = None,
) -> dict[str, TopicConfigs]:
    """The values in force on each topic, wherever they come from; `keys` None: all. Otherwise like the above."""
    return await _describe(connection, names, keys, lambda _: True, timeout_seconds)


async def _describe(
    connection: KafkaConnection,
    names: Sequence[str],
    keys: Sequence[str] | None,
    selects: Callable[[ConfigEntry], bool],
    timeout_seconds: float | None,
    lane: int = 0,
) -> dict[str, TopicConfigs]:
    configs: dict[str, TopicConfigs] = {}
    for start in range(0, len(names), _TOPICS_PER_REQUEST):
        request = DescribeTopicConfigsRequest(topics=names[start : start + _TOPICS_PER_REQUEST], keys=keys)
        described = await connection.send_any(request, timeout_seconds=timeout_seconds, lane=lane)
        for name, topic in described.items():
            values = {
                entry.name: entry.value
                for entry in topic.entries
                if entry.value is not None and not entry.sensitive and selects(entry)
            }
            configs[name] = TopicConfigs(error_code=topic.error_code, values=values, error_message=topic.detail)
    return configs


async def create_topic(
    connection: KafkaConnection,
    name: str,
    *,
    partitions: int = -1,
    replication_factor: int = -1,
    configs: Mapping[str, str] | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> TopicMetadata:
    """Create a topic and wait until every partition's leader serves it; −1: the brokers' default.

    Cancelled or timed out, the topic may exist or not.

    Raises:
        KafkaDeniedError: it exists (36), is not permitted (29, 31), against a policy (44) or otherwise impossible.
        KafkaUnavailableError: the controller cannot be reached, or the topic was not ready in time.
    """
    what = f"creating topic {name}"

    def request(left_seconds: float) -> CreateTopicRequest:
        return CreateTopicRequest(
            name=name,
            partitions=partitions,
            replication_factor=replication_factor,
            configs={} if configs is None else configs,
            timeout_ms=round(left_seconds * 1000),
        )

    deadline = connection.clock.monotonic() + timeout_seconds
    outcome: Outcome | None = None
    async for left in _tries(connection, deadline):
        metadata = await cluster_metadata(connection, [name], timeout_seconds=left)
        if outcome is None:
            answers = await connection.send(_controller(metadata), request(left), timeout_seconds=left)
            outcome = _final(answers.get(name), what)
        elif (
            (topic := _topic(metadata, name)) is not None
            and topic.topic_id == outcome.topic_id
            and await _serving(connection, topic, left)
        ):
            return topic
    raise _too_late(what, timeout_seconds)


async def check_creation(
    connection: KafkaConnection,
    name: str,
    *,
    partitions: int = -1,
    configs: Mapping[str, str] | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> Outcome:
    """Have the controller say whether it would create the topic, and how: permissions, policy, configuration.

    Changes nothing.

    Raises: like `create_topic`.
    """
    what = f"creating topic {name}"
    deadline = connection.clock.monotonic() + timeout_seconds
    async for left in _tries(connection, deadline):
        metadata = await cluster_metadata(connection, [], timeout_seconds=left)
        request = CreateTopicRequest(
            name=name,
            partitions=partitions,
            replication_factor=-1,
            configs={} if configs is None else configs,
            timeout_ms=round(left * 1000),
            validate_only=True,
        )
        answers = await connection.send(_controller(metadata), request, timeout_seconds=left)
        if (outcome := _final(answers.get(name), what)) is not None:
            return outcome
    raise _too_late(what, timeout_seconds)


async def delete_topic(
    connection: KafkaConnection,
    name: str,
    *,
    topic_id: TopicId | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> None:
    """Delete a topic, by id if one is given, and wait until no broker we ask knows it under that id any more.

    Raises: KafkaDeniedError: no such topic, not permitted, deletion disabled. KafkaUnavailableError.
    """
    what = f"deleting topic {name}"
    deadline = connection.clock.monotonic() + timeout_seconds
    outcome: Outcome | None = None
    async for left in _tries(connection, deadline):
        metadata = await cluster_metadata(connection, [name], timeout_seconds=left)
        topic = _topic(metadata, name)
        if outcome is None:
            doomed = topic_id if topic_id is not None or topic is None else topic.topic_id
            request = DeleteTopicRequest(name=name, topic_id=doomed, timeout_ms=round(left * 1000))
            answer = await connection.send(_controller(metadata), request, timeout_seconds=left)
            outcome = _final(answer, what, missing_is_final=True)
        elif topic is None or topic.topic_id != outcome.topic_id:
            return
    raise _too_late(what, timeout_seconds)


async def create_partitions(
    connection: KafkaConnection, name: str, count: int, *, timeout_seconds: float = _TIMEOUT_SECONDS
) -> TopicMetadata:
    """Give a topic `count` partitions in all and wait until each leader serves them. Raises like `create_topic`."""
    what = f"raising topic {name} to {count} partitions"
    deadline = connection.clock.monotonic() + timeout_seconds
    outcome: Outcome | None = None
    async for left in _tries(connection, deadline):
        metadata = await cluster_metadata(connection, [name], timeout_seconds=left)
        if outcome is None:
            request = CreatePartitionsRequest(name=name, count=count, timeout_ms=round(left * 1000))
            answers = await connection.send(_controller(metadata), request, timeout_seconds=left)
            outcome = _final(answers.get(name), what, missing_is_final=True)
        elif (
            (topic := _topic(metadata, name)) is not None
            and len(topic.partitions) >= count
            and await _serving(connection, topic, left)
        ):
            return topic
    raise _too_late(what, timeout_seconds)


async def alter_topic_configs(
    connection: KafkaConnection,
    changes: Mapping[str, Mapping[str, str | None]],
    *,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> None:
    """Set configuration keys of topics (None: back to the default); keys not named stay as they are.

    On return the controller has them; each broker follows within moments.

    Raises: KafkaDeniedError, naming the first topic refused; others of the same call may have been changed.
        KafkaUnavailableError.
    """
    names = list(changes)
    for start in range(0, len(names), _TOPICS_PER_REQUEST):
        part = {name: changes[name] for name in names[start : start + _TOPICS_PER_REQUEST]}
        outcomes = await connection.send_any(AlterTopicConfigsRequest(changes=part), timeout_seconds=timeout_seconds)
        for name in part:
            _final(outcomes.get(name), f"configuring topic {name}", retried=False)


async def check_topic_configs(
    connection: KafkaConnection,
    name: str,
    configs: Mapping[str, str],
    *,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> None:
    """Have the controller say whether it would set these keys: permissions, policy, values. Changes nothing.

    Raises: as `alter_topic_configs`.
    """
    request = AlterTopicConfigsRequest(changes={name: configs}, validate_only=True)
    outcomes = await connection.send_any(request, timeout_seconds=timeout_seconds)
    _final(outcomes.get(name), f"configuring topic {name}", retried=False)


async def delete_records(
    connection: KafkaConnection, before: Mapping[TopicPartition, int], *, timeout_seconds: float = _TIMEOUT_SECONDS
) -> dict[TopicPartition, DeletedRecords]:
    """Move log starts up to the given offsets (−1: to the high watermark), each at its partition's leader.

    On return the brokers answer no record before them; the files go later. Every partition is in the answer; one
    without a leader has LEADER_NOT_AVAILABLE, one of an unknown topic UNKNOWN_TOPIC_OR_PARTITION.

    Raises: KafkaUnavailableError, KafkaDeniedError.
    """
    deadline = connection.clock.monotonic() + timeout_seconds
    metadata = await cluster_metadata(connection, sorted({tp.topic for tp in before}), timeout_seconds=timeout_seconds)
    leaders = {
        TopicPartition(topic.name, partition.partition): partition.leader_id
        for topic in metadata.topics
        for partition in topic.partitions
    }
    answers: dict[TopicPartition, DeletedRecords] = {}
    by_leader: dict[int, dict[TopicPartition, int]] = {}
    for tp, offset in before.items():
        leader = leaders.get(tp)
        if leader is None or leader < 0:
            missing = (
                KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION if leader is None else KafkaErrorCode.LEADER_NOT_AVAILABLE
            )
            answers[tp] = DeletedRecords(error_code=missing, log_start_offset=-1)
        else:
            by_leader.setdefault(leader, {})[tp] = offset
    for leader, offsets in by_leader.items():
        left = max(deadline - connection.clock.monotonic(), 0.001)
        request = DeleteRecordsRequest(before=offsets, timeout_ms=round(left * 1000))
        told = await connection.send(leader, request, timeout_seconds=left)
        unanswered = DeletedRecords(error_code=KafkaErrorCode.UNKNOWN_SERVER_ERROR, log_start_offset=-1)
        answers |= {tp: told.get(tp, unanswered) for tp in offsets}
    return answers


async def _tries(connection: KafkaConnection, deadline: float) -> AsyncIterator[float]:
    """Seconds left, at growing intervals, until the caller is content or nothing is left."""
    pause = _FIRST_PAUSE_SECONDS
    while (left := deadline - connection.clock.monotonic()) > 0:
        yield left
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _final(
    outcome: Outcome | None, what: str, *, retried: bool = True, missing_is_final: bool = False
) -> Outcome | None:
    """The outcome if it is success, None if the same request should be tried again; raises if it is final."""
    if outcome is None:
        raise error_for_code(KafkaErrorCode.UNKNOWN_SERVER_ERROR, f"{what}: the broker gave no answer")
    code = outcome.error_code
    if code == KafkaErrorCode.NONE:
        return outcome
    if missing_is_final and code in (KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION, KafkaErrorCode.UNKNOWN_TOPIC_ID):
        raise KafkaDeniedError(f"{what}: there is no such topic", code=code)
    error = error_for_code(code, what, detail=outcome.detail)
    if retried and isinstance(error, KafkaUnavailableError):
        return None
    raise error


def _too_late(what: str, timeout_seconds: float) -> KafkaUnavailableError:
    return KafkaUnavailableError(
        f"{what}: not done within {timeout_seconds:g} s",
        hint="it may still happen; are all brokers and the controller up?",
        code=KafkaErrorCode.REQUEST_TIMED_OUT,
    )


def _controller(metadata: ClusterMetadata) -> int:
    if metadata.controller_id >= 0:
        return metadata.controller_id
    if not metadata.brokers:
        raise KafkaUnavailableError("the cluster names no broker", code=KafkaErrorCode.NOT_CONTROLLER)
    return metadata.brokers[0].node_id


def _topic(metadata: ClusterMetadata, name: str) -> TopicMetadata | None:
    found = next((topic for topic in metadata.topics if topic.name == name), None)
    return None if found is None or found.error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION else found


async def _serving(connection: KafkaConnection, topic: TopicMetadata, left_seconds: float) -> bool:
    """Whether each partition's leader serves it; one that cannot be asked does not.

    Metadata names a leader before that broker has opened the log; a fetch in between is told NOT_LEADER_OR_FOLLOWER.
    """
    asked: dict[int, dict[TopicPartition, tuple[int, int]]] = {}
    for partition in topic.partitions:
        if partition.leader_id < 0:
            return False
        tp = TopicPartition(topic.name, partition.partition)
        asked.setdefault(partition.leader_id, {})[tp] = (LATEST_TIMESTAMP, partition.leader_epoch)
    for leader, partitions in asked.items():
        try:
            answers = await list_offsets(connection, leader, partitions, timeout_seconds=left_seconds)
        except KafkaUnavailableError:
            return False
        if any(answer.error_code != KafkaErrorCode.NONE for answer in answers.values()):
            return False
    return bool(asked)
