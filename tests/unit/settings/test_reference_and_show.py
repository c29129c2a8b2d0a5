"""What is told about the configuration is true: the reference, the examples, `config show`, the verbs' exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kbackupd.cli.config import app
from kbackupd.model.errors import ConfigurationError
from kbackupd.settings import reference_markdown, show
from kbackupd.settings.schema import DAEMON, RESTORE, Shape
from tests.unit.settings.files import MINIMAL, Files

ROOT = Path(__file__).parents[3]


def test_the_reference_in_the_documentation_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == reference_markdown(), (
        "regenerate it: kbackupd config reference > docs/configuration.md"
    )


@pytest.mark.parametrize("shape", [DAEMON, RESTORE], ids=lambda shape: shape.name)
def test_the_reference_describes_every_key_and_names_its_variable(shape: Shape) -> None:
    reference = reference_markdown()
    for key in shape.keys:
        assert key.description, key.path
        assert f"`{key.variable}`" in reference


@pytest.mark.parametrize(("name", "shape"), [("kbackupd.yaml", DAEMON), ("restore.yaml", RESTORE)])
def test_the_example_mentions_every_key(name: str, shape: Shape) -> None:
    example = (ROOT / "config" / name).read_text(encoding="utf-8")
    assert [key.path for key in shape.keys if f"{key.path[-1]}:" not in example] == []


def test_show_says_where_each_value_was_written(files: Files) -> None:
    path = files.write(MINIMAL.replace("kafka-1:9092", '"${HOST}:9092"') + "backup: {flush_interval: 2s}\n")
    values = show(path, {"HOST": "k", "KBACKUPD_BACKUP__CHECKPOINT_INTERVAL": "40s", "KBACKUPD_TIERS": "[]"})
    told = {value.key: (value.value, value.origin) for value in values}
    assert told["backup_id"] == ("main", f"{path}:1")
    assert told["source.bootstrap_servers"] == ('["k:9092"]', f"{path}:3")
    assert told["backup.flush_interval"] == ("2s", f"{path}:7")
    assert told["backup.checkpoint_interval"] == ("40s", "environment KBACKUPD_BACKUP__CHECKPOINT_INTERVAL")
    assert told["backup.memory_limit"] == ("384MiB", "default")
    assert told["source.rate_limit"] == (None, "default")
    assert told["tiers"] == ("[]", "environment KBACKUPD_TIERS")
    assert not any(key.startswith(("storage.filesystem", "source.security.sasl")) for key in told)


def test_show_names_the_variable_a_value_was_expanded_from(files: Files) -> None:
    path = files.write(MINIMAL.replace("main", "${SITE}"))
    assert next(v for v in show(path, {"SITE": "fra1"}) if v.key == "backup_id").origin == f"{path}:1, from ${{SITE}}"


def test_show_lists_tiers_key_by_key(files: Files) -> None:
    path = files.write(MINIMAL + "tiers:\n- name: all\n  topics: ['*']\n  rpo: 1m\n  rto: 1h\n")
    told = {value.key: (value.value, value.origin) for value in show(path, {})}
    assert told["tiers[0].rpo"] == ("1m", f"{path}:10")


def test_check_says_ok_for_both_kinds_of_file() -> None:
    for name in ("kbackupd.yaml", "restore.yaml"):
        result = CliRunner().invoke(app, ["check", "--config", str(ROOT / "config" / name)])
        assert (result.exit_code, result.output) == (0, f"{ROOT / 'config' / name}: ok\n")


def test_check_raises_the_error_that_the_root_command_turns_into_exit_code_2(files: Files) -> None:
    result = CliRunner().invoke(app, ["check", "--config", str(files.write(MINIMAL + "nonsense: 1\n"))])
    assert isinstance(result.exception, ConfigurationError)
    assert result.exception.exit_code == 2
    assert ":7: nonsense: unknown key" in str(result.exception)


def test_check_takes_the_file_and_the_overrides_from_the_environment(files: Files) -> None:
    environ = {"KBACKUPD_CONFIG": str(files.write(MINIMAL)), "KBACKUPD_BACKUP__START": "never"}
    result = CliRunner().invoke(app, ["check"], env=environ)
    assert "environment KBACKUPD_BACKUP__START: backup.start: 'never' is not one of" in str(result.exception)


def test_show_prints_text_for_people_and_json_for_programs(files: Files) -> None:
    path = str(files.write(MINIMAL))
    text = CliRunner().invoke(app, ["show", "--config", path])
    assert text.exit_code == 0
    assert f"# {path}:1" in text.output.splitlines()[0]
    assert "source.rate_limit = (not set)" in text.output
    listed = json.loads(CliRunner().invoke(app, ["show", "--config", path, "--format", "json"]).output)
    assert listed[0] == {"key": "backup_id", "value": "main", "origin": f"{path}:1"}


def test_reference_prints_the_document() -> None:
    result = CliRunner().invoke(app, ["reference"])
    assert (result.exit_code, result.output) == (0, reference_markdown())
