"""How much one fetch request asks for: pure; the requests of all loops together fit the budget (I9).

The more loops fetch at once, the less each asks for: an idle one holds its reservation all through its long poll.
"""

from __future__ import annotations

from kbackupd.capture.partition import SessionKind
from kbackupd.model.positions import PartitionId

REQUEST_BYTES = {SessionKind.FOLLOWING: 8 << 20, SessionKind.CATCHING_UP: 8 << 20}
RECEIVING_COPIES = 2
"""An answer being received exists twice for a moment: in the socket's buffer and as bytes."""
ASKED_SHARE = 4
"""The loops of one kind together ask for a fourth of the budget at most, so that half of it is left for what is held.
When each took what it liked, the long polls of sixteen idle brokers were all of it: somebody waited at any time, and
whatever little came in was sealed to make room."""
SMALLEST_REQUEST_BYTES = 64 << 10
"""Less is not asked for however many share the budget: they take turns then."""
HALVINGS_MAX = 7
LARGE_BATCH_SECONDS = 600.0
"""For so long a loop expects another batch as large as the largest it was sent."""


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


class RequestSize:
    """How much one loop asks for next, by what came of its requests so far. Times are monotonic, in seconds."""

    def __init__(self, kind: SessionKind, *, timeout_seconds: float) -> None:
        self._kind = kind
        self._timeout_seconds = timeout_seconds
        self._largest_batch_bytes = 0
        """Of late: the first batch comes whole, asked for or not. When every answer that held none as large halved it,
        as an idle loop's do twice a second, bursts came to many loops that had reserved for the little before.
        """
        self._largest_at = float("-inf")
        self._halvings = 0
        """Of what is asked for, as long as answers of the usual size do not come in time: on a line that carries less
        than one within the time-out, every answer would be given up half-way and asked for again, for ever."""
        self._oversized: dict[PartitionId, int] = {}
        """Bytes to ask for, of the partitions whose next batch is larger than what is asked for by default."""

    def next_bytes(self, *, limit_bytes: int, loops: int, most_bytes: int) -> int:
        """What to ask for now.

        Args:
            limit_bytes: of the budget that `loops` loops of the kind share.
            most_bytes: no request asks for more, except where a batch is larger.
        """
        usual = request_bytes(
            self._kind, limit_bytes=limit_bytes, loops=loops, largest_batch_bytes=self._largest_batch_bytes
        )
        patient = max(min(usual, most_bytes) >> self._halvings, SMALLEST_REQUEST_BYTES)
        return max((patient, *self._oversized.values()))

    def needs(self, id: PartitionId, size_bytes: int) -> None:
        """The partition's next batch needs a request of so many bytes; 0: what is asked for by default will do."""
        if size_bytes:
            self._oversized[id] = size_bytes
        else:
            self._oversized.pop(id, None)

    def timed_out(self) -> None:
        """A request was given up."""
        self._halvings = min(self._halvings + 1, HALVINGS_MAX)

    def received(self, size_bytes: int, *, asked_bytes: int, seconds: float, now: float) -> None:
        """So many bytes of batches came, `seconds` after they were asked for."""
        if size_bytes > asked_bytes:
            # Nothing but a first batch comes unasked.
            self._largest_batch_bytes, self._largest_at = size_bytes, now
        if self._halvings and size_bytes >= asked_bytes // 2 and seconds < self._timeout_seconds / 4:
            self._halvings -= 1  # twice as much would have come in time as well

    def checked(self, largest_batch_bytes: int, *, now: float) -> None:
        """An answer was looked into: the largest of its batches has so many bytes, 0 if there was none."""
        if largest_batch_bytes >= self._largest_batch_bytes or now - self._largest_at >= LARGE_BATCH_SECONDS:
            self._largest_batch_bytes, self._largest_at = largest_batch_bytes, now
