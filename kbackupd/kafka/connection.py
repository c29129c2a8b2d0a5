"""Connections to a cluster's brokers: who they are, one TCP connection per broker and lane, a deadline on everything.

Built on aiokafka's single connection (framing, TLS, SASL, version negotiation) rather than on its client: that one
swallows the reason of a failed connection, refreshes metadata of every topic on its own, and makes all connections
under one lock, so that one silent broker would keep us from reaching the others (hazard 40, principle P6).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import struct
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from aiokafka.conn import CloseReason, collect_hosts
from aiokafka.errors import KafkaError

from kbackupd.kafka.codec import WireError, WireRequest
from kbackupd.kafka.errors import KafkaFailure, translate
from kbackupd.kafka.frames import FramedConnection
from kbackupd.kafka.security import Credentials
from kbackupd.kafka.types import BrokerInfo, KafkaErrorCode
from kbackupd.kafka.wire import MetadataRequest
from kbackupd.kafka.wire_fetch import FetchRequest
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.settings import SecuritySettings

T = TypeVar("T")

# aiokafka reports lost connections and refused logins on its own logger as well as by raising. We handle what is
# raised; saying everything twice, once in a stranger's words, helps nobody.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

_CLOSE_SECONDS = 2.0
_IDLE_SECONDS = 9 * 60.0
"""Just under the ten minutes after which brokers close idle connections (connections.max.idle.ms)."""
_BEYOND_ANY_DEADLINE_MS = 24 * 3600 * 1000
"""aiokafka has a deadline of its own for every request; ours, chosen per request, is the one that shall count."""

_UNREADABLE = (WireError, struct.error, IndexError, UnicodeDecodeError)


class Sender(Protocol):
    """What the rest of this package needs of a connection; tests give it brokers made of lists."""

    async def send(
        self, node_id: int, request: WireRequest[T], *, timeout_seconds: float | None = None, lane: int = 0
    ) -> T: ...

    def new_lane(self) -> int: ...

    def drop(self, node_id: int, *, lane: int = 0) -> None: ...


@dataclass(slots=True)
class _Link:
    """One broker and lane: its connection, if there is one, and the lock under which it is made."""

    connection: FramedConnection | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def _user(security: SecuritySettings) -> str | None:
    if security.sasl is not None:
        return security.sasl.username
    return "ANONYMOUS" if security.cert_file is None else None


class KafkaConnection:
    """One cluster. `start` it, `send` to its brokers by id, `close` it.

    A broker answers the requests of one TCP connection in order, so whoever waits long (a fetch session) or keeps
    many requests under way (a producer) takes a lane, a TCP connection per broker of its own.

    Args:
        bootstrap_servers: `host:port` to ask who the brokers are, at the start and when none of them can be reached.
        client_id: how the brokers' logs, quotas and metrics name us.
        request_timeout_seconds: deadline of a `send` that names none.
        connect_timeout_seconds: longest wait for a TCP connection with TLS and SASL done.
    """

    def __init__(
        self,
        *,
        bootstrap_servers: Sequence[str],
        security: SecuritySettings,
        client_id: str,
        clock: Clock,
        request_timeout_seconds: float = 30.0,
        connect_timeout_seconds: float = 10.0,
    ) -> None:
        self.clock = clock
        self._bootstrap_servers = tuple(bootstrap_servers)
        self._credentials = Credentials(security)
        self._client_id = client_id
        self._user = _user(security)
        self._request_timeout_seconds = request_timeout_seconds
        self._connect_timeout_seconds = connect_timeout_seconds
        self._brokers: dict[int, BrokerInfo] = {}
        self._links: dict[tuple[int, int], _Link] = {}
        self._lanes = itertools.count(1)
        self._turns = itertools.count()
        self._closed = False

    @property
    def client_id(self) -> str:
        return self._client_id

    @property
    def user(self) -> str | None:
        """How brokers' quotas know us; None: they make it of a certificate, by rules of theirs."""
        return self._user

    async def __aenter__(self) -> KafkaConnection:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def brokers(self) -> Mapping[int, BrokerInfo]:
        """The brokers by id, as last learnt."""
        return self._brokers

    async def start(self) -> None:
        """Ask the bootstrap servers, one after the other, who the brokers are.

        Raises:
            KafkaDeniedError: one of them refused us for good (login, certificate, too old).
            KafkaUnavailableError: none of them answered.
            ConfigurationError: certificate files that cannot be used.
        """
        failures: list[KafkaFailure] = []
        for host, port, _ in collect_hosts(list(self._bootstrap_servers), randomize=False):
            what = f"asking {host}:{port} who the brokers are"
            try:
                async with self._deadline(self._connect_timeout_seconds + self._request_timeout_seconds, what):
                    connection = await self._connect(host, port)
                    try:
                        metadata = await self._exchange(connection, MetadataRequest(topics=()), what, connecting=True)
                    finally:
                        connection.close(reason=CloseReason.SHUTDOWN)
            except KafkaDeniedError:
                raise
            except KafkaUnavailableError as error:
                failures.append(error)
                continue
            if metadata.brokers:
                self.learn(metadata.brokers)
                return
            failures.append(KafkaUnavailableError(f"{what}: it knows of none yet"))
        said = "; ".join(failure.message for failure in failures) or "no bootstrap servers are configured"
        hint = next((failure.hint for failure in failures if failure.hint), "")
        raise KafkaUnavailableError(f"Kafka cannot be reached: {said}", hint=hint) from (
            failures[0] if failures else None
        )

    def learn(self, brokers: Iterable[BrokerInfo]) -> None:
        """Take `brokers`, a whole metadata answer's, for the cluster's; connections to moved ones are dropped."""
        known = {broker.node_id: broker for broker in brokers}
        if not known:
            return  # a broker that is just starting answers with none; the ones we know are worth more
        for node_id, lane in list(self._links):
            old, new = self._brokers.get(node_id), known.get(node_id)
            if new is None or old is None or (old.host, old.port) != (new.host, new.port):
                self.drop(node_id, lane=lane)
        self._brokers = known

    def new_lane(self) -> int:
        """A number for `send` that nobody else has."""
        return next(self._lanes)

    async def send(
        self, node_id: int, request: WireRequest[T], *, timeout_seconds: float | None = None, lane: int = 0
    ) -> T:
        """Send `request` to broker `node_id` and return its decoded answer; error codes inside are the caller's.

        After a time-out the connection is dropped: an answer that comes too late would only be in the way. A
        cancelled call leaves the request with the broker and its answer unread until it comes; whoever cares (a fetch
        session, which pays for the bytes) calls `drop`.

        Raises:
            KafkaUnavailableError: broker not known, not reachable, connection lost, no answer in time, nonsense.
            KafkaDeniedError: login or certificate refused, broker too old for this request.
        """
        seconds = self._request_timeout_seconds if timeout_seconds is None else timeout_seconds
        what = f"{request!r} to broker {node_id}"
        try:
            async with self._deadline(seconds, what):
                connection = await self._link(node_id, lane)
                return await self._exchange(connection, request, what)
        except KafkaUnavailableError as error:
            if isinstance(error.__cause__, (TimeoutError, *_UNREADABLE)):
                self.drop(node_id, lane=lane)
            raise

    async def send_any(self, request: WireRequest[T], *, timeout_seconds: float | None = None, lane: int = 0) -> T:
        """Send `request` to any broker that answers: each known one once, then the bootstrap servers are asked anew.

        `timeout_seconds` bounds the whole. Raises like `send`, the last broker's error.
        """
        seconds = self._request_timeout_seconds if timeout_seconds is None else timeout_seconds
        what = f"{request!r} to any broker"
        async with self._deadline(seconds, what):
            try:
                return await self._send_around(request, seconds, lane)
            except KafkaUnavailableError:
                # All brokers may have moved at once (a cluster rebuilt behind the same bootstrap name).
                await self.start()
                return await self._send_around(request, seconds, lane)

    async def _send_around(self, request: WireRequest[T], seconds: float, lane: int) -> T:
        nodes = sorted(self._brokers)
        failure = KafkaUnavailableError(f"{request!r}: no broker is known", hint="was the connection started?")
        first = next(self._turns)
        for turn in range(len(nodes)):
            node_id = nodes[(first + turn) % len(nodes)]
            try:
                return await self.send(
                    node_id, request, timeout_seconds=max(seconds / (len(nodes) + 1), 1.0), lane=lane
                )
            except KafkaUnavailableError as error:
                failure = error
        raise failure

    def drop(self, node_id: int, *, lane: int = 0) -> None:
        """Close the connection to `node_id` on `lane`, if any: what waits on it fails."""
        link = self._links.pop((node_id, lane), None)
        if link is not None and link.connection is not None:
            link.connection.close(reason=CloseReason.CONNECTION_TIMEOUT)

    async def close(self) -> None:
        """Close every connection. Requests under way fail with KafkaUnavailableError."""
        self._closed = True
        links, self._links = self._links, {}
        closing = [link.connection.close(reason=CloseReason.SHUTDOWN) for link in links.values() if link.connection]
        waits = [future for future in closing if future is not None]
        if waits:
            await asyncio.wait(waits, timeout=_CLOSE_SECONDS)

    async def _link(self, node_id: int, lane: int) -> FramedConnection:
        while True:
            link = self._links.setdefault((node_id, lane), _Link())
            async with link.lock:
                if self._links.get((node_id, lane)) is not link:
                    continue  # dropped while we waited for our turn
                if link.connection is not None and _usable(link.connection):
                    return link.connection
                broker = self._brokers.get(node_id)
                if self._closed or broker is None:
                    del self._links[node_id, lane]
                    raise KafkaUnavailableError(
                        "the connection is closed"
                        if self._closed
                        else f"broker {node_id} is not in the cluster's metadata",
                        hint="" if self._closed else "it may be restarting; the next metadata refresh will tell",
                    )
                connection = await self._connect(broker.host, broker.port)
                if self._links.get((node_id, lane)) is not link:
                    # Dropped or closed while the handshake ran: nobody would ever close what we hold.
                    connection.close(reason=CloseReason.SHUTDOWN)
                    raise KafkaUnavailableError(f"connecting to broker {node_id} was given up")
                link.connection = connection
                return connection

    async def _connect(self, host: str, port: int) -> FramedConnection:
        what = f"connecting to {host}:{port}"
        connection = FramedConnection(
            host,
            port,
            client_id=self._client_id,
            request_timeout_ms=_BEYOND_ANY_DEADLINE_MS,
            max_idle_ms=_IDLE_SECONDS * 1000,
            **self._credentials.arguments(),
        )
        async with self._deadline(self._connect_timeout_seconds, what):
            try:
                await connection.connect()
            except (OSError, EOFError, KafkaError, RuntimeError) as error:
                # uvloop's word for a write to a transport that is closed already is RuntimeError.
                raise translate(error, what, connecting=True) from error
        try:
            FetchRequest.check(connection._versions)
            MetadataRequest.check(connection._versions)
        except KafkaDeniedError as error:
            connection.close(reason=CloseReason.SHUTDOWN)
            raise KafkaDeniedError(f"{host}:{port}: {error.message}", hint=error.hint, code=error.code) from error
        return connection

    async def _exchange(
        self, connection: FramedConnection, request: WireRequest[T], what: str, *, connecting: bool = False
    ) -> T:
        if not _usable(connection):
            raise KafkaUnavailableError(f"{what}: the connection broke", code=KafkaErrorCode.NETWORK_EXCEPTION)
        try:
            raw = await connection.send(request)
        except (OSError, EOFError, KafkaError) as error:
            raise translate(error, what, connecting=connecting) from error
        try:
            return request.decode(raw.buffer, raw.position)
        except _UNREADABLE as error:
            raise KafkaUnavailableError(f"{what}: the answer does not parse: {error}") from error

    @contextlib.asynccontextmanager
    async def _deadline(self, seconds: float, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise translate(error, f"{what} (within {seconds:g} s)") from error


def _usable(connection: FramedConnection) -> bool:
    """Whether a request may be written to it at this moment.

    aiokafka believes a connection to be there until its reader has run, which is after the event loop has closed it. A
    write in between is lost without a word, or, on uvloop, a RuntimeError that nobody takes for a lost connection.
    """
    writer = connection._writer
    return connection.connected() and writer is not None and not writer.transport.is_closing()
