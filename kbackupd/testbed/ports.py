"""Free TCP ports on 127.0.0.1, chosen so that a server can be killed and come back on the same one.

Ports the kernel hands out itself (bind to 0) lie in the ephemeral range: while a killed server is down, any outgoing
connection of any process may be given its port, and the restart fails. Ports below that range are only taken by who
asks for them.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 10_000
_FALLBACK_EPHEMERAL_START = 32_768
_ATTEMPTS = 2_000


def free_ports(count: int) -> list[int]:
    """`count` distinct ports nobody listens on at this moment.

    All are held at once before any is released, so that they differ. Another process may still take one between
    this call and the server's bind; with some 20,000 candidates drawn at random that is rare, and the server then
    says so by dying.
    """
    highest = _ephemeral_start()
    draw = random.SystemRandom()
    held: dict[int, socket.socket] = {}
    try:
        for _ in range(_ATTEMPTS):
            if len(held) == count:
                break
            port = draw.randrange(_LOWEST, highest)
            if port in held:
                continue
            candidate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                candidate.bind(("127.0.0.1", port))
                candidate.listen(1)
            except OSError:
                candidate.close()
                continue
            held[port] = candidate
        if len(held) < count:
            raise OSError(f"no {count} free ports between {_LOWEST} and {highest}")
        return list(held)
    finally:
        for candidate in held.values():
            candidate.close()


def _ephemeral_start() -> int:
    """First port of the kernel's ephemeral range; a default where it cannot be read (not Linux)."""
    try:
        first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return _FALLBACK_EPHEMERAL_START
    return max(int(first), _LOWEST + 5_000)
