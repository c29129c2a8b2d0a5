"""The whole path of a restore on one page: plan → preflight → topics → produce → verify → configuration → report.

`course` writes down what is begun; whoever runs it again after a kill goes on where the target's logs end.

Keeps I5 (cannot read is never absent), I7 (by topic id), I8 (each offset once) and I9 (bounded memory: what readers
hold and what is not yet acknowledged are two budgets in bytes). The target is written only after preflight found
nothing; topics that received records stay in the configuration that protects them until everything is verified.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

from kbackupd.archive.archive import Archive
from kbackupd.flow.budget import MemoryBudget
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import LATEST_TIMESTAMP, KafkaErrorCode, TopicPartition
from kbackupd.model.errors import KbackupError
from kbackupd.model.settings import RestoreSettings
from kbackupd.restore.acls import AclSelection
from kbackupd.restore.configs import RestoredFacts, after_restore
from kbackupd.restore.content_digest import ContentDigest
from kbackupd.restore.course import Course
from kbackupd.restore.filler import filler_batches
from kbackupd.restore.filling import hole_filler, move_log_start
from kbackupd.restore.mapped import RestoreRecord
from kbackupd.restore.plan import PartitionPlan, RestorePlan, TopicPlan, outcomes_of, planned_history
from kbackupd.restore.preflight import TargetState, examine_target
from kbackupd.restore.preserve import KeepingOffsets
from kbackupd.restore.produce import Producing
from kbackupd.restore.progress import Phase, RestoreProgress
from kbackupd.restore.provenance import Provenance
from kbackupd.restore.report import RestoreReport
from kbackupd.restore.results import PartitionResult, build_report
from kbackupd.restore.resume import Landed
from kbackupd.restore.rewrite import SEQUENCE_MODULUS, Holds, PartitionRewriter, ProduceBatch, ProducerIdentity
from kbackupd.restore.source import Chunk, Unreadable, read_partition
from kbackupd.restore.target_acls import apply_acls
from kbackupd.restore.topics import ConfigOutcome, ReadyTopic, apply_recorded, prepare_topics
from kbackupd.restore.verify import Expected, Verified, verify_target

LANES = 2
"""Connections per broker: with one, a broker of two cores took compressed batches at two thirds of the pace."""
READ_AT_ONCE = 64
"""Partitions being read at the same time, as far as the budget lets them."""
READ_AHEAD_BYTES = 16 << 20
"""Of one partition, beyond its largest run."""
REQUESTS_AT_ONCE = 128
"""To the store, shared by the partitions being read: enough to hide its latency, not so many that they queue long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreMemory:
    """Bounds in bytes; with the process itself a restore stays below 300 MiB."""

    reading_bytes: int = 64 << 20
    unacknowledged_bytes: int = 32 << 20


