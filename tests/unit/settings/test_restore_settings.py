"""The restore's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbackupd.model.errors import ConfigurationError
from kbackupd.model.positions import TopicId
from kbackupd.model.scope import HeaderPattern, OffsetBounds, RecordPatterns, RecordsOf, RestoreScope, TimeWindow
from kbackupd.model.settings import (
    MIB,
    FilesystemSettings,
    RestoredGroups,
    RestoreOptions,
    RestoreSettings,
    RestoreSource,
    RestoreTarget,
    RetentionAfter,
    S3Settings,
    Secret,
    StorageSettings,
    TopicMapping,
    TopicSelection,
)
from kbackupd.settings import load_restore_settings
from tests.unit.settings.files import RESTORE, Files

EXAMPLE = Path(__file__).parents[3] / "config" / "restore.yaml"


def _with_options(options: str) -> str:
    return f"{RESTORE}  options: {options}\n"


def test_the_example_is_the_defaults(files: Files) -> None:
    expected = RestoreSettings(
        source=RestoreSource(
            path="s3://my-kafka-backups/production",
            backup_id="main",
            storage=StorageSettings(backend=S3Settings(bucket="my-kafka-backups", prefix="production")),
        ),
        target=RestoreTarget(bootstrap_servers=("kafka-restore:9092",)),
        options=RestoreOptions(),
    )
    assert load_restore_settings(EXAMPLE, {}) == expected
    assert files.restore(RESTORE) == expected


def test_a_mapping_alone_selects_the_topics_it_names(files: Files) -> None:
    options = files.restore(_with_options("{topic_mapping: [{source: orders, target: orders-restored}]}")).options
    assert options.topic_mapping == (TopicMapping(source="orders", target="orders-restored"),)
    assert options.topics == TopicSelection(include=("orders",))
    assert (options.target_of("orders"), options.target_of("payments")) == ("orders-restored", None)


def test_a_mapping_beside_an_explicit_selection_only_renames(files: Files) -> None:
    options = files.restore(
        _with_options("{topics: {include: ['*']}, topic_mapping: [{source: orders, target: o2}]}")
    ).options
    assert (options.target_of("orders"), options.target_of("payments")) == ("o2", "payments")


def test_a_mapping_may_be_a_pattern_and_the_first_that_matches_counts(files: Files) -> None:
    options = files.restore(
        _with_options(
            "{topic_mapping: [{source: eu-orders, target: kept}, {source: 'eu-*', target: 'old-*-eu'}, "
            "{source: '[ab]?', target: both}]}"
        )
    ).options
    assert options.topics.include == ("eu-orders", "eu-*", "[ab]?")
    targets = [options.target_of(topic) for topic in ("eu-orders", "eu-payments", "b1", "us-orders")]
    assert targets == ["kept", "old-payments-eu", "both", None]


def test_a_choice_within_the_topics_arrives_where_it_belongs(files: Files) -> None:
    options = files.restore(
        _with_options(
            """
    time_window_start: 1711234800000
    time_window_end: 2024-03-24T01:00:00+01:00
    offset_ranges: [{topic: a, partition: 0, first_offset: 5, next_offset: 9}, {topic: a, partition: 1, next_offset: 7}]
    partitions: [{topic: a, partitions: [0, 1]}, {topic: b, partitions: [3]}]
    filters: {key: ^k, value: '\\xff', headers: [{name: tenant, value: eu}, {name: ""}]}
    visibility: uncommitted
    incarnations: [{topic: a, topic_id: AAAAAAAAAAAAAAAAAAAAAQ}]
    branches: [{topic: a, partition: 1, branch: 2}]
    partition_mapping: [{topic: b, target_partitions: 24}]
    provenance_headers: true"""
        )
    ).options
    assert options.provenance_headers is True
    assert options.scope == RestoreScope(
        window=TimeWindow(start_ms=1_711_234_800_000, end_ms=1_711_238_400_000),
        records_of=RecordsOf.UNCOMMITTED,
        patterns=RecordPatterns(
            key="^k",
            value="\\xff",
            headers=(HeaderPattern(name="tenant", value="eu"), HeaderPattern(name="")),
        ),
        offsets={("a", 0): OffsetBounds(first_offset=5, next_offset=9), ("a", 1): OffsetBounds(next_offset=7)},
        partitions={"a": frozenset({0, 1}), "b": frozenset({3})},
        incarnations={"a": TopicId("AAAAAAAAAAAAAAAAAAAAAQ")},
        branches={("a", 1): 2},
        target_partitions={"b": 24},
    )


@pytest.mark.parametrize("value", ["1711234800000", '"1711234800000"', "2024-03-23T23:00:00Z"])
def test_a_window_takes_milliseconds_as_a_number_or_text_and_iso_8601(files: Files, value: str) -> None:
    options = files.restore(_with_options(f"{{time_window_end: {value}}}")).options
    assert options.scope.window == TimeWindow(end_ms=1_711_234_800_000)
    environ = {"KBACKUPD_RESTORE__OPTIONS__TIME_WINDOW_START": value.strip('"')}
    assert files.restore(RESTORE, environ).options.scope.window == TimeWindow(start_ms=1_711_234_800_000)


def test_seconds_are_refused_with_what_they_would_have_meant(files: Files) -> None:
    assert files.problems(_with_options("{time_window_start: 1711234800}")) == [
        "restore.yaml:4: restore.options.time_window_start: '1711234800' is 2024-03-23T23:00:00.000Z if it is seconds, "
        "and 1970-01-20T19:20:34.800Z in the milliseconds that count here (1711234800000 was probably meant)"
    ]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("{time_window_start: 2024-03-23T23:00:00}", "time_window_start: '2024-03-23T23:00:00' names no time zone"),
        ("{time_window_end: }", "time_window_end: has no value"),
        ("{time_window_end: [1711234800000]}", "time_window_end: must be a single value"),
        (
            "{time_window_start: 1711234800000, time_window_end: 1711234800000}",
            "time_window_end: is not after time_window_start",
        ),
        ("{offset_ranges: [{topic: a, partition: 0}]}", "offset_ranges[0]: needs first_offset or next_offset"),
        (
            "{offset_ranges: [{topic: a, partition: 0, first_offset: 3, next_offset: 3}]}",
            "offset_ranges[0].next_offset: is not above first_offset",
        ),
        (
            "{offset_ranges: [{topic: a, partition: 0, next_offset: 0}]}",
            "offset_ranges[0].next_offset: is not above first_offset",
        ),
        (
            "{offset_ranges: [{topic: a, partition: 0, next_offset: 9223372036854775808}]}",
            "offset_ranges[0].next_offset: '9223372036854775808' is not an offset",
        ),
        (
            "{offset_ranges: [{topic: a, partition: 0, next_offset: 3}, {topic: a, partition: 0, first_offset: 9}]}",
            "offset_ranges[1]: a-0 is listed twice",
        ),
        (
            "{partitions: [{topic: a, partitions: [1]}], offset_ranges: [{topic: a, partition: 0, next_offset: 3}]}",
            "offset_ranges[0]: options.partitions leaves a-0 out",
        ),
        (
            "{partitions: [{topic: a, partitions: [1]}], branches: [{topic: a, partition: 0, branch: 0}]}",
            "branches[0]: options.partitions leaves a-0 out",
        ),
        ("{partitions: [{topic: a, partitions: []}]}", "partitions[0].partitions: must not be empty"),
        (
            "{partitions: [{topic: a, partitions: [1]}, {topic: a, partitions: [2]}]}",
            "partitions[1].topic: 'a' is listed twice",
        ),
        (
            "{topics: {exclude: [a]}, partition_mapping: [{topic: a, target_partitions: 3}]}",
            "partition_mapping[0].topic: options.topics does not select 'a'",
        ),
        (
            "{incarnations: [{topic: __consumer_offsets, topic_id: AAAAAAAAAAAAAAAAAAAAAQ}]}",
            "incarnations[0].topic: '__consumer_offsets' is internal",
        ),
        ("{incarnations: [{topic: a, topic_id: newest}]}", "incarnations[0].topic_id: 'newest' is not a topic id"),
        (
            "{filters: {key: 'order-('}}",
            "filters.key: 'order-(' is not a regular expression: missing ), unterminated subpattern at position 6",
        ),
        ("{filters: {value: }}", "filters.value: has no value"),
        ("{filters: {headers: [{value: a}]}}", "filters.headers[0].name: required, but not there"),
        ("{filters: {body: a}}", "filters.body: unknown key"),
        ("{visibility: all}", "visibility: 'all' is not one of committed, uncommitted"),
    ],
)
def test_a_choice_that_cannot_be_followed_is_refused(files: Files, options: str, complaint: str) -> None:
    (problem,) = files.problems(_with_options(options))
    assert problem.startswith(f"restore.yaml:4: restore.options.{complaint}")


def test_every_problem_of_a_choice_is_told_at_once(files: Files) -> None:
    told = files.problems(
        _with_options("{time_window_start: 1711234800, partitions: [{topic: a, partitions: [x]}], filters: {key: '['}}")
    )
    assert len(told) == 3


def test_every_other_option_arrives_where_it_belongs(files: Files) -> None:
    settings = files.restore(
        """\
