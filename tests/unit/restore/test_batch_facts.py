"""What single batches tell of an instant is read with little of the archive in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.restore.batch_facts import read_facts
from kbackupd.restore.told import Marker

PARTITIONS = 500
MARKERS = [Marker(PartitionId(TopicId("o" * 21 + "A"), number), 7, 1, 0) for number in range(PARTITIONS)]


async def test_the_histories_of_many_partitions_are_not_held_all_at_once() -> None:
    made: list[PartitionId] = []
    read: list[PartitionId] = []
    gate = asyncio.Event()

    def around(id: PartitionId) -> Any:
        made.append(id)
        return SimpleNamespace(history=SimpleNamespace(id=id, slices=()))

    async def reading(id: PartitionId, **_: object) -> AsyncIterator[Any]:
        await gate.wait()
        read.append(id)
        yield SimpleNamespace(header=SimpleNamespace(is_control=True, base_offset=7, max_timestamp=id.partition))

    decisions: Any = SimpleNamespace(asks_time=lambda: MARKERS, asks_epoch=list)
    archive: Any = SimpleNamespace(read=reading)
    facts = asyncio.create_task(read_facts(archive, around, decisions))
    for _ in range(10):
        await asyncio.sleep(0)
    assert 1 < len(made) <= 32, "while their runs are under way"

    gate.set()

    assert (await facts).marker_ms == {(marker.id, 7): marker.id.partition for marker in MARKERS}
    assert sorted(read) == sorted(made) == [marker.id for marker in MARKERS], "each once"
