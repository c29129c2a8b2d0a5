"""Where restored records went, run-length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.restore.offset_map import MappedRun, OffsetMap


def test_a_log_without_irregularities_is_one_run() -> None:
    mapped = OffsetMap()
    for first in range(1_000, 2_000, 10):
        mapped.append(first, 10)

    assert list(mapped.runs(target_first_offset=5)) == [MappedRun(source_offset=1_000, target_offset=5, count=1_000)]


def test_an_offset_that_comes_twice_is_refused() -> None:
    mapped = OffsetMap()
    mapped.append(10, 5)

    with pytest.raises(ValueError, match="twice"):
        mapped.append(14)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=40))
def test_the_map_knows_every_record_and_nothing_else(steps: list[tuple[int, int]]) -> None:
    mapped, position = OffsetMap(), 0
    model: dict[int, int] = {}
    for hole, count in steps:
        position += hole
        mapped.append(position, count)
        for offset in range(position, position + count):
            model[offset] = len(model)
        position += count

    assert {offset: mapped.target_of(offset) for offset in range(-1, position + 2)} == {
        offset: model.get(offset) for offset in range(-1, position + 2)
    }
    assert {run.source_offset + n: run.target_offset + n for run in mapped.runs() for n in range(run.count)} == model
    assert mapped.records == len(model)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=20), st.integers(0, 80))
def test_a_map_that_was_cut_is_the_map_of_the_records_that_are_left(steps: list[tuple[int, int]], kept: int) -> None:
    whole, wanted, position, left = OffsetMap(), OffsetMap(), 0, kept
    for hole, count in steps:
        position += hole
        whole.append(position, count)
        if left:
            wanted.append(position, min(count, left))
            left -= min(count, left)
        position += count

    whole.cut(kept)

    assert list(whole.runs()) == list(wanted.runs())
    assert (whole.records, whole.next_source_offset) == (wanted.records, wanted.next_source_offset)
