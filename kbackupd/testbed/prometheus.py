"""A real Prometheus on this machine, where its programs are installed (Debian: `apt install prometheus`).

The one server of the testbed that pip does not bring, so nothing that `make test` runs may need it.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.process import Deadline, GuardedProcess, ServerFailedError
from kbackupd.testbed.server import LocalServer

START_DEADLINE_SECONDS = 60.0


class PrometheusServer(LocalServer):
    """Scrapes `targets` every second under the job `kbackupd` and evaluates `rules`; listens on 127.0.0.1 only.

    Args:
        targets: `host:port` of each.
        rules: rule files.
    """

    stop_deadline_seconds = 10.0

    def __init__(self, *, targets: Sequence[str], rules: Sequence[Path] = ()) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="kbackupd-prometheus-")))
        (self.port,) = free_ports(1)
        self.log = self.directory / "prometheus.log"
        self._config = self.directory / "prometheus.yml"
        self._config.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(rule.resolve()) for rule in rules],
                    "scrape_configs": [{"job_name": "kbackupd", "static_configs": [{"targets": list(targets)}]}],
                }
            )
        )

    def start(self) -> None:
        """Return when it is ready to be asked.

        Raises:
            ServerFailedError: there is no such program here, it died, or it was not ready in time.
        """
        program = shutil.which("prometheus")
        if program is None:
            raise ServerFailedError("no program `prometheus` on PATH", hint="Debian: apt install prometheus")
        deadline = Deadline(START_DEADLINE_SECONDS)
        self._process = GuardedProcess(
            "Prometheus",
            [
                program,
                f"--config.file={self._config}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            log=self.log,
            cwd=self.directory,
            env=os.environ,
        )
        while not self._ready():
            if not self._process.alive or deadline.passed:
                error = self._process.failure("did not start")
                self._process.kill()
                raise error
            time.sleep(0.05)

    def query(self, expression: str) -> list[Any]:
        """The samples of an instant query now, as its API has them.

        Raises:
            ServerFailedError: it refused the expression; the message is its own.
        """
        data: Any = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        result = data["result"]
        return [result] if data["resultType"] in ("scalar", "string") else list(result)

    def rules(self) -> list[Any]:
        """Every rule as its API has it: `name`, `health` (`unknown` before the first evaluation), `lastError`, …"""
        data: Any = self._get("/api/v1/rules")
        return [rule for group in data["groups"] for rule in group["rules"]]

    def _ready(self) -> bool:
        try:
            return self._request("/-/ready")[0] == 200
        except OSError:
            return False

    def _get(self, path: str) -> Any:
        status, body = self._request(path)
        answer = json.loads(body)
        if status != 200 or answer["status"] != "success":
            raise ServerFailedError(f"Prometheus refused {urllib.parse.unquote_plus(path)}: {answer.get('error')}")
        return answer["data"]

    def _request(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30.0)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
