"""The file itself: text stays text, syntax is refused with its line, variables are expanded or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbackupd.settings import load_daemon_settings
from kbackupd.settings.document import parse_document
from kbackupd.settings.refusal import RefusedConfigurationError
from tests.unit.settings.files import MINIMAL, Files


@pytest.mark.parametrize("name", ["2026-03-24", "on", "no", "0123", "1e3", "1_000", "12.5", "2026-03-24T00-00-00Z"])
def test_what_yaml_takes_for_a_date_a_boolean_or_a_number_stays_the_text_that_was_written(
    files: Files, name: str
) -> None:
    assert files.daemon(MINIMAL.replace("main", name)).backup_id == name


def test_a_missing_file_is_said_to_be_missing_and_not_a_required_field(tmp_path: Path) -> None:
    with pytest.raises(RefusedConfigurationError, match=r"absent\.yaml: no such file") as refused:
        load_daemon_settings(tmp_path / "absent.yaml", {})
    assert refused.value.exit_code == 2
    assert "example" in refused.value.hint


def test_a_directory_or_bytes_that_are_no_text_are_refused_as_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RefusedConfigurationError, match="cannot be read"):
        load_daemon_settings(tmp_path, {})
    (tmp_path / "latin.yaml").write_bytes(b"backup_id: caf\xe9\n")
    with pytest.raises(RefusedConfigurationError, match=r"not UTF-8 text \(byte 14\)"):
        load_daemon_settings(tmp_path / "latin.yaml", {})


def test_duplicate_keys_are_refused_with_both_lines_instead_of_the_last_one_winning(files: Files) -> None:
    text = MINIMAL + "backup:\n  flush_interval: 5s\n  flush_interval: 50s\n"
    assert files.problems(text) == [
        "kbackupd.yaml:9: backup.flush_interval: duplicate key: written on line 8 already (remove one of them)"
    ]


def test_broken_yaml_is_refused_with_its_line(files: Files) -> None:
    (problem,) = files.problems(MINIMAL + "tiers: [\n")
    assert problem.startswith("kbackupd.yaml:8: not valid YAML: ")


def test_a_tab_is_answered_with_spaces_and_not_with_quotes(files: Files) -> None:
    (problem,) = files.problems(MINIMAL + "backup:\n\tflush_interval: 5s\n")
    assert problem.startswith("kbackupd.yaml:8: not valid YAML: ")
    assert problem.endswith("(indent with spaces, not with tabs)")


def test_a_control_character_is_refused_with_its_line(files: Files) -> None:
    assert files.problems("backup_id: main\nwriter: \x07\n") == ["kbackupd.yaml:2: holds a control character (U+0007)"]


def test_a_list_at_the_top_is_refused(files: Files) -> None:
    assert files.problems("- backup_id: main\n") == ["kbackupd.yaml:1: the file must be `key: value` pairs"]


def test_a_key_that_is_a_list_is_refused(files: Files) -> None:
    assert any("a key must be a plain name" in problem for problem in files.problems(MINIMAL + "[a, b]: c\n"))


def test_an_empty_file_misses_what_is_required(files: Files) -> None:
    assert [problem.path for problem in files.refusal("").problems] == [("backup_id",), ("source",), ("storage",)]


def test_variables_are_expanded_inside_text_and_with_defaults(files: Files) -> None:
    text = MINIMAL.replace("main", "${SITE}-${STAGE:-production}-${EMPTY:-x}")
    assert files.daemon(text, {"SITE": "fra1", "EMPTY": ""}).backup_id == "fra1-production-x"


def test_hazard_47_an_unset_variable_is_refused_and_never_becomes_empty(files: Files) -> None:
    assert files.problems(MINIMAL.replace("main", "${BACKUP_ID}")) == [
        "kbackupd.yaml:1: backup_id: environment variable BACKUP_ID is not set "
        "(export BACKUP_ID, or write ${BACKUP_ID:-default})"
    ]


def test_an_unset_variable_does_not_hide_the_other_problems_nor_cause_new_ones(files: Files) -> None:
    text = MINIMAL.replace("main", "${BACKUP_ID}") + "backup: {flush_interval: 10}\nnonsense: 1\n"
    assert [problem.path for problem in files.refusal(text).problems] == [
        ("backup_id",),
        ("backup", "flush_interval"),
        ("nonsense",),
    ]


def test_a_variable_never_closed_is_refused_and_a_doubled_dollar_is_literal() -> None:
    document = parse_document("a: '${B'\nb: $${C}\n", name="f", environ={})
    assert [str(problem) for problem in document.problems] == [
        "f:1: a: `${` without a variable name and `}` (write ${NAME}, ${NAME:-default}, or $${ for a literal)"
    ]
    assert document.tree["b"] == "${C}"


def test_a_variable_cannot_bring_structure_into_the_file() -> None:
    document = parse_document("a: ${B}\n", name="f", environ={"B": "x\nc: d"})
    assert document.tree == {"a": "x\nc: d"}


def test_a_value_written_as_null_is_not_empty_text(files: Files) -> None:
    assert files.problems(MINIMAL.replace("main", "null")) == [
        "kbackupd.yaml:1: backup_id: has no value (give it one, or remove the key to take the default)"
    ]
