"""The root command: every failure becomes a message, a hint and the exit code of its class."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from kbackupd import __version__
from kbackupd.cli import ctl
from kbackupd.cli.main import VERBS, explain, main
from kbackupd.model.errors import (
    ArchiveInvalidError,
    ConfigurationError,
    FencedError,
    IncompleteError,
    KafkaDeniedError,
    KbackupError,
    RefusedError,
    StoreUnavailableError,
    principal,
)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `ctl status` fail with `error`, as any verb might."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ctl, "_ask", fail)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"kbackupd {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_can_be_loaded_and_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb, "--help") == 0
    text = capsys.readouterr().out
    assert f" {verb} [" in text.splitlines()[0]
    assert "completion" not in text
    assert run("--help") == 0
    assert f"  {verb} " in capsys.readouterr().out


def test_ctl_needs_neither_a_kafka_nor_an_s3_client() -> None:
    program = (
        "import sys\nfrom kbackupd.cli.main import main\ntry: main(['ctl', 'status', '--help'])\n"
        "except SystemExit: print(sorted({'aiokafka', 'aiobotocore', 'kbackupd.daemon'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["bogus"], ["ctl", "bogus"], ["ctl", "status", "--bogus"], ["--bogus"]])
def test_wrong_usage_is_exit_code_two_and_names_what_is_wrong(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert "bogus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("m", hint="h"), 2),
        (ArchiveInvalidError("m", hint="h"), 3),
        (StoreUnavailableError("m", hint="h"), 4),
        (KafkaDeniedError("m", hint="h"), 4),
        (RefusedError("m", hint="h"), 5),
        (IncompleteError("m", hint="h"), 6),
        (FencedError("m", hint="h"), 7),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [FencedError("m", hint="h")])]), 7),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_ours_is_its_message_its_hint_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    failing_with(monkeypatch, error)
    assert run("ctl", "status") == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: m\nhint: h\n")


def test_an_error_without_a_hint_prints_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(KbackupError("m")) == 1
    assert capsys.readouterr().err == "error: m\n"


def test_a_fault_is_one_line_with_its_place_and_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with(monkeypatch, KeyError("boom"))
    assert run("ctl", "status") == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: unexpected KeyError at test_main.py:")
    assert "--traceback" in hint


def test_the_traceback_is_there_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with(monkeypatch, KeyError("boom"))
    assert run("--traceback", "ctl", "status") == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert run("ctl", "status") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_secret_inside_a_message_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    explain(StoreUnavailableError("GET https://me:hunter2@s3.example/ failed"))
    assert "hunter2" not in capsys.readouterr().err


def test_a_fault_is_not_hidden_behind_an_error_it_caused() -> None:
    fault = ValueError("fault")
    assert principal(ExceptionGroup("g", [StoreUnavailableError("s"), ExceptionGroup("h", [fault])])) is fault


def test_control_c_is_exit_code_130_without_a_traceback() -> None:
    with tempfile.TemporaryDirectory(prefix="kb") as directory, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{directory}/s")
        silent.listen()
        silent.settimeout(120)
        command = [sys.executable, "-m", "kbackupd.cli.main", "ctl", "--socket", f"{directory}/s", "flush"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


def test_a_reader_that_leaves_early_is_not_a_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "kbackupd.cli.main", "--version"],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (1, b"")
