"""What an independent client reads from the restored topic is what it reads from the source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import pytest

from kbackupd.format.codecs import GZIP, compress_payload
from kbackupd.format.header import parse_header
from kbackupd.format.records import RawRecord, build_batch, encode_body
from kbackupd.format.stored_records import records_of
from kbackupd.restore.report import RestoreReport, Verdict
from kbackupd.restore.visibility import Visibility
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Outcome, Record, Truth, compare_records, expected, raw_log, read_topic, split_batches
from kbackupd.testbed.workload import Codec, Draft, RecordMaker, produce, produce_transaction
from tests.archive_builder import ArchiveBuilder
from tests.integration.restore.mirror import mirror_topic, restore
from tests.unit.format.test_legacy import message
from tests.unit.restore.planned import archive_everything, settings_for

Names = Callable[[], str]
DAY_MS = 86_400_000


def assert_same(source: dict[int, list[Record]], target: dict[int, list[Record]]) -> None:
    """Same records in the same order per partition; offsets may have moved together."""
    assert source.keys() == target.keys()
    differences = [
        difference
        for number in source
        for difference in compare_records(expected(source[number]), target[number], offsets=False)
    ]
    assert differences == []


async def restored(kafka: KafkaServer, source: str, target: str, *, partitions: int = 1) -> RestoreReport:
    built = await ArchiveBuilder.create()
    mirror_topic(built, kafka, source, partitions=partitions)
    await archive_everything(built)
    return await restore(built, settings_for(kafka.bootstrap, {source: target}))


def drafts(seed: str, count: int, *, partition: int = 0) -> Iterable[Draft]:
    maker = RecordMaker(seed)
    return (maker.draft(partition) for _ in range(count))


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_comes_back_with_nulls_empties_and_odd_headers(
    kafka: KafkaServer, unique_topic: Names, codec: Codec
) -> None:
    source, target = create_topic(kafka.bootstrap, unique_topic(), partitions=2), unique_topic()
    for number in range(2):
        produce(kafka.bootstrap, Truth(), source, drafts(f"{codec}-{number}", 500, partition=number), codec=codec)

    report = await restored(kafka, source, target, partitions=2)

    assert report.verdict is Verdict.COMPLETE
    assert report.records_restored == 1_000
    assert report.topics[0].partitions[0].slow_batches == 0
    assert_same(read_topic(kafka.bootstrap, source), read_topic(kafka.bootstrap, target))


async def test_only_committed_transactions_come_back_and_a_topic_may_end_in_a_marker(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    source, target, truth = create_topic(kafka.bootstrap, unique_topic()), unique_topic(), Truth()
    for number, outcome in enumerate([Outcome.COMMITTED, Outcome.ABORTED, Outcome.COMMITTED, Outcome.ABORTED]):
        produce_transaction(
            kafka.bootstrap,
            truth,
            ((source, draft) for draft in drafts(f"{number}", 50)),
            outcome=outcome,
            transactional_id=f"{source}-one",
        )
        produce(kafka.bootstrap, truth, source, drafts(f"plain {number}", 10))

    report = await restored(kafka, source, target)

    assert report.verdict is Verdict.COMPLETE
    assert (report.records_restored, report.records_aborted) == (140, 100)
    assert report.topics[0].partitions[0].control_batches == 4
    assert_same(read_topic(kafka.bootstrap, source), read_topic(kafka.bootstrap, target))
    # Nothing of the aborted ones is hidden in the target either.
    assert_same(read_topic(kafka.bootstrap, source), read_topic(kafka.bootstrap, target, isolation="read_uncommitted"))


async def test_a_hanging_transaction_is_left_out_and_listed(kafka: KafkaServer, unique_topic: Names) -> None:
    source, target, truth = create_topic(kafka.bootstrap, unique_topic()), unique_topic(), Truth()
    produce(kafka.bootstrap, truth, source, drafts("before", 5))
    produce_transaction(kafka.bootstrap, truth, ((source, draft) for draft in drafts("open", 7)), outcome=Outcome.OPEN)
    produce(kafka.bootstrap, truth, source, drafts("after", 5))

    report = await restored(kafka, source, target)

    assert (report.records_restored, report.records_undecided) == (10, 7)
    [listed] = report.topics[0].partitions[0].transactions
    assert (listed.outcome, listed.records, listed.restored) == (Visibility.UNDECIDED, 7, False)
    assert listed.first_offset == 5
    assert len(read_topic(kafka.bootstrap, target)[0]) == 10


async def test_a_topic_of_a_marker_alone_and_an_empty_one_are_created_empty(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    source, target = create_topic(kafka.bootstrap, unique_topic(), partitions=3), unique_topic()
    produce_transaction(
        kafka.bootstrap, Truth(), ((source, draft) for draft in drafts("gone", 3)), outcome=Outcome.ABORTED
    )

    report = await restored(kafka, source, target, partitions=3)

    assert report.verdict is Verdict.COMPLETE
    assert read_topic(kafka.bootstrap, target) == {0: [], 1: [], 2: []}


async def test_a_compacted_log_with_holes_comes_back_without_them(kafka: KafkaServer, unique_topic: Names) -> None:
    source = unique_topic()
    create_topic(
        kafka.bootstrap,
        source,
        config={
            "cleanup.policy": "compact",
            "segment.ms": "300",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "300",
        },
    )
    truth = Truth()
    for turn in range(4):
        produce(
            kafka.bootstrap,
            truth,
            source,
            (Draft(b"key-%d" % (n * (turn + 1) % 60), b"%d" % turn, (), 0) for n in range(100)),
        )
    await until_compacted(kafka, source, truth)

    # The cleaner may come by once more between two looks at the log.
    before = read_topic(kafka.bootstrap, source)
    for _ in range(5):
        target = unique_topic()
        report = await restored(kafka, source, target)
        after = read_topic(kafka.bootstrap, source)
        if after == before:
            break
        before = after
    else:
        raise AssertionError(f"{source} never rests")

    assert report.verdict is Verdict.COMPLETE
    partition = report.topics[0].partitions[0]
    assert partition.slow_batches > 0
    assert partition.offset_map_runs > 1
    assert_same(before, read_topic(kafka.bootstrap, target))
    mapped = {run.source_offset + n: run.target_offset + n for run in partition.offset_map for n in range(run.count)}
    assert mapped == {record.offset: number for number, record in enumerate(before[0])}


async def until_compacted(kafka: KafkaServer, topic: str, truth: Truth) -> None:
    """Produce now and then, which rolls segments, until the cleaner has been there."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        found = read_topic(kafka.bootstrap, topic)[0]
        if found[-1].offset - found[0].offset + 1 > len(found) + 100:
            return
        produce(kafka.bootstrap, truth, topic, [Draft(b"roll", b"now", (), 0)])
    raise AssertionError(f"{topic} was not compacted in time")


