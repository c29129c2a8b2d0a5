"""Which roll-ups make the next one, by their places and sizes alone."""

from __future__ import annotations

from kbackupd.archive.rollup_due import KeptRollup, due
from kbackupd.format import keys


def one(first: int, last: int, *, level: int = 1, size_bytes: int = 10) -> KeptRollup:
    return KeptRollup(
        at=keys.RollupKey("main", level, 1, first, 1, last, 0),
        size_bytes=size_bytes,
        coverage=((1, first, last + 1),),
        segments=last + 1 - first,
        rows=1,
    )


def firsts(kept: list[KeptRollup], *, fan_in: int = 3, merged_bytes: int = 100) -> list[list[int]]:
    return [
        [source.at.first_seq for source in sources] for sources in due(kept, fan_in=fan_in, merged_bytes=merged_bytes)
    ]


def test_as_many_neighbours_of_a_level_as_a_merge_takes_are_due_and_fewer_wait() -> None:
    kept = [one(at, at + 9) for at in range(0, 80, 10)]
    assert firsts(kept) == [[0, 10, 20], [30, 40, 50]]
    assert firsts(kept[:2]) == []


def test_neighbours_of_different_levels_are_not_merged() -> None:
    assert firsts([one(0, 9), one(10, 19, level=2), one(20, 29), one(30, 39)]) == []


def test_fewer_are_due_where_one_more_would_exceed_the_size() -> None:
    kept = [one(0, 9, size_bytes=50), one(10, 19, size_bytes=50), one(20, 29, size_bytes=1)]
    assert firsts(kept, fan_in=9) == [[0, 10]]
    assert firsts([one(0, 9, size_bytes=90), one(10, 19, size_bytes=90)], fan_in=9) == []


def test_one_that_lies_between_anothers_ends_is_merged_with_neither_sides_neighbours() -> None:
    late = [one(0, 9), one(10, 19), one(12, 12), one(20, 29), one(30, 39)]
    assert firsts(late, fan_in=2) == [[20, 30]]
