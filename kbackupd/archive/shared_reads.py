"""One store, many partitions read at a time: what lies side by side in a segment comes by one request.

Each reader tells what it is going to ask for. Who needs its own first has its neighbours' fetched as well, as far as
there is room, and they are held until their readers ask. Nobody waits for another reader: while one stays behind its
bytes take room, and where none is left everybody reads for itself.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import TracebackType
from typing import NamedTuple

from kbackupd.archive.neighbours import Wish, neighbours
from kbackupd.model.errors import KbackupError
from kbackupd.store.protocol import ObjectStore

RANGES_AHEAD = 32
"""Of each reader, known to the others: as far ahead of it as its bytes may be fetched."""


class Extent(NamedTuple):
    """A range of an object, in bytes."""

    key: str
    first_byte: int
    length: int


@dataclass(slots=True, eq=False)
class _Request:
    task: asyncio.Task[None]
    wanted: set[Wish]
    """By readers that have not got it; without any the request is ended."""
    fetched: dict[Wish, bytes] = field(default_factory=dict)
    """A copy for each, so that the whole answer need not be held."""


@dataclass(slots=True, eq=False)
class _Object:
    wishes: list[Wish] = field(default_factory=list)
    """Nobody fetches them yet; ascending."""
    requests: dict[Wish, _Request] = field(default_factory=dict)
    """By what they bring."""


class SharedReads:
    """Use as an async context: on leaving it every request under way is cancelled, and whoever waits for one with it;
    no reader may read after that. `expect`, `read` and `drop` are for its readers.

    Args:
        room_bytes: of what is being fetched, and of what was and is not yet asked for by its reader. While an answer is
            cut up, it and its parts are both there: up to REQUEST_BYTES more.
    """

    def __init__(self, store: ObjectStore, *, room_bytes: int) -> None:
        self.peak_bytes = 0
        self._store = store
        self._room_bytes = room_bytes
        self._held_bytes = 0
        self._objects: dict[str, _Object] = {}
        self._wishes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SharedReads:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reader(self, coming: Iterator[Extent]) -> SharedReader:
        """For one partition; `coming`: all that it will ask for, in this order. Close it when it asks no more."""
        return SharedReader(self, coming)

    def expect(self, extent: Extent) -> Wish:
        """From now on it may be fetched with what others ask for; `read` or `drop` must follow."""
        self._wishes += 1
        wish = Wish(extent.first_byte, extent.length, self._wishes)
        insort(self._objects.setdefault(extent.key, _Object()).wishes, wish)
        return wish

    async def read(self, key: str, wish: Wish) -> bytes:
        """The bytes of `wish`, which was expected. Raises: as `ObjectStore.get_range` for these bytes alone.

        Cancelled, the request goes on if others want of it.
        """
        request = self._objects[key].requests.get(wish) or self._begun_with_others(key, wish)
        if request is not None:
            try:
                await asyncio.wait([request.task])  # not shield: that logs what fails after its waiter was cancelled
                request.task.result()
                return request.fetched[wish]
            except KbackupError:
                # The object may end too soon for others only, and a store that did not answer then may do so now: one
                # partition's bad luck is not that of all its neighbours (P6).
                pass
            finally:
                self.drop(key, wish)
        return await self._store.get_range(key, wish.first_byte, wish.length)

    def drop(self, key: str, wish: Wish) -> None:
        """Its reader does not ask for it, or has it."""
        of_key = self._objects[key]
        request = of_key.requests.pop(wish, None)
        if request is None:
            del of_key.wishes[bisect_left(of_key.wishes, wish)]
        else:
            self._held_bytes -= len(request.fetched.pop(wish, b""))
            request.wanted.remove(wish)
            if not request.wanted:
                request.task.cancel()
        self._forget_if_empty(key, of_key)

    def _begun_with_others(self, key: str, wish: Wish) -> _Request | None:
        """The request for `wish` and its neighbours; None: it has none, or there is no room."""
        of_key = self._objects[key]
        at = bisect_left(of_key.wishes, wish)
        together = neighbours(of_key.wishes, at, most_bytes=self._room_bytes - self._held_bytes)
        chosen = of_key.wishes[together]
        del of_key.wishes[together]
        if len(chosen) == 1:
            self._forget_if_empty(key, of_key)
            return None
        wanted = set(chosen)
        fetched: dict[Wish, bytes] = {}
        first_byte = chosen[0].first_byte
        size_bytes = chosen[-1].next_byte - first_byte
        task = asyncio.create_task(self._fetch(Extent(key, first_byte, size_bytes), wanted, fetched))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, size_bytes))
        request = _Request(task, wanted, fetched)
        of_key.requests |= dict.fromkeys(chosen, request)
        self._held_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self._held_bytes)
        return request

    async def _fetch(self, extent: Extent, wanted: set[Wish], fetched: dict[Wish, bytes]) -> None:
        answer = memoryview(await self._store.get_range(*extent))
        for wish in wanted:
            at = wish.first_byte - extent.first_byte
            fetched[wish] = bytes(answer[at : at + wish.length])
            self._held_bytes += wish.length

    def _ended(self, answer_bytes: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # Until here all of it was held, also what lies between the wishes and what was dropped meanwhile.
        self._held_bytes -= answer_bytes
        if not task.cancelled():
            task.exception()  # whoever wanted of it knows; if nobody does any more, nobody need be told

    def _forget_if_empty(self, key: str, of_key: _Object) -> None:
        if not of_key.wishes and not of_key.requests:
            del self._objects[key]


class SharedReader:
    """Reads for one partition what it said it would ask for, each once and about in that order."""

    def __init__(self, shared: SharedReads, coming: Iterator[Extent]) -> None:
        self._shared = shared
        self._coming = coming
        self._expected: list[tuple[Extent, Wish]] = []
        self._expect(RANGES_AHEAD)

    async def read(self, extent: Extent) -> bytes:
        """The bytes of `extent`, which then counts as asked for: it cannot be asked for again.

        Cancelled, the request goes on if others want of it.

        Raises: as `ObjectStore.get_range`; ValueError: nobody said that it would be asked for.
        """
        at = next((at for at, (known, _) in enumerate(self._expected) if known == extent), None)
        if at is None:
            raise ValueError(f"not among what was to be read next: {extent}")
        _, wish = self._expected.pop(at)
        self._expect(1)
        return await self._shared.read(extent.key, wish)

    def close(self) -> None:
        """What was not asked for is fetched for nobody any more."""
        for extent, wish in self._expected:
            self._shared.drop(extent.key, wish)
        self._expected.clear()

    def _expect(self, count: int) -> None:
        self._expected += [(extent, self._shared.expect(extent)) for extent in islice(self._coming, count)]
