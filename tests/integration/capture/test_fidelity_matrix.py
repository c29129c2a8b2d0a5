"""Everything a Kafka log can hold, through the real daemon and back: verbatim in the archive, equal when restored.

One source cluster, one daemon run and one restore for all topics; each test is about one of them. Hazards 6, 8-10, 13,
14, 22, 23, 25, 26.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kbackupd.testbed.daemon import Finished, Section
from kbackupd.testbed.java import kafka_tool
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.topics import delete_topic, partition_leaders
from kbackupd.testbed.truth import Isolation, Record, compare_records, expected, raw_log, read_topic, split_batches
from tests.integration.capture.matrix.cases import CASES, UNKNOWN_CODEC_TOPIC, Case
from tests.integration.capture.matrix.groups import first_and_next_offset, where_a_group_goes_on
from tests.integration.capture.matrix.records import plain_records
from tests.integration.capture.matrix.source import SourceCluster, headers
from tests.integration.capture.matrix.stages import BackedUp, Filled, back_up, fill

ISOLATIONS: tuple[Isolation, Isolation] = ("read_committed", "read_uncommitted")
UNFILLABLE = "offsets-beyond-2-31"
RESTORED = [case for case in CASES if case.restored]
KEPT = [case for case in RESTORED if case.name != UNFILLABLE]
KEPT_TARGETS = {case.name: f"kept-{os.getpid()}-{case.name}" for case in KEPT}
TARGETS = {case.name: f"matrix-{os.getpid()}-{case.name}" for case in RESTORED}

of_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
of_kept_case = pytest.mark.parametrize("case", KEPT, ids=lambda case: case.name)
of_restored_case = pytest.mark.parametrize("case", RESTORED, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def filled() -> Iterator[Filled]:
    cluster = SourceCluster()
    with cluster.kafka:
        yield fill(cluster, CASES)


@pytest.fixture(scope="module")
def backed_up(filled: Filled, s3_server: S3Server, s3_bucket: str) -> Iterator[BackedUp]:
    with tempfile.TemporaryDirectory(prefix="kb-") as directory:
        yield back_up(filled, Path(directory), s3=s3_server, bucket=s3_bucket, prefix=f"matrix-{os.getpid()}")


@pytest.fixture(scope="module")
def restored(filled: Filled, backed_up: BackedUp, kafka: KafkaServer) -> Iterator[Finished]:
    """The restore's end, into a cluster that is not the source; what hung in the source is aborted by then."""
    finished = backed_up.daemon.restore(kafka.bootstrap, TARGETS)
    filled.cluster.abort_the_hanging_transaction()
    yield finished
    gone_again(kafka, TARGETS)


@pytest.fixture(scope="module")
def kept(restored: Finished, backed_up: BackedUp, kafka: KafkaServer) -> Iterator[Finished]:
    """Another restore, with the offsets the records had."""
    yield backed_up.daemon.restore(kafka.bootstrap, KEPT_TARGETS, options={"offsets": "preserve"})
    gone_again(kafka, KEPT_TARGETS)


def gone_again(kafka: KafkaServer, targets: Mapping[str, str]) -> None:
    """What of these topics there is, is none on return: other tests use this broker."""
    there = [target for target in targets.values() if partition_leaders(kafka.bootstrap, target)]
    if there:
        delete_topic(kafka.bootstrap, *there)


@of_case
def test_the_source_holds_what_the_case_is_about(case: Case, filled: Filled) -> None:
    assert case.holds([headers(filled.batches[case.name, number]) for number in range(case.partitions)])


@of_case
def test_the_archive_is_verbatim(case: Case, filled: Filled, backed_up: BackedUp) -> None:
    for number in range(case.partitions):
        place = (case.name, number)
        log_start = filled.log_starts[place]
        # Below the log start the broker's files may still hold what nobody is served any more.
        wanted = [(one.first_offset, one.data) for one in filled.batches[place] if one.next_offset > log_start]
        history = backed_up.histories[place]
        assert [offset for offset, _ in backed_up.batches[place]] == [offset for offset, _ in wanted], place
        assert backed_up.batches[place] == wanted, f"{place}: bytes differ"
        assert (history.first_offset, history.next_offset) == (log_start, filled.next_offset(place))
        assert (list(history.holes), list(history.gaps)) == ([], [])


