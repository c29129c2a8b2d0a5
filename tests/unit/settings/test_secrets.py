"""Hazard 48: secrets in logs, status or errors."""

from __future__ import annotations

import pytest

from kbackupd.model.settings import S3Settings, Secret
from kbackupd.settings import show
from tests.unit.settings.files import MINIMAL, RESTORE, Files

SECRET = "hunter2-hunter2"

_SASL = """\
backup_id: main
source:
  bootstrap_servers: [kafka-1:9092]
  security:
    protocol: SASL_SSL
    sasl: {mechanism: PLAIN, username: u, password: hunter2-hunter2}
storage:
  type: s3
  s3: {bucket: abc, access_key_id: hunter2-hunter2, secret_access_key: hunter2-hunter2, session_token: hunter2-hunter2}
"""


def test_hazard_48_a_secret_prints_as_stars_wherever_it_is_held() -> None:
    secret = Secret(SECRET)
    held = S3Settings(bucket="b", secret_access_key=secret)
    for text in (str(secret), repr(secret), f"{secret}", f"{held}", f"{held!r}", "%s" % secret):  # noqa: UP031
        assert SECRET not in text
        assert "**********" in text
    assert secret.reveal() == SECRET
    assert secret == Secret(SECRET)
    assert secret != Secret("other")
    assert len({secret, Secret(SECRET)}) == 1


def test_hazard_48_settings_hold_secrets_without_showing_them(files: Files) -> None:
    settings = files.daemon(_SASL)
    assert settings.source.security.sasl is not None
    assert settings.source.security.sasl.password.reveal() == SECRET
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    "mistake",
    [
        # a secret beside other mistakes, and the whole section wrong
        ("mechanism: PLAIN", "mechanism: NOPE"),
        ("username: u, ", ""),
        ("protocol: SASL_SSL", "protocol: SSL"),
        ("backup_id: main", "backup_id: a b"),
        ("access_key_id: hunter2-hunter2, ", ""),
        ("password: hunter2-hunter2", "password: [hunter2-hunter2]"),
        ("password: hunter2-hunter2", "password: {hunter2-hunter2: 1}"),
        # at the wrong key, misspelt or pasted where it does not belong
        ("password: ", "pasword: "),
        ("type: s3", "type: hunter2-hunter2"),
        ("bucket: abc", "bucket: hunter2-hunter2/x"),
        ("bucket: abc", "bucket: abc, endpoint: 'http://u:hunter2-hunter2@host'"),
        ("kafka-1:9092", "'u:hunter2-hunter2@kafka:9092'"),
        # unquoted, where YAML takes it for syntax
        ("password: ", "password: *"),
        ("password: ", "password: &"),
        ("password: ", "password: !"),
        ("password: ", "password: !a!"),
        ("password: ", "password: @"),
        ("password: ", "password: %"),
        ("password: ", "password: ["),
        ("password: hunter2-hunter2", 'password: "hunter2-hunter2\\q"'),
    ],
)
def test_hazard_48_no_error_quotes_a_secret(files: Files, mistake: tuple[str, str]) -> None:
    text = _SASL.replace(*mistake)
    assert text != _SASL
    refusal = files.refusal(text)
    told = f"{refusal}{refusal.hint}{refusal.where}{refusal!r}"
    assert SECRET not in told


def test_hazard_48_neither_the_error_nor_its_causes_hold_the_value_for_a_traceback(files: Files) -> None:
    refusal = files.refusal(_SASL.replace("mechanism: PLAIN", "mechanism: NOPE"))
    assert refusal.__cause__ is None
    assert refusal.__context__ is None


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("backup_id: main", "backup_id: ${TOKEN} x", "'${TOKEN} x' is not a name"),
        ("[kafka-1:9092]", "['${TOKEN}']", "'${TOKEN}' is not host:port"),
        ("{bucket: my-kafka-backups}", "{bucket: '${TOKEN}_'}", "'${TOKEN}_' is not a bucket name"),
    ],
)
def test_hazard_48_what_came_in_through_a_variable_is_named_and_not_quoted(
    files: Files, before: str, after: str, told: str
) -> None:
    (problem,) = files.problems(MINIMAL.replace(before, after), {"TOKEN": SECRET})
    assert told in problem
    assert SECRET not in problem


def test_hazard_48_a_part_of_a_value_that_came_through_a_variable_is_blotted(files: Files) -> None:
    text = RESTORE.replace("s3://my-kafka-backups/production", "${TOKEN}://x")
    problem = str(files.refusal(text, {"TOKEN": SECRET}))
    assert "there is no storage of type '**********'" in problem
    assert SECRET not in problem


def test_hazard_48_unknown_variables_are_named_without_their_values(files: Files) -> None:
    told = str(files.refusal(MINIMAL, {"KBACKUPD_SOURCE__SECURITY__PASSWORD": SECRET}))
    assert "KBACKUPD_SOURCE__SECURITY__PASSWORD" in told
    assert SECRET not in told


def test_hazard_48_show_redacts_secrets_of_file_and_environment(files: Files) -> None:
    path = files.write(_SASL)
    values = show(path, {"KBACKUPD_STORAGE__S3__SESSION_TOKEN": "another-" + SECRET})
    assert SECRET not in str(values)
    redacted = {value.key for value in values if value.value == "**********"}
    assert redacted == {
        "source.security.sasl.password",
        "storage.s3.access_key_id",
        "storage.s3.secret_access_key",
        "storage.s3.session_token",
    }


def test_a_secret_from_an_empty_variable_is_refused(files: Files) -> None:
    (problem,) = files.problems(_SASL.replace(f"password: {SECRET}", "password: '${EMPTY}'"), {"EMPTY": ""})
    assert "source.security.sasl.password: must not be empty" in problem
