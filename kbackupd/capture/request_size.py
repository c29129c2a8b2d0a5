"""How much one fetch request asks for: pure; the requests of all loops together fit the budget (I9)."""

from __future__ import annotations

from kbackupd.capture.partition import SessionKind

REQUEST_BYTES = {SessionKind.FOLLOWING: 8 << 20, SessionKind.CATCHING_UP: 8 << 20}
RECEIVING_COPIES = 2
"""An answer being received exists twice for a moment: in the socket's buffer and as bytes."""
ASKED_SHARE = 4
"""The loops of one kind together ask for a fourth of the budget at most, so that half of it is left for what is held.
When each took what it liked, the long polls of sixteen idle brokers were all of it: somebody waited at any time, and
whatever little came in was sealed to make room."""
SMALLEST_REQUEST_BYTES = 64 << 10
"""Less is not asked for however many share the budget: they take turns then."""


def request_bytes(kind: SessionKind, *, limit_bytes: int, loops: int, largest_batch_bytes: int) -> int:
    """What one of `loops` loops of a kind that fetch at once may ask for under a budget of `limit_bytes`.

    Args:
        largest_batch_bytes: that came of late. The first batch of an answer comes whole, asked for or not: where it is
            larger than the loop's even share, room for it must be reserved too. It is never more than a loop that is
            alone would ask for, so that one partition's huge batches do not keep all the others waiting.
    """
    alone = min(REQUEST_BYTES[kind], limit_bytes // 12)
    even = limit_bytes // (ASKED_SHARE * RECEIVING_COPIES * max(1, loops))
    return max(SMALLEST_REQUEST_BYTES, min(alone, max(even, largest_batch_bytes)))
