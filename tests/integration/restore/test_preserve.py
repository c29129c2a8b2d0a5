"""`offsets: preserve`: every record where it was, nothing else to be seen, and committed positions go on as they stand.

Hazards 10 (markers and aborted records), 25 (topics that end in a marker), 32 (positions and holes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as ConfluentPartition
from confluent_kafka.admin import AdminClient

from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.model.settings import KeepOffsets
from kbackupd.restore.preflight import PreflightError
from kbackupd.restore.preserve import Way
from kbackupd.restore.report import RestoreReport, Verdict
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Isolation, Outcome, Record, Truth, raw_log, read_topic, split_batches
from kbackupd.testbed.workload import Draft, RecordMaker, Transactions, produce
from tests.archive_builder import ArchiveBuilder
from tests.integration.restore.mirror import mirror_topic, restore
from tests.unit.restore.planned import archive_everything, settings_for

Names = Callable[[], str]
BOTH: tuple[Isolation, Isolation] = ("read_committed", "read_uncommitted")


async def preserved(kafka: KafkaServer, source: str, target: str, *, partitions: int = 1) -> RestoreReport:
    built = await ArchiveBuilder.create()
    mirror_topic(built, kafka, source, partitions=partitions)
    await archive_everything(built)
    return await restore(built, settings_for(kafka.bootstrap, {source: target}, offsets=KeepOffsets.PRESERVE))


def drafts(seed: str, count: int, *, partition: int = 0) -> Iterator[Draft]:
    maker = RecordMaker(seed)
    return (maker.draft(partition) for _ in range(count))


def assert_in_place(source: dict[int, list[Record]], kafka: KafkaServer, target: str) -> None:
    """The very same records at the very same offsets, whatever the reader's isolation level."""
    for isolation in BOTH:
        assert read_topic(kafka.bootstrap, target, isolation=isolation) == source


def log_end(kafka: KafkaServer, topic: str, partition: int = 0) -> int:
    """By the broker's own files, markers included."""
    return list(split_batches(raw_log(kafka, topic, partition)))[-1].next_offset


