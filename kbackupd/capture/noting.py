"""Where the logs of all partitions of a backup begin and end at one moment, as their leaders tell it.

Asked by name, as Kafka has it, and told apart by incarnation: a topic that was re-created between the two questions is
left for the next round. Leaders are asked side by side; one that does not answer keeps only its own waiting.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from kbackupd.capture.roster import NO_LEADER
from kbackupd.capture.source import Source
from kbackupd.kafka.errors import code_name
from kbackupd.kafka.types import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    ClusterMetadata,
    KafkaErrorCode,
    OffsetAnswer,
    PartitionMetadata,
    TopicPartition,
)
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import PartitionId, TopicId


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedLog:
    """One partition's log at that moment, or why its leader did not tell."""

    id: PartitionId
    topic: str
    first_offset: int = -1
    end_offset: int = -1
    """Its high watermark."""
    unknown: str = ""
    """Why neither is known; empty if both are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedLogs:
    logs: tuple[NotedLog, ...]
    names: frozenset[str]
    """Of all topics that the cluster shows, those outside the backup too."""
    unreadable: Mapping[str, str]
    """Topics of the backup that metadata answers with an error, and that error's name."""


async def note_logs(
    source: Source, selects: Callable[[str, bool], bool], *, told: Container[PartitionId] = ()
) -> NotedLogs:
    """Ask for every partition of the topics that `selects` (name, internal), but for those that have `told` already.

    Raises: KafkaUnavailableError, KafkaDeniedError, when it cannot be told which partitions there are.
    """
    metadata = await source.metadata()
    topics = [topic for topic in metadata.topics if selects(topic.name, topic.internal)]
    by_leader: dict[int, dict[TopicPartition, PartitionMetadata]] = defaultdict(dict)
    known: dict[TopicPartition, TopicId] = {}
    for topic in topics:
        if topic.error_code == KafkaErrorCode.NONE:
            for row in topic.partitions:
                if PartitionId(topic.topic_id, row.partition) in told:
                    continue
                asked = TopicPartition(topic.name, row.partition)
                known[asked] = topic.topic_id
                if row.leader_id >= 0:
                    by_leader[row.leader_id][asked] = row
    answers = dict.fromkeys(known, NO_LEADER) | await _ask(source, by_leader)
    same = _ids(await source.metadata()) if known else set()
    return NotedLogs(
        logs=tuple(
            _noted(tp, id, answers[tp] if id in same else "its topic is being replaced") for tp, id in known.items()
        ),
        names=frozenset(topic.name for topic in metadata.topics),
        unreadable={
            topic.name: code_name(topic.error_code) for topic in topics if topic.error_code != KafkaErrorCode.NONE
        },
    )


_Told = dict[TopicPartition, "tuple[int, int] | str"]
"""Where the log begins and ends, or why that is not known."""


async def _ask(source: Source, by_leader: Mapping[int, Mapping[TopicPartition, PartitionMetadata]]) -> _Told:
    told: _Told = {}
    for answers in await asyncio.gather(*(_ask_one(source, node_id, rows) for node_id, rows in by_leader.items())):
        told |= answers
    return told


async def _ask_one(source: Source, node_id: int, rows: Mapping[TopicPartition, PartitionMetadata]) -> _Told:
    try:
        starts = await source.list_offsets(node_id, _asked(rows, EARLIEST_TIMESTAMP))
        # The end last: a log that begins beyond the end that was noted would look like one that lost something.
        ends = await source.list_offsets(node_id, _asked(rows, LATEST_TIMESTAMP))
    except (KafkaUnavailableError, KafkaDeniedError) as error:
        return dict.fromkeys(rows, error.message)
    return {tp: _answer(starts[tp], ends[tp]) for tp in rows}


def _asked(rows: Mapping[TopicPartition, PartitionMetadata], timestamp: int) -> dict[TopicPartition, tuple[int, int]]:
    return {tp: (timestamp, row.leader_epoch) for tp, row in rows.items()}


def _answer(start: OffsetAnswer, end: OffsetAnswer) -> tuple[int, int] | str:
    code = start.error_code or end.error_code
    if code != KafkaErrorCode.NONE:
        return f"the broker answered {code_name(code)}"
    return start.offset, end.offset


def _ids(metadata: ClusterMetadata) -> set[TopicId]:
    return {topic.topic_id for topic in metadata.topics if topic.error_code == KafkaErrorCode.NONE}


def _noted(tp: TopicPartition, topic_id: TopicId, told: tuple[int, int] | str) -> NotedLog:
    id = PartitionId(topic_id, tp.partition)
    if isinstance(told, str):
        return NotedLog(id=id, topic=tp.topic, unknown=told)
    return NotedLog(id=id, topic=tp.topic, first_offset=told[0], end_offset=told[1])
