"""Asking the target for limits that would stop or slow a restore; changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from kbackupd.kafka.admin import check_topic_configs, effective_topic_configs
from kbackupd.kafka.brokers import broker_settings
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.types import KafkaErrorCode, TopicMetadata, TopicOperation
from kbackupd.kafka.wire_cluster import DescribeQuotasRequest
from kbackupd.model.errors import KafkaDeniedError
from kbackupd.restore.configs import during_restore
from kbackupd.restore.limits import REQUEST_BYTES_KEY, cannot_be_made_safe, request_too_large, too_few_in_sync
from kbackupd.restore.older_brokers import as_far_as_known
from kbackupd.restore.permissions import NOT_ALLOWED, Problem, lacking
from kbackupd.restore.plan import RestorePlan, TopicPlan
from kbackupd.restore.quotas import producer_quota, quota_note

_AT_ONCE = 8


async def request_problems(connection: KafkaConnection, plan: RestorePlan) -> list[Problem]:
    """Batches that do not fit into a request; none where the brokers' configuration is hidden."""
    told = (await broker_settings(connection, [REQUEST_BYTES_KEY])).get(REQUEST_BYTES_KEY)
    limit = None if told is None else int(told)
    found = (
        request_too_large(topic.target, largest_batch_bytes=topic.largest_batch_bytes, request_max_bytes=limit)
        for topic in plan.topics
    )
    return [problem for problem in found if problem is not None]


async def existing_problems(
    connection: KafkaConnection,
    existing: Sequence[tuple[TopicPlan, TopicMetadata]],
    begun: Mapping[str, Mapping[str, str]],
) -> list[Problem]:
    """Why topics that exist could not be made safe, or would not acknowledge.

    Args:
        begun: what topics that are gone on with are configured with for the time of the restore.
    """
    if not existing:
        return []
    names = [topic.target for topic, _ in existing]
    described = await effective_topic_configs(connection, names, ["min.insync.replicas"])
    turn = asyncio.Semaphore(_AT_ONCE)

    async def examine(topic: TopicPlan, there: TopicMetadata) -> list[Problem]:
        told = described.get(topic.target)
        least = told.values.get("min.insync.replicas") if told is not None and not told.error_code else None
        replicas = too_few_in_sync(there, None if least is None else int(least))
        configs = begun.get(topic.target) or during_restore(topic.configs, topic.largest_batch_bytes)
        async with turn:
            unsafe = await _unsafe(connection, there, configs)
        return [problem for problem in (unsafe, replicas) if problem is not None]

    return [problem for some in await asyncio.gather(*(examine(*one) for one in existing)) for problem in some]


async def _unsafe(connection: KafkaConnection, there: TopicMetadata, configs: Mapping[str, str]) -> Problem | None:
    async def ask(configs: Mapping[str, str]) -> None:
        await check_topic_configs(connection, there.name, configs)

    try:
        await as_far_as_known(configs, ask)
    except KafkaDeniedError as error:
        if error.code not in NOT_ALLOWED:
            return cannot_be_made_safe(there.name, error.message)
        # Where the broker tells what we may do, that has been looked at.
        return lacking(there.name, {TopicOperation.ALTER_CONFIGS}) if there.operations is None else None
    return None


async def quota_notes(connection: KafkaConnection, plan: RestorePlan, *, brokers: int) -> tuple[str, ...]:
    """What to know of the target's producer quotas; nothing where we may not ask and where there are none of ours."""
    try:
        described = await connection.send_any(DescribeQuotasRequest())
    except KafkaDeniedError as error:
        if error.code not in (*NOT_ALLOWED, KafkaErrorCode.UNSUPPORTED_VERSION):
            raise
        return ()
    if described.error_code:
        return ()
    user, client_id = connection.user, connection.client_id
    rate = producer_quota(described.quotas, user=user, client_id=client_id)
    if rate is None:
        return ()
    note = quota_note(
        rate,
        brokers=brokers,
        partitions=plan.partitions,
        raw_bytes=plan.raw_bytes,
        user=user,
        client_id=client_id,
    )
    return (note,)
