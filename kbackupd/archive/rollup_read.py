"""The segments that a roll-up stands for, from its blocks; and segments that none stands for, rolled up in memory.

What comes out is what the footers would have said, as far as somebody wanted to know it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from dataclasses import replace
from typing import TypeVar, cast

from kbackupd.archive.history import SegmentPlace
from kbackupd.archive.rollup_draft import ROWS_PER_DRAFT, RollupDraft
from kbackupd.archive.rollup_footers import assembled
from kbackupd.archive.rollup_rows import OF_SEGMENTS
from kbackupd.archive.rollup_source import OpenedRollup, UsableRollup, read_tables, with_segments
from kbackupd.archive.segments import CatalogSegment, WantedTopic, narrowed, nothing
from kbackupd.format import keys
from kbackupd.format.tables import Columns
from kbackupd.store.memory import MemoryStore
from kbackupd.store.protocol import ObjectStore

Value = TypeVar("Value", bound=Hashable)


async def rolled_segments(store: ObjectStore, rollup: UsableRollup, wanted: WantedTopic | None) -> list[CatalogSegment]:
    """The covered segments that say something of the topics `wanted` (None: all), or of what topics there are.

    As from their footers, but that in a footer the events of the cluster and its topics come before those of
    partitions, and rows of different partitions may stand in another order.

    Raises:
        CorruptObjectError: a block is damaged.
        KbackupError: the roll-up could not be read.
    """
    topics = rollup.opened.footer.head.topics
    chosen = [row for row, (_, name) in enumerate(topics) if wanted is None or wanted(name)]
    tables: dict[str, Columns] = {}
    if chosen:
        tables = await read_tables(store, rollup.opened, OF_SEGMENTS, None if len(chosen) == len(topics) else chosen)
    return await asyncio.to_thread(assembled, rollup, tables)


async def rolled_up_in_memory(
    segments: AsyncIterator[CatalogSegment], rest: list[UsableRollup], wanted: WantedTopic | None
) -> AsyncIterator[CatalogSegment]:
    """The segments without the rows of any topic, given whole and in the archive's order; the rows of the topics
    `wanted` (None: all) go to `rest`."""
    draft: RollupDraft | None = None
    last = SegmentPlace("", 0, 0)
    shared = _Shared()
    async for segment in segments:
        # A sequence that exists twice goes into two of them: one cannot say so.
        if (
            draft is None
            or segment.place.writer != last.writer
            or segment.place == last
            or draft.rows >= ROWS_PER_DRAFT
        ):
            if draft is not None:
                rest.append(await _in_memory(draft))
            draft = RollupDraft(segment.place.writer, segment.footer.identity)
        last = segment.place
        draft.add(narrowed(segment, wanted))
        yield _bare(segment, shared)
    if draft is not None:
        rest.append(await _in_memory(draft))


class _Shared:
    """Of values that are equal, the first that came: footers repeat names, and each is read with names of its own."""

    def __init__(self) -> None:
        self._held: dict[object, object] = {}

    def one(self, value: Value) -> Value:
        return cast("Value", self._held.setdefault(value, value))


def _bare(segment: CatalogSegment, shared: _Shared) -> CatalogSegment:
    """The segment without the rows of any topic: of a hundred thousand of them what is left weighs, too."""
    ref, footer = shared.one(segment.ref), narrowed(segment, nothing).footer
    return replace(
        segment,
        ref=ref,
        footer=replace(
            footer,
            identity=shared.one(footer.identity),
            key=ref.key,
            previous=shared.one(footer.previous),
            topics={shared.one(topic_id): shared.one(name) for topic_id, name in footer.topics.items()},
        ),
        mentions=tuple(map(shared.one, segment.mentions)),
    )


async def _in_memory(draft: RollupDraft) -> UsableRollup:
    sealed = await asyncio.to_thread(draft.seal)
    at = keys.parse_rollup_key(sealed.ref.key)
    assert at is not None
    body = b"".join(sealed.parts)[: sealed.footer.body_bytes]
    opened = OpenedRollup(at=at, ref=sealed.ref, footer=sealed.footer, size_bytes=sealed.size_bytes, tail=body)
    return await with_segments(MemoryStore(), opened)
