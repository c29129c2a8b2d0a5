"""However long the histories of a restore's partitions are, its reads keep an object store busy that answers late."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbackupd.restore.plan import PartitionPlan, RestorePlan
from kbackupd.restore.restore import RestoreMemory
from kbackupd.restore.restore_partition import (
    ALONE_AHEAD_BYTES,
    INDEX_BYTES_PER_RUN,
    REQUESTS_AT_ONCE,
    read_ahead_bytes,
)
from tests.archive_builder import ArchiveBuilder
from tests.unit.restore.planned import plan_of, settings_for

DOWNLOAD_BYTES, RAW_BYTES = 20_000, 80_000
"""Of a run."""


async def planned_partition(*, partitions: int, runs: int) -> tuple[RestorePlan, PartitionPlan]:
    """A plan of so many, and one of them with so many runs."""
    built = await ArchiveBuilder.create()
    life = await built.start()
    life.see(built.topic("orders", partitions=partitions))
    await life.flush()
    plan = await plan_of(built, settings_for("kafka:9092", {}))
    return plan, replace(
        plan.topics[0].partitions[0],
        runs=runs,
        download_bytes=runs * DOWNLOAD_BYTES,
        raw_bytes=runs * RAW_BYTES,
        largest_read_bytes=DOWNLOAD_BYTES + RAW_BYTES,
    )


@pytest.mark.parametrize("runs", [1_000, 8_640, 26_000, 60_000, 260_000])
async def test_reads_under_way_are_enough_to_hide_a_stores_latency(runs: int) -> None:
    plan, partition = await planned_partition(partitions=50, runs=runs)
    limit = RestoreMemory().reading_bytes

    ahead = read_ahead_bytes(plan, partition, limit)

    at_once = max(1, min(plan.partitions, limit // (ahead + runs * INDEX_BYTES_PER_RUN)))
    assert at_once * ahead // (DOWNLOAD_BYTES + RAW_BYTES) >= REQUESTS_AT_ONCE // 2


@pytest.mark.parametrize("partitions", [1, 2, 4, 50])
async def test_up_to_four_partitions_have_all_memory_for_reading_and_each_has_room(partitions: int) -> None:
    plan, small = await planned_partition(partitions=partitions, runs=1_000)
    large = replace(small, download_bytes=small.download_bytes * 100, raw_bytes=small.raw_bytes * 100)
    limit = RestoreMemory().reading_bytes

    taken = read_ahead_bytes(plan, large, limit) + large.runs * INDEX_BYTES_PER_RUN

    assert taken * min(partitions, 4) == limit


@pytest.mark.parametrize(("index_mib", "at_once"), [(11, 4), (13, 3), (17, 3), (20, 2), (40, 1)])
async def test_beside_a_large_index_fewer_partitions_have_room_for_more(index_mib: int, at_once: int) -> None:
    runs = (index_mib << 20) // INDEX_BYTES_PER_RUN
    plan, small = await planned_partition(partitions=50, runs=runs)
    large = replace(small, download_bytes=small.download_bytes * 100, raw_bytes=small.raw_bytes * 100)
    limit = RestoreMemory().reading_bytes

    taken = read_ahead_bytes(plan, large, limit) + runs * INDEX_BYTES_PER_RUN

    assert limit // taken == at_once
    assert limit - at_once * taken < at_once


async def test_an_index_that_fills_the_memory_does_not_keep_its_partition_from_reading_ahead() -> None:
    plan, small = await planned_partition(partitions=1, runs=100_000)
    large = replace(small, download_bytes=small.download_bytes * 100, raw_bytes=small.raw_bytes * 100)

    assert read_ahead_bytes(plan, large, RestoreMemory().reading_bytes) == ALONE_AHEAD_BYTES
