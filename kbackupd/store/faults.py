"""Any store, made to fail on purpose: the n-th operation of a kind errs, loses its answer, or stalls until released.

Ships beside the memory store, so that every step of publish, prune and restore can be failed one by one in tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from kbackupd.model.errors import KbackupError, StoreUnavailableError
from kbackupd.store.metered import Operation
from kbackupd.store.protocol import Buffer, ObjectInfo, ObjectStore

T = TypeVar("T")
When = Literal["before", "after"]


class Stall:
    """An operation held up: wait until it is `reached`, then `release` it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def hold(self) -> None:
        self.reached.set()
        await self._released.wait()


@dataclass(slots=True, kw_only=True)
class _Fault:
    operation: Operation
    key_part: str
    when: When
    skip: int
    left: int | None
    error: KbackupError | None = None
    stall: Stall | None = None

    def strikes(self, operation: Operation, key: str) -> bool:
        """Count this operation; True if it is one of those to be struck."""
        if operation != self.operation or self.key_part not in key or self.left == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.left is not None:
            self.left -= 1
        return True


@dataclass(slots=True, kw_only=True)
class _Strikes:
    before: list[_Fault] = field(default_factory=list)
    after: list[_Fault] = field(default_factory=list)


class FaultStore:
    """An `ObjectStore` that does what `inner` does, until its script says otherwise.

    `nth` counts, from 1 and from the moment the fault is scripted, the operations of that kind whose key (a listing's
    prefix; all keys of a delete, joined by spaces) contains `key_part`. `times` operations in a row are struck; None
    means all from there on, until `heal`.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self._faults: list[_Fault] = []
        self.calls: list[tuple[Operation, str]] = []

    @property
    def location(self) -> str:
        return self._inner.location

    def fail(
        self,
        operation: Operation,
        *,
        nth: int = 1,
        times: int | None = 1,
        error: KbackupError | None = None,
        key_part: str = "",
    ) -> None:
        """The operation errs and has no effect; by default as if the server had answered 503."""
        self._script(operation, nth, times, key_part, "before", error=_or_unavailable(error))

    def lose_answer(
        self,
        operation: Operation,
        *,
        nth: int = 1,
        times: int | None = 1,
        error: KbackupError | None = None,
        key_part: str = "",
    ) -> None:
        """The operation takes effect, and errs all the same: its answer was lost on the way (hazard 54)."""
        self._script(operation, nth, times, key_part, "after", error=_or_unavailable(error))

    def stall(self, operation: Operation, *, nth: int = 1, when: When = "before", key_part: str = "") -> Stall:
        """The operation waits, before or after it takes effect, until released or cancelled."""
        stall = Stall()
        self._script(operation, nth, 1, key_part, when, stall=stall)
        return stall

    def heal(self) -> None:
        """Forget all faults; what is stalled stays so until released."""
        self._faults.clear()

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._run("put", key, lambda: self._inner.put_if_absent(key, parts))

    async def get(self, key: str) -> bytes:
        return await self._run("get", key, lambda: self._inner.get(key))

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        return await self._run("get_range", key, lambda: self._inner.get_range(key, first_byte, length))

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        return await self._run("get_suffix", key, lambda: self._inner.get_suffix(key, length))

    async def head(self, key: str) -> ObjectInfo:
        return await self._run("head", key, lambda: self._inner.head(key))

    async def list_from(
        self, prefix: str, *, start_after: str = "", limit: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        """A fault "after" strikes when half of what there is to list has been given, as between two pages."""
        strikes = self._strikes("list", prefix)
        await _suffer(strikes.before)
        infos = [info async for info in self._inner.list_from(prefix, start_after=start_after, limit=limit)]
        for index, info in enumerate(infos):
            if index == len(infos) // 2:
                await _suffer(strikes.after)
            yield info
        if not infos:
            await _suffer(strikes.after)

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._run("delete", " ".join(keys), lambda: self._inner.delete_many(keys))

    async def close(self) -> None:
        await self._inner.close()

    def _script(
        self,
        operation: Operation,
        nth: int,
        times: int | None,
        key_part: str,
        when: When,
        *,
        error: KbackupError | None = None,
        stall: Stall | None = None,
    ) -> None:
        self._faults.append(
            _Fault(
                operation=operation,
                key_part=key_part,
                when=when,
                skip=nth - 1,
                left=times,
                error=error,
                stall=stall,
            )
        )

    def _strikes(self, operation: Operation, key: str) -> _Strikes:
        self.calls.append((operation, key))
        strikes = _Strikes()
        for fault in self._faults:
            if fault.strikes(operation, key):
                (strikes.before if fault.when == "before" else strikes.after).append(fault)
        return strikes

    async def _run(self, operation: Operation, key: str, call: Callable[[], Awaitable[T]]) -> T:
        strikes = self._strikes(operation, key)
        await _suffer(strikes.before)
        result = await call()
        await _suffer(strikes.after)
        return result


async def _suffer(faults: Sequence[_Fault]) -> None:
    for fault in faults:
        if fault.stall is not None:
            await fault.stall.hold()
        if fault.error is not None:
            raise fault.error


def _or_unavailable(error: KbackupError | None) -> KbackupError:
    return StoreUnavailableError("scripted: 503 SlowDown", cause="throttled") if error is None else error
