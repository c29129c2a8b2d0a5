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
"""Between two ranges: to read on over so many bytes costs less than another request. In all no more than are wanted."""


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
    last one of the last: at most `most_bytes`, REQUEST_BYTES and twice what is wanted, unless that one alone has more.

    Those after it come first, for readers go that way. Ranges do not overlap, or they are not fetched together.
    """
    most_bytes = min(most_bytes, REQUEST_BYTES)
    begin, end = at, at + 1
    first_byte, next_byte = wishes[at].first_byte, wishes[at].next_byte
    wanted_bytes = wishes[at].length

    def fits(wish: Wish, gap_bytes: int, all_bytes: int) -> bool:
        return 0 <= gap_bytes <= GAP_BYTES and all_bytes <= min(most_bytes, 2 * (wanted_bytes + wish.length))

    while end < len(wishes):
        following = wishes[end]
        if not fits(following, following.first_byte - next_byte, following.next_byte - first_byte):
            break
        next_byte, end, wanted_bytes = following.next_byte, end + 1, wanted_bytes + following.length
    while begin > 0:
        before = wishes[begin - 1]
        if not fits(before, first_byte - before.next_byte, next_byte - before.first_byte):
            break
        first_byte, begin, wanted_bytes = before.first_byte, begin - 1, wanted_bytes + before.length
    return slice(begin, end)
