"""Objects in this process's memory: the fake that ships, for tests and dry runs, held to the same contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from kbackupd.model.clock import Clock, SystemClock
from kbackupd.model.errors import CorruptObjectError, ObjectExistsError, ObjectMissingError
from kbackupd.store.keys import checked_key
from kbackupd.store.protocol import Buffer, ObjectInfo


class MemoryStore:
    """An `ObjectStore` that forgets everything when the process ends.

    Every operation gives the event loop one turn, as a network would, so that races show in tests.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._objects: dict[str, tuple[bytes, int]] = {}

    @property
    def location(self) -> str:
        return "memory:"

    @property
    def objects(self) -> dict[str, bytes]:
        """A copy of what is stored, for tests to look at."""
        return {key: data for key, (data, _) in self._objects.items()}

    def tamper(self, key: str, data: bytes | None) -> None:
        """Replace an object behind everybody's back, or remove it with None; what a flipped bit or an intruder does."""
        if data is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = (data, self._clock.now_ms())

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        data = b"".join(parts)
        checked_key(key)
        await asyncio.sleep(0)
        there = self._objects.setdefault(key, (data, self._clock.now_ms()))
        if there[0] != data:
            raise ObjectExistsError(key)

    async def get(self, key: str) -> bytes:
        await asyncio.sleep(0)
        return self._entry(key)[0]

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        await asyncio.sleep(0)
        data = self._entry(key)[0]
        if first_byte < 0 or length < 0:
            raise ValueError(f"not a range: {first_byte}, {length}")
        if length and first_byte + length > len(data):
            raise CorruptObjectError(key, f"asked for {length} bytes from {first_byte}, it has {len(data)}")
        return data[first_byte : first_byte + length]

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        if length <= 0:
            raise ValueError(f"not a suffix length: {length}")
        await asyncio.sleep(0)
        data = self._entry(key)[0]
        return data[-length:], len(data)

    async def head(self, key: str) -> ObjectInfo:
        await asyncio.sleep(0)
        data, modified_ms = self._entry(key)
        return ObjectInfo(key=key, size_bytes=len(data), modified_ms=modified_ms)

    async def list_from(
        self, prefix: str, *, start_after: str = "", limit: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        await asyncio.sleep(0)
        after = start_after.encode()
        keys = sorted((key for key in self._objects if key.startswith(prefix)), key=str.encode)
        listed = 0
        for key in keys:
            entry = self._objects.get(key)
            if entry is None or key.encode() <= after:
                continue
            if limit is not None and listed >= limit:
                return
            listed += 1
            yield ObjectInfo(key=key, size_bytes=len(entry[0]), modified_ms=entry[1])

    async def delete_many(self, keys: Sequence[str]) -> None:
        await asyncio.sleep(0)
        for key in keys:
            self._objects.pop(checked_key(key), None)

    async def close(self) -> None:
        """Nothing to release; what is stored stays, so that a test can close one life and open the next."""

    def _entry(self, key: str) -> tuple[bytes, int]:
        entry = self._objects.get(checked_key(key))
        if entry is None:
            raise ObjectMissingError(key)
        return entry
