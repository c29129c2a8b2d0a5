"""Which record of the target a source position is: by content, and what that cannot tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.groups.cluster_scan import judge, judge_end
from kbackupd.groups.target_records import TargetRecord
from kbackupd.model.offset_map import Exactness


def records(*bodies: str, first: int = 0, stamp: int = 1) -> list[TargetRecord]:
    return [TargetRecord(first + n, stamp, body.encode()) for n, body in enumerate(bodies)]


def test_equal_records_are_told_apart_by_what_follows_them() -> None:
    found = judge(records("a", "b", "c", first=100), records("a", "x", "a", "b", "c", first=7), 100, whole=True)

    assert (found.offset, found.exactness) == (9, Exactness.EXACT)
    assert "1 more are equal and followed by others" in found.reason


def test_records_that_nothing_tells_apart_are_ambiguous_and_the_first_is_taken() -> None:
    found = judge(records("a", "a"), records("a", "a", "a"), 0, whole=True)

    assert (found.offset, found.exactness) == (0, Exactness.AMBIGUOUS)


def test_a_record_of_another_time_is_another_record() -> None:
    found = judge(records("a"), records("a", stamp=2), 0, whole=True)

    assert found.offset is None


def test_the_next_record_stands_for_a_position_that_has_none() -> None:
    found = judge(records("a", first=105), records("a"), 100, whole=True)

    assert (found.offset, found.exactness) == (0, Exactness.NEXT)
    assert "the next, at 105" in found.reason


def test_how_far_was_looked_is_said_where_the_log_goes_on() -> None:
    assert "among the 2 records" in judge(records("a"), records("b", "c"), 0, whole=False).reason
    assert "among" not in judge(records("a"), records("b", "c"), 0, whole=True).reason


def test_at_the_sources_end_a_consumer_goes_on_behind_its_last_records() -> None:
    end = judge_end(records("a", "b"), records("x", "a", "b", "later", first=10), 99)

    assert (end.offset, end.exactness) == (13, Exactness.END)
    assert judge_end(records("a", "b"), records("a", "x", "b"), 99).offset is None
    twice = judge_end(records("a"), records("a", "x", "a"), 99)
    assert (twice.offset, twice.exactness) == (1, Exactness.AMBIGUOUS)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.data())
def test_of_a_copy_every_position_is_found_or_the_one_before_it_is_an_equal_one(
    bodies: list[str], data: st.DataObject
) -> None:
    """Nothing is ever skipped: what is found is the record itself, or an equal one before it."""
    position = data.draw(st.integers(0, len(bodies) - 1))
    source = records(*bodies)

    found = judge(source[position : position + 4], records(*bodies, first=50), position, whole=True)

    assert found.offset is not None
    assert found.offset <= 50 + position
    assert bodies[found.offset - 50] == bodies[position]
    if found.exactness is Exactness.EXACT:
        assert found.offset == 50 + position
