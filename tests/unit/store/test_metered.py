"""Everything asked of a metered store is told, once, with its size and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

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
from kbackupd.store.metered import MeteredStore, Operation, Outcome
from kbackupd.store.retrying import RetryingStore
from tests.contract_store import keys_of


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.faults = FaultStore(MemoryStore())
        self.told: list[tuple[Operation, float, int, Outcome]] = []
        self.store = MeteredStore(self.faults, self._on_operation, clock=self.clock)

    def _on_operation(self, operation: Operation, seconds: float, size_bytes: int, outcome: Outcome) -> None:
        self.told.append((operation, seconds, size_bytes, outcome))


async def test_every_operation_is_told_with_its_bytes() -> None:
    rig = Rig()
    await rig.store.put_if_absent("key", [b"01234", memoryview(b"56789")])
    await rig.store.get("key")
    await rig.store.get_range("key", 2, 3)
    await rig.store.get_suffix("key", 4)
    await rig.store.head("key")
    await keys_of(rig.store)
    await rig.store.delete_many(["key"])
    assert rig.told == [
        ("put", 0.0, 10, "ok"),
        ("get", 0.0, 10, "ok"),
        ("get_range", 0.0, 3, "ok"),
        ("get_suffix", 0.0, 4, "ok"),
        ("head", 0.0, 0, "ok"),
        ("list", 0.0, 0, "ok"),
        ("delete", 0.0, 0, "ok"),
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ObjectMissingError("key"), "missing"),
        (ObjectExistsError("key"), "exists"),
        (StoreDeniedError("403"), "denied"),
        (StoreUnavailableError("503"), "unavailable"),
        (CorruptObjectError("key", "short"), "error"),
    ],
)
async def test_failure_is_told_by_its_kind_and_with_no_bytes(error: KbackupError, outcome: Outcome) -> None:
    rig = Rig()
    rig.faults.fail("put", error=error)
    rig.faults.fail("list", error=error)
    with pytest.raises(type(error)):
        await rig.store.put_if_absent("key", [b"x"])
    with pytest.raises(type(error)):
        await keys_of(rig.store)
    assert rig.told == [("put", 0.0, 0, outcome), ("list", 0.0, 0, outcome)]


async def test_time_is_what_the_store_took() -> None:
    rig = Rig()
    stall = rig.faults.stall("put")
    put = asyncio.create_task(rig.store.put_if_absent("key", [b"x"]))
    await stall.reached.wait()
    rig.clock.advance(3.5)
    stall.release()
    await put
    assert rig.told == [("put", 3.5, 1, "ok")]


async def test_listing_counts_the_stores_time_not_its_readers() -> None:
    rig = Rig()
    for key in ("a", "b", "c"):
        await rig.store.put_if_absent(key, [b"x"])
    rig.told.clear()
    async for _ in rig.store.list_from(""):
        rig.clock.advance(10)
    assert rig.told == [("list", 0.0, 0, "ok")]


async def test_cancelled_operation_is_told_as_cancelled() -> None:
    rig = Rig()
    stall = rig.faults.stall("get")
    get = asyncio.create_task(rig.store.get("key"))
    await stall.reached.wait()
    rig.clock.advance(2)
    get.cancel()
    with pytest.raises(asyncio.CancelledError):
        await get
    assert rig.told == [("get", 2.0, 0, "cancelled")]


async def test_listing_that_its_reader_leaves_early_is_told_when_it_is_closed() -> None:
    rig = Rig()
    for key in ("a", "b", "c"):
        await rig.store.put_if_absent(key, [b"x"])
    rig.told.clear()
    listing = RetryingStore(rig.store).list_from("")
    assert (await anext(listing)).key == "a"
    assert rig.told == []
    assert isinstance(listing, AsyncGenerator)
    await listing.aclose()
    assert rig.told == [("list", 0.0, 0, "ok")]
