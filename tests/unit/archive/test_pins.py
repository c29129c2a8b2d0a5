"""A pinned archive is exactly the segments that were seen, whatever lands later."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.archive.archive import Archive
from kbackupd.archive.pins import is_pinned, pins_of, was_awaited
from kbackupd.model.positions import PartitionId
from tests.archive_builder import BACKUP_ID, ArchiveBuilder

PLACES = st.sets(st.tuples(st.sampled_from(["main", "other"]), st.integers(1, 3), st.integers(0, 12)), max_size=30)


@given(PLACES)
def test_pins_hold_what_was_seen_and_nothing_else(seen: set[tuple[str, int, int]]) -> None:
    pins = pins_of(seen)
    found = {
        (writer, epoch, seq)
        for writer in ("main", "other")
        for epoch in range(1, 4)
        for seq in range(14)
        if is_pinned(pins, writer, epoch, seq)
    }
    assert found == seen
    assert all(end < first for ranges in pins.values() for (_, end), (first, _) in pairwise(ranges))


def test_what_was_not_there_yet_was_awaited_and_what_came_after_was_not() -> None:
    pins = pins_of([("main", 1, 0), ("main", 1, 2)])
    assert [was_awaited(pins, "main", 1, seq) for seq in range(4)] == [True, True, True, False]
    assert not was_awaited(pins, "main", 2, 0)
    assert was_awaited(None, "main", 9, 9)


async def test_a_segment_that_lands_late_before_a_later_one_stays_out_of_a_pinned_archive() -> None:
    built = await ArchiveBuilder.create()
    topic = built.topic("orders")
    life = await built.start()

    def capture() -> None:
        built.log(topic, 0).append([b"x"] * 5)
        life.capture(topic, 0)

    capture()
    await life.flush()
    capture()
    late = life.seal()
    capture()
    await life.flush()
    pinned = (await Archive.open(built.store, BACKUP_ID)).pinned
    assert pinned == {("main", 1): ((0, 1), (2, 3))}

    await life.arrive(late)

    again = await Archive.open(built.store, BACKUP_ID, pinned=pinned)
    history = again.history(PartitionId(topic, 0))
    assert [(one.first_offset, one.next_offset) for one in history.slices] == [(0, 5), (10, 15)]
