"""Free TCP ports on 127.0.0.1, chosen so that a server can be killed and come back on the same one.

Ports the kernel hands out itself (bind to 0) lie in the ephemeral range: while a killed server is down, any outgoing
connection of any process may be given its port, and the restart fails. Ports below that range are only taken by who
asks for them.

Between being chosen and being listened on, and while its server is down, nobody can see that a port is somebody's, and
one was given to two listeners of one broker. So each process takes whole blocks of ports, and nobody else has ports of
a block for as long as that process lives: it listens on the first of them, on which nothing else ever does.
"""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

_LOWEST = 10_000
_FALLBACK_EPHEMERAL_START = 32_768
_BLOCK = 50
"""Ports: what most processes need, and there are some hundred blocks."""

_claims: list[socket.socket] = []
_left: list[int] = []
"""Of the newest block; given to nobody yet."""
_giving = threading.Lock()


def free_ports(count: int) -> list[int]:
    """`count` ports nobody listens on at this moment, and which this function gives to nobody else.

    For as long as this process lives, and in no other process. A program that does not ask here may still take one;
    the server then says so by dying.

    Raises:
        OSError: there are no more.
    """
    found: list[int] = []
    with _giving:
        while len(found) < count:
            if not _left:
                _left.extend(_claimed())
            port = _left.pop()
            if (listening := _listening(port)) is not None:
                listening.close()
                found.append(port)
    return found


def _claimed() -> list[int]:
    """The ports of a block that is this process's from now on, in any order."""
    highest = _ephemeral_start()
    firsts = range(_LOWEST, highest - _BLOCK + 1, _BLOCK)
    draw = random.SystemRandom()
    for first in draw.sample(firsts, len(firsts)):
        if (claim := _listening(first)) is not None:
            _claims.append(claim)
            return draw.sample(range(first + 1, first + _BLOCK), _BLOCK - 1)
    raise OSError(f"no free ports between {_LOWEST} and {highest}")


def _listening(port: int) -> socket.socket | None:
    """None: somebody else listens there, or did a moment ago."""
    candidate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        candidate.bind(("127.0.0.1", port))
        candidate.listen(1)
    except OSError:
        candidate.close()
        return None
    return candidate


def _ephemeral_start() -> int:
    """First port of the kernel's ephemeral range; a default where it cannot be read (not Linux)."""
    try:
        first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return _FALLBACK_EPHEMERAL_START
    return max(int(first), _LOWEST + 5_000)
