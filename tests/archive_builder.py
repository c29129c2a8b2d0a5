"""Archives for tests, made as a daemon makes them: a source log, lives of writers, sealed segments, checkpoints.

Everything that becomes bytes goes through the code that ships (`format.segment.seal`, `archive.identity`,
`archive.recovery`, `archive.writer_state`); only the broker is played. A test decides what is captured, what becomes
durable, and when a life ends without a word.

    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=2)
    life = await built.start()
    built.log(orders, 0).append([b"one", b"two"])
    life.capture(orders, 0)
    await life.flush()
    await life.checkpoint()
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from kbackupd.archive.identity import claim_epoch, open_or_create
from kbackupd.archive.partition_state import add_epochs, cut_epochs
from kbackupd.archive.recovery import recover
from kbackupd.archive.snapshots import SnapshotLog
from kbackupd.archive.writer_state import WriterState
from kbackupd.format.batch import iter_batches, scan_batches
from kbackupd.format.checkpoint import encode_checkpoint
from kbackupd.format.cluster_snapshot import CLUSTER_FORMAT
from kbackupd.format.groups_snapshot import GROUPS_FORMAT
from kbackupd.format.keys import checkpoint_key
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.format.segment import RunDraft, SegmentDraft, seal
from kbackupd.model.archive import ArchiveDocument
from kbackupd.model.clock import ManualClock
from kbackupd.model.events import Gap, GapCause, LedgerEvent, PartitionSeen, TopicDeleted, TopicSeen, Truncated
from kbackupd.model.path import RecordBatches, SealedSegment
from kbackupd.model.positions import PartitionId, TopicId, topic_id_from_uuid
from kbackupd.model.segment import (
    EarlierEpoch,
    ObjectRef,
    OpenTransaction,
    RunFlag,
    Sample,
    TransactionOutcome,
)
from kbackupd.model.snapshots import ClusterContent, GroupsContent
from kbackupd.store.memory import MemoryStore
from kbackupd.store.scoped import ScopedStore

BACKUP_ID = "main"
CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"


class SourceLog:
    """A partition's log at the source: whole batches, as a broker would serve them."""

    def __init__(self, id: PartitionId, clock: ManualClock, *, first_offset: int = 0) -> None:
        self.id = id
        self._clock = clock
        self.log_start_offset = first_offset
        self.next_offset = first_offset
        self.epochs: list[tuple[int, int]] = [(0, first_offset)]
        self.batches: list[bytes] = []
        self._open: dict[int, int] = {}

    @property
    def leader_epoch(self) -> int:
        return self.epochs[-1][0]

    @property
    def last_stable_offset(self) -> int:
        return min([self.next_offset, *self._open.values()])

    def append(
        self,
        values: Sequence[bytes | None],
        *,
        codec: int = 0,
        producer_id: int = -1,
        producer_epoch: int = 0,
        transactional: bool = False,
        log_append_time: bool = False,
        timestamp_ms: int | None = None,
    ) -> bytes:
        """One batch, a record for each value; returns its bytes."""
        stamp = self._clock.now_ms() if timestamp_ms is None else timestamp_ms
        records = [
            RawRecord(0, number, number, encode_body(b"k%d" % number, value)) for number, value in enumerate(values)
        ]
        if transactional:
            self._open.setdefault(producer_id, self.next_offset)
        return self.add(
            build_batch(
                records,
                codec=codec,
                base_offset=self.next_offset,
                base_timestamp_ms=stamp,
                leader_epoch=self.leader_epoch,
                transactional=transactional,
                log_append_time=log_append_time,
                producer_id=producer_id,
                producer_epoch=producer_epoch if producer_id >= 0 else -1,
                base_sequence=self.next_offset if producer_id >= 0 else -1,
            )
        )

    def end_transaction(
        self, producer_id: int, *, committed: bool, producer_epoch: int = 0, timestamp_ms: int | None = None
    ) -> bytes:
        """A transaction marker, as the coordinator writes it."""
        self._open.pop(producer_id, None)
        # Key: version 0, type; value: version 0, coordinator epoch 0 (KIP-98).
        key = b"\0\0" + (b"\0\1" if committed else b"\0\0")
        body = bytes((len(key) * 2,)) + key + bytes((12,)) + b"\0\0\0\0\0\0" + b"\0"
        return self.add(
            build_batch(
                [RawRecord(0, 0, 0, body)],
                base_offset=self.next_offset,
                base_timestamp_ms=self._clock.now_ms() if timestamp_ms is None else timestamp_ms,
                leader_epoch=self.leader_epoch,
                transactional=True,
                control=True,
                producer_id=producer_id,
                producer_epoch=producer_epoch,
            )
        )

    def add(self, batch: bytes) -> bytes:
        """Any batch, at its own base offset; above the log's end it leaves a hole, as compaction does."""
        ((header, _),) = iter_batches(batch)
        assert header.base_offset >= self.next_offset, "a log grows at its end"
        if header.is_transactional and not header.is_control:
            self._open.setdefault(header.producer_id, header.base_offset)
        self.batches.append(batch)
        self.next_offset = header.next_offset
        return batch

    def fetch(self, offset: int, until: int | None = None) -> bytes:
        """Whole batches from the one that holds `offset` on, as far as they begin below `until`."""
        found = []
        for batch in self.batches:
            ((header, _),) = iter_batches(batch)
            if header.next_offset > offset and (until is None or header.base_offset < until):
                found.append(batch)
        return b"".join(found)

    def truncate(self, offset: int) -> None:
        """What an unclean election does: everything from `offset` on is gone, another leader goes on."""
        self.batches = [batch for batch in self.batches if next(iter_batches(batch))[0].next_offset <= offset]
        self.next_offset = offset
        self.log_start_offset = min(self.log_start_offset, offset)
        epoch = self.leader_epoch + 1
        cut_epochs(self.epochs, offset)
        self.epochs.append((epoch, offset))
        self._open = {producer: first for producer, first in self._open.items() if first < offset}

    def diverged_from(self, epochs: Sequence[tuple[int, int]], next_offset: int) -> int | None:
        """Where a follower that got to `next_offset` with these leader epochs must cut its log, or None (KIP-595)."""
        if not epochs:
            return self.next_offset if next_offset > self.next_offset else None
        last = epochs[-1][0]
        known = [number for number, (epoch, _) in enumerate(self.epochs) if epoch <= last]
        if not known:
            return self.epochs[0][1] if self.epochs[0][1] < next_offset else None
        number = known[-1]
        epoch = self.epochs[number][0]
        end = self.epochs[number + 1][1] if number + 1 < len(self.epochs) else self.next_offset
        if epoch == last and end >= next_offset:
            return None
        return min([end, next_offset, *(start for later, start in epochs if later > epoch)])

    def compact(self, keep: Sequence[int]) -> None:
        """Batches whose base offset is not in `keep` are compacted away."""
        self.batches = [batch for batch in self.batches if next(iter_batches(batch))[0].base_offset in keep]


