"""What exists of the target's topics, what could be created, and what we may do with them. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.admin import check_creation, describe_topic_configs
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import code_name
from kbackupd.kafka.types import (
    KafkaErrorCode,
    TopicMetadata,
    TopicOperation,
)
from kbackupd.kafka.wire_admin import Outcome
from kbackupd.model.errors import KafkaDeniedError
from kbackupd.model.units import format_few
from kbackupd.restore.configs import during_restore
from kbackupd.restore.limits import creation_remedy, too_few_to_create
from kbackupd.restore.older_brokers import as_far_as_known
from kbackupd.restore.permissions import NOT_ALLOWED, Problem, lacking, needed
from kbackupd.restore.plan import TopicPlan

_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class ExistingTopic:
    """A target topic that exists, beside what is to come into it."""

    plan: TopicPlan
    there: TopicMetadata


async def absent_problems(
    connection: KafkaConnection, absent: Sequence[tuple[TopicPlan, TopicMetadata | None]], *, reads_back: bool
) -> list[Problem]:
    """Why topics could not be created, or not be filled then; at most one problem of each."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def examine(topic: TopicPlan, there: TopicMetadata | None) -> Problem | None:
        async def ask(configs: Mapping[str, str]) -> Outcome:
            return await check_creation(connection, topic.target, partitions=topic.target_partitions, configs=configs)

        wanted = needed(exists=False, reads_back=reads_back, moves_log_start=topic.moves_log_start)
        missing = _missing(there, wanted)
        try:
            async with turn:
                _, would = await as_far_as_known(during_restore(topic.configs, topic.largest_batch_bytes), ask)
        except KafkaDeniedError as error:
            if error.code not in NOT_ALLOWED:
                remedy = creation_remedy(topic.target, error.code)
                said = error.message.removeprefix(f"creating topic {topic.target}: ")
                return Problem(what=f"topic {topic.target} cannot be created: {said}", remedy=remedy)
            return lacking(topic.target, missing | {TopicOperation.CREATE})
        if missing:
            return lacking(topic.target, missing)
        return too_few_to_create(topic.target, replicas=would.replicas, min_insync_replicas=would.min_insync_replicas)

    found = await asyncio.gather(*(examine(topic, there) for topic, there in absent))
    return [problem for problem in found if problem is not None]


async def own_configs(
    connection: KafkaConnection, existing: Sequence[ExistingTopic], problems: list[Problem], *, reads_back: bool
) -> dict[str, dict[str, str]]:
    """What is configured on each existing topic itself; missing permissions and what hides it go to `problems`.

    A topic whose overrides are not known must not be touched: they could not be put back at the end.
    """
    described = await describe_topic_configs(connection, [one.plan.target for one in existing]) if existing else {}
    overrides: dict[str, dict[str, str]] = {}
    for one in existing:
        name = one.plan.target
        wanted = needed(exists=True, reads_back=reads_back, moves_log_start=one.plan.moves_log_start)
        missing = _missing(one.there, wanted)
        told = described.get(name)
        code = KafkaErrorCode.UNKNOWN_SERVER_ERROR if told is None else told.error_code
        if code in NOT_ALLOWED:
            missing |= {TopicOperation.DESCRIBE_CONFIGS}
        elif code or told is None:
            problems.append(
                Problem(
                    what=f"topic {name} does not tell its own configuration: {code_name(code)} ({code})",
                    remedy="try again when the target's brokers are settled",
                )
            )
        else:
            overrides[name] = dict(told.values)
        if missing:
            problems.append(lacking(name, missing))
    return overrides


def _missing(there: TopicMetadata | None, wanted: frozenset[TopicOperation]) -> frozenset[TopicOperation]:
    """Of `wanted`, what the broker says we may not do; nothing where it does not say."""
    return frozenset() if there is None or there.operations is None else wanted - there.operations


def metadata_problem(topic: TopicPlan, there: TopicMetadata, *, appends: bool) -> Problem | None:
    """Why a topic that exists cannot be restored into, by its metadata alone.

    Args:
        appends: it may hold records of others, and then is not to be deleted.
    """
    name = topic.target
    if there.error_code == KafkaErrorCode.INVALID_TOPIC_EXCEPTION:
        return Problem(what=f"{name!r} is no valid topic name for the target", remedy="choose another in topic_mapping")
    if there.error_code:
        return Problem(
            what=f"topic {name} cannot be looked at ({code_name(there.error_code)})",
            remedy="try again when the target's brokers are settled, or choose another name in topic_mapping",
        )
    if there.internal:
        return Problem(what=f"{name} is internal to the target", remedy="choose another name in topic_mapping")
    if len(there.partitions) != topic.target_partitions:
        return _other_count(topic, len(there.partitions), appends=appends)
    leaderless = [partition.partition for partition in there.partitions if partition.leader_id < 0]
    if leaderless:
        return Problem(
            what=f"topic {name} has no leader for partitions {format_few(leaderless)}",
            remedy="bring the target's brokers back first",
        )
    return None


def _other_count(topic: TopicPlan, there: int, *, appends: bool) -> Problem:
    name, recorded = topic.target, len(topic.partitions)
    wanted = f"the archive {recorded}"
    remedy = "restore under another name (topic_mapping)"
    if not appends:
        remedy = f"delete {name}, if nobody needs its records, or {remedy}"
    if topic.target_partitions != recorded:
        wanted = f"partition_mapping asks for {topic.target_partitions}"
    if there > recorded:
        remedy += f", or say partition_mapping: [{{topic: {topic.source}, target_partitions: {there}}}]"
    return Problem(what=f"topic {name} has {there} partition{'s' * (there != 1)}, {wanted}", remedy=remedy)
