"""Restores of one archive, measured: batches from memory at the broker's own pace, and `kbackupd restore` from S3."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import uvloop
import yaml

from bench.places import Cost
from bench.process import Ended, run_measured
from kbackupd.archive.archive import Archive
from kbackupd.flow.freed_memory import keep_freed_memory
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.offsets import list_offsets
from kbackupd.kafka.produce import RawProducer
from kbackupd.kafka.types import LATEST_TIMESTAMP, KafkaErrorCode, TopicPartition
from kbackupd.model.clock import SystemClock
from kbackupd.model.settings import SecuritySettings
from kbackupd.restore.history_facts import outcomes_of
from kbackupd.restore.produce import REQUEST_TIMEOUT_MS
from kbackupd.restore.produce_batch import ProducerIdentity, RawBatch
from kbackupd.restore.restore import LANES
from kbackupd.restore.rewrite import PartitionRewriter
from kbackupd.restore.schedule import REQUEST_BYTES
from kbackupd.restore.send_queue import REQUESTS_IN_FLIGHT
from kbackupd.restore.source import Unreadable, read_partition
from kbackupd.store.open import open_store
from kbackupd.testbed.daemon import kbackupd_command, kbackupd_environment
from kbackupd.testbed.process import ServerFailedError
from kbackupd.testbed.s3 import S3Server

BACKUP_ID = "bench"
_MAX_BATCH_BYTES = 1 << 20
_METADATA_SECONDS = 30.0
_READ_AHEAD_BYTES = 16 << 20

Held = Mapping[int, Sequence[RawBatch]]
"""Partition → the batches that a restore would produce, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRun:
    """What one `kbackupd restore` cost."""

    seconds: float
    """By its own report: from its start, interpreter and imports excepted, to the last acknowledged record."""
    verify_seconds: float
    bytes_produced: int
    process: Ended


def held_batches(bootstrap: str, s3: S3Server, bucket: str, topic: str) -> tuple[Held, ProducerIdentity]:
    """Everything of `topic`, read from the archive and rewritten as a restore does it, and who is to produce it."""
    keep_freed_memory()
    return uvloop.run(_held_batches(bootstrap, s3, bucket, topic))


async def _held_batches(bootstrap: str, s3: S3Server, bucket: str, topic: str) -> tuple[Held, ProducerIdentity]:
    async with _connection(bootstrap) as connection:
        producer = await RawProducer.open(connection)
    identity = ProducerIdentity(producer.producer_id, producer.producer_epoch)
    store = await open_store(s3.storage(bucket, ""))
    found: dict[int, list[RawBatch]] = {}
    try:
        archive = await Archive.open(store, BACKUP_ID, wanted=topic.__eq__)
        for id in archive.partitions:
            history = archive.history(id)
            rewriter = PartitionRewriter(
                outcomes=outcomes_of(history), producer=identity, max_batch_bytes=_MAX_BATCH_BYTES
            )
            batches = found.setdefault(id.partition, [])
            async with aclosing(read_partition(archive, history, read_ahead_bytes=_READ_AHEAD_BYTES)) as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, Unreadable):
                        raise ServerFailedError(f"{topic}/{id.partition}: {chunk.reason}")
                    batches += [made.data for batch in chunk.batches for made in rewriter.rewrite(batch)]
    finally:
        await store.close()
    return found, identity


def produce_held(bootstrap: str, topic: str, held: Held, identity: ProducerIdentity) -> Cost:
    """Produce it to the empty `topic`, with as many connections and requests under way as a restore, and nothing else.

    Each partition keeps its lane, one batch of it in a request, as a restore does it.
    """
    keep_freed_memory()
    return uvloop.run(_produce_held(bootstrap, topic, held, identity))


async def _produce_held(bootstrap: str, topic: str, held: Held, identity: ProducerIdentity) -> Cost:
    async with _connection(bootstrap) as connection:
        metadata = await cluster_metadata(connection, [topic], timeout_seconds=_METADATA_SECONDS)
        leaders = {row.leader_id for found in metadata.topics for row in found.partitions}
        if len(leaders) != 1:
            raise ServerFailedError(f"{topic} is led by {len(leaders)} brokers; this measures one")
        (node_id,) = leaders
        await _wait_until_led(connection, node_id, [TopicPartition(topic, one) for one in held])
        lanes = [RawProducer(connection, producer_id=identity[0], producer_epoch=identity[1]) for _ in range(LANES)]
        started, cpu_before = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            for number, lane in enumerate(lanes):
                of_lane = {TopicPartition(topic, one): held[one] for one in sorted(held)[number::LANES]}
                tasks.create_task(_produce_lane(lane, node_id, of_lane))
        return Cost(seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - cpu_before)


