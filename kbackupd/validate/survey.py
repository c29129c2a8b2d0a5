"""What validation reads before it judges: everything but the segments' bodies."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from kbackupd.archive.catalog import Catalog, DamagedObject, bounded, load_catalog
from kbackupd.archive.rollup_source import UsableRollup, open_stored, with_segments
from kbackupd.archive.sequences import EpochJudgement, RolledUp, judge_sequences
from kbackupd.format import keys
from kbackupd.format.checkpoint import decode_checkpoint
from kbackupd.format.cluster_snapshot import decode_cluster
from kbackupd.format.groups_snapshot import decode_groups
from kbackupd.format.restores import decode_stage
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError, UnsupportedFormatError
from kbackupd.model.segment import Checkpoint, Identity, ObjectRef
from kbackupd.store.protocol import ObjectStore

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyedSnapshot:
    """A readable snapshot, without what it says of the cluster."""

    ref: ObjectRef
    previous: ObjectRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    catalog: Catalog
    checkpoints: tuple[Checkpoint, ...]
    """Readable ones by (writer, epoch, number); only each writer's newest still has its topics and partitions."""
    newest: Mapping[str, Checkpoint]
    """Writer → its newest readable checkpoint."""
    snapshots: tuple[SurveyedSnapshot, ...]
    """Readable ones, by key."""
    rollups: tuple[UsableRollup, ...]
    """Readable ones, by key, whether or not a reader would use them; their rows are not read."""
    damaged: tuple[DamagedObject, ...]
    """Of all kinds; those of the catalog included."""

    def judgements(self) -> tuple[EpochJudgement, ...]:
        """Which segments are there, and which must be."""
        rolled = (
            RolledUp(rollup.opened.ref.key, rollup.writer, epoch, (first, following))
            for rollup in self.rollups
            for epoch, first, following in rollup.opened.coverage
        )
        listed = (info.key for info in self.catalog.objects)
        return judge_sequences(listed, self.catalog.sealed(), self.checkpoints, rolled)


async def survey(store: ObjectStore) -> Survey:
    """Read the listing, documents, texts, every footer, checkpoint and snapshot, and what roll-ups cover.

    `store` is scoped to the archive.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """
    catalog = await load_catalog(store, through_rollups=False)
    damaged = list(catalog.damaged)
    newest: dict[str, Checkpoint] = {}

    def keep(checkpoint: Checkpoint) -> Checkpoint:
        """The tables of older ones are let go at once: there may be a million of ten thousand rows each."""
        held = newest.get(checkpoint.writer)
        at = (checkpoint.writer_epoch, checkpoint.number)
        if held is None or at > (held.writer_epoch, held.number):
            newest[checkpoint.writer] = checkpoint
        return replace(checkpoint, topics=(), partitions=())

    identity = catalog.document.identity if catalog.document else None

    async def read(kind: Callable[[str], object], reading: Callable[[str], Awaitable[Found]]) -> list[Found]:
        """All of a kind that can be trusted; the others go to `damaged`."""

        async def one(key: str) -> Found | None:
            try:
                return await reading(key)
            except ObjectMissingError:  # deleted since it was listed: no more than a deleted one
                return None
            except (CorruptObjectError, UnsupportedFormatError) as error:
                damaged.append(DamagedObject.of(key, error))
                return None

        found = await bounded([info.key for info in catalog.objects if kind(info.key)], one)
        return [value for value in found if value is not None]

    async def checkpoint(key: str) -> Checkpoint:
        return keep(decode_checkpoint(key, await store.get(key), identity))

    async def snapshot(key: str) -> SurveyedSnapshot:
        return _snapshot(key, await store.get(key), identity)

    async def rollup(key: str) -> UsableRollup:
        return await with_segments(store, await open_stored(store, key, identity))

    async def restore(key: str) -> object:
        return decode_stage(key, await store.get(key), identity)

    checkpoints = await read(keys.parse_checkpoint_key, checkpoint)
    snapshots = await read(keys.parse_snapshot_key, snapshot)
    rollups = await read(keys.parse_rollup_key, rollup)
    await read(keys.parse_restore_key, restore)
    damaged += await _damaged_texts(store, catalog)
    return Survey(
        catalog=catalog,
        checkpoints=tuple(sorted(checkpoints, key=lambda one: (one.writer, one.writer_epoch, one.number))),
        newest=newest,
        snapshots=tuple(sorted(snapshots, key=lambda one: one.ref.key)),
        rollups=tuple(sorted(rollups, key=lambda one: one.opened.ref.key)),
        damaged=tuple(sorted(damaged, key=lambda one: one.key)),
    )


def _snapshot(key: str, data: bytes, identity: Identity | None) -> SurveyedSnapshot:
    at = keys.parse_snapshot_key(key)
    if at is not None and at.kind == "groups":
        groups, digest = decode_groups(key, data, identity)
        return SurveyedSnapshot(ref=ObjectRef(key, digest), previous=groups.previous)
    cluster, digest = decode_cluster(key, data, identity)
    return SurveyedSnapshot(ref=ObjectRef(key, digest), previous=cluster.previous)


async def _damaged_texts(store: ObjectStore, catalog: Catalog) -> list[DamagedObject]:
    damaged: list[DamagedObject] = []
    for key, digest in (catalog.document.texts if catalog.document else {}).items():
        try:
            data = await store.get(key)
        except ObjectMissingError:
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            damaged.append(DamagedObject(key=key, reason="text: not what backup.json says it is"))
    return damaged