def test_deep_validation_finds_nothing_but_a_codec_it_cannot_look_into(backed_up: BackedUp) -> None:
    names = itertools.chain.from_iterable(("--expect-topic", case.name) for case in CASES)
    arguments = ("--config", str(backed_up.daemon.config), "--deep", "--format", "json", *names)
    report = backed_up.daemon.cli("validate", *arguments).require(0).json()

    findings = [finding for finding in _listed(report, "findings") if finding["severity"] != "information"]
    assert findings == []
    [opaque] = [finding for finding in _listed(report, "findings") if finding["code"] == "content.opaque"]
    assert (opaque["topic"], opaque["first_offset"], opaque["next_offset"]) == (UNKNOWN_CODEC_TOPIC, 1, 3)


def test_kafkas_own_tool_accepts_the_dumps(backed_up: BackedUp, filled: Filled) -> None:
    dumps: dict[Path, Case] = {}
    for case in (case for case in CASES if case.dumped):
        directory = backed_up.daemon.directory / f"dump-{case.name}"
        directory.mkdir()
        arguments = ("--config", str(backed_up.daemon.config), "--topic", case.name, "--partition", "0")
        backed_up.daemon.cli("dump", *arguments, "--output", str(directory)).require(0)
        [output] = directory.iterdir()
        assert output.read_bytes() == raw_log(filled.cluster.kafka, case.name, 0), case.name
        dumps[output] = case

    said = kafka_tool(
        "org.apache.kafka.tools.DumpLogSegments", "--deep-iteration", "--files", ",".join(map(str, dumps))
    )

    parts = dict(zip(dumps, said.split("Dumping ")[1:], strict=True))
    for output, case in dumps.items():
        lines = parts[output].splitlines()
        assert lines[0] == str(output)
        assert f"Log starting offset: {int(output.stem)}" in lines
        found = [line.split() for line in lines if line.startswith("baseOffset: ")]
        assert [int(words[1]) for words in found] == [one.first_offset for one in filled.batches[case.name, 0]]
        assert all(words[words.index("isvalid:") + 1] == "true" for words in found), parts[output]


def test_the_restore_is_complete(restored: Finished) -> None:
    report = restored.json()

    assert report["verdict"] == "complete"
    assert report["records_missing"] == 0


def test_a_batch_that_no_broker_takes_leaves_an_incomplete_topic_that_says_so(
    backed_up: BackedUp, kafka: KafkaServer
) -> None:
    target = f"matrix-{os.getpid()}-{UNKNOWN_CODEC_TOPIC}"

    finished = backed_up.daemon.restore(kafka.bootstrap, {UNKNOWN_CODEC_TOPIC: target}).require(6)

    report = _partition(json.loads(finished.stdout), UNKNOWN_CODEC_TOPIC, 0)
    assert f"{target}-0: the target refused a batch" in str(report["failure"])
    assert (report["records_restored"], report["records_missing"]) == (1, 3)
    assert report["offset_map"] == [{"source_offset": 0, "target_offset": 0, "count": 1}]
    assert [record.offset for record in read_topic(kafka.bootstrap, target)[0]] == [0]
    delete_topic(kafka.bootstrap, target)


@of_restored_case
def test_the_restored_topic_equals_the_source(
    case: Case, filled: Filled, restored: Finished, kafka: KafkaServer
) -> None:
    if not case.nameable:
        _equal_in_the_logs(case, filled, kafka)
        return
    source = read_topic(filled.cluster.bootstrap, case.name)
    target = read_topic(kafka.bootstrap, TARGETS[case.name])

    _is_what_was_produced(case, filled, source)
    assert target.keys() == source.keys()
    for number, records in source.items():
        assert compare_records(expected(records), target[number], offsets=False) == [], number
        reported = _partition(restored.json(), case.name, number)
        assert (reported["records_restored"], reported["records_undecided"]) == (len(records), case.undecided)
        if case.restamped:
            _differ_in_timestamp_type(records, target[number], reported)
        else:
            assert _timestamp_types(target[number]) == _timestamp_types(records)


def test_the_restore_that_keeps_offsets_is_complete(kept: Finished) -> None:
    report = kept.json()

    assert report["verdict"] == "complete"
    assert report["filling"] == "transaction markers"


