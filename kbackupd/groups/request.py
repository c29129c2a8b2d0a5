"""What a plan is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kbackupd.archive.group_history import DecidedPositions
from kbackupd.archive.pins import Pins
from kbackupd.groups.plan import Strategy
from kbackupd.groups.strategies import GivenPosition
from kbackupd.model.offset_map import OffsetMapDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What is asked for. Globs: none match everything; those of topics are over names in the target."""

    strategy: Strategy
    groups: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    at_ms: int | None = None
    timestamp_ms: int | None = None
    offset: int | None = None
    given: tuple[GivenPosition, ...] = ()
    offset_map: OffsetMapDocument | None = None
    pinned: Pins | None = None
    """Go by the archive as a restore saw it; None: as it is."""
    decided: Mapping[int, DecidedPositions] | None = None
    """By partition of `__consumer_offsets`: what the restore found to be decided, though this log told of it later."""

    @property
    def named_groups(self) -> tuple[str, ...]:
        """Groups without wildcards: they are meant whether anybody knows them or not."""
        return tuple(glob for glob in self.groups if not set("*?[") & set(glob))
