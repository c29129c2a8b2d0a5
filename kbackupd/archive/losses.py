"""Segments that were durable and are not there any more, for everybody who reads: what they held is missing, and
nothing else of the archive may tell (the newest segments, or all that speak of a topic).

A life's unfinished uploads are no losses: "Which sequences must exist" of docs/format.md draws the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kbackupd.archive.catalog import Catalog, load_catalog
from kbackupd.archive.pins import Pins, was_awaited
from kbackupd.archive.rollup_choice import Distrusted
from kbackupd.archive.segments import WantedTopic
from kbackupd.archive.sequences import judge_sequences
from kbackupd.format import keys
from kbackupd.format.checkpoint import decode_checkpoint
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError, UnsupportedFormatError
from kbackupd.model.segment import Checkpoint, Identity
from kbackupd.store.protocol import ObjectStore

LOOKS_MAX = 3
_ASKED_AGAIN_MAX = 100
"""Of missing sequences: one that has appeared is reason enough to look at everything again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostSegment:
    """`key` ends in `*`: when it was sealed is not known."""

    key: str
    reason: str


async def settled_catalog(
    store: ObjectStore,
    *,
    pinned: Pins | None = None,
    wanted: WantedTopic | None = None,
    through_rollups: bool = True,
    summing_up: bool = False,
    distrusted: Distrusted | None = None,
) -> tuple[Catalog, tuple[LostSegment, ...]]:
    """The catalog, its rows held compressed, and what is missing from it for good.

    A listing takes time: a page may have passed the place of a segment that landed before one which a later page shows.
    What is then missing is there when asked again, and everything is looked at again. Arguments as of `load_catalog`.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """

    async def load() -> Catalog:
        return await load_catalog(
            store,
            pinned=pinned,
            wanted=wanted,
            through_rollups=through_rollups,
            held=True,
            summing_up=summing_up,
            distrusted=distrusted,
        )

    for _ in range(LOOKS_MAX - 1):
        catalog = await load()
        lost = await _lost(store, catalog, pinned)
        if not await any_appeared(store, [one.key.removesuffix("*") for one in lost]):
            return catalog, lost
    catalog = await load()
    return catalog, await _lost(store, catalog, pinned)


async def any_appeared(store: ObjectStore, prefixes: Sequence[str]) -> bool:
    """Whether a listing missed one of the objects with these beginnings; the first hundred are asked for."""
    found = [info for prefix in prefixes[:_ASKED_AGAIN_MAX] async for info in store.list_from(prefix, limit=1)]
    return bool(found)


async def _lost(store: ObjectStore, catalog: Catalog, pinned: Pins | None) -> tuple[LostSegment, ...]:
    checkpoints = await _newest_checkpoints(store, catalog)
    judged = judge_sequences((info.key for info in catalog.objects), catalog.sealed(), checkpoints)
    return tuple(
        LostSegment(
            key=f"{keys.segment_seq_prefix(one.writer, one.writer_epoch, seq)}*",
            reason=f"is missing, and it was durable: {why}",
        )
        for one in judged
        for seq, why in one.lost
        if was_awaited(pinned, one.writer, one.writer_epoch, seq)
    )


async def _newest_checkpoints(store: ObjectStore, catalog: Catalog) -> list[Checkpoint]:
    """Each writer's newest readable one: its coverage repeats that of all before it."""
    identity = catalog.document.identity if catalog.document else None
    by_writer: dict[str, list[tuple[int, int, str]]] = {}
    for info in catalog.objects:
        at = keys.parse_checkpoint_key(info.key)
        if at is not None:
            by_writer.setdefault(at.writer, []).append((at.writer_epoch, at.number, info.key))
    found = []
    for places in by_writer.values():
        for _, _, key in sorted(places, reverse=True):
            checkpoint = await _readable(store, key, identity)
            if checkpoint is not None:
                found.append(checkpoint)
                break
    return found


async def _readable(store: ObjectStore, key: str, identity: Identity | None) -> Checkpoint | None:
    try:
        return decode_checkpoint(key, await store.get(key), identity)
    except (ObjectMissingError, CorruptObjectError, UnsupportedFormatError):
        return None  # costs knowledge of what must exist, never of what does; validate tells
