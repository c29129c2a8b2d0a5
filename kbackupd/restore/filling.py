"""How a target's holes are filled: found out before the first write, and made ready for the restore."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence

from kbackupd.kafka.admin import delete_records
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.errors import error_for_code, is_retriable
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.transactions import EmptyTransactions, MarkerWriter
from kbackupd.kafka.types import LATEST_TIMESTAMP, KafkaErrorCode, TopicPartition
from kbackupd.model.errors import KafkaDeniedError, KbackupError
from kbackupd.model.settings import KeepOffsets
from kbackupd.model.units import format_duration, format_few
from kbackupd.restore.holes import HoleFiller, Leaders, MarkerFiller, TransactionFiller
from kbackupd.restore.markers import RUNS
from kbackupd.restore.permissions import Problem
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.preserve import MOST_TRANSACTIONS, TRANSACTIONS_PER_SECOND, Way
from kbackupd.restore.send_queue import GIVE_UP_SECONDS

_ID_PREFIX = "kbackupd-restore-"
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 3.0


async def way_to_fill(connection: KafkaConnection, plan: RestorePlan, problems: list[Problem]) -> Way | None:
    """The faster of the two that is permitted; None if neither is, which is then in `problems`. Appends to no topic.

    Raises: KafkaUnavailableError, KafkaDeniedError.
    """
    if await MarkerWriter(connection).permitted(plan.topics[0].target):
        return Way.MARKERS
    name = transactional_id(plan)
    try:
        await EmptyTransactions(connection, name).open()
    except KafkaDeniedError as error:
        if error.code not in (
            KafkaErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED,
        ):
            raise
        problems.append(
            Problem(
                what="offsets without records cannot be filled: this principal may neither write transaction markers"
                f" nor use the transactional id {name}",
                remedy="grant Alter or ClusterAction on the cluster, or Write and Describe on the transactional ids"
                f" that begin with {_ID_PREFIX}{_without(plan)}",
                denied=True,
            )
        )
        return None
    slowest = max(
        (one.preserved.to_fill for topic in plan.topics for one in topic.partitions if one.preserved is not None),
        default=0,
    )
    if slowest > MOST_TRANSACTIONS:
        problems.append(
            Problem(
                what=f"a partition has {slowest} offsets without records, and this principal may not write transaction"
                f" markers: empty transactions would take {format_duration(slowest / TRANSACTIONS_PER_SECOND)}"
                f" (at most {MOST_TRANSACTIONS} offsets are filled with them)",
                remedy=f"grant Alter or ClusterAction on the cluster{_without(plan)}",
                denied=True,
            )
        )
    return Way.TRANSACTIONS


def _without(plan: RestorePlan) -> str:
    """The way out where nobody asked for offsets to be kept."""
    if plan.offsets is not KeepOffsets.AUTO:
        return ""
    names = format_few([topic.source for topic in plan.keeping_offsets])
    return f"; or say offsets: compact, where {names} may have new offsets"


def transactional_id(plan: RestorePlan) -> str:
    """The same for every run that restores the same archive into the same topics, and for no other."""
    names = "\n".join(sorted(topic.target for topic in plan.topics))
    return f"{_ID_PREFIX}{plan.archive_id}-{hashlib.sha256(names.encode()).hexdigest()[:16]}"


def hole_filler(connection: KafkaConnection, plan: RestorePlan, way: Way, *, leaders: Leaders) -> HoleFiller:
    """Ready to be opened; a run that follows soon on another one does not draw its number."""

    async def log_ends(node_id: int, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        asked = dict.fromkeys(partitions, (LATEST_TIMESTAMP, -1))
        ends = await list_offsets(connection, node_id, asked, unreplicated=True)
        marks = await list_offsets(connection, node_id, asked)
        return {
            tp: (ends[tp].offset, marks[tp].offset)
            for tp in asked
            if ends[tp].error_code == marks[tp].error_code == KafkaErrorCode.NONE
        }

    clock = connection.clock
    match way:
        case Way.MARKERS:
            run = clock.now_ms() // 1000 % RUNS
            return MarkerFiller(MarkerWriter(connection), leaders=leaders, log_ends=log_ends, clock=clock, run=run)
        case Way.TRANSACTIONS:
            transactions = EmptyTransactions(connection, transactional_id(plan))
            return TransactionFiller(transactions, leaders=leaders, log_ends=log_ends, clock=clock)


async def move_log_start(connection: KafkaConnection, tp: TopicPartition, first_offset: int) -> None:
    """Delete what lies before `first_offset`; repeated while leaders move. Once done it may be done again.

    Raises: KafkaUnavailableError, after three minutes; KafkaDeniedError.
    """
    clock = connection.clock
    deadline = clock.monotonic() + GIVE_UP_SECONDS
    pause = _FIRST_PAUSE_SECONDS
    what = f"{tp.topic}-{tp.partition}: moving the log start to {first_offset}"
    while True:
        try:
            answer = (await delete_records(connection, {tp: first_offset}))[tp]
            if answer.error_code == KafkaErrorCode.NONE:
                return
            failure: KbackupError = error_for_code(answer.error_code, what)
            if not is_retriable(answer.error_code):
                raise failure
        except KbackupError as error:
            if not error.retryable:
                raise
            failure = error
        if clock.monotonic() > deadline:
            raise failure
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
