"""Which segments a reader saw: what a restore that goes on tomorrow must see again, and nothing beside it. Pure.

Told as ranges of sequences and not as an end alone: of a writer with several segments in flight a later one can be
there before an earlier one, and the earlier one must not come into view half-way through a restore.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Pins = Mapping[tuple[str, int], tuple[tuple[int, int], ...]]
"""(writer, writer epoch) → half-open sequence ranges, ascending and apart."""


def pins_of(places: Iterable[tuple[str, int, int]]) -> Pins:
    """The pins of exactly these (writer, writer epoch, sequence), which come in any order."""
    ranges: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for writer, epoch, seq in sorted(set(places)):
        of_epoch = ranges.setdefault((writer, epoch), [])
        if of_epoch and of_epoch[-1][1] == seq:
            of_epoch[-1] = (of_epoch[-1][0], seq + 1)
        else:
            of_epoch.append((seq, seq + 1))
    return {epoch: tuple(found) for epoch, found in ranges.items()}


def is_pinned(pins: Pins | None, writer: str, writer_epoch: int, seq: int) -> bool:
    """Whether the segment was seen; without pins everything counts."""
    return pins is None or any(first <= seq < end for first, end in pins.get((writer, writer_epoch), ()))


def was_awaited(pins: Pins | None, writer: str, writer_epoch: int, seq: int) -> bool:
    """Whether it lies before the end of what was seen of its writer epoch, seen or not."""
    return pins is None or any(seq < end for _, end in pins.get((writer, writer_epoch), ()))
