"""Which ranges of an object are fetched by one request. Pure.

A GET costs about as much for 3 KB as for a megabyte, in processor time as in waiting, and what several readers are
going to ask for lies side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

REQUEST_BYTES = 8 << 20
"""Of one request for several ranges, at most."""
GAP_BYTES = 128 << 10
"""Between two ranges: to read on over so many bytes costs less than another request."""


class Wish(NamedTuple):
    """Bytes of an object that a reader is going to ask for. Those of one object are held in this order."""

    first_byte: int
    length: int
    number: int
    """No two wishes have the same, whatever they wish for."""

    @property
    def next_byte(self) -> int:
        return self.first_byte + self.length


def neighbours(wishes: Sequence[Wish], at: int, *, most_bytes: int) -> slice:
    """Which of `wishes`, ascending, are fetched together with `wishes[at]`, from the first byte of the first to the
    last one of the last: `most_bytes` in all, unless that one alone has more.

    Those behind it come first, for readers go that way. Ranges do not overlap, or they are not fetched together.
    """
    begin, end = at, at + 1
    first_byte, next_byte = wishes[at].first_byte, wishes[at].next_byte
    most_bytes = min(most_bytes, REQUEST_BYTES)
    while end < len(wishes):
        behind = wishes[end]
        if not 0 <= behind.first_byte - next_byte <= GAP_BYTES or behind.next_byte - first_byte > most_bytes:
            break
        next_byte, end = behind.next_byte, end + 1
    while begin > 0:
        before = wishes[begin - 1]
        if not 0 <= first_byte - before.next_byte <= GAP_BYTES or next_byte - before.first_byte > most_bytes:
            break
        first_byte, begin = before.first_byte, begin - 1
    return slice(begin, end)
