"""One small archive, the same at every call: what the golden files hold and most tests begin with."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import replace

from kbackupd.format.batch import scan_batches
from kbackupd.format.header import LOG_APPEND_TIME
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.format.segment import RunDraft, SegmentDraft
from kbackupd.model.archive import ArchiveDocument, WriterClaim
from kbackupd.model.events import (
    Gap,
    GapCause,
    PartitionSeen,
    Paused,
    TopicDeleted,
    TopicExcluded,
    TopicSeen,
    Truncated,
)
from kbackupd.model.path import RecordBatches
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.segment import (
    Checkpoint,
    EarlierEpoch,
    Identity,
    ObjectRef,
    OpenTransaction,
    PartitionCheckpoint,
    RunFlag,
    Sample,
    TopicCheckpoint,
    TransactionOutcome,
)
from kbackupd.model.snapshots import (
    Acl,
    BrokerState,
    ClusterContent,
    CommittedOffset,
    CoordinatorState,
    GroupsContent,
    GroupState,
    PartState,
    Quota,
    ReadOutcome,
    Snapshot,
    TopicState,
)

IDENTITY = Identity(
    backup_id="main", archive_id="7b0c1f4e-6f0e-4b39-9a51-0c3e5d1f2a77", cluster_id="MkU3OEVBNTcwNTJENDM2Qg"
)
NOW_MS = 1_774_300_000_000
ORDERS = TopicId("b8tRS7h4TJ2Vt43Dp85v2A")
OLD_ORDERS = TopicId("YQ2DlcVbQvyGVSgFl1rqpA")
OFFSETS = TopicId("u4bWkOHxQv-Zr0fyrqtXCw")
TOPICS = {ORDERS: "orders", OLD_ORDERS: "orders", OFFSETS: "__consumer_offsets"}
EARLIER_KEY = "segments/main/0000000006/0000000000000041-1774299000000.kbs"
EARLIER = ObjectRef(EARLIER_KEY, hashlib.sha256(b"earlier").hexdigest())

COMMIT_KEY = struct.pack(">hh", 0, 1)
ABORT_KEY = struct.pack(">hh", 0, 0)


def records(count: int, *, value: bytes = b"value") -> list[RawRecord]:
    return [
        RawRecord(
            0, 10 * delta, delta, encode_body(b"key-%d" % delta, value, ((b"trace", b"\x00\xff"), (b"trace", None)))
        )
        for delta in range(count)
    ]


def batch(base_offset: int, count: int = 2, *, codec: int = 0, value: bytes = b"value", leader_epoch: int = 3) -> bytes:
    return build_batch(
        records(count, value=value),
        codec=codec,
        base_offset=base_offset,
        base_timestamp_ms=NOW_MS,
        leader_epoch=leader_epoch,
    )


def transactional_batch(base_offset: int, *, producer_id: int, producer_epoch: int = 0, count: int = 2) -> bytes:
    return build_batch(
        records(count),
        base_offset=base_offset,
        base_timestamp_ms=NOW_MS,
        leader_epoch=3,
        transactional=True,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=0,
    )


def marker(base_offset: int, *, producer_id: int, producer_epoch: int = 0, key: bytes = COMMIT_KEY) -> bytes:
    """A control batch as the broker's transaction coordinator writes it."""
    return build_batch(
        [RawRecord(0, 0, 0, encode_body(key, struct.pack(">hi", 0, 7)))],
        base_offset=base_offset,
        base_timestamp_ms=NOW_MS,
        leader_epoch=3,
        transactional=True,
        control=True,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
    )


def fetched(
    chunk: bytes | memoryview, *, id_: PartitionId, asked_offset: int, branch: int = 0, replica: int = 1
) -> RecordBatches:
    return RecordBatches(
        id=id_,
        system=id_.topic_id == OFFSETS,
        asked_offset=asked_offset,
        branch=branch,
        replica=replica,
        captured_ms=NOW_MS + 100,
        chunk=chunk,
        scan=scan_batches(chunk, asked_offset=asked_offset),
    )


def corrupt_run() -> RunDraft:
    """Bytes that failed their CRC at the source, kept as they came."""
    damaged = bytearray(batch(500))
    damaged[70] ^= 1
    draft = RunDraft.of(fetched(bytes(damaged), id_=PartitionId(ORDERS, 2), asked_offset=500))
    draft.flags |= RunFlag.CORRUPT
    draft.next_offset = 502
    return draft


