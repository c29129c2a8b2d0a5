"""Ctrl-C and SIGTERM as exceptions that run every clean-up on their way out, and known for what they were at the end.

A handler's exception comes out of whatever the main thread is in. A C library may make something else of it:
confluent-kafka's constructors turn a KeyboardInterrupt into a SystemError or TypeError of their own.
"""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """From its making on both signals raise KeyboardInterrupt in the main thread, where it has to be made."""

    def __init__(self) -> None:
        self.met = False
        """One came: whatever ended the work, an exception of any kind, it was that."""
        for number in _SIGNALS:
            signal.signal(number, self._interrupt)

    def ignore(self) -> None:
        """From now on: a second Ctrl-C must not cut the clean-up short."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.met = True
        raise KeyboardInterrupt
