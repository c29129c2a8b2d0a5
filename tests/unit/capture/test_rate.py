"""`source.rate_limit`: what was received is paid for before the next request."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.capture.rate import RateLimit
from kbackupd.model.clock import ManualClock
from tests.virtual_time import run


def test_an_answer_larger_than_the_rate_delays_the_next_request_until_it_is_paid_for() -> None:
    clock = ManualClock()
    rate = RateLimit(1000, clock)
    rate.spend(3000)
    assert rate.wait_seconds == pytest.approx(3.0)
    clock.advance(2.5)
    assert rate.wait_seconds == pytest.approx(0.5)
    clock.advance(1.0)
    assert rate.wait_seconds == 0.0


def test_unused_allowance_is_worth_one_second_at_most() -> None:
    clock = ManualClock()
    rate = RateLimit(1000, clock)
    clock.advance(3600)
    rate.spend(5000)
    assert rate.wait_seconds == pytest.approx(4.0)


def test_a_new_limit_makes_what_is_owed_longer_or_shorter_and_forgives_none_of_it() -> None:
    clock = ManualClock()
    rate = RateLimit(1000, clock)
    rate.spend(4000)
    rate.change(2000)
    assert rate.wait_seconds == pytest.approx(2.0)
    rate.change(500)
    assert rate.wait_seconds == pytest.approx(8.0)
    rate.change(None)
    assert rate.wait_seconds == 0.0
    rate.change(1000)
    rate.spend(2000)
    assert rate.wait_seconds == pytest.approx(2.0)


def test_who_waits_under_the_old_limit_does_not_wait_for_it_any_more() -> None:
    clock = ManualClock()

    async def script() -> None:
        rate = RateLimit(1, clock)
        rate.spend(1_000_000)
        waiting = asyncio.create_task(rate.admit())
        await asyncio.sleep(5)
        assert not waiting.done()
        rate.change(1_000_000)
        await asyncio.wait_for(waiting, 2)

    run(script(), clock=clock)


async def test_without_a_limit_nobody_waits() -> None:
    rate = RateLimit(None, ManualClock())
    rate.spend(1 << 40)
    assert rate.wait_seconds == 0.0
    await rate.admit()