restore:
  source:
    path: s3://bucket/a/b/
    backup_id: 2026-03-24T00-00-00Z
    s3: {endpoint: "http://localhost:8333", region: us-east-1, force_path_style: true,
         access_key_id: AKIA, secret_access_key: abc, session_token: t}
  target: {bootstrap_servers: ["k:1"]}
  options: {topics: {exclude: ["t*"]}, retention_after: hold, rate_limit: 1MiB, verify: false}
"""
    )
    assert settings.source.backup_id == "2026-03-24T00-00-00Z"
    assert settings.source.storage.backend == S3Settings(
        bucket="bucket",
        prefix="a/b",
        endpoint="http://localhost:8333",
        region="us-east-1",
        force_path_style=True,
        access_key_id=Secret("AKIA"),
        secret_access_key=Secret("abc"),
        session_token=Secret("t"),
    )
    assert settings.options == RestoreOptions(
        topics=TopicSelection(exclude=("t*",)),
        retention_after=RetentionAfter.HOLD,
        rate_limit_bytes_per_second=MIB,
        verify=False,
    )


def test_hazard_47_an_option_at_another_place_is_refused_and_never_ignored(files: Files) -> None:
    (problem,) = files.problems(RESTORE + "  as_of: 2026-03-24T14:00:00Z\n")
    assert "restore.as_of: unknown key (it belongs to restore.options)" in problem


def test_acls_come_along_where_it_is_asked_for(files: Files) -> None:
    assert files.restore(_with_options("{acls: true}")).options.acls is True
    assert files.restore(RESTORE).options.acls is False
    assert files.problems(_with_options("{acls: {include: [a]}}"))


def test_append_is_obeyed_and_refused_where_offsets_are_to_be_kept(files: Files) -> None:
    assert files.restore(_with_options("{append: true}")).options.append is True
    assert files.restore(RESTORE).options.append is False
    (problem,) = files.problems(_with_options("{append: true, offsets: preserve}"))
    assert "restore.options.append: contradicts offsets: preserve" in problem


def test_consumer_groups_come_along_where_it_is_asked_for(files: Files) -> None:
    settings = files.restore(_with_options("{consumer_groups: {restore: true, include: ['billing-*', 'mailer']}}"))
    assert settings.options.consumer_groups == RestoredGroups(restore=True, include=("billing-*", "mailer"))
    assert files.restore(RESTORE).options.consumer_groups == RestoredGroups(restore=False, include=("*",))
    assert files.problems(_with_options("{consumer_groups: {restore: true, include: []}}"))
    assert files.problems(_with_options("{consumer_groups: {exclude: [a]}}"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("{topic_mapping: [{source: a, target: b}, {source: a, target: c}]}", "[1].source: 'a' is mapped twice"),
        (
            "{topic_mapping: [{source: a, target: c}, {source: b, target: c}]}",
            "[1].target: two topics would become 'c'",
        ),
        ("{topic_mapping: [{source: a, target: __consumer_offsets}]}", "[0].target: '__consumer_offsets' is internal"),
        (
            "{topics: {include: [b]}, topic_mapping: [{source: a, target: c}]}",
            "[0].source: options.topics does not select 'a'",
        ),
        (
            "{topics: {exclude: [a]}, topic_mapping: [{source: a, target: c}]}",
            "[0].source: options.topics does not select 'a'",
        ),
        ("{topic_mapping: [{source: 'a b', target: b}]}", "[0].source: 'a b' is not a topic name or glob"),
        ("{topic_mapping: [{source: 'a', target: 'b?'}]}", "[0].target: 'b?' is not a topic name"),
        ("{topic_mapping: [{source: 'a*', target: 'b*-*'}]}", "[0].target: 'b*-*' has more than one *"),
        (
            "{topic_mapping: [{source: 'a*-*', target: 'b*'}]}",
            "[0].target: what * stands for is not clear: the source 'a*-*' has 2",
        ),
        (
            "{topic_mapping: [{source: a, target: 'b*'}]}",
            "[0].target: what * stands for is not clear: the source 'a' has 0",
        ),
        (
            "{topic_mapping: [{source: 'a*', target: 'b*'}, {source: ab, target: c}]}",
            "[1].source: never reached: 'a*' before it matches 'ab'",
        ),
        ("{topic_mapping: [{source: a}]}", "[0].target: required, but not there"),
    ],
)
def test_a_mapping_that_cannot_be_followed_is_refused(files: Files, options: str, complaint: str) -> None:
    (problem,) = files.problems(_with_options(options))
    assert problem.startswith(f"restore.yaml:4: restore.options.topic_mapping{complaint}")


@pytest.mark.parametrize("path", ["/var/lib", "s3://", "s3:bucket", "file://relative", "gs://bucket/x"])
def test_hazard_17_a_path_that_is_neither_bucket_nor_directory_is_refused(files: Files, path: str) -> None:
    (problem,) = files.refusal(RESTORE.replace("s3://my-kafka-backups/production", path)).problems
    assert problem.path == ("restore", "source", "path")


def test_s3_options_for_a_directory_are_refused(files: Files) -> None:
    text = RESTORE.replace("s3://my-kafka-backups/production", "file:///data").replace(
        "main}", "main, s3: {region: x}}"
    )
    (problem,) = files.problems(text)
    assert problem.startswith("restore.yaml:2: restore.source.s3: the archive is in a directory")


def test_a_directory_needs_nothing_but_its_path(files: Files) -> None:
    settings = files.restore(RESTORE.replace("s3://my-kafka-backups/production", "file:///data"))
    assert settings.source.storage.backend == FilesystemSettings(path=Path("/data"))


def test_the_standard_aws_variables_fill_what_the_file_leaves_open_and_no_more(files: Files) -> None:
    environ = {"AWS_ENDPOINT_URL": "http://127.0.0.1:8333", "AWS_REGION": "eu-west-1"}
    text = RESTORE.replace("main}", "main, s3: {region: us-west-2}}")
    assert files.restore(text, environ).source.storage.backend == S3Settings(
        bucket="my-kafka-backups", prefix="production", endpoint="http://127.0.0.1:8333", region="us-west-2"
    )


def test_a_daemons_file_is_not_taken_for_a_restores(files: Files) -> None:
    with pytest.raises(ConfigurationError, match="belongs to a daemon configuration"):
        files.restore("backup_id: main\n")


@pytest.mark.parametrize(
    ("target", "made"),
    [
        ("payments-from-eu", True),
        ("orders-restored", True),
        ("invoices", True),
        ("payments", True),
        ("eu-orders", False),
    ],
)
def test_what_a_pattern_of_names_can_make_is_known_without_the_archive(target: str, made: bool) -> None:
    options = RestoreOptions(
        topic_mapping=(
            TopicMapping(source="eu-orders", target="orders-restored"),
            TopicMapping(source="eu-*", target="*-from-eu"),
        )
    )
    assert options.may_make(target) is made


def test_an_instant_of_capture_is_obeyed_and_refused_beside_what_it_decides_itself(files: Files) -> None:
    assert files.problems(
        _with_options(
            "{as_of: 2026-03-24T14:00:00Z, incarnations: [{topic: orders, topic_id: vPeOCWypqUOSepEvx0cbog}],"
            " branches: [{topic: orders, partition: 0, branch: 0}]}"
        )
    ) == [
        f"restore.yaml:4: restore.options.{key}: as_of restores what was there at that instant, and no other"
        f" (leave as_of or {key} out)"
        for key in ("branches", "incarnations")
    ]
    [seconds] = files.problems(_with_options("{as_of: 1774360800}"))
    assert "2026-03-24" in seconds