@dataclass(slots=True)
class BuiltTopic:
    name: str
    partitions: int
    internal: bool
    configs: dict[str, str]
    previous: TopicId | None


class ArchiveBuilder:
    """A source cluster and its archive in a MemoryStore (`store` is the path, `scoped` the archive)."""

    def __init__(self, store: MemoryStore, document: ArchiveDocument, clock: ManualClock) -> None:
        self.store = store
        self.scoped = ScopedStore(store, document.backup_id)
        self.document = document
        self.clock = clock
        self.topics: dict[TopicId, BuiltTopic] = {}
        self._logs: dict[PartitionId, SourceLog] = {}

    @classmethod
    async def create(cls, *, backup_id: str = BACKUP_ID, store: MemoryStore | None = None) -> ArchiveBuilder:
        clock = ManualClock()
        store = MemoryStore(clock=clock) if store is None else store
        document, _ = await open_or_create(
            ScopedStore(store, backup_id), backup_id=backup_id, cluster_id=CLUSTER_ID, start="earliest", clock=clock
        )
        return cls(store, document, clock)

    def topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        internal: bool = False,
        configs: dict[str, str] | None = None,
        previous: TopicId | None = None,
        first_offset: int = 0,
    ) -> TopicId:
        """A new incarnation at the source."""
        topic_id = topic_id_from_uuid(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{len(self.topics)}"))
        self.topics[topic_id] = BuiltTopic(name, partitions, internal, configs or {}, previous)
        for number in range(partitions):
            id = PartitionId(topic_id, number)
            self._logs[id] = SourceLog(id, self.clock, first_offset=first_offset)
        return topic_id

    def log(self, topic_id: TopicId, partition: int) -> SourceLog:
        return self._logs[PartitionId(topic_id, partition)]

    def regrown(self, topic_id: TopicId, partition: int, *, first_offset: int) -> SourceLog:
        """Replace the log by an empty one that begins at `first_offset`: what a broker that lost its disk has."""
        id = PartitionId(topic_id, partition)
        self._logs[id] = SourceLog(id, self.clock, first_offset=first_offset)
        return self._logs[id]

    async def start(self, writer: str = "main") -> Life:
        """A daemon starts: claims its epoch and recovers from the bucket. An earlier life may still be writing."""
        identity = self.document.identity
        epoch = await claim_epoch(self.scoped, writer=writer, identity=identity, clock=self.clock)
        recovery = await recover(self.scoped, writer=writer, writer_epoch=epoch, identity=identity)
        return Life(self, writer, epoch, recovery.state, recovery.earlier)

    @property
    def keys(self) -> list[str]:
        """Of the archive's objects, relative to it."""
        prefix = f"{self.document.backup_id}/"
        return sorted(key.removeprefix(prefix) for key in self.store.objects)

    def data(self, key: str) -> bytes:
        return self.store.objects[f"{self.document.backup_id}/{key}"]

    def tamper(self, key: str, data: bytes | None) -> None:
        """Replace or (None) remove an object of the archive behind everybody's back."""
        self.store.tamper(f"{self.document.backup_id}/{key}", data)


@dataclass(slots=True)
class _Position:
    next_offset: int
    branch: int
    next_branch: int
    open: dict[int, tuple[int, int]] = field(default_factory=dict)
    epochs: list[tuple[int, int]] = field(default_factory=list)


class Life:
    """One start of a daemon under `writer`. Ends when the test stops using it: that is what SIGKILL looks like."""

    def __init__(
        self,
        built: ArchiveBuilder,
        writer: str,
        epoch: int,
        state: WriterState,
        earlier: tuple[EarlierEpoch, ...],
    ) -> None:
        self.built = built
        self.writer = writer
        self.epoch = epoch
        self.state = state
        self._earlier = earlier
        self._seq = 0
        self._checkpoint_number = 0
        self._last_sealed_ms = state.last_sealed_ms
        self._previous: ObjectRef | None = state.chain_head
        self._in_flight: dict[int, SealedSegment] = {}
        self._arrived: dict[int, SealedSegment] = {}
        self._applied_seq = 0
        self._new_segments: list[tuple[str, str, int]] = []
        self._snapshots: tuple[SnapshotLog[GroupsContent], SnapshotLog[ClusterContent]] | None = None
        self._positions = {
            id: _Position(p.next_offset, p.branch, p.next_branch, dict(p.open_transactions), list(p.leader_epochs))
            for id, p in state.partitions.items()
            if p.seen
        }
        # A topic or partition whose first event is in a lost segment is told again.
        self._known = {topic.id for topic in state.topics.values() if topic.partitions and not topic.closed}
        self._clear()
        for id in self._positions:
            self._beside_lost_branches(id)

    def _beside_lost_branches(self, id: PartitionId) -> None:
        """As the daemon does: it cannot join a branch of which a segment is lost, and readers take the newest."""
        position = self._positions[id]
        if position.next_branch > position.branch + 1:
            self.truncated(id.topic_id, id.partition, position.next_offset)

    def _clear(self) -> None:
        self._runs: list[RunDraft] = []
        self._events: list[LedgerEvent] = []
        self._outcomes: list[TransactionOutcome] = []
        self._samples: list[Sample] = []
        self._touched: dict[PartitionId, None] = {}

    def see(self, topic_id: TopicId) -> None:
        """The metadata loop finds a topic and its partitions."""
        topic, now = self.built.topics[topic_id], self.built.clock.now_ms()
        self._known.add(topic_id)
        self._events.append(
            TopicSeen(
                topic_id=topic_id,
                name=topic.name,
                partitions=topic.partitions,
                internal=topic.internal,
                at_ms=now,
                configs=topic.configs,
                previous=topic.previous,
            )
        )
        for number in range(topic.partitions):
            id = PartitionId(topic_id, number)
            if id in self._positions:
                continue
            log = self.built.log(topic_id, number)
            self._events.append(
                PartitionSeen(
                    id=id,
                    first_offset=log.log_start_offset,
                    log_start_offset=log.log_start_offset,
                    high_watermark=log.next_offset,
                    leader_epoch=log.leader_epoch,
                    at_ms=now,
                )
            )
            unseen = self.state.partitions.get(id)
            if unseen is not None and not unseen.seen and unseen.first_offset < log.log_start_offset:
                # As the daemon does for a partition whose first event was lost, but not all of its data.
                self._events.append(
                    Gap(
                        id=id,
                        branch=0,
                        first_offset=unseen.first_offset,
                        next_offset=log.log_start_offset,
                        cause=GapCause.LOG_START_MOVED,
                        at_ms=now,
                    )
                )
            self._positions[id] = _Position(log.log_start_offset, 0, unseen.next_branch if unseen else 1)
            self._beside_lost_branches(id)

    def know(self, topic_id: TopicId) -> None:
        """`see` it, unless this life or one whose word is durable did."""
        if topic_id not in self._known:
            self.see(topic_id)

    def follow_cut(self, topic_id: TopicId, partition: int) -> None:
        """The leader answers that its log parted from ours at an offset: go on there, on a new branch."""
        id = PartitionId(topic_id, partition)
        log, position = self.built.log(topic_id, partition), self._positions[id]
        cut = log.diverged_from(position.epochs, position.next_offset)
        if cut is not None:
            self.truncated(topic_id, partition, cut)

    def position(self, topic_id: TopicId, partition: int) -> int:
        return self._positions[PartitionId(topic_id, partition)].next_offset

    def capture(self, topic_id: TopicId, partition: int, *, until: int | None = None) -> None:
        """Fetch what the log has from our position on (batches that begin below `until`)."""
        self.know(topic_id)
        id = PartitionId(topic_id, partition)
        log, position = self.built.log(topic_id, partition), self._positions[id]
        data = log.fetch(position.next_offset, until)
        if data:
            self._take(id, data, position)
        self.sample(topic_id, partition)

    def _take(self, id: PartitionId, data: bytes, position: _Position) -> None:
        scan = scan_batches(data, asked_offset=position.next_offset)
        assert scan.good_bytes == len(data)
        batches = RecordBatches(
            id=id,
            system=self.built.topics[id.topic_id].internal,
            asked_offset=position.next_offset,
            branch=position.branch,
            replica=1,
            captured_ms=self.built.clock.now_ms(),
            chunk=data,
            scan=scan,
        )
        if self._runs and self._runs[-1].accepts(batches):
            self._runs[-1].append(batches)
        else:
            self._runs.append(RunDraft.of(batches))
        position.next_offset = scan.next_offset
        add_epochs(position.epochs, scan.leader_epochs)
        self._touched[id] = None
        for begun in scan.begun:
            position.open.setdefault(begun.producer_id, (begun.producer_epoch, begun.offset))
        for marker in scan.markers:
            begun_at = position.open.get(marker.producer_id)
            if begun_at is not None and begun_at[1] < marker.offset:
                del position.open[marker.producer_id]
            self._outcomes.append(
                TransactionOutcome(
                    id=id,
                    offset=marker.offset,
                    producer_id=marker.producer_id,
                    producer_epoch=marker.producer_epoch,
                    committed=marker.committed,
                )
            )
        # A transaction that ended within these bytes and began again is open from its second beginning on.
        last_marker = {marker.producer_id: marker.offset for marker in scan.markers}
        for begun in scan.begun:
            if begun.offset > last_marker.get(begun.producer_id, -1):
                position.open.setdefault(begun.producer_id, (begun.producer_epoch, begun.offset))

    def capture_corrupt(self, topic_id: TopicId, partition: int, data: bytes, *, next_offset: int) -> None:
        """Bytes that failed their CRC at the source: kept, flagged, and declared a gap up to `next_offset`."""
        id = PartitionId(topic_id, partition)
        position = self._positions[id]
        self._runs.append(
            RunDraft(
                id=id,
                system=False,
                asked_offset=position.next_offset,
                first_offset=position.next_offset,
                next_offset=next_offset,
                branch=position.branch,
                replica=1,
                captured_ms=self.built.clock.now_ms(),
                batches=0,
                records=0,
                flags=RunFlag.CORRUPT,
                base_timestamp_ms=-1,
                max_timestamp_ms=-1,
                largest_batch_bytes=0,
                leader_epochs=(),
                chunks=[data],
                compressed_bytes=0,
                raw_bytes=len(data),
            )
        )
        self.gap(topic_id, partition, next_offset, GapCause.CORRUPT_AT_SOURCE)

    def sample(self, topic_id: TopicId, partition: int) -> None:
        """Note what the leader's last answer said."""
        log, now = self.built.log(topic_id, partition), self.built.clock.now_ms()
        self._samples.append(
            Sample(
                id=log.id,
                sent_ms=now - 5,
                answered_ms=now,
                log_start_offset=log.log_start_offset,
                last_stable_offset=log.last_stable_offset,
                high_watermark=log.next_offset,
                leader_epoch=log.leader_epoch,
            )
        )

    def event(self, event: LedgerEvent) -> None:
        self._events.append(event)

    def gap(self, topic_id: TopicId, partition: int, next_offset: int, cause: GapCause) -> None:
        """From our position to `next_offset` nothing can be had any more; go on there."""
        id = PartitionId(topic_id, partition)
        position = self._positions[id]
        self._events.append(
            Gap(
                id=id,
                branch=position.branch,
                first_offset=position.next_offset,
                next_offset=next_offset,
                cause=cause,
                at_ms=self.built.clock.now_ms(),
            )
        )
        position.next_offset = next_offset

    def truncated(self, topic_id: TopicId, partition: int, offset: int) -> None:
        """The leader says the log was cut at `offset`: go on there, on a new branch."""
        id = PartitionId(topic_id, partition)
        position = self._positions[id]
        self._events.append(
            Truncated(
                id=id,
                branch=position.next_branch,
                parent=position.branch,
                offset=offset,
                leader_epoch=self.built.log(topic_id, partition).leader_epoch,
                at_ms=self.built.clock.now_ms(),
            )
        )
        position.branch, position.next_branch = position.next_branch, position.next_branch + 1
        position.next_offset = offset
        cut_epochs(position.epochs, offset)
        position.open = {p: (epoch, first) for p, (epoch, first) in position.open.items() if first < offset}

    def deleted(self, topic_id: TopicId) -> None:
        self._events.append(TopicDeleted(topic_id=topic_id, at_ms=self.built.clock.now_ms()))
        self._known.discard(topic_id)

    def seal(self, *, codec: Literal["zstd", "none"] = "zstd") -> SealedSegment:
        """What was captured since the last seal, as the next segment; in flight until `arrive` or the life's end."""
        self._last_sealed_ms = max(self._last_sealed_ms, self.built.clock.now_ms())
        draft = SegmentDraft(
            identity=self.built.document.identity,
            writer=self.writer,
            writer_epoch=self.epoch,
            seq=self._seq,
            previous=self._previous,
            in_flight=tuple(sorted(self._in_flight)),
            earlier=self._earlier if self._applied_seq == 0 else (),
            sealed_ms=self._last_sealed_ms,
            sealed_monotonic_ms=round(self.built.clock.monotonic() * 1000),
            topics={topic_id: topic.name for topic_id, topic in self.built.topics.items()},
            runs=self._runs,
            outcomes=tuple(self._outcomes),
            open_transactions=tuple(
                OpenTransaction(id=id, producer_id=producer_id, producer_epoch=epoch, first_offset=first)
                for id in self._touched
                for producer_id, (epoch, first) in self._positions[id].open.items()
            ),
            samples=tuple(self._samples),
            events=tuple(self._events),
        )
        sealed = seal(draft, codec=codec, level=3)
        self._in_flight[self._seq] = sealed
        self._previous = sealed.ref
        self._seq += 1
        self._clear()
        self.built.clock.advance(1)
        return sealed

    async def arrive(self, sealed: SealedSegment) -> None:
        """The upload ends well: the segment is durable, and accounted for once all before it are."""
        await self.built.scoped.put_if_absent(sealed.ref.key, sealed.parts)
        self._arrived[sealed.footer.seq] = self._in_flight.pop(sealed.footer.seq)
        while self._applied_seq in self._arrived:
            next_one = self._arrived.pop(self._applied_seq)
            self.state.apply(next_one.footer, next_one.ref)
            self._new_segments.append((next_one.ref.key, next_one.ref.digest, next_one.size_bytes))
            self._applied_seq += 1

    async def flush(self, *, codec: Literal["zstd", "none"] = "zstd") -> SealedSegment:
        sealed = self.seal(codec=codec)
        await self.arrive(sealed)
        return sealed

    async def snapshot(self, groups: GroupsContent, cluster: ClusterContent) -> None:
        """Store what the brokers say now, if it is news; the first time go on from the life before."""
        now = self.built.clock.now_ms()
        store, identity = self.built.scoped, self.built.document.identity
        if self._snapshots is None:
            writer, epoch = self.writer, self.epoch
            self._snapshots = (
                await SnapshotLog.open(store, GROUPS_FORMAT, identity=identity, writer=writer, writer_epoch=epoch),
                await SnapshotLog.open(store, CLUSTER_FORMAT, identity=identity, writer=writer, writer_epoch=epoch),
            )
        await self._snapshots[0].append(groups, asked_ms=now - 5, taken_ms=now)
        await self._snapshots[1].append(cluster, asked_ms=now - 5, taken_ms=now)

    async def checkpoint(self) -> str:
        """Write down what is accounted for; the checkpoint's key."""
        key = checkpoint_key(self.writer, self.epoch, self._checkpoint_number)
        picture = self.state.picture(
            identity=self.built.document.identity,
            key=key,
            writer_epoch=self.epoch,
            number=self._checkpoint_number,
            sealed_ms=self.built.clock.now_ms(),
            segments=tuple(self._new_segments),
            states=dict.fromkeys(self.state.partitions, "following"),
        )
        await self.built.scoped.put_if_absent(key, [encode_checkpoint(picture())])
        self._checkpoint_number += 1
        self._new_segments = []
        self.built.clock.advance(1)
        return key
