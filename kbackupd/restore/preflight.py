"""Everything that would make a restore fail or harm the target, found before the first write and told at once.

Reads only. Owns the rule that a restore goes into absent or empty topics (hazards 28, 37): empty means that the log
holds nothing, log start equal to log end, wherever that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.admin import describe_topic_configs
from kbackupd.kafka.brokers import topic_defaults
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.types import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    ClusterMetadata,
    KafkaErrorCode,
    TopicMetadata,
    TopicPartition,
)
from kbackupd.model.errors import RefusedError
from kbackupd.model.positions import TopicId
from kbackupd.restore.configs import is_left_by_a_restore
from kbackupd.restore.plan import RestorePlan, TopicPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTopic:
    """A target topic that exists already, and is empty."""

    topic_id: TopicId
    log_ends: Mapping[int, int]
    """Partition → where its first record will land."""
    overrides: Mapping[str, str]
    """Its own configuration, to be put back; empty where an interrupted restore left it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    cluster_id: str
    existing: Mapping[str, TargetTopic]
    """By target name; what is not in it will be created."""
    defaults: Mapping[str, str]
    """What the brokers give a topic without overrides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    what: str
    remedy: str


class PreflightError(RefusedError):
    """Nothing was written; `problems` are all that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "the restore was refused before any write: " + "; ".join(problem.what for problem in problems),
            hint="; ".join(dict.fromkeys(problem.remedy for problem in problems)),
        )


async def examine_target(connection: KafkaConnection, plan: RestorePlan) -> TargetState:
    """Look at the target without changing it.

    Raises:
        PreflightError: with every problem and its remedy.
        KafkaUnavailableError, KafkaDeniedError: it could not be asked.
    """
    metadata = await cluster_metadata(connection, [topic.target for topic in plan.topics])
    found = {topic.name: topic for topic in metadata.topics}
    problems: list[Problem] = []
    existing: list[tuple[TopicPlan, TopicMetadata]] = []
    for topic in plan.topics:
        there = found.get(topic.target)
        if there is None or there.error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            continue
        problem = _metadata_problem(topic, there)
        if problem is None:
            existing.append((topic, there))
        else:
            problems.append(problem)
    ends = await _log_ends(connection, [there for _, there in existing], problems)
    problems += _same_cluster(plan, metadata, problems)
    if problems:
        raise PreflightError(problems)
    described = await describe_topic_configs(connection, [topic.target for topic, _ in existing]) if existing else {}
    overrides = {name: dict(configs.values) for name, configs in described.items()}
    return TargetState(
        cluster_id=metadata.cluster_id,
        existing={
            topic.target: TargetTopic(
                topic_id=there.topic_id,
                log_ends={
                    part.partition: ends[TopicPartition(topic.target, part.partition)] for part in there.partitions
                },
                overrides={} if is_left_by_a_restore(own := overrides.get(topic.target, {})) else own,
            )
            for topic, there in existing
        },
        defaults=await topic_defaults(connection),
    )


def _metadata_problem(topic: TopicPlan, there: TopicMetadata) -> Problem | None:
    name = topic.target
    if there.error_code == KafkaErrorCode.INVALID_TOPIC_EXCEPTION:
        return Problem(what=f"{name!r} is no valid topic name for the target", remedy="choose another in topic_mapping")
    if there.error_code:
        return Problem(
            what=f"topic {name} cannot be looked at (error {there.error_code})",
            remedy="grant Describe, Create, Write, Read and AlterConfigs on the target topics",
        )
    if there.internal:
        return Problem(what=f"{name} is internal to the target", remedy="choose another name in topic_mapping")
    if len(there.partitions) != len(topic.partitions):
        return Problem(
            what=f"topic {name} has {len(there.partitions)} partitions, the archive {len(topic.partitions)}",
            remedy=f"delete {name}, or restore under another name (topic_mapping)",
        )
    leaderless = [partition.partition for partition in there.partitions if partition.leader_id < 0]
    if leaderless:
        return Problem(
            what=f"topic {name} has no leader for partitions {_few(leaderless)}",
            remedy="bring the target's brokers back first",
        )
    return None


async def _log_ends(
    connection: KafkaConnection, topics: Sequence[TopicMetadata], problems: list[Problem]
) -> dict[TopicPartition, int]:
    """Where each log ends; topics that hold records, or do not tell, are added to `problems`."""
    by_leader: dict[int, list[TopicPartition]] = {}
    for topic in topics:
        for partition in topic.partitions:
            by_leader.setdefault(partition.leader_id, []).append(TopicPartition(topic.name, partition.partition))
    ends: dict[TopicPartition, int] = {}
    holding: dict[str, list[str]] = {}
    silent: dict[str, list[int]] = {}
    for node_id, partitions in by_leader.items():
        first = await list_offsets(connection, node_id, dict.fromkeys(partitions, (EARLIEST_TIMESTAMP, -1)))
        last = await list_offsets(connection, node_id, dict.fromkeys(partitions, (LATEST_TIMESTAMP, -1)))
        for tp in partitions:
            if first[tp].error_code or last[tp].error_code:
                silent.setdefault(tp.topic, []).append(tp.partition)
            elif first[tp].offset != last[tp].offset:
                holding.setdefault(tp.topic, []).append(f"{tp.partition} [{first[tp].offset}, {last[tp].offset})")
            ends[tp] = last[tp].offset
    problems += [
        Problem(
            what=f"topic {name} is not empty: partition {_few(sorted(partitions))}",
            remedy=f"delete {name} if its records are not needed, or restore under another name (topic_mapping)",
        )
        for name, partitions in sorted(holding.items())
    ]
    problems += [
        Problem(
            what=f"topic {name} does not tell its offsets: partitions {_few(partitions)}",
            remedy="try again when the target's leaders are settled",
        )
        for name, partitions in sorted(silent.items())
    ]
    return ends


def _same_cluster(plan: RestorePlan, metadata: ClusterMetadata, problems: Sequence[Problem]) -> list[Problem]:
    """A word of warning where topics are refused because this is the very cluster they were backed up from."""
    if not problems or metadata.cluster_id != plan.source_cluster_id:
        return []
    return [
        Problem(
            what="this is the cluster the archive was made from",
            remedy="to bring records back beside the live topics, restore under other names (topic_mapping)",
        )
    ]


def _few(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:5])
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"
