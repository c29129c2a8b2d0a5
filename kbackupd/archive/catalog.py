"""Everything a listing and the footers say about an archive, read once, with what could not be trusted named.

Footers are read through roll-ups where these stand for them. Keeps I5: what the store cannot say for certain is an
error; only bytes that certainly are not what was written are put down as damaged. Nothing here opens a segment's body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from kbackupd.archive.held_rows import HeldRows
from kbackupd.archive.history import SegmentPlace
from kbackupd.archive.pins import Pins, is_pinned
from kbackupd.archive.rollup_choice import Chosen, Distrusted, choose_rollups
from kbackupd.archive.rollup_read import rolled_segments, rolled_up_in_memory
from kbackupd.archive.rollup_source import UsableRollup
from kbackupd.archive.segments import (
    CatalogSegment,
    SealedPlace,
    WantedTopic,
    catalog_segment,
    nothing,
    sealed_place,
)
from kbackupd.format import documents, keys
from kbackupd.format.container import TAIL_READ_BYTES, NeedMore
from kbackupd.format.segment import open_footer
from kbackupd.model.archive import ArchiveDocument, WriterClaim
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError, UnsupportedFormatError
from kbackupd.model.segment import Identity
from kbackupd.store.protocol import ObjectInfo, ObjectStore

CONCURRENT_READS = 32
_ROWS_AT_ONCE = 25_000
"""Of footers read ahead, about, as values: some 20 MB."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedObject:
    """An object that is there and is not what was written under its key, or that only a newer version can read."""

    key: str
    reason: str
    hint: str = ""
    unsupported: bool = False

    @classmethod
    def of(cls, key: str, error: CorruptObjectError | UnsupportedFormatError) -> DamagedObject:
        return cls(key=key, reason=error.reason, hint=error.hint, unsupported=isinstance(error, UnsupportedFormatError))


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """An archive as its listing, documents, roll-ups and footers show it."""

    objects: tuple[ObjectInfo, ...]
    document: ArchiveDocument | None
    """None: `backup.json` is missing or among `damaged`."""
    claims: Mapping[keys.ClaimKey, WriterClaim]
    segments: tuple[CatalogSegment, ...]
    """In the order (writer, epoch, sequence): those read by their footers, and of those that roll-ups stand for the
    ones that say something of the topics wanted, or of what topics and lives there are. Where rows are `held`, without
    these."""
    damaged: tuple[DamagedObject, ...]
    """Segments and documents. A segment that a roll-up stands for is not looked at."""
    rollups: tuple[UsableRollup, ...] = ()
    """Those that stand for segments."""
    direct: frozenset[SegmentPlace] = frozenset()
    """Segments that were read by their footers."""
    held: tuple[HeldRows, ...] = ()
    """Only where `load_catalog` was told to hold them so: the rows of the topics wanted, of all segments."""
    rest: tuple[UsableRollup, ...] = ()
    """Only where `load_catalog` was told to sum up: all of `direct`, rolled up in memory."""
    damaged_rollups: tuple[DamagedObject, ...] = ()
    """Met and left out; the segments they cover were read instead."""

    def sealed(self) -> Iterator[SealedPlace]:
        """Every readable segment, in no order."""
        yield from (sealed_place(segment) for segment in self.segments if segment.place in self.direct)
        for rollup in self.rollups:
            yield from rollup.sealed()

    @property
    def readable(self) -> int:
        """How many segments can be read."""
        return len(self.direct) + sum(rollup.opened.footer.segments for rollup in self.rollups)

    @property
    def readable_bytes(self) -> int:
        direct = sum(segment.size_bytes for segment in self.segments if segment.place in self.direct)
        return direct + sum(rollup.stored_bytes for rollup in self.rollups)


async def load_catalog(
    store: ObjectStore,
    *,
    pinned: Pins | None = None,
    wanted: WantedTopic | None = None,
    through_rollups: bool = True,
    held: bool = False,
    summing_up: bool = False,
    distrusted: Distrusted | None = None,
) -> Catalog:
    """List the archive and read its documents, its roll-ups and the footers that no roll-up stands for, 32 at a time.

    Args:
        store: scoped to the archive.
        pinned: the segments to look at; None: all.
        wanted: of which topics rows are kept; None: of all.
        through_rollups: False reads every footer.
        held: keep rows compressed, a thirtieth of the size: those of roll-ups as they are stored, and those of segments
            that no roll-up stands for rolled up in memory.
        summing_up: `held`, and what is rolled up in memory is kept with its sums and of all topics.
        distrusted: roll-ups, by key, that proved damaged and are to be left out.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """
    objects = [info async for info in store.list_from("")]
    damaged: list[DamagedObject] = []
    document = await _backup_document(store, objects, damaged)
    identity = document.identity if document else None

    async def claim(key: str) -> WriterClaim | None:
        data = await _present(store.get(key))
        return None if data is None else _judged(damaged, key, lambda: documents.decode_claim(key, data, identity))

    claim_keys = [info.key for info in objects if keys.parse_claim_key(info.key)]
    claims = await bounded(claim_keys, claim)
    listed = [
        (at, info)
        for info in objects
        if (at := keys.parse_segment_key(info.key)) is not None
        and is_pinned(pinned, at.writer, at.writer_epoch, at.seq)
    ]
    rollups = [rollup for info in objects if (rollup := keys.parse_rollup_key(info.key)) is not None]
    held = (held or summing_up) and identity is not None
    chosen, rolled, rows = await _rolled(
        store, listed, rollups if through_rollups else (), identity, wanted, distrusted or {}, held=held
    )

    rest: list[UsableRollup] = []

    async def footer(info: ObjectInfo) -> CatalogSegment | None:
        return await read_catalog_segment(store, info, identity, damaged, wanted)

    if held and identity is not None:
        in_order = footers_in_order(store, chosen.uncovered, identity, damaged)
        direct = [segment async for segment in rolled_up_in_memory(in_order, rest, None if summing_up else wanted)]
        # First those of sequences that exist twice, which no roll-up stands for.
        rows = [*[await HeldRows.read(store, one, wanted) for one in rest], *rows]
    else:
        direct = [segment for segment in await bounded(chosen.uncovered, footer) if segment is not None]
    return Catalog(
        objects=tuple(objects),
        document=document,
        claims={
            parsed: found
            for key, found in zip(claim_keys, claims, strict=True)
            if found is not None and (parsed := keys.parse_claim_key(key)) is not None
        },
        segments=tuple(sorted([*direct, *rolled], key=lambda segment: segment.place)),
        damaged=tuple(sorted(damaged, key=lambda one: one.key)),
        rollups=tuple(chosen.usable),
        direct=frozenset(segment.place for segment in direct),
        held=tuple(rows),
        rest=tuple(rest) if summing_up else (),
        damaged_rollups=tuple(DamagedObject.of(key, error) for key, error in sorted(chosen.damaged.items())),
    )


