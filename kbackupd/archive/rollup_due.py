"""Which roll-ups make the next one: a decision over their names and sizes.

Pure. What is held of each is a few numbers: an archive of years has thousands of them, and their footers, which name
every topic and every block, would weigh more than what is merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kbackupd.archive.rollup_rows import OF_SEGMENTS
from kbackupd.format import keys
from kbackupd.format.rollup import Coverage, RollupFooter


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRollup:
    """One that counts."""

    at: keys.RollupKey
    size_bytes: int
    coverage: Coverage
    segments: int
    rows: int
    """Of footers, that it repeats."""

    @classmethod
    def of(cls, at: keys.RollupKey, footer: RollupFooter, size_bytes: int) -> KeptRollup:
        return cls(
            at=at,
            size_bytes=size_bytes,
            coverage=footer.head.coverage,
            segments=footer.segments,
            rows=sum(block.rows for block in footer.blocks if block.table in OF_SEGMENTS),
        )


def due(kept: Sequence[KeptRollup], *, fan_in: int, merged_bytes: int) -> Iterator[list[KeptRollup]]:
    """Neighbours of one level: as many as one of the next is made of, or as fit into it.

    Args:
        kept: ascending by what they cover first.
        merged_bytes: a merge takes no further source beyond it.
    """
    at = 0
    apart = _apart(kept)
    while at < len(kept):
        level, size = kept[at].at.level, 0
        taken: list[KeptRollup] = []
        full = False
        for one in kept[at : at + fan_in]:
            if one.at.level != level or level == keys.MAX_LEVEL or one.at not in apart:
                break
            full = size + one.size_bytes > merged_bytes
            if full:
                break
            taken.append(one)
            size += one.size_bytes
        if len(taken) == fan_in or (full and len(taken) > 1):
            yield taken
        # Fewer than a merge takes: what follows on the same level cannot make more of them, unless these were
        # stopped by their size.
        at += 1 if full else max(1, len(taken))


def _apart(kept: Sequence[KeptRollup]) -> set[keys.RollupKey]:
    """Those that lie between no other's ends. What was late lies within what was made without it: merged with
    either's neighbours the two would go on overlapping, on every level."""
    apart = {one.at for one in kept}
    widest: KeptRollup | None = None
    for one in kept:
        if widest is not None and one.at.first <= widest.at.last:
            apart -= {one.at, widest.at}
        if widest is None or one.at.last > widest.at.last:
            widest = one
    return apart
