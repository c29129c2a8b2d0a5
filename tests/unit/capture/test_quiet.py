"""Partitions that do not move are sampled all the same, or nobody could tell that the archive was up to date."""

from __future__ import annotations

import asyncio

from kbackupd.capture.quiet import INTERVAL_SECONDS
from kbackupd.validate.coverage import Expected
from kbackupd.validate.report import Code
from kbackupd.validate.validate import validate
from tests.unit.capture.site import BACKUP_ID, Life, Site


async def uncovered(site: Site, from_ms: int, to_ms: int) -> list[str]:
    report = await validate(site.memory, BACKUP_ID, expected=Expected(from_ms=from_ms, to_ms=to_ms))
    return [one.message for one in report.findings if one.code is Code.COVERAGE_TIME]


def test_a_quiet_partition_is_sampled_with_the_segments_of_a_busy_one_and_causes_none_of_its_own() -> None:
    site = Site.new()
    site.cluster.create("busy", 1)
    site.cluster.create("quiet", 1)
    site.cluster.log("busy").append(1)
    site.cluster.log("quiet").append(1)

    async def script(life: Life) -> None:
        await life.durable()
        before = len(site.footers())
        produced = 0
        for _ in range(700):
            site.cluster.log("busy").append(1)
            produced += 1
            await asyncio.sleep(1)
        # A flush interval holds two of them, and waits for the first to come.
        assert len(site.footers()) - before <= produced / 2
        assert all(footer.runs for footer in site.footers()[before:])

    assert site.run_life(script)
    archive = site.check()
    quiet = next(topic for topic in archive.topics if topic.name == "quiet")
    sampled = [s.answered_ms for footer in site.footers() for s in footer.samples if s.id.topic_id == quiet.topic_id]
    assert max(sampled) - min(sampled) > 500_000


def test_an_idle_hour_is_known_to_be_covered_while_it_lasts_and_after_a_drain() -> None:
    """`validate --from --to` raised an alarm over a healthy cluster on which nothing happened."""
    site = Site.new(flush_interval_seconds=10)
    site.cluster.create("orders", 2)
    site.cluster.log("orders").append(3)
    begun = site.clock.now_ms()

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(3_500)
        assert await uncovered(site, begun, site.clock.now_ms()) == []

    async def ended() -> list[str]:
        return await uncovered(site, begun, site.clock.now_ms())

    assert site.run_life(script)
    assert site.read(ended()) == []


def test_a_life_killed_on_an_idle_cluster_leaves_less_untold_than_two_rounds_of_samples() -> None:
    site = Site.new(flush_interval_seconds=10)
    site.cluster.create("orders", 1)
    site.cluster.log("orders").append(3)
    begun = site.clock.now_ms()

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(2.9 * INTERVAL_SECONDS)

    assert not site.run_life(script, stop=False)

    async def told(seconds: float) -> list[str]:
        return await uncovered(site, begun, begun + round(seconds * 1000))

    assert site.read(told(2.9 * INTERVAL_SECONDS)) == []


def test_a_drain_tells_that_everything_was_up_to_date_to_its_end() -> None:
    site = Site.new(flush_interval_seconds=10)
    site.cluster.create("orders", 1)
    site.cluster.log("orders").append(3)

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(0.9 * INTERVAL_SECONDS)

    assert site.run_life(script)
    (newest,) = site.footers()[-1].samples
    assert site.clock.now_ms() - newest.answered_ms < 5_000
    assert newest.high_watermark == 3
