"""`KBACKUPD_…` variables: over the file, never silently without effect."""

from __future__ import annotations

import pytest

from tests.unit.settings.files import MINIMAL, RESTORE, Files


def test_a_variable_overrides_the_file(files: Files) -> None:
    text = MINIMAL + "backup: {flush_interval: 20s, discovery_interval: 7s}\n"
    backup = files.daemon(text, {"KBACKUPD_BACKUP__FLUSH_INTERVAL": "5s"}).backup
    assert (backup.flush_interval_seconds, backup.discovery_interval_seconds) == (5.0, 7.0)


def test_variables_alone_make_a_section(files: Files) -> None:
    environ = {"KBACKUPD_STORAGE__S3__BUCKET": "other", "KBACKUPD_STORAGE__TYPE": "s3"}
    text = MINIMAL.split("storage:")[0]
    assert files.daemon(text, environ).storage.url == "s3://other"


def test_lists_are_given_as_json(files: Files) -> None:
    environ = {
        "KBACKUPD_SOURCE__BOOTSTRAP_SERVERS": '["a:1", "b:2"]',
        "KBACKUPD_TIERS": '[{"name": "all", "topics": ["*"], "rpo": "1m", "rto": "1h"}]',
    }
    settings = files.daemon(MINIMAL, environ)
    assert settings.source.bootstrap_servers == ("a:1", "b:2")
    assert [tier.name for tier in settings.tiers] == ["all"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a:1,b:2", "is not JSON"),
        ('{"a": 1}', "is not a list"),
        ('[{"a": 1, "a": 2}]', "has the same key twice in one section"),
        ("[1]", "must be text"),
    ],
)
def test_a_list_that_is_no_json_list_is_refused_under_the_variables_name(
    files: Files, text: str, complaint: str
) -> None:
    (problem,) = files.problems(MINIMAL, {"KBACKUPD_SOURCE__BOOTSTRAP_SERVERS": text})
    assert problem.startswith("environment KBACKUPD_SOURCE__BOOTSTRAP_SERVERS: source.bootstrap_servers")
    assert complaint in problem


def test_a_json_number_is_not_a_duration_either(files: Files) -> None:
    tiers = '[{"name": "all", "topics": ["*"], "rpo": 60, "rto": "1h"}]'
    (problem,) = files.problems(MINIMAL, {"KBACKUPD_TIERS": tiers})
    assert problem.startswith("environment KBACKUPD_TIERS: tiers[0].rpo: '60' is not a duration")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KBACKUPD_BACKUP__FLUSH_INTERVALL", "did you mean KBACKUPD_BACKUP__FLUSH_INTERVAL?"),
        ("KBACKUPD_BACKUP_FLUSH_INTERVAL", "did you mean KBACKUPD_BACKUP__FLUSH_INTERVAL?"),
        ("kbackupd_backup__flush_interval", "did you mean KBACKUPD_BACKUP__FLUSH_INTERVAL?"),
        ("KBACKUPD_STORAGE__S3", "a section is set key by key, such as KBACKUPD_STORAGE__S3__ACCESS_KEY_ID"),
        ("KBACKUPD_TIERS__0__RPO", "a list is set as a whole, as JSON, in KBACKUPD_TIERS"),
        ("KBACKUPD_XYZZY", "nested keys are joined by __, such as KBACKUPD_BACKUP__FLUSH_INTERVAL"),
    ],
)
def test_hazard_47_an_unknown_variable_is_refused_with_a_hint(files: Files, name: str, hint: str) -> None:
    assert files.problems(MINIMAL, {name: "5s"}) == [f"environment {name}: no key has this variable ({hint})"]


@pytest.mark.parametrize(
    "name",
    [
        "KBACKUPD_SERVICE_HOST",
        "KBACKUPD_SERVICE_PORT_METRICS",
        "KBACKUPD_PORT",
        "KBACKUPD_PORT_9464_TCP_ADDR",
        "KBACKUPD_CONFIG",
        "KBACKUPD_RESTORE__OPTIONS__VERIFY",
        "PATH",
    ],
)
def test_variables_that_others_set_for_their_own_ends_do_no_harm(files: Files, name: str) -> None:
    assert files.daemon(MINIMAL, {name: "tcp://10.0.0.1:9464"}) == files.daemon(MINIMAL)


def test_a_restore_leaves_the_daemons_variables_alone_and_takes_its_own(files: Files) -> None:
    environ = {"KBACKUPD_BACKUP__FLUSH_INTERVAL": "5s", "KBACKUPD_RESTORE__OPTIONS__VERIFY": "false"}
    assert files.restore(RESTORE, environ).options.verify is False


def test_a_variable_does_not_cover_up_a_section_that_is_none(files: Files) -> None:
    (problem,) = files.problems(MINIMAL + "backup: 5s\n", {"KBACKUPD_BACKUP__START": "latest"})
    assert "backup: must be a section" in problem


def test_variables_in_a_variable_are_not_expanded(files: Files) -> None:
    (problem,) = files.problems(MINIMAL, {"KBACKUPD_BACKUP_ID": "${HOME}"})
    assert "'${HOME}' is not a name" in problem
