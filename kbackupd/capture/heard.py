"""What a fetch session's answers say of its partitions, of those that they leave out too. Pure.

An incremental answer leaves out what is as the session last told it. So that it says nothing is an answer as well, and
a proof (RPO exposure rests on it), for a partition that was asked for by then and is still as it was told.
"""

from __future__ import annotations

from kbackupd.capture.partition import PartitionCapture
from kbackupd.kafka.types import FetchAnswer
from kbackupd.model.positions import PartitionId


class Heard:
    """Of one session. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self.last_good_ms: tuple[int, int] = (0, 0)
        """Epoch milliseconds at which the request was sent and answered whose answer was the last unthrottled one."""
        self._last_good_sent: float | None = None
        """When that was asked for: what it left out had not changed then."""
        self._high_watermarks: dict[PartitionId, int] = {}
        """As the session last told them, which is what the broker compares with: after a partition left and came back
        between two requests, an unchanged one is not answered again."""
        self._left: set[PartitionId] = set()
        """Partitions that left since the last request: the next one tells the broker, and their rows go."""
        self._joined: dict[PartitionId, float] = {}

    @property
    def something(self) -> bool:
        """Whether any partition was told of since `forget`."""
        return bool(self._high_watermarks)

    def joined(self, id: PartitionId, *, now: float) -> None:
        """From now on it is asked for; what was asked before says nothing of it."""
        self._joined[id] = now
        self._left.discard(id)

    def left(self, id: PartitionId) -> None:
        """It is asked for no more; it had joined."""
        del self._joined[id]
        self._left.add(id)

    def asked(self) -> None:
        """The request that is sent now has the broker forget those that left: should they come back, it tells anew."""
        for id in self._left:
            self._high_watermarks.pop(id, None)
        self._left.clear()

    def answered(self, answer: FetchAnswer) -> None:
        """Take in what it tells and, unless it was throttled, that it tells no more than that."""
        if not answer.throttle_ms:
            self._last_good_sent = answer.sent_monotonic
            self.last_good_ms = (answer.sent_ms, answer.answered_ms)
        for part in answer.partitions:
            if part.id in self._joined or part.id in self._left:
                self._high_watermarks[part.id] = part.high_watermark

    def forget(self) -> None:
        """The session broke: the next one tells of every partition anew."""
        self._high_watermarks.clear()

    def unchanged_since(self, partition: PartitionCapture) -> float | None:
        """When the last request was sent at which it was still as last told; None: unknown."""
        joined, sent = self._joined.get(partition.id), self._last_good_sent
        if joined is None or sent is None or sent < joined:
            return None
        # An error is no high watermark, and a log that was just cut has none yet: two of these are not the same.
        known = 0 <= partition.proof.high_watermark == self._high_watermarks.get(partition.id)
        return sent if known else None
