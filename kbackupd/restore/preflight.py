"""Everything that would make a restore fail or harm the target, found before the first write and told at once.

Changes nothing. Owns the rule that a restore goes into absent or empty topics (hazards 28, 37), or into those that it
began to fill itself: empty means that the log holds nothing, log start equal to log end, wherever that is. Into others
only where `append` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.brokers import topic_defaults
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import (
    ClusterMetadata,
    KafkaErrorCode,
    TopicMetadata,
    TopicPartition,
)
from kbackupd.model.errors import DeniedError, KafkaDeniedError, RefusedError
from kbackupd.model.positions import TopicId
from kbackupd.model.restores import Unfinished
from kbackupd.model.units import format_few
from kbackupd.restore.configs import is_left_by_a_restore
from kbackupd.restore.filling import way_to_fill
from kbackupd.restore.permissions import NO_PRODUCER, NOT_ALLOWED, Problem, hidden
from kbackupd.restore.plan import RestorePlan, TopicPlan
from kbackupd.restore.preserve import Way
from kbackupd.restore.produce_batch import ProducerIdentity
from kbackupd.restore.resume import Landed, own_overrides
from kbackupd.restore.target_acls import acl_problems
from kbackupd.restore.target_limits import existing_problems, quota_notes, request_problems
from kbackupd.restore.target_logs import offsets_problems, read_landed, read_logs
from kbackupd.restore.target_topics import ExistingTopic, absent_problems, metadata_problem, own_configs


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTopic:
    """A target topic that exists already; unless records are appended, it is empty or begun to be filled by this very
    restore."""

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
        reads_back: what is restored will be verified, which takes the permission to read; so does going on.
        unfinished: restores that were begun; some may have made a topic safe and ended before they filled it.
        going_on: the one of them that is gone on with.
        sets_acls: ACLs will be set at the end.

    Raises:
        PreflightError: with every problem and its remedy.
        TargetDeniedError: likewise, where all that is missing are permissions.
        KafkaUnavailableError, KafkaDeniedError: it could not be asked.
    """
    reads_back = reads_back or going_on is not None  # how far the earlier run came, the last batches tell
    metadata = await cluster_metadata(connection, [topic.target for topic in plan.topics], operations=True)
    found = {topic.name: topic for topic in metadata.topics}
    problems: list[Problem] = []
    existing: list[ExistingTopic] = []
    absent: list[tuple[TopicPlan, TopicMetadata | None]] = []
    for topic in plan.topics:
        there = found.get(topic.target)
        if there is None or there.error_code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            absent.append((topic, there))
        elif there.error_code == KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED:
            problems.append(hidden(topic.target, reads_back=reads_back, moves_log_start=topic.moves_log_start))
        elif (problem := metadata_problem(topic, there, appends=plan.append)) is not None:
            problems.append(problem)
        else:
            existing.append(ExistingTopic(topic, there))
    problems += await absent_problems(connection, absent, reads_back=reads_back)
    overrides = await own_configs(connection, existing, problems, reads_back=reads_back)
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
    way = await way_to_fill(connection, plan, problems) if plan.keeping_offsets else None
    logs = await read_logs(connection, plan, [one.there for one in existing], going_on, problems)
    begins = {
        one.plan.target: dict(enumerate(filling[one.plan.target].log_ends))
        if one.plan.target in filling
        else {
            part.partition: logs[TopicPartition(one.plan.target, part.partition)].next_offset
            for part in one.there.partitions
        }
        for one in existing
    }
    problems += offsets_problems(plan, begins)
    landed_before: dict[TopicPartition, Landed] = {}
    if going_on is not None and going_on.ready is not None and not problems:
        landed_before = await read_landed(
            connection, [one.there for one in existing], logs, going_on.ready, plan, problems
        )
    problems += _same_cluster(plan, metadata, problems)
    if problems or producer is None:
        raise TargetDeniedError(problems) if all(one.denied for one in problems) else PreflightError(problems)
    if going_on is not None and going_on.ready is not None:
        producer = ProducerIdentity(going_on.ready.producer_id, going_on.ready.producer_epoch)

    def own(one: ExistingTopic) -> Mapping[str, str]:
        name, found = one.plan.target, overrides[one.plan.target]
        if going_on is not None and name in filling:
            # An earlier run may have come to this topic's end, and what it held back there is nobody's own.
            return own_overrides([going_on], name, one.there.topic_id) or {}
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
    notes = [f"topics that held records, which the restored ones follow: {format_few(holding)}"]
    if metadata.cluster_id == plan.source_cluster_id:
        notes.append("this is the cluster the archive was made from: its backup takes what is appended for new records")
    return notes
