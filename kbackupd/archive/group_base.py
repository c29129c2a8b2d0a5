"""A snapshot of groups as the beginning of a fold: the log need not be read from its own beginning then.

Pure. What brokers answered stands for all of the log below the high watermark that had been told before they were
asked; what is committed later is in the log behind that. It takes a snapshot in which nothing was hidden or failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kbackupd.archive.cut import Cut
from kbackupd.format.committed_offsets import coordinator_partition
from kbackupd.model.coordinators import CommittedPosition, OffsetKey
from kbackupd.model.snapshots import NEVER_MS, GroupsContent, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsBase:
    """Where every group but the backup's own stood, at moments within [asked_ms, taken_ms]."""

    key: str
    """Of the snapshot."""
    asked_ms: int
    taken_ms: int
    groups: frozenset[str]
    positions: Mapping[int, Mapping[OffsetKey, CommittedPosition]]
    """By partition of `__consumer_offsets`; when a position was committed it does not tell."""

    def begins_at(self, then: Cut | None, cut: Cut) -> int | None:
        """From which offset on the log has what the base may lack; None: the two do not fit together.

        Args:
            then: the partition's cut at `asked_ms`.
            cut: the one that is to be reached.
        """
        if then is None or then.branch != cut.branch or self.taken_ms > cut.sent_ms or then.stable_offset < 0:
            return None
        # What a transaction had committed and not ended by then lies at or above the last stable offset.
        return min(then.stable_offset, then.next_offset)


def base_of(
    snapshot: Snapshot[GroupsContent], partitions: int, wanted: Callable[[str], bool] | None = None
) -> GroupsBase | None:
    """The snapshot as a base, as far as groups are `wanted`; None: it lacks something."""
    content = snapshot.content
    if not content.complete:
        return None
    positions: dict[int, dict[OffsetKey, CommittedPosition]] = {number: {} for number in range(partitions)}
    groups = [one for one in content.groups if wanted is None or wanted(one.group_id)]
    for group in groups:
        rows = positions[coordinator_partition(group.group_id, partitions)]
        for row in group.positions:
            rows[OffsetKey(group.group_id, row.topic, row.partition)] = CommittedPosition(
                row.offset, row.leader_epoch, row.metadata, NEVER_MS, -1, row.topic_id
            )
    return GroupsBase(
        key=snapshot.key,
        asked_ms=snapshot.asked_ms,
        taken_ms=snapshot.taken_ms,
        groups=frozenset(one.group_id for one in groups),
        positions=positions,
    )
