"""A Kafka cluster in memory behind capture's `Source`: logs of real record batches, and the answers brokers give.

Honest in what matters to a backup: leader epochs and their ends (KIP-320), topic ids, incremental fetch sessions that
leave out what did not change (KIP-227), a first batch larger than asked for, a cut-off last one, throttling, control
batches, last stable offsets. A test does to it what time and operators do to a cluster.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kbackupd.format.batch import iter_batches
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.kafka.types import (
    EARLIEST_TIMESTAMP,
    BrokerInfo,
    ClusterMetadata,
    DivergingEpoch,
    EpochEnd,
    FetchAnswer,
    FetchTarget,
    KafkaErrorCode,
    OffsetAnswer,
    PartitionAnswer,
    PartitionMetadata,
    TopicConfigs,
    TopicMetadata,
    TopicPartition,
)
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KafkaUnavailableError
from kbackupd.model.positions import PartitionId, TopicId, topic_id_from_uuid

CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"
LATENCY_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class LogBatch:
    base_offset: int
    next_offset: int
    data: bytes


class FakeLog:
    """One partition's log at its leader."""

    def __init__(self, id: PartitionId, cluster: FakeCluster, *, leader_id: int, first_offset: int = 0) -> None:
        self.id = id
        self.leader_id = leader_id
        self.leader_epoch = 0
        self.log_start_offset = first_offset
        self.batches: list[LogBatch] = []
        self.ever: set[bytes] = set()
        """Every batch that ever was in it."""
        self.compacted: set[bytes] = set()
        """What compaction removed."""
        self.error = 0
        self.hidden = 0
        """Records at the end that are not replicated yet: above the high watermark."""
        self._cluster = cluster
        self._end = first_offset
        self._epochs: list[tuple[int, int]] = [(0, first_offset)]
        self._open: dict[int, int] = {}

    @property
    def end_offset(self) -> int:
        return self._end

    @property
    def high_watermark(self) -> int:
        shown = self.batches[: len(self.batches) - self.hidden] if self.hidden else self.batches
        return shown[-1].next_offset if self.hidden and shown else self.log_start_offset if self.hidden else self._end

    @property
    def last_stable_offset(self) -> int:
        return min([self.high_watermark, *self._open.values()])

    def append(
        self,
        count: int = 1,
        *,
        value: bytes = b"v",
        producer_id: int = -1,
        transactional: bool = False,
        log_append_time: bool = False,
    ) -> LogBatch:
        """One batch of `count` records."""
        stamp = self._cluster.clock.now_ms()
        if transactional:
            self._open.setdefault(producer_id, self._end)
        serial = self._cluster.next_serial()
        records = [RawRecord(0, n, n, encode_body(b"%d" % (serial + n), value)) for n in range(count)]
        return self.add(
            build_batch(
                records,
                base_offset=self._end,
                base_timestamp_ms=stamp,
                leader_epoch=self.leader_epoch,
                transactional=transactional,
                log_append_time=log_append_time,
                producer_id=producer_id,
                producer_epoch=0 if producer_id >= 0 else -1,
                base_sequence=self._end & 0x7FFF_FFFF if producer_id >= 0 else -1,
            )
        )

    def end_transaction(self, producer_id: int, *, committed: bool) -> LogBatch:
        """The marker the coordinator writes (KIP-98)."""
        self._open.pop(producer_id, None)
        key = b"\0\0" + (b"\0\1" if committed else b"\0\0")
        return self.add(
            build_batch(
                [RawRecord(0, 0, 0, encode_body(key, b"\0\0\0\0\0\0"))],
                base_offset=self._end,
                base_timestamp_ms=self._cluster.clock.now_ms(),
                leader_epoch=self.leader_epoch,
                transactional=True,
                control=True,
                producer_id=producer_id,
                producer_epoch=0,
            )
        )

    def add(self, data: bytes) -> LogBatch:
        """A batch as it is; a base offset above the end leaves a hole, as compaction does."""
        ((header, _),) = iter_batches(data)
        assert header.base_offset >= self._end, "a log grows at its end"
        batch = LogBatch(header.base_offset, header.next_offset, data)
        self.batches.append(batch)
        self.ever.add(data)
        self._end = batch.next_offset
        self._cluster.changed()
        return batch

    def corrupt(self, base_offset: int) -> None:
        """The disk flips a bit in the payload of the batch that begins there."""
        for number, batch in enumerate(self.batches):
            if batch.base_offset == base_offset:
                bad = bytearray(batch.data)
                bad[-1] ^= 0xFF
                self.batches[number] = LogBatch(batch.base_offset, batch.next_offset, bytes(bad))

    def compact(self, keep: Sequence[int]) -> None:
        """Batches whose base offset is not in `keep` are gone, the log's ends stay."""
        self.compacted |= {batch.data for batch in self.batches if batch.base_offset not in keep}
        self.batches = [batch for batch in self.batches if batch.base_offset in keep]

    def delete_records(self, before: int) -> None:
        """Retention or DeleteRecords: the log start moves, whole batches below it go."""
        self.log_start_offset = max(self.log_start_offset, before)
        self.batches = [batch for batch in self.batches if batch.next_offset > self.log_start_offset]
        self._cluster.changed()

    def elect(self, leader_id: int | None = None) -> None:
        """A new leader epoch; the log stays."""
        self.leader_epoch += 1
        if leader_id is not None:
            self.leader_id = leader_id
        self._epochs = [pair for pair in self._epochs if pair[1] < self._end]
        self._epochs.append((self.leader_epoch, self._end))
        self._cluster.changed()

    def truncate(self, offset: int, *, leader_id: int | None = None) -> None:
        """An unclean election: everything from `offset` on is gone."""
        self.batches = [batch for batch in self.batches if batch.next_offset <= offset]
        self._end = max([self.log_start_offset, *(batch.next_offset for batch in self.batches)])
        self._epochs = [pair for pair in self._epochs if pair[1] < self._end]
        self._open = {producer: first for producer, first in self._open.items() if first < self._end}
        self.elect(leader_id)

    def lose(self) -> None:
        """The broker lost its disk: an empty log from offset 0 under a new epoch."""
        self.log_start_offset = 0
        self.truncate(0)

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        """(largest epoch up to `epoch`, where it ends), as LeaderEpochFileCache.endOffsetFor; (-1, -1) if unknown."""
        if not self._epochs or epoch > self._epochs[-1][0]:
            return -1, -1
        if epoch == self._epochs[-1][0]:
            return epoch, self._end
        higher = next(start for known, start in self._epochs if known > epoch)
        floor = max((known for known, _ in self._epochs if known <= epoch), default=epoch)
        return floor, higher

    def read(self, offset: int, max_bytes: int, *, whole_first: bool) -> bytes:
        """Bytes from the batch that holds `offset` on, up to the high watermark; the last batch may be cut off."""
        high_watermark = self.high_watermark
        wanted = [b for b in self.batches if b.next_offset > offset and b.base_offset < high_watermark]
        if not wanted:
            return b""
        first = len(wanted[0].data)
        if first > max_bytes and not whole_first:
            return b""
        return b"".join(batch.data for batch in wanted)[: max(max_bytes, first if whole_first else 0)]


