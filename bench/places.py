"""Where the archive goes: a directory of this machine or a real S3 server on it, and what that place takes alone.

Each is a limit too: the same bytes in the same sizes, as many objects at once as the daemon uploads, sent by the least
code that can send them.
"""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from crc32c import crc32c

from kbackupd.testbed.daemon import Section, kbackupd_environment
from kbackupd.testbed.process import ServerFailedError
from kbackupd.testbed.s3 import S3Server

StoreName = Literal["filesystem", "s3"]

WRITERS = 4
"""As many objects are written at once as the daemon uploads."""
PUT_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something took: of the clock, and of this process's processor time, user and system."""

    seconds: float
    cpu_seconds: float


class Place(Protocol):
    """An archive's place, empty at first."""

    name: StoreName

    @property
    def environment(self) -> Mapping[str, str]:
        """Of a daemon that is to write there."""

    def storage(self, life: str) -> Section:
        """The `storage` section of a configuration whose archive is called `life`, shared with no other."""

    def write(self, sizes: Sequence[int]) -> Cost:
        """Put objects of these sizes there by themselves; they are removed afterwards."""

    def clear(self, life: str) -> None:
        """Remove that archive."""


class Directory:
    """`storage.type: filesystem`: a file per object, fsynced."""

    name: StoreName = "filesystem"

    def __init__(self, root: Path) -> None:
        self._root = root
        self.environment: Mapping[str, str] = kbackupd_environment()

    def storage(self, life: str) -> Section:
        path = self._root / life
        path.mkdir(parents=True)  # kbackupd makes none
        return {"type": "filesystem", "filesystem": {"path": str(path)}}

    def write(self, sizes: Sequence[int]) -> Cost:
        directory = self._root / "written"
        directory.mkdir(parents=True)
        noise = os.urandom(max(sizes))

        def write(number: int) -> None:
            with (directory / str(number)).open("xb", buffering=0) as file:
                view = memoryview(noise)[: sizes[number]]
                while view:
                    view = view[file.write(view) or 0 :]
                os.fsync(file.fileno())
                # Without it new pages, not the disk, are what a virtual machine waits for.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        cost = _at_once(write, len(sizes))
        shutil.rmtree(directory)
        return cost

    def clear(self, life: str) -> None:
        shutil.rmtree(self._root / life)


class Bucket:
    """`storage.type: s3`: one PUT per object, create-only and with its CRC-32C, as the daemon sends it.

    Args:
        server: running; the caller closes it.
    """

    name: StoreName = "s3"

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._written = 0
        self.environment: Mapping[str, str] = kbackupd_environment(server)

    def storage(self, life: str) -> Section:
        self._server.create_bucket(life)
        return {
            "type": "s3",
            "s3": {
                "bucket": life,
                "region": self._server.region,
                "endpoint": self._server.endpoint,
                "force_path_style": True,
            },
        }

    def write(self, sizes: Sequence[int]) -> Cost:
        self._written += 1
        bucket = self._server.create_bucket(f"written-{self._written}")
        noise = os.urandom(max(sizes))
        client = self._server.client(timeout_seconds=PUT_TIMEOUT_SECONDS)

        def put(number: int) -> None:
            body = memoryview(noise)[: sizes[number]]
            headers = {
                "if-none-match": "*",
                "content-type": "application/octet-stream",
                "x-amz-checksum-crc32c": base64.b64encode(crc32c(body).to_bytes(4, "big")).decode(),
            }
            status, answer = client.request("PUT", f"/{bucket}/{number}", headers=headers, body=body, sign_body=False)
            if status != 200:
                raise ServerFailedError(f"object {number}: HTTP {status} {answer.decode(errors='replace')[:400]}")

        cost = _at_once(put, len(sizes))
        self.clear(bucket)
        return cost

    def clear(self, life: str) -> None:
        # A bucket is a collection of volumes to this server: it drops them whole, objects and all.
        status, answer = self._server.client().request("DELETE", f"/{life}")
        if status != 204:
            raise ServerFailedError(f"cannot delete bucket {life}: HTTP {status} {answer.decode(errors='replace')}")


def _at_once(write: Callable[[int], None], count: int) -> Cost:
    started, cpu_before = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(count)))
    return Cost(seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - cpu_before)
