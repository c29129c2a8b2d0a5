"""A flush covers what exists when it is asked for, however young the daemon or the topic."""

from __future__ import annotations

from tests.unit.capture.site import Life, Site


def test_a_flush_right_after_the_start_waits_for_positions_and_covers_everything() -> None:
    site = Site.new(flush_interval_seconds=3_600)
    site.cluster.create("orders", 3)
    for number in range(3):
        site.cluster.log("orders", number).append(7)

    async def script(life: Life) -> None:
        report = await life.steering.flush("*")
        assert [p.durable_offset for p in report.partitions] == [7, 7, 7]

    assert site.run_life(script)
    site.check()


def test_a_flush_covers_a_topic_made_a_moment_before() -> None:
    site = Site.new(flush_interval_seconds=3_600)
    site.cluster.create("orders", 1)

    async def script(life: Life) -> None:
        await life.follows("orders")
        site.cluster.create("fresh", 2)
        site.cluster.log("fresh", 1).append(4)
        report = await life.steering.flush("fresh")
        assert [p.durable_offset for p in report.partitions] == [0, 4]

    assert site.run_life(script)
    site.check()
