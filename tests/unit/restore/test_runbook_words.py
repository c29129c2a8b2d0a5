"""The runbook's files and command lines are such that kbackupd takes them, checked without a cluster.

What they do is tried on one in tests/integration/restore/test_runbook.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from kbackupd.cli.main import app
from kbackupd.settings.load import load_restore_settings

DOCUMENT = Path(__file__).parents[3] / "docs" / "restore.md"
BLOCK = re.compile(r"^```sh runbook ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAY_WHAT_IS_CALLED = '#!/bin/sh\nfor word in "$@"; do printf "%s\\037" "$word"; done\necho\n'


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """Where the blocks, typed as they stand, one after the other, leave their files, and the calls they make."""
    directory = tmp_path_factory.mktemp("typed")
    program = directory / "kbackupd"
    program.write_text(SAY_WHAT_IS_CALLED)
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", "-eu"],
        input="\n".join(text for _, text in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))),
        cwd=directory,
        env={**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return directory / "restore", [line.split("\x1f")[:-1] for line in done.stdout.splitlines()]


def parse(command: Any, arguments: list[str], parent: Any = None) -> str:
    """The verb that is named; options and their values are parsed, nothing is run."""
    context = command.make_context(command.name, list(arguments), parent=parent)
    if not hasattr(command, "resolve_command"):
        return str(command.name)
    name, verb, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    return f"{name} {parse(verb, rest, context)}" if hasattr(verb, "resolve_command") else parse(verb, rest, context)


def test_every_file_that_is_written_is_a_configuration_without_a_mistake(
    typed: tuple[Path, list[list[str]]],
) -> None:
    directory, _ = typed
    files = sorted(directory.glob("*.yaml"))
    names = ["all.yaml", "as-of.yaml", "before.yaml", "groups.yaml", "some.yaml", "topic.yaml"]
    assert [file.name for file in files] == names
    for file in files:
        settings = load_restore_settings(file, {})
        assert settings.source.path == "s3://my-kafka-backups/production"
        assert settings.target.bootstrap_servers == ("kafka-restore:9092",)


def test_every_command_is_one_that_kbackupd_knows_with_options_that_it_has(
    typed: tuple[Path, list[list[str]]],
) -> None:
    _, calls = typed
    verbs = [parse(typer.main.get_command(app), call) for call in calls]
    assert verbs == [
        *("describe", "validate"),
        *["restore"] * 10,
        *("offset-reset plan", "offset-reset execute", "offset-reset rollback"),
    ]


def test_every_file_that_a_command_names_has_been_written_before(typed: tuple[Path, list[list[str]]]) -> None:
    directory, calls = typed
    for call in calls:
        if "--config" in call:
            assert (directory / call[call.index("--config") + 1]).is_file(), call
