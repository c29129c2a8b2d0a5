"""Partitions that do not move are sampled all the same, without a segment of their own."""

from __future__ import annotations

import asyncio

from tests.unit.capture.site import Life, Site


def test_a_quiet_partition_is_sampled_again_with_the_next_segment_and_causes_none() -> None:
    site = Site.new()
    site.cluster.create("busy", 1)
    site.cluster.create("quiet", 1)
    site.cluster.log("busy").append(1)
    site.cluster.log("quiet").append(1)

    async def script(life: Life) -> None:
        await life.durable()
        before = len(site.footers())
        await asyncio.sleep(700)
        assert len(site.footers()) == before
        site.cluster.log("busy").append(1)
        await life.durable()

    assert site.run_life(script)
    archive = site.check()
    quiet = next(topic for topic in archive.topics if topic.name == "quiet")
    sampled = [s.answered_ms for footer in site.footers() for s in footer.samples if s.id.topic_id == quiet.topic_id]
    assert max(sampled) - min(sampled) > 500_000
