"""The sums a scrape shows are those of the partitions, whatever state these are in."""

from __future__ import annotations

import asyncio

from kbackupd.capture.sampling import exposure_of, partition_samples
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.status import PartitionState
from kbackupd.observe.exposure import aggregate
from tests.unit.capture.site import Life, Site


def test_the_sums_made_in_one_step_are_those_of_the_samples_in_every_state() -> None:
    site = Site.new(flush_interval_seconds=2.0)
    for name in ("following", "paused", "failing", "deleted", "again", "behind"):
        site.cluster.create(name, partitions=2)
        site.cluster.log(name, 0).append(5)

    def same(life: Life) -> set[PartitionState]:
        samples = list(partition_samples(life.pipeline, site.clock))
        sums = exposure_of(life.pipeline, site.clock)
        assert sums == aggregate(samples)
        return {one.state for one in samples}

    async def script(life: Life) -> None:
        seen = same(life)
        await life.until(lambda: bool(life.pipeline.roster.partitions), "partitions known")
        seen |= same(life)
        await life.durable()
        await life.steering.pause("paused")
        site.cluster.log("failing").error = KafkaErrorCode.KAFKA_STORAGE_ERROR
        site.cluster.delete("deleted")
        site.cluster.delete("again")
        site.cluster.create("again", partitions=3)
        site.cluster.log("behind").append(7)
        for _ in range(60):
            await asyncio.sleep(5)
            seen |= same(life)
        assert seen >= {
            PartitionState.FOLLOWING,
            PartitionState.PAUSED,
            PartitionState.RETRYING,
            PartitionState.QUARANTINED,
            PartitionState.CLOSED,
        }
        assert life.state("failing", 1) == PartitionState.FOLLOWING
        site.cluster.log("failing").error = 0
        await life.steering.resume("paused")
        await life.until(lambda: life.state("failing") == PartitionState.FOLLOWING, "failing no more")
        await life.durable()
        same(life)

    site.run_life(script)
