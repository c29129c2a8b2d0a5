"""One partition of a restore: read → rewritten → past what an earlier run left → produced, acknowledged and counted.

What goes wrong with a partition is in its result and ends no other (principle P6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace

from kbackupd.kafka.types import TopicPartition
from kbackupd.model.errors import KbackupError
from kbackupd.restore.content_digest import ContentDigest
from kbackupd.restore.execution import Execution
from kbackupd.restore.filler import filler_batches
from kbackupd.restore.filling import move_log_start
from kbackupd.restore.history_facts import outcomes_of
from kbackupd.restore.plan import PartitionPlan, RestorePlan, TopicPlan
from kbackupd.restore.planning import planned_history
from kbackupd.restore.preserve import KeepingOffsets
from kbackupd.restore.produce import Producing
from kbackupd.restore.produce_batch import SEQUENCE_MODULUS, Holds, ProduceBatch, ProducerIdentity
from kbackupd.restore.provenance import Provenance
from kbackupd.restore.results import PartitionResult, failure_of
from kbackupd.restore.rewrite import PartitionRewriter
from kbackupd.restore.source import Chunk, Unreadable, read_partition
from kbackupd.restore.topics import ReadyTopic
from kbackupd.restore.verify import Expected

READ_AT_ONCE = 64
"""Partitions being read at the same time, as far as the budget lets them."""

FEW = 4
"""So many partitions have room at a time, if neither a run nor index and LEAST_AHEAD_BYTES take more than a share."""

LEAST_AHEAD_BYTES = 4 << 20
"""Beside each index; where there is no room for that, fewer have room."""

ALONE_AHEAD_BYTES = 16 << 20
"""Of a partition whose index takes the memory there is."""

INDEX_BYTES_PER_RUN = 3 << 9
"""A run, its segment's name and its slice as values, as measured."""

REQUESTS_AT_ONCE = 128
"""To the store, shared by the partitions being read: enough to hide its latency, not so many that they queue long."""


def acknowledged(run: Execution, tp: TopicPartition, batch: ProduceBatch) -> None:
    """Count `batch`, which all in-sync replicas have: sent by this run, or found there from an earlier one."""
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


async def restore_partition(
    run: Execution,
    producing: Producing,
    identity: ProducerIdentity,
    topic: TopicPlan,
    partition: PartitionPlan,
    ready: ReadyTopic,
) -> None:
    """Bring one partition to its end in the target, as far as that can be; what came of it is in `run.results`.

    On return everything that its result counts is acknowledged by all in-sync replicas, and unless it failed nothing
    of the partition is under way.
    Cancelled, the log holds a prefix of what is produced, and what was sent may still be appended to it: the next run
    finds it there, or the broker drops it as a repetition.

    Never raises a KbackupError: it becomes the result's `failure`.
    """
    tp = TopicPartition(topic.target, partition.partition)
    ahead = read_ahead_bytes(run.plan, partition, run.reading.limit_bytes)
    reserved = _index_bytes(partition) + ahead
    await run.reading.take(reserved)
    try:
        begun = await _read_and_put(run, producing, identity, topic, partition, ready, ahead)
    finally:
        run.reading.release(reserved)
    if not begun:
        return
    result = run.results[tp]
    try:
        await producing.finish(tp)
    except KbackupError as error:
        # Where reading ended too soon, the log of a restore that is gone on with may well be ahead: that is no news.
        result.failure = result.failure or failure_of(error)
    if result.failure:
        result.offset_map.cut(result.records)


async def _read_and_put(
    run: Execution,
    producing: Producing,
    identity: ProducerIdentity,
    topic: TopicPlan,
    partition: PartitionPlan,
    ready: ReadyTopic,
    ahead_bytes: int,
) -> bool:
    """Read all that is wanted and hand it to `producing`; nothing of the partition's history is held afterwards.

    False: there is nothing to be produced.
    """
    tp = TopicPartition(topic.target, partition.partition)
    # Of a long log it takes seconds, and meanwhile others' answers would not be read.
    history = await asyncio.to_thread(planned_history, run.archive, topic, partition)
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
        return False
    producing.begin(
        tp,
        next_offset=log_end + (landed.offsets if landed else 0),
        repeats=landed is not None,
        appends=ready.appends,
    )
    keeping = KeepingOffsets(first_offset) if kept is not None else None
    try:
        if keeping is not None:
            fillers = filler_batches(log_end, first_offset, producer=identity, first_sequence=0)
            await _move_log_start(run, producing, tp, fillers, first_offset)
        wanted = read_partition(run.archive, cut.needed(history), read_ahead_bytes=ahead_bytes, shared=run.shared_reads)
        async with aclosing(wanted) as chunks:
            async for chunk in chunks:
                await _restore_chunk(run, producing, tp, rewriter, keeping, result, chunk)
        if keeping is not None and kept is not None:
            await _put(run, producing, tp, keeping.until(kept.next_offset))
        if landed is not None:
            landed.check_passed()
    except (KbackupError, ValueError) as error:
        # A ValueError is a batch that nobody foresaw: it must not cost the other partitions their restore.
        result.failure = failure_of(error)
    return True


async def _restore_chunk(
    run: Execution,
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


async def _put(run: Execution, producing: Producing, tp: TopicPartition, batches: Iterable[ProduceBatch]) -> None:
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


def _found(run: Execution, tp: TopicPartition, batch: ProduceBatch, left: ProduceBatch | None) -> None:
    """An earlier run brought `batch` there, but for `left`."""
    there = batch if left is None else replace(batch, records=batch.records - left.records)
    if batch.holds is Holds.RECORDS:
        run.results[tp].found_records += batch.records
    acknowledged(run, tp, there)


async def _move_log_start(
    run: Execution, producing: Producing, tp: TopicPartition, fillers: Iterable[ProduceBatch], first_offset: int
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


def read_ahead_bytes(plan: RestorePlan, partition: PartitionPlan, limit_bytes: int) -> int:
    """What reading the partition may hold: as many runs as are fetched at a time, and at least the largest one, else no
    more than its even share of `limit_bytes` beside its index.

    Together the partitions that are read at a time keep the store busy. Of long histories few have room at a time, and
    each of these asks for the more.
    """
    index = _index_bytes(partition)
    readers = max(1, min(READ_AT_ONCE, plan.partitions, limit_bytes // max(index, 1)))
    everything = partition.download_bytes + partition.raw_bytes
    ahead = everything * min(max(REQUESTS_AT_ONCE // readers, 4), partition.runs) // max(partition.runs, 1)
    # Were four to take a little more than a quarter each, the last would begin when the first ends, and end alone.
    few = max(1, min(readers, FEW, limit_bytes // (index + LEAST_AHEAD_BYTES)))
    most = limit_bytes // few - index if few > 1 else max(limit_bytes - index, ALONE_AHEAD_BYTES)
    return max(partition.largest_read_bytes, min(ahead, most))


def _index_bytes(partition: PartitionPlan) -> int:
    """What the partition's history may hold: of all its runs, whatever of them is read."""
    return (partition.runs + partition.runs_skipped) * INDEX_BYTES_PER_RUN
