"""A local file that appears under its name whole and durable, or not at all, and never in another one's place.

Owns what the operating system says about it: a path that cannot be is the caller's mistake, a disk that is full is not,
and neither is a fault of ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from kbackupd.model.errors import RefusedError, UnwritableError, UsageError

_BAD_PATH = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EISDIR,
        errno.EINVAL,
        errno.EILSEQ,
    }
)
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


class NewFile:
    """Written beside its final name until `publish`. All methods block; `discard` in any case at the end.

    Attributes:
        target: the final name.
    """

    def __init__(self, target: Path, unfinished: Path, file: BinaryIO) -> None:
        self.target = target
        self._unfinished = unfinished
        self._file = file

    @classmethod
    def create(cls, output: Path, name_in_directory: str) -> NewFile:
        """Begin to write `output`, or `name_in_directory` in it where that is a directory.

        Raises:
            RefusedError: the file exists.
            UsageError: there can be no such file, or its directory is not ours to write to.
            UnwritableError: disk full, read-only, or broken.
        """
        with _translated(output, starting=True):
            target = output / name_in_directory if output.is_dir() else output
            if target.exists():
                raise _exists(target)
            unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
            return cls(target, unfinished, unfinished.open("xb"))

    def write(self, chunks: Iterable[memoryview]) -> None:
        """Raises: UnwritableError."""
        with _translated(self.target):
            self._file.writelines(chunks)

    def publish(self) -> None:
        """Give the file its name, unless somebody else took it meanwhile. On return bytes and name are durable.

        Raises: RefusedError, UnwritableError; the name is not ours then.
        """
        with _translated(self.target):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._take_name()
            try:
                _sync_directory(self.target.parent)
            except OSError:
                self.target.unlink()
                raise

    def discard(self) -> None:
        """Remove what was not published, if anything. Raises: UnwritableError."""
        # What the buffer still holds is not wanted: closing a file on a full disk fails as writing it did.
        with contextlib.suppress(OSError):
            self._file.close()
        with _translated(self._unfinished):
            self._unfinished.unlink(missing_ok=True)

    def _take_name(self) -> None:
        try:
            os.link(self._unfinished, self.target)
            return
        except FileExistsError as error:
            raise _exists(self.target) from error
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
        # FAT, many network and FUSE file systems: a rename would replace whatever has the name by now, so it is taken
        # with an empty file first, which fails if there is one.
        try:
            self.target.touch(exist_ok=False)
        except FileExistsError as error:
            raise _exists(self.target) from error
        try:
            self._unfinished.replace(self.target)
        except OSError:
            self.target.unlink()
            raise


def _sync_directory(path: Path) -> None:
    """Make the names in it durable, where the file system knows how."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(directory)


def _exists(target: Path) -> RefusedError:
    return RefusedError(f"{target} exists already", hint="give another file name; nothing is ever overwritten")


@contextlib.contextmanager
def _translated(path: Path, *, starting: bool = False) -> Iterator[None]:
    """`starting`: nothing is written yet, so a path that cannot be is the caller's mistake."""
    try:
        yield
    except OSError as error:
        message = f"{path}: {error.strerror or error}"
        if starting and error.errno in _BAD_PATH:
            raise UsageError(message, hint="the file must be in an existing, writable directory") from error
        hint = "is the disk full, read-only or failing? give another file name; nothing half done is left"
        raise UnwritableError(message, hint=hint) from error
