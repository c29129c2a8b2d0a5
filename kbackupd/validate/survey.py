"""What validation reads before it judges: everything but the segments' bodies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kbackupd.archive.catalog import Catalog, DamagedObject, bounded, load_catalog
from kbackupd.format import keys
from kbackupd.format.checkpoint import decode_checkpoint
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError, UnsupportedFormatError
from kbackupd.model.segment import Checkpoint
from kbackupd.store.protocol import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    catalog: Catalog
    checkpoints: tuple[Checkpoint, ...]
    """Readable ones by (writer, epoch, number); only each writer's newest still has its topics and partitions."""
    newest: Mapping[str, Checkpoint]
    """Writer → its newest readable checkpoint."""
    damaged: tuple[DamagedObject, ...]
    """Of all kinds; those of the catalog included."""


async def survey(store: ObjectStore) -> Survey:
    """Read the listing, the documents and texts, every footer and every checkpoint; `store` is scoped to the archive.

    Raises:
        KbackupError: the store could not say for certain what is there.
    """
    catalog = await load_catalog(store)
    damaged = list(catalog.damaged)
    newest: dict[str, Checkpoint] = {}

    def keep(checkpoint: Checkpoint) -> Checkpoint:
        """The tables of older ones are let go at once: there may be a million of ten thousand rows each."""
        held = newest.get(checkpoint.writer)
        at = (checkpoint.writer_epoch, checkpoint.number)
        if held is None or at > (held.writer_epoch, held.number):
            newest[checkpoint.writer] = checkpoint
        return replace(checkpoint, topics=(), partitions=())

    async def read(key: str) -> Checkpoint | None:
        try:
            data = await store.get(key)
            return keep(decode_checkpoint(key, data, catalog.document.identity if catalog.document else None))
        except ObjectMissingError:  # deleted since it was listed: no more than a deleted checkpoint
            return None
        except CorruptObjectError as error:
            damaged.append(DamagedObject(key=key, reason=error.reason, hint=error.hint))
        except UnsupportedFormatError as error:
            damaged.append(DamagedObject(key=key, reason=error.reason, hint=error.hint, unsupported=True))
        return None

    found = await bounded([one.key for one in catalog.objects if keys.parse_checkpoint_key(one.key)], read)
    damaged += await _damaged_texts(store, catalog)
    return Survey(
        catalog=catalog,
        checkpoints=tuple(
            sorted(
                (one for one in found if one is not None), key=lambda one: (one.writer, one.writer_epoch, one.number)
            )
        ),
        newest=newest,
        damaged=tuple(sorted(damaged, key=lambda one: one.key)),
    )


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
