"""A store seen from inside one directory of it: an archive is `<prefix>/<backup_id>/`, its keys are relative."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from kbackupd.model.errors import ObjectExistsError, ObjectMissingError
from kbackupd.store.protocol import Buffer, ObjectInfo, ObjectStore


class ScopedStore:
    """Implements `ObjectStore` below `<scope>/` of another one; closing it leaves the other open."""

    def __init__(self, inner: ObjectStore, scope: str) -> None:
        self._inner = inner
        self._prefix = scope.strip("/") + "/"

    @property
    def location(self) -> str:
        return f"{self._inner.location.rstrip('/')}/{self._prefix.rstrip('/')}"

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        try:
            await self._inner.put_if_absent(self._prefix + key, parts)
        except ObjectExistsError as error:
            raise ObjectExistsError(key) from error

    async def get(self, key: str) -> bytes:
        try:
            return await self._inner.get(self._prefix + key)
        except ObjectMissingError as error:
            raise ObjectMissingError(key) from error

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        try:
            return await self._inner.get_range(self._prefix + key, first_byte, length)
        except ObjectMissingError as error:
            raise ObjectMissingError(key) from error

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        try:
            return await self._inner.get_suffix(self._prefix + key, length)
        except ObjectMissingError as error:
            raise ObjectMissingError(key) from error

    async def head(self, key: str) -> ObjectInfo:
        try:
            return self._relative(await self._inner.head(self._prefix + key))
        except ObjectMissingError as error:
            raise ObjectMissingError(key) from error

    async def list_from(
        self, prefix: str, *, start_after: str = "", limit: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        after = self._prefix + start_after if start_after else ""
        async for info in self._inner.list_from(self._prefix + prefix, start_after=after, limit=limit):
            yield self._relative(info)

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._inner.delete_many([self._prefix + key for key in keys])

    async def close(self) -> None:
        """Leaves the inner store open: whoever opened it closes it."""

    def _relative(self, info: ObjectInfo) -> ObjectInfo:
        return ObjectInfo(
            key=info.key.removeprefix(self._prefix), size_bytes=info.size_bytes, modified_ms=info.modified_ms
        )