def example_runs() -> list[RunDraft]:
    """Plain (and compressible), transactional over two fetches, compressed by its producer, a system topic, corrupt."""
    plain = RunDraft.of(fetched(batch(40, 4, value=b"v" * 120), id_=PartitionId(ORDERS, 0), asked_offset=40))
    begun = transactional_batch(7, producer_id=4001) + marker(9, producer_id=4001)
    transactional = RunDraft.of(fetched(begun, id_=PartitionId(ORDERS, 1), asked_offset=5))
    more = fetched(transactional_batch(10, producer_id=4002), id_=PartitionId(ORDERS, 1), asked_offset=10)
    assert transactional.accepts(more)
    transactional.append(more)
    zipped = RunDraft.of(fetched(batch(3_000_000_000, 3, codec=1), id_=PartitionId(OLD_ORDERS, 0), asked_offset=0))
    system = RunDraft.of(fetched(batch(17, 1), id_=PartitionId(OFFSETS, 49), asked_offset=17))
    return [plain, transactional, zipped, system, corrupt_run()]


EVENTS = (
    TopicSeen(
        topic_id=ORDERS,
        name="orders",
        partitions=3,
        internal=False,
        at_ms=NOW_MS,
        configs={"retention.ms": "86400000", "message.timestamp.type": "CreateTime"},
        previous=OLD_ORDERS,
    ),
    TopicDeleted(topic_id=OLD_ORDERS, at_ms=NOW_MS),
    TopicExcluded(topic_id=OLD_ORDERS, at_ms=NOW_MS),
    PartitionSeen(
        id=PartitionId(ORDERS, 0),
        first_offset=40,
        log_start_offset=12,
        high_watermark=44,
        leader_epoch=3,
        at_ms=NOW_MS,
    ),
    Gap(
        id=PartitionId(ORDERS, 0),
        branch=0,
        first_offset=12,
        next_offset=40,
        cause=GapCause.EXCLUDED,
        at_ms=NOW_MS,
    ),
    Truncated(id=PartitionId(ORDERS, 1), branch=1, parent=0, offset=9, leader_epoch=4, at_ms=NOW_MS),
    Paused(topics="pay*", paused=True, at_ms=NOW_MS),
)


def example_draft() -> SegmentDraft:
    """A segment in which every table of the footer has rows."""
    return SegmentDraft(
        identity=IDENTITY,
        writer="main",
        writer_epoch=7,
        seq=3,
        previous=EARLIER,
        in_flight=(1, 2),
        earlier=(EarlierEpoch(writer_epoch=6, durable=((0, 40), (41, 42)), last=EARLIER),),
        sealed_ms=NOW_MS + 1_000,
        sealed_monotonic_ms=123_456,
        topics=TOPICS,
        runs=example_runs(),
        outcomes=(
            TransactionOutcome(id=PartitionId(ORDERS, 1), offset=9, producer_id=4001, producer_epoch=0, committed=True),
        ),
        open_transactions=(
            OpenTransaction(id=PartitionId(ORDERS, 1), producer_id=4002, producer_epoch=0, first_offset=10),
        ),
        samples=(
            Sample(
                id=PartitionId(ORDERS, 0),
                sent_ms=NOW_MS,
                answered_ms=NOW_MS + 100,
                log_start_offset=12,
                last_stable_offset=44,
                high_watermark=44,
                leader_epoch=3,
            ),
        ),
        events=EVENTS,
    )


def footer_only_draft() -> SegmentDraft:
    """Nothing but a ledger event."""
    return SegmentDraft(
        identity=IDENTITY,
        writer="main",
        writer_epoch=1,
        seq=0,
        previous=None,
        sealed_ms=NOW_MS,
        sealed_monotonic_ms=0,
        topics={},
        events=(Paused(topics="*", paused=False, at_ms=NOW_MS),),
    )


def example_checkpoint() -> Checkpoint:
    return Checkpoint(
        identity=IDENTITY,
        key="checkpoints/main/0000000007/0000000000000002.kbc",
        writer="main",
        writer_epoch=7,
        number=2,
        sealed_ms=NOW_MS + 2_000,
        chain_head=EARLIER,
        coverage={6: ((0, 40), (41, 42)), 7: ((0, 4),)},
        declared_next_epoch=7,
        segments=((EARLIER.key, EARLIER.digest, 4_321),),
        events=8,
        topics=(
            TopicCheckpoint(
                id=ORDERS, name="orders", partitions=3, internal=False, configs={"cleanup.policy": "delete"}
            ),
            TopicCheckpoint(id=OLD_ORDERS, name="orders", partitions=1, internal=False, closed=True),
        ),
        partitions=(
            PartitionCheckpoint(
                id=PartitionId(ORDERS, 0),
                first_offset=40,
                next_offset=44,
                branch=0,
                next_branch=1,
                state="following",
                leader_epoch=3,
                leader_epochs=((3, 40),),
                open_transactions=(),
            ),
            PartitionCheckpoint(
                id=PartitionId(ORDERS, 1),
                first_offset=5,
                next_offset=12,
                branch=1,
                next_branch=2,
                state="catching-up",
                leader_epoch=4,
                leader_epochs=((3, 7), (4, 9)),
                open_transactions=((4002, 0, 10), (4003, 1, 11)),
            ),
        ),
        pauses=("pay*",),
    )


