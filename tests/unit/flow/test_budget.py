"""The memory budget: a limit that holds, waiters that are served in turn, cancellations that take nothing (I9)."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.flow.budget import MemoryBudget
from kbackupd.model.clock import ManualClock
from tests.virtual_time import run


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_reservation_waits_until_its_bytes_are_free() -> None:
    budget = MemoryBudget(100)
    first = await budget.reserve(80)
    second = asyncio.create_task(budget.reserve(40))
    await turns()
    assert not second.done()
    assert budget.starved
    budget.release(first)
    assert await second == 40
    assert not budget.starved


async def test_a_large_request_is_not_starved_by_small_ones_that_come_later() -> None:
    budget = MemoryBudget(100)
    held = await budget.reserve(50)
    large = asyncio.create_task(budget.reserve(90))
    await turns()
    small = asyncio.create_task(budget.reserve(10))
    await turns()
    assert not small.done()
    budget.release(held)
    assert await large == 90
    assert await small == 10


async def test_a_request_beyond_the_whole_budget_takes_all_of_it_and_no_more() -> None:
    budget = MemoryBudget(100)
    assert await budget.reserve(1_000) == 100


async def test_what_is_larger_than_the_whole_budget_gets_through_alone_and_is_counted_in_full() -> None:
    budget = MemoryBudget(100)
    held = await budget.take(10)
    larger = asyncio.create_task(budget.take(250))
    small = asyncio.create_task(budget.take(10))
    await turns()
    assert not larger.done()
    budget.release(held)
    assert await larger == 250
    await turns()
    assert not small.done(), "it came later"
    assert budget.reserved_bytes == budget.peak_bytes == 250
    budget.release(250)
    assert await small == 10
    assert (budget.reserved_bytes, budget.peak_bytes) == (10, 250)


async def test_a_cancelled_taking_takes_nothing() -> None:
    budget = MemoryBudget(100)
    await budget.take(60)
    waiting = asyncio.create_task(budget.take(250))
    await turns()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (budget.reserved_bytes, budget.starved) == (60, False)


async def test_memory_is_worth_sealing_for_where_a_real_share_or_nothing_else_holds_it() -> None:
    budget = MemoryBudget(100)
    requests = await budget.reserve(60)
    assert not budget.starved_by(50), "nobody waits"
    waiting = asyncio.create_task(budget.reserve(70))
    await turns()
    assert budget.starved_by(25)
    assert not budget.starved_by(24), "requests hold it and end by themselves"
    budget.release(requests)
    assert await waiting == 70
    budget.release(70)
    held = await budget.reserve(5)
    whole = asyncio.create_task(budget.reserve(100))
    await turns()
    assert budget.starved_by(5), "nobody else will give anything back"
    budget.release(held)
    await whole


async def test_the_declared_exception_goes_beyond_the_limit_and_is_given_back() -> None:
    """A first batch larger than what was asked for is here already (hazard 23)."""
    budget = MemoryBudget(100)
    taken = budget.adjust(await budget.reserve(100), 250)
    waiting = asyncio.create_task(budget.reserve(10))
    await turns()
    assert budget.reserved_bytes == 250
    assert not waiting.done()
    budget.release(taken)
    assert await waiting == 10


async def test_a_cancelled_waiter_that_a_release_passes_over_raises_cancellation_and_nothing_else() -> None:
    budget = MemoryBudget(100)
    held = await budget.reserve(100)
    waiting = asyncio.create_task(budget.reserve(50))
    await turns()
    waiting.cancel()
    budget.release(held)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.reserved_bytes == 0


async def test_a_waiter_cancelled_in_the_moment_it_is_served_gives_the_bytes_to_the_next() -> None:
    budget = MemoryBudget(100)
    held = await budget.reserve(100)
    first = asyncio.create_task(budget.reserve(100))
    second = asyncio.create_task(budget.reserve(100))
    await turns()
    budget.release(held)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == 100


async def test_a_cancelled_head_of_the_queue_lets_the_smaller_one_behind_it_through() -> None:
    budget = MemoryBudget(100)
    await budget.reserve(50)
    large = asyncio.create_task(budget.reserve(90))
    small = asyncio.create_task(budget.reserve(20))
    await turns()
    large.cancel()
    assert await small == 20
    with pytest.raises(asyncio.CancelledError):
        await large


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        MemoryBudget(0)


@given(seed=st.integers(0, 1 << 32), limit=st.integers(1, 200))
def test_under_any_cancellation_the_limit_holds_and_no_waiter_is_lost(seed: int, limit: int) -> None:
    """Hazard 51: whatever dies while it waits, what is left is served and all bytes come back."""
    luck = random.Random(seed)
    budget = MemoryBudget(limit)
    served = 0

    async def work() -> None:
        nonlocal served
        for _ in range(luck.randint(1, 3)):
            taken = await budget.reserve(luck.randint(1, limit * 2))
            assert budget.reserved_bytes <= limit
            try:
                await asyncio.sleep(luck.choice((0, 0.1)))
            finally:
                budget.release(taken)
        served += 1

    async def main() -> None:
        tasks = [asyncio.create_task(work()) for _ in range(8)]
        doomed = luck.sample(tasks, 4)
        for task in doomed:
            await asyncio.sleep(luck.choice((0, 0.05, 0.1)))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        assert served == sum(not task.cancelled() for task in tasks)

    run(main(), clock=ManualClock())
    assert budget.reserved_bytes == 0
    assert not budget.starved
