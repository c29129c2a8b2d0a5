"""The search for garbage: young objects often, all of them seldom (hazard 56)."""

from __future__ import annotations

import asyncio
import gc

import pytest

from kbackupd.daemon.memory import GARBAGE_SECONDS, collect_seldom
from kbackupd.model.clock import ManualClock
from tests.virtual_time import run


def test_everything_is_looked_through_at_an_interval_and_never_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_threshold()
    clock = ManualClock()
    searched: list[float] = []
    monkeypatch.setattr(gc, "collect", lambda: searched.append(clock.monotonic()))

    async def live() -> None:
        collecting = asyncio.create_task(collect_seldom())
        began = clock.monotonic()
        await asyncio.sleep(2.5 * GARBAGE_SECONDS)
        assert [at - began for at in searched] == pytest.approx([GARBAGE_SECONDS, 2 * GARBAGE_SECONDS])
        young, middle, old = gc.get_threshold()
        assert young > 0
        assert middle > 0
        assert young * middle * old > 10**12, "a round of the oldest that comes by itself"
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)

    run(live(), clock=clock)
    assert gc.get_threshold() == before