@of_kept_case
def test_with_offsets_kept_every_record_is_where_it_was_and_nothing_else_is_to_be_seen(
    case: Case, filled: Filled, kept: Finished, kafka: KafkaServer
) -> None:
    target = KEPT_TARGETS[case.name]
    for number in range(case.partitions):
        place = (case.name, number)
        reported = _partition(kept.json(), case.name, number)
        log_start = filled.log_starts[place]
        assert (reported["target_first_offset"], reported["target_next_offset"]) == (
            log_start,
            filled.next_offset(place),
        )
        assert first_and_next_offset(kafka.bootstrap, target, number) == (log_start, filled.next_offset(place))
    if not case.nameable:
        source_log = [(one.first_offset, one.next_offset) for one in filled.batches[case.name, 0]]
        assert [(one.first_offset, one.next_offset) for one in split_batches(raw_log(kafka, target, 0))] == source_log
        return
    source = read_topic(filled.cluster.bootstrap, case.name)
    for isolation in ISOLATIONS:
        found = read_topic(kafka.bootstrap, target, isolation=isolation)
        assert found.keys() == source.keys()
        for number, records in source.items():
            assert compare_records(expected(records), found[number], offsets=True) == [], (number, isolation)


def test_with_offsets_kept_every_committed_position_goes_on_at_the_record_it_went_on_at(
    filled: Filled, kept: Finished, kafka: KafkaServer
) -> None:
    """A group commits from the start of each log to its end, in five steps, and goes on from there (hazard 32)."""
    ends: dict[tuple[str, int], tuple[int, int]] = {
        (case.name, number): (filled.log_starts[case.name, number], filled.next_offset((case.name, number)))
        for case in KEPT
        for number in range(case.partitions)
    }
    commits = [
        {place: first + (following - first) * quarter // 4 for place, (first, following) in ends.items()}
        for quarter in range(5)
    ]
    at_source = where_a_group_goes_on(filled.cluster.bootstrap, *commits)
    kept_commits = [{(KEPT_TARGETS[topic], n): offset for (topic, n), offset in one.items()} for one in commits]
    at_target = where_a_group_goes_on(kafka.bootstrap, *kept_commits)
    for source, target in zip(at_source, at_target, strict=True):
        assert {place: target[KEPT_TARGETS[place[0]], place[1]] for place in source} == source


def test_offsets_that_cannot_be_kept_are_refused_before_any_write_and_the_reason_is_told(
    backed_up: BackedUp, kept: Finished, kafka: KafkaServer
) -> None:
    target = f"kept-{os.getpid()}-{UNFILLABLE}"

    refused = backed_up.daemon.restore(kafka.bootstrap, {UNFILLABLE: target}, options={"offsets": "preserve"})

    refused.require(5)
    assert f"partition 2 cannot keep its offsets: its log begins at offset {1 << 50}" in refused.stderr
    assert "offsets: compact" in refused.stderr
    assert partition_leaders(kafka.bootstrap, target) == {}


def _is_what_was_produced(case: Case, filled: Filled, source: Mapping[int, list[Record]]) -> None:
    if case.truthful:
        for number, records in source.items():
            stamped = not case.restamped
            wanted = filled.cluster.truth.records(case.name, number)
            assert compare_records(wanted, records, timestamps=stamped) == [], number
    elif case.visible is None:
        assert any(source.values())
    if case.visible is not None:
        assert sum(map(len, source.values())) == case.visible


def _equal_in_the_logs(case: Case, filled: Filled, kafka: KafkaServer) -> None:
    for number in range(case.partitions):
        source = plain_records(filled.batches[case.name, number])
        assert plain_records(list(split_batches(raw_log(kafka, TARGETS[case.name], number)))) == source
        assert len(source) == case.visible


def _differ_in_timestamp_type(source: list[Record], target: list[Record], report: Section) -> None:
    log_append_time, create_time = 2, 1
    assert _timestamp_types(source) == [log_append_time] * len(source)
    assert _timestamp_types(target) == [create_time] * len(target)
    assert report["records_restamped"] == len(target)


def _timestamp_types(records: list[Record]) -> list[int]:
    return [record.timestamp_type for record in records]


def _partition(report: Section, topic: str, number: int) -> Section:
    [found] = [one for one in _listed(report, "topics") if one["source"] == topic]
    return _listed(found, "partitions")[number]


def _listed(report: Section, name: str) -> list[Section]:
    rows = report[name]
    assert isinstance(rows, list)
    return [row for row in rows if isinstance(row, dict)]
