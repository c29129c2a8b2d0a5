"""The daemon's configuration: the documented shape, its defaults, and what is refused in one value."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbackupd.model.settings import (
    MIB,
    BackupSettings,
    ControlSettings,
    DaemonSettings,
    FilesystemSettings,
    ObservabilitySettings,
    S3Settings,
    SaslMechanism,
    SaslSettings,
    Secret,
    SecurityProtocol,
    SecuritySettings,
    SourceSettings,
    StartPolicy,
    StorageSettings,
    TierSettings,
    TopicSelection,
)
from kbackupd.settings import load_daemon_settings
from tests.unit.settings.files import MINIMAL, Files

EXAMPLE = Path(__file__).parents[3] / "config" / "kbackupd.yaml"


def test_the_example_says_what_the_documentation_promises() -> None:
    assert load_daemon_settings(EXAMPLE, {}) == DaemonSettings(
        backup_id="main",
        writer="main",
        source=SourceSettings(bootstrap_servers=("kafka-1:9092", "kafka-2:9092")),
        storage=StorageSettings(backend=S3Settings(bucket="my-kafka-backups", prefix="production", region="eu-west-1")),
        backup=BackupSettings(
            flush_interval_seconds=10.0,
            segment_max_bytes=32 * MIB,
            checkpoint_interval_seconds=30.0,
            compression_codec="zstd",
            compression_level=2,
            memory_limit_bytes=384 * MIB,
            start=StartPolicy.EARLIEST,
            discovery_interval_seconds=15.0,
            snapshot_interval_seconds=60.0,
            rollup_interval_seconds=3600.0,
            shutdown_timeout_seconds=30.0,
        ),
        tiers=(
            TierSettings(name="critical", topics=("payments*",), rpo_seconds=30.0, rto_seconds=900.0),
            TierSettings(name="standard", topics=("*",), rpo_seconds=300.0, rto_seconds=14_400.0),
        ),
        observability=ObservabilitySettings(host="0.0.0.0", port=9464, per_partition_metrics=False, log_format="json"),
        control=ControlSettings(socket=Path("/run/kbackupd/control.sock")),
    )


def test_the_seeds_storage_and_backup_sections_are_accepted_word_for_word(files: Files) -> None:
    settings = files.daemon(
        """\
backup_id: 2026-03-24
source: {bootstrap_servers: ["kafka:9092"]}
storage:
  type: s3
  s3:
    bucket: my-kafka-backups-dr
    region: us-west-2
    endpoint: ""
    force_path_style: false
backup:
  checkpoint_interval: 30s
  per_partition_isolation: true
"""
    )
    assert settings.storage.backend == S3Settings(bucket="my-kafka-backups-dr", region="us-west-2")


def test_the_defaults_of_the_file_are_those_of_the_values_everybody_uses(files: Files) -> None:
    assert files.daemon(MINIMAL) == DaemonSettings(
        backup_id="main",
        source=SourceSettings(bootstrap_servers=("kafka-1:9092",)),
        storage=StorageSettings(backend=S3Settings(bucket="my-kafka-backups")),
    )


@pytest.mark.parametrize(
    ("written", "writer", "group"),
    [
        ("", "main", "kbackupd-main"),
        ("", "second", "kbackupd-main-second"),
        ("consumer_group: backups", "second", "backups"),
        ("consumer_group: off", "main", None),
        ('consumer_group: ""', "main", None),
    ],
)
def test_durable_offsets_go_to_a_group_named_after_the_archive_unless_told_otherwise(
    files: Files, written: str, writer: str, group: str | None
) -> None:
    text = MINIMAL.replace("source:\n", f"writer: {writer}\nsource:\n" + (f"  {written}\n" if written else ""))
    assert files.daemon(text).commits_to == group


def test_every_other_key_arrives_where_it_belongs(files: Files) -> None:
    settings = files.daemon(
        """\
