"""What is chosen comes back and nothing else: an independent client reads a filter over what it reads at home."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbackupd.format.header import parse_header
from kbackupd.format.records import RawRecord, build_batch, encode_body, rewrite_for_produce
from kbackupd.format.stored_records import records_of
from kbackupd.kafka import types
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.produce import RawProducer
from kbackupd.model.clock import SystemClock
from kbackupd.model.positions import TopicId
from kbackupd.model.scope import HeaderPattern, OffsetBounds, RecordPatterns, RecordsOf, RestoreScope, TimeWindow
from kbackupd.model.settings import SecuritySettings
from kbackupd.restore.preflight import PreflightError
from kbackupd.restore.report import RestoreReport, Verdict
from kbackupd.store.open import open_store
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.topics import create_topic
from kbackupd.testbed.truth import Outcome, Record, Truth, compare_records, expected, raw_log, read_topic, split_batches
from kbackupd.testbed.workload import CODECS, Draft, RecordMaker, produce, produce_transaction
from tests.archive_builder import ArchiveBuilder
from tests.integration.capture.backup import Backup, flush
from tests.integration.restore.mirror import mirror_topic, restore, restore_archive
from tests.integration.restore.test_command import call
from tests.integration.restore.test_fidelity import until_compacted
from tests.unit.restore.planned import archive_everything, settings_for

Names = Callable[[], str]
Wanted = Callable[[Record], bool]


def assert_filtered(source: dict[int, list[Record]], target: dict[int, list[Record]], wanted: Wanted) -> None:
    """The target has, per partition and in order, what of the source is wanted."""
    assert source.keys() == target.keys()
    assert [
        difference
        for number in source
        for difference in compare_records(
            expected([record for record in source[number] if wanted(record)]), target[number], offsets=False
        )
    ] == []


def shuffled(seed: str, partition: int, first_ms: int, next_ms: int, count: int) -> Iterator[Draft]:
    """Drafts around a window: many on both edges, the others up to a window's length outside, in no order."""
    chance, maker = random.Random(seed), RecordMaker(seed)
    edges = (first_ms - 1, first_ms, first_ms + 1, next_ms - 1, next_ms, next_ms + 1)
    length = next_ms - first_ms
    for _ in range(count):
        stamp = chance.choice(edges) if chance.random() < 0.5 else chance.randrange(first_ms - length, next_ms + length)
        yield maker.draft(partition)._replace(timestamp_ms=stamp)


def stamped_within(window: TimeWindow) -> Wanted:
    start_ms, end_ms = window.start_ms, window.end_ms
    return lambda record: (
        (start_ms is None or record.timestamp_ms >= start_ms) and (end_ms is None or record.timestamp_ms < end_ms)
    )


def records_accounted_for(report: RestoreReport) -> int:
    return (
        report.records_restored
        + report.records_cut_away
        + report.records_filtered
        + report.records_aborted
        + report.records_undecided
        + report.records_missing
    )