def example_backup() -> ArchiveDocument:
    return ArchiveDocument(
        backup_id=IDENTITY.backup_id,
        archive_id=IDENTITY.archive_id,
        cluster_id=IDENTITY.cluster_id,
        created_ms=NOW_MS,
        start="earliest",
        texts={"RESTORE.md": hashlib.sha256(b"text").hexdigest()},
    )


def example_claim() -> WriterClaim:
    return WriterClaim(
        key="writers/main/0000000007.json",
        identity=IDENTITY,
        writer="main",
        writer_epoch=7,
        claimed_ms=NOW_MS,
        software="kbackupd/0.1.0",
    )


GROUPS_KEY = "groups/main/0000000007/0000000000000002-1774300002000.kbn"
CLUSTER_KEY = "cluster/main/0000000007/0000000000000000-1774300002000.kbn"
ANSWERED = PartState(outcome=ReadOutcome.OK, answered_ms=NOW_MS + 1_900)


def example_groups() -> Snapshot[GroupsContent]:
    """One broker answered, one did not: its group stands as it was a minute before."""
    silent = PartState(outcome=ReadOutcome.FAILED, cause="no answer in time", answered_ms=NOW_MS - 60_000)
    hidden = PartState(outcome=ReadOutcome.DENIED, cause="GROUP_AUTHORIZATION_FAILED (30)")
    group = GroupState(
        group_id="billing",
        type="classic",
        protocol_type="consumer",
        state="Stable",
        coordinator=1,
        members=3,
        part=ANSWERED,
        sent_ms=NOW_MS + 1_890,
        positions=(
            CommittedOffset(ORDERS, "orders", 0, 43, 3, ""),
            CommittedOffset(ORDERS, "orders", 1, 12, -1, "host-1"),
            CommittedOffset(None, "gone", 0, 3_000_000_000, 0, ""),
        ),
    )
    return Snapshot(
        identity=IDENTITY,
        key=GROUPS_KEY,
        writer="main",
        writer_epoch=7,
        number=2,
        asked_ms=NOW_MS + 1_500,
        taken_ms=NOW_MS + 2_000,
        previous=ObjectRef("groups/main/0000000007/0000000000000001-1774300000000.kbn", EARLIER.digest),
        content=GroupsContent(
            lists_all=False,
            coordinators=(CoordinatorState(node_id=1, part=ANSWERED), CoordinatorState(node_id=2, part=silent)),
            groups=(
                group,
                replace(
                    group,
                    group_id="fraud",
                    type="",
                    coordinator=2,
                    members=-1,
                    part=silent,
                    sent_ms=NOW_MS - 60_010,
                    positions=group.positions[:1],
                ),
                replace(group, group_id="secret", part=hidden, sent_ms=-1, positions=()),
            ),
        ),
    )


def example_cluster() -> Snapshot[ClusterContent]:
    hidden = PartState(outcome=ReadOutcome.DENIED, cause="TOPIC_AUTHORIZATION_FAILED (29)")
    return Snapshot(
        identity=IDENTITY,
        key=CLUSTER_KEY,
        writer="main",
        writer_epoch=7,
        number=0,
        asked_ms=NOW_MS + 1_500,
        taken_ms=NOW_MS + 2_000,
        previous=None,
        content=ClusterContent(
            brokers_part=ANSWERED,
            brokers=(BrokerState(node_id=1, host="kafka-1", port=9092, rack="eu-1"),),
            topics_part=ANSWERED,
            topics=(
                TopicState(
                    topic_id=ORDERS,
                    name="orders",
                    partitions=3,
                    internal=False,
                    part=ANSWERED,
                    configs={"cleanup.policy": "compact"},
                ),
                TopicState(topic_id=OFFSETS, name="secrets", partitions=1, internal=False, part=hidden, configs={}),
            ),
            acls_part=ANSWERED,
            acls=(Acl("TOPIC", "orders", "LITERAL", "User:billing", "*", "READ", "ALLOW"),),
            quotas_part=PartState(outcome=ReadOutcome.DENIED, cause="CLUSTER_AUTHORIZATION_FAILED (31)"),
            quotas=(Quota(entity={"user": "billing", "client-id": None}, values={"producer_byte_rate": 1048576.5}),),
        ),
    )


def legacy_message(
    offset: int, value: bytes, *, magic: int = 1, codec: int = 0, log_append_time: bool = False
) -> bytes:
    """A message of magic 0 or 1 without a key."""
    attributes = codec | (LOG_APPEND_TIME if log_append_time else 0)
    inner = struct.pack(">bb", magic, attributes)
    if magic:
        inner += struct.pack(">q", NOW_MS)
    inner += struct.pack(">ii", -1, len(value)) + value
    return struct.pack(">qiI", offset, 4 + len(inner), zlib.crc32(inner)) + inner
