"""A real file system of a few megabytes, so that a full disk can be had without filling one: ENOSPC from the kernel.

A tmpfs in a mount namespace of its own, which one sleeping process holds; everybody else sees it through that process's
root in /proc. It goes when that process goes, whatever becomes of us: nothing is left mounted. Root needs no more than
that, others get a user namespace as well.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from kbackupd.testbed.process import Deadline, GuardedProcess, ServerFailedError

_START_DEADLINE_SECONDS = 30.0
_BALLAST_BYTES = 64 << 10
_HOLD = 'mount -t tmpfs -o size="$1" tmpfs "$2" && touch "$2/.mounted" && exec sleep infinity'


class SmallDisk:
    """Entered, it is mounted at `path`; left, it is gone with all that was on it.

    Args:
        size_bytes: of the file system.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._home = tempfile.TemporaryDirectory(prefix="kbackupd-disk-")
        self._process: GuardedProcess | None = None

    @property
    def path(self) -> Path:
        """Its root, as every process of this user may use it."""
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/root{self._home.name}/disk")

    def fill(self) -> None:
        """Take every byte that is left."""
        ballast = os.open(self.path / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while True:
                os.write(ballast, bytes(_BALLAST_BYTES))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(ballast)

    def make_room(self) -> None:
        """Give back what `fill` took."""
        (self.path / "ballast").unlink()

    def __enter__(self) -> Self:
        home = Path(self._home.name)
        (home / "disk").mkdir()
        user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        self._process = GuardedProcess(
            "small disk",
            ["unshare", "--mount", *user, "/bin/sh", "-c", _HOLD, "hold", str(self._size_bytes), str(home / "disk")],
            log=home / "mount.log",
            cwd=home,
            env=os.environ,
        )
        deadline = Deadline(_START_DEADLINE_SECONDS)
        while not (self.path / ".mounted").exists():
            if not self._process.alive or deadline.passed:
                error = self._process.failure("could not be mounted")
                self.__exit__(None, None, None)
                raise ServerFailedError(error.message, hint="namespaces must be allowed here: try `unshare -Um true`")
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
        self._home.cleanup()
