"""The lag of the event loop: what a stall shows, to whom, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.daemon.loop_lag import INTERVAL_SECONDS, WINDOW_SECONDS, LoopLag, sampling_lag
from kbackupd.model.clock import ManualClock
from tests.virtual_time import run


def test_a_loop_that_nothing_holds_up_has_no_lag_and_four_samples_a_second() -> None:
    clock = ManualClock()
    samples: list[float] = []

    async def idle() -> None:
        lag = LoopLag(clock, samples.append)
        async with sampling_lag(lag):
            await asyncio.sleep(10.1)
            assert lag.worst_seconds() == 0

    run(idle(), clock=clock)
    assert samples == [0.0] * round(10 / INTERVAL_SECONDS)


def test_a_step_that_takes_two_seconds_is_seen_at_once_and_told_for_a_window_afterwards() -> None:
    clock = ManualClock()
    samples: list[float] = []

    async def stalled() -> None:
        lag = LoopLag(clock, samples.append)
        async with sampling_lag(lag):
            await asyncio.sleep(1.1)
            clock.advance(2.15)  # as a computation without an await does; the next sample was due after 0.15
            assert lag.worst_seconds() == pytest.approx(2), "whoever scrapes first is not told that all is well"
            await asyncio.sleep(1)
            assert max(samples) == pytest.approx(2)
            await asyncio.sleep(WINDOW_SECONDS)
            assert lag.worst_seconds() == pytest.approx(2)
            await asyncio.sleep(WINDOW_SECONDS)
            assert lag.worst_seconds() == 0

    run(stalled(), clock=clock)


def test_what_is_not_sampled_any_more_is_not_late() -> None:
    clock = ManualClock()

    async def ended() -> None:
        lag = LoopLag(clock, lambda seconds: None)
        async with sampling_lag(lag):
            await asyncio.sleep(1)
        clock.advance(3 * WINDOW_SECONDS)
        assert lag.worst_seconds() == 0

    run(ended(), clock=clock)
