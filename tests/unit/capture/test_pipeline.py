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


def test_runs_of_a_topic_lie_side_by_side_by_partition_whatever_order_they_came_in() -> None:
    site = Site.new()
    for name in ("orders", "payments"):
        site.cluster.create(name, 4)

    async def script(life: Life) -> None:
        for name in ("payments", "orders"):
            for number in (3, 1, 0, 2):
                await life.follows(name, number)
                site.cluster.log(name, number).append(2)
                taken_in = life.partition(name, number)
                await life.until(lambda taken_in=taken_in: taken_in.position == 2, "captured")  # type: ignore[misc]
        await life.durable()

    assert site.run_life(script)
    site.check()
    laid = [[run.id for run in footer.runs] for footer in site.footers() if len(footer.runs) > 1]
    assert max(map(len, laid)) == 8
    assert all(ids == sorted(ids) for ids in laid)
