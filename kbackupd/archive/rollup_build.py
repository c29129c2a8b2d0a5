"""Building roll-ups: which segments and which smaller roll-ups make the next one. Idempotent; harmless beside others.

Everything is create-only (I2) and repeats what segments say (I3): two builders at once write the same object, or two
that overlap, of which readers use one. Memory is bounded by `RollupLimits`, whatever the archive's size: the listing is
read as a stream, rows are held as arrays or as compressed blocks.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from kbackupd.archive.archive import archive_identity
from kbackupd.archive.catalog import DamagedObject, footers_in_order
from kbackupd.archive.rollup_draft import ROWS_PER_DRAFT, RollupDraft
from kbackupd.archive.rollup_due import KeptRollup, due
from kbackupd.archive.rollup_merge import merge
from kbackupd.archive.rollup_source import OpenedRollup, Place, open_stored
from kbackupd.format import keys
from kbackupd.format.rollup import SealedRollup
from kbackupd.model.errors import (
    CorruptObjectError,
    ObjectExistsError,
    ObjectMissingError,
    UnsupportedFormatError,
)
from kbackupd.model.segment import Identity
from kbackupd.store.protocol import ObjectInfo, ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupLimits:
    """What one roll-up may hold. With these the process needed 110 MiB, whatever the archive held, without the library
    for S3; 210 MiB is what users are told to leave for it."""

    segments: int = 256
    """So many uncovered ones make a roll-up of level 1; fewer, if they are likely to have `rows` rows."""
    rows: int = ROWS_PER_DRAFT
    """A roll-up of level 1 that has so many takes no further segment: some 45 MB while it is made."""
    fan_in: int = 16
    """So many of one level make one of the next."""
    merged_bytes: int = 32 << 20
    """A merge takes no further source beyond it."""
    unsettled: int = 16
    """The newest segments of a writer's last life are left alone: uploads before them may still be under way."""
    between: int = 16
    """So many uncovered ones between covered ones are worth a roll-up of their own: one was lost, or is damaged."""


@dataclass(slots=True, kw_only=True)
class RollupReport:
    """What building found and made, over all writers."""

    segments: int = 0
    """Covered by the roll-ups made from footers."""
    built: list[str] = field(default_factory=list)
    """Keys of roll-ups made from footers."""
    merged: list[str] = field(default_factory=list)
    """Keys of roll-ups made from others."""
    stored_bytes: int = 0
    uncovered: int = 0
    """Segments that no roll-up covers when it ends."""
    rollups: int = 0
    """That readers need when it ends: those that no other one has replaced."""
    due_in: dict[str, int] = field(default_factory=dict)
    """Writer → after so many further segments of it there may be something to do; absent where that is not known."""
    damaged: list[DamagedObject] = field(default_factory=list)
    """Roll-ups and segments met that cannot be trusted; kbackupd validate says what to do."""
    raced: bool = False
    """Another builder was at work; what it left for us comes with the next round."""


OnBuilt = Callable[[str, int], None]


async def build_rollups(
    store: ObjectStore,
    *,
    limits: RollupLimits = RollupLimits(),
    on_built: OnBuilt = lambda key, size_bytes: None,
) -> RollupReport:
    """Roll up all that is due, of every writer; `store` is scoped to the archive.

    On return every roll-up reported is durable. Cancelled or failed in between it leaves whole roll-ups, and the next
    call goes on from them.

    Args:
        on_built: hears of each as soon as it is durable.

    Raises:
        ObjectMissingError, ArchiveInvalidError, CorruptObjectError: there is no archive, or its identity is unknown.
        KbackupError: the store could not be read for certain, or not be written to.
    """
    identity = await archive_identity(store)
    report = RollupReport()
    for writer, epochs in sorted((await _lives(store)).items()):
        await _Writer(store, writer, sorted(epochs), identity, limits, report, on_built).run()
    return report


async def _lives(store: ObjectStore) -> dict[str, set[int]]:
    """Writer → the epochs it claimed."""
    found: dict[str, set[int]] = defaultdict(set)
    async for info in store.list_from(keys.WRITERS_PREFIX):
        if claim := keys.parse_claim_key(info.key):
            found[claim.writer].add(claim.writer_epoch)
    return found


async def listed_rollups(store: ObjectStore, writer: str) -> list[keys.RollupKey]:
    found = [keys.parse_rollup_key(info.key) async for info in store.list_from(keys.writer_rollups_prefix(writer))]
    return [at for at in found if at is not None]


