"""`source.rate_limit`: what was received is paid for before the next request."""

from __future__ import annotations

import pytest

from kbackupd.capture.rate import RateLimit
from kbackupd.model.clock import ManualClock


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


async def test_without_a_limit_nobody_waits() -> None:
    rate = RateLimit(None, ManualClock())
    rate.spend(1 << 40)
    assert rate.wait_seconds == 0.0
    await rate.admit()
