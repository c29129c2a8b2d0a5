"""The cluster that is backed up: filled by librdkafka, by batches no client would build, and by files in its log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from kbackupd.format.header import BatchHeader, parse_header
from kbackupd.format.records import rewrite_for_produce
from kbackupd.kafka import types
from kbackupd.kafka.admin import alter_topic_configs
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.produce import RawProducer
from kbackupd.model.clock import SystemClock
from kbackupd.model.settings import SecuritySettings
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Outcome, RawBatch, Truth, raw_log, split_batches
from kbackupd.testbed.workload import Codec, Draft, produce, produce_transaction

HANGING = "matrix-hanging"
"""The transactional id whose last transaction is still open when the backup is made."""
_DEADLINE_SECONDS = 120.0
_LONGEST_TRANSACTION_MS = 900_000
"""What brokers permit at most: one that is left open must outlast the backup."""
_POLL_SECONDS = 0.05
_FOREVER = str((1 << 63) - 1)


class SourceCluster:
    """A broker of the matrix' own, what clients were told of their records, and the log's batches."""

    def __init__(self) -> None:
        # The cleaner looks again at once; nothing else differs from what the other tests' broker does.
        self.kafka = KafkaServer(properties={"log.cleaner.backoff.ms": "100"})
        self.truth = Truth()

    @property
    def bootstrap(self) -> str:
        return self.kafka.bootstrap

    def create(self, topic: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        # Fixed timestamps grow old: nothing is to be deleted for its age while we look.
        kept = {"retention.ms": "-1", **(config or {})}
        create_topic(self.bootstrap, topic, partitions=partitions, config=kept)
        self.truth.know_topic(topic, partitions)

    def produce(self, topic: str, drafts: Iterable[Draft], *, codec: Codec = "none") -> None:
        """By an idempotent librdkafka producer of its own."""
        produce(self.bootstrap, self.truth, topic, drafts, codec=codec)

    def transaction(
        self,
        topic: str,
        drafts: Iterable[Draft],
        outcome: Outcome,
        *,
        transactional_id: str = "",
        codec: Codec = "none",
    ) -> None:
        """On return its markers, if it has any, are in the log."""
        sent = list(drafts)
        produce_transaction(
            self.bootstrap,
            self.truth,
            ((topic, draft) for draft in sent),
            outcome=outcome,
            transactional_id=transactional_id,
            codec=codec,
            timeout_ms=_LONGEST_TRANSACTION_MS,
        )
        if outcome is not Outcome.OPEN:
            for partition in {draft.partition for draft in sent}:
                assert partition is not None
                self.until(topic, lambda log: log[-1].is_control, partition=partition)

    def produce_batches(self, topic: str, batches: Sequence[bytes], *, partition: int = 0) -> None:
        """Batches whose records are taken as they are: librdkafka cannot build these.

        Raises:
            AssertionError: the broker refused one.
        """
        asyncio.run(self._produce_batches(topic, batches, partition))

    async def _produce_batches(self, topic: str, batches: Sequence[bytes], partition: int) -> None:
        tp = types.TopicPartition(topic, partition)
        async with self._connection() as connection:
            producer = await RawProducer.open(connection)
            sequence = 0
            for batch in batches:
                sent = rewrite_for_produce(
                    batch,
                    producer_id=producer.producer_id,
                    producer_epoch=producer.producer_epoch,
                    base_sequence=sequence,
                )
                answers = await producer.produce(self.kafka.node_id, {tp: sent}, timeout_ms=30_000)
                assert answers[tp].error_code == types.KafkaErrorCode.NONE, (topic, answers[tp])
                sequence += parse_header(batch, 0).record_count

    def delete_records(self, topic: str, partition: int, before: int = OFFSET_END) -> None:
        """Move the log start to `before`, or to the end."""
        wanted = TopicPartition(topic, partition, before)
        # Held in a name until the answer is here: a collected client cancels what it asked.
        admin = self._admin()
        for answer in admin.delete_records([wanted]).values():
            answer.result(_DEADLINE_SECONDS)

    def stop_cleaning(self, topic: str) -> None:
        """From the next start of the broker on, nothing in `topic` is old enough to be compacted."""
        asyncio.run(self._stop_cleaning(topic))

    async def _stop_cleaning(self, topic: str) -> None:
        async with self._connection() as connection:
            old_enough = {"min.compaction.lag.ms": _FOREVER, "max.compaction.lag.ms": _FOREVER}
            await alter_topic_configs(connection, {topic: old_enough})

    def until(self, topic: str, holds: Callable[[list[BatchHeader]], bool], *, partition: int = 0) -> None:
        """Return when the broker has made the log as `holds` wants it."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        seen: list[BatchHeader] = []
        while time.monotonic() < deadline:
            # The cleaner renames files between our listing and our reading them.
            with contextlib.suppress(FileNotFoundError, ValueError):
                seen = headers(self.batches(topic, partition))
                if holds(seen):
                    return
            time.sleep(_POLL_SECONDS)
        raise AssertionError(f"{topic}-{partition}: not within {_DEADLINE_SECONDS:g} s: {seen[:10]}")

    def place(self, logs: Mapping[tuple[str, int], Sequence[bytes]]) -> None:
        """Restart the broker with these batches as the only log files of these partitions, empty until now."""
        self.kafka.stop()
        for (topic, partition), batches in logs.items():
            _replace_log(self.kafka.log_dir(topic, partition), batches)
        self.kafka.start()

    def batches(self, topic: str, partition: int) -> list[RawBatch]:
        return list(split_batches(raw_log(self.kafka, topic, partition)))

    def log_start(self, topic: str, partition: int) -> int:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "matrix", "log_level": 0})
        try:
            low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=60.0)
            return int(low)
        finally:
            consumer.close()

    def abort_the_hanging_transaction(self) -> None:
        """As its own producer does when it comes back: the first thing it asks for aborts what it left open."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "transactional.id": HANGING, "log_level": 0})
        producer.init_transactions(_DEADLINE_SECONDS)

    def _connection(self) -> KafkaConnection:
        return KafkaConnection(
            bootstrap_servers=(self.bootstrap,), security=SecuritySettings(), client_id="matrix", clock=SystemClock()
        )

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})


def headers(batches: Iterable[RawBatch]) -> list[BatchHeader]:
    return [parse_header(batch.data, 0) for batch in batches]


def _replace_log(directory: Path, batches: Sequence[bytes]) -> None:
    for path in directory.iterdir():
        if path.suffix in (".log", ".index", ".timeindex", ".txnindex", ".snapshot"):
            path.unlink()
    base_offset = parse_header(batches[0], 0).base_offset
    (directory / f"{base_offset:020d}.log").write_bytes(b"".join(batches))
