"""A writer's log of snapshots, and the state at an instant that readers find in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kbackupd.archive.snapshots import REPEATED_AFTER_MS, STEPS_BACK, SnapshotLog, snapshot_at
from kbackupd.format import keys
from kbackupd.format.groups_snapshot import GROUPS_FORMAT
from kbackupd.model.errors import StoreUnavailableError
from kbackupd.model.snapshots import GroupsContent
from kbackupd.store.memory import MemoryStore
from kbackupd.store.protocol import Buffer
from tests.unit.format.samples import IDENTITY, NOW_MS, example_groups

MINUTE_MS = 60_000


def content(state: str) -> GroupsContent:
    """Told apart by the state of its first group."""
    groups = example_groups().content.groups
    return replace(example_groups().content, groups=(replace(groups[0], state=state), *groups[1:]))


async def log(store: MemoryStore, epoch: int = 1, writer: str = "main") -> SnapshotLog[GroupsContent]:
    return await SnapshotLog.open(store, GROUPS_FORMAT, identity=IDENTITY, writer=writer, writer_epoch=epoch)


async def state_at(store: MemoryStore, at_ms: int | None) -> str | None:
    found = await snapshot_at(store, GROUPS_FORMAT, at_ms, IDENTITY)
    return None if found.snapshot is None else found.snapshot.content.groups[0].state


async def append(kept: SnapshotLog[GroupsContent], state: str, minute: int) -> str | None:
    at_ms = NOW_MS + minute * MINUTE_MS
    return await kept.append(content(state), asked_ms=at_ms - 10, taken_ms=at_ms)


async def test_the_state_at_an_instant_is_the_last_snapshot_not_after_it() -> None:
    store = MemoryStore()
    kept = await log(store)
    for minute, state in enumerate(("Empty", "Stable", "Dead")):
        assert await append(kept, state, minute) is not None
    assert await state_at(store, NOW_MS - 1) is None
    assert await state_at(store, NOW_MS) == "Empty"
    assert await state_at(store, NOW_MS + 2 * MINUTE_MS - 1) == "Stable"
    assert await state_at(store, NOW_MS + 2 * MINUTE_MS) == "Dead"
    assert await state_at(store, None) == "Dead"


async def test_what_differs_in_nothing_but_instants_is_stored_again_only_after_hours() -> None:
    store = MemoryStore()
    kept = await log(store)
    await append(kept, "Stable", 0)
    later = content("Stable")
    later = replace(
        later,
        groups=tuple(replace(g, sent_ms=1, part=replace(g.part, answered_ms=2)) for g in later.groups[:2])
        + later.groups[2:],
    )
    assert await kept.append(later, asked_ms=NOW_MS, taken_ms=NOW_MS + REPEATED_AFTER_MS - 1) is None
    assert await kept.append(later, asked_ms=NOW_MS, taken_ms=NOW_MS + REPEATED_AFTER_MS) is not None
    assert len(store.objects) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 40])
async def test_the_next_life_goes_on_from_the_newest_snapshot_however_many_there_are(count: int) -> None:
    store = MemoryStore()
    kept = await log(store)
    for minute in range(count):
        await append(kept, str(minute), minute)
    again = await log(store, epoch=4)
    assert again.last is not None
    assert again.last.number == count - 1
    assert await append(again, str(count - 1), count) is None
    await append(again, "new", count)
    assert again.last.previous is not None
    assert again.last.previous.key == keys.snapshot_key(
        "groups", "main", 1, count - 1, NOW_MS + (count - 1) * MINUTE_MS
    )


async def test_a_damaged_newest_snapshot_is_named_and_the_one_before_it_stands_in() -> None:
    store = MemoryStore()
    kept = await log(store)
    await append(kept, "Stable", 0)
    damaged = await append(kept, "Dead", 1)
    assert damaged is not None
    data = bytearray(store.objects[damaged])
    data[30] ^= 1
    store.tamper(damaged, bytes(data))
    found = await snapshot_at(store, GROUPS_FORMAT, None, IDENTITY)
    assert found.snapshot is not None
    assert found.snapshot.content.groups[0].state == "Stable"
    assert [one.key for one in found.damaged] == [damaged]
    again = await log(store, epoch=2)
    assert again.last == found.snapshot


async def test_a_clock_that_stepped_back_neither_hides_the_newest_nor_mixes_the_order() -> None:
    store = MemoryStore()
    kept = await log(store)
    await append(kept, "first", 10)
    await append(kept, "second", 5)
    assert kept.last is not None
    assert kept.last.taken_ms == NOW_MS + 10 * MINUTE_MS
    assert await state_at(store, None) == "second"


async def test_an_upload_with_an_unknown_end_leaves_a_number_out_and_nothing_else() -> None:
    class Torn(MemoryStore):
        torn = True

        async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
            await super().put_if_absent(key, parts)
            if self.torn:
                raise StoreUnavailableError("the answer was lost")

    store = Torn()
    kept = await log(store)
    with pytest.raises(StoreUnavailableError):
        await append(kept, "first", 0)
    store.torn = False
    await append(kept, "second", 1)
    assert kept.last is not None
    assert (kept.last.number, kept.last.previous) == (1, None)
    assert await state_at(store, None) == "second"


async def test_of_many_snapshots_only_keys_are_read_and_one_object() -> None:
    class Counting(MemoryStore):
        reads = 0

        async def get(self, key: str) -> bytes:
            self.reads += 1
            return await super().get(key)

    store = Counting()
    kept = await log(store)
    for minute in range(70 * STEPS_BACK):
        await append(kept, str(minute), minute)
    store.reads = 0
    assert await state_at(store, NOW_MS + 300 * MINUTE_MS) == "300"
    assert store.reads == 1
