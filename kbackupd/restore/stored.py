"""Restores as they are written down: beside the archive's own objects, or in a directory where the bucket is read-only.

Owns the order begun → ready → done, or withdrawn, each created once (invariant I2). What lies between ready and done is
in the target's logs and nowhere else.
"""

from __future__ import annotations

from typing import TypeVar

from kbackupd.format.keys import PLANS_PREFIX, RestoreKey, RestoreStage, parse_restore_key, restore_key
from kbackupd.format.restores import AnyRestoreDocument, decode_restore, encode_restore
from kbackupd.model.errors import CorruptObjectError, ObjectMissingError, StoreDeniedError
from kbackupd.model.restores import Finished, RestoreBegun, RestoreReady, Unfinished
from kbackupd.model.segment import Identity
from kbackupd.store.protocol import ObjectStore

Document = TypeVar("Document", RestoreBegun, RestoreReady)


class StoredRestores:
    """The restores of one archive.

    Args:
        store: scoped to the archive, or to the directory that stands in for it.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.damaged: dict[str, str] = {}
        """Key → why: what it says of a restore is not known. Filled by `unfinished` and `finished`."""

    @property
    def location(self) -> str:
        return self._store.location

    async def finished(self, identity: Identity) -> list[Finished]:
        """As `unfinished`, those that were brought to their end."""
        found = []
        for restore_id, there in (await self.stages()).items():
            if "done" not in there or "ready" not in there:
                continue
            begun = await self._read(RestoreBegun, RestoreKey(restore_id, "begun"), identity)
            ready = await self._read(RestoreReady, RestoreKey(restore_id, "ready"), identity)
            if begun is not None and ready is not None:
                found.append(Finished(begun=begun, ready=ready))
        return found

    async def stages(self) -> dict[str, set[RestoreStage]]:
        """What is written down of each restore, by its id, the oldest first.

        Raises:
            KbackupError: the store could not say for certain what is there.
        """
        stages: dict[str, set[RestoreStage]] = {}
        async for info in self._store.list_from(PLANS_PREFIX):
            at = parse_restore_key(info.key)
            if at is not None:
                stages.setdefault(at.restore_id, set()).add(at.stage)
        return dict(sorted(stages.items()))

    async def begun(self, restore_id: str, identity: Identity) -> RestoreBegun | None:
        """What that restore is about; None: it cannot be read, or there is no such thing.

        Raises:
            KbackupError: the store could not say for certain.
        """
        try:
            return await self._read(RestoreBegun, RestoreKey(restore_id, "begun"), identity)
        except ObjectMissingError:
            return None

    async def unfinished(self, identity: Identity) -> list[Unfinished]:
        """Those of the archive `identity`, the oldest first; one that was withdrawn as if it had only begun.

        Raises:
            KbackupError: the store could not say for certain what is there.
        """
        found = []
        for restore_id, there in (await self.stages()).items():
            if "done" in there:
                continue
            begun = await self._read(RestoreBegun, RestoreKey(restore_id, "begun"), identity)
            fills = "ready" in there and "withdrawn" not in there
            ready = await self._read(RestoreReady, RestoreKey(restore_id, "ready"), identity) if fills else None
            if begun is not None and (ready is not None or not fills):
                found.append(Unfinished(begun=begun, ready=ready))
        return found

    async def write(self, document: AnyRestoreDocument) -> None:
        """On return the document is durable.

        Raises:
            StoreDeniedError: it may not be written there; the hint says what to do.
            KbackupError: the store did not take it.
        """
        try:
            await self._store.put_if_absent(document.key, [encode_restore(document)])
        except StoreDeniedError as error:
            raise StoreDeniedError(
                f"a restore writes down what it begins, to be gone on with when it is killed: {error.message}",
                hint=f"allow s3:PutObject below {self.location}/{PLANS_PREFIX}, or keep it in a directory: --plans DIR",
            ) from error

    async def _read(self, shape: type[Document], at: RestoreKey, identity: Identity) -> Document | None:
        key = restore_key(*at)
        try:
            return decode_restore(shape, key, await self._store.get(key), identity)
        except CorruptObjectError as error:
            self.damaged[key] = error.reason
            return None
