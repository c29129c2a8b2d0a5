"""Snapshots of groups and of the cluster in the bucket: a writer's log of them, and the one valid at an instant.

Keeps I2 (each is an object of its own) and I5: a store that cannot say what is there is an error, a damaged snapshot is
named and the one before it stands in for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic

from kbackupd.archive.archive import no_archive
from kbackupd.archive.catalog import DamagedObject
from kbackupd.format import documents, keys
from kbackupd.format.snapshots import SnapshotFormat
from kbackupd.model.archive import ArchiveDocument
from kbackupd.model.errors import CorruptObjectError, ForeignArchiveError, ObjectMissingError, UnsupportedFormatError
from kbackupd.model.segment import Identity, ObjectRef
from kbackupd.model.snapshots import Content, Snapshot
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.scoped import ScopedStore

REPEATED_AFTER_MS = 6 * 3600 * 1000
"""An unchanged state is stored again after this: one object a quarter of a day is the price of a sign of life."""
STEPS_BACK = 8
"""So many older snapshots are tried where the newest are damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSnapshot(Generic[Content]):
    """The state at an instant, and what was in the way of a newer one."""

    snapshot: Snapshot[Content] | None
    """None: nothing was captured by then."""
    damaged: tuple[DamagedObject, ...]
    first_ms: int | None
    """When the eldest snapshot of all was taken; None if there is none."""


class SnapshotLog(Generic[Content]):
    """The snapshots of one kind that one life of a writer stores, each naming the one before, of whichever life."""

    def __init__(
        self,
        store: ObjectStore,
        format: SnapshotFormat[Content],
        *,
        identity: Identity,
        writer: str,
        writer_epoch: int,
        last: tuple[Snapshot[Content], ObjectRef] | None = None,
    ) -> None:
        """Use `open`. `store` is scoped to the archive."""
        self._store = store
        self._format: SnapshotFormat[Content] = format
        self._identity = identity
        self._writer = writer
        self._writer_epoch = writer_epoch
        self._last: Snapshot[Content] | None = last[0] if last is not None else None
        self._previous: ObjectRef | None = last[1] if last is not None else None
        self._number = 0

    @classmethod
    async def open(
        cls,
        store: ObjectStore,
        format: SnapshotFormat[Content],
        *,
        identity: Identity,
        writer: str,
        writer_epoch: int,
    ) -> SnapshotLog[Content]:
        """Go on where the life before ended, so that what it could read is not forgotten by what this one cannot.

        Costs a few dozen listings of one key for the newest epoch that has any, however many it has.

        Raises:
            KbackupError: the store could not say for certain what is there.
        """
        last = None
        for epoch in range(writer_epoch - 1, 0, -1):
            last = await _newest(store, format, writer=writer, writer_epoch=epoch, identity=identity)
            if last is not None:
                break
        return cls(store, format, identity=identity, writer=writer, writer_epoch=writer_epoch, last=last)

    @property
    def last(self) -> Snapshot[Content] | None:
        """The newest that is certainly durable."""
        return self._last

    async def append(self, content: Content, *, asked_ms: int, taken_ms: int) -> str | None:
        """Store `content` if it says something new or the last is old; the key, durable on return, or None.

        Cancelled or failed, it may be stored or not; the next takes another number.

        Raises:
            StoreUnavailableError, StoreDeniedError.
        """
        last = self._last
        if last is not None:
            taken_ms = max(taken_ms, last.taken_ms)
            same = await asyncio.to_thread(lambda: content.without_times() == last.content.without_times())
            if same and taken_ms - last.taken_ms < REPEATED_AFTER_MS:
                return None
        number, self._number = self._number, self._number + 1
        snapshot = Snapshot(
            identity=self._identity,
            key=keys.snapshot_key(self._format.kind, self._writer, self._writer_epoch, number, taken_ms),
            writer=self._writer,
            writer_epoch=self._writer_epoch,
            number=number,
            asked_ms=asked_ms,
            taken_ms=taken_ms,
            previous=self._previous,
            content=content,
        )
        data, digest = await asyncio.to_thread(self._format.encode, snapshot)
        await self._store.put_if_absent(snapshot.key, [data])
        self._last, self._previous = snapshot, ObjectRef(snapshot.key, digest)
        return snapshot.key


async def _newest(
    store: ObjectStore, format: SnapshotFormat[Content], *, writer: str, writer_epoch: int, identity: Identity
) -> tuple[Snapshot[Content], ObjectRef] | None:
    """The newest readable snapshot of one epoch; damaged ones are `validate`'s to report."""
    number = await _newest_number(store, format.kind, writer, writer_epoch)
    if number is None:
        return None
    from_number = max(0, number - STEPS_BACK)
    after = keys.snapshot_number_prefix(format.kind, writer, writer_epoch, from_number)
    found = [
        info.key
        async for info in store.list_from(keys.snapshots_prefix(format.kind, writer, writer_epoch), start_after=after)
        if keys.parse_snapshot_key(info.key)
    ]
    for key in sorted(found, reverse=True):
        try:
            snapshot, digest = await asyncio.to_thread(format.decode, key, await store.get(key), identity)
        except (CorruptObjectError, UnsupportedFormatError, ObjectMissingError):
            continue
        return snapshot, ObjectRef(key, digest)
    return None


