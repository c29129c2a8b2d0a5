"""What every proxy of the testbed is: a port of its own before one server, served by an event loop in a thread.

A thread, so that tests and servers may block. What is done to the bytes is the subclasses' (`s3_proxy.py`,
`kafka_proxy.py`, `tcp_proxy.py`). Ports and connections of one proxy are its loop's; methods may be called from any
thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass
from socket import SO_LINGER, SOL_SOCKET
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

_DEADLINE_SECONDS = 60.0
HOST = "127.0.0.1"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reset:
    """The client's connection is reset as soon as the request's head is read; the server never hears of it."""


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The server does what it is asked, then the connection is reset instead of answering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutAnswer:
    """The connection ends after so many bytes of the answer."""

    after_bytes: int
    """Of S3: of its body. Of Kafka: of all of it, its length included."""


class FaultRule(Generic[T]):
    """What a proxy does to chosen requests, until it has done it often enough or is lifted. Thread-safe.

    Args:
        times: how many requests it strikes; None: all until it is lifted.
        share: of the requests that it would meet, how large a part is struck.
        chance: draws which of them.
    """

    def __init__(self, *, times: int | None, share: float = 1.0, chance: random.Random | None = None) -> None:
        self._left = times
        self._share = share
        self._chance = chance or random.Random()
        self._lock = threading.Lock()
        self._struck: list[T] = []
        self._lifted = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def struck(self) -> list[T]:
        """What it met so far, in order."""
        with self._lock:
            return list(self._struck)

    def lift(self) -> None:
        """Strike no more, and let go what is held; idempotent."""
        with self._lock:
            self._lifted = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    async def lifted(self) -> None:
        """Return once `lift` was called."""
        event = asyncio.Event()
        with self._lock:
            if self._lifted:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        await event.wait()

    def _strikes(self, what: T) -> bool:
        """Whether it is still in force, and chance has it so; counts `what` if so."""
        if self._share < 1.0 and self._chance.random() >= self._share:
            return False
        with self._lock:
            if self._lifted or self._left == 0:
                return False
            if self._left is not None:
                self._left -= 1
            self._struck.append(what)
            return True


R = TypeVar("R", bound=FaultRule[Any])


class LocalProxy(ABC, Generic[R]):
    """Listens before `server_port`; as a context manager it is closed at the end.

    Args:
        server_port: of the server on 127.0.0.1. While that does not run, clients' connections are reset.
        port: to listen on; 0: any. One that was given is the same after every time it was not listened on.
    """

    def __init__(self, server_port: int, *, port: int = 0) -> None:
        self.server_port = server_port
        self.port = port
        self._rules: list[R] = []
        self._rules_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._listening = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    @abstractmethod
    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, to its end; both of its sides are closed on return."""

    def start(self) -> None:
        """Return when it listens."""
        self._thread.start()
        if not self._listening.wait(_DEADLINE_SECONDS):
            raise TimeoutError(f"the proxy does not listen after {_DEADLINE_SECONDS:g} s")
        if self._failure is not None:
            raise OSError(f"the proxy cannot listen on port {self.port}") from self._failure

    def close(self) -> None:
        """Break every connection and end the thread; harmless if it is closed or was never started."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def clear(self) -> None:
        """Lift every rule."""
        with self._rules_lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.lift()

    def reset_all(self) -> None:
        """Reset every connection that is there, once; new ones are welcome."""
        self._on_loop(self._break_all())

    def _add(self, rule: R) -> R:
        with self._rules_lock:
            self._rules.append(rule)
        return rule

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result, once the proxy's loop has done it: what a fault does has happened when its method returns."""
        if self._loop is None:
            raise RuntimeError("the proxy was not started")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_DEADLINE_SECONDS)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _listen_no_more(self) -> None:
        """New connections are refused by the operating system; those that are there stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _break_all(self) -> None:
        """End the tasks of all connections and return when they have ended."""
        serving = tuple(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._listen()
        except OSError as error:
            self._failure = error
            return
        finally:
            self._listening.set()
        await self._stop.wait()
        await self._listen_no_more()
        await self._break_all()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Tasks of our own: those that asyncio makes for connections complain in the log when they are cancelled.
        task = asyncio.get_running_loop().create_task(self._serve_client(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST: the other side gets an error, not an orderly end."""
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
