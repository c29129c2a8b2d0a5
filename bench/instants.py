"""What it costs to plan a restore to an instant in the middle of transactional load, beside one to the end.

    python -m bench.instants --partitions 2000 --producers 100
    python -m bench.instants --own-epochs              # each transaction has one (KIP-890)
    python -m bench.instants --own-epochs --no-log     # and __transaction_state was not captured

Each producer commits a transaction a second over partitions of its own. The archive is in memory, made by the real
writer code, with a flush every ten seconds; the instant lies in the middle of a round of answers, so that half of the
partitions were heard of ten seconds before it. `--latency-ms` is waited before each answer of the store. Prints JSON:
requests and bytes of the store, the most that were under way at a time, seconds, processor, peak RSS. Judges nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time

from bench.long_archive import CountingStore
from kbackupd.archive.archive import Archive
from kbackupd.model.coordinators import TRANSACTION_STATE, TransactionState
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.scope import RestoreScope
from kbackupd.restore.as_of import read_instant
from kbackupd.restore.plan import RestorePlan
from kbackupd.restore.planning import make_plan
from tests.archive_builder import BACKUP_ID, ArchiveBuilder, Life
from tests.coordinator_logs import transaction
from tests.unit.restore.planned import settings_for

PARTITIONS_PER_TOPIC, LOGS = 50, 50
FLUSH_SECONDS, FLUSHES = 10, 12
"""Of user's topics; the coordinators' logs go back as far as they are read."""
LOG_ONLY_SECONDS = 20 * 60


class SlowStore(CountingStore):
    """Counts, and lets each range wait as a network does."""

    latency_seconds = 0.0
    _under_way = most_at_once = 0

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            if self.latency_seconds:
                await asyncio.sleep(self.latency_seconds)
            return await super().get_range(key, first_byte, length)
        finally:
            self._under_way -= 1


class Load:
    """Producers, the partitions of each, and what they do in a second."""

    def __init__(self, built: ArchiveBuilder, arguments: argparse.Namespace) -> None:
        self.built, self.own_epochs, self.logged = built, arguments.own_epochs, not arguments.no_log
        topics = [
            built.topic(f"topic-{number:03d}", partitions=PARTITIONS_PER_TOPIC)
            for number in range(arguments.partitions // PARTITIONS_PER_TOPIC)
        ]
        self.ids = [PartitionId(topic, number) for topic in topics for number in range(PARTITIONS_PER_TOPIC)]
        self.coordinators: TopicId | None = None
        if self.logged:
            self.coordinators = built.topic(TRANSACTION_STATE, partitions=LOGS, internal=True)
        self._of = [self.ids[number :: arguments.producers] for number in range(arguments.producers)]
        self._transactions = 0

    def second(self, *, with_data: bool) -> None:
        """Every producer's transaction: its records, Prepare, its markers, Complete."""
        self._transactions += 1
        epoch = self._transactions if self.own_epochs else 0
        for producer, ids in enumerate(self._of):
            self._log(producer, ids, TransactionState.ONGOING, epoch)
            if with_data:
                for id in ids:
                    self.built.log(*id).append([b"v"], producer_id=producer, producer_epoch=epoch, transactional=True)
        self.built.clock.advance(0.5)
        for producer, ids in enumerate(self._of):
            ended = epoch + self.own_epochs
            self._log(producer, ids, TransactionState.PREPARE_COMMIT, ended)
            if with_data:
                for id in ids:
                    self.built.log(*id).end_transaction(producer, committed=True, producer_epoch=ended)
            self._log(producer, (), TransactionState.COMPLETE_COMMIT, ended)
        self.built.clock.advance(0.5)

    def _log(self, producer: int, ids: list[PartitionId] | tuple[()], state: TransactionState, epoch: int) -> None:
        if self.coordinators is not None:
            now_ms = self.built.clock.now_ms()
            transaction(
                self.built.log(self.coordinators, producer % LOGS),
                f"producer-{producer}",
                state,
                producer_id=producer,
                producer_epoch=epoch,
                partitions=[(self.built.topics[id.topic_id].name, id.partition) for id in ids],
                started_ms=now_ms - now_ms % 1_000,
                updated_ms=now_ms,
                client_version=2 if self.own_epochs else 0,
            )

    def capture(self, life: Life) -> int:
        """A round of answers; returns a moment in the middle of it."""
        logs = [] if self.coordinators is None else [PartitionId(self.coordinators, number) for number in range(LOGS)]
        middle_ms = 0
        for number, id in enumerate([*logs, *self.ids]):
            self.built.clock.advance(0.001)
            life.capture(*id)
            self.built.log(*id).batches.clear()
            if number == len(logs) + len(self.ids) // 2:
                middle_ms = self.built.clock.now_ms()
        return middle_ms


async def archive_of(load: Load) -> int:
    """Everything is captured and stored; returns the instant."""
    life = await load.built.start()
    load.capture(life)
    if load.logged:
        for _ in range(LOG_ONLY_SECONDS // FLUSH_SECONDS):
            for _ in range(FLUSH_SECONDS):
                load.second(with_data=False)
            for number in range(LOGS):
                assert load.coordinators is not None
                life.capture(load.coordinators, number)
                load.built.log(load.coordinators, number).batches.clear()
            await life.flush()
    instants = []
    for number in range(FLUSHES):
        for _ in range(FLUSH_SECONDS):
            load.second(with_data=True)
        instants.append(load.capture(life))
        await life.flush()
        print(f"{number + 1} of {FLUSHES} flushes", file=sys.stderr, flush=True)
    return instants[FLUSHES // 2]


async def planned(archive: Archive, store: SlowStore, at_ms: int | None) -> tuple[RestorePlan, dict[str, object]]:
    gets, received = store.gets, store.received
    store.most_at_once = 0
    began, cpu = time.perf_counter(), time.process_time()
    settings = settings_for("nobody:9092", {}, scope=RestoreScope(as_of_ms=at_ms))
    instant = await read_instant(archive, settings.options)
    read, read_cpu = time.perf_counter(), time.process_time()
    plan = make_plan(archive, settings, instant)
    return plan, {
        "gets": store.gets - gets,
        "at_once": store.most_at_once,
        "received_mib": round((store.received - received) / (1 << 20), 2),
        "read_seconds": round(read - began, 2),
        "read_cpu_seconds": round(read_cpu - cpu, 2),
        "plan_cpu_seconds": round(time.process_time() - read_cpu, 2),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


async def measure(arguments: argparse.Namespace) -> None:
    built = await ArchiveBuilder.create()
    at_ms = await archive_of(Load(built, arguments))
    store = SlowStore(built.store)
    archive = await Archive.open(store, BACKUP_ID)
    built_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    store.latency_seconds = arguments.latency_ms / 1_000
    for instant in (None, at_ms):
        plan, figures = await planned(archive, store, instant)
        states = [one.as_of for topic in plan.topics for one in topic.partitions if one.as_of is not None]
        print(
            json.dumps(
                {
                    "plan": "to the end" if instant is None else "as of",
                    "partitions": plan.partitions,
                    **figures,
                    "rss_before_mib": built_mib,
                    "completed": sum(len(one.completed) for one in states),
                    "ambiguous": sum(len(one.ambiguous) for one in states),
                }
            )
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.instants", description=__doc__)
    parser.add_argument("--partitions", type=int, default=2_000)
    parser.add_argument("--producers", type=int, default=100)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--own-epochs", action="store_true")
    parser.add_argument("--no-log", action="store_true")
    asyncio.run(measure(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
