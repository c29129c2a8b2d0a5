"""Which transactional batches a restore keeps: pure, from the markers the archive holds and how far the log was stable.

The outcome of producer `p`'s batch at offset `o` is the first marker of `p` behind `o` in that partition, whatever the
marker's producer epoch: a fenced producer's transaction is aborted by a marker of the next epoch. What is not decided
within the archive is dropped and said; what was decided where the archive lacks offsets is kept and said.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from enum import StrEnum

from kbackupd.model.positions import OffsetRange
from kbackupd.model.segment import TransactionOutcome


class Visibility(StrEnum):
    """What is known of the transaction a batch belongs to."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "outcome unknown"
    """Its marker may have been among offsets that the archive lacks: in a gap or hole, or compacted away."""
    UNDECIDED = "undecided"
    """Still open at the end of what was captured, wherever the source was by then."""

    @property
    def kept(self) -> bool:
        return self in (Visibility.COMMITTED, Visibility.UNKNOWN)


class Outcomes:
    """The transaction outcomes of one partition.

    Args:
        markers: every marker known, in any order, repeats allowed.
        unseen: offsets the archive lacks (gaps and holes), ascending: markers may have been there.
        last_stable_offset: the highest one known; every transaction that began below it was decided by then.
        compacted_below: the end of what a compaction may have taken markers from.
    """

    __slots__ = ("_by_producer", "_lacking_below", "_last_stable_offset", "_unseen_firsts", "_unseen_nexts")

    def __init__(
        self,
        markers: Iterable[TransactionOutcome],
        *,
        unseen: Sequence[OffsetRange] = (),
        last_stable_offset: int = -1,
        compacted_below: int = 0,
    ) -> None:
        rows: dict[int, dict[int, bool]] = {}
        for marker in markers:
            rows.setdefault(marker.producer_id, {})[marker.offset] = marker.committed
        # A busy topic has a marker for every few records: 8 bytes each, offset and outcome in one integer.
        self._by_producer = {
            producer_id: array("q", sorted(offset << 1 | committed for offset, committed in outcomes.items()))
            for producer_id, outcomes in rows.items()
        }
        self._unseen_firsts = [hole.first_offset for hole in unseen]
        self._unseen_nexts = [hole.next_offset for hole in unseen]
        self._last_stable_offset = last_stable_offset
        self._lacking_below = max([compacted_below, *self._unseen_nexts])

    def of_batch(self, producer_id: int, offset: int) -> Visibility:
        """What became of the transaction that producer `producer_id`'s data batch at `offset` belongs to."""
        markers = self._by_producer.get(producer_id, ())
        found = bisect_left(markers, (offset + 1) << 1)
        if found == len(markers):
            # A marker behind the end of what was captured decides nothing here: the batch may be half a transaction,
            # and an aborted one (capture that is catching up hears a last stable offset far ahead of itself).
            missed = offset < self._last_stable_offset and offset + 1 < self._lacking_below
            return Visibility.UNKNOWN if missed else Visibility.UNDECIDED
        marker_offset, committed = markers[found] >> 1, markers[found] & 1
        if self._unseen_within(offset, marker_offset):
            # The batch's own marker may lie in the gap, and the one we see belong to a later transaction of the same
            # producer: dropping could lose committed records, keeping at worst restores what is listed.
            return Visibility.UNKNOWN
        return Visibility.COMMITTED if committed else Visibility.ABORTED

    def _unseen_within(self, offset: int, marker_offset: int) -> bool:
        after = bisect_right(self._unseen_nexts, offset + 1)
        return after < len(self._unseen_firsts) and self._unseen_firsts[after] < marker_offset