async def _wait_until_led(connection: KafkaConnection, node_id: int, partitions: Sequence[TopicPartition]) -> None:
    """Return when the broker leads them all: of hundreds just created it says so before it does."""
    asked = dict.fromkeys(partitions, (LATEST_TIMESTAMP, -1))
    async with asyncio.timeout(_METADATA_SECONDS):
        while True:
            answers = await list_offsets(connection, node_id, asked)
            if not any(one.error_code for one in answers.values()):
                return
            await asyncio.sleep(0.05)


async def _produce_lane(lane: RawProducer, node_id: int, held: Mapping[TopicPartition, Sequence[RawBatch]]) -> None:
    places = asyncio.Semaphore(REQUESTS_IN_FLIGHT)

    async def send(batches: Mapping[TopicPartition, RawBatch]) -> None:
        try:
            answers = await lane.produce(node_id, batches, timeout_ms=REQUEST_TIMEOUT_MS)
        finally:
            places.release()
        for tp, answer in answers.items():
            if answer.error_code != KafkaErrorCode.NONE:
                raise ServerFailedError(f"{tp.topic}/{tp.partition}: error {answer.error_code}")

    async with asyncio.TaskGroup() as tasks:
        for number, batches in enumerate(requests_of(held)):
            await places.acquire()
            if number == 0:  # the broker has to know the producer before more than one batch is under way
                await send(batches)
            else:
                tasks.create_task(send(batches))


def requests_of(
    held: Mapping[TopicPartition, Sequence[RawBatch]],
) -> Iterator[dict[TopicPartition, RawBatch]]:
    """The next batch of each partition, as many as fit one request; those served last come last."""
    waiting = {tp: iter(batches) for tp, batches in held.items()}
    ahead = {tp: batch for tp, batches in waiting.items() if (batch := next(batches, None)) is not None}
    while ahead:
        chosen: dict[TopicPartition, RawBatch] = {}
        size = 0
        for tp, batch in ahead.items():
            if chosen and size + len(batch) > REQUEST_BYTES:
                break
            chosen[tp] = batch
            size += len(batch)
        yield chosen
        for tp in chosen:
            del ahead[tp]
            if (following := next(waiting[tp], None)) is not None:
                ahead[tp] = following


def restore(
    directory: Path, *, bootstrap: str, s3: S3Server, bucket: str, topic: str, target: str, verify: bool
) -> RestoreRun:
    """`kbackupd restore` of `topic` under the name `target`, which is not there yet, as a process of its own.

    Raises:
        ServerFailedError: it did not end with 0.
    """
    config, output = directory / f"{target}.yaml", directory / f"{target}.out"
    document = {
        "restore": {
            "source": {
                "path": f"s3://{bucket}",
                "backup_id": BACKUP_ID,
                "s3": {"region": s3.region, "endpoint": s3.endpoint, "force_path_style": True},
            },
            "target": {"bootstrap_servers": [bootstrap]},
            "options": {
                "topic_mapping": [{"source": topic, "target": target}],
                "retention_after": "hold",
                "verify": verify,
            },
        }
    }
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    command = kbackupd_command("restore", "--config", str(config), "--format", "json")
    ended = run_measured(command, output=output, environment=kbackupd_environment(s3))
    said = output.read_text()
    if ended.exit_code != 0:
        raise ServerFailedError(f"kbackupd restore ended with {ended.exit_code}:\n{said[-2_000:]}")
    report = json.loads(said[said.index("{") :])  # what comes before is progress
    return RestoreRun(
        seconds=float(report["restore_seconds"]),
        verify_seconds=float(report["verify_seconds"]),
        bytes_produced=int(report["bytes_restored"]),
        process=ended,
    )


def startup_cpu_seconds(directory: Path, *, environment: Mapping[str, str]) -> float:
    """Of an interpreter that has imported what a restore needs and leaves: in every restore's processor time."""
    command = kbackupd_command("restore", "--help")
    return run_measured(command, output=directory / "help.out", environment=environment).cpu_seconds


def _connection(bootstrap: str) -> KafkaConnection:
    return KafkaConnection(
        bootstrap_servers=[bootstrap], security=SecuritySettings(), client_id="bench", clock=SystemClock()
    )
