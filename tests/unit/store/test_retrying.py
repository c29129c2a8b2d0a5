"""Patience, and its end: no real time passes here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import (
    CorruptObjectError,
    KbackupError,
    ObjectExistsError,
    ObjectMissingError,
    StoreDeniedError,
    StoreUnavailableError,
)
from kbackupd.store.faults import FaultStore
from kbackupd.store.memory import MemoryStore
from kbackupd.store.retrying import RetryingStore, RetryPolicy
from tests.contract_store import keys_of, put_many


class Rig:
    """A retrying store over a faulty one, with hands on its clock and eyes on its waits and deadlines."""

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        uniform: Callable[[float, float], float] = lambda low, high: high,
        attempts_expire: bool = False,
    ) -> None:
        self.clock = ManualClock()
        self.faults = FaultStore(MemoryStore())
        self.waits: list[float] = []
        self.deadlines: list[float] = []
        self.retries: list[tuple[str, str, int]] = []
        self.failures: list[tuple[str, KbackupError]] = []
        self._attempts_expire = attempts_expire
        self.store = RetryingStore(
            self.faults,
            policy=policy,
            on_retry=self._on_retry,
            on_failure=lambda operation, error: self.failures.append((operation, error)),
            clock=self.clock,
            sleep=self._sleep,
            uniform=uniform,
            deadline=self._deadline,
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.advance(seconds)

    def _deadline(self, seconds: float) -> asyncio.Timeout:
        self.deadlines.append(seconds)
        return asyncio.timeout(0 if self._attempts_expire else 30)

    def _on_retry(self, operation: str, error: KbackupError, attempt: int) -> None:
        assert isinstance(error, StoreUnavailableError)
        self.retries.append((operation, error.cause, attempt))


async def test_wait_doubles_up_to_the_longest_under_full_jitter() -> None:
    rig = Rig(RetryPolicy(first_wait_seconds=1, longest_wait_seconds=5, total_seconds=100))
    rig.faults.fail("head", times=5)
    with pytest.raises(ObjectMissingError):
        await rig.store.head("key")
    assert rig.waits == [1, 2, 4, 5, 5]
    assert rig.retries == [("head", "throttled", attempt) for attempt in (1, 2, 3, 4, 5)]
    assert rig.failures == []


async def test_jitter_spreads_each_wait_from_nothing_to_the_full_backoff() -> None:
    asked: list[tuple[float, float]] = []

    def lowest(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    rig = Rig(RetryPolicy(first_wait_seconds=1), uniform=lowest)
    rig.faults.fail("head", times=2)
    with pytest.raises(ObjectMissingError):
        await rig.store.head("key")
    assert asked == [(0.0, 1.0), (0.0, 2.0)]
    assert rig.waits == [0.0, 0.0]


async def test_gives_up_when_the_next_wait_would_reach_the_total_deadline() -> None:
    rig = Rig(RetryPolicy(first_wait_seconds=1, longest_wait_seconds=100, total_seconds=10))
    rig.faults.fail("head", times=None, error=StoreUnavailableError("no", cause="connect", hint="look"))
    with pytest.raises(StoreUnavailableError, match=r"gave up after 7s, 4 tries") as caught:
        await rig.store.head("key")
    assert rig.waits == [1, 2, 4]
    assert (caught.value.cause, caught.value.hint) == ("connect", "look")
    assert isinstance(caught.value.__cause__, StoreUnavailableError)
    assert rig.failures == [("head", caught.value.__cause__)]


@pytest.mark.parametrize(
    "error",
    [StoreDeniedError("403"), ObjectMissingError("key"), ObjectExistsError("key"), CorruptObjectError("key", "short")],
)
async def test_what_trying_again_cannot_change_is_raised_at_once(error: KbackupError) -> None:
    rig = Rig()
    rig.faults.fail("get", error=error)
    with pytest.raises(type(error)):
        await rig.store.get("key")
    assert rig.waits == []
    assert rig.failures == ([("get", error)] if isinstance(error, StoreDeniedError) else [])
    assert len(rig.faults.calls) == 1


async def test_try_that_hangs_ends_at_its_own_deadline_and_counts_as_a_timeout() -> None:
    rig = Rig(RetryPolicy(first_wait_seconds=1, total_seconds=2), attempts_expire=True)
    rig.faults.stall("head")
    with pytest.raises(StoreUnavailableError, match="no answer within") as caught:
        await rig.store.head("key")
    assert caught.value.cause == "timeout"
    assert rig.retries == [("head", "timeout", 1)]


async def test_every_try_has_the_same_time_which_grows_with_the_bytes_to_move() -> None:
    rig = Rig(RetryPolicy(attempt_seconds=20, slowest_bytes_per_second=1000))
    rig.faults.fail("put")
    await rig.store.put_if_absent("key", [b"x" * 2000, memoryview(b"y" * 3000)])
    assert rig.deadlines == [25, 25]
    await rig.store.get_range("key", 0, 1000)
    await rig.store.head("key")
    assert rig.deadlines[2:] == [21, 20]


async def test_caller_that_is_cancelled_while_waiting_is_not_held_up() -> None:
    entered = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        entered.set()
        await asyncio.Event().wait()

    faults = FaultStore(MemoryStore())
    faults.fail("put", times=None)
    put = asyncio.create_task(RetryingStore(faults, sleep=wait_for_ever).put_if_absent("key", [b"x"]))
    await entered.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put


async def test_hazard_54_put_whose_answer_is_lost_succeeds_on_the_second_try() -> None:
    rig = Rig()
    rig.faults.lose_answer("put")
    await rig.store.put_if_absent("key", [b"payload"])
    assert await rig.store.get("key") == b"payload"
    assert rig.faults.calls == [("put", "key"), ("put", "key"), ("get", "key")]


async def test_listing_that_breaks_between_pages_goes_on_behind_the_last_object() -> None:
    rig = Rig()
    keys = [f"k/{number:02d}" for number in range(20)]
    await put_many(rig.store, keys)
    rig.faults.lose_answer("list", nth=1)
    rig.faults.lose_answer("list", nth=3)
    rig.faults.fail("list", nth=2)
    assert await keys_of(rig.store, "k/") == keys
    assert [attempt for _, _, attempt in rig.retries] == [1, 2, 1]
    rig.faults.lose_answer("list")
    assert await keys_of(rig.store, "k/", start_after="k/03", limit=10) == keys[4:14]


async def test_listing_that_stays_broken_is_an_error_never_a_short_list() -> None:
    rig = Rig()
    await put_many(rig.store, ["k/1", "k/2", "k/3"])
    rig.faults.lose_answer("list")
    rig.faults.fail("list", nth=2, times=None)
    listing = rig.store.list_from("k/")
    assert (await anext(listing)).key == "k/1"
    with pytest.raises(StoreUnavailableError):
        await anext(listing)


async def test_each_batch_of_a_big_delete_is_tried_for_itself() -> None:
    rig = Rig()
    rig.faults.fail("delete", nth=2)
    await rig.store.delete_many([f"{number}" for number in range(1500)])
    assert [keys.count(" ") + 1 for _, keys in rig.faults.calls] == [1000, 500, 500]


async def test_location_and_close_are_those_of_the_store_inside() -> None:
    rig = Rig()
    assert rig.store.location == "memory:"
    await rig.store.close()