async def _rolled(
    store: ObjectStore,
    listed: Sequence[tuple[keys.SegmentKey, ObjectInfo]],
    rollups: Sequence[keys.RollupKey],
    identity: Identity | None,
    wanted: WantedTopic | None,
    distrusted: Distrusted,
    *,
    held: bool,
) -> tuple[Chosen, list[CatalogSegment], list[HeldRows]]:
    """The roll-ups that count and what they say. One whose rows prove damaged is left out, and it is chosen again."""
    damaged = dict(distrusted)
    while True:
        chosen = await choose_rollups(store, listed, rollups, identity, damaged)
        found: list[CatalogSegment] = []
        rows: list[HeldRows] = []
        try:
            for rollup in chosen.usable:
                found += await rolled_segments(store, rollup, nothing if held else wanted)
                if held:
                    rows.append(await HeldRows.read(store, rollup, wanted))
        except CorruptObjectError as error:
            damaged = {**chosen.damaged, error.key: error}
        except ObjectMissingError:
            continue  # one went away meanwhile: choosing again meets it
        else:
            return chosen, found, rows


async def bounded(items: Iterable[Item], work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
    """`work` on every item, at most CONCURRENT_READS at a time; results in the items' order.

    The first failure cancels the rest and is raised by itself.
    """
    waiting = list(enumerate(items))
    waiting.reverse()
    results: dict[int, Result] = {}

    async def take() -> None:
        while waiting:
            number, item = waiting.pop()
            results[number] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENT_READS, len(waiting))):
                group.create_task(take())
    except* Exception as failures:
        raise failures.exceptions[0] from failures
    return [results[number] for number in range(len(results))]


async def _backup_document(
    store: ObjectStore, objects: Iterable[ObjectInfo], damaged: list[DamagedObject]
) -> ArchiveDocument | None:
    if not any(info.key == keys.BACKUP_KEY for info in objects):
        return None
    data = await _present(store.get(keys.BACKUP_KEY))
    return None if data is None else _judged(damaged, keys.BACKUP_KEY, lambda: documents.decode_backup(data))


async def read_catalog_segment(
    store: ObjectStore,
    info: ObjectInfo,
    identity: Identity | None,
    damaged: list[DamagedObject],
    wanted: WantedTopic | None = None,
) -> CatalogSegment | None:
    """One segment's footer by one or two suffix reads; what is wrong with it goes to `damaged`.

    None also where the object went away between listing and reading: pruning may do that.
    """
    length = TAIL_READ_BYTES
    while True:
        found = await _present(store.get_suffix(info.key, length))
        if found is None:
            return None
        tail, size = found
        opened = _judged(damaged, info.key, partial(open_footer, info.key, tail, size, identity))
        if opened is None:
            return None
        if not isinstance(opened, NeedMore):
            footer, ref = opened
            return catalog_segment(footer, ref, size, wanted)
        length = opened.bytes


async def footers_in_order(
    store: ObjectStore, infos: Sequence[ObjectInfo], identity: Identity, damaged: list[DamagedObject]
) -> AsyncGenerator[CatalogSegment, None]:
    """Whole footers in the order of `infos`, read ahead as far as their values stay few; unreadable ones are left out.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """
    at, rows, at_once = 0, 1, 2
    while at < len(infos):
        some = infos[at : at + at_once]
        at += len(some)
        for segment in await bounded(some, lambda info: read_catalog_segment(store, info, identity, damaged)):
            if segment is not None:
                rows += len(segment.footer.runs) + len(segment.footer.samples)
                yield segment
        # A footer may hold three rows or ten thousand.
        at_once = max(1, min(CONCURRENT_READS, _ROWS_AT_ONCE * at // rows))


async def _present(reading: Awaitable[Result]) -> Result | None:
    try:
        return await reading
    except ObjectMissingError:
        return None


def _judged(damaged: list[DamagedObject], key: str, decode: Callable[[], Result]) -> Result | None:
    try:
        return decode()
    except (CorruptObjectError, UnsupportedFormatError) as error:
        damaged.append(DamagedObject.of(key, error))
    return None