@dataclass(slots=True, kw_only=True)
class FakeTopic:
    id: TopicId
    name: str
    internal: bool
    configs: dict[str, str]
    logs: list[FakeLog] = field(default_factory=list)


class FakeCluster:
    """Implements `capture.source.Source`; nodes 1…`nodes`."""

    def __init__(self, clock: ManualClock, *, nodes: int = 2) -> None:
        self.clock = clock
        self.nodes = nodes
        self.topics: dict[str, FakeTopic] = {}
        self.graveyard: list[FakeTopic] = []
        self.down: set[int] = set()
        self.silent: set[int] = set()
        """Nodes that accept questions and answer no more (only those off a fetch session)."""
        self.cut_off: set[int] = set()
        """Nodes that cannot be reached from here, though they lead as ever."""
        self.bytes_per_second = math.inf
        """Of records, over every session's connection."""
        self.throttle_ms = 0
        self.metadata_fails = 0
        """So many metadata requests in a row fail."""
        self.lagging: deque[ClusterMetadata] = deque()
        """What a broker that lags behind answers to the next metadata requests for all topics."""
        self.hidden_topics: set[str] = set()
        """Not shown for want of permission."""
        self.topic_errors: dict[str, int] = {}
        """Error codes that metadata has instead of the topic of that name."""
        self.fetches = 0
        self._serial = 0
        self._created = 0
        self._waiting: list[asyncio.Future[None]] = []

    # What time and operators do ---------------------------------------------------------------------------------------

    def create(
        self, name: str, partitions: int = 1, *, internal: bool = False, first_offset: int = 0, **configs: str
    ) -> FakeTopic:
        self._created += 1
        topic = FakeTopic(
            id=topic_id_from_uuid(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{self._created}")),
            name=name,
            internal=internal,
            configs=dict(configs),
        )
        self.topics[name] = topic
        self.add_partitions(name, partitions, first_offset=first_offset)
        return topic

    def add_partitions(self, name: str, count: int, *, first_offset: int = 0) -> None:
        topic = self.topics[name]
        for _ in range(count):
            number = len(topic.logs)
            leader = number % self.nodes + 1
            id = PartitionId(topic.id, number)
            topic.logs.append(FakeLog(id, self, leader_id=leader, first_offset=first_offset))

    def delete(self, name: str) -> FakeTopic:
        topic = self.topics.pop(name)
        self.graveyard.append(topic)
        self.changed()
        return topic

    def log(self, name: str, partition: int = 0) -> FakeLog:
        return self.topics[name].logs[partition]

    def next_serial(self) -> int:
        self._serial += 1_000
        return self._serial

    def changed(self) -> None:
        """Wake the fetches that wait for something to happen."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.get_loop().call_soon(_wake, future)

    def picture(self) -> ClusterMetadata:
        """All topics as they are now; keep one for `lagging`."""
        return self._metadata(None)

    # Source -----------------------------------------------------------------------------------------------------------

    async def metadata(self, topics: Sequence[str] | None = None) -> ClusterMetadata:
        await asyncio.sleep(LATENCY_SECONDS)
        if self.metadata_fails:
            self.metadata_fails -= 1
            raise KafkaUnavailableError("no broker answers for metadata")
        if topics is None and self.lagging:
            return self.lagging.popleft()
        return self._metadata(topics)

    def _metadata(self, topics: Sequence[str] | None) -> ClusterMetadata:
        rows = []
        for name in self.topics if topics is None else topics:
            topic = self.topics.get(name)
            if name in self.topic_errors:
                rows.append(_no_topic(name, self.topic_errors[name]))
            elif name in self.hidden_topics:
                if topics is not None:
                    rows.append(_no_topic(name, KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED))
            elif topic is None:
                rows.append(_no_topic(name, KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
            else:
                rows.append(self._topic_row(topic))
        brokers = tuple(BrokerInfo(node_id=node, host="127.0.0.1", port=9000 + node) for node in self._up())
        return ClusterMetadata(cluster_id=CLUSTER_ID, controller_id=1, brokers=brokers, topics=tuple(rows))

    def _topic_row(self, topic: FakeTopic) -> TopicMetadata:
        partitions = tuple(
            PartitionMetadata(
                partition=log.id.partition,
                leader_id=-1 if log.leader_id in self.down else log.leader_id,
                leader_epoch=log.leader_epoch,
                replicas=tuple(range(1, self.nodes + 1)),
                isr=tuple(self._up()),
                error_code=KafkaErrorCode.LEADER_NOT_AVAILABLE if log.leader_id in self.down else 0,
            )
            for log in topic.logs
        )
        return TopicMetadata(
            name=topic.name, topic_id=topic.id, internal=topic.internal, error_code=0, partitions=partitions
        )

    async def list_offsets(
        self, node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, OffsetAnswer]:
        await self._reach(node_id)
        answers = {}
        for tp, (timestamp, epoch) in asked.items():
            log = self._by_name(tp)
            error = self._error(log, node_id, epoch)
            if log is None or error:
                answers[tp] = OffsetAnswer(error_code=error, offset=-1, leader_epoch=-1)
            else:
                offset = log.log_start_offset if timestamp == EARLIEST_TIMESTAMP else log.high_watermark
                answers[tp] = OffsetAnswer(error_code=0, offset=offset, leader_epoch=log.leader_epoch)
        return answers

    async def epoch_end_offsets(
        self, node_id: int, asked: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, EpochEnd]:
        await self._reach(node_id)
        answers = {}
        for tp, (current, epoch) in asked.items():
            log = self._by_name(tp)
            error = self._error(log, node_id, current)
            known, end = (-1, -1) if log is None or error else log.epoch_end(epoch)
            answers[tp] = EpochEnd(error_code=error, leader_epoch=known, end_offset=end)
        return answers

    async def topic_configs(self, topics: Sequence[str]) -> Mapping[str, TopicConfigs]:
        await asyncio.sleep(LATENCY_SECONDS)
        return {
            name: TopicConfigs(error_code=0, values=dict(self.topics[name].configs))
            for name in topics
            if name in self.topics
        }

    def session(self, node_id: int) -> FakeSession:
        return FakeSession(self, node_id)

    # Brokers ----------------------------------------------------------------------------------------------------------

    def _up(self) -> list[int]:
        return [node for node in range(1, self.nodes + 1) if node not in self.down]

    async def _reach(self, node_id: int) -> None:
        await asyncio.sleep(LATENCY_SECONDS)
        if node_id in self.silent:
            await asyncio.sleep(15)
        if node_id in self.down | self.silent | self.cut_off:
            raise KafkaUnavailableError(f"broker {node_id} does not answer")

    def _by_name(self, tp: TopicPartition) -> FakeLog | None:
        topic = self.topics.get(tp.topic)
        return topic.logs[tp.partition] if topic is not None and tp.partition < len(topic.logs) else None

    def by_id(self, id: PartitionId) -> FakeLog | None:
        topic = next((topic for topic in self.topics.values() if topic.id == id.topic_id), None)
        return topic.logs[id.partition] if topic is not None and id.partition < len(topic.logs) else None

    @staticmethod
    def _error(log: FakeLog | None, node_id: int, epoch: int) -> int:
        if log is None:
            return KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if log.leader_id != node_id:
            return KafkaErrorCode.NOT_LEADER_OR_FOLLOWER
        if 0 <= epoch < log.leader_epoch:
            return KafkaErrorCode.FENCED_LEADER_EPOCH
        if epoch > log.leader_epoch:
            return KafkaErrorCode.UNKNOWN_LEADER_EPOCH
        return log.error

    async def something_changed(self, timeout_seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(timeout_seconds):
                await future
        except TimeoutError:
            return

    def answer(
        self, node_id: int, id: PartitionId, target: FetchTarget, max_bytes: int, *, whole_first: bool
    ) -> PartitionAnswer:
        log = self.by_id(id)
        error = self._error(log, node_id, target.current_leader_epoch)
        if log is None:
            error = KafkaErrorCode.UNKNOWN_TOPIC_ID
        diverging = None
        if log is not None and not error and target.last_fetched_epoch >= 0:
            epoch, end = log.epoch_end(target.last_fetched_epoch)
            if epoch < 0:
                error = KafkaErrorCode.OFFSET_OUT_OF_RANGE
            elif epoch < target.last_fetched_epoch or end < target.offset:
                diverging = DivergingEpoch(epoch=epoch, end_offset=end)
        if log is not None and not error and diverging is None:
            out = not log.log_start_offset <= target.offset <= log.end_offset
            error = KafkaErrorCode.OFFSET_OUT_OF_RANGE if out else 0
        if log is None or error:
            return PartitionAnswer(
                id=id,
                error_code=error,
                high_watermark=-1,
                last_stable_offset=-1,
                log_start_offset=-1,
                diverging=None,
                preferred_read_replica=-1,
                records=b"",
                asked_offset=target.offset,
            )
        room = min(target.max_bytes, max_bytes)
        records = b"" if diverging else log.read(target.offset, room, whole_first=whole_first)
        return PartitionAnswer(
            id=id,
            error_code=0,
            high_watermark=log.high_watermark,
            last_stable_offset=log.last_stable_offset,
            log_start_offset=log.log_start_offset,
            diverging=diverging,
            preferred_read_replica=-1,
            records=records,
            asked_offset=target.offset,
        )


class FakeSession:
    """Both ends of one incremental fetch session: what is wanted, what the broker was told, what it told last."""

    def __init__(self, cluster: FakeCluster, node_id: int) -> None:
        self._cluster = cluster
        self._node_id = node_id
        self._wanted: dict[PartitionId, FetchTarget] = {}
        self._told: dict[PartitionId, FetchTarget] = {}
        self._shown: dict[PartitionId, tuple[int, int]] = {}
        """High watermark and log start as last told; (-1, -1) makes the next answer mention the partition."""
        self._full = True
        self._unheard: set[PartitionId] = set()
        """What was told when nobody wanted it any more, or wanted it under another leader epoch."""

    def want(self, id: PartitionId, target: FetchTarget) -> None:
        self._wanted.pop(id, None)
        self._wanted[id] = target

    def forget(self, id: PartitionId) -> None:
        self._wanted.pop(id, None)

    async def fetch(
        self, *, max_bytes: int, max_wait_ms: int, min_bytes: int = 1, timeout_seconds: float
    ) -> FetchAnswer:
        if not self._wanted:
            raise ValueError("a fetch with nothing wanted")
        clock = self._cluster.clock
        self._cluster.fetches += 1
        full, self._full = self._full or not self._unheard.isdisjoint(self._wanted), True
        self._tell(full)
        sent_monotonic, sent_ms = clock.monotonic(), clock.now_ms()
        deadline = sent_monotonic + max_wait_ms / 1000
        await asyncio.sleep(LATENCY_SECONDS)
        while True:
            self._check_up()
            throttled = self._cluster.throttle_ms
            answers = [] if throttled else self._answers(max_bytes, full)
            left = deadline - clock.monotonic()
            if answers or throttled or left <= 0:
                break
            await self._cluster.something_changed(left)
        for answer in answers:
            error = bool(answer.error_code)
            self._shown[answer.id] = (-1, -1) if error else (answer.high_watermark, answer.log_start_offset)
            if answer.records:  # served last, so that those that came short come first
                self._told[answer.id] = self._told.pop(answer.id)
        seconds = LATENCY_SECONDS + sum(len(answer.records) for answer in answers) / self._cluster.bytes_per_second
        if clock.monotonic() + seconds > sent_monotonic + timeout_seconds:
            await asyncio.sleep(sent_monotonic + timeout_seconds - clock.monotonic())
            raise KafkaUnavailableError("no answer in time", code=KafkaErrorCode.REQUEST_TIMED_OUT)
        await asyncio.sleep(seconds)
        self._check_up()
        self._full = False
        heard = tuple(answer for answer in answers if self._meant(answer.id))
        self._unheard = {answer.id for answer in answers} - {answer.id for answer in heard}
        return FetchAnswer(
            throttle_ms=throttled,
            full=full and not throttled,
            partitions=heard,
            size_bytes=sum(len(answer.records) for answer in answers),
            sent_monotonic=sent_monotonic,
            answered_monotonic=clock.monotonic(),
            sent_ms=sent_ms,
            answered_ms=clock.now_ms(),
        )

    def _meant(self, id: PartitionId) -> bool:
        wanted = self._wanted.get(id)
        return wanted is not None and wanted.current_leader_epoch == self._told[id].current_leader_epoch

    async def close(self, *, timeout_seconds: float = 2.0) -> None:
        self._full = True

    def _check_up(self) -> None:
        if self._node_id in self._cluster.down | self._cluster.cut_off:
            raise KafkaUnavailableError(f"the connection to broker {self._node_id} broke")

    def _tell(self, full: bool) -> None:
        if full:
            self._told, self._shown = dict(self._wanted), {}
        else:
            for id in [id for id in self._told if id not in self._wanted]:
                del self._told[id]
                self._shown.pop(id, None)
            for id, target in self._wanted.items():
                if self._told.get(id) != target:
                    self._told[id] = target

    def _answers(self, max_bytes: int, full: bool) -> list[PartitionAnswer]:
        answers = []
        left = max_bytes
        served = False
        for id, target in self._told.items():
            answer = self._cluster.answer(self._node_id, id, target, left, whole_first=not served)
            served = served or bool(answer.records)
            left = max(0, left - len(answer.records))
            changed = self._shown.get(id, (-1, -1)) != (answer.high_watermark, answer.log_start_offset)
            if full or answer.records or answer.error_code or answer.diverging or changed:
                answers.append(answer)
        return answers


def _no_topic(name: str, error: int) -> TopicMetadata:
    return TopicMetadata(name=name, topic_id=TopicId("A" * 22), internal=False, error_code=error, partitions=())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
