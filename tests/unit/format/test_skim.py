"""Where the next request may begin, told by headers alone: never further than the checked bytes reach."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.batch import scan_batches, skim_batches
from tests.unit.format.samples import batch

ENOUGH = 1000


def log_of(counts: list[int], *, leader_epoch: int = 3) -> bytes:
    batches, offset = [], 0
    for count in counts:
        batches.append(batch(offset, count, leader_epoch=leader_epoch))
        offset += count
    return b"".join(batches)


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=6), cut=st.integers(0, 400))
def test_of_sound_bytes_it_tells_the_end_that_the_check_will_find(counts: list[int], cut: int) -> None:
    whole = log_of(counts)
    records = whole[: len(whole) - cut % len(whole)]
    scan = scan_batches(records, asked_offset=0)
    end = skim_batches(records, batches_max=ENOUGH)
    if scan.batches:
        assert end is not None
        assert (end.next_offset, end.leader_epoch) == (scan.next_offset, scan.leader_epochs[-1][0])
        assert end.batches == scan.batches
    else:
        assert end is None


@given(data=st.data())
def test_of_whatever_bytes_it_says_something_or_nothing_but_does_not_fail(data: st.DataObject) -> None:
    whole = bytearray(log_of([2, 1, 3]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    skim_batches(bytes(whole), batches_max=ENOUGH)
    skim_batches(data.draw(st.binary(max_size=200)), batches_max=ENOUGH)


def test_more_batches_than_allowed_are_left_to_the_check() -> None:
    end = skim_batches(log_of([1] * 5), batches_max=5)
    assert end is not None
    assert end.batches == 5
    assert skim_batches(log_of([1] * 6), batches_max=5) is None
    assert skim_batches(log_of([1]), batches_max=0) is None


def test_legacy_messages_are_left_to_the_check() -> None:
    legacy = bytearray(log_of([1]))
    legacy[16] = 1
    assert skim_batches(bytes(legacy), batches_max=ENOUGH) is None
