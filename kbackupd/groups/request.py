"""What a plan is asked for."""

from __future__ import annotations

from dataclasses import dataclass

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

    @property
    def named_groups(self) -> tuple[str, ...]:
        """Groups without wildcards: they are meant whether anybody knows them or not."""
        return tuple(glob for glob in self.groups if not set("*?[") & set(glob))
