"""That an answer leaves a partition out proves something only of one that it would have told of (RPO exposure)."""

from __future__ import annotations

import pytest

from kbackupd.capture.heard import Heard
from kbackupd.capture.partition import PartitionCapture
from kbackupd.kafka.types import FetchAnswer, KafkaErrorCode, PartitionAnswer
from kbackupd.model.positions import PartitionId, TopicId

P = PartitionId(TopicId("AAAAAAAAAAAAAAAAAAAAAQ"), 0)


@pytest.fixture
def partition() -> PartitionCapture:
    known = PartitionCapture(id=P, topic="orders", system=False, tier="t", position=9)
    known.proof.answered(0.0, 9, 9)
    return known


@pytest.fixture
def heard() -> Heard:
    """A session that asked for the partition from second 1 on, and was told at second 2 where its log ends."""
    session = Heard()
    session.joined(P, now=1.0)
    session.asked()
    session.answered(answer(2.0, high_watermark=9))
    return session


def answer(sent: float, *, high_watermark: int | None = None, throttle_ms: int = 0) -> FetchAnswer:
    """With the partition, or without it."""
    part = PartitionAnswer(
        id=P,
        error_code=KafkaErrorCode.NONE,
        high_watermark=-1 if high_watermark is None else high_watermark,
        last_stable_offset=-1,
        log_start_offset=0,
        diverging=None,
        preferred_read_replica=-1,
        records=b"",
    )
    return FetchAnswer(
        throttle_ms=throttle_ms,
        full=False,
        partitions=() if high_watermark is None else (part,),
        size_bytes=1,
        sent_monotonic=sent,
        answered_monotonic=sent,
        sent_ms=int(sent * 1000),
        answered_ms=int(sent * 1000) + 1,
    )


def test_what_is_left_out_is_as_it_was_told_when_that_was_asked(heard: Heard, partition: PartitionCapture) -> None:
    heard.answered(answer(7.0))
    assert (heard.unchanged_since(partition), heard.last_good_ms) == (7.0, (7000, 7001))


def test_a_throttled_answer_proves_nothing_about_what_it_leaves_out(heard: Heard, partition: PartitionCapture) -> None:
    heard.answered(answer(7.0, throttle_ms=100))
    assert (heard.unchanged_since(partition), heard.last_good_ms) == (2.0, (2000, 2001))


def test_nothing_is_known_of_a_partition_before_a_request_that_was_sent_since_it_joined(
    heard: Heard, partition: PartitionCapture
) -> None:
    heard.left(P)
    assert heard.unchanged_since(partition) is None
    heard.joined(P, now=8.0)
    heard.answered(answer(7.0))
    assert heard.unchanged_since(partition) is None


def test_one_that_was_back_before_the_next_request_is_still_known_and_one_that_was_not_is_told_anew(
    heard: Heard, partition: PartitionCapture
) -> None:
    heard.left(P)
    heard.joined(P, now=3.0)
    heard.asked()
    heard.answered(answer(4.0))
    assert heard.unchanged_since(partition) == 4.0
    heard.left(P)
    heard.asked()
    heard.joined(P, now=5.0)
    heard.answered(answer(6.0))
    assert heard.unchanged_since(partition) is None


@pytest.mark.parametrize("told", [10, -1], ids=["a record that is not taken in yet", "an error"])
def test_one_that_is_not_as_it_was_last_told_is_not_unchanged(
    heard: Heard, partition: PartitionCapture, told: int
) -> None:
    heard.answered(answer(3.0, high_watermark=told))
    heard.answered(answer(4.0))
    assert heard.unchanged_since(partition) is None


def test_an_unknown_end_is_not_the_same_as_another_unknown_end(heard: Heard, partition: PartitionCapture) -> None:
    partition.proof.forget()
    heard.answered(answer(3.0, high_watermark=-1))
    assert heard.unchanged_since(partition) is None


def test_a_broken_session_knows_of_nothing_until_it_is_told(heard: Heard, partition: PartitionCapture) -> None:
    heard.forget()
    heard.answered(answer(4.0))
    assert (heard.something, heard.unchanged_since(partition)) == (False, None)


def test_of_partitions_that_are_not_asked_for_nothing_is_kept(heard: Heard) -> None:
    heard.left(P)
    heard.asked()
    heard.answered(answer(3.0, high_watermark=9))
    assert not heard.something
