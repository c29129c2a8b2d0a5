"""RPO exposure of one partition: since when is everything below its high watermark proven durable.

A leader's answer to a request sent at `t` says the high watermark was `h` at some moment after `t`. Once everything
below `h` is durable, `t` is proven. Answers that never come prove nothing, so exposure grows while we are blind.
"""

from __future__ import annotations

_PENDING_MAX = 64


class Proof:
    """Times are monotonic seconds."""

    __slots__ = ("_pending", "high_watermark", "proven")

    def __init__(self) -> None:
        self.proven: float | None = None
        self.high_watermark = -1
        self._pending: list[tuple[float, int]] = []
        """No deque: an empty one takes half of all the memory a quiet partition needs."""

    def answered(self, sent: float, high_watermark: int, durable: int) -> None:
        """A leader's answer to a request sent at `sent`."""
        self.high_watermark = high_watermark
        if high_watermark <= durable:
            self._pending.clear()
            self._prove(sent)
            return
        if self._pending and (self._pending[-1][1] == high_watermark or len(self._pending) == _PENDING_MAX):
            # Dropping the newest but one costs resolution, never truth: a later proof needs more to be durable.
            self._pending.pop()
        self._pending.append((sent, high_watermark))

    def unsure(self, position: int) -> None:
        """A leader's answer that shows less than was captured up to `position`: it proves nothing.

        The high watermark is not below what was once fetched under it, whatever an elected leader knows of that yet.
        """
        if self.high_watermark < 0:
            self.high_watermark = position

    def left_out(self, sent: float, durable: int) -> None:
        """An incremental answer that left the partition out: its high watermark has not moved."""
        if self.high_watermark >= 0:
            self.answered(sent, self.high_watermark, durable)

    def durable_moved(self, durable: int) -> None:
        while self._pending and self._pending[0][1] <= durable:
            self._prove(self._pending.pop(0)[0])

    def forget(self) -> None:
        """The log was cut back: what is known is about offsets that no longer mean the same. What is proven stays."""
        self._pending.clear()
        self.high_watermark = -1

    def exposure(self, now: float, *, left_out: float | None = None, durable: int = -1) -> float | None:
        """Seconds since the last proof; None if there was none yet.

        Args:
            left_out: when the last request was sent whose answer left the partition out. Counts as `left_out(…)` would,
                but is not remembered: who asks must not change what is known.
        """
        proven = self.proven
        if left_out is not None and 0 <= self.high_watermark <= durable:
            proven = left_out if proven is None else max(proven, left_out)
        return None if proven is None else max(0.0, now - proven)

    def _prove(self, sent: float) -> None:
        if self.proven is None or sent > self.proven:
            self.proven = sent
