"""Driving a fetch session the way the capture does: take what comes, move on, until everything is there."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.types import FetchAnswer, FetchTarget, TopicMetadata
from kbackupd.model.clock import SystemClock
from kbackupd.model.positions import PartitionId

NODE = 1
_BATCH_HEAD = struct.Struct(">qi")
_LAST_OFFSET_DELTA = struct.Struct(">i")


def session_on(connection: KafkaConnection) -> FetchSession:
    return FetchSession(connection, NODE, clock=SystemClock())


def from_start(topic: TopicMetadata, *, max_bytes: int = 1 << 20) -> dict[PartitionId, FetchTarget]:
    return {
        PartitionId(topic.topic_id, partition.partition): FetchTarget(
            offset=0, max_bytes=max_bytes, current_leader_epoch=partition.leader_epoch
        )
        for partition in topic.partitions
    }


def want_all(session: FetchSession, targets: dict[PartitionId, FetchTarget]) -> None:
    for id_, target in targets.items():
        session.want(id_, target)


async def poll(session: FetchSession, *, max_bytes: int = 16 << 20, max_wait_ms: int = 200) -> FetchAnswer:
    return await session.fetch(max_bytes=max_bytes, max_wait_ms=max_wait_ms, timeout_seconds=30)


async def poll_until(session: FetchSession, holds: Callable[[FetchAnswer], bool]) -> FetchAnswer:
    """The first answer that holds: a broker's metadata are ahead of what it does with them."""
    deadline = SystemClock().monotonic() + 60
    while not holds(answer := await poll(session)):
        assert SystemClock().monotonic() < deadline, f"the answer waited for never came, but {answer}"
    return answer


def whole_batches(records: bytes) -> Iterator[tuple[int, bytes]]:
    """(next offset, bytes) of each batch that came whole."""
    position = 0
    while position + 61 <= len(records):
        base_offset, length = _BATCH_HEAD.unpack_from(records, position)
        end = position + 12 + length
        if end > len(records):
            return
        (last_offset_delta,) = _LAST_OFFSET_DELTA.unpack_from(records, position + 23)
        yield base_offset + last_offset_delta + 1, records[position:end]
        position = end


class Follower:
    """Appends every whole batch to its partition's bytes and asks for what comes next."""

    def __init__(self, session: FetchSession) -> None:
        self.session = session
        self.logs: dict[PartitionId, bytes] = {}
        self.answers: list[FetchAnswer] = []

    async def until(self, done: Callable[[], bool], *, max_bytes: int = 16 << 20, rounds: int = 200) -> None:
        for _ in range(rounds):
            if done():
                return
            self.take(await poll(self.session, max_bytes=max_bytes))
        raise AssertionError(f"not done after {rounds} fetches")

    def take(self, answer: FetchAnswer) -> None:
        self.answers.append(answer)
        for part in answer.partitions:
            assert part.error_code == 0, part
            for next_offset, batch in whole_batches(part.records):
                self.logs[part.id] = self.logs.get(part.id, b"") + batch
                target = self.session.wanted[part.id]
                self.session.want(
                    part.id,
                    FetchTarget(
                        offset=next_offset,
                        max_bytes=target.max_bytes,
                        current_leader_epoch=target.current_leader_epoch,
                        last_fetched_epoch=0,
                    ),
                )

    def offset(self, id_: PartitionId) -> int:
        return self.session.wanted[id_].offset
