"""Whole lives of the forward path against an honest broker: what goes in comes out, whatever happens in between."""

from __future__ import annotations

import asyncio

from tests.unit.capture.site import Life, Site


def test_everything_a_cluster_holds_is_in_the_archive_after_a_drain() -> None:
    site = Site.new()
    site.cluster.create("orders", 3)
    site.cluster.create("empty", 2)
    for number in range(3):
        for _ in range(5):
            site.cluster.log("orders", number).append(3)

    async def script(life: Life) -> None:
        await life.follows("orders", 2)
        site.cluster.log("orders", 1).append(2)
        await life.durable()

    assert site.run_life(script)
    site.check()


def test_a_second_life_goes_on_where_the_first_ended() -> None:
    site = Site.new()
    site.cluster.create("orders", 2)
    site.cluster.log("orders").append(10)
    assert site.run_life(Life.durable)
    site.cluster.log("orders").append(5)
    site.cluster.log("orders", 1).append(5)

    async def script(life: Life) -> None:
        await asyncio.sleep(3)
        await life.durable()

    assert site.run_life(script)
    archive = site.check()
    stored = [one for id in archive.partitions for one in archive.evidence(id).runs]
    runs = [(one.run.asked_offset, one.run.next_offset) for one in stored]
    assert sorted(runs) == [(0, 5), (0, 10), (10, 15)]
