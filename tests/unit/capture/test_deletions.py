"""Topics that are gone when a life begins, of which earlier lives left less on record than there was."""

from __future__ import annotations

import asyncio

from tests.unit.capture.site import Life, Site


def test_partitions_of_a_deleted_topic_whose_own_event_was_lost_keep_no_flush_waiting() -> None:
    """Found by killing at random: the topic counted no partitions, so none was closed, and every flush waited for one
    that nobody leads."""
    site = Site.new(flush_interval_seconds=0.5)
    site.cluster.create("other")

    async def script(life: Life) -> None:
        await life.durable()
        site.faults.stall("put", key_part="segments/")
        log = site.cluster.create("orders").logs[0]
        log.leader_id = 9
        life.pipeline.roster.metadata_wanted.set()
        await life.until(lambda: any(t.name == "orders" for t in life.pipeline.roster.topics.values()), "sight")
        await asyncio.sleep(2)
        log.elect(1)
        log.append(3)
        await life.follows("orders")
        await asyncio.sleep(3)

    site.run_life(script, stop=False)
    site.faults.heal()
    site.cluster.delete("orders")

    async def flushed(life: Life) -> None:
        await asyncio.sleep(10)
        assert (await life.steering.flush("*")).seconds < 10
        assert all(p.closed for p in life.pipeline.roster.partitions.values() if p.topic == "orders")

    site.run_life(flushed)
    site.check()
