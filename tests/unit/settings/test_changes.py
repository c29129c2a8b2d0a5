"""What a reload may change: decided for every key, worked out as a whole, and never telling a secret."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kbackupd.model.settings import (
    BackupSettings,
    DaemonSettings,
    FilesystemSettings,
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
from kbackupd.model.units import parse_duration_seconds, parse_size_bytes
from kbackupd.settings.changes import CONSTANT, SETTINGS, compare, is_live
from kbackupd.settings.schema import DAEMON

RUNNING = DaemonSettings(
    backup_id="main",
    source=SourceSettings(
        bootstrap_servers=("kafka-1:9092",),
        rate_limit_bytes_per_second=50 << 20,
        consumer_group="kbackupd-main",
        security=SecuritySettings(
            protocol=SecurityProtocol.SASL_SSL,
            sasl=SaslSettings(mechanism=SaslMechanism.PLAIN, username="backup", password=Secret("hunter2")),
            ca_file=Path("/ca.pem"),
            cert_file=Path("/cert.pem"),
            key_file=Path("/key.pem"),
        ),
    ),
    storage=StorageSettings(
        backend=S3Settings(
            bucket="b",
            profile="p",
            access_key_id=Secret("AKIA0000"),
            secret_access_key=Secret("verysecret"),
            session_token=Secret("token0000"),
        )
    ),
)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field of the plain settings that holds a value and not a section."""
    if not dataclasses.is_dataclass(value):
        yield path
        return
    for field in dataclasses.fields(value):
        yield from leaves(getattr(value, field.name), (*path, field.name))


def at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = getattr(value, name)
    return value


