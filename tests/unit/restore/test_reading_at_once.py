"""However long the histories of a restore's partitions are, its reads keep an object store busy that answers late."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbackupd.restore.restore import RestoreMemory
from kbackupd.restore.restore_partition import INDEX_BYTES_PER_RUN, REQUESTS_AT_ONCE, read_ahead_bytes
from tests.archive_builder import ArchiveBuilder
from tests.unit.restore.planned import plan_of, settings_for

DOWNLOAD_BYTES, RAW_BYTES = 20_000, 80_000
"""Of a run."""


@pytest.mark.parametrize("runs", [1_000, 8_640, 26_000, 60_000, 260_000])
async def test_reads_under_way_are_enough_to_hide_a_stores_latency(runs: int) -> None:
    built = await ArchiveBuilder.create()
    life = await built.start()
    life.see(built.topic("orders", partitions=50))
    await life.flush()
    plan = await plan_of(built, settings_for("kafka:9092", {}))
    partition = replace(
        plan.topics[0].partitions[0],
        runs=runs,
        download_bytes=runs * DOWNLOAD_BYTES,
        raw_bytes=runs * RAW_BYTES,
        largest_read_bytes=DOWNLOAD_BYTES + RAW_BYTES,
    )
    limit = RestoreMemory().reading_bytes

    ahead = read_ahead_bytes(plan, partition, limit)

    at_once = max(1, min(plan.partitions, limit // (ahead + runs * INDEX_BYTES_PER_RUN)))
    assert at_once * ahead // (DOWNLOAD_BYTES + RAW_BYTES) >= REQUESTS_AT_ONCE // 2
