"""What is asked for while an answer is checked: where its headers end, and nothing unless all of it is plain."""

from __future__ import annotations

import pytest

from kbackupd.capture import look_ahead
from kbackupd.capture.look_ahead import targets_ahead
from kbackupd.capture.partition import PartitionCapture
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.kafka.types import DivergingEpoch, FetchAnswer, KafkaErrorCode, PartitionAnswer
from kbackupd.model.positions import PartitionId, TopicId

A, B = (PartitionId(TopicId("AAAAAAAAAAAAAAAAAAAAAQ"), number) for number in (0, 1))
PARTITIONS = {id: PartitionCapture(id=id, topic="orders", system=False, tier="t", position=5) for id in (A, B)}
PLAIN = PartitionAnswer(
    id=A,
    error_code=KafkaErrorCode.NONE,
    high_watermark=9,
    last_stable_offset=9,
    log_start_offset=0,
    diverging=None,
    preferred_read_replica=-1,
    records=b"",
    asked_offset=5,
)


def batch(offset: int) -> bytes:
    record = RawRecord(0, 0, 0, encode_body(b"k", b"v"))
    return build_batch([record], base_offset=offset, base_timestamp_ms=1, leader_epoch=3)


def answer(*parts: PartitionAnswer) -> FetchAnswer:
    return FetchAnswer(
        throttle_ms=0,
        full=False,
        partitions=parts,
        size_bytes=1,
        sent_monotonic=0.0,
        answered_monotonic=0.0,
        sent_ms=0,
        answered_ms=0,
    )


def test_what_holds_records_goes_on_behind_them_and_what_holds_none_stays_where_it_is() -> None:
    targets = targets_ahead(answer(PLAIN._replace(records=batch(5) + batch(6)), PLAIN._replace(id=B)), PARTITIONS)
    assert targets is not None
    assert [(id, target.offset, target.last_fetched_epoch) for id, target in targets] == [(A, 7, 3)]
    assert PARTITIONS[A].position == 5, "no position was moved"


@pytest.mark.parametrize(
    "odd",
    [
        PLAIN._replace(id=B, error_code=KafkaErrorCode.NOT_LEADER_OR_FOLLOWER),
        PLAIN._replace(id=B, diverging=DivergingEpoch(epoch=0, end_offset=3)),
        PLAIN._replace(id=B, records=batch(5), asked_offset=4),
        PLAIN._replace(id=B, records=batch(3)),
        PLAIN._replace(id=B, records=b"\xff" * 100),
        PLAIN._replace(id=PartitionId(A.topic_id, 7)),
    ],
    ids=["error", "diverging", "asked elsewhere", "ends below the position", "no batches", "left"],
)
def test_nothing_is_asked_for_ahead_if_one_partition_s_end_cannot_be_told(odd: PartitionAnswer) -> None:
    assert targets_ahead(answer(PLAIN._replace(records=batch(5)), odd), PARTITIONS) is None


def test_the_headers_that_are_read_are_bounded_over_all_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_ahead, "SKIM_ANSWER_BATCHES", 3)
    two = PLAIN._replace(records=batch(5) + batch(6))
    assert targets_ahead(answer(two), PARTITIONS) is not None
    assert targets_ahead(answer(two, two._replace(id=B)), PARTITIONS) is None
