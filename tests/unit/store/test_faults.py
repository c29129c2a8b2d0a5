"""The fault store does what its script says and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.model.errors import ObjectMissingError, StoreDeniedError, StoreUnavailableError
from kbackupd.store.faults import FaultStore
from kbackupd.store.memory import MemoryStore
from tests.contract_store import keys_of


async def test_nth_matching_operation_fails_without_effect_and_its_neighbours_work() -> None:
    memory = MemoryStore()
    store = FaultStore(memory)
    store.fail("put", nth=2, key_part="segments/", error=StoreDeniedError("scripted"))
    await store.put_if_absent("segments/1", [b"1"])
    await store.put_if_absent("checkpoints/1", [b"c"])
    with pytest.raises(StoreDeniedError):
        await store.put_if_absent("segments/2", [b"2"])
    await store.put_if_absent("segments/3", [b"3"])
    assert sorted(memory.objects) == ["checkpoints/1", "segments/1", "segments/3"]


async def test_lost_answer_leaves_the_effect() -> None:
    memory = MemoryStore()
    store = FaultStore(memory)
    store.lose_answer("put")
    with pytest.raises(StoreUnavailableError):
        await store.put_if_absent("key", [b"x"])
    assert memory.objects == {"key": b"x"}


async def test_failure_lasts_as_many_times_as_told_or_until_healed() -> None:
    store = FaultStore(MemoryStore())
    store.fail("head", times=2)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await store.head("key")
    with pytest.raises(ObjectMissingError):
        await store.head("key")
    store.fail("head", times=None)
    for _ in range(5):
        with pytest.raises(StoreUnavailableError):
            await store.head("key")
    store.heal()
    with pytest.raises(ObjectMissingError):
        await store.head("key")


@pytest.mark.parametrize(("when", "there"), [("before", False), ("after", True)])
async def test_stall_holds_one_operation_while_later_ones_land(when: str, there: bool) -> None:
    memory = MemoryStore()
    store = FaultStore(memory)
    stall = store.stall("put", when="after" if when == "after" else "before", key_part="1")
    first = asyncio.create_task(store.put_if_absent("1", [b"1"]))
    await stall.reached.wait()
    await store.put_if_absent("2", [b"2"])
    assert ("1" in memory.objects) == there
    assert not first.done()
    stall.release()
    await first
    assert sorted(memory.objects) == ["1", "2"]


async def test_listing_can_break_before_it_begins_and_half_way() -> None:
    store = FaultStore(MemoryStore())
    for key in ("a", "b", "c", "d"):
        await store.put_if_absent(key, [b"x"])
    store.fail("list")
    with pytest.raises(StoreUnavailableError):
        await keys_of(store)
    store.lose_answer("list")
    listing = store.list_from("")
    assert [(await anext(listing)).key, (await anext(listing)).key] == ["a", "b"]
    with pytest.raises(StoreUnavailableError):
        await anext(listing)
    assert await keys_of(store) == ["a", "b", "c", "d"]


async def test_calls_are_remembered_in_order() -> None:
    store = FaultStore(MemoryStore())
    await store.put_if_absent("a", [b"x"])
    await store.get_range("a", 0, 1)
    await store.delete_many(["a", "b"])
    assert store.calls == [("put", "a"), ("get_range", "a"), ("delete", "a b")]
