"""How far each partition is durable: moves on catalog entries only, and never over a segment that is still in flight.

Keeps invariant I4. A segment may finish before an earlier one; a partition that has runs in both waits for the earlier,
one that has not does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from kbackupd.model.path import CatalogEntry
from kbackupd.model.positions import PartitionId


class Watermark:
    """Contiguous durable offset per partition; below it everything is stored or a recorded gap."""

    def __init__(self, durable: Mapping[PartitionId, int] | None = None) -> None:
        self._durable = dict(durable or {})
        self._in_flight: dict[PartitionId, list[tuple[int, int]]] = {}
        """No deques: ten thousand empty ones are six megabytes."""
        self._partitions_of: dict[int, tuple[PartitionId, ...]] = {}
        self._landed: set[int] = set()
        self._cuts: dict[PartitionId, deque[int]] = {}
        """Truncations that no sealed segment holds yet, by the offset each cut to."""

    def durable(self, id: PartitionId) -> int:
        """Offset below which everything is durable; -1 for a partition nothing is known of."""
        return self._durable.get(id, -1)

    def forget(self, ids: Iterable[PartitionId]) -> None:
        """Nothing more will come of these: their incarnation is deleted, and that is durable."""
        for id in ids:
            if id not in self._in_flight and id not in self._cuts:
                self._durable.pop(id, None)

    def truncated(self, id: PartitionId, offset: int) -> None:
        """The source's log was cut to `offset`, and another one goes on from there.

        At once, not when the segment that says so is durable: what is stored above `offset` is of the old log, and
        would pass for the new one's, which nobody has stored yet.
        """
        self._cuts.setdefault(id, deque()).append(offset)
        if id in self._durable:
            self._durable[id] = min(self._durable[id], offset)
        waiting = self._in_flight.get(id)
        if waiting:
            self._in_flight[id] = [(seq, min(next_offset, offset)) for seq, next_offset in waiting]

    def sealed(
        self, seq: int, next_offsets: Mapping[PartitionId, int], cuts: Mapping[PartitionId, int] | None = None
    ) -> None:
        """Segment `seq` holds everything of these partitions up to `next_offsets`, if it becomes durable.

        Called in the order of `seq`. A truncation may make a next offset smaller than the one before.

        Args:
            cuts: how many truncations of a partition the segment tells of.
        """
        for id, count in (cuts or {}).items():
            pending = self._cuts[id]
            for _ in range(count):
                pending.popleft()
            if not pending:
                del self._cuts[id]
        self._partitions_of[seq] = tuple(next_offsets)
        for id, next_offset in next_offsets.items():
            # A cut that came after this segment was closed holds for it as well.
            reach = min((next_offset, *self._cuts[id])) if id in self._cuts else next_offset
            waiting = self._in_flight.get(id)
            if waiting is None:
                self._in_flight[id] = [(seq, reach)]
            else:
                waiting.append((seq, reach))

    def stored(self, entry: CatalogEntry) -> list[PartitionId]:
        """Account for a durable segment; returns the partitions whose durable offset this moved."""
        seq = entry.footer.seq
        self._landed.add(seq)
        moved = []
        for id in self._partitions_of[seq]:
            waiting = self._in_flight[id]
            before = self._durable.get(id)
            while waiting and waiting[0][0] in self._landed:
                self._durable[id] = waiting.pop(0)[1]
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
