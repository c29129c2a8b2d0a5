"""`ctl checkpoint`: what is in memory becomes durable, and a restart begins where it stood."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.capture import steering
from kbackupd.model.errors import StoreUnavailableError, UnreachableError
from kbackupd.server.control import SECONDS
from tests.unit.capture.site import Life, Site, positions


def slow() -> Site:
    """Nothing but what is asked for seals or checkpoints."""
    site = Site.new(flush_interval_seconds=3_600, checkpoint_interval_seconds=3_600)
    site.cluster.create("orders").logs[0].append(7)
    return site


def test_a_checkpoint_stores_what_is_in_memory_and_a_restart_reads_nothing_older() -> None:
    """Hazards 2 and 7."""
    site = slow()

    async def script(life: Life) -> None:
        await life.follows("orders")
        report = await life.steering.checkpoint()
        assert (report.outcome, report.partitions) == ("stored", 1)
        assert list(report.segments) == site.keys("segments/")
        assert report.key in site.keys("checkpoints/")

    site.run_life(script, stop=False)
    recovery = site.recover()
    assert recovery.footers_read == 0
    assert [at[0] for at in positions(recovery).values()] == [7]


def test_a_second_checkpoint_is_nothing_new_and_names_the_first() -> None:
    site = slow()

    async def script(life: Life) -> None:
        await life.follows("orders")
        first = await life.steering.checkpoint()
        second = await life.steering.checkpoint()
        assert (second.outcome, second.key, second.segments) == ("nothing new", first.key, ())
        assert site.keys("checkpoints/") == [first.key]

    site.run_life(script)


def test_a_life_that_has_captured_nothing_adds_nothing_to_the_checkpoint_it_began_from() -> None:
    site = slow()
    site.run_life(Life.durable)
    before = site.keys("checkpoints/")

    async def script(life: Life) -> None:
        await asyncio.sleep(1)
        report = await life.steering.checkpoint()
        assert (report.outcome, report.key, report.segments) == ("nothing new", None, ())
        assert site.keys("checkpoints/") == before

    site.run_life(script, stop=False)


def test_a_checkpoint_asks_no_leader_and_so_does_not_wait_for_one_that_is_away() -> None:
    site = slow()

    async def script(life: Life) -> None:
        await life.follows("orders")
        site.cluster.down.add(1)
        began = site.clock.monotonic()
        assert (await life.steering.checkpoint()).outcome == "stored"
        assert site.clock.monotonic() - began < 5
        site.cluster.down.clear()

    site.run_life(script)
    site.check()


def test_a_store_that_takes_no_segment_is_told_in_time_and_nothing_is_lost() -> None:
    """Hazard 51."""
    site = slow()

    async def script(life: Life) -> None:
        await life.follows("orders")
        site.upload_seconds = lambda key: 500.0 if "/segments/" in key else 0.01
        with pytest.raises(UnreachableError, match="no checkpoint within 110 s") as caught:
            await life.steering.checkpoint()
        assert caught.value.exit_code == 4
        assert site.keys("checkpoints/") == []
        await life.until(life.pipeline.publisher.begun.is_set, "the upload that went on", seconds=1_000)
        site.upload_seconds = lambda key: 0.01
        assert (await life.steering.checkpoint()).outcome == "stored"

    site.run_life(script)
    site.check()


def test_a_checkpoint_that_the_store_refuses_is_an_error_and_the_next_one_is_stored() -> None:
    site = slow()

    async def script(life: Life) -> None:
        await life.follows("orders")
        await life.steering.checkpoint()
        site.cluster.log("orders").append(1)
        await life.follows("orders")
        site.faults.fail("put", error=StoreUnavailableError("503"), key_part="/checkpoints/")
        with pytest.raises(StoreUnavailableError, match="503"):
            await life.steering.checkpoint()
        assert (await life.steering.checkpoint()).outcome == "stored"

    site.run_life(script)


def test_its_deadline_is_below_what_the_socket_waits() -> None:
    assert SECONDS["/v1/checkpoint"] > steering.CHECKPOINT_DEADLINE_SECONDS
