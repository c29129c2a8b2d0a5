"""What an archive's segments say of each partition, asked for one partition at a time; nothing of it is kept.

Pure. The rows lie in memory as roll-ups store them (`held_rows`), those of segments that no roll-up stands for too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from kbackupd.archive.evidence import Abandoned, gathered_from
from kbackupd.archive.held_rows import HeldRows
from kbackupd.archive.history import PartitionEvidence
from kbackupd.archive.plain import PlainPartition, plain_partition
from kbackupd.archive.rollup_rows import OF_SEGMENTS
from kbackupd.format.tables import GAPS, OPEN_TRANSACTIONS, OUTCOMES, SAMPLES, SEEN, TRUNCATIONS
from kbackupd.model.positions import PartitionId

_TOLD = (SAMPLES, SEEN, GAPS, TRUNCATIONS)
_UNMENTIONED = (SAMPLES, OUTCOMES, OPEN_TRANSACTIONS)
"""Tables whose partitions nobody counts into their topic."""


class HeldEvidence:
    """Of all partitions of the topics that an archive was opened for."""

    def __init__(self, sources: Sequence[HeldRows], abandoned: Abandoned) -> None:
        """`sources` together repeat each segment once, or as often as its sequence exists, in the listing's order."""
        self._sources = sources
        self._abandoned = abandoned

    def of(self, id: PartitionId) -> PartitionEvidence:
        """All that is said of the partition: a value for each of its rows."""
        return self._gathered(id, OF_SEGMENTS)

    def told(self, id: PartitionId) -> PartitionEvidence:
        """The same without runs and transactions: samples, gaps, cuts and first sights."""
        return self._gathered(id, _TOLD)

    def plain(self, id: PartitionId) -> PlainPartition | None:
        """The partition by the sums of its runs; None unless they tell as much as the runs themselves."""
        return plain_partition(id, self._sources, self._abandoned)

    def partitions(self) -> set[PartitionId]:
        """Those that rows speak of without counting them into their topic."""
        return {id for source in self._sources for id in source.partitions(_UNMENTIONED)}

    def _gathered(self, id: PartitionId, tables: Iterable[str]) -> PartitionEvidence:
        said = [one for source in self._sources for one in source.said(id, tables)]
        said.sort(key=attrgetter("place"))
        return gathered_from(said, self._abandoned).get(id) or PartitionEvidence(id=id)
