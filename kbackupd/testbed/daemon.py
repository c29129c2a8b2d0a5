"""kbackupd itself as a process of its own, driven only through what its users have: command line, socket, port.

For the demo, the kill tests and drills. Owns a directory with the configuration, the control socket and the log.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import yaml

from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.process import Deadline, GuardedProcess, ServerFailedError
from kbackupd.testbed.s3 import S3Server

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Section: TypeAlias = "dict[str, Json]"

READY_DEADLINE_SECONDS = 90.0
STOP_DEADLINE_SECONDS = 90.0
CLI_DEADLINE_SECONDS = 600.0
_ANSWER_DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A verb of the command line that has ended."""

    arguments: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    seconds: float

    def json(self) -> Section:
        """Its standard output as the JSON object it must be.

        Raises:
            ServerFailedError: it is none, or the verb failed.
        """
        self.require(0)
        try:
            answer = json.loads(self.stdout)
        except ValueError as error:
            raise ServerFailedError(f"{self.title} printed no JSON: {self.stdout[:400]!r}") from error
        if not isinstance(answer, dict):
            raise ServerFailedError(f"{self.title} printed no JSON object: {self.stdout[:400]!r}")
        return answer

    def require(self, *exit_codes: int) -> Finished:
        """Itself, if it ended with one of these codes.

        Raises:
            ServerFailedError: it did not; the message shows what it said.
        """
        if self.exit_code not in exit_codes:
            said = f"{self.stderr[-3000:]}\n{self.stdout[-3000:]}".strip()
            raise ServerFailedError(f"{self.title} ended with exit code {self.exit_code}:\n{said}")
        return self

    @property
    def title(self) -> str:
        return f"kbackupd {' '.join(self.arguments)}"


def kbackupd_command(*arguments: str) -> list[str]:
    """The command line that runs this very kbackupd."""
    return [sys.executable, "-m", "kbackupd.cli.main", *arguments]