backup_id: a.b-c_d
writer: worker-1
source:
  bootstrap_servers: ["[::1]:9093"]
  topics: {include: [orders, "pay*"], exclude: ["*-tmp"]}
  internal_topics: false
  consumer_group: the backup
  rate_limit: 50MiB/s
  security:
    protocol: SASL_SSL
    sasl: {mechanism: SCRAM-SHA-512, username: backup, password: "${KAFKA_PASSWORD}"}
    ca_file: /etc/ca.pem
    cert_file: /etc/client.pem
    key_file: /etc/client.key
storage: {type: filesystem, filesystem: {path: /var/lib/kbackupd}}
backup:
  flush_interval: 500ms
  segment_max_bytes: 1MB
  checkpoint_interval: 1m
  compression: {codec: none, level: 19}
  memory_limit: 1GiB
  start: latest
  discovery_interval: 1.5s
  snapshot_interval: 90s
  rollup_interval: off
  shutdown_timeout: 2m
tiers: []
observability: {listen: "[::]:0", per_partition_metrics: true, log_format: console, log_level: debug}
control: {socket: /tmp/control.sock}
""",
        {"KAFKA_PASSWORD": "correct horse"},
    )
    assert settings == DaemonSettings(
        backup_id="a.b-c_d",
        writer="worker-1",
        source=SourceSettings(
            bootstrap_servers=("[::1]:9093",),
            topics=TopicSelection(include=("orders", "pay*"), exclude=("*-tmp",)),
            internal_topics=False,
            consumer_group="the backup",
            rate_limit_bytes_per_second=50 * MIB,
            security=SecuritySettings(
                protocol=SecurityProtocol.SASL_SSL,
                sasl=SaslSettings(
                    mechanism=SaslMechanism.SCRAM_SHA_512, username="backup", password=Secret("correct horse")
                ),
                ca_file=Path("/etc/ca.pem"),
                cert_file=Path("/etc/client.pem"),
                key_file=Path("/etc/client.key"),
            ),
        ),
        storage=StorageSettings(backend=FilesystemSettings(path=Path("/var/lib/kbackupd"))),
        backup=BackupSettings(
            flush_interval_seconds=0.5,
            segment_max_bytes=1_000_000,
            checkpoint_interval_seconds=60.0,
            compression_codec="none",
            compression_level=19,
            memory_limit_bytes=1024 * MIB,
            start=StartPolicy.LATEST,
            discovery_interval_seconds=1.5,
            snapshot_interval_seconds=90.0,
            rollup_interval_seconds=0.0,
            shutdown_timeout_seconds=120.0,
        ),
        tiers=(),
        observability=ObservabilitySettings(
            host="::", port=0, per_partition_metrics=True, log_format="console", log_level="debug"
        ),
        control=ControlSettings(socket=Path("/tmp/control.sock")),
    )


def test_a_section_whose_keys_are_all_commented_out_is_its_defaults(files: Files) -> None:
    assert files.daemon(MINIMAL + "backup:\n  # flush_interval: 5s\ncontrol:\n") == files.daemon(MINIMAL)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("backup_id", "a/b", "'a/b' is not a name"),
        ("backup_id", ".hidden", "'.hidden' is not a name"),
        ("backup_id", "''", "'' is not a name"),
        ("backup_id", "x" * 129, "is not a name"),
        ("writer", "wörker", "'wörker' is not a name"),
        ("backup.flush_interval", "10", "'10' is not a duration: write a number and a unit"),
        ("backup.flush_interval", "10 parsecs", "'10 parsecs' is not a duration"),
        ("backup.flush_interval", "0s", "must be at least 100ms"),
        ("backup.flush_interval", f"{'9' * 400}d", "must be at most 10 years"),
        ("backup.memory_limit", f"{'9' * 400}MiB", "must be at most 1024TiB"),
        ("backup.flush_interval", "[5s]", "must be a single value"),
        ("backup.segment_max_bytes", "32000000", "'32000000' is not a size: write a number and a unit"),
        ("backup.segment_max_bytes", "1KiB", "must be at least 4KiB"),
        ("backup.memory_limit", "255MiB", "must be at least 256MiB"),
        ("backup.per_partition_isolation", "false", "cannot be switched off"),
        ("backup.per_partition_isolation", "yes", "'yes' is neither true nor false"),
        ("backup.start", "newest", "'newest' is not one of earliest, latest"),
        ("backup.compression", "{codec: snappy}", "'snappy' is not one of zstd, none"),
        ("backup.compression", "{level: 0}", "must be between 1 and 19"),
        ("backup.compression", "{level: 20}", "must be between 1 and 19"),
        ("backup.compression", "{level: fast}", "'fast' is not a whole number"),
        ("observability.listen", "9464", "'9464' is not host:port"),
        ("observability.listen", "0.0.0.0:65536", "'0.0.0.0:65536' is not host:port"),
        ("observability.listen", "300.0.0.1:80", "the address is not valid"),
        ("observability.log_level", "warn", "'warn' is not one of debug, info, warning, error (did you mean warning?)"),
        ("control.socket", "control.sock", "'control.sock' is not an absolute path"),
        ("source.bootstrap_servers", "kafka:9092", "must be a list"),
        ("source.bootstrap_servers", "[]", "must not be empty"),
        ("source.bootstrap_servers", "[kafka]", "'kafka' is not host:port"),
        ("source.bootstrap_servers", "['kafka:0']", "'kafka:0' has no port to connect to"),
        ("source.bootstrap_servers", "['u:p@kafka:1']", "must be host:port without a user"),
        ("source.rate_limit", "10", "'10' is not a size"),
        ("source.consumer_group", "' a'", "is not a group's name"),
        ("source.rate_limit", "0B", "a limit of nothing would stop everything"),
        ("source.topics", "{include: []}", "must not be empty"),
        ("source.topics", "{include: ['a b']}", "'a b' is not a topic name or glob"),
        ("source.security", "{protocol: TLS}", "'TLS' is not one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ("source.security", "{protocol: SSL, ca_file: ca.pem}", "'ca.pem' is not an absolute path"),
        ("storage", "{type: s3, s3: {bucket: My_Bucket}}", "'My_Bucket' is not a bucket name"),
        ("storage", "{type: s3, s3: {bucket: 's3://b/p'}}", "what follows the bucket goes into prefix"),
        ("storage", "{type: s3, s3: {bucket: 10.0.0.1}}", "'10.0.0.1' is not a bucket name"),
        ("storage", "{type: s3, s3: {bucket: abc, prefix: a//b}}", "'a//b' is not a key prefix"),
        ("storage", "{type: s3, s3: {bucket: abc, prefix: a/../b}}", "'a/../b' is not a key prefix"),
        ("storage", "{type: s3, s3: {bucket: abc, endpoint: 'minio:9000'}}", "is not a URL"),
        ("storage", "{type: s3, s3: {bucket: abc, endpoint: 'http://h:9/b'}}", "must be scheme, host and port alone"),
        ("storage", "{type: filesystem, filesystem: {path: data}}", "'data' is not an absolute path"),
        ("storage", "{type: filesystem, filesystem: {path: 'file:///data'}}", "is a URL, not a path"),
        ("tiers", "[{name: a, topics: ['*'], rpo: 1m, rto: 5}]", "'5' is not a duration"),
        ("tiers", "{name: a}", "must be a list"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(files: Files, path: str, value: str, complaint: str) -> None:
    refusal = files.refusal(_with(path, value))
    (problem,) = refusal.problems
    assert complaint in str(problem)
    assert problem.where.startswith(str(problem.origin) + ": " + path)
    assert problem.origin.line > 0
    assert refusal.exit_code == 2


def _with(path: str, value: str) -> str:
    """The minimal configuration with one key replaced or added."""
    section, _, key = path.partition(".")
    parts = {
        "backup_id": "main",
        "source": "{bootstrap_servers: ['kafka:9092']}",
        "storage": "{type: s3, s3: {bucket: abc}}",
    }
    if not key:
        parts[section] = value
    elif key == "bootstrap_servers" or section != "source":
        parts[section] = f"{{{key}: {value}}}"
    else:
        parts[section] = f"{{bootstrap_servers: ['kafka:9092'], {key}: {value}}}"
    return "".join(f"{name}: {part}\n" for name, part in parts.items())


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ("flush_interval: 5s\n", "flush_interval: unknown key (it belongs to backup)"),
        ("bakcup: {}\n", "bakcup: unknown key (did you mean backup?)"),
        ("backup: {flush_intervall: 5s}\n", "backup.flush_intervall: unknown key (did you mean flush_interval?)"),
        ("control: {xyzzy: 1}\n", "control.xyzzy: unknown key (known here: socket)"),
        ("restore: {}\n", "restore: unknown key in a daemon configuration (it belongs to a restore configuration)"),
        (
            "tiers: [{name: a, topics: ['*'], rpo: 1m, rto: 1h, rpos: 1m}]\n",
            "tiers[0].rpos: unknown key (did you mean rpo?)",
        ),
    ],
)
def test_hazard_47_an_unknown_key_is_refused_with_its_line_and_a_hint(
    files: Files, addition: str, complaint: str
) -> None:
    assert files.problems(MINIMAL + addition) == [f"kbackupd.yaml:7: {complaint}"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("500ms", "must be at least 1s, or off"),
        ("0s", "an interval of nothing (off, for never)"),
        ("never", "'never' is not a duration"),
    ],
)
def test_an_interval_of_roll_ups_is_a_duration_or_off(files: Files, text: str, complaint: str) -> None:
    (problem,) = files.problems(f"{MINIMAL}backup: {{rollup_interval: {text}}}\n")
    assert problem.startswith(f"kbackupd.yaml:7: backup.rollup_interval: {complaint}")
    for wanted, seconds in (("off", 0.0), ("90m", 5400.0)):
        found = files.daemon(MINIMAL, {"KBACKUPD_BACKUP__ROLLUP_INTERVAL": wanted})
        assert found.backup.rollup_interval_seconds == seconds


def test_a_missing_key_is_refused_at_its_section_and_says_what_it_is_for(files: Files) -> None:
    assert files.problems(MINIMAL.replace("  type: s3\n", "").replace("backup_id: main\n", "")) == [
        "kbackupd.yaml: backup_id: required, but not there "
        "(Name of the archive: the directory below the storage prefix)",
        "kbackupd.yaml:3: storage.type: required, but not there "
        "(Which of the two sections below is meant; the other must be absent)",
    ]


def test_all_problems_are_told_at_once_in_the_order_of_the_file(files: Files) -> None:
    text = MINIMAL.replace("main", "a b") + "backup:\n  start: never\n  flush_interval: 10\n"
    refusal = files.refusal(text, {"KBACKUPD_NOPE": ""})
    assert [problem.origin.line for problem in refusal.problems] == [1, 8, 9, 0]
    assert refusal.message.count("\n") == 4
    assert "4 problems" in refusal.message


def test_a_prefix_is_taken_without_the_slashes_around_it(files: Files) -> None:
    text = MINIMAL.replace("{bucket: my-kafka-backups}", "{bucket: my-kafka-backups, prefix: /a/b/}")
    assert files.daemon(text).storage.url == "s3://my-kafka-backups/a/b"


def test_a_topic_belongs_to_the_first_tier_that_matches_or_to_none(files: Files) -> None:
    text = MINIMAL + (
        "tiers:\n"
        "- {name: critical, topics: ['pay*'], rpo: 30s, rto: 15m}\n"
        "- {name: logs, topics: ['*-log'], rpo: 1h, rto: 1d}\n"
    )
    settings = files.daemon(text)
    tiers = [settings.tier_of(topic) for topic in ("pay-log", "x-log", "orders")]
    assert [tier and tier.name for tier in tiers] == ["critical", "logs", None]
