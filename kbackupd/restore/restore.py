"""The whole path of a restore on one page: plan → preflight → topics → produce → verify → configuration → report.

`course` writes down what is begun; whoever runs it again after a kill goes on where the target's logs end.

Keeps I5 (cannot read is never absent), I7 (by topic id), I8 (each offset once) and I9 (bounded memory: what readers
hold, what came with a neighbour's request and what is not yet acknowledged have bounds in bytes). The target is written
only after preflight found nothing; topics that received records stay in the configuration that protects them until
everything is verified.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

from kbackupd.archive.archive import Archive
from kbackupd.flow.budget import MemoryBudget
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import TopicPartition
from kbackupd.model.errors import KbackupError
from kbackupd.model.positions import PartitionId
from kbackupd.model.settings import RestoreSettings
from kbackupd.restore.acls import AclSelection
from kbackupd.restore.configs import RestoredFacts, after_restore
from kbackupd.restore.course import Course
from kbackupd.restore.execution import Execution
from kbackupd.restore.filling import hole_filler
from kbackupd.restore.mapped import RestoreRecord
from kbackupd.restore.plan import PartitionPlan, RestorePlan, TopicPlan
from kbackupd.restore.preflight import TargetState, examine_target
from kbackupd.restore.produce import Producing
from kbackupd.restore.progress import Phase, RestoreProgress
from kbackupd.restore.report import RestoreReport
from kbackupd.restore.restore_partition import READ_AT_ONCE, acknowledged, restore_partition
from kbackupd.restore.results import build_report
from kbackupd.restore.target_acls import apply_acls
from kbackupd.restore.topics import ConfigOutcome, ReadyTopic, apply_recorded, prepare_topics
from kbackupd.restore.verify import Verified, verify_target

LANES = 2
"""Connections per broker: with one, a broker of two cores took compressed batches at two thirds of the pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreMemory:
    """Bounds in bytes; with the process itself a restore stays below 300 MiB."""

    reading_bytes: int = 64 << 20
    shared_bytes: int = 16 << 20
    """Of requests that partitions share: on their way, or fetched and not yet asked for; 0: each reads for itself."""
    unacknowledged_bytes: int = 32 << 20


async def execute(
    plan: RestorePlan,
    *,
    settings: RestoreSettings,
    archive: Archive,
    connection: KafkaConnection,
    progress: RestoreProgress,
    course: Course,
    memory: RestoreMemory | None = None,
    record: RestoreRecord | None = None,
    acls: AclSelection | None = None,
) -> RestoreReport:
    """Carry `plan` out. On return everything the report counts is in the logs of all in-sync replicas of the target.

    Cancelled or killed, the target holds a prefix of each partition, in topics that neither expire nor compact; what is
    written down of the restore lets a later run go on from there.

    Args:
        archive: the one the plan was made from.
        progress: moved along.
        course: of the same plan: where it is written down, and what an earlier run of it left.
        acls: set once everything is configured; None: none is.
        record: told what is acknowledged, so that there is an offset map also of a restore that does not end.

    Raises:
        PreflightError, TargetDeniedError: nothing was written.
        RefusedError: it cannot be gone on with, or another restore into the same topics was begun at the same time; no
            record was produced.
        KafkaUnavailableError, KafkaDeniedError: the target could not be asked, or a topic not be prepared.
        IncompleteError: a topic could not be made safe in time; no record was produced.
        StoreDeniedError, StoreUnavailableError: it could not be written down that it begins; no record was produced.
    """
    memory = memory or RestoreMemory()
    clock = connection.clock
    began_ms = clock.now_ms()
    run = Execution(
        plan=plan,
        settings=settings,
        archive=archive,
        connection=connection,
        progress=progress,
        reading=MemoryBudget(memory.reading_bytes),
        unacknowledged=MemoryBudget(memory.unacknowledged_bytes),
        shared_reads=archive.shared_reads(room_bytes=memory.shared_bytes),
    )
    progress.total_bytes, progress.partitions = plan.raw_bytes, plan.partitions
    progress.appends = plan.append
    progress.to_fill_offsets = plan.offsets_to_fill
    progress.enter(Phase.PREFLIGHT, run.now())
    state = await examine_target(
        connection,
        plan,
        reads_back=settings.options.verify,
        unfinished=course.unfinished,
        going_on=course.going_on,
        sets_acls=acls is not None,
    )
    progress.notes.extend(state.notes)
    await course.begin(plan, settings.options, state)

    progress.enter(Phase.PREPARING, run.now())
    progress.touched |= dict.fromkeys(topic.target for topic in plan.topics)
    ready = await prepare_topics(connection, plan, state, course.filling)
    await course.filling_begins(state.producer, ready)
    run.ready, run.landed = ready, state.landed
    if record is not None:
        record.begin(plan, state.cluster_id, ready, run.results)

    progress.enter(Phase.RESTORING, run.now())
    await _produce_all(run, state, ready)
    restored_at = run.now()
    if record is not None:
        record.complete = True

    verified: Mapping[TopicPartition, Verified] = {}
    if settings.options.verify:
        progress.enter(Phase.VERIFYING, restored_at)
        verified = await _verify(run, ready)
    verified_at = run.now()

    progress.enter(Phase.CONFIGURING, verified_at)
    replicas = await run.replicas()
    outcomes = await _configure(run, state, ready, verified, replicas)
    with_acls = None if acls is None else await apply_acls(connection, acls)
    report = build_report(
        plan,
        ready=ready,
        results=run.results,
        verified=verified,
        outcomes=outcomes,
        replicas=replicas,
        notes=state.notes,
        acls=with_acls,
        target_cluster_id=state.cluster_id,
        filling=state.way,
        began_ms=began_ms,
        first_began_ms=min(began_ms, course.began_ms),
        restore_seconds=restored_at - progress.began_at,
        verify_seconds=verified_at - restored_at,
        total_seconds=run.now() - progress.began_at,
        peak_buffered_bytes=run.reading.peak_bytes + run.shared_reads.peak_bytes + run.unacknowledged.peak_bytes,
    )
    report = await ended(course, report)
    progress.enter(Phase.DONE, run.now())
    return report


