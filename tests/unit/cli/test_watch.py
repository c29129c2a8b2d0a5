"""`ctl status --watch` as a process, in a real pseudo-terminal and in a pipe, over a daemon that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from kbackupd.cli.main import main
from kbackupd.cli.status_text import status_page
from kbackupd.model.status import PartitionState, Problem
from kbackupd.server.control import ControlServer
from kbackupd.testbed.daemon import kbackupd_command, kbackupd_environment
from tests.unit.server.fake_daemon import FakeDaemon, sample

PATIENCE_SECONDS = 60.0
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
"""The terminal's other screen."""


class Served:
    """A fake daemon that can be stopped and started on its socket."""

    def __init__(self, directory: Path) -> None:
        self.daemon = FakeDaemon()
        self.path = directory / "control.sock"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server: ControlServer | None = None
        self.start()

    def start(self) -> None:
        self._server = ControlServer(self.daemon, self.path)
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(60)

    def stop(self) -> None:
        if self._server is not None:
            asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(60)
            self._server = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def command(self, *arguments: str) -> list[str]:
        return kbackupd_command(
            "ctl", "--socket", str(self.path), "status", "--watch", "--interval", "100ms", *arguments
        )


@pytest.fixture
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="kb") as directory:
        served = Served(Path(directory))
        yield served
        served.close()


class Watching:
    """The verb on a pseudo-terminal or a pipe, and all that it has written."""

    def __init__(self, served: Served, *arguments: str, terminal: tuple[int, int] | None = None) -> None:
        self.text = ""
        self._read, write = pty.openpty() if terminal else os.pipe()
        if terminal:
            columns, lines = terminal
            fcntl.ioctl(write, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {k: v for k, v in kbackupd_environment().items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self._process = subprocess.Popen(
            served.command(*arguments),
            stdin=write if terminal else subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.STDOUT,
            env=environment | {"TERM": "xterm-256color"},
        )
        os.close(write)

    def until(self, *wanted: str) -> None:
        """Read until all of `wanted` came, in this order, after what was waited for before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for text in wanted:
            while text not in self.text:
                assert time.monotonic() < deadline, f"{text!r} did not come: {self.text[-2_000:]!r}"
                self._more(deadline)
            self.text = self.text[self.text.index(text) + len(text) :]

    def _more(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
        data = b""
        with contextlib.suppress(OSError):  # a terminal nobody writes to any more
            data = os.read(self._read, 1 << 16) if ready else b""
        self.text += data.decode(errors="replace")
        return bool(data)

    def ends(self, number: signal.Signals) -> int:
        """Send the signal; the exit code, once all is read."""
        self._process.send_signal(number)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._more(deadline):
            pass
        return self._process.wait(PATIENCE_SECONDS)

    def hang_up(self) -> int:
        os.close(self._read)
        self._read = -1
        return self._process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._read >= 0:
            os.close(self._read)


def plain(text: str) -> str:
    """Without the terminal's own language."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_it_is_redrawn_in_place_and_leaves_the_terminal_as_it_was(
    served: Served, number: signal.Signals
) -> None:
    with contextlib.closing(Watching(served, terminal=(100, 30))) as watching:
        watching.until(ENTER, "HEALTHY", "orders")
        served.daemon.problems = (Problem(subject="s3", message="slow", hint="wait", since_ms=0, count=1),)
        watching.until("UNHEALTHY", "1 PROBLEM", "slow", "orders")
        assert watching.ends(number) == 0
        assert LEAVE in watching.text
        assert "Traceback" not in watching.text


def test_a_daemon_that_restarts_is_said_not_to_answer_and_then_shown_again(served: Served) -> None:
    with contextlib.closing(Watching(served, terminal=(100, 40))) as watching:
        watching.until("HEALTHY")
        served.stop()
        watching.until("not answering: ", "there is no socket", "what it said", "ago:", "orders")
        served.start()
        # Home, and the first word of the page is the daemon's again.
        watching.until("\x1b[H", "\x1b[1;32mHEALTHY", "orders")
        assert watching.ends(signal.SIGINT) == 0


def test_piped_it_is_one_block_after_the_other_without_control_characters(served: Served) -> None:
    with contextlib.closing(Watching(served)) as watching:
        watching.until("HEALTHY", "\n---\nHEALTHY", "\n---\n")
        served.stop()
        watching.until("not answering: there is no socket", "\n  → ", "\n---\n")
        served.start()
        watching.until("\n---\nHEALTHY")
        assert watching.ends(signal.SIGINT) == 0
        assert "\x1b" not in watching.text


def test_as_json_it_is_a_line_each_time_errors_too(served: Served) -> None:
    with contextlib.closing(Watching(served, "--format", "json", "--topic", "ord*")) as watching:
        watching.until("\n")
        watching.until("}\n{")
        served.stop()
        watching.until('"exit_code":4}\n')
        served.start()
        watching.until("}\n")
        assert watching.ends(signal.SIGINT) == 0
        looks = [json.loads(line) for line in watching.text.splitlines()]
    assert all([topic["name"] for topic in look["topics"]] == ["orders"] for look in looks if "topics" in look)


def test_a_reader_that_has_seen_enough_ends_it_without_a_complaint(served: Served) -> None:
    with contextlib.closing(Watching(served)) as watching:
        watching.until("HEALTHY")
        assert watching.hang_up() == 0


@pytest.mark.parametrize(("interval", "said"), [("2", "is not a duration"), ("1ms", "at least 100ms")])
def test_an_interval_without_a_unit_or_too_short_is_refused(
    interval: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["ctl", "status", "--watch", "--interval", interval])
    assert leaving.value.code == 2
    assert said in capsys.readouterr().err


def test_an_interval_of_nothing_that_repeats_is_refused_rather_than_ignored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["ctl", "status", "--interval", "5s"])
    assert leaving.value.code == 2
    assert "error: --interval is of --watch" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 100, 160])
@pytest.mark.parametrize("lines", [24, 40, 60])
def test_a_page_of_two_hundred_topics_and_fifty_problems_fits_and_shows_the_worst(columns: int, lines: int) -> None:
    daemon = FakeDaemon(
        (
            *(sample(f"clickstream.web.pageviews.{n:03}", exposure=float(n % 7)) for n in range(200)),
            sample("broken", exposure=900.0, state=PartitionState.QUARANTINED),
        )
    )
    daemon.problems = tuple(
        Problem(subject=f"orders/{n}", message="the broker answered " + "x" * 90, hint="ask it", since_ms=0, count=n)
        for n in range(1, 51)
    )
    console = Console(force_terminal=True, width=columns, color_system=None, highlight=False, markup=False)
    page = status_page(console, daemon.status(), lines=lines)
    rendered = ["".join(part.text for part in line).rstrip() for line in console.render_lines(page, pad=False)]
    assert len(rendered) <= lines
    assert max(map(len, rendered)) <= columns
    text = "\n".join(rendered)
    for wanted in (
        "UNHEALTHY",
        "critical",
        "50 PROBLEMS",
        "lines more",
        "TOPIC",
        "broken",
        "1 quarantined",
        "less urgent",
    ):
        assert wanted in text
