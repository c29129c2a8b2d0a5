"""Free TCP ports on 127.0.0.1, chosen so that a server can be killed and come back on the same one.

Ports the kernel hands out itself (bind to 0) lie in the ephemeral range: while a killed server is down, any outgoing
connection of any process may be given its port, and the restart fails. Ports below that range are only taken by who
asks for them.

Between being chosen and being listened on, and while its server is down, nobody can see that a port is somebody's, and
one was given to two listeners of one broker. So a process keeps each port that it was given, as a lock on the byte of
that number in a file that all processes of the user share; the kernel ends the locks with the process.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import threading
from functools import cache
from pathlib import Path

_LOWEST = 10_000
_FALLBACK_EPHEMERAL_START = 32_768
_ATTEMPTS = 2_000

_given: set[int] = set()
_giving = threading.Lock()


def free_ports(count: int) -> list[int]:
    """`count` ports nobody listens on at this moment, and which this function gives to nobody else.

    For as long as this process lives, and in no process of the same user. A program that does not ask here may still
    take one; the server then says so by dying.

    Raises:
        OSError: there are no more.
    """
    highest = _ephemeral_start()
    draw = random.SystemRandom()
    found: list[int] = []
    with _giving:
        for _ in range(_ATTEMPTS):
            if len(found) == count:
                break
            port = draw.randrange(_LOWEST, highest)
            if port not in _given and _reserved(port):
                _given.add(port)
                if _is_free(port):
                    found.append(port)
    if len(found) < count:
        raise OSError(f"no {count} free ports between {_LOWEST} and {highest}")
    return found


def _reserved(port: int) -> bool:
    """From now on it is this process's; False: it is another one's."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    return True


@cache
def _reservations() -> int:
    """The file's descriptor. Never closed, nor is the file opened again: the kernel ends all locks with the first."""
    path = Path(tempfile.gettempdir()) / f"kbackupd-testbed-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
            candidate.listen(1)
        except OSError:
            return False
    return True


def _ephemeral_start() -> int:
    """First port of the kernel's ephemeral range; a default where it cannot be read (not Linux)."""
    try:
        first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return _FALLBACK_EPHEMERAL_START
    return max(int(first), _LOWEST + 5_000)