@dataclass(slots=True)
class _Run:
    """What the steps of one execution share."""

    plan: RestorePlan
    settings: RestoreSettings
    archive: Archive
    connection: KafkaConnection
    progress: RestoreProgress
    reading: MemoryBudget
    unacknowledged: MemoryBudget
    results: dict[TopicPartition, PartitionResult] = field(default_factory=dict)
    landed: Mapping[TopicPartition, Landed] = field(default_factory=dict)
    """What an earlier run restored; empty in a first one."""

    async def leaders(self) -> Mapping[TopicPartition, int]:
        metadata = await cluster_metadata(self.connection, [topic.target for topic in self.plan.topics])
        return {
            TopicPartition(topic.name, partition.partition): partition.leader_id
            for topic in metadata.topics
            for partition in topic.partitions
            if partition.leader_id >= 0
        }

    async def replicas(self) -> Mapping[str, int]:
        """Of each target topic, how many its partition with the fewest has."""
        metadata = await cluster_metadata(self.connection, [topic.target for topic in self.plan.topics])
        return {
            topic.name: min(len(partition.replicas) for partition in topic.partitions)
            for topic in metadata.topics
            if topic.partitions
        }

    async def log_ends(self, node_id: int, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        answers = await list_offsets(self.connection, node_id, dict.fromkeys(partitions, (LATEST_TIMESTAMP, -1)))
        return {tp: one.offset for tp, one in answers.items() if one.error_code == KafkaErrorCode.NONE}

    def now(self) -> float:
        return self.connection.clock.monotonic()


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
        KafkaUnavailableError, KafkaDeniedError: the target could not be asked, or a topic not be prepared.
    """
    memory = memory or RestoreMemory()
    clock = connection.clock
    began_ms = clock.now_ms()
    run = _Run(
        plan=plan,
        settings=settings,
        archive=archive,
        connection=connection,
        progress=progress,
        reading=MemoryBudget(memory.reading_bytes),
        unacknowledged=MemoryBudget(memory.unacknowledged_bytes),
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
    run.landed = state.landed
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
        peak_buffered_bytes=run.reading.peak_bytes + run.unacknowledged.peak_bytes,
    )
    await course.end(report)
    progress.enter(Phase.DONE, run.now())
    return report


async def _produce_all(run: _Run, state: TargetState, ready: Mapping[str, ReadyTopic]) -> None:
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
        acknowledged=partial(_acknowledged, run),
        fill_hole=filler.fill if filler else None,
        budget=run.unacknowledged,
        clock=run.connection.clock,
        rate_limit_bytes_per_second=run.settings.options.rate_limit_bytes_per_second,
    )

    async def work(waiting: list[tuple[TopicPlan, PartitionPlan]]) -> None:
        while waiting:
            topic, partition = waiting.pop()
            await _restore_partition(run, producing, identity, topic, partition, ready[topic.target])
            run.progress.partitions_done += 1

    async with filler or nullcontext(), producing:
        # What others need is there, as far as it can be, before they are.
        for first in (True, False):
            topics = [topic for topic in run.plan.topics if topic.goes_first is first]
            waiting = [(topic, partition) for topic in topics for partition in topic.partitions]
            # The largest last in the list, so first to be taken: what takes longest must not begin last.
            waiting.sort(key=lambda item: item[1].raw_bytes)
            async with asyncio.TaskGroup() as readers:
                for _ in range(min(READ_AT_ONCE, len(waiting))):
                    readers.create_task(work(waiting))


def _acknowledged(run: _Run, tp: TopicPartition, batch: ProduceBatch) -> None:
    result = run.results[tp]
    result.next_offset += batch.records
    if batch.holds is not Holds.RECORDS:
        result.offsets_filled += batch.records
        run.progress.filled_offsets += batch.records
        return
    result.records += batch.records
    result.data_bytes += len(batch.data)
    run.progress.acknowledged_records += batch.records
    run.progress.acknowledged_bytes += len(batch.data)


async def _restore_partition(
    run: _Run,
    producing: Producing,
    identity: ProducerIdentity,
    topic: TopicPlan,
    partition: PartitionPlan,
    ready: ReadyTopic,
) -> None:
    tp = TopicPartition(topic.target, partition.partition)
    history = planned_history(run.archive, topic, partition)
    log_end = ready.log_ends[partition.partition]
    kept = partition.preserved
    first_offset = log_end if kept is None else kept.log_start
    cut = run.plan.cut_of(partition)
    rewriter = PartitionRewriter(
        outcomes=outcomes_of(history),
        producer=identity,
        max_batch_bytes=ready.max_batch_bytes,
        cut=cut,
        records_of=run.plan.cut.visibility,
        provenance=Provenance(topic.source, partition.partition) if run.plan.cut.provenance_headers else None,
        next_sequence=(first_offset - log_end) % SEQUENCE_MODULUS,
        splits_at_holes=kept is not None,
    )
    result = run.results[tp] = PartitionResult(
        tally=rewriter.tally,
        offset_map=rewriter.offset_map,
        expected=Expected(
            id=ready.id_of(partition.partition),
            first_offset=first_offset,
            digest=ContentDigest(),
            log_end=None if kept is None else kept.next_offset,
        ),
        next_offset=log_end,
    )
    landed = run.landed.get(tp)
    if partition.is_empty and kept is None and not (landed and landed.offsets):
        return
    producing.begin(tp, next_offset=log_end + (landed.offsets if landed else 0), repeats=landed is not None)
    keeping = KeepingOffsets(first_offset) if kept is not None else None
    reserved = _reading_bytes(partition, readers=min(READ_AT_ONCE, run.plan.partitions))
    await run.reading.take(reserved)
    try:
        if keeping is not None:
            fillers = filler_batches(log_end, first_offset, producer=identity, first_sequence=0)
            await _move_log_start(run, producing, tp, fillers, first_offset)
        wanted = read_partition(run.archive, cut.needed(history), read_ahead_bytes=reserved)
        async with aclosing(wanted) as chunks:
            async for chunk in chunks:
                await _restore_chunk(run, producing, tp, rewriter, keeping, result, chunk)
        if keeping is not None and kept is not None:
            await _put(run, producing, tp, keeping.until(kept.next_offset))
        if landed is not None:
            landed.check_passed()
    except (KbackupError, ValueError) as error:
        # A ValueError is a batch that nobody foresaw: it must not cost the other partitions their restore.
        result.failure = str(error)
    finally:
        run.reading.release(reserved)
    try:
        await producing.finish(tp)
    except KbackupError as error:
        result.failure = f"{error} ({error.hint})" if error.hint else str(error)
    if result.failure:
        rewriter.offset_map.cut(result.records)


async def _restore_chunk(
    run: _Run,
    producing: Producing,
    tp: TopicPartition,
    rewriter: PartitionRewriter,
    keeping: KeepingOffsets | None,
    result: PartitionResult,
    chunk: Chunk | Unreadable,
) -> None:
    if isinstance(chunk, Unreadable):
        result.damaged = True
        rewriter.tally.add_missing(chunk.offsets, chunk.records, chunk.reason)
        return
    batches = await asyncio.to_thread(_rewrite, rewriter, result.expected, chunk)
    await _put(run, producing, tp, batches if keeping is None else keeping.steps(batches))
    run.progress.read_bytes += chunk.size_bytes


async def _put(run: _Run, producing: Producing, tp: TopicPartition, batches: Iterable[ProduceBatch]) -> None:
    landed = run.landed.get(tp)
    for batch in batches:
        left = batch if landed is None else landed.left_of(batch)
        if batch.holds is Holds.RECORDS:
            run.progress.queued_bytes += len(batch.data)
        if left is not batch:
            _found(run, tp, batch, left)
        if left is None:
            continue
        if left.data:
            await run.unacknowledged.take(len(left.data))
        producing.put(tp, left)


def _found(run: _Run, tp: TopicPartition, batch: ProduceBatch, left: ProduceBatch | None) -> None:
    """An earlier run brought `batch` there, but for `left`."""
    there = batch if left is None else replace(batch, records=batch.records - left.records)
    if batch.holds is Holds.RECORDS:
        run.results[tp].found_records += batch.records
    _acknowledged(run, tp, there)


async def _move_log_start(
    run: _Run, producing: Producing, tp: TopicPartition, fillers: Iterable[ProduceBatch], first_offset: int
) -> None:
    """Write `fillers` up to `first_offset` and delete them again; on return the log is empty and begins there."""
    if first_offset == 0:
        return
    await _put(run, producing, tp, fillers)
    await producing.settled(tp)
    await move_log_start(run.connection, tp, first_offset)


def _rewrite(rewriter: PartitionRewriter, expected: Expected, chunk: Chunk) -> list[ProduceBatch]:
    produced = [one for batch in chunk.batches for one in rewriter.rewrite(batch)]
    for batch in produced:
        base_offset = batch.source_first_offset if expected.has_holes else None
        expected.digest.add(batch.data, batch.records, base_offset=base_offset)
    return produced


def _reading_bytes(partition: PartitionPlan, *, readers: int) -> int:
    """What reading the partition may hold: as many runs as are fetched at a time, and at least the largest one."""
    everything = partition.download_bytes + partition.raw_bytes
    ahead = everything * min(max(REQUESTS_AT_ONCE // readers, 4), partition.runs) // max(partition.runs, 1)
    return max(partition.largest_read_bytes, min(ahead, READ_AHEAD_BYTES))


async def _verify(run: _Run, ready: Mapping[str, ReadyTopic]) -> Mapping[TopicPartition, Verified]:
    """Read back every partition that was restored to its end."""
    expected = {tp: result.expected for tp, result in run.results.items() if not result.failure}
    run.progress.to_verify_bytes = sum(one.digest.data_bytes for one in expected.values())

    def read(count_bytes: int) -> None:
        run.progress.verified_bytes += count_bytes

    return await verify_target(run.connection, expected, leaders=run.leaders, read=read)


async def _configure(
    run: _Run,
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
