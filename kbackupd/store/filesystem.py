"""Objects as files below one directory, each written once, whole and fsynced.

Keeps I2 with link(2), which fails when the name is taken; a rename would replace silently. An object appears under its
name only after its bytes are on disk. What is not yet whole lives in `.tmp` below the same directory, is never listed,
and is removed at open when it is older than a day (a younger one may be another process's work).

The file system must know hard links. A key must not be another key's directory (`a` beside `a/b`), as S3 would allow.
Blocking calls run in a few threads of this store's own, so a disk that hangs cannot hold the event loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from kbackupd.model.clock import Clock, SystemClock
from kbackupd.model.errors import (
    CorruptObjectError,
    ObjectExistsError,
    ObjectMissingError,
    StoreDeniedError,
    StoreUnavailableError,
)
from kbackupd.store.buffers import COMPARE_CHUNK_BYTES, equal_bytes
from kbackupd.store.keys import RESERVED_FIRST_SEGMENT, checked_key
from kbackupd.store.protocol import Buffer, ObjectInfo
from kbackupd.store.synced_file import write_synced

STALE_TEMPORARY_MS = 24 * 3600 * 1000
LIST_CHUNK_KEYS = 500
"""Objects looked up in one visit to a thread."""
THREADS = 8

_DENIED_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP}
_DENIED_HINT = (
    "kbackupd's user needs to read there, and to write for a backup; the file system must know hard links for that"
)
_OBSTRUCTED_ERRNOS = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}

T = TypeVar("T")


class FilesystemStore:
    """An `ObjectStore` in a directory; make it with `open`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / RESERVED_FIRST_SEGMENT
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="kbackupd-files")

    @classmethod
    async def open(cls, root: Path, *, create: bool = True, clock: Clock | None = None) -> FilesystemStore:
        """Open `root` (absolute), and with `create` make it first if it is missing.

        Raises:
            StoreDeniedError: `root` may not be used, or is missing and `create` is false.
        """
        store = cls(root)
        try:
            await store._in_thread(store._prepare, create, (SystemClock() if clock is None else clock).now_ms())
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def location(self) -> str:
        return f"file://{self._root}"

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        path = self._path(key)
        abandoned = threading.Event()
        try:
            await self._in_thread(self._put, key, path, parts, abandoned)
        except asyncio.CancelledError:
            # The thread cannot be stopped, but it looks at this after its last look at the caller's buffers and
            # before the object gets its name: so the buffers may be reused at once, and no torn object appears.
            abandoned.set()
            raise

    async def get(self, key: str) -> bytes:
        return await self._in_thread(self._read, key, lambda size: (0, size))

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        if first_byte < 0 or length < 0:
            raise ValueError(f"not a range: {first_byte}, {length}")
        return await self._in_thread(self._read, key, lambda _: (first_byte, length))

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        if length <= 0:
            raise ValueError(f"not a suffix length: {length}")
        sizes: list[int] = []

        def last(size: int) -> tuple[int, int]:
            sizes.append(size)
            return max(0, size - length), min(length, size)

        data = await self._in_thread(self._read, key, last)
        return data, sizes[0]

    async def head(self, key: str) -> ObjectInfo:
        return await self._in_thread(self._head, key)

    async def list_from(
        self, prefix: str, *, start_after: str = "", limit: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        found = islice(self._walk(b"", prefix.encode(), start_after.encode()), limit)
        while chunk := await self._in_thread(self._next_chunk, found):
            for info in chunk:
                yield info

    async def delete_many(self, keys: Sequence[str]) -> None:
        paths = [self._path(key) for key in keys]
        await self._in_thread(self._delete, paths)

    async def close(self) -> None:
        """Ends the threads that are idle; one that hangs on a disk is left behind."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _prepare(self, create: bool, now_ms: int) -> None:
        with self._translated("open", ""):
            if create:
                _make_durable_directory(self._root)
            if not self._root.is_dir():
                raise StoreDeniedError(
                    f"no directory {self._root}",
                    hint="is the path right, and the volume mounted? If both are, make it: kbackupd does not, so that "
                    "no backup lands on the disk below a volume that is not there",
                )
            if not self._temporary.is_dir():
                return
            for leftover in self._temporary.iterdir():
                with suppress(FileNotFoundError):
                    if leftover.stat().st_mtime_ns // 1_000_000 < now_ms - STALE_TEMPORARY_MS:
                        leftover.unlink()

    def _put(self, key: str, path: Path, parts: Sequence[Buffer], abandoned: threading.Event) -> None:
        with self._translated("put", key):
            self._temporary.mkdir(exist_ok=True)
            unfinished = self._temporary / uuid.uuid4().hex
            try:
                write_synced(unfinished, parts)
                if abandoned.is_set():
                    return
                _make_durable_directory(path.parent)
                try:
                    os.link(unfinished, path)
                except FileExistsError:
                    if not self._holds(path, parts):
                        raise ObjectExistsError(key) from None
                # An identical object may be another writer's that is not yet durable; it is after this.
                _fsync_directory(path.parent)
            finally:
                unfinished.unlink(missing_ok=True)

    def _holds(self, path: Path, parts: Sequence[Buffer]) -> bool:
        with path.open("rb", buffering=0) as file:
            return equal_bytes(parts, iter(lambda: file.read(COMPARE_CHUNK_BYTES), b""))

    def _read(self, key: str, span: Callable[[int], tuple[int, int]]) -> bytes:
        with self._translated("read", key), self._path(key).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            first_byte, length = span(size)
            if length and first_byte + length > size:
                raise CorruptObjectError(key, f"asked for {length} bytes from {first_byte}, it has {size}")
            data = bytearray()
            while len(data) < length:
                piece = os.pread(file.fileno(), length - len(data), first_byte + len(data))
                if not piece:
                    raise CorruptObjectError(key, f"it ended after {len(data)} of {length} bytes while being read")
                if len(piece) == length:
                    return piece
                data += piece
            return bytes(data)

    def _head(self, key: str) -> ObjectInfo:
        with self._translated("head", key):
            status = self._path(key).stat()
            if not self._path(key).is_file():
                raise ObjectMissingError(key)
            return ObjectInfo(key=key, size_bytes=status.st_size, modified_ms=status.st_mtime_ns // 1_000_000)

    def _next_chunk(self, found: Iterator[ObjectInfo]) -> list[ObjectInfo]:
        with self._translated("list", ""):
            return list(islice(found, LIST_CHUNK_KEYS))

    def _walk(self, directory: bytes, prefix: bytes, after: bytes) -> Iterator[ObjectInfo]:
        """Objects below `directory` (`b""` or ending in a slash) in the order of their keys' bytes.

        Holds one directory's names at a time, and enters only directories that can hold what is asked for. A
        directory counts as its name and a slash: `a-b` comes before `a/x`.
        """
        names: list[bytes] = []
        try:
            with os.scandir(os.fsencode(self._root) + b"/" + directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below = directory + entry.name + b"/"
                        may_match = below.startswith(prefix) or prefix.startswith(below)
                        is_behind = below <= after and not after.startswith(below)
                        if may_match and not is_behind and below != RESERVED_FIRST_SEGMENT.encode() + b"/":
                            names.append(entry.name + b"/")
                    elif entry.is_file(follow_symlinks=False):
                        key = directory + entry.name
                        if key.startswith(prefix) and key > after:
                            names.append(entry.name)
        except FileNotFoundError:
            if not directory:
                raise
            return  # Pruned while we listed.
        for name in sorted(names):
            if name.endswith(b"/"):
                yield from self._walk(directory + name, prefix, after)
                continue
            with suppress(FileNotFoundError, UnicodeDecodeError):  # Deleted meanwhile, or a name none of us gave.
                status = os.stat(os.fsencode(self._root) + b"/" + directory + name)
                yield ObjectInfo(
                    key=(directory + name).decode(),
                    size_bytes=status.st_size,
                    modified_ms=status.st_mtime_ns // 1_000_000,
                )

    def _delete(self, paths: Sequence[Path]) -> None:
        parents: set[Path] = set()
        with self._translated("delete", ""):
            if not self._root.is_dir():
                raise FileNotFoundError(errno.ENOENT, "the directory is gone")
            for path in paths:
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
                    parents.add(path.parent)
            for parent in parents:
                _fsync_directory(parent)

    @contextmanager
    def _translated(self, operation: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"{operation} {key} in" if key else operation
            said = f"{what} {self.location}: {error.strerror or error}"
            if operation == "put" and error.errno in _OBSTRUCTED_ERRNOS:
                raise StoreDeniedError(said, hint="a file is where a directory is needed, or the reverse") from error
            if error.errno in _DENIED_ERRNOS:
                raise StoreDeniedError(said, hint=_DENIED_HINT) from error
            if error.errno in _FULL_ERRNOS:
                raise StoreUnavailableError(said, cause="disk_full", hint="free or add space") from error
            # A missing file is absent only while its root is there: an unmounted volume must not look empty (I5).
            if (
                isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
                and key
                and self._root.is_dir()
            ):
                raise ObjectMissingError(key) from error
            raise StoreUnavailableError(said, cause="io") from error


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_durable_directory(directory: Path) -> None:
    """Make `directory` and its missing parents, and sync the parent of each, or a crash could lose the whole branch."""
    if directory.is_dir():
        return
    _make_durable_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _fsync_directory(directory.parent)
