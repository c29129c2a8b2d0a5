"""A TCP proxy that knows nothing of what it carries, so that encrypted connections can be broken: below TLS.

`kafka_proxy.py` chooses single exchanges, for which it must read them; this one only counts bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum

from kbackupd.testbed.proxy import HOST, FaultRule, LocalProxy, reset

_PIECE_BYTES = 64 << 10


class Break(Enum):
    """What becomes of a connection that is struck."""

    RESET = "reset"
    """RST to the client: a broker that was killed, a firewall that lost its table."""
    END = "end"
    """FIN, in the middle of whatever was said: with TLS, without its own word of farewell."""
    GARBLE = "garble"
    """One bit of what was said is another; then it goes on."""


class BreakRule(FaultRule[int]):
    """Of `TcpProxy.strike`; `struck` lists how many bytes each connection it met had carried that way in all."""

    def __init__(self, how: Break, *, after_bytes: int, of_requests: bool, times: int | None) -> None:
        super().__init__(times=times)
        self.how = how
        self.after_bytes = after_bytes
        self.of_requests = of_requests

    def meets(self, carried: int) -> bool:
        """Whether a connection that carried so much is struck; counts it if so."""
        return self._strikes(carried)


class TcpProxy(LocalProxy[BreakRule]):
    """Before any server; both ways of a connection pass unchanged until a rule meets it."""

    def __init__(self, server_port: int, *, port: int = 0) -> None:
        super().__init__(server_port, port=port)
        self.accepted = 0
        """Connections so far."""

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    def strike(self, how: Break, *, after_bytes: int, of_requests: bool = False, times: int | None = None) -> BreakRule:
        """Break a connection when its server has sent it `after_bytes` from now on, or from its beginning if later.

        Args:
            of_requests: what its client has sent counts, rather.
            times: how many connections; None: all until it is lifted.
        """
        return self._add(BreakRule(how, after_bytes=after_bytes, of_requests=of_requests, times=times))

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server: asyncio.StreamWriter | None = None
        ways: list[asyncio.Task[None]] = []
        self.accepted += 1
        try:
            from_server, server = await asyncio.open_connection(HOST, self.server_port)
            ways = [
                asyncio.create_task(self._carry(reader, server, writer, requests=True)),
                asyncio.create_task(self._carry(from_server, writer, writer, requests=False)),
            ]
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        except (OSError, asyncio.CancelledError):
            reset(writer)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.close()
            if server is not None:
                server.close()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        *,
        requests: bool,
    ) -> None:
        """One way of one connection, to its end."""
        carried = 0
        left: dict[BreakRule, int] = {}
        while piece := await reader.read(_PIECE_BYTES):
            with self._rules_lock:
                rules = [rule for rule in self._rules if rule.of_requests is requests]
            for rule in rules:
                before = left.setdefault(rule, rule.after_bytes)
                left[rule] = before - len(piece)
                if not 0 <= before < len(piece) or not rule.meets(carried + before):
                    continue
                if rule.how is Break.GARBLE:
                    piece = piece[:before] + bytes((piece[before] ^ 1,)) + piece[before + 1 :]
                    continue
                writer.write(piece[:before])
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                if rule.how is Break.RESET:
                    reset(client)
                return
            carried += len(piece)
            writer.write(piece)
            await writer.drain()
