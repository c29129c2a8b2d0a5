"""What target logs end with, asked of brokers that deliver some of it and not the rest."""

from __future__ import annotations

import pytest

from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.kafka.types import FetchAnswer, FetchTarget, KafkaErrorCode, PartitionAnswer, TopicPartition
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KbackupError
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.restore import newest_batches as module
from kbackupd.restore.newest_batches import newest_batches
from kbackupd.restore.resume import NewestBatch
from tests.unit.restore.forged_target import ForgedTarget
from tests.virtual_time import run

WELL, ILL = (TopicPartition("orders", number) for number in range(2))
TOPIC = TopicId("o" * 21 + "A")
ENDS = {tp: (PartitionId(TOPIC, tp.partition), 1) for tp in (WELL, ILL)}


class Session:
    """Of a broker that holds one record of `WELL`, and knows another topic by the name of `ILL`'s."""

    def __init__(self, *_: object, **__: object) -> None:
        self.wanted: list[PartitionId] = []

    def want(self, id_: PartitionId, target: FetchTarget) -> None:
        assert target.offset == 0
        self.wanted.append(id_)

    def forget(self, id_: PartitionId) -> None:
        self.wanted.remove(id_)

    async def fetch(self, **_: object) -> FetchAnswer:
        return FetchAnswer(
            throttle_ms=0,
            full=True,
            partitions=tuple(self._answer(id_) for id_ in self.wanted),
            size_bytes=0,
            sent_monotonic=0.0,
            answered_monotonic=0.0,
            sent_ms=0,
            answered_ms=0,
        )

    def _answer(self, id_: PartitionId) -> PartitionAnswer:
        if id_ == ENDS[ILL][0]:
            return PartitionAnswer(id_, KafkaErrorCode.INCONSISTENT_TOPIC_ID, -1, -1, -1, None, -1, b"", 0)
        record = RawRecord(0, 0, 0, encode_body(None, b"value"))
        return PartitionAnswer(id_, 0, 1, 1, 0, None, -1, build_batch([record], base_timestamp_ms=0), 0)

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FetchSession", Session)


def asked_of_both(*, needs_all: bool) -> dict[TopicPartition, NewestBatch]:
    return run(newest_batches(ForgedTarget(), 1, ENDS, needs_all=needs_all), clock=ManualClock())


def test_one_log_that_does_not_tell_keeps_no_other_from_going_on() -> None:
    assert list(asked_of_both(needs_all=False)) == [WELL]


def test_where_every_log_must_tell_the_one_that_does_not_is_the_error() -> None:
    with pytest.raises(KbackupError, match="reading the end of orders"):
        asked_of_both(needs_all=True)
