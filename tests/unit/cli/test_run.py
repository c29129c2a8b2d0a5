"""`kbackupd run`: the log, too, says why the daemon ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kbackupd.cli import run as verb
from kbackupd.cli.main import main
from kbackupd.model.errors import FencedError, KbackupError, StoreDeniedError

CONFIGURATION = """
backup_id: main
source: {bootstrap_servers: ["localhost:1"]}
storage: {type: filesystem, filesystem: {path: /nowhere}}
"""


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize(
    ("error", "event", "code"),
    [(FencedError("epoch 2 was claimed"), "writer.fenced", 7), (StoreDeniedError("403"), "daemon.failed", 4)],
)
def test_log_says_why_the_daemon_ended(
    error: KbackupError,
    event: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [error])

    monkeypatch.setattr(verb, "run_daemon", fail)
    config = tmp_path / "kbackupd.yaml"
    config.write_text(CONFIGURATION)
    with pytest.raises(SystemExit) as leaving:
        main(["run", "--config", str(config)])
    assert leaving.value.code == code
    printed = capfd.readouterr()
    (line,) = printed.out.splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["error"]) == (event, "error", error.message)
    assert f"error: {error.message}" in printed.err


@pytest.mark.parametrize(
    "option", [("--timeout", "5m"), ("--patience", "3m"), ("--deep",), ("--format", "json")], ids=lambda one: one[0]
)
def test_what_is_of_once_is_refused_without_it_rather_than_ignored(
    option: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "kbackupd.yaml"
    config.write_text(CONFIGURATION)
    with pytest.raises(SystemExit) as leaving:
        main(["run", "--config", str(config), *option])
    assert leaving.value.code == 2
    assert f"error: {option[0]} is of --once" in capfd.readouterr().err