async def test_hazards_33_and_39_a_window_is_exact_over_shuffled_and_equal_timestamps_of_every_codec(
    backup: Backup, unique_topic: Names
) -> None:
    bootstrap = backup.kafka.bootstrap
    source, stamped = unique_topic(), unique_topic()
    create_topic(bootstrap, source, partitions=len(CODECS) + 1)
    create_topic(bootstrap, stamped, config={"message.timestamp.type": "LogAppendTime"})
    first_ms = int(time.time() * 1000) - 3_600_000
    next_ms = first_ms + 400
    daemon = backup.daemon(source, stamped)
    daemon.start()
    for turn in range(3):
        for number, codec in enumerate(CODECS):
            produce(
                bootstrap, Truth(), source, shuffled(f"{codec} {turn}", number, first_ms, next_ms, 200), codec=codec
            )
        for outcome in (Outcome.COMMITTED, Outcome.ABORTED):
            drafts = shuffled(f"{outcome} {turn}", len(CODECS), first_ms, next_ms, 60)
            produce_transaction(bootstrap, Truth(), ((source, draft) for draft in drafts), outcome=outcome)
        # One partition whose later batches lie inside as a whole.
        inside = (draft._replace(timestamp_ms=first_ms + 1) for draft in shuffled("inside", 0, first_ms, next_ms, 50))
        produce(bootstrap, Truth(), source, inside, codec="zstd")
        produce(bootstrap, Truth(), stamped, (RecordMaker(f"{turn}").draft(0) for _ in range(30)), codec="lz4")
        await flush(daemon)
    assert daemon.stop() == 0
    before, before_stamped = read_topic(bootstrap, source), read_topic(bootstrap, stamped)
    given = [record.timestamp_ms for record in before_stamped[0]]
    windows = [
        (TimeWindow(start_ms=first_ms, end_ms=next_ms), source, before),
        (TimeWindow(start_ms=first_ms), source, before),
        (TimeWindow(end_ms=next_ms), source, before),
        (TimeWindow(start_ms=given[len(given) // 3], end_ms=given[-1]), stamped, before_stamped),
    ]
    store = await open_store(backup.storage)
    try:
        for window, topic, everything in windows:
            target = unique_topic()
            settings = settings_for(bootstrap, {topic: target}, scope=RestoreScope(window=window))

            report = await restore_archive(store, settings)

            assert report.verdict is Verdict.COMPLETE
            assert 0 < report.records_restored < sum(map(len, everything.values()))
            assert_filtered(everything, read_topic(bootstrap, target), stamped_within(window))
            if topic == source:
                [told] = report.topics
                assert sum(partition.fast_batches for partition in told.partitions) > 0
                assert sum(partition.slow_batches for partition in told.partitions) > len(CODECS)
                assert records_accounted_for(report) == sum(map(len, everything.values())) + 3 * 60
    finally:
        await store.close()


async def test_a_broker_sets_a_largest_timestamp_right_that_a_client_got_wrong(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    """What skipping by headers rests on: no batch in a log says less than its records."""
    topic = create_topic(kafka.bootstrap, unique_topic())
    now_ms = int(time.time() * 1000)
    stamps = (now_ms - 5_000, now_ms, now_ms - 9_000)
    records = [RawRecord(0, stamp - stamps[0], n, encode_body(b"k", b"v")) for n, stamp in enumerate(stamps)]
    tp = types.TopicPartition(topic, 0)
    async with KafkaConnection(
        bootstrap_servers=(kafka.bootstrap,), security=SecuritySettings(), client_id="test", clock=SystemClock()
    ) as connection:
        producer = await RawProducer.open(connection)
        for number, (codec, claimed_ms) in enumerate(
            (codec, claimed) for codec in range(5) for claimed in (1, now_ms - 8_000, now_ms + 60_000)
        ):
            batch = build_batch(records, codec=codec, base_timestamp_ms=stamps[0], max_timestamp_ms=claimed_ms)
            sent = rewrite_for_produce(
                batch,
                producer_id=producer.producer_id,
                producer_epoch=producer.producer_epoch,
                base_sequence=number * len(records),
            )
            answers = await producer.produce(kafka.node_id, {tp: sent}, timeout_ms=30_000)
            assert answers[tp].error_code == types.KafkaErrorCode.NONE

    headers = [parse_header(batch.data, 0) for batch in split_batches(raw_log(kafka, topic, 0))]

    assert [header.max_timestamp for header in headers] == [now_ms] * 15


async def test_a_window_over_a_compacted_log_is_exact_and_its_headers_still_bound_their_records(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    source, truth = unique_topic(), Truth()
    create_topic(
        kafka.bootstrap,
        source,
        config={
            "cleanup.policy": "compact",
            "segment.ms": "500",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "300",
        },
    )
    # Old enough that what the helper adds, with the time of day, lies outside.
    first_ms = int(time.time() * 1000) - 3_600_000
    chance = random.Random("compacted")
    for turn in range(4):
        drafts = [
            Draft(b"key-%d" % (n * (turn + 1) % 60), b"%d" % turn, (), 0, first_ms + chance.randrange(100))
            for n in range(100)
        ]
        produce(kafka.bootstrap, truth, source, drafts, codec=CODECS[turn])
    await until_compacted(kafka, source, truth)
    window = TimeWindow(start_ms=first_ms + 20, end_ms=first_ms + 70)

    # The cleaner may come by once more between two looks at the log.
    before = read_topic(kafka.bootstrap, source)
    for _ in range(5):
        target, built = unique_topic(), await ArchiveBuilder.create()
        mirror_topic(built, kafka, source, partitions=1)
        await archive_everything(built)
        raw = raw_log(kafka, source, 0)
        settings = settings_for(kafka.bootstrap, {source: target}, scope=RestoreScope(window=window))
        report = await restore(built, settings)
        after = read_topic(kafka.bootstrap, source)
        if after == before:
            break
        before = after
    else:
        raise AssertionError(f"{source} never rests")

    assert report.verdict is Verdict.COMPLETE
    assert 0 < report.records_restored < len(before[0])
    assert_filtered(before, read_topic(kafka.bootstrap, target), stamped_within(window))
    for batch in split_batches(raw):
        header = parse_header(batch.data, 0)
        assert all(record.timestamp_ms <= header.max_timestamp for record in records_of(header, batch.data))


async def test_ranges_partitions_and_more_partitions_together(kafka: KafkaServer, unique_topic: Names) -> None:
    source, target = create_topic(kafka.bootstrap, unique_topic(), partitions=3), unique_topic()
    for number in range(3):
        drafts = shuffled(f"{number}", number, 1_790_000_000_000, 1_790_000_000_400, 300)
        produce(kafka.bootstrap, Truth(), source, (d._replace(timestamp_ms=None) for d in drafts), codec="gzip")
    create_topic(kafka.bootstrap, target, partitions=5)
    built = await ArchiveBuilder.create()
    mirror_topic(built, kafka, source, partitions=3)
    await archive_everything(built)
    bounds = OffsetBounds(first_offset=7, next_offset=193)
    scope = RestoreScope(
        partitions={source: frozenset({0, 2})}, offsets={(source, 2): bounds}, target_partitions={source: 5}
    )

    report = await restore(built, settings_for(kafka.bootstrap, {source: target}, scope=scope))

    assert report.verdict is Verdict.COMPLETE
    after = read_topic(kafka.bootstrap, target)
    assert [len(after[number]) for number in range(5)] == [300, 0, 186, 0, 0]
    before = {**read_topic(kafka.bootstrap, source), 3: [], 4: []}
    assert_filtered(before, after, lambda r: r.partition == 0 or (r.partition == 2 and r.offset in bounds))
    whole, left_out, part = report.topics[0].partitions
    assert (whole.slow_batches, left_out.left_out, part.records_cut_away) == (0, True, 300 - 186)
    assert left_out.verified is not None
    assert [run.source_offset for run in part.offset_map] == [7]


async def test_a_few_records_are_found_by_key_value_and_header_and_say_where_they_come_from(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    source, target = create_topic(kafka.bootstrap, unique_topic(), partitions=2), unique_topic()
    for number in range(2):
        maker = RecordMaker(f"{number}")
        produce(kafka.bootstrap, Truth(), source, (maker.draft(number) for _ in range(3_000)), codec="snappy")
    built = await ArchiveBuilder.create()
    mirror_topic(built, kafka, source, partitions=2)
    await archive_everything(built)
    patterns = RecordPatterns(key="^key-[1-4]", value='"amount": ?7', headers=(HeaderPattern(name="trace"),))

    def wanted(record: Record) -> bool:
        return (
            bool(re.search(rb"^key-[1-4]", record.key or b""))
            and record.value is not None
            and b'"amount": 7' in record.value
            and any(name == "trace" for name, _ in record.headers)
        )

    settings = settings_for(
        kafka.bootstrap, {source: target}, scope=RestoreScope(patterns=patterns), provenance_headers=True
    )
    report = await restore(built, settings)

    assert report.verdict is Verdict.COMPLETE
    assert 0 < report.records_restored < 1_000
    assert report.records_restored + report.records_filtered == 6_000
    after = read_topic(kafka.bootstrap, target)
    stripped = {number: [r._replace(headers=r.headers[:-3]) for r in records] for number, records in after.items()}
    before = read_topic(kafka.bootstrap, source)
    assert_filtered(before, stripped, wanted)
    assert [
        record.headers[-3:]
        == (
            ("kbackupd.source.topic", source.encode()),
            ("kbackupd.source.partition", b"%d" % number),
            ("kbackupd.source.offset", b"%d" % found.offset),
        )
        for number, records in after.items()
        for record, found in zip(records, filter(wanted, before[number]), strict=True)
    ] == [True] * report.records_restored


async def test_uncommitted_brings_back_what_a_reader_of_uncommitted_records_sees(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    source, target = create_topic(kafka.bootstrap, unique_topic()), unique_topic()
    for outcome in (Outcome.COMMITTED, Outcome.ABORTED, Outcome.OPEN):
        maker = RecordMaker(f"{outcome}")
        drafts = ((source, maker.draft(0)) for _ in range(20))
        produce_transaction(kafka.bootstrap, Truth(), drafts, outcome=outcome)
    built = await ArchiveBuilder.create()
    mirror_topic(built, kafka, source, partitions=1)
    await archive_everything(built)
    scope = RestoreScope(records_of=RecordsOf.UNCOMMITTED)

    report = await restore(built, settings_for(kafka.bootstrap, {source: target}, scope=scope))

    assert report.verdict is Verdict.COMPLETE
    before = read_topic(kafka.bootstrap, source, isolation="read_uncommitted")
    assert_filtered(before, read_topic(kafka.bootstrap, target), lambda _: True)
    [partition] = report.topics[0].partitions
    assert (partition.records_restored_aborted, partition.records_restored_undecided) == (20, 20)
    assert partition.control_batches == 2


async def test_more_partitions_are_accepted_only_where_that_was_said(kafka: KafkaServer, unique_topic: Names) -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=2)
    built.log(orders, 1).append([b"a", b"b"])
    await archive_everything(built)
    target = create_topic(kafka.bootstrap, unique_topic(), partitions=4)

    with pytest.raises(PreflightError) as refused:
        await restore(built, settings_for(kafka.bootstrap, {"orders": target}))
    assert f"topic {target} has 4 partitions, the archive 2" in refused.value.message
    assert "partition_mapping: [{topic: orders, target_partitions: 4}]" in refused.value.hint
    scope = RestoreScope(target_partitions={"orders": 3})
    with pytest.raises(PreflightError) as refused:
        await restore(built, settings_for(kafka.bootstrap, {"orders": target}, scope=scope))
    assert f"topic {target} has 4 partitions, partition_mapping asks for 3" in refused.value.message

    scope = RestoreScope(target_partitions={"orders": 4})
    report = await restore(built, settings_for(kafka.bootstrap, {"orders": target}, scope=scope))
    assert report.verdict is Verdict.COMPLETE
    assert {n: len(records) for n, records in read_topic(kafka.bootstrap, target).items()} == {0: 0, 1: 2, 2: 0, 3: 0}
    made = unique_topic()
    report = await restore(built, settings_for(kafka.bootstrap, {"orders": made}, scope=scope))
    assert report.topics[0].created
    assert len(read_topic(kafka.bootstrap, made)) == 4


async def test_hazard_20_an_earlier_incarnation_comes_back_by_its_id(kafka: KafkaServer, unique_topic: Names) -> None:
    built, target, ids = await ArchiveBuilder.create(), unique_topic(), list[TopicId]()
    for value in (b"old", b"new"):
        ids.append(built.topic("orders", previous=ids[-1] if ids else None))
        built.log(ids[-1], 0).append([value])
    await archive_everything(built)
    scope = RestoreScope(incarnations={"orders": ids[0]})

    report = await restore(built, settings_for(kafka.bootstrap, {"orders": target}, scope=scope))

    assert (report.verdict, report.topics[0].topic_id) == (Verdict.COMPLETE, ids[0])
    assert [record.value for record in read_topic(kafka.bootstrap, target)[0]] == [b"old"]


async def test_schemas_are_there_to_their_last_record_before_any_other_topic_begins(
    kafka: KafkaServer, unique_topic: Names
) -> None:
    built, orders, schemas = await ArchiveBuilder.create(), unique_topic(), unique_topic()
    for name in ("orders", "_schemas"):
        topic_id = built.topic(name)
        for number in range(20):
            built.log(topic_id, 0).append([b"%d" % number * 1_000], timestamp_ms=int(time.time() * 1000))
    await archive_everything(built)
    settings = settings_for(
        kafka.bootstrap, {"orders": orders, "_schemas": schemas}, rate_limit_bytes_per_second=20_000
    )

    restoring = asyncio.create_task(restore(built, settings))
    while await _log_end(kafka, orders) == 0:
        assert not restoring.done() or restoring.result()
    schemas_by_then = await _log_end(kafka, schemas)

    assert (await restoring).verdict is Verdict.COMPLETE
    assert schemas_by_then == 20


async def _log_end(kafka: KafkaServer, topic: str) -> int:
    """Records in partition 0; 0 where the topic is not there yet."""
    try:
        raw = await asyncio.to_thread(raw_log, kafka, topic, 0)
    except FileNotFoundError:
        return 0
    return max((parse_header(batch.data, 0).next_offset for batch in split_batches(raw)), default=0)


def write_config(root: Path, bootstrap: str, target: str, options: str) -> Path:
    path = root / "restore.yaml"
    path.write_text(
        f"restore:\n  source: {{path: 'file://{root}', backup_id: main}}\n"
        f"  target: {{bootstrap_servers: ['{bootstrap}']}}\n"
        f"  options:\n    topic_mapping: [{{source: orders, target: {target}}}]\n{options}"
    )
    return path


async def test_plan_and_report_say_what_was_chosen_in_words_and_in_json(
    kafka: KafkaServer, unique_topic: Names, tmp_path: Path
) -> None:
    built = await ArchiveBuilder.create()
    orders = built.topic("orders", partitions=3)
    base_ms = 1_774_310_400_000
    life = await built.start()
    life.see(orders)
    for hour in range(4):
        for number in range(3):
            built.log(orders, number).append([b"paid", b"lost"], timestamp_ms=base_ms + hour * 3_600_000)
            life.capture(orders, number)
        await life.flush()
    for key, data in built.store.objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    target = unique_topic()
    config = write_config(
        tmp_path,
        kafka.bootstrap,
        target,
        "    time_window_start: 2026-03-24T01:00:00Z\n"
        f"    time_window_end: {base_ms + 3 * 3_600_000}\n"
        "    partitions: [{topic: orders, partitions: [0, 2]}]\n"
        "    offset_ranges: [{topic: orders, partition: 2, next_offset: 5}]\n"
        "    filters: {value: '^lo'}\n"
        "    partition_mapping: [{topic: orders, target_partitions: 4}]\n",
    )

    code, out, err = call("--config", str(config), "--dry-run")
    assert (code, err) == (0, "")
    for line in (
        "what comes back:",
        "record timestamps from 2026-03-24T01:00:00.000Z (inclusive) and before 2026-03-24T03:00:00.000Z",
        "records with a value in which '^lo' is found; every batch is decoded to find them",
        f"orders: only partitions 0, 2; the other 1 exist in {target} and stay empty",
        f"{target} has 4 partitions; those from 3 on stay empty",
        "orders-2: only the offsets […, 5)",
        "(7 of 12 runs hold nothing that is wanted)",
    ):
        assert line in out
    code, out, _ = call("--config", str(config), "--dry-run", "--format", "json")
    plan = json.loads(out)
    assert plan["cut"] == {
        "window": {"start_ms": base_ms + 3_600_000, "end_ms": base_ms + 3 * 3_600_000},
        "visibility": "committed",
        "filters": {"key": None, "value": "^lo", "headers": []},
        "as_of_ms": None,
        "without_coordinators": False,
        "provenance_headers": False,
    }
    assert [partition["left_out"] for partition in plan["topics"][0]["partitions"]] == [False, True, False]

    code, out, err = call("--config", str(config))
    assert (code, err) == (0, "")
    assert out.startswith("complete\n3 records")
    assert "what was asked for:\n  record timestamps from" in out
    assert "CUT AWAY" in out
    after = read_topic(kafka.bootstrap, target)
    assert {number: [record.value for record in records] for number, records in after.items()} == {
        0: [b"lost", b"lost"],
        1: [],
        2: [b"lost"],
        3: [],
    }


async def test_a_choice_that_the_archive_cannot_serve_is_refused_with_code_2_before_any_write(
    tmp_path: Path,
) -> None:
    built = await ArchiveBuilder.create()
    built.log(built.topic("orders"), 0).append([b"a"])
    await archive_everything(built)
    for key, data in built.store.objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)

    config = write_config(
        tmp_path,
        "127.0.0.1:1",
        "restored",
        "    offset_ranges: [{topic: orders, partition: 0, first_offset: 9}]\n"
        "    branches: [{topic: orders, partition: 3, branch: 0}]\n",
    )
    code, out, err = call("--config", str(config))
    assert (code, out) == (2, "")
    assert "orders-0: nothing of the offsets [9, …) is in the archive, which holds [0, 1)" in err
    assert "topic 'orders' has no partition 3, but 1 of them from 0 on" in err

    config = write_config(tmp_path, "127.0.0.1:1", "restored", "    time_window_start: 1711234800\n")
    code, out, err = call("--config", str(config))
    assert (code, out) == (2, "")
    assert "1711234800000 was probably meant" in err
