"""How far each partition is durable: moves on catalog entries only, and never over a segment that is still in flight.

Keeps invariant I4. A segment may finish before an earlier one; a partition that has runs in both waits for the earlier,
one that has not does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from kbackupd.model.path import CatalogEntry
from kbackupd.model.positions import PartitionId


class Watermark:
    """Contiguous durable offset per partition; below it everything is stored or a recorded gap."""

    def __init__(self, durable: Mapping[PartitionId, int] | None = None) -> None:
        self._durable = dict(durable or {})
        self._in_flight: dict[PartitionId, deque[tuple[int, int]]] = {}
        self._partitions_of: dict[int, tuple[PartitionId, ...]] = {}
        self._landed: set[int] = set()

    def durable(self, id: PartitionId) -> int:
        """Offset below which everything is durable; -1 for a partition nothing is known of."""
        return self._durable.get(id, -1)

    def sealed(self, seq: int, next_offsets: Mapping[PartitionId, int]) -> None:
        """Segment `seq` holds everything of these partitions up to `next_offsets`, if it becomes durable.

        Called in the order of `seq`. A truncation may make a next offset smaller than the one before.
        """
        self._partitions_of[seq] = tuple(next_offsets)
        for id, next_offset in next_offsets.items():
            self._in_flight.setdefault(id, deque()).append((seq, next_offset))

    def stored(self, entry: CatalogEntry) -> list[PartitionId]:
        """Account for a durable segment; returns the partitions whose durable offset this moved."""
        seq = entry.footer.seq
        self._landed.add(seq)
        moved = []
        for id in self._partitions_of[seq]:
            waiting = self._in_flight[id]
            before = self._durable.get(id)
            while waiting and waiting[0][0] in self._landed:
                self._durable[id] = waiting.popleft()[1]
            if not waiting:
                del self._in_flight[id]
            if self._durable.get(id) != before:
                moved.append(id)
        self._forget_settled()
        return moved

    def _forget_settled(self) -> None:
        for seq in sorted(self._landed):
            if any(waiting[0][0] <= seq for id in self._partitions_of[seq] if (waiting := self._in_flight.get(id))):
                continue
            self._landed.discard(seq)
            del self._partitions_of[seq]