def changed(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case Secret():
            return Secret("another secret")
        case StartPolicy():
            return StartPolicy.LATEST
        case SecurityProtocol():
            return SecurityProtocol.PLAINTEXT
        case SaslMechanism():
            return SaslMechanism.SCRAM_SHA_512
        case int() | float():
            return value / 2 if isinstance(value, float) else value // 2
        case Path():
            return value / "x"
        case str():
            return {"zstd": "none", "json": "console", "info": "debug"}.get(value, f"{value}x")
        case (TierSettings(), *_):
            return (TierSettings(name="critical", topics=("*",), rpo_seconds=30.0, rto_seconds=900.0),)
        case tuple():
            return (*value, "x*")
    raise AssertionError(f"no other value of {type(value)} is known here")


def set_at(value: Any, path: tuple[str, ...], new: Any) -> Any:
    head, *rest = path
    return replace(value, **{head: set_at(getattr(value, head), tuple(rest), new) if rest else new})


LEAVES = list(leaves(RUNNING))


def test_every_key_of_the_file_has_a_decision() -> None:
    """A new key: say in settings/changes.py whether a running daemon obeys it, and if not, why."""
    keys = {".".join(key.path) for key in DAEMON.keys}
    assert keys == {*SETTINGS, *CONSTANT}


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_a_change_of_any_one_setting_is_told_as_its_key_and_applied_exactly_if_it_is_live(
    path: tuple[str, ...],
) -> None:
    wanted = set_at(RUNNING, path, changed(at(RUNNING, path)))
    changes = compare(RUNNING, wanted)
    told = [*(one.key for one in changes.applied), *(one.key for one in changes.needs_restart)]
    (key,) = told
    assert len(changes.unchanged) == len(SETTINGS) - 1
    assert changes.effective == (wanted if is_live(key) else RUNNING)
    assert [change.key for change in changes.applied] == ([key] if is_live(key) else [])
    assert all(deferred.reason for deferred in changes.needs_restart)


def test_the_same_configuration_changes_nothing() -> None:
    changes = compare(RUNNING, replace(RUNNING))
    assert (changes.effective, changes.applied, changes.needs_restart) == (RUNNING, (), ())
    assert set(changes.unchanged) == set(SETTINGS)


def test_all_at_once_the_live_ones_are_applied_and_the_others_keep_their_running_value() -> None:
    wanted = RUNNING
    for path in LEAVES:
        wanted = set_at(wanted, path, changed(at(RUNNING, path)))
    changes = compare(RUNNING, wanted)
    assert {change.key for change in changes.applied} == {key for key in SETTINGS if is_live(key)}
    again = compare(changes.effective, wanted)
    assert again.applied == ()
    assert again.needs_restart == changes.needs_restart


def test_secrets_are_never_told_only_that_they_changed() -> None:
    """Hazard 48."""
    wanted = RUNNING
    for path in LEAVES:
        wanted = set_at(wanted, path, changed(at(RUNNING, path)))
    changes = compare(RUNNING, wanted)
    text = repr(changes.applied) + repr(changes.needs_restart)
    assert not [word for word in ("hunter2", "AKIA", "verysecret", "token0000", "another secret") if word in text]
    row = next(one for one in changes.needs_restart if one.key == "source.security.sasl.password")
    assert (row.running, row.wanted) == ("**********", "**********")


def test_values_are_told_as_the_file_writes_them() -> None:
    wanted = replace(
        RUNNING,
        source=replace(RUNNING.source, rate_limit_bytes_per_second=None, topics=TopicSelection(exclude=("tmp*",))),
        backup=BackupSettings(
            flush_interval_seconds=0.5,
            segment_max_bytes=1536 << 10,
            checkpoint_interval_seconds=90.0,
            snapshot_interval_seconds=7200.0,
            rollup_interval_seconds=0.0,
            memory_limit_bytes=1 << 30,
        ),
        tiers=(TierSettings(name="t", topics=("a*", "b"), rpo_seconds=60.0, rto_seconds=86_400.0),),
        observability=replace(RUNNING.observability, host="::1", port=1),
    )
    changes = compare(RUNNING, wanted)
    assert {change.key: (change.before, change.after) for change in changes.applied} == {
        "source.rate_limit": ("50MiB/s", "(not set)"),
        "source.topics.exclude": ("[]", '["tmp*"]'),
        "backup.flush_interval": ("10s", "500ms"),
        "backup.segment_max_bytes": ("32MiB", "1.5MiB"),
        "backup.checkpoint_interval": ("30s", "1.5m"),
        "backup.snapshot_interval": ("1m", "2h"),
        "backup.rollup_interval": ("1h", "off"),
        "tiers": (
            '[{"name": "standard", "topics": ["*"], "rpo": "5m", "rto": "4h"}]',
            '[{"name": "t", "topics": ["a*", "b"], "rpo": "1m", "rto": "1d"}]',
        ),
    }
    assert {one.key: (one.running, one.wanted) for one in changes.needs_restart} == {
        "backup.memory_limit": ("384MiB", "1GiB"),
        "observability.listen": ("0.0.0.0:9464", "[::1]:1"),
    }


@pytest.mark.parametrize("written", ["50MB", "100MB", "12.8MB", "10GB", "33554433B", "1.5GiB", "256KiB", "1MiB", "2kB"])
def test_a_size_that_is_told_is_the_size(written: str) -> None:
    """Of six digits, 50 MB was `5e+07B`, which no file may say, and 100 MB was a little less than that."""
    size = parse_size_bytes(written)
    wanted = replace(RUNNING, source=replace(RUNNING.source, rate_limit_bytes_per_second=size))
    assert compare(RUNNING, wanted).applied[0].after == f"{written}/s"


@pytest.mark.parametrize("written", ["1234567s", "1000001s", "1.5h", "14d", "45s", "250ms"])
def test_a_duration_that_is_told_is_the_duration(written: str) -> None:
    wanted = replace(
        RUNNING, backup=replace(RUNNING.backup, discovery_interval_seconds=parse_duration_seconds(written))
    )
    assert compare(RUNNING, wanted).applied[0].after == written


def test_a_segment_size_that_needs_the_new_memory_limit_waits_for_it() -> None:
    """The new file is right as a whole; the mixture that would be in force until the restart would not be (I9)."""
    wanted = replace(RUNNING, backup=replace(RUNNING.backup, memory_limit_bytes=4 << 30, segment_max_bytes=1 << 30))
    changes = compare(RUNNING, wanted)
    assert [one.key for one in changes.needs_restart] == ["backup.segment_max_bytes", "backup.memory_limit"]
    assert "do not fit into the memory_limit in force (384.0 MiB)" in changes.needs_restart[0].reason
    assert changes.effective == RUNNING


def test_another_kind_of_store_is_told_without_an_error() -> None:
    wanted = replace(RUNNING, storage=StorageSettings(backend=FilesystemSettings(path=Path("/backup"))))
    deferred = {one.key: (one.running, one.wanted) for one in compare(RUNNING, wanted).needs_restart}
    assert deferred["storage.type"] == ("s3", "filesystem")
    assert deferred["storage.s3.bucket"] == ("b", "(not set)")
    assert deferred["storage.filesystem.path"] == ("(not set)", "/backup")