async def ended(course: Course, report: RestoreReport) -> RestoreReport:
    """The report, once it is durable that the restore is over; where it cannot be made so, the report says it."""
    try:
        await course.end(report)
    except KbackupError as error:
        # Credentials for an hour, a restore of two: everything is there, and whoever waited for it must be told what.
        note = (
            f"that this restore is over could not be written down: {error.message}; run again, it reads everything once"
            " more and finds nothing left to do"
        )
        return replace(report, notes=(*report.notes, note))
    return report


async def _produce_all(run: Execution, state: TargetState, ready: Mapping[str, ReadyTopic]) -> None:
    """Restore every partition; what goes wrong with one is in its result and ends no other (principle P6)."""

    identity = state.producer
    filler = hole_filler(run.connection, run.plan, state.way, leaders=run.leaders) if state.way else None
    lanes = [
        RawProducer(run.connection, producer_id=identity.producer_id, producer_epoch=identity.producer_epoch)
        for _ in range(LANES)
    ]
    producing = Producing(
        lanes,
        leaders=run.leaders,
        log_ends=run.log_ends,
        acknowledged=partial(acknowledged, run),
        fill_hole=filler.fill if filler else None,
        budget=run.unacknowledged,
        clock=run.connection.clock,
        rate_limit_bytes_per_second=run.settings.options.rate_limit_bytes_per_second,
    )

    async def work(waiting: list[tuple[TopicPlan, PartitionPlan]]) -> None:
        while waiting:
            topic, partition = waiting.pop()
            await restore_partition(run, producing, identity, topic, partition, ready[topic.target])
            run.progress.partitions_done += 1

    async with filler or nullcontext(), producing, run.shared_reads:
        # What others need is there, as far as it can be, before they are.
        for first in (True, False):
            topics = [topic for topic in run.plan.topics if topic.goes_first is first]
            waiting = reading_order(topics)
            waiting.reverse()
            async with asyncio.TaskGroup() as readers:
                for _ in range(min(READ_AT_ONCE, len(waiting))):
                    readers.create_task(work(waiting))


def reading_order(topics: Iterable[TopicPlan]) -> list[tuple[TopicPlan, PartitionPlan]]:
    """Their partitions as they are begun: the largest first, for what takes longest must not begin last.

    Those about as large, and all that are a small part of the whole, in the order in which the archive holds their rows
    and segments their runs: of rows it has a few at hand, and what is read at a time comes by few requests.
    """
    every = [(topic, partition) for topic in topics for partition in topic.partitions]
    # Of so small a part of the whole it does not matter when it begins: it ends soon.
    small_bytes = sum(partition.raw_bytes for _, partition in every) // (4 * READ_AT_ONCE)

    def place(item: tuple[TopicPlan, PartitionPlan]) -> tuple[int, int, PartitionId]:
        topic, partition = item
        if partition.raw_bytes <= small_bytes:
            return 0, 0, topic.id_of(partition)
        digits = partition.raw_bytes.bit_length()
        # Four steps between two powers of two.
        return -digits, -(partition.raw_bytes >> max(digits - 3, 0)), topic.id_of(partition)

    return sorted(every, key=place)


async def _verify(run: Execution, ready: Mapping[str, ReadyTopic]) -> Mapping[TopicPartition, Verified]:
    """Read back every partition that was restored to its end."""
    expected = {tp: result.expected for tp, result in run.results.items() if not result.failure}
    run.progress.to_verify_bytes = sum(one.digest.data_bytes for one in expected.values())

    def read(count_bytes: int) -> None:
        run.progress.verified_bytes += count_bytes

    return await verify_target(run.connection, expected, leaders=run.leaders, read=read)


async def _configure(
    run: Execution,
    state: TargetState,
    ready: Mapping[str, ReadyTopic],
    verified: Mapping[TopicPartition, Verified],
    replicas: Mapping[str, int],
) -> dict[str, ConfigOutcome]:
    """Apply the recorded configuration where that deletes nothing; a topic that failed keeps the safe one."""
    decisions = {}
    for topic in run.plan.topics:
        tps = [TopicPartition(topic.target, partition.partition) for partition in topic.partitions]
        results = [run.results[tp] for tp in tps]
        stamps = [one.tally.oldest_max_timestamp_ms for one in results]
        existing = state.existing.get(topic.target)
        decisions[topic.target] = after_restore(
            recorded={} if ready[topic.target].appends else topic.configs,
            during=ready[topic.target].configs,
            earlier=existing.overrides if existing else {},
            defaults=state.defaults,
            facts=RestoredFacts(
                complete=all(not one.failure for one in results)
                and not any(verified[tp].problem for tp in tps if tp in verified),
                oldest_timestamp_ms=min((stamp for stamp in stamps if stamp is not None), default=None),
                largest_partition_bytes=max((one.data_bytes for one in results), default=0),
                records=sum(one.records for one in results),
                replicas=replicas.get(topic.target),
            ),
            mode=run.plan.retention_after,
            now_ms=run.connection.clock.now_ms(),
        )
    return await apply_recorded(run.connection, decisions)
