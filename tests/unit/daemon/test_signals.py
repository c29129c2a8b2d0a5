"""SIGTERM drains, a second one aborts, and an end that is not clean is never an exit code of zero (hazard 50)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import cast

import pytest

from kbackupd.daemon import stopping as daemon
from kbackupd.daemon.life import DaemonLife
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import FencedError, IncompleteError
from kbackupd.observe.problems import Problems


class Pretended:
    """A life that does what the test says when it is asked to stop."""

    def __init__(self, *, on_stop: Callable[[Pretended], None]) -> None:
        self.problems = Problems(ManualClock())
        self.started = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_stop = on_stop

    async def run(self) -> None:
        self.started.set()
        await self.ended

    def stop(self) -> None:
        self._on_stop(self)


def until_stopped(life: Pretended, timeout_seconds: float) -> asyncio.Task[None]:
    return asyncio.create_task(daemon.until_stopped(cast("DaemonLife", life), lambda: timeout_seconds))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains_and_returns_when_the_drain_is_done(number: signal.Signals) -> None:
    life = Pretended(on_stop=lambda life: life.ended.set_result(None))
    running = until_stopped(life, 30)
    await life.started.wait()
    signal.raise_signal(number)
    await running


async def test_a_second_signal_leaves_at_once_with_a_code_that_is_not_zero() -> None:
    stopping = asyncio.Event()
    life = Pretended(on_stop=lambda life: stopping.set())
    running = until_stopped(life, 30)
    await life.started.wait()
    signal.raise_signal(signal.SIGTERM)
    await stopping.wait()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(daemon.Aborted) as aborted:
        await running
    assert aborted.value.exit_code != 0
    assert life.ended.cancelled()


async def test_a_drain_that_does_not_end_in_time_is_incomplete_and_says_what_was_wrong() -> None:
    """Hazard 50."""
    life = Pretended(on_stop=lambda life: life.problems.report("uploads", "503 SlowDown"))
    running = until_stopped(life, 0.01)
    await life.started.wait()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(IncompleteError, match="uploads: 503 SlowDown") as incomplete:
        await running
    assert incomplete.value.exit_code == 6


async def test_a_failure_during_the_drain_is_raised() -> None:
    life = Pretended(on_stop=lambda life: life.ended.set_exception(FencedError("fenced")))
    running = until_stopped(life, 30)
    await life.started.wait()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(FencedError):
        await running


async def test_a_life_that_ends_by_itself_is_not_waited_for() -> None:
    life = Pretended(on_stop=lambda life: None)
    running = until_stopped(life, 30)
    await life.started.wait()
    life.ended.set_exception(FencedError("fenced"))
    with pytest.raises(FencedError):
        await running