def resumed(kafka: KafkaServer, topic: str, *offsets: int) -> list[int | None]:
    """For each: the offset of the first record that a group reads which committed it; None: it is at the end."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": f"resumed-{topic}",
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
        }
    )
    found: list[int | None] = []
    try:
        for offset in offsets:
            consumer.commit(offsets=[ConfluentPartition(topic, 0, offset)], asynchronous=False)
            consumer.assign([ConfluentPartition(topic, 0)])
            message = consumer.poll(60)
            assert message is not None
            found.append(None if message.error() is not None else message.offset())
            consumer.unassign()
        return found
    finally:
        consumer.close()


async def test_a_topic_heavy_with_transactions_comes_back_offset_by_offset(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    source, target, truth = create_topic(kafka.bootstrap, unique_topic(), partitions=2), unique_topic(), Truth()
    ends = [Outcome.COMMITTED, Outcome.ABORTED, Outcome.COMMITTED]
    for life in range(3):  # of the same two producers: each takes its id over, with the next epoch
        producers = [Transactions(kafka.bootstrap, truth, transactional_id=f"{source}-{number}") for number in range(2)]
        for number in range(20 * life, 20 * life + 20):
            producers[number % 2].produce(
                ((source, draft) for side in range(2) for draft in drafts(f"{number}", number % 4 + 1, partition=side)),
                outcome=ends[number % 3],
            )
            if number % 7 == 0:
                produce(kafka.bootstrap, truth, source, drafts(f"plain {number}", 3))
        for producer in producers:
            producer.settle()

    report = await preserved(kafka, source, target, partitions=2)

    before = read_topic(kafka.bootstrap, source)
    assert report.verdict is Verdict.COMPLETE
    assert report.filling is Way.MARKERS
    assert_in_place(before, kafka, target)
    for side in range(2):
        partition = report.topics[0].partitions[side]
        assert log_end(kafka, target, side) == log_end(kafka, source, side) == partition.target_next_offset
        assert partition.offsets_filled == log_end(kafka, source, side) - len(before[side]) > 60
        assert all(run.source_offset == run.target_offset for run in partition.offset_map)
    # Every position that could be committed at the source goes on at the same record, the end included.
    offsets = [record.offset for record in before[0]]
    committed = [*range(0, offsets[-1], 17), offsets[-1], log_end(kafka, source)]
    expected = [next((offset for offset in offsets if offset >= one), None) for one in committed]
    assert resumed(kafka, target, *committed) == expected


async def test_a_compacted_topic_comes_back_with_the_holes_it_had(kafka: KafkaServer, unique_topic: Names) -> None:
    """The log as compaction leaves it: holes inside batches, between them, at the beginning and at the end."""
    target, built = unique_topic(), await ArchiveBuilder.create()
    log = built.log(built.topic("compacted", configs={"cleanup.policy": "compact"}, first_offset=5), 0)
    offsets = [9, 10, 12, 15, 40, 41, 300, 1_000, 1_001, 1_003]
    for first, count in ((0, 4), (4, 2), (6, 1), (7, 3)):
        held = offsets[first : first + count]
        base = held[0] - (3 if first else 1)
        records = [RawRecord(0, 0, offset - base, encode_body(b"key-%d" % offset, b"v")) for offset in held]
        log.add(build_batch(records, base_offset=base, last_offset_delta=held[-1] - base + 2, base_timestamp_ms=1))
    await archive_everything(built)

    report = await restore(built, settings_for(kafka.bootstrap, {"compacted": target}, offsets=KeepOffsets.PRESERVE))

    assert report.verdict is Verdict.COMPLETE
    assert report.topics[0].config_held["cleanup.policy"] == "compact"
    for isolation in BOTH:
        found = read_topic(kafka.bootstrap, target, isolation=isolation)[0]
        assert [(record.offset, record.key) for record in found] == [(offset, b"key-%d" % offset) for offset in offsets]
    assert report.topics[0].partitions[0].target_first_offset == 5
    assert log_end(kafka, target) == log.next_offset == 1_006
    assert resumed(kafka, target, 5, 11, 13, 301, 1_004, 1_006) == [9, 12, 15, 1_000, None, None]


@pytest.mark.parametrize(("asked", "at"), [(KeepOffsets.AUTO, [7, 9, 10]), (KeepOffsets.COMPACT, [0, 1, 2])])
async def test_schemas_keep_their_offsets_where_nobody_asks_for_others(
    kafka: KafkaServer, unique_topic: Names, asked: KeepOffsets, at: list[int]
) -> None:
    built, schemas, orders = await ArchiveBuilder.create(), unique_topic(), unique_topic()
    for name in ("_schemas", "orders"):
        log = built.log(built.topic(name, configs={"cleanup.policy": "compact"}, first_offset=7), 0)
        records = [RawRecord(0, 0, delta, encode_body(b"key-%d" % delta, b"v")) for delta in (0, 2, 3)]
        log.add(build_batch(records, base_offset=7, last_offset_delta=3, base_timestamp_ms=1))
    await archive_everything(built)

    settings = settings_for(kafka.bootstrap, {"_schemas": schemas, "orders": orders}, offsets=asked)
    report = await restore(built, settings)

    assert report.verdict is Verdict.COMPLETE
    for isolation in BOTH:
        assert [record.offset for record in read_topic(kafka.bootstrap, schemas, isolation=isolation)[0]] == at
        assert [record.offset for record in read_topic(kafka.bootstrap, orders, isolation=isolation)[0]] == [0, 1, 2]


async def test_an_empty_topic_that_is_beyond_the_offsets_is_refused_and_one_that_is_before_them_is_not(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    target = create_topic(kafka.bootstrap, unique_topic())
    produce(kafka.bootstrap, Truth(), target, drafts("gone", 10))
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for deleted in admin.delete_records([ConfluentPartition(target, 0, 10)]).values():
        deleted.result(60)

    async def kept(first_offset: int) -> RestoreReport:
        built = await ArchiveBuilder.create()
        built.log(built.topic("orders", first_offset=first_offset), 0).append([b"one"])
        await archive_everything(built)
        return await restore(built, settings_for(kafka.bootstrap, {"orders": target}, offsets=KeepOffsets.PRESERVE))

    with pytest.raises(PreflightError) as refused:
        await kept(9)
    report = await kept(25)

    assert [problem.what for problem in refused.value.problems] == [
        f"topic {target} is empty, but beyond what is to be kept: partition 0 ends at 10, its records begin at 9"
    ]
    assert (report.verdict, report.topics[0].partitions[0].offsets_filled) == (Verdict.COMPLETE, 15)
    assert [record.offset for record in read_topic(kafka.bootstrap, target)[0]] == [25]


async def test_a_look_up_by_time_in_a_log_with_filled_holes_is_never_too_late(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    """Markers carry the time of the restore: what docs/restore.md says that costs, and no more than that."""
    target, built = unique_topic(), await ArchiveBuilder.create()
    log, then_ms = built.log(built.topic("orders"), 0), 1_700_000_000_000
    first_of: dict[int, int] = {}
    for number in range(5):
        first_of[then_ms + number * 1_000] = log.next_offset
        log.append([b"one", b"two"], timestamp_ms=then_ms + number * 1_000, producer_id=7, transactional=True)
        log.end_transaction(7, committed=True)
    await archive_everything(built)

    await restore(built, settings_for(kafka.bootstrap, {"orders": target}, offsets=KeepOffsets.PRESERVE))

    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": target})
    try:
        found = {
            stamp: consumer.offsets_for_times([ConfluentPartition(target, 0, stamp)], timeout=60)[0].offset
            for stamp in first_of
        }
    finally:
        consumer.close()
    first_hole = 2
    assert found == {stamp: min(offset, first_hole) for stamp, offset in first_of.items()}
