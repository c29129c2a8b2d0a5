"""The target topics: created, made safe before the first record, given their recorded configuration after the last."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kbackupd.kafka.admin import alter_topic_configs, create_topic, effective_topic_configs
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.errors import IncompleteError, KafkaDeniedError, KbackupError, UnreachableError
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.restores import FillingTopic
from kbackupd.restore.configs import Changes, ConfigDecision, during_restore
from kbackupd.restore.older_brokers import as_far_as_known
from kbackupd.restore.plan import RestorePlan, TopicPlan
from kbackupd.restore.preflight import TargetState

_AT_ONCE = 8
_VISIBLE_SECONDS = 30.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyTopic:
    """A target topic that may be produced into."""

    topic_id: TopicId
    log_ends: Mapping[int, int]
    """Partition → where its first record lands, or landed."""
    configs: Mapping[str, str]
    """What was set for the time of the restore."""
    created: bool
    appends: bool = False
    """It held records before, and keeps its own configuration."""

    @property
    def max_batch_bytes(self) -> int:
        return int(self.configs["max.message.bytes"])

    def id_of(self, partition: int) -> PartitionId:
        return PartitionId(self.topic_id, partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigOutcome:
    """What became of a topic's recorded configuration."""

    applied: Changes
    held: Changes
    reasons: tuple[str, ...]
    deletes: tuple[str, ...] = ()
    """What the broker deletes by what was applied."""
    refused: dict[str, str] = field(default_factory=dict)
    """Key → why the target would not take it."""
    pending: Changes = field(default_factory=dict)
    """What would have to be set to have what was held or refused."""


async def prepare_topics(
    connection: KafkaConnection,
    plan: RestorePlan,
    state: TargetState,
    filling: Mapping[str, FillingTopic] = MappingProxyType({}),
) -> dict[str, ReadyTopic]:
    """Create the topics that are absent, and make all of them safe to restore into; by target name.

    Those that are gone on with are made safe as they were: how batches are cut must not change half-way.

    On return every partition has a leader and the safe configuration is in force. Cancelled or failed, some topics
    exist, empty and safe: a later run takes them over.

    Raises:
        KafkaDeniedError: creating or configuring one was refused.
        KafkaUnavailableError: the target did not answer in time.
    """
    turn = asyncio.Semaphore(_AT_ONCE)
    ready: dict[str, ReadyTopic] = {}

    async def prepare(topic: TopicPlan) -> None:
        async with turn:
            begun = filling.get(topic.target)
            configs: Mapping[str, str] = begun.configs if begun else {}
            existing = state.existing.get(topic.target)
            appends = existing is not None and existing.holds_records
            if begun is None:
                # What its own producers may write must not become too large for the time of the restore.
                of = {**state.defaults, **existing.overrides} if existing and appends else topic.configs
                configs = during_restore(of, topic.largest_batch_bytes)
            if existing is None:
                configs, topic_id = await _create(connection, topic, configs)
                log_ends: Mapping[int, int] = dict.fromkeys(range(topic.target_partitions), 0)
            else:
                configs = await _make_safe(connection, topic.target, configs, is_empty=not appends and begun is None)
                topic_id, log_ends = existing.topic_id, existing.log_ends
            ready[topic.target] = ReadyTopic(
                topic_id=topic_id,
                log_ends=log_ends,
                configs=configs,
                created=begun.created if begun else existing is None,
                appends=appends,
            )

    try:
        async with asyncio.TaskGroup() as group:
            for topic in plan.topics:
                group.create_task(prepare(topic))
    except ExceptionGroup as failures:
        ours = failures.subgroup(KbackupError)
        if ours is None:
            raise
        raise ours.exceptions[0] from failures
    return ready


async def _create(
    connection: KafkaConnection, topic: TopicPlan, wanted: Mapping[str, str]
) -> tuple[Mapping[str, str], TopicId]:
    """The configuration the topic got, and its id."""

    async def create(configs: Mapping[str, str]) -> TopicId:
        partitions = topic.target_partitions
        return (await create_topic(connection, topic.target, partitions=partitions, configs=configs)).topic_id

    return await as_far_as_known(wanted, create)


async def _make_safe(
    connection: KafkaConnection, name: str, wanted: Mapping[str, str], *, is_empty: bool
) -> Mapping[str, str]:
    """The configuration the topic got, once it is in force.

    Cancelled or failed, it may be set already; the next run puts the topic's own back at its end.
    """

    async def alter(configs: Mapping[str, str]) -> None:
        await alter_topic_configs(connection, {name: configs})

    configs, _ = await as_far_as_known(wanted, alter)
    deadline = connection.clock.monotonic() + _VISIBLE_SECONDS
    while connection.clock.monotonic() < deadline:
        described = (await effective_topic_configs(connection, [name], list(configs)))[name]
        if described.error_code not in (KafkaErrorCode.NONE, KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION):
            raise error_for_code(described.error_code, f"reading the configuration of topic {name}")
        if all(described.values.get(key) == value for key, value in configs.items()):
            return configs
        await asyncio.sleep(_POLL_SECONDS)
    raise IncompleteError(
        f"topic {name}: the configuration that protects a restore was not in force within {_VISIBLE_SECONDS:g} s",
        hint="run the restore again when the target's brokers are settled"
        + (", or delete the empty topic: the restore then creates it itself" if is_empty else ""),
    )


async def apply_recorded(
    connection: KafkaConnection, decisions: Mapping[str, ConfigDecision]
) -> dict[str, ConfigOutcome]:
    """Give each topic what its decision says, by topic name; what the target refuses is told, never raised."""
    turn = asyncio.Semaphore(_AT_ONCE)
    outcomes: dict[str, ConfigOutcome] = {}

    async def apply(name: str, decision: ConfigDecision) -> None:
        async with turn:
            refused = await _apply(connection, name, decision.apply) if decision.apply else {}
            outcomes[name] = ConfigOutcome(
                applied={key: value for key, value in decision.apply.items() if key not in refused},
                held=decision.held,
                reasons=tuple(decision.reasons),
                deletes=tuple(decision.deletes),
                refused=refused,
                pending=decision.held | {key: decision.apply[key] for key in refused},
            )

    async with asyncio.TaskGroup() as group:
        for name, decision in decisions.items():
            group.create_task(apply(name, decision))
    return outcomes


async def _apply(connection: KafkaConnection, name: str, changes: Changes) -> dict[str, str]:
    """The keys that could not be set, and why."""
    try:
        await alter_topic_configs(connection, {name: changes})
    except (KafkaDeniedError, UnreachableError) as error:
        if len(changes) == 1 or isinstance(error, UnreachableError):
            return dict.fromkeys(changes, error.message)
        # One key the target does not know (an older source, tiered storage) must not cost the others.
        refused: dict[str, str] = {}
        for key, value in changes.items():
            refused |= await _apply(connection, name, {key: value})
        return refused
    return {}
