"""Everything that would make a restore fail or harm the target, found before the first write and told at once.

Changes nothing. Owns the rule that a restore goes into absent or empty topics (hazards 28, 37), or into those that it
began to fill itself: empty means that the log holds nothing, log start equal to log end, wherever that is. Into others
only where `append` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.admin import check_creation, describe_topic_configs
from kbackupd.kafka.brokers import topic_defaults
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import code_name
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    ClusterMetadata,
    KafkaErrorCode,
    TopicMetadata,
    TopicOperation,
    TopicPartition,
)
from kbackupd.kafka.wire_admin import Outcome
from kbackupd.model.errors import DeniedError, KafkaDeniedError, RefusedError
from kbackupd.model.offset_map import OffsetsMode
from kbackupd.model.positions import OffsetRange, PartitionId, TopicId
from kbackupd.model.restores import RestoreReady, Unfinished
from kbackupd.restore.configs import during_restore, is_left_by_a_restore
from kbackupd.restore.filling import way_to_fill
from kbackupd.restore.limits import creation_remedy, too_few_to_create
from kbackupd.restore.newest_batches import newest_batches
from kbackupd.restore.older_brokers import as_far_as_known
from kbackupd.restore.permissions import NO_PRODUCER, NOT_ALLOWED, Problem, hidden, lacking, needed
from kbackupd.restore.plan import RestorePlan, TopicPlan
from kbackupd.restore.preserve import Way
from kbackupd.restore.resume import Landed, NewestBatch, landed, own_overrides
from kbackupd.restore.rewrite import ProducerIdentity
from kbackupd.restore.target_acls import acl_problems
from kbackupd.restore.target_limits import existing_problems, quota_notes, request_problems

_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTopic:
    """A target topic that exists already, and is empty or begun to be filled by this very restore."""

    topic_id: TopicId
    log_ends: Mapping[int, int]
    """Partition → where its first record lands, or landed."""
    overrides: Mapping[str, str]
    """Its own configuration, to be put back."""
    holds_records: bool
    """Of others, which what is restored follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    cluster_id: str
    existing: Mapping[str, TargetTopic]
    """By target name; what is not in it will be created."""
    defaults: Mapping[str, str]
    """What the brokers give a topic without overrides."""
    producer: ProducerIdentity
    """Given to us by the cluster, nothing was appended under it; or the one of the restore that is gone on with."""
    landed: Mapping[TopicPartition, Landed]
    """What is there of the restore that is gone on with."""
    way: Way | None = None
    """What fills offsets without records; None: offsets are not kept."""
    notes: tuple[str, ...] = ()
    """What is no reason to refuse, and better known before it begins."""


class PreflightError(RefusedError):
    """Nothing was written; `problems` are all that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(_message(problems), hint=_remedies(problems))


class TargetDeniedError(DeniedError):
    """Nothing was written, and only permissions are missing; `problems` are all that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(_message(problems), hint=_remedies(problems))


def _message(problems: Sequence[Problem]) -> str:
    """One problem a line: of forty topics that exist, the fourteenth must be found with the eye."""
    said = "the restore was refused before any write:"
    if len(problems) == 1:
        return f"{said} {problems[0].what}"
    return "\n  ".join((said, *dict.fromkeys(problem.what for problem in problems)))


def _remedies(problems: Sequence[Problem]) -> str:
    return "\n      ".join(dict.fromkeys(problem.remedy for problem in problems))


@dataclass(frozen=True, slots=True)
class _Existing:
    """A target topic that exists, beside what is to come into it."""

    plan: TopicPlan
    there: TopicMetadata


