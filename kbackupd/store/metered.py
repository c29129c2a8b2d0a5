"""Any store, observed: how often, how long, how much, how it ended. Counting itself is `observe/`'s business."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

from kbackupd.model.clock import Clock, SystemClock
from kbackupd.model.errors import ObjectExistsError, ObjectMissingError, StoreDeniedError, StoreUnavailableError
from kbackupd.store.buffers import total_bytes
from kbackupd.store.protocol import Buffer, ObjectInfo, ObjectStore

Operation = Literal["put", "get", "get_range", "get_suffix", "head", "list", "delete"]
Outcome = Literal["ok", "missing", "exists", "denied", "unavailable", "cancelled", "error"]


class OnOperation(Protocol):
    """Called once per try of an operation, when it has ended.

    `seconds` is the time spent waiting for the store; a whole listing counts as one operation, without the time its
    reader took between objects. `size_bytes` is what was sent by a put that succeeded or received by a get.
    """

    def __call__(self, operation: Operation, seconds: float, size_bytes: int, outcome: Outcome) -> None: ...


class _Meter:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.size_bytes = 0


class MeteredStore:
    """An `ObjectStore` that tells `on_operation` what became of everything asked of `inner`."""

    def __init__(self, inner: ObjectStore, on_operation: OnOperation, *, clock: Clock | None = None) -> None:
        self._inner = inner
        self._on_operation = on_operation
        self._clock: Clock = SystemClock() if clock is None else clock

    @property
    def location(self) -> str:
        return self._inner.location

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        with self._metered("put") as meter, self._timed(meter):
            await self._inner.put_if_absent(key, parts)
            meter.size_bytes = total_bytes(parts)

    async def get(self, key: str) -> bytes:
        with self._metered("get") as meter, self._timed(meter):
            data = await self._inner.get(key)
            meter.size_bytes = len(data)
            return data

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        with self._metered("get_range") as meter, self._timed(meter):
            data = await self._inner.get_range(key, first_byte, length)
            meter.size_bytes = len(data)
            return data

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        with self._metered("get_suffix") as meter, self._timed(meter):
            data, object_bytes = await self._inner.get_suffix(key, length)
            meter.size_bytes = len(data)
            return data, object_bytes

    async def head(self, key: str) -> ObjectInfo:
        with self._metered("head") as meter, self._timed(meter):
            return await self._inner.head(key)

    async def list_from(
        self, prefix: str, *, start_after: str = "", limit: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        with self._metered("list") as meter:
            pages = self._inner.list_from(prefix, start_after=start_after, limit=limit)
            while True:
                with self._timed(meter):
                    info = await anext(pages, None)
                if info is None:
                    return
                yield info

    async def delete_many(self, keys: Sequence[str]) -> None:
        with self._metered("delete") as meter, self._timed(meter):
            await self._inner.delete_many(keys)

    async def close(self) -> None:
        await self._inner.close()

    @contextmanager
    def _timed(self, meter: _Meter) -> Iterator[None]:
        started = self._clock.monotonic()
        try:
            yield
        finally:
            meter.seconds += self._clock.monotonic() - started

    @contextmanager
    def _metered(self, operation: Operation) -> Iterator[_Meter]:
        meter = _Meter()
        outcome: Outcome = "error"
        try:
            yield meter
            outcome = "ok"
        except GeneratorExit:  # The reader of a listing has seen enough.
            outcome = "ok"
            raise
        except BaseException as error:
            outcome = _outcome_of(error)
            raise
        finally:
            self._on_operation(operation, meter.seconds, meter.size_bytes, outcome)


def _outcome_of(error: BaseException) -> Outcome:
    match error:
        case ObjectMissingError():
            return "missing"
        case ObjectExistsError():
            return "exists"
        case StoreDeniedError():
            return "denied"
        case StoreUnavailableError():
            return "unavailable"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "error"
