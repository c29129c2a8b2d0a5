"""Values that are right by themselves and wrong together."""

from __future__ import annotations

import pytest

from tests.unit.settings.files import MINIMAL, RESTORE, Files


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ("backup: {flush_interval: 1m, checkpoint_interval: 30s}", "backup.checkpoint_interval: 30s is below"),
        ("backup: {segment_max_bytes: 129MiB}", "backup.segment_max_bytes: three segments of 129.0 MiB"),
        (
            "tiers: [{name: a, topics: ['*'], rpo: 10s, rto: 1h}]",
            "tiers[0].rpo: 10s is not above backup.flush_interval",
        ),
        (
            "tiers: [{name: a, topics: [b], rpo: 1m, rto: 1h}, {name: a, topics: [c], rpo: 1m, rto: 1h}]",
            "tiers[1].name: another tier is called 'a' already",
        ),
        (
            "tiers: [{name: a, topics: ['*'], rpo: 1m, rto: 1h}, {name: b, topics: [c], rpo: 1m, rto: 1h}]",
            "tiers[1]: never reached: tier 'a' before it matches every topic",
        ),
        ("tiers: [{name: untiered, topics: ['*'], rpo: 1m, rto: 1h}]", "tiers[0].name: 'untiered' is the name of"),
        ("tiers: [{name: system, topics: ['*'], rpo: 1m, rto: 1h}]", "tiers[0].name: 'system' is the name of"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(files: Files, addition: str, complaint: str) -> None:
    (problem,) = files.problems(f"{MINIMAL}{addition}\n")
    assert problem.startswith(f"kbackupd.yaml:7: {complaint}")


def test_a_flush_interval_from_a_variable_is_held_against_the_tiers_of_the_file(files: Files) -> None:
    (problem,) = files.problems(
        MINIMAL + "tiers: [{name: a, topics: ['*'], rpo: 20s, rto: 1h}]\n",
        {"KBACKUPD_BACKUP__FLUSH_INTERVAL": "20s"},
    )
    assert "tiers[0].rpo: 20s is not above backup.flush_interval (20s)" in problem


@pytest.mark.parametrize(
    ("storage", "complaint"),
    [
        ("{type: s3}", "storage: type is s3, but there is no section s3"),
        ("{type: filesystem, filesystem: {path: /b}, s3: {bucket: abc}}", "storage.s3: type is filesystem, so this"),
        ("{type: s3, filesystem: {path: /b}, s3: {bucket: abc}}", "storage.filesystem: type is s3, so this"),
        ("{type: s3, s3: {bucket: abc, access_key_id: AKIA}}", "storage.s3.access_key_id: needs secret_access_key"),
        ("{type: s3, s3: {bucket: abc, secret_access_key: abc}}", "storage.s3.secret_access_key: needs access_key_id"),
        ("{type: s3, s3: {bucket: abc, session_token: abc}}", "storage.s3.session_token: means nothing without"),
        (
            "{type: s3, s3: {bucket: abc, profile: p, access_key_id: AKIA, secret_access_key: abc}}",
            "storage.s3.profile: contradicts the static keys",
        ),
    ],
)
def test_storage_that_is_described_twice_or_halfway_is_refused(files: Files, storage: str, complaint: str) -> None:
    text = MINIMAL.split("storage:")[0] + f"storage: {storage}\n"
    (problem,) = files.problems(text)
    assert problem.startswith(f"kbackupd.yaml:4: {complaint}")


@pytest.mark.parametrize(
    ("security", "complaint"),
    [
        ("{protocol: SASL_SSL}", ": SASL_SSL needs credentials"),
        ("{sasl: {mechanism: PLAIN, username: u, password: p}}", ".sasl: would be ignored: the protocol is PLAINTEXT"),
        ("{ca_file: /ca.pem}", ".ca_file: would be ignored: the protocol is PLAINTEXT"),
        ("{protocol: SSL, cert_file: /c.pem}", ".cert_file: needs key_file beside it"),
        ("{protocol: SSL, key_file: /c.key}", ".key_file: needs cert_file beside it"),
    ],
)
def test_security_that_would_be_ignored_or_is_half_there_is_refused_on_both_sides(
    files: Files, security: str, complaint: str
) -> None:
    daemon = MINIMAL.replace("source:\n", f"source:\n  security: {security}\n")
    restore = RESTORE.replace("9092]}", f"9092], security: {security}}}")
    assert files.problems(daemon)[0].startswith(f"kbackupd.yaml:3: source.security{complaint}")
    assert files.problems(restore)[0].startswith(f"restore.yaml:3: restore.target.security{complaint}")


def test_a_wrong_value_in_one_section_does_not_hide_a_contradiction_in_another(files: Files) -> None:
    text = MINIMAL.replace("main", "a b") + "backup: {segment_max_bytes: 200MiB}\n"
    assert [problem.path for problem in files.refusal(text).problems] == [
        ("backup_id",),
        ("backup", "segment_max_bytes"),
    ]