class _Writer:
    """One writer's roll-ups: those that count, in the order of what they cover, and what is made of the rest."""

    def __init__(
        self,
        store: ObjectStore,
        writer: str,
        epochs: Sequence[int],
        identity: Identity,
        limits: RollupLimits,
        report: RollupReport,
        on_built: OnBuilt,
    ) -> None:
        self._store = store
        self._writer = writer
        self._epochs = epochs
        self._identity = identity
        self._limits = limits
        self._report = report
        self._on_built = on_built
        self._listed: list[keys.RollupKey] = []
        self._kept: list[KeptRollup] = []
        self._ranges: list[tuple[Place, Place]] = []
        self._distrusted: set[str] = set()
        self._uncovered_count = 0
        self._held_back = 0
        self._due_in = 0

    async def run(self) -> None:
        self._listed = await listed_rollups(self._store, self._writer)
        try:
            while not await self._round():
                pass
            self._report.due_in[self._writer] = self._due_in
        except ObjectExistsError:
            self._report.raced = True
        self._report.uncovered += self._uncovered_count
        self._report.rollups += len(self._kept)

    async def _round(self) -> bool:
        """Cover and merge; False if a source proved damaged: then again without it, from what it was made of."""
        await self._choose()
        await self._cover_segments()
        limits = self._limits
        while sources := next(due(self._kept, fan_in=limits.fan_in, merged_bytes=limits.merged_bytes), None):
            if not await self._merge(sources):
                return False
        return True

    async def _merge(self, sources: Sequence[KeptRollup]) -> bool:
        """One of the next level; False if a source proved damaged, or went away. Nothing of it is held on return."""
        merged = await self._merged(sources)
        if merged is None:
            return False
        self._kept = [one for one in self._kept if one not in sources]
        await self._store_rollup(merged)
        self._report.merged.append(merged.ref.key)
        return True

    async def _merged(self, sources: Sequence[KeptRollup]) -> SealedRollup | None:
        opened: list[OpenedRollup] = []
        for source in sources:
            found = await self._opened(source.at)
            if found is None:
                return None
            opened.append(found)
        generation = self._free_generation(sources[0].at.level + 1, sources[0].at.first, sources[-1].at.last)
        try:
            return await merge(self._store, opened, generation=generation)
        except CorruptObjectError as error:
            self._distrust(error.key, error)
            return None

    async def _choose(self) -> None:
        """Open the roll-ups that count: the highest level first, and none that covers what another does.

        One that lies between another's ends may cover what that one was made without, because it came late. Left out
        here, it would be made again by every building.
        """
        self._kept, self._ranges = [], []
        for at in sorted(self._listed, key=lambda at: (-at.level, at.first, at.last, -at.generation)):
            if self._covered(at.first) or self._covered(at.last):
                continue  # it covers its own ends, and need not be opened
            opened = await self._opened(at)
            if opened is not None and not self._meets(opened):
                self._kept.append(KeptRollup.of(at, opened.footer, opened.size_bytes))
                for epoch, first, following in opened.coverage:
                    insort(self._ranges, ((epoch, first), (epoch, following)))
        self._kept.sort(key=lambda one: one.at.first)

    async def _opened(self, at: keys.RollupKey) -> OpenedRollup | None:
        key = keys.rollup_key(at)
        if key in self._distrusted:
            return None
        try:
            return await open_stored(self._store, key, self._identity)
        except ObjectMissingError:
            return None
        except (CorruptObjectError, UnsupportedFormatError) as error:
            self._distrust(key, error)
            return None

    def _distrust(self, key: str, error: CorruptObjectError | UnsupportedFormatError) -> None:
        self._distrusted.add(key)
        self._report.damaged.append(DamagedObject.of(key, error))

    def _note_ranges(self) -> None:
        self._ranges = sorted(
            ((epoch, first), (epoch, following)) for one in self._kept for epoch, first, following in one.coverage
        )

    def _covered(self, place: Place) -> bool:
        at = bisect_right(self._ranges, (place, (1 << 62, 0))) - 1
        return at >= 0 and self._ranges[at][0] <= place < self._ranges[at][1]

    def _meets(self, opened: OpenedRollup) -> bool:
        """Whether any segment that it covers is covered already."""
        for epoch, first, following in opened.coverage:
            at = bisect_right(self._ranges, ((epoch, following - 1), (1 << 62, 0))) - 1
            if at >= 0 and self._ranges[at][1] > (epoch, first):
                return True
        return False

    async def _cover_segments(self) -> None:
        """Level 1, from the footers of what is not covered; one stretch between covered ones after the other."""
        ranges = self._ranges
        self._uncovered_count = 0
        waiting: list[ObjectInfo] = []
        at_border = 0
        async for place, info in self._uncovered():
            border = bisect_right(ranges, (place, (1 << 62, 0)))
            if border != at_border:
                waiting = await self._roll_between(waiting)
                self._uncovered_count += len(waiting)
                waiting, at_border = [], border
            waiting.append(info)
            if len(waiting) >= self._enough():
                waiting = await self._roll(waiting)
        if at_border < len(ranges):
            waiting = await self._roll_between(waiting)
        self._uncovered_count += len(waiting)
        self._note_ranges()
        self._due_in = max(1, self._enough() + self._limits.unsettled - len(waiting) - self._held_back)

    def _enough(self) -> int:
        """So many segments are worth a roll-up: fewer, where footers are as heavy as those of the newest one were."""
        if not self._kept:
            return self._limits.segments
        newest = self._kept[-1]
        return max(1, min(self._limits.segments, self._limits.rows * newest.segments // max(1, newest.rows)))

    async def _roll_between(self, waiting: list[ObjectInfo]) -> list[ObjectInfo]:
        while len(waiting) >= self._limits.between:
            waiting = await self._roll(waiting)
        return waiting

    async def _uncovered(self) -> AsyncIterator[tuple[Place, ObjectInfo]]:
        """In the archive's order, without the newest of the last life, which count as uncovered all the same.

        Of a sequence that exists twice nothing is rolled up: it is for validation to tell which one is true.
        """
        for epoch in self._epochs:
            held: list[tuple[Place, ObjectInfo]] = []
            kept_back = self._limits.unsettled if epoch == self._epochs[-1] else 1
            async for info in self._store.list_from(
                keys.segments_prefix(self._writer, epoch), start_after=self._start_after(epoch)
            ):
                at = keys.parse_segment_key(info.key)
                if at is None:
                    continue
                place = (epoch, at.seq)
                doubled = bool(held) and held[-1][0] == place
                if doubled:
                    held.pop()
                elif not self._covered(place):
                    held.append((place, info))
                if len(held) > kept_back:
                    yield held.pop(0)
            if epoch != self._epochs[-1]:
                for one in held:
                    yield one
            else:
                self._held_back = len(held)
                self._uncovered_count += len(held)

    def _start_after(self, epoch: int) -> str:
        """Behind what is covered from the epoch's beginning on: of a long life only the end is listed."""
        for (first_epoch, first), (_, following) in self._ranges:
            if first_epoch == epoch:
                return keys.segment_seq_prefix(self._writer, epoch, following) if first == 0 else ""
        return ""

    async def _roll(self, waiting: list[ObjectInfo]) -> list[ObjectInfo]:
        """A roll-up of the first of `waiting`, as many as its limits take; the others. Unreadable ones are left out."""
        draft = RollupDraft(self._writer, self._identity)
        some = waiting[: self._limits.segments]
        taken = len(some)
        async with aclosing(footers_in_order(self._store, some, self._identity, self._report.damaged)) as footers:
            async for segment in footers:
                draft.add(segment)
                if draft.rows >= self._limits.rows:
                    taken = 1 + next(n for n, info in enumerate(some) if info.key == segment.ref.key)
                    break
        left = waiting[taken:]
        if draft.segments:
            generation = self._free_generation(1, *draft.span)
            sealed = await asyncio.to_thread(lambda: draft.seal(generation=generation))
            await self._store_rollup(sealed)
            self._report.built.append(sealed.ref.key)
            self._report.segments += sealed.footer.segments
        return left

    def _free_generation(self, level: int, first: Place, last: Place) -> int:
        """0, or above those of the same name: they are there and could not be used, or we would not be here."""
        taken = [at.generation for at in self._listed if (at.level, at.first, at.last) == (level, first, last)]
        return max(taken, default=-1) + 1

    async def _store_rollup(self, sealed: SealedRollup) -> None:
        await self._store.put_if_absent(sealed.ref.key, sealed.parts)
        self._report.stored_bytes += sealed.size_bytes
        self._on_built(sealed.ref.key, sealed.size_bytes)
        at = keys.parse_rollup_key(sealed.ref.key)
        assert at is not None
        self._listed.append(at)
        self._kept.append(KeptRollup.of(at, sealed.footer, sealed.size_bytes))
        self._kept.sort(key=lambda one: one.at.first)