def kbackupd_environment(s3: S3Server | None = None) -> dict[str, str]:
    """This process's environment without any kbackupd or AWS setting of its own, with those of `s3`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KBACKUPD_", "AWS_"))}
    # Credentials come from the variables alone: no metadata service is asked, whatever machine this is.
    kept |= {"AWS_EC2_METADATA_DISABLED": "true", "PYTHONUNBUFFERED": "1"}
    return kept | (s3.environment if s3 is not None else {})


def run_kbackupd(
    directory: Path,
    *arguments: str,
    environment: Mapping[str, str],
    deadline_seconds: float = CLI_DEADLINE_SECONDS,
    progress: Callable[[str], None] | None = None,
) -> Finished:
    """Run one verb to its end; while it runs, `progress` gets the last line it printed.

    Raises:
        ServerFailedError: not done within the deadline; it is killed.
    """
    began = time.monotonic()
    deadline = Deadline(deadline_seconds)
    stem = f"{time.time_ns()}-{arguments[0]}"
    out, err = directory / f"{stem}.out", directory / f"{stem}.err"
    process = GuardedProcess(
        f"kbackupd {arguments[0]}", kbackupd_command(*arguments), log=out, errors=err, cwd=directory, env=environment
    )
    try:
        while process.alive:
            if deadline.passed:
                raise process.failure(f"did not end within {deadline_seconds:g} s")
            if progress is not None and (line := _last_line(err) or _last_line(out)):
                progress(line)
            time.sleep(0.05)
    finally:
        process.kill()
    exit_code = process.exit_code
    assert exit_code is not None
    return Finished(
        arguments=arguments,
        exit_code=exit_code,
        stdout=out.read_text(errors="replace"),
        stderr=err.read_text(errors="replace"),
        seconds=time.monotonic() - began,
    )


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2_000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class Daemon:
    """`kbackupd run` against a Kafka cluster and a bucket; may be killed and started again at will.

    Args:
        directory: its own; made if absent. Must have a short path, for the socket.
        endpoint: of a proxy before the store; empty: the server itself.
        overrides: sections merged over the configuration, e.g. `{"backup": {"flush_interval": "2s"}}`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bootstrap: str,
        s3: S3Server,
        bucket: str,
        prefix: str,
        endpoint: str = "",
        backup_id: str = "main",
        writer: str = "main",
        overrides: Mapping[str, Section] | None = None,
        tiers: list[Json] | None = None,
        program: Sequence[str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.config = directory / "kbackupd.yaml"
        self.socket = directory / "control.sock"
        self.log = directory / "kbackupd.log"
        self.path = f"s3://{bucket}/{prefix}"
        self.backup_id = backup_id
        (self.port,) = free_ports(1)
        self.environment = kbackupd_environment(s3)
        self._reached: Section = {"region": s3.region, "endpoint": s3.endpoint, "force_path_style": True}
        self._program = kbackupd_command("run") if program is None else list(program)
        self._process: GuardedProcess | None = None
        sections: dict[str, Section] = {
            "source": {"bootstrap_servers": list[Json](bootstrap.split(","))},
            "storage": {
                "type": "s3",
                "s3": {"bucket": bucket, "prefix": prefix, **self._reached, "endpoint": endpoint or s3.endpoint},
            },
            "backup": {"flush_interval": "2s", "checkpoint_interval": "5s", "discovery_interval": "2s"},
            "observability": {"listen": f"127.0.0.1:{self.port}"},
            "control": {"socket": str(self.socket)},
        }
        for name, section in (overrides or {}).items():
            sections[name] = {**sections.get(name, {}), **section}
        document: Section = {"backup_id": backup_id, "writer": writer, **sections}
        if tiers is not None:
            document["tiers"] = tiers
        self.config.write_text(yaml.safe_dump(document, sort_keys=False))

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.alive else None

    def launch(self) -> None:
        """Start without waiting."""
        if self.running:
            raise RuntimeError("this daemon runs already")
        self._process = GuardedProcess(
            "kbackupd",
            [*self._program, "--config", str(self.config)],
            log=self.log,
            cwd=self.directory,
            env=self.environment,
        )

    def start(self, *, deadline_seconds: float = READY_DEADLINE_SECONDS) -> None:
        """Start, and return when /readyz is green.

        Raises:
            ServerFailedError: it died, or was not ready in time; it is not left running.
        """
        deadline = Deadline(deadline_seconds)
        self.launch()
        while not self.ready:
            self.require_running()
            if deadline.passed:
                error = self._require_process().failure("was not ready in time")
                self.kill()
                raise error
            time.sleep(0.05)

    @property
    def ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/readyz")[0] == 200
        return False

    def require_running(self) -> None:
        """Raises:
        ServerFailedError: it was started and has died.
        """
        if not self._require_process().alive:
            raise self._require_process().failure("died")

    def stop(self) -> int:
        """SIGTERM and wait for the drain; its exit code.

        Raises:
            ServerFailedError: it did not end within 90 s; it is killed.
        """
        process = self._require_process()
        self._process = None
        if not process.stop(deadline_seconds=STOP_DEADLINE_SECONDS):
            raise process.failure(f"did not drain within {STOP_DEADLINE_SECONDS:g} s")
        exit_code = process.exit_code
        assert exit_code is not None
        return exit_code

    def kill(self) -> None:
        """SIGKILL; harmless if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def signal(self, number: signal.Signals) -> None:
        self._require_process().signal(number)

    def wait(self, *, deadline_seconds: float = STOP_DEADLINE_SECONDS) -> int:
        """Wait until it ends of its own accord (fenced, a signal sent before); its exit code.

        Raises:
            ServerFailedError: it still runs at the deadline; left running.
        """
        process, deadline = self._require_process(), Deadline(deadline_seconds)
        while (exit_code := process.exit_code) is None:
            if deadline.passed:
                raise process.failure(f"still runs after {deadline_seconds:g} s")
            time.sleep(0.02)
        self.kill()
        return exit_code

    def keep(self) -> None:
        """Let it run on after this interpreter ends."""
        self._require_process().keep()

    def get(self, path: str) -> tuple[int, bytes]:
        """GET on the observability port.

        Raises:
            OSError, http.client.HTTPException: nobody answered.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_DEADLINE_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self) -> Section | None:
        """What GET /status answers; None if nobody does."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            code, body = self.get("/status")
            answer = json.loads(body)
            if code == 200 and isinstance(answer, dict):
                return answer
        return None

    def ctl(self, verb: str, *arguments: str) -> Section:
        """`kbackupd ctl VERB --format json`.

        Raises:
            ServerFailedError: it failed.
        """
        return self.cli("ctl", "--socket", str(self.socket), verb, *arguments, "--format", "json").json()

    def cli(
        self,
        *arguments: str,
        deadline_seconds: float = CLI_DEADLINE_SECONDS,
        progress: Callable[[str], None] | None = None,
    ) -> Finished:
        """Any verb, in the daemon's directory and environment; raises as `run_kbackupd`."""
        return run_kbackupd(
            self.directory,
            *arguments,
            environment=self.environment,
            deadline_seconds=deadline_seconds,
            progress=progress,
        )

    def restore(
        self,
        bootstrap: str,
        topics: Mapping[str, str] | None = None,
        *,
        options: Section | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Finished:
        """`kbackupd restore --format json` of its archive, from the S3 server itself; raises as `run_kbackupd`.

        Args:
            bootstrap: of the target.
            topics: names in the target by names in the archive; None: all of them, under their own.
            options: further ones.
        """
        section: Section = {
            "source": {"path": self.path, "backup_id": self.backup_id, "s3": self._reached},
            "target": {"bootstrap_servers": list[Json](bootstrap.split(","))},
        }
        chosen: Section = dict(options or {})
        if topics is not None:
            chosen["topic_mapping"] = [{"source": one, "target": to} for one, to in topics.items()]
        section["options"] = chosen
        config = self.directory / "restore.yaml"
        config.write_text(yaml.safe_dump({"restore": section}, sort_keys=False))
        return self.cli("restore", "--config", str(config), "--format", "json", progress=progress)

    def _require_process(self) -> GuardedProcess:
        if self._process is None:
            raise RuntimeError("this daemon was not started")
        return self._process
