"""Where every log ends at the moment an archive is created: what `start: latest` leaves out is below it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping

import structlog

from kbackupd.capture.source import Source
from kbackupd.kafka.types import LATEST_TIMESTAMP, KafkaErrorCode, TopicPartition
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import TopicId
from kbackupd.model.settings import SYSTEM_TOPICS
from kbackupd.observe import events

log = structlog.get_logger()


async def log_ends(source: Source) -> dict[TopicId, tuple[int, ...]]:
    """Where the log of every user partition ends now; -1 where its leader could not say, or there is none.

    Raises: KafkaUnavailableError, KafkaDeniedError, when it cannot be told which partitions there are.
    """
    topics = [
        topic
        for topic in (await source.metadata()).topics
        if topic.error_code == KafkaErrorCode.NONE and not topic.internal and topic.name not in SYSTEM_TOPICS
    ]
    by_leader: dict[int, dict[TopicPartition, tuple[int, int]]] = defaultdict(dict)
    for topic in topics:
        for row in topic.partitions:
            if row.leader_id >= 0:
                asked = TopicPartition(topic.name, row.partition)
                by_leader[row.leader_id][asked] = (LATEST_TIMESTAMP, row.leader_epoch)
    ends: dict[TopicPartition, int] = {}
    for told in await asyncio.gather(*(_ends_at(source, node_id, asked) for node_id, asked in by_leader.items())):
        ends.update(told)
    return {
        topic.topic_id: tuple(
            ends.get(TopicPartition(topic.name, number), -1)
            for number in range(1 + max((row.partition for row in topic.partitions), default=-1))
        )
        for topic in topics
    }


async def _ends_at(
    source: Source, node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
) -> dict[TopicPartition, int]:
    try:
        answers = await source.list_offsets(node_id, asked)
    except (KafkaUnavailableError, KafkaDeniedError) as error:
        log.warning(events.LOG_ENDS_UNKNOWN, node_id=node_id, partitions=len(asked), error=error.message)
        return {}
    return {tp: answer.offset for tp, answer in answers.items() if answer.error_code == KafkaErrorCode.NONE}
