"""Exposure of a partition nobody looked at for an hour: what leaders said by leaving it out is not forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kbackupd.capture.sampling import partition_samples
from kbackupd.model.status import PartitionState
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


def test_an_elected_leader_that_does_not_know_how_much_was_committed_proves_nothing_until_it_does() -> None:
    """Hazard 43: it shows nothing above the high watermark its predecessor told it of, records acknowledged included.

    For as long as too few replicas are in sync, that is (KIP-966).
    """
    site = Site.new(flush_interval_seconds=1)
    site.cluster.create("orders").logs[0].append(3)

    async def script(life: Life) -> None:
        log = site.cluster.log("orders")
        log.append(3)
        await life.durable()
        log.elect(2)
        log.append(5)
        log.hidden = 2
        await life.until(lambda: life.partition("orders").leader_id == 2, "found")
        await asyncio.sleep(30)
        sample = life.sample("orders")
        assert sample.state == PartitionState.FOLLOWING
        assert sample.exposure_seconds is not None
        assert sample.exposure_seconds > 25
        flushed = asyncio.create_task(life.steering.flush("orders"))
        await asyncio.sleep(2)
        assert not flushed.done(), "nobody has said that all is captured"
        log.hidden = 0
        site.cluster.changed()
        assert (await flushed).left_out == ()
        assert life.sample("orders").durable_offset == 11
        assert (life.sample("orders").exposure_seconds or 99) < 5

    site.run_life(script)
    site.check()


def test_a_start_under_such_a_leader_knows_no_exposure_and_follows_all_the_same() -> None:
    site = Site.new(flush_interval_seconds=1)
    log = site.cluster.create("orders").logs[0]
    log.append(3)
    log.append(3)
    site.run_life(lambda life: life.durable())
    log.elect(2)
    log.hidden = 1

    async def script(life: Life) -> None:
        await life.until(lambda: life.state("orders") == PartitionState.FOLLOWING, "followed")
        await asyncio.sleep(30)
        assert life.sample("orders").exposure_seconds is None
        assert life.sample("orders").lag_records == 0
        log.hidden = 0
        site.cluster.changed()
        await life.until(lambda: life.sample("orders").exposure_seconds is not None, "proven")

    site.run_life(script)
    site.check()
