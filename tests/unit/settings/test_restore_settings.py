"""The restore's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbackupd.model.errors import ConfigurationError
from kbackupd.model.settings import (
    MIB,
    FilesystemSettings,
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


@pytest.mark.parametrize(
    "key",
    ["time_window_start", "time_window_end", "as_of", "visibility", "offsets", "append", "consumer_groups", "acls"],
)
@pytest.mark.parametrize("value", ["1711234800000", "null", "{strategy: group}", "[a]", "true"])
def test_hazard_47_a_key_of_a_later_release_is_refused_and_never_ignored(files: Files, key: str, value: str) -> None:
    assert files.problems(_with_options(f"{{{key}: {value}}}")) == [
        f"restore.yaml:4: restore.options.{key}: not available in this version "
        "(remove the key; a later release will obey it)"
    ]


def test_a_key_of_a_later_release_at_another_place_is_refused_just_so(files: Files) -> None:
    (problem,) = files.problems(RESTORE + "  consumer_groups: {include: [a]}\n")
    assert "restore.consumer_groups: not available in this version" in problem


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
        ("{topic_mapping: [{source: 'a*', target: b}]}", "[0].source: 'a*' is not a topic name"),
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
