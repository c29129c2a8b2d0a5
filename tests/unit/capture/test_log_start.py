"""Time to loss: the pace of retention, carried on while nobody answers."""

from __future__ import annotations

import asyncio

from kbackupd.capture.log_start import STEPS_MAX, LogStartPace
from kbackupd.capture.sampling import partition_samples
from tests.unit.capture.site import Life, Site

QUIET_SECONDS = 50_000
"""Half of it is still longer than the 21,600 s below which config/prometheus warns."""


def moving(*steps: tuple[float, int]) -> LogStartPace:
    pace = LogStartPace()
    for at, log_start_offset in steps:
        pace.told(at, log_start_offset)
    return pace


def test_a_log_start_that_does_not_move_threatens_nothing() -> None:
    assert moving((0, 0), (1000, 0)).seconds_until(10, heard=1000, now=1000) is None


def test_the_pace_of_retention_says_when_it_arrives() -> None:
    assert moving((0, 0), (100, 1000)).seconds_until(3000, heard=100, now=100) == 200.0


def test_a_pace_slows_down_while_leaders_tell_of_no_further_move() -> None:
    assert moving((0, 0), (100, 1000)).seconds_until(3000, heard=200, now=200) == 400.0


def test_time_runs_on_at_the_known_pace_while_nobody_tells() -> None:
    pace = moving((0, 0), (100, 1000))
    assert pace.seconds_until(3000, heard=100, now=250) == 50.0
    assert pace.seconds_until(3000, heard=100, now=9_999) == 0.0


def test_a_jump_in_the_first_second_is_no_pace() -> None:
    assert moving((0, 0), (1, 1_000_000)).seconds_until(2_000_000, heard=30, now=30) is None


def test_another_log_begins_a_new_observation() -> None:
    assert moving((0, 5000), (100, 6000), (200, 0)).seconds_until(10, heard=500, now=500) is None


def test_a_faster_pace_is_noticed_within_the_steps_looked_back_over() -> None:
    slow = [(100.0 * n, n) for n in range(20)]
    fast = [(2000.0 + 100.0 * n, 20 + 1000 * n) for n in range(STEPS_MAX)]
    heard = fast[-1][0]
    assert moving(*slow, *fast).seconds_until(fast[-1][1] + 1000, heard=heard, now=heard) == 100.0


def test_a_client_that_deletes_records_all_the_time_leaves_a_pace_over_minutes() -> None:
    pace = moving(*((n * 0.1, n) for n in range(10_000)))
    left = pace.seconds_until(9_999 + 100, heard=999.9, now=999.9)
    assert left is not None
    assert 9 < left < 12


def test_retention_behind_a_paused_topic_shows_in_its_samples() -> None:
    site = Site.new()
    log = site.cluster.create("orders", 1).logs[0]
    log.append(100)

    async def script(life: Life) -> None:
        await life.durable()
        for before in (10, 20):
            await asyncio.sleep(100)
            log.delete_records(before)
            await asyncio.sleep(1)
        (following,) = partition_samples(life.pipeline, site.clock)
        assert following.time_to_loss_seconds is None, "all of it is durable: nothing can be lost"
        await life.steering.pause("orders")
        (paused,) = partition_samples(life.pipeline, site.clock)
        assert paused.time_to_loss_seconds is not None
        assert 500 < paused.time_to_loss_seconds < 1200
        await asyncio.sleep(300)
        (later,) = partition_samples(life.pipeline, site.clock)
        assert later.time_to_loss_seconds is not None
        assert 250 < paused.time_to_loss_seconds - later.time_to_loss_seconds < 350

    site.run_life(script)


def test_pausing_a_quiet_topic_whose_log_start_moved_long_ago_is_no_alarm() -> None:
    site = Site.new()
    log = site.cluster.create("orders", 1).logs[0]
    log.append(100)

    async def script(life: Life) -> None:
        await life.durable()
        await asyncio.sleep(100)
        log.delete_records(50)
        await asyncio.sleep(QUIET_SECONDS)
        list(partition_samples(life.pipeline, site.clock))
        await life.steering.pause("orders")
        (paused,) = partition_samples(life.pipeline, site.clock)
        assert paused.time_to_loss_seconds is not None
        assert paused.time_to_loss_seconds > QUIET_SECONDS / 2

    site.run_life(script)
