"""A real S3 server on this machine: seaweedfs in one process (master, volume, filer and S3 gateway), from pip.

Owns its directory (`identities.json`, `s3.log`, `data/`). It can be stopped, killed, frozen and started again on the
same data and port. Methods block (a start takes 2-8 s).
"""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from kbackupd.model.settings import S3Settings, Secret, StorageSettings
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.process import Deadline, GuardedProcess, ServerFailedError
from kbackupd.testbed.server import LocalServer
from kbackupd.testbed.signed import SignedClient

START_DEADLINE_SECONDS = 120.0
# Left alone it takes half a minute to leave, waiting for streams between its own parts. By then all it acknowledged has
# long been handed to the kernel, so a SIGKILL after a moment loses nothing.
STOP_DEADLINE_SECONDS = 2.0
_PROBE_BUCKET = "testbed-probe"
_CHOICES_OF_PORTS = 3
_PORT_TAKEN = "address already in use"
_PORT_FLAGS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
)
_SOCKETS = (
    ("filer", "filer.port"),
    ("s3", "s3.port"),
    ("filer-grpc", "filer.port.grpc"),
    ("master-grpc", "master.port.grpc"),
    ("s3-grpc", "s3.port.grpc"),
    ("volume-grpc", "volume.port.grpc"),
)


def _some_ports() -> dict[str, int]:
    return dict(zip(_PORT_FLAGS, free_ports(len(_PORT_FLAGS)), strict=True))


class S3Server(LocalServer):
    """One S3 endpoint on 127.0.0.1 with one key pair that may do everything.

    Args:
        directory: where it lives; None: a temporary directory. `close` removes it either way.
    """

    region = "us-east-1"
    stop_deadline_seconds = STOP_DEADLINE_SECONDS

    def __init__(self, *, directory: Path | None = None) -> None:
        super().__init__(directory or Path(tempfile.mkdtemp(prefix="kbackupd-s3-")))
        self.data = self.directory / "data"
        self.log = self.directory / "s3.log"
        self.access_key = "kbackupd-testbed"
        self.secret_key = "kbackupd-testbed-secret"
        self._ports = _some_ports()
        self._was_ready = False

    @property
    def port(self) -> int:
        return self._ports["s3.port"]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The standard variables by which AWS clients, kbackupd included, find this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
        }

    def start(self, *, deadline_seconds: float = START_DEADLINE_SECONDS) -> None:
        """Return when an object could really be written and read back.

        Where somebody took one of its eight ports since they were chosen, the first start goes on with others.

        Raises:
            ServerFailedError: it died or was not ready in time; it is not left running.
        """
        if self.running:
            raise RuntimeError("the S3 server runs already")
        for left in reversed(range(_CHOICES_OF_PORTS)):
            try:
                self._start(deadline_seconds)
            except ServerFailedError as error:
                if self._was_ready or not left or _PORT_TAKEN not in str(error):
                    raise
                shutil.rmtree(self.data)
                self._ports = _some_ports()
            else:
                self._was_ready = True
                return

    def _start(self, deadline_seconds: float) -> None:
        deadline = Deadline(deadline_seconds)
        self.data.mkdir(parents=True, exist_ok=True)
        identities = self.directory / "identities.json"
        identities.write_text(json.dumps(self._identities()))
        self._process = GuardedProcess(
            "S3 server",
            self._command(identities),
            log=self.log,
            cwd=self.directory,
            # It writes a second set of logs into the temporary directory and leaves them there.
            env={**os.environ, "TMPDIR": str(self.directory)},
        )
        while not self._answers():
            if not self._process.alive or deadline.passed:
                what = "was not ready in time" if self._process.alive else "died while starting"
                error = self._process.failure(what)
                self._process.kill()
                raise error
            time.sleep(0.05)

    def _answers(self) -> bool:
        client = self.client(timeout_seconds=5.0)
        try:
            if client.request("PUT", f"/{_PROBE_BUCKET}")[0] not in (200, 409):
                return False
            stamp = str(time.time_ns()).encode()
            if client.request("PUT", f"/{_PROBE_BUCKET}/probe", body=stamp)[0] != 200:
                return False
            return client.request("GET", f"/{_PROBE_BUCKET}/probe") == (200, stamp)
        except OSError:
            return False

    def client(self, *, timeout_seconds: float = 30.0) -> SignedClient:
        """A plain signed HTTP client, independent of kbackupd's own store; for set-up and for tampering in tests."""
        return SignedClient(
            host="127.0.0.1",
            port=self.port,
            access_key=self.access_key,
            secret_key=self.secret_key,
            region=self.region,
            timeout_seconds=timeout_seconds,
        )

    def storage(self, bucket: str, prefix: str) -> StorageSettings:
        """For those who open a store there themselves."""
        return StorageSettings(
            backend=S3Settings(
                bucket=bucket,
                prefix=prefix,
                region=self.region,
                endpoint=self.endpoint,
                force_path_style=True,
                access_key_id=Secret(self.access_key),
                secret_access_key=Secret(self.secret_key),
            )
        )

    def create_bucket(self, name: str, *, object_lock: bool = False) -> str:
        """Create a bucket (with Object Lock if asked); an existing one is an error. Returns its name."""
        headers = {"x-amz-bucket-object-lock-enabled": "true"} if object_lock else {}
        status, body = self.client().request("PUT", f"/{name}", headers=headers)
        if status != 200:
            raise ServerFailedError(f"cannot create bucket {name}: HTTP {status} {body.decode(errors='replace')}")
        return name

    def list_objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Every key below `prefix` with its size in bytes.

        Raises:
            ServerFailedError: the server refused to list.
        """
        found: dict[str, int] = {}
        query = {"list-type": "2", "prefix": prefix}
        while True:
            status, body = self.client().request("GET", f"/{bucket}", query=query)
            if status != 200:
                raise ServerFailedError(f"cannot list {bucket}: HTTP {status} {body.decode(errors='replace')}")
            page = ElementTree.fromstring(body)
            for entry in page.iterfind("{*}Contents"):
                found[entry.findtext("{*}Key", "")] = int(entry.findtext("{*}Size", "0"))
            token = page.findtext("{*}NextContinuationToken", "")
            if not token:
                return found
            query["continuation-token"] = token

    def close(self) -> None:
        """As every server's, and without the sockets it leaves in /tmp."""
        super().close()
        for name, flag in _SOCKETS:
            Path(f"/tmp/seaweedfs-{name}-{self._ports[flag]}.sock").unlink(missing_ok=True)

    def _identities(self) -> dict[str, object]:
        return {
            "identities": [
                {
                    "name": "testbed",
                    "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                }
            ]
        }

    def _command(self, identities: Path) -> list[str]:
        return [
            str(Path(sysconfig.get_path("scripts")) / "weed"),
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.data}",
            "-master.telemetry=false",
            # By default a restart waits up to 20 s for an election among one, and a stop 10 s for nobody.
            "-master.electionTimeout=500ms",
            "-master.heartbeatInterval=100ms",
            "-volume.preStopSeconds=0",
            # Small volumes, as many as the disk has room for, none pre-allocated: a bucket's first object costs
            # kilobytes, and a test that fills one volume gets the next.
            "-master.volumeSizeLimitMB=256",
            "-volume.max=0",
            "-s3",
            f"-s3.config={identities}",
            # Two services nobody here speaks to; left alone they listen on fixed ports and a second server dies.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{flag}={port}" for flag, port in self._ports.items()),
        ]
