"""Footers, checkpoints and snapshots of any content that the specification allows."""

from __future__ import annotations

from hypothesis import strategies as st

from kbackupd.format.keys import checkpoint_key, segment_key, snapshot_key
from kbackupd.model.events import (
    Gap,
    GapCause,
    LedgerEvent,
    PartitionSeen,
    Paused,
    TopicDeleted,
    TopicExcluded,
    TopicSeen,
    Truncated,
)
from kbackupd.model.positions import PartitionId, TopicId, topic_id_from_uuid
from kbackupd.model.segment import (
    Checkpoint,
    EarlierEpoch,
    Footer,
    ObjectRef,
    OpenTransaction,
    PartitionCheckpoint,
    Run,
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
from tests.unit.format.samples import IDENTITY

OFFSETS = st.integers(0, 2**62)
INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(-(2**62), 2**62)
SMALL = st.integers(0, 2**31 - 1)
EPOCHS = st.integers(-1, 2**31 - 1)
TEXT = st.text(max_size=20)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
REFS = st.builds(ObjectRef, TEXT, DIGESTS)
CONFIGS = st.dictionaries(TEXT, TEXT, max_size=3)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    cuts = sorted(draw(st.sets(st.integers(0, 10**15), max_size=6)))
    return tuple(zip(cuts[::2], cuts[1::2], strict=False))


@st.composite
def leader_epochs(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    epochs = sorted(draw(st.sets(st.integers(0, 1000), max_size=3)))
    starts = sorted(draw(st.lists(OFFSETS, min_size=len(epochs), max_size=len(epochs))))
    return tuple(zip(epochs, starts, strict=True))


def partition_ids(topics: dict[TopicId, str]) -> st.SearchStrategy[PartitionId]:
    return st.builds(PartitionId, st.sampled_from(list(topics)), SMALL)


@st.composite
def runs(draw: st.DrawFn, topics: dict[TopicId, str], position: int) -> Run:
    asked, first, following = draw(OFFSETS), draw(OFFSETS), draw(OFFSETS)
    codec = draw(st.sampled_from(("none", "zstd")))
    stored = draw(st.integers(0, 2**40))
    return Run(
        id=draw(partition_ids(topics)),
        system=draw(st.booleans()),
        asked_offset=asked,
        first_offset=first,
        next_offset=max(asked, first, following),
        branch=draw(SMALL),
        replica=draw(st.integers(-1, 2**31 - 1)),
        captured_ms=draw(TIMES),
        batches=draw(SMALL),
        records=draw(OFFSETS),
        flags=RunFlag(draw(st.integers(0, 63))),
        base_timestamp_ms=draw(INT64),
        max_timestamp_ms=draw(INT64),
        largest_batch_bytes=draw(SMALL),
        position=position,
        stored_bytes=stored,
        raw_bytes=stored if codec == "none" else draw(OFFSETS),
        codec=codec,
        crc32c=draw(st.integers(0, 2**32 - 1)),
        leader_epochs=draw(leader_epochs()),
    )


def events(topics: dict[TopicId, str]) -> st.SearchStrategy[LedgerEvent]:
    paused = st.builds(Paused, topics=TEXT, paused=st.booleans(), at_ms=TIMES)
    if not topics:
        return paused
    topic_ids, ids = st.sampled_from(list(topics)), partition_ids(topics)
    seen = st.builds(
        TopicSeen,
        topic_id=topic_ids,
        name=st.just(""),
        partitions=SMALL,
        internal=st.booleans(),
        at_ms=TIMES,
        configs=CONFIGS,
        previous=st.none() | st.uuids().map(topic_id_from_uuid),
    ).map(lambda event: _named(event, topics))
    return st.one_of(
        paused,
        seen,
        st.builds(TopicDeleted, topic_id=topic_ids, at_ms=TIMES),
        st.builds(TopicExcluded, topic_id=topic_ids, at_ms=TIMES),
        st.builds(
            PartitionSeen,
            id=ids,
            first_offset=INT64,
            log_start_offset=INT64,
            high_watermark=INT64,
            leader_epoch=EPOCHS,
            at_ms=TIMES,
        ),
        st.builds(
            Gap,
            id=ids,
            branch=SMALL,
            first_offset=st.integers(0, 2**30),
            next_offset=st.integers(2**30, 2**62),
            cause=st.sampled_from(GapCause),
            at_ms=TIMES,
        ),
        st.builds(Truncated, id=ids, branch=SMALL, parent=SMALL, offset=OFFSETS, leader_epoch=EPOCHS, at_ms=TIMES),
    )


def _named(event: TopicSeen, topics: dict[TopicId, str]) -> TopicSeen:
    return TopicSeen(
        topic_id=event.topic_id,
        name=topics[event.topic_id],
        partitions=event.partitions,
        internal=event.internal,
        at_ms=event.at_ms,
        configs=event.configs,
        previous=event.previous,
    )


@st.composite
def earlier_epochs(draw: st.DrawFn, writer_epoch: int) -> tuple[EarlierEpoch, ...]:
    epochs = sorted(draw(st.sets(st.integers(0, writer_epoch - 1), max_size=3))) if writer_epoch else []
    return tuple(
        EarlierEpoch(writer_epoch=epoch, durable=draw(ranges()), last=draw(st.none() | REFS)) for epoch in epochs
    )


OUTCOMES = {"offset": OFFSETS, "producer_id": INT64, "producer_epoch": EPOCHS, "committed": st.booleans()}
OPEN = {"producer_id": INT64, "producer_epoch": EPOCHS, "first_offset": OFFSETS}
SAMPLES = {
    "sent_ms": TIMES,
    "answered_ms": TIMES,
    "log_start_offset": INT64,
    "last_stable_offset": INT64,
    "high_watermark": INT64,
    "leader_epoch": EPOCHS,
}


@st.composite
def footers(draw: st.DrawFn) -> Footer:
    topics = draw(st.dictionaries(st.uuids().map(topic_id_from_uuid), TEXT, max_size=4))
    epoch, seq = draw(st.integers(0, 10**10 - 1)), draw(st.integers(0, 10**16 - 1))
    sealed_ms = draw(st.integers(0, 10**13 - 1))
    rows = st.integers(0, 3 if topics else 0)
    kept: list[Run] = []
    position = 8
    for _ in range(draw(rows)):
        kept.append(draw(runs(topics, position)))
        position += kept[-1].stored_bytes
    ids = partition_ids(topics) if topics else st.nothing()
    outcomes = st.builds(TransactionOutcome, id=ids, **OUTCOMES)
    opened = st.builds(OpenTransaction, id=ids, **OPEN)
    samples = st.builds(Sample, id=ids, **SAMPLES)
    return Footer(
        identity=IDENTITY,
        key=segment_key("main", epoch, seq, sealed_ms),
        writer="main",
        writer_epoch=epoch,
        seq=seq,
        previous=draw(st.none() | REFS),
        in_flight=tuple(sorted(draw(st.sets(st.integers(0, seq - 1), max_size=4)))) if seq else (),
        earlier=draw(earlier_epochs(epoch)),
        sealed_ms=sealed_ms,
        sealed_monotonic_ms=draw(INT64),
        body_bytes=position,
        body_sha256=draw(DIGESTS),
        topics=topics,
        runs=tuple(kept),
        outcomes=tuple(draw(outcomes) for _ in range(draw(rows))),
        open_transactions=tuple(draw(opened) for _ in range(draw(rows))),
        samples=tuple(draw(samples) for _ in range(draw(rows))),
        events=tuple(draw(st.lists(events(topics), max_size=4))),
    )


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    topics = draw(st.dictionaries(st.uuids().map(topic_id_from_uuid), TEXT, max_size=4))
    epoch, number = draw(st.integers(0, 10**10 - 1)), draw(st.integers(0, 10**16 - 1))
    partitions = st.builds(
        PartitionCheckpoint,
        id=partition_ids(topics) if topics else st.nothing(),
        first_offset=OFFSETS,
        next_offset=OFFSETS,
        branch=SMALL,
        next_branch=SMALL,
        state=TEXT,
        leader_epoch=EPOCHS,
        leader_epochs=leader_epochs(),
        open_transactions=st.lists(st.tuples(INT64, EPOCHS, OFFSETS), max_size=2).map(tuple),
    )
    return Checkpoint(
        identity=IDENTITY,
        key=checkpoint_key("main", epoch, number),
        writer="main",
        writer_epoch=epoch,
        number=number,
        sealed_ms=draw(st.integers(0, 2**62)),
        chain_head=draw(st.none() | REFS),
        coverage=draw(st.dictionaries(st.integers(0, 10**10 - 1), ranges(), max_size=3)),
        declared_next_epoch=draw(SMALL),
        segments=tuple(draw(st.lists(st.tuples(TEXT, DIGESTS, OFFSETS), max_size=3))),
        events=draw(OFFSETS),
        topics=tuple(
            TopicCheckpoint(
                id=topic_id,
                name=name,
                partitions=draw(SMALL),
                internal=draw(st.booleans()),
                configs=draw(CONFIGS),
                closed=draw(st.booleans()),
            )
            for topic_id, name in topics.items()
        ),
        partitions=tuple(draw(st.lists(partitions, max_size=3))) if topics else (),
        pauses=tuple(draw(st.lists(TEXT, max_size=2))),
    )


PARTS = st.builds(PartState, outcome=st.sampled_from(ReadOutcome), cause=TEXT, answered_ms=TIMES)
GROUPS_CONTENTS = st.builds(
    GroupsContent,
    lists_all=st.booleans(),
    coordinators=st.lists(st.builds(CoordinatorState, node_id=EPOCHS, part=PARTS), max_size=3).map(tuple),
    groups=st.lists(
        st.builds(
            GroupState,
            group_id=TEXT,
            type=TEXT,
            protocol_type=TEXT,
            state=TEXT,
            coordinator=EPOCHS,
            members=EPOCHS,
            part=PARTS,
            sent_ms=TIMES,
            positions=st.lists(
                st.builds(
                    CommittedOffset,
                    topic_id=st.none() | st.uuids().map(topic_id_from_uuid),
                    topic=TEXT,
                    partition=SMALL,
                    offset=OFFSETS,
                    leader_epoch=EPOCHS,
                    metadata=TEXT,
                ),
                max_size=3,
            ).map(tuple),
        ),
        max_size=3,
        unique_by=lambda group: group.group_id,
    ).map(tuple),
)
CLUSTER_CONTENTS = st.builds(
    ClusterContent,
    brokers_part=PARTS,
    brokers=st.lists(
        st.builds(BrokerState, node_id=EPOCHS, host=TEXT, port=st.integers(0, 65535), rack=TEXT), max_size=2
    ).map(tuple),
    topics_part=PARTS,
    topics=st.lists(
        st.builds(
            TopicState,
            topic_id=st.uuids().map(topic_id_from_uuid),
            name=TEXT,
            partitions=SMALL,
            internal=st.booleans(),
            part=PARTS,
            configs=CONFIGS,
        ),
        max_size=3,
        unique_by=lambda topic: topic.topic_id,
    ).map(tuple),
    acls_part=PARTS,
    acls=st.lists(st.builds(Acl, *[TEXT] * 7), max_size=3).map(tuple),
    quotas_part=PARTS,
    quotas=st.lists(
        st.builds(
            Quota,
            entity=st.dictionaries(TEXT, st.none() | TEXT, max_size=2),
            values=st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=2),
        ),
        max_size=2,
    ).map(tuple),
)


@st.composite
def groups_snapshots(draw: st.DrawFn) -> Snapshot[GroupsContent]:
    epoch, number, taken_ms = (draw(st.integers(0, 10**digits - 1)) for digits in (10, 16, 13))
    return Snapshot(
        identity=IDENTITY,
        key=snapshot_key("groups", "main", epoch, number, taken_ms),
        writer="main",
        writer_epoch=epoch,
        number=number,
        asked_ms=draw(st.integers(0, 2**62)),
        taken_ms=taken_ms,
        previous=draw(st.none() | REFS),
        content=draw(GROUPS_CONTENTS),
    )


@st.composite
def cluster_snapshots(draw: st.DrawFn) -> Snapshot[ClusterContent]:
    epoch, number, taken_ms = (draw(st.integers(0, 10**digits - 1)) for digits in (10, 16, 13))
    return Snapshot(
        identity=IDENTITY,
        key=snapshot_key("cluster", "main", epoch, number, taken_ms),
        writer="main",
        writer_epoch=epoch,
        number=number,
        asked_ms=draw(st.integers(0, 2**62)),
        taken_ms=taken_ms,
        previous=draw(st.none() | REFS),
        content=draw(CLUSTER_CONTENTS),
    )
