"""Lines to a file descriptor from a thread of its own, so that a reader that stalls never stalls the daemon.

A pipe nobody reads fills after 64 KiB, and the next write waits for ever; in an event loop that means no fetch, no
flush, no health answer (hazard 49). Here lines wait in a bounded queue, and those that do not fit are dropped, counted
and confessed in the output as soon as it moves again.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable


class LineWriter:
    """A bounded queue of lines and the thread that writes them, which is not there before the first line is.

    Args:
        fd: written to, never closed.
        lost: makes the line that says how many were dropped.
        limit_bytes: of lines waiting; what does not fit is dropped.
    """

    def __init__(self, fd: int, *, lost: Callable[[int], str], limit_bytes: int = 4 << 20) -> None:
        self._fd = fd
        self._lost = lost
        self._limit_bytes = limit_bytes
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._confessed = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Lines lost so far: the queue was full, the output was gone, or the writer was closed."""
        return self._dropped

    def write(self, line: str) -> None:
        """Queue `line` (without line end) or drop it. Returns at once; from any thread."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            too_much = self._waiting_bytes + len(data) > self._limit_bytes
            if self._closing or too_much or not self._started():
                self._dropped += 1
                return
            self._lines.append(data)
            self._waiting_bytes += len(data)
            self._changed.notify()

    def close(self, timeout_seconds: float = 2.0) -> bool:
        """Write what is queued, for at most `timeout_seconds`; blocks. True if everything got out.

        A thread that is stuck in a write is left behind: it is a daemon thread and does not keep the process alive.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is None:
            return not self._dropped
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive() and not self._dropped

    def _started(self) -> bool:
        """The thread is there; False: the system lets us have none now."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                data = self._lines.popleft() if self._lines else None
                missing = self._dropped - self._confessed
            if data is None:
                if missing:
                    self._put(self._lost(missing).encode() + b"\n")
                return
            written = self._put(data)
            if missing and written and self._put(self._lost(missing).encode() + b"\n"):
                self._confessed += missing
            with self._changed:
                # Only now is its memory free: a line stuck in the pipe still counts against the limit.
                self._waiting_bytes -= len(data)
                self._dropped += not written

    def _put(self, data: bytes) -> bool:
        """All of `data`, however long the reader takes. False if the output is gone."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # The descriptor came non-blocking from whoever started us; wait for room instead of spinning.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True