async def examine_target(
    connection: KafkaConnection,
    plan: RestorePlan,
    *,
    reads_back: bool = True,
    unfinished: Sequence[Unfinished] = (),
    going_on: Unfinished | None = None,
    sets_acls: bool = False,
) -> TargetState:
    """Look at the target without changing it.

    Args:
        reads_back: what is restored will be verified, which takes the permission to read.
        unfinished: restores that were begun; some may have made a topic safe and ended before they filled it.
        going_on: the one of them that is gone on with.
        sets_acls: ACLs will be set at the end.

    Raises:
        PreflightError: with every problem and its remedy.
        TargetDeniedError: likewise, where all that is missing are permissions.
        KafkaUnavailableError, KafkaDeniedError: it could not be asked.
    """
    metadata = await cluster_metadata(connection, [topic.target for topic in plan.topics], operations=True)
    found = {topic.name: topic for topic in metadata.topics}
    problems: list[Problem] = []
    existing: list[_Existing] = []
    absent: list[tuple[TopicPlan, TopicMetadata | None]] = []
    for topic in plan.topics:
        there = found.get(topic.target)
        if there is None or there.error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            absent.append((topic, there))
        elif there.error_code == KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED:
            problems.append(hidden(topic.target, reads_back=reads_back, moves_log_start=topic.moves_log_start))
        elif (problem := _metadata_problem(topic, there)) is not None:
            problems.append(problem)
        else:
            existing.append(_Existing(topic, there))
    problems += await _absent_problems(connection, absent, reads_back=reads_back)
    overrides = await _own_overrides(connection, existing, problems, reads_back=reads_back)
    filling = going_on.filling if going_on else {}
    problems += await existing_problems(
        connection,
        [(one.plan, one.there) for one in existing],
        {name: topic.configs for name, topic in filling.items()},
    )
    problems += await request_problems(connection, plan)
    problems += await acl_problems(connection) if sets_acls else []
    producer = await _producer(connection, problems)
    # Before logs are asked where they end: an empty transaction that a dead run had begun is over then.
    way = await way_to_fill(connection, plan, problems) if plan.offsets is OffsetsMode.PRESERVE else None
    logs = await _logs(connection, plan, [one.there for one in existing], going_on, problems)
    begins = {
        one.plan.target: dict(enumerate(filling[one.plan.target].log_ends))
        if one.plan.target in filling
        else {
            part.partition: logs[TopicPartition(one.plan.target, part.partition)].next_offset
            for part in one.there.partitions
        }
        for one in existing
    }
    problems += _offsets_problems(plan, begins)
    landed_before: dict[TopicPartition, Landed] = {}
    if going_on is not None and going_on.ready is not None and not problems:
        landed_before = await _landed(
            connection, [one.there for one in existing], logs, going_on.ready, plan.offsets, problems
        )
    problems += _same_cluster(plan, metadata, problems)
    if problems or producer is None:
        raise TargetDeniedError(problems) if all(one.denied for one in problems) else PreflightError(problems)
    if going_on is not None and going_on.ready is not None:
        producer = ProducerIdentity(going_on.ready.producer_id, going_on.ready.producer_epoch)

    def own(one: _Existing) -> Mapping[str, str]:
        name, found = one.plan.target, overrides[one.plan.target]
        if not is_left_by_a_restore(found):
            return found
        return own_overrides(unfinished, name, one.there.topic_id) or {}

    holding = {
        one.plan.target
        for one in existing
        if ((begun := filling.get(one.plan.target)) is not None and begun.appends)
        or (
            begun is None
            and any(logs[TopicPartition(one.plan.target, part.partition)] for part in one.there.partitions)
        )
    }
    return TargetState(
        cluster_id=metadata.cluster_id,
        existing={
            one.plan.target: TargetTopic(
                topic_id=one.there.topic_id,
                log_ends=begins[one.plan.target],
                overrides=own(one),
                holds_records=one.plan.target in holding,
            )
            for one in existing
        },
        defaults=await topic_defaults(connection),
        producer=producer,
        landed=landed_before,
        way=way,
        notes=(
            *_append_notes(plan, metadata, sorted(holding)),
            *await quota_notes(connection, plan, brokers=len(metadata.brokers)),
        ),
    )


async def _landed(
    connection: KafkaConnection,
    topics: Sequence[TopicMetadata],
    logs: Mapping[TopicPartition, OffsetRange],
    ready: RestoreReady,
    offsets: OffsetsMode,
    problems: list[Problem],
) -> dict[TopicPartition, Landed]:
    """What the logs hold of the restore that is gone on with; what is not of it goes to `problems`."""
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
    appended = {topic.target for topic in ready.topics if topic.appends}
    there: dict[TopicPartition, Landed] = {}
    for tp, first_offset in firsts.items():
        try:
            there[tp] = landed(
                tp,
                first_offset=first_offset,
                log_end=logs[tp].next_offset,
                newest=newest.get(tp),
                ready=ready,
                offsets=offsets,
                appends=tp.topic in appended,
            )
        except RefusedError as error:
            problems.append(Problem(what=error.message, remedy=error.hint))
    return there


