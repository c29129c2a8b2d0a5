"""The one retry layer: any store, made patient.

Retries what is `retryable` (StoreUnavailableError) with exponential backoff and full jitter
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), each try under a deadline of its own and
all tries of one operation under another. Sleep, chance, clock and deadline are injected, so tests take no time.
Retrying a PUT is safe because the stores take identical bytes for success (hazard 54).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from kbackupd.model.clock import Clock, SystemClock
from kbackupd.model.errors import KbackupError, StoreDeniedError, StoreUnavailableError
from kbackupd.model.units import format_duration
from kbackupd.store.buffers import total_bytes
from kbackupd.store.protocol import DELETE_BATCH_KEYS, Buffer, ObjectInfo, ObjectStore

UNKNOWN_SIZE_BYTES = 64 << 20
"""What a whole-object GET is granted time for; twice the default segment."""

T = TypeVar("T")
OnRetry = Callable[[str, KbackupError, int], None]
"""Called before each wait with the operation's name, the error and the number of the try that failed, from 1."""
OnFailure = Callable[[str, KbackupError], None]
"""Called when an operation is given up: its retries are spent, or the store said no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to insist.

    A try may take `attempt_seconds` plus the time its bytes need at `slowest_bytes_per_second`. No try begins later
    than `total_seconds` after the first; the last one still has its full time. The wait before try n+1 is random in
    [0, min(longest, first x 2^(n-1))].
    """

    attempt_seconds: float = 20.0
    total_seconds: float = 60.0
    slowest_bytes_per_second: int = 512 << 10
    first_wait_seconds: float = 0.1
    longest_wait_seconds: float = 5.0


class RetryingStore:
    """An `ObjectStore` whose StoreUnavailableError means: tried for as long as the policy allows."""

    def __init__(
        self,
        inner: ObjectStore,
        *,
        policy: RetryPolicy | None = None,
        on_retry: OnRetry | None = None,
        on_failure: OnFailure | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        deadline: Callable[[float], AbstractAsyncContextManager[object]] = asyncio.timeout,
    ) -> None:
        self._inner = inner
        self._policy = RetryPolicy() if policy is None else policy
        self._on_retry = on_retry
        self._on_failure = on_failure
        self._clock: Clock = SystemClock() if clock is None else clock
        self._sleep = sleep
        self._uniform = uniform
        self._deadline = deadline

    @property
    def location(self) -> str:
        return self._inner.location

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._insist("put", lambda: self._inner.put_if_absent(key, parts), total_bytes(parts))

    async def get(self, key: str) -> bytes:
        return await self._insist("get", lambda: self._inner.get(key), UNKNOWN_SIZE_BYTES)

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        return await self._insist("get_range", lambda: self._inner.get_range(key, first_byte, length), length)

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        return await self._insist("get_suffix", lambda: self._inner.get_suffix(key, length), length)

    async def head(self, key: str) -> ObjectInfo:
        return await self._insist("head", lambda: self._inner.head(key))

    async def list_from(
        self, prefix: str, *, start_after: str = "", limit: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        """Goes on behind the last object it gave when a page fails; each object has the policy's time anew."""
        listing = _ResumedListing(self._inner, prefix, start_after, limit)
        async with aclosing(listing):
            while (info := await self._insist("list", listing.next)) is not None:
                yield info

    async def delete_many(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), DELETE_BATCH_KEYS):
            batch = keys[first : first + DELETE_BATCH_KEYS]
            await self._insist("delete", partial(self._inner.delete_many, batch))

    async def close(self) -> None:
        await self._inner.close()

    async def _insist(self, operation: str, attempt: Callable[[], Awaitable[T]], size_bytes: int = 0) -> T:
        policy = self._policy
        attempt_seconds = policy.attempt_seconds + size_bytes / policy.slowest_bytes_per_second
        started = self._clock.monotonic()
        tries = 0
        while True:
            tries += 1
            try:
                return await self._try_once(operation, attempt, attempt_seconds)
            except StoreUnavailableError as error:
                wait_seconds = self._uniform(
                    0.0, min(policy.longest_wait_seconds, policy.first_wait_seconds * 2.0 ** min(tries - 1, 30))
                )
                spent_seconds = self._clock.monotonic() - started
                if spent_seconds + wait_seconds >= policy.total_seconds:
                    spent = format_duration(spent_seconds)
                    self._given_up(operation, error)
                    raise StoreUnavailableError(
                        f"{error.message} (gave up after {spent}, {tries} {'try' if tries == 1 else 'tries'})",
                        hint=error.hint,
                        cause=error.cause,
                    ) from error
                if self._on_retry is not None:
                    self._on_retry(operation, error, tries)
            except StoreDeniedError as error:
                self._given_up(operation, error)
                raise
            await self._sleep(wait_seconds)

    def _given_up(self, operation: str, error: KbackupError) -> None:
        if self._on_failure is not None:
            self._on_failure(operation, error)

    async def _try_once(self, operation: str, attempt: Callable[[], Awaitable[T]], seconds: float) -> T:
        try:
            async with self._deadline(seconds):
                return await attempt()
        except TimeoutError as error:
            raise StoreUnavailableError(
                f"{operation} in {self.location}: no answer within {format_duration(seconds)}",
                cause="timeout",
                hint="is the store up, and does the network lead there?",
            ) from error


class _ResumedListing:
    """A listing that can be asked for its next object again after a failure."""

    def __init__(self, store: ObjectStore, prefix: str, start_after: str, limit: int | None) -> None:
        self._store = store
        self._prefix = prefix
        self._after = start_after
        self._left = limit
        self._pages: AsyncIterator[ObjectInfo] | None = None

    async def next(self) -> ObjectInfo | None:
        """The next object, None at the end. After an error the listing begins anew behind the last object given."""
        if self._left == 0:
            return None
        if self._pages is None:
            self._pages = self._store.list_from(self._prefix, start_after=self._after, limit=self._left)
        pages, self._pages = self._pages, None
        info = await anext(pages, None)
        if info is None:
            self._left = 0
            return None
        self._pages = pages
        self._after = info.key
        if self._left is not None:
            self._left -= 1
        return info

    async def aclose(self) -> None:
        """End the listing inside now, not when its generator is collected."""
        if isinstance(self._pages, AsyncGenerator):
            await self._pages.aclose()
