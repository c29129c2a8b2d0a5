"""A real broker seen through bad weather: a TCP proxy that does to its clients what networks and brokers do.

Two kinds of faults. The *weather* is of the whole path, connections that are there included: blocked, silent, slow.
*Rules* strike single exchanges, chosen by API key, so that a fetch can be torn while metadata goes on, or a produce
request's answer be lost after the broker has appended. Bytes pass unchanged; plaintext listeners only.

A broker must advertise the proxy's port, or clients go around it: `proxied_cluster.py` sees to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeAlias

from kbackupd.testbed.proxy import HOST, CutAnswer, FaultRule, LocalProxy, LoseAnswer, Reset, reset

PRODUCE = 0
FETCH = 1
LIST_OFFSETS = 2
METADATA = 3
INIT_PRODUCER_ID = 22
OFFSET_FOR_LEADER_EPOCH = 23
ADD_PARTITIONS_TO_TXN = 24
END_TXN = 26
WRITE_TXN_MARKERS = 27
"""API keys (Kafka's protocol guide) of what faults are most often for; any other number may be named as well."""

_PIECE_BYTES = 64 << 10
_QUEUED_PIECES = 256
"""Of one direction of one connection, while they are delayed."""
_REQUEST_START = struct.Struct(">ihhi")
_ANSWER_START = struct.Struct(">ii")


@dataclass(frozen=True, slots=True)
class HoldAnswer:
    """The answer, and all that follow on its connection, wait until the rule is lifted: then they come, late."""


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """The request, and all that follow on its connection, reach the broker when the rule is lifted: late, and even if
    the client has given it up and left."""


Fault: TypeAlias = Reset | LoseAnswer | CutAnswer | HoldAnswer | HoldRequest


class Rule(FaultRule[int]):
    """A fault and the exchanges it strikes, of which `struck` lists the API keys; made by `KafkaProxy.strike`."""

    def __init__(
        self, fault: Fault, *, api_keys: Collection[int], times: int | None, share: float, chance: random.Random
    ) -> None:
        super().__init__(times=times, share=share, chance=chance)
        self.fault = fault
        self._api_keys = frozenset(api_keys)

    def meets(self, api_key: int) -> bool:
        """Whether this request is struck; counts it if so."""
        return (not self._api_keys or api_key in self._api_keys) and self._strikes(api_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Of the whole path between clients and broker."""

    silent: bool = False
    round_trip_seconds: float = 0.0
    answer_bytes_per_second: float | None = None


class KafkaProxy(LocalProxy[Rule]):
    """Before one broker's listener.

    Args:
        seed: of what strikes at random.
    """

    def __init__(self, server_port: int, *, port: int = 0, seed: int | str = 0) -> None:
        super().__init__(server_port, port=port)
        self._chance = random.Random(seed)
        self._weather = Weather()
        self._changed = asyncio.Event()
        """Set and replaced whenever the weather changes."""
        self._requests: Counter[int] = Counter()
        self._blocked = False
        self._exchanges: dict[asyncio.Task[None], _Exchange] = {}

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def requests(self) -> Counter[int]:
        """How many requests came in so far, by API key."""
        with self._rules_lock:
            return Counter(self._requests)

    @property
    def connections(self) -> int:
        """Clients' connections that are there now."""
        return len(self._serving)

    def block(self) -> None:
        """Refuse new connections and reset those that are there: the port is blocked."""
        self._on_loop(self._block())

    def silence(self) -> None:
        """Take connections and forward nothing, either way: what is on its way arrives when it heals, late."""
        self._on_loop(self._set(replace(self._weather, silent=True)))

    def delay(self, round_trip_seconds: float) -> None:
        """Every byte takes half of it each way, a new connection all of it; bandwidth is not touched."""
        self._on_loop(self._set(replace(self._weather, round_trip_seconds=round_trip_seconds)))

    def trickle(self, bytes_per_second: float) -> None:
        """Each connection's answers come no faster than that."""
        self._on_loop(self._set(replace(self._weather, answer_bytes_per_second=bytes_per_second)))

    def forget(self) -> None:
        """The connections that are there carry nothing any more and say nothing of it; new ones are fine.

        As where a NAT or a load balancer has dropped an idle connection. Until it heals: then they are reset.
        """
        self._on_loop(self._forget())

    def strike(
        self, fault: Fault, *, api_keys: Collection[int] = (), times: int | None = None, share: float = 1.0
    ) -> Rule:
        """Do this to the exchanges a rule meets; of several rules the one made first counts.

        Args:
            api_keys: of the requests; empty: any.
            times: how many it strikes; None: all until it is lifted.
            share: of the requests it would meet, drawn from the proxy's seed.
        """
        return self._add(Rule(fault, api_keys=api_keys, times=times, share=share, chance=self._chance))

    def heal(self) -> None:
        """Lift every rule and let everything pass again, what was held back first: good weather."""
        self.clear()
        self._on_loop(self._heal())

    async def _block(self) -> None:
        self._blocked = True
        await self._listen_no_more()
        await self._break_all()

    async def _forget(self) -> None:
        for exchange in self._exchanges.values():
            exchange.forgotten = True

    async def _heal(self) -> None:
        self._blocked = False
        for task, exchange in tuple(self._exchanges.items()):
            if exchange.forgotten:
                task.cancel()
        await self._set(Weather())
        await self._listen()

    async def _set(self, weather: Weather) -> None:
        self._weather = weather
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _until_heard(self) -> None:
        """Return when bytes may pass."""
        while self._weather.silent:
            await self._changed.wait()

    def _rule_for(self, api_key: int) -> Rule | None:
        with self._rules_lock:
            self._requests[api_key] += 1
            return next((rule for rule in self._rules if rule.meets(api_key)), None)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server: asyncio.StreamWriter | None = None
        task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment]  # it runs in one of its own
        try:
            if self._blocked:
                raise _Broken  # it was in the queue of the port when that was closed
            await asyncio.sleep(self._weather.round_trip_seconds)
            await self._until_heard()
            from_server, server = await asyncio.open_connection(HOST, self.server_port)
            exchange = _Exchange(self, (reader, writer), (from_server, server))
            self._exchanges[task] = exchange
            await exchange.run()
        except (OSError, _Broken, asyncio.CancelledError):
            reset(writer)
        finally:
            self._exchanges.pop(task, None)
            writer.close()
            if server is not None:
                server.close()


class _Broken(Exception):
    """One of the two connections is at its end; so is the other."""


class _Ended(Exception):
    """As `_Broken`, in good order."""


_Side: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Exchange:
    """One client's connection and its own to the broker, while both last."""

    def __init__(self, proxy: KafkaProxy, client: _Side, server: _Side) -> None:
        self.proxy = proxy
        self._from_client, to_client = client
        self._from_server, to_server = server
        self._struck: dict[int, Rule] = {}
        """Rules that wait for an answer, by its correlation id."""
        self.forgotten = False
        self._up = _Way(self, to_server)
        self._down = _Way(self, to_client, answers=True)

    async def run(self) -> None:
        """Return when the client left or the broker closed; raises _Broken or OSError where it was not in order."""
        tasks = [
            asyncio.create_task(step)
            for step in (self._requests(), self._answers(), self._up.deliver(), self._down.deliver())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                with contextlib.suppress(_Ended):
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _requests(self) -> None:
        while True:
            try:
                start = await _exactly(self._from_client, _REQUEST_START.size, first=True)
            except _Ended:
                # What it sent before it left arrives, be it late: a dead producer's last request is one of those.
                await self._up.end(_Ended())
                return
            length, api_key, _, correlation_id = _REQUEST_START.unpack(start)
            rule = self.proxy._rule_for(api_key)
            if rule is not None:
                if isinstance(rule.fault, Reset):
                    raise _Broken
                if isinstance(rule.fault, HoldRequest):
                    await rule.lifted()
                self._struck[correlation_id] = rule
            await self._up.send(start)
            await self._relay(self._from_client, self._up, length + 4 - len(start))

    async def _answers(self) -> None:
        while True:
            try:
                start = await _exactly(self._from_server, _ANSWER_START.size, first=True)
            except _Ended:
                await self._down.end(_Ended())
                return
            length, correlation_id = _ANSWER_START.unpack(start)
            rest = length + 4 - len(start)
            rule = self._struck.pop(correlation_id, None)
            fault = rule.fault if rule is not None else None
            if rule is not None and isinstance(fault, HoldAnswer):
                await rule.lifted()
            if isinstance(fault, LoseAnswer):
                await self._relay(self._from_server, None, rest)
                await self._down.end(_Broken())
                return
            if isinstance(fault, CutAnswer) and fault.after_bytes < length + 4:
                await self._down.send(start[: fault.after_bytes])
                await self._relay(self._from_server, self._down, max(0, fault.after_bytes - len(start)))
                await self._down.end(_Ended())
                return
            await self._down.send(start)
            await self._relay(self._from_server, self._down, rest)

    @staticmethod
    async def _relay(source: asyncio.StreamReader, way: _Way | None, count: int) -> None:
        while count:
            piece = await _exactly(source, min(count, _PIECE_BYTES))
            count -= len(piece)
            if way is not None:
                await way.send(piece)


class _Way:
    """One direction of one connection: bytes leave in order, each when the weather lets it."""

    def __init__(self, exchange: _Exchange, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        self._exchange = exchange
        self._proxy = exchange.proxy
        self._writer = writer
        self._answers = answers
        self._queue: asyncio.Queue[tuple[float, bytes | Exception]] = asyncio.Queue(_QUEUED_PIECES)

    async def send(self, data: bytes) -> None:
        due = asyncio.get_running_loop().time() + self._proxy._weather.round_trip_seconds / 2
        await self._queue.put((due, data))

    async def end(self, how: Exception) -> None:
        """`deliver` raises it when all before it was delivered."""
        await self._queue.put((0.0, how))

    async def deliver(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await self._queue.get()
            if due > clock():
                await asyncio.sleep(due - clock())
            await self._proxy._until_heard()
            if self._exchange.forgotten:
                await asyncio.Event().wait()  # until it is cancelled
            if isinstance(data, Exception):
                raise data
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        rate = self._proxy._weather.answer_bytes_per_second if self._answers else None
        if rate is None:
            await self._write_now(data)
            return
        step = max(1, int(rate / 20))
        for position in range(0, len(data), step):
            piece = data[position : position + step]
            await self._write_now(piece)
            if (rate := self._proxy._weather.answer_bytes_per_second) is None:
                await self._write_now(data[position + step :])
                return
            await asyncio.sleep(len(piece) / rate)

    async def _write_now(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


async def _exactly(reader: asyncio.StreamReader, count: int, *, first: bool = False) -> bytes:
    """Raises _Ended where a connection ends between two messages, _Broken within one."""
    try:
        return await reader.readexactly(count)
    except asyncio.IncompleteReadError as error:
        raise (_Ended if first and not error.partial else _Broken) from error
