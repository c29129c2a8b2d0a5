"""How far one partition is covered: the rule by which a segment's word on it moves its position. Pure.

A position moves over contiguous runs and gaps only, so that a segment lost before a later one landed holds the position
back and its offsets are captured again (invariants I4, I6, I8). Only a truncation leads to another branch, and only one
that falls into what is contiguous.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from kbackupd.model.events import Gap, GapCause, Truncated
from kbackupd.model.positions import PartitionId
from kbackupd.model.segment import Run

UNSEEN = "unseen"
"""The `state` of a partition whose first event is in a lost segment: its `next_offset` is no position."""


@dataclass(slots=True, kw_only=True)
class PartitionState:
    """Below `next_offset` of `branch` all is stored or a known gap."""

    id: PartitionId
    first_offset: int
    next_offset: int
    branch: int = 0
    next_branch: int = 1
    state: str = "starting"
    leader_epochs: list[tuple[int, int]] = field(default_factory=list)
    open_transactions: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Producer id → (producer epoch, first offset)."""

    @property
    def leader_epoch(self) -> int:
        return self.leader_epochs[-1][0] if self.leader_epochs else -1

    @property
    def seen(self) -> bool:
        return self.state != UNSEEN


def add_epochs(table: list[tuple[int, int]], epochs: Iterable[tuple[int, int]]) -> None:
    """Append the (epoch, start offset) pairs that are newer than the table's last."""
    for epoch, start in epochs:
        if not table or epoch > table[-1][0]:
            table.append((epoch, start))


def cut_epochs(table: list[tuple[int, int]], offset: int) -> None:
    """Forget the epochs that began at or after `offset`, as a truncation to it does."""
    while table and table[-1][1] >= offset:
        table.pop()


def advance(partition: PartitionState, items: list[Run | Gap | Truncated]) -> bool:
    """Move `partition` over what is contiguous in `items`, branch after branch; False if it is held back."""
    if len(items) == 1 and isinstance(only := items[0], Run) and only.branch == partition.branch:
        # What nearly every segment says of nearly every partition: in few steps, ten thousand times a flush.
        if first_offset(only) > partition.next_offset:
            return False
        partition.next_offset = max(partition.next_offset, only.next_offset)
        add_epochs(partition.leader_epochs, only.leader_epochs)
        return True
    by_branch: dict[int, list[Run | Gap | Truncated]] = defaultdict(list)
    for item in items:
        by_branch[item.branch].append(item)
        partition.next_branch = max(partition.next_branch, item.branch + 1)
    for branch in sorted(by_branch):
        if branch < partition.branch:
            continue
        if branch > partition.branch:
            cut = next((item for item in by_branch[branch] if isinstance(item, Truncated)), None)
            # A truncation beyond what is contiguous was seen by a life whose earlier segment is lost: stay on the old
            # branch, whose leader epoch makes the broker report the divergence again.
            if cut is None or cut.parent != partition.branch or cut.offset > partition.next_offset:
                return False
            partition.branch = branch
            partition.next_offset = cut.offset
            # Cut to where it began, or below: nothing is held of the log that is there now.
            partition.first_offset = min(partition.first_offset, cut.offset)
            cut_epochs(partition.leader_epochs, cut.offset)
            _drop_transactions_from(partition, cut.offset)
        for item in sorted((i for i in by_branch[branch] if not isinstance(i, Truncated)), key=first_offset):
            if first_offset(item) > partition.next_offset:
                return False
            nothing_held = partition.first_offset == partition.next_offset
            partition.next_offset = max(partition.next_offset, item.next_offset)
            if nothing_held and isinstance(item, Gap) and item.cause == GapCause.LOG_START_MOVED:
                # Still nothing is held: coverage begins where the log does, as at first sight.
                partition.first_offset = partition.next_offset
            if isinstance(item, Run):
                add_epochs(partition.leader_epochs, item.leader_epochs)
    return True


def first_offset(item: Run | Gap) -> int:
    """Where what it covers begins: a run covers from where it was asked, since compaction left nothing before it."""
    return min(item.asked_offset, item.next_offset) if isinstance(item, Run) else item.first_offset


def _drop_transactions_from(partition: PartitionState, offset: int) -> None:
    for producer_id, (_, first) in list(partition.open_transactions.items()):
        if first >= offset:
            del partition.open_transactions[producer_id]