async def test_log_append_time_records_keep_their_timestamps_and_the_difference_in_type_is_reported(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    source, target = unique_topic(), unique_topic()
    create_topic(kafka.bootstrap, source, config={"message.timestamp.type": "LogAppendTime"})
    produce(kafka.bootstrap, Truth(), source, drafts("stamped", 300), codec="lz4")

    report = await restored(kafka, source, target)

    assert report.verdict is Verdict.COMPLETE
    assert report.topics[0].partitions[0].records_restamped == 300
    before, after = read_topic(kafka.bootstrap, source), read_topic(kafka.bootstrap, target)
    assert_same(before, after)
    assert {record.timestamp_type for record in before[0]} == {2}
    assert {record.timestamp_type for record in after[0]} == {1}


async def test_records_of_5_mb_and_timestamps_from_far_away_come_back(kafka: KafkaServer, unique_topic: Names) -> None:
    source, target = unique_topic(), unique_topic()
    create_topic(
        kafka.bootstrap,
        source,
        config={
            "max.message.bytes": "8000000",
            "message.timestamp.after.max.ms": str(1 << 62),
            "retention.ms": "-1",
        },
    )
    now_ms = 1_790_000_000_000
    stamps = [now_ms, now_ms + 25 * DAY_MS, now_ms - 25 * DAY_MS, 1, now_ms + 900 * DAY_MS]
    produce(
        kafka.bootstrap,
        Truth(),
        source,
        [Draft(b"k", bytes(5_000_000) if n == 2 else b"%d" % n, (), 0, stamp) for n, stamp in enumerate(stamps)],
    )

    report = await restored(kafka, source, target)

    assert report.verdict is Verdict.COMPLETE
    after = read_topic(kafka.bootstrap, target)
    assert_same(read_topic(kafka.bootstrap, source), after)
    assert [record.timestamp_ms for record in after[0]] == stamps


async def test_odd_timestamps_and_header_names_that_no_client_would_send_come_back_verbatim(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    target, built = unique_topic(), await ArchiveBuilder.create()
    log = built.log(built.topic("odd"), 0)
    day = 25 * DAY_MS
    bodies = [
        encode_body(None, None),
        encode_body(b"", b"", ((b"\xff\xfe", None), (b"\xff\xfe", b""), (b"", b"\x00"))),
        encode_body(b"k", b"v" * 70_000, ((b"n" * 70_000, b"v" * 70_000),)),
        encode_body(b"k", None, ((b"h", b"1"),) * 70_000),
    ]
    for codec in range(5):
        for base_ms, deltas in [(-1, (0, 0, 0, 0)), (0, (0, 1, day, 0)), (2 * day, (0, day, -day, 5 * day))]:
            records = [RawRecord(0, delta, n, body) for n, (delta, body) in enumerate(zip(deltas, bodies, strict=True))]
            log.add(build_batch(records, codec=codec, base_offset=log.next_offset, base_timestamp_ms=base_ms))
        # And once with a hole, so that the slow path has them all as well.
        holed = [RawRecord(0, n, n * 2, body) for n, body in enumerate(bodies)]
        log.add(build_batch(holed, codec=codec, base_offset=log.next_offset, base_timestamp_ms=0))
    await archive_everything(built)

    report = await restore(built, settings_for(kafka.bootstrap, {"odd": target}))

    assert report.verdict is Verdict.COMPLETE
    assert records_in(raw_log(kafka, target, 0)) == records_in(b"".join(log.batches))
    partition = report.topics[0].partitions[0]
    assert (partition.fast_batches, partition.slow_batches) == (15, 5)


async def test_messages_of_formats_0_and_1_come_back_as_format_2(kafka: KafkaServer, unique_topic: Names) -> None:
    target, built = unique_topic(), await ArchiveBuilder.create()
    log = built.log(built.topic("ancient"), 0)
    inner = b"".join(message(n, b"k%d" % n, b"in", magic=1, timestamp_ms=100 + n) for n in range(3))
    log.add(message(0, b"k", None, magic=0))
    log.add(message(1, None, b"", magic=1, timestamp_ms=55))
    log.add(message(4, None, compress_payload(GZIP, inner), magic=1, attributes=GZIP, timestamp_ms=102))
    log.append([b"new"], timestamp_ms=200)
    await archive_everything(built)

    report = await restore(built, settings_for(kafka.bootstrap, {"ancient": target}))

    assert report.verdict is Verdict.COMPLETE
    assert report.topics[0].partitions[0].records_converted == 5
    assert [(r.timestamp_ms, r.key, r.value) for r in read_topic(kafka.bootstrap, target)[0]] == [
        (-1, b"k", None),
        (55, None, b""),
        *((100 + n, b"k%d" % n, b"in") for n in range(3)),
        (200, b"k0", b"new"),
    ]


def records_in(raw: bytes) -> list[tuple[int, bytes]]:
    """(timestamp, key with value and headers as bytes) of every record in a log file."""
    return [
        (record.timestamp_ms, record.body)
        for batch in split_batches(raw)
        for record in records_of(parse_header(batch.data, 0), batch.data)
    ]
