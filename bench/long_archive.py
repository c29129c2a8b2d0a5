"""A long archive, made by the real writer code, and what it costs to open, roll up, recover from, describe and check.

Opening is what planning a restore takes: "plan" is of one topic, "plan all" of all of them, "plan window" and "plan
instant" of all of them with a start of time that all have passed, and as of the middle.

    python -m bench.long_archive --segments 2000 --rows 200000 --partitions 10000 --directory /tmp/long

Generates once per directory (a second call goes on with what is there), then measures each step in a process of its
own: requests as S3 would count them (a LIST answers a thousand keys), bytes, seconds, processor, peak RSS. The archive
lies in a file system, so seconds are those of the processor; requests say what a network adds. Judges nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from kbackupd.archive.archive import Archive
from kbackupd.archive.describe import archives_under, describe_stored
from kbackupd.archive.identity import claim_epoch, newest_number, open_or_create
from kbackupd.archive.recovery import recover
from kbackupd.archive.rollup_build import build_rollups
from kbackupd.archive.writer_state import WriterState
from kbackupd.flow.collector import making_what_stays
from kbackupd.format import keys
from kbackupd.format.body import store_body
from kbackupd.format.checkpoint import encode_checkpoint
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.format.run import RunDraft
from kbackupd.format.segment import SegmentDraft, seal_over
from kbackupd.model.clock import SystemClock
from kbackupd.model.events import LedgerEvent, PartitionSeen, TopicSeen
from kbackupd.model.path import SealedSegment
from kbackupd.model.positions import PartitionId, TopicId, topic_id_from_uuid
from kbackupd.model.scope import RestoreScope, TimeWindow
from kbackupd.model.segment import EarlierEpoch, Identity, ObjectRef, RunFlag, Sample
from kbackupd.model.settings import (
    FilesystemSettings,
    RestoreOptions,
    RestoreSettings,
    RestoreSource,
    RestoreTarget,
    StorageSettings,
    TopicSelection,
)
from kbackupd.restore.as_of import read_instant, wanted_at
from kbackupd.restore.planning import make_plan
from kbackupd.store.filesystem import FilesystemStore
from kbackupd.store.protocol import Buffer, ObjectInfo, ObjectStore
from kbackupd.store.scoped import ScopedStore
from kbackupd.validate.validate import validate

BACKUP_ID = "long"
PARTITIONS_PER_TOPIC = 50
SEGMENTS_PER_LIFE = 5_000
SEGMENTS_PER_CHECKPOINT = 250
FLUSH_MS = 10_000
BEGAN_MS = 1_774_300_000_000
LIST_PAGE_KEYS = 1_000
_BASE_OFFSET = struct.Struct(">q")


class CountingStore:
    """An `ObjectStore` that counts requests and bytes as an S3 bill does."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.gets = self.lists = self.puts = self.received = self.sent = 0

    @property
    def location(self) -> str:
        return self._inner.location

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        self.puts += 1
        self.sent += sum(len(part) for part in parts)
        await self._inner.put_if_absent(key, parts)

    async def get(self, key: str) -> bytes:
        return self._got(await self._inner.get(key))

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        return self._got(await self._inner.get_range(key, first_byte, length))

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        data, size = await self._inner.get_suffix(key, length)
        return self._got(data), size

    def _got(self, data: bytes) -> bytes:
        self.gets += 1
        self.received += len(data)
        return data

    async def head(self, key: str) -> ObjectInfo:
        self.gets += 1
        return await self._inner.head(key)

    async def list_from(
        self, prefix: str, *, start_after: str = "", limit: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        listed = 0
        self.lists += 1
        async for info in self._inner.list_from(prefix, start_after=start_after, limit=limit):
            listed += 1
            if listed % LIST_PAGE_KEYS == 0:
                self.lists += 1
            yield info

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._inner.delete_many(keys)

    async def close(self) -> None:
        await self._inner.close()


class UnsyncedFiles(CountingStore):
    """Puts plain files, without fsync: for the generator alone, whose hundred thousand files would take an hour."""

    def __init__(self, inner: ObjectStore, root: Path) -> None:
        super().__init__(inner)
        self._root = root

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        path = self._root / key
        try:
            file = path.open("xb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        except FileExistsError:
            await self._inner.put_if_absent(key, parts)
            return
        with file:
            file.writelines(parts)


def batch_template() -> bytes:
    """Three short records; its base offset lies outside the checksum, so that every run can have its own."""
    records = [RawRecord(0, number, number, encode_body(None, b"v")) for number in range(3)]
    return build_batch(records, base_offset=0, base_timestamp_ms=BEGAN_MS, leader_epoch=1)


class Generator:
    """One writer's lives over many segments, each of as many partitions as give the rows wanted."""

    def __init__(self, store: ObjectStore, identity: Identity, arguments: argparse.Namespace) -> None:
        self._store = store
        self._identity = identity
        self._segments = arguments.segments
        self._per_segment = max(1, round(arguments.rows / arguments.segments))
        self._rng = random.Random(20260324)
        self._template = batch_template()
        self._names: dict[TopicId, str] = {}
        self._ids: list[PartitionId] = []
        for number in range(max(1, arguments.partitions // PARTITIONS_PER_TOPIC)):
            topic_id = topic_id_from_uuid(uuid.uuid5(uuid.NAMESPACE_URL, f"long/{number}"))
            self._names[topic_id] = f"topic-{number:04d}"
            self._ids += [PartitionId(topic_id, partition) for partition in range(PARTITIONS_PER_TOPIC)]
        self._next = dict.fromkeys(self._ids, 0)
        self._now_ms = BEGAN_MS

    async def run(self) -> None:
        made = 0
        while made < self._segments:
            epoch = await claim_epoch(self._store, writer="main", identity=self._identity, clock=SystemClock())
            recovery = await recover(self._store, writer="main", writer_epoch=epoch, identity=self._identity)
            count = min(SEGMENTS_PER_LIFE, self._segments - made)
            await self._life(recovery.state, epoch, recovery.earlier, count)
            made += count
            print(f"{made} of {self._segments} segments", file=sys.stderr, flush=True)

    async def _life(self, state: WriterState, epoch: int, earlier: tuple[EarlierEpoch, ...], count: int) -> None:
        previous = state.chain_head
        waiting: list[SealedSegment] = []
        new: list[tuple[str, str, int]] = []
        number = 0
        for seq in range(count):
            flying = tuple(range(seq - len(waiting), seq))
            sealed = self._sealed(epoch, seq, previous, earlier if seq < 8 else (), flying)
            previous = sealed.ref
            waiting.append(sealed)
            if len(waiting) < 8 and seq + 1 < count:
                continue
            await asyncio.gather(*(self._store.put_if_absent(one.ref.key, one.parts) for one in waiting))
            for one in waiting:
                state.apply(one.footer, one.ref)
                new.append((one.ref.key, one.ref.digest, one.size_bytes))
            waiting = []
            if (seq + 1) // SEGMENTS_PER_CHECKPOINT > number and seq + 1 < count:
                checkpoint = state.picture(
                    identity=self._identity,
                    key=keys.checkpoint_key("main", epoch, number),
                    writer_epoch=epoch,
                    number=number,
                    sealed_ms=self._now_ms,
                    segments=tuple(new),
                    states=dict.fromkeys(state.partitions, "following"),
                )()
                await self._store.put_if_absent(checkpoint.key, [encode_checkpoint(checkpoint)])
                number, new = number + 1, []

    def _sealed(
        self,
        epoch: int,
        seq: int,
        previous: ObjectRef | None,
        earlier: tuple[EarlierEpoch, ...],
        in_flight: tuple[int, ...],
    ) -> SealedSegment:
        self._now_ms += FLUSH_MS
        first = epoch == 1 and seq == 0
        chosen = sorted(self._rng.sample(self._ids, min(self._per_segment, len(self._ids))))
        runs = [self._run(id) for id in chosen]
        samples = tuple(self._sample(id) for id in chosen[::10])
        names = self._names if first else {id.topic_id: self._names[id.topic_id] for id in chosen}
        draft = SegmentDraft(
            identity=self._identity,
            writer="main",
            writer_epoch=epoch,
            seq=seq,
            previous=previous,
            in_flight=in_flight,
            earlier=earlier,
            sealed_ms=self._now_ms,
            sealed_monotonic_ms=self._now_ms - BEGAN_MS,
            topics=names,
            runs=runs,
            samples=samples,
            events=tuple(self._first_events()) if first else (),
        )
        return seal_over(draft, store_body(runs, codec="none"))

    def _first_events(self) -> list[LedgerEvent]:
        found: list[LedgerEvent] = [
            TopicSeen(
                topic_id=topic_id,
                name=name,
                partitions=PARTITIONS_PER_TOPIC,
                internal=False,
                at_ms=BEGAN_MS,
                configs={"retention.ms": "604800000"},
            )
            for topic_id, name in self._names.items()
        ]
        found += [
            PartitionSeen(id=id, first_offset=0, log_start_offset=0, high_watermark=0, leader_epoch=1, at_ms=BEGAN_MS)
            for id in self._ids
        ]
        return found

    def _run(self, id: PartitionId) -> RunDraft:
        first = self._next[id]
        batch = _BASE_OFFSET.pack(first) + self._template[_BASE_OFFSET.size :]
        self._next[id] = first + 3
        return RunDraft(
            id=id,
            system=False,
            asked_offset=first,
            first_offset=first,
            next_offset=first + 3,
            branch=0,
            replica=1 + id.partition % 6,
            captured_ms=self._now_ms - self._rng.randrange(FLUSH_MS),
            batches=1,
            records=3,
            flags=RunFlag(0),
            base_timestamp_ms=BEGAN_MS,
            max_timestamp_ms=BEGAN_MS + 2,
            largest_batch_bytes=len(batch),
            leader_epochs=((1, first),),
            chunks=[batch],
            compressed_bytes=0,
            raw_bytes=len(batch),
        )

    def _sample(self, id: PartitionId) -> Sample:
        return Sample(
            id=id,
            sent_ms=self._now_ms - 500,
            answered_ms=self._now_ms - self._rng.randrange(400),
            log_start_offset=0,
            last_stable_offset=self._next[id],
            high_watermark=self._next[id],
            leader_epoch=1,
        )


async def generate(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    scoped = ScopedStore(store, BACKUP_ID)
    document, created = await open_or_create(
        scoped, backup_id=BACKUP_ID, cluster_id="bench", start="earliest", clock=SystemClock()
    )
    if created:
        files = ScopedStore(UnsyncedFiles(store, arguments.directory), BACKUP_ID)
        await Generator(files, document.identity, arguments).run()
    return {}


async def recovered(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    scoped = ScopedStore(store, BACKUP_ID)
    document, _ = await open_or_create(
        scoped, backup_id=BACKUP_ID, cluster_id="bench", start="earliest", clock=SystemClock()
    )
    newest = await newest_number(
        scoped, keys.claims_prefix("main"), lambda number: keys.claim_key("main", number), first=1
    )
    assert newest is not None
    found = await recover(scoped, writer="main", writer_epoch=newest + 1, identity=document.identity)
    return {"footers": found.footers_read, "ranges": sum(map(len, found.state.coverage.values()))}


async def rolled_up(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    report = await build_rollups(ScopedStore(store, BACKUP_ID))
    return {
        "built": len(report.built),
        "merged": len(report.merged),
        "stored": report.stored_bytes,
        "needed": report.rollups,
        "uncovered": report.uncovered,
    }


async def listed(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    return {"objects": sum(one.objects for one in await archives_under(store))}


async def described(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    _, found = await describe_stored(store, BACKUP_ID)
    return {"records": sum(topic.records for topic in found.topics)}


def _settings(arguments: argparse.Namespace, topics: str, scope: RestoreScope | None = None) -> RestoreSettings:
    return RestoreSettings(
        source=RestoreSource(
            path="file:///",
            backup_id=BACKUP_ID,
            storage=StorageSettings(backend=FilesystemSettings(path=arguments.directory)),
        ),
        target=RestoreTarget(bootstrap_servers=("nobody:9092",)),
        options=RestoreOptions(topics=TopicSelection(include=(topics,)), scope=scope or RestoreScope()),
    )


async def planned(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    return await _planned(store, _settings(arguments, "topic-0000"))


async def planned_all(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    return await _planned(store, _settings(arguments, "*"))


async def planned_window(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    return await _planned(store, _settings(arguments, "*", RestoreScope(window=TimeWindow(start_ms=BEGAN_MS + 1))))


async def planned_instant(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    middle_ms = BEGAN_MS + arguments.segments * FLUSH_MS // 2
    return await _planned(store, _settings(arguments, "*", RestoreScope(as_of_ms=middle_ms)))


async def _planned(store: ObjectStore, settings: RestoreSettings) -> dict[str, object]:
    """What `kbackupd restore --dry-run` does between opening the store and printing."""
    options = settings.options
    with making_what_stays():
        archive = await Archive.open(store, BACKUP_ID, wanted=lambda name: wanted_at(options, name))
        plan = make_plan(archive, settings, await read_instant(archive, options))
    return {
        "topics": len(plan.topics),
        "records": plan.records,
        "runs": sum(one.runs for topic in plan.topics for one in topic.partitions),
    }


async def validated(store: ObjectStore, arguments: argparse.Namespace) -> dict[str, object]:
    report = await validate(store, BACKUP_ID)
    return {"valid": report.valid, "errors": report.errors}


Step = Callable[[ObjectStore, argparse.Namespace], Awaitable[dict[str, object]]]

STEPS: dict[str, Step] = {
    "generate": generate,
    "recover": recovered,
    "roll up": rolled_up,
    "roll up again": rolled_up,
    "list": listed,
    "describe": described,
    "plan": planned,
    "plan all": planned_all,
    "plan window": planned_window,
    "plan instant": planned_instant,
    "validate": validated,
}


async def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """One step, in this process."""
    store = CountingStore(await FilesystemStore.open(arguments.directory))
    began, cpu = time.perf_counter(), time.process_time()
    said = await STEPS[arguments.step](store, arguments)
    return {
        "step": arguments.step,
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "gets": store.gets,
        "lists": store.lists,
        "puts": store.puts,
        "received_mib": round(store.received / (1 << 20), 1),
        "sent_mib": round(store.sent / (1 << 20), 1),
        **said,
    }


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.step:
        print(json.dumps(asyncio.run(measure(arguments))))
        return 0
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for step in arguments.steps.split(",") if arguments.steps else STEPS:
        command = [sys.executable, "-m", "bench.long_archive", *sys.argv[1:], "--step", step]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        print(done.stdout.decode().strip(), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.long_archive", description=__doc__)
    parser.add_argument("--segments", type=int, default=2_000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--directory", type=Path, default=Path("/tmp/kbackupd-long-archive"))
    parser.add_argument("--steps", help="names, separated by commas; all of them without it")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
