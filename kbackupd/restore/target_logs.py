"""What the target's logs hold, and whether a restore may write behind it. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.types import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    OffsetAnswer,
    TopicMetadata,
    TopicPartition,
)
from kbackupd.model.errors import RefusedError
from kbackupd.model.positions import OffsetRange, PartitionId
from kbackupd.model.restores import RestoreReady, Unfinished
from kbackupd.model.units import format_few
from kbackupd.restore.newest_batches import newest_batches
from kbackupd.restore.permissions import Problem
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.refusals import is_retriable
from kbackupd.restore.resume import Landed, NewestBatch, landed

SETTLING_SECONDS = 15.0
"""A leader that metadata names already may not know it yet: a topic was made just before, a broker has just started."""
_POLL_SECONDS = 0.1


async def read_landed(
    connection: KafkaConnection,
    topics: Sequence[TopicMetadata],
    logs: Mapping[TopicPartition, OffsetRange],
    ready: RestoreReady,
    plan: RestorePlan,
    problems: list[Problem],
) -> dict[TopicPartition, Landed]:
    """What the logs hold of the restore that is gone on with; what is not of it goes to `problems`.

    Args:
        logs: of every partition of `topics`.

    Raises:
        KafkaUnavailableError: a leader does not deliver the end of its logs.
        KafkaDeniedError: it may not be read.
    """
    firsts = {
        TopicPartition(topic.target, number): first
        for topic in ready.topics
        for number, first in enumerate(topic.log_ends)
    }
    asked: dict[int, dict[TopicPartition, tuple[PartitionId, int]]] = {}
    for topic in topics:
        for part in topic.partitions:
            tp = TopicPartition(topic.name, part.partition)
            if logs[tp]:
                asked.setdefault(part.leader_id, {})[tp] = (
                    PartitionId(topic.topic_id, part.partition),
                    logs[tp].next_offset,
                )
    newest: dict[TopicPartition, NewestBatch] = {}
    for found in await asyncio.gather(*(newest_batches(connection, node_id, some) for node_id, some in asked.items())):
        newest |= found
    keeping = {topic.target for topic in plan.keeping_offsets}
    appended = {topic.target for topic in ready.topics if topic.appends}
    there: dict[TopicPartition, Landed] = {}
    problems += [
        Problem(what=f"topic {topic.target} went away a moment ago", remedy="run it again: it says what is left to do")
        for topic in ready.topics
        if TopicPartition(topic.target, 0) not in logs
    ]
    for tp, first_offset in firsts.items():
        if tp not in logs:
            continue
        try:
            there[tp] = landed(
                tp,
                first_offset=first_offset,
                log_end=logs[tp].next_offset,
                newest=newest.get(tp),
                ready=ready,
                keeps_offsets=tp.topic in keeping,
                appends=tp.topic in appended,
            )
        except RefusedError as error:
            problems.append(Problem(what=error.message, remedy=error.hint))
    return there


async def read_logs(
    connection: KafkaConnection,
    plan: RestorePlan,
    topics: Sequence[TopicMetadata],
    going_on: Unfinished | None,
    problems: list[Problem],
) -> dict[TopicPartition, OffsetRange]:
    """What each log holds. Topics that hold what is not of this restore, or do not tell, are added to `problems`.

    Raises:
        KafkaUnavailableError: a leader does not answer.
    """
    filling = going_on.filling if going_on else {}
    starts = _log_starts(plan)
    by_leader: dict[int, list[TopicPartition]] = {}
    for topic in topics:
        for partition in topic.partitions:
            by_leader.setdefault(partition.leader_id, []).append(TopicPartition(topic.name, partition.partition))
    logs: dict[TopicPartition, OffsetRange] = {}
    holding: dict[str, list[str]] = {}
    losing: dict[str, list[int]] = {}
    silent: dict[str, list[int]] = {}
    for node_id, partitions in by_leader.items():
        first = await _settled_offsets(connection, node_id, partitions, EARLIEST_TIMESTAMP)
        last = await _settled_offsets(connection, node_id, partitions, LATEST_TIMESTAMP)
        for tp in partitions:
            log = OffsetRange(first[tp].offset, max(last[tp].offset, first[tp].offset))
            if first[tp].error_code or last[tp].error_code:
                silent.setdefault(tp.topic, []).append(tp.partition)
            elif tp.topic in filling:
                if log.first_offset > max(filling[tp.topic].log_ends[tp.partition], starts.get(tp, 0)):
                    losing.setdefault(tp.topic, []).append(tp.partition)
            elif log and not plan.append:
                holding.setdefault(tp.topic, []).append(f"{tp.partition} {log}")
            logs[tp] = log
    problems += [
        Problem(
            what=f"topic {name} is not empty: partition {format_few(sorted(partitions))}",
            remedy="delete the topics that are not empty, if nobody needs their records, rename with topic_mapping, or"
            " have records follow those that are there (append: true)",
        )
        for name, partitions in sorted(holding.items())
    ]
    problems += [
        Problem(
            what=f"topic {name} has lost the beginning of what an earlier run restored:"
            f" partitions {format_few(partitions)}",
            remedy="stop whoever deletes records there, "
            + (
                "and restore into another topic (topic_mapping)"
                if filling[name].appends
                else "delete the topics of this restore and begin anew"
            ),
        )
        for name, partitions in sorted(losing.items())
    ]
    problems += [
        Problem(
            what=f"topic {name} does not tell its offsets: partitions {format_few(partitions)}",
            remedy="try again when the target's leaders are settled",
        )
        for name, partitions in sorted(silent.items())
    ]
    return logs


async def _settled_offsets(
    connection: KafkaConnection, node_id: int, partitions: Sequence[TopicPartition], timestamp_ms: int
) -> dict[TopicPartition, OffsetAnswer]:
    """As `list_offsets`, and asked again for a while where the answer is one that passes. Changes nothing."""
    answers: dict[TopicPartition, OffsetAnswer] = {}
    left = list(partitions)
    deadline = connection.clock.monotonic() + SETTLING_SECONDS
    while True:
        answers |= await list_offsets(connection, node_id, dict.fromkeys(left, (timestamp_ms, -1)))
        left = [tp for tp in left if is_retriable(answers[tp].error_code)]
        if not left or connection.clock.monotonic() >= deadline:
            return answers
        await asyncio.sleep(_POLL_SECONDS)


def _log_starts(plan: RestorePlan) -> dict[TopicPartition, int]:
    """Where logs begin of which the offsets are kept: what is written before that is deleted by the restore itself."""
    return {
        TopicPartition(topic.target, partition.partition): partition.preserved.log_start
        for topic in plan.topics
        for partition in topic.partitions
        if partition.preserved is not None
    }


def offsets_problems(plan: RestorePlan, begins: Mapping[str, Mapping[int, int]]) -> list[Problem]:
    """Why records cannot have the offsets they had.

    Args:
        begins: topic that exists → partition → where what is written begins.
    """
    problems = [
        Problem(
            what=f"topic {topic.target}: partition {partition.partition} cannot keep its offsets: {reason}",
            remedy=f"leave {topic.source} out, or restore it apart with `offsets: compact`",
        )
        for topic in plan.topics
        for partition in topic.partitions
        if partition.preserved is not None and (reason := partition.preserved.refused)
    ]
    for topic in plan.topics:
        beyond = [
            f"{partition.partition} ends at {end}, its records begin at {partition.preserved.log_start}"
            for partition in topic.partitions
            if partition.preserved is not None
            and (end := begins.get(topic.target, {}).get(partition.partition, 0)) > partition.preserved.log_start
        ]
        if beyond:
            problems.append(
                Problem(
                    what=f"topic {topic.target} is empty, but beyond what is to be kept:"
                    f" partition {format_few(beyond)}",
                    remedy=f"delete {topic.target}: it is created again",
                )
            )
    return problems
