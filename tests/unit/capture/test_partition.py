"""One partition's rules: where a diverged log is left, what moves a position, which condition is shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kbackupd.capture.assembly import SAMPLES_MAX, OpenSegment
from kbackupd.capture.partition import BACKOFF_MAX_SECONDS, QUARANTINE_AFTER_FAILURES, PartitionCapture
from kbackupd.capture.positions import reposition
from kbackupd.kafka.types import DivergingEpoch
from kbackupd.model.clock import ManualClock
from kbackupd.model.events import Gap, GapCause, Truncated
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import Sample
from kbackupd.model.status import PartitionState
from tests.fake_broker import FakeCluster

P = PartitionId(TopicId("A" * 22), 0)


def partition(position: int, *epochs: tuple[int, int]) -> PartitionCapture:
    return PartitionCapture(
        id=P,
        topic="orders",
        system=False,
        tier="standard",
        position=position,
        leader_epochs=list(epochs),
        check_epoch=epochs[-1][0] if epochs else -1,
    )


def test_a_failing_partition_is_retrying_then_quarantined_and_still_tried() -> None:
    one = partition(5)
    delays = [one.failed("no") for _ in range(QUARANTINE_AFTER_FAILURES - 1)]
    states = [one.state]
    one.failed("no")
    assert [*states, one.state] == [PartitionState.RETRYING, PartitionState.QUARANTINED]
    assert all(0 < delay <= BACKOFF_MAX_SECONDS for delay in delays)
    assert one.failed("no") <= BACKOFF_MAX_SECONDS
    one.recovered()
    assert str(one.state) == "starting"


def test_a_position_below_the_log_start_leaves_a_gap_and_nothing_to_compare_epochs_with() -> None:
    """Hazard 11."""
    one = partition(5, (1, 0))
    event = reposition(one, log_start=9, log_end=20, epoch_end=-1, at_ms=0)
    assert isinstance(event, Gap)
    assert (event.first_offset, event.next_offset, event.cause) == (5, 9, GapCause.LOG_START_MOVED)
    assert (one.position, one.check_epoch) == (9, -1)


def test_a_position_beyond_the_log_end_goes_back_to_where_its_epoch_ends() -> None:
    """Hazard 21."""
    one = partition(50, (1, 0), (2, 30))
    event = reposition(one, log_start=0, log_end=40, epoch_end=35, at_ms=0)
    assert isinstance(event, Truncated)
    assert (event.offset, event.branch, event.parent) == (35, 1, 0)


def test_beyond_a_log_of_which_no_epoch_tells_what_is_still_ours_all_of_it_is_read_again() -> None:
    """Hazard 21 behind a gap: no batch is held before the position, and the log may be another one."""
    one = partition(21)
    event = reposition(one, log_start=3, log_end=10, epoch_end=-1, at_ms=0)
    assert isinstance(event, Truncated)
    assert (event.offset, one.position) == (3, 3)


def test_an_unexplained_out_of_range_reads_all_again_only_after_several_tries_in_a_row() -> None:
    one = partition(5)
    for _ in range(5):
        one.failed("something else altogether")
    assert reposition(one, log_start=0, log_end=20, epoch_end=-1, at_ms=0) is None
    one.unexplained = 3
    event = reposition(one, log_start=0, log_end=20, epoch_end=-1, at_ms=0)
    assert isinstance(event, Truncated)
    assert event.offset == 0


@given(data=st.data())
def test_following_divergence_ends_where_two_logs_part_and_never_loops(data: st.DataObject) -> None:
    """KIP-320: whatever two histories of leaders were, few answers lead to the last common offset or below it."""
    mine, leader = data.draw(_two_logs())
    common = len([a for a, b in zip(mine, leader, strict=False) if a == b])

    log = FakeCluster(ManualClock()).create("orders").logs[0]
    log._epochs = _table(leader)
    log._end = len(leader)
    one = partition(len(mine), *_table(mine))
    for _ in range(20):
        if one.position > len(leader):
            known, end = log.epoch_end(one.check_epoch)
            reposition(one, log_start=0, log_end=len(leader), epoch_end=end if known >= 0 else -1, at_ms=0)
            continue
        if one.check_epoch < 0 or not leader:
            break
        known, end = log.epoch_end(one.check_epoch)
        if known < 0:
            one.cut_to(0, at_ms=0)
        elif known < one.check_epoch or end < one.position:
            before = one.position
            one.diverged(DivergingEpoch(epoch=known, end_offset=end), at_ms=0)
            assert one.position < before
        else:
            break
    else:
        raise AssertionError("it never ends")
    assert mine[: one.position] == leader[: one.position]
    assert one.position <= common


@st.composite
def _two_logs(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """The leader epoch of each offset in two replicas' logs: each epoch was written by one of them, as Kafka has it."""
    logs: tuple[list[int], list[int]] = ([], [])
    leading = 0
    for epoch in range(draw(st.integers(1, 6))):
        leading = draw(st.integers(0, 1))
        leader, follower = logs[leading], logs[1 - leading]
        leader += [epoch] * draw(st.integers(0, 5))
        if draw(st.booleans()):
            same = next(
                (n for n, (a, b) in enumerate(zip(leader, follower, strict=False)) if a != b),
                min(len(leader), len(follower)),
            )
            follower[:] = leader[: draw(st.integers(same, len(leader)))]
    return logs[1 - leading], logs[leading]


def _table(offsets: list[int]) -> list[tuple[int, int]]:
    return [(epoch, n) for n, epoch in enumerate(offsets) if n == 0 or offsets[n - 1] != epoch]


def test_samples_are_bounded_whatever_the_number_of_partitions_and_the_time() -> None:
    """Hazard 51: an idle cluster's open segment may stay open for ever."""
    segment = OpenSegment()
    for second in range(200):
        for number in range(100):
            segment.sample(
                Sample(
                    id=PartitionId(P.topic_id, number),
                    sent_ms=second * 1_000,
                    answered_ms=second * 1_000,
                    log_start_offset=0,
                    last_stable_offset=second,
                    high_watermark=second,
                    leader_epoch=0,
                )
            )
    samples = segment.close(()).samples
    assert len(samples) <= SAMPLES_MAX + 200
    newest = {sample.id: sample.high_watermark for sample in samples}
    assert set(newest.values()) == {199}
    assert segment.facts.empty
