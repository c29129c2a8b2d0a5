"""Exposure of a partition nobody looked at for an hour: what leaders said by leaving it out is not forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kbackupd.capture.sampling import partition_samples
from tests.unit.capture.site import Life, Site


async def _broker_fails(life: Life) -> None:
    life.site.cluster.down.add(1)
    await asyncio.sleep(3)


async def _paused(life: Life) -> None:
    await life.steering.pause("quiet")


async def _elected_elsewhere(life: Life) -> None:
    life.site.cluster.log("quiet").elect(2)
    life.site.cluster.down.add(2)
    await asyncio.sleep(2)


async def _refused(life: Life) -> None:
    life.site.cluster.log("quiet").error = 56
    life.site.cluster.log("quiet").append()
    await asyncio.sleep(1)


async def _asked_anew(life: Life) -> None:
    life.pipeline.roster.want_lookup(life.partition("quiet"))


async def _grown(life: Life) -> None:
    life.site.cluster.log("quiet").append()
    await asyncio.sleep(1)
    assert (life.sample("quiet").lag_records, len(life.site.cluster.log("quiet").batches)) == (1, 2)


@pytest.mark.parametrize(
    "happens",
    [_broker_fails, _paused, _elected_elsewhere, _refused, _asked_anew, _grown],
    ids=lambda happens: happens.__name__,
)
def test_what_an_hour_of_answers_proved_by_leaving_a_partition_out_outlives_its_place_in_the_session(
    happens: Callable[[Life], Awaitable[None]],
) -> None:
    """Hazard 43: it was turned into a proof only where somebody scraped; without, exposure lied by hours."""
    site = Site.new(flush_interval_seconds=10)
    site.cluster.create("quiet").logs[0].append(3)
    site.cluster.create("busy").logs[0].append(3)

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(3_600)
        await happens(life)
        exposure = life.sample("quiet").exposure_seconds
        assert exposure is not None
        assert exposure < 5

    site.run_life(script)


def test_looking_at_partitions_changes_nothing() -> None:
    site = Site.new()
    site.cluster.create("quiet", 3)

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(100)
        before = [p.proof.proven for p in life.pipeline.roster.partitions.values()]
        samples = list(partition_samples(life.pipeline, site.clock))
        assert all(sample.exposure_seconds is not None and sample.exposure_seconds < 2 for sample in samples)
        assert [p.proof.proven for p in life.pipeline.roster.partitions.values()] == before

    site.run_life(script)