async def _absent_problems(
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
                return Problem(what=f"topic {topic.target} cannot be created: {error.message}", remedy=remedy)
            return lacking(topic.target, missing | {TopicOperation.CREATE})
        if missing:
            return lacking(topic.target, missing)
        return too_few_to_create(topic.target, replicas=would.replicas, min_insync_replicas=would.min_insync_replicas)

    found = await asyncio.gather(*(examine(topic, there) for topic, there in absent))
    return [problem for problem in found if problem is not None]


async def _own_overrides(
    connection: KafkaConnection, existing: Sequence[_Existing], problems: list[Problem], *, reads_back: bool
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


async def _producer(connection: KafkaConnection, problems: list[Problem]) -> ProducerIdentity | None:
    """A producer id; None if it was denied, which is then in `problems`."""
    try:
        producer = await RawProducer.open(connection)
    except KafkaDeniedError as error:
        if error.code not in NOT_ALLOWED:
            raise
        problems.append(NO_PRODUCER)
        return None
    return ProducerIdentity(producer.producer_id, producer.producer_epoch)


def _metadata_problem(topic: TopicPlan, there: TopicMetadata) -> Problem | None:
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
        return _other_count(topic, len(there.partitions))
    leaderless = [partition.partition for partition in there.partitions if partition.leader_id < 0]
    if leaderless:
        return Problem(
            what=f"topic {name} has no leader for partitions {_few(leaderless)}",
            remedy="bring the target's brokers back first",
        )
    return None


def _other_count(topic: TopicPlan, there: int) -> Problem:
    name, recorded = topic.target, len(topic.partitions)
    wanted = f"the archive {recorded}"
    remedy = f"delete {name}, or restore under another name (topic_mapping)"
    if topic.target_partitions != recorded:
        wanted = f"partition_mapping asks for {topic.target_partitions}"
    if there > recorded:
        remedy += f", or say partition_mapping: [{{topic: {topic.source}, target_partitions: {there}}}]"
    return Problem(what=f"topic {name} has {there} partitions, {wanted}", remedy=remedy)


async def _logs(
    connection: KafkaConnection,
    plan: RestorePlan,
    topics: Sequence[TopicMetadata],
    going_on: Unfinished | None,
    problems: list[Problem],
) -> dict[TopicPartition, OffsetRange]:
    """What each log holds. Topics that hold what is not of this restore, or do not tell, are added to `problems`."""
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
        first = await list_offsets(connection, node_id, dict.fromkeys(partitions, (EARLIEST_TIMESTAMP, -1)))
        last = await list_offsets(connection, node_id, dict.fromkeys(partitions, (LATEST_TIMESTAMP, -1)))
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
            what=f"topic {name} is not empty: partition {_few(sorted(partitions))}",
            remedy="delete the topics that are not empty, if nobody needs their records, rename with topic_mapping, or"
            " have records follow those that are there (append: true)",
        )
        for name, partitions in sorted(holding.items())
    ]
    problems += [
        Problem(
            what=f"topic {name} has lost the beginning of what an earlier run restored: partitions {_few(partitions)}",
            remedy="stop whoever deletes records there, delete the topics of this restore and begin anew",
        )
        for name, partitions in sorted(losing.items())
    ]
    problems += [
        Problem(
            what=f"topic {name} does not tell its offsets: partitions {_few(partitions)}",
            remedy="try again when the target's leaders are settled",
        )
        for name, partitions in sorted(silent.items())
    ]
    return logs


def _log_starts(plan: RestorePlan) -> dict[TopicPartition, int]:
    """Where logs begin of which the offsets are kept: what is written before that is deleted by the restore itself."""
    return {
        TopicPartition(topic.target, partition.partition): partition.preserved.log_start
        for topic in plan.topics
        for partition in topic.partitions
        if partition.preserved is not None
    }


def _offsets_problems(plan: RestorePlan, begins: Mapping[str, Mapping[int, int]]) -> list[Problem]:
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
                    what=f"topic {topic.target} is empty, but beyond what is to be kept: partition {_few(beyond)}",
                    remedy=f"delete {topic.target}: it is created again",
                )
            )
    return problems


def _same_cluster(plan: RestorePlan, metadata: ClusterMetadata, problems: Sequence[Problem]) -> list[Problem]:
    """A word of warning where topics are refused because this is the very cluster they were backed up from."""
    if all(problem.denied for problem in problems) or metadata.cluster_id != plan.source_cluster_id:
        return []
    return [
        Problem(
            what="this is the cluster the archive was made from",
            remedy="to bring records back beside the live topics, restore under other names (topic_mapping)",
        )
    ]


def _append_notes(plan: RestorePlan, metadata: ClusterMetadata, holding: Sequence[str]) -> list[str]:
    if not holding:
        return []
    notes = [f"topics that held records, which the restored ones follow: {_few(holding)}"]
    if metadata.cluster_id == plan.source_cluster_id:
        notes.append("this is the cluster the archive was made from: its backup takes what is appended for new records")
    return notes


def _few(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:5])
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"
