"""One daemon run, one validation and one restore over all cases; each stage leaves what the tests look at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kbackupd.archive.archive import Archive
from kbackupd.archive.history import PartitionHistory
from kbackupd.model.positions import PartitionId
from kbackupd.model.settings import StorageSettings
from kbackupd.store.open import open_store
from kbackupd.testbed.daemon import Daemon, Json
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.truth import RawBatch
from tests.integration.capture.matrix.cases import Case
from tests.integration.capture.matrix.source import SourceCluster
from tests.integration.verbatim import archived_batches, overrides

BACKED_UP_WITHIN_SECONDS = 180.0
FILLED_AT_A_TIME = 6
_FETCHES_SMALLER_THAN_THE_LARGEST_BATCH = "1MiB"

Place = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """The source's logs as they are when the backup begins; nothing changes them until it is done."""

    cluster: SourceCluster
    batches: Mapping[Place, Sequence[RawBatch]]
    log_starts: Mapping[Place, int]

    def next_offset(self, place: Place) -> int:
        held = self.batches[place]
        return held[-1].next_offset if held else self.log_starts[place]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    daemon: Daemon
    batches: Mapping[Place, Sequence[tuple[int, bytes]]]
    """(base offset, bytes), as the reading side delivers them."""
    histories: Mapping[Place, PartitionHistory]
    seconds: float


def fill(cluster: SourceCluster, cases: Sequence[Case]) -> Filled:
    """Make every topic what its case says."""
    # No case minds the others' topics, and nearly all of their time is waiting: for producer ids, for compaction.
    with ThreadPoolExecutor(max_workers=FILLED_AT_A_TIME) as fillers:
        list(fillers.map(partial(_fill, cluster), cases))
    cluster.place({(case.name, number): log for case in cases for number, log in case.placed.items()})
    for case in cases:
        if case.fill_placed is not None:
            case.fill_placed(cluster, case.name)
    places = [(case.name, number) for case in cases for number in range(case.partitions)]
    return Filled(
        cluster=cluster,
        batches={place: cluster.batches(*place) for place in places},
        log_starts={place: cluster.log_start(*place) for place in places},
    )


def _fill(cluster: SourceCluster, case: Case) -> None:
    cluster.create(case.name, partitions=case.partitions, config=case.config)
    if case.fill is not None:
        case.fill(cluster, case.name)


def back_up(filled: Filled, directory: Path, *, s3: S3Server, bucket: str, prefix: str) -> BackedUp:
    """Run the daemon until all is durable, and read everything back out of the archive."""
    began = time.monotonic()
    topics = list(dict.fromkeys(topic for topic, _ in filled.batches))
    daemon = Daemon(
        directory,
        bootstrap=filled.cluster.bootstrap,
        s3=s3,
        bucket=bucket,
        prefix=prefix,
        overrides=overrides(topics, segment_max_bytes=_FETCHES_SMALLER_THAN_THE_LARGEST_BATCH),
    )
    try:
        daemon.start()
        deadline = time.monotonic() + BACKED_UP_WITHIN_SECONDS
        while missing := _not_durable(filled, daemon.ctl("flush").get("partitions")):
            assert time.monotonic() < deadline, f"not durable: {missing}\n{daemon.log.read_text()[-4000:]}"
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    seconds = time.monotonic() - began
    batches, histories = asyncio.run(_read(s3.storage(bucket, prefix), list(filled.batches)))
    return BackedUp(daemon=daemon, batches=batches, histories=histories, seconds=seconds)


def _not_durable(filled: Filled, flushed: Json) -> dict[Place, str]:
    durable = {
        (one.get("topic"), one.get("partition")): one.get("durable_offset")
        for one in (flushed if isinstance(flushed, list) else [])
        if isinstance(one, dict)
    }
    return {
        place: f"{durable.get(place)} instead of {filled.next_offset(place)}"
        for place in filled.batches
        if durable.get(place) != filled.next_offset(place)
    }


async def _read(
    storage: StorageSettings, places: Sequence[Place]
) -> tuple[dict[Place, list[tuple[int, bytes]]], dict[Place, PartitionHistory]]:
    store = await open_store(storage)
    try:
        archive = await Archive.open(store, "main")
        newest = archive.newest()
        ids = {(topic, number): PartitionId(newest[topic].topic_id, number) for topic, number in places}
        batches = {place: await archived_batches(archive, id) for place, id in ids.items()}
        return batches, {place: archive.history(id) for place, id in ids.items()}
    finally:
        await store.close()