async def _newest_number(store: ObjectStore, kind: keys.SnapshotKind, writer: str, writer_epoch: int) -> int | None:
    """Largest number of an epoch, by galloping: "is there any from here on" is asked some 2·log2(n) times."""
    prefix = keys.snapshots_prefix(kind, writer, writer_epoch)

    async def any_from(number: int) -> int | None:
        after = keys.snapshot_number_prefix(kind, writer, writer_epoch, number)
        while True:
            beyond = [info.key async for info in store.list_from(prefix, start_after=after, limit=1)]
            if not beyond:
                return None
            at = keys.parse_snapshot_key(beyond[0])
            if at is not None:
                return at.number
            after = beyond[0]  # a stranger's object: look past it

    low = await any_from(0)
    if low is None:
        return None
    step = 1
    while (beyond := await any_from(low + step)) is not None:
        low, step = beyond, step * 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        beyond = await any_from(middle)
        low, high = (low, middle) if beyond is None else (beyond, high)
    return low


async def archive_document(store: ObjectStore, backup_id: str) -> ArchiveDocument:
    """The identity of the archive `backup_id` under `store` (the `--path`), without anything else of it.

    Raises: as `archive_snapshot_at`.
    """
    scoped = ScopedStore(store, backup_id)
    try:
        document = documents.decode_backup(await scoped.get(keys.BACKUP_KEY))
    except ObjectMissingError as error:
        raise no_archive(scoped.location) from error
    if document.backup_id != backup_id:
        raise ForeignArchiveError(
            f"{scoped.location} holds the archive {document.backup_id!r}, not {backup_id!r}",
            hint="an archive must be copied under its own backup id",
        )
    return document


async def archive_snapshot_at(
    store: ObjectStore, backup_id: str, format: SnapshotFormat[Content], at_ms: int | None
) -> FoundSnapshot[Content]:
    """As `snapshot_at`, in the archive `backup_id` under `store` (the `--path`).

    Raises:
        ObjectMissingError: there is no such archive.
        CorruptObjectError: `backup.json` is damaged.
        ForeignArchiveError: it is another archive than its place says.
        KbackupError: the store could not say for certain what is there.
    """
    scoped = ScopedStore(store, backup_id)
    document = await archive_document(store, backup_id)
    return await snapshot_at(scoped, format, at_ms, document.identity)


async def snapshot_at(
    store: ObjectStore, format: SnapshotFormat[Content], at_ms: int | None, identity: Identity | None
) -> FoundSnapshot[Content]:
    """The state at `at_ms` (None: the newest) as docs/format.md defines it; reads keys, and one object as a rule.

    Args:
        store: scoped to the archive.
        identity: the archive's, which the object must have.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """
    listed = [info.key async for info in store.list_from(f"{format.kind}/")]
    return await snapshot_among(store, format, listed, at_ms, identity)


async def snapshot_among(
    store: ObjectStore,
    format: SnapshotFormat[Content],
    listed: Iterable[str],
    at_ms: int | None,
    identity: Identity | None,
) -> FoundSnapshot[Content]:
    """As `snapshot_at`, for a caller who has listed the archive's keys already."""
    first_ms: int | None = None
    candidates: dict[str, list[keys.SnapshotKey]] = {}
    for key in listed:
        at = keys.parse_snapshot_key(key)
        if at is None or at.kind != format.kind:
            continue
        first_ms = at.taken_ms if first_ms is None else min(first_ms, at.taken_ms)
        if at_ms is None or at.taken_ms <= at_ms:
            held = candidates.setdefault(at.writer, [])
            held.append(at)
            if len(held) > 64 * STEPS_BACK:
                held[:] = sorted(held)[-STEPS_BACK:]
    damaged: list[DamagedObject] = []
    found: list[Snapshot[Content]] = []
    for held in candidates.values():
        for at in sorted(held, reverse=True)[:STEPS_BACK]:
            key = keys.snapshot_key(*at)
            try:
                snapshot, _ = await asyncio.to_thread(format.decode, key, await store.get(key), identity)
            except (CorruptObjectError, UnsupportedFormatError) as error:
                damaged.append(DamagedObject.of(key, error))
                continue
            except ObjectMissingError:  # pruned between listing and reading
                continue
            found.append(snapshot)
            break
    newest = max(found, key=lambda one: (one.taken_ms, one.writer), default=None)
    return FoundSnapshot(snapshot=newest, damaged=tuple(damaged), first_ms=first_ms)
