"""A listening UNIX socket that is private from birth and never takes another daemon's place."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from kbackupd.model.errors import ConfigurationError, RefusedError

WHERE: Final = "control.socket"
MAX_PATH_BYTES: Final = 107
"""`sun_path` holds 108 bytes with its terminator (unix(7))."""


def bind_private(path: Path) -> socket.socket:
    """A bound, not yet listening socket at `path`, mode 0600 from the moment it exists.

    A socket nobody answers on, as a killed daemon leaves it, is replaced.

    Raises:
        ConfigurationError: no such directory, no permission, too long a path.
        RefusedError: somebody answers there, or it is a file of another kind.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigurationError(
            f"{path} is longer than the {MAX_PATH_BYTES} bytes a socket's path may have",
            hint="choose a shorter path, such as /run/kbackupd/control.sock",
            where=WHERE,
        )
    try:
        _make_room(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The umask is the only portable way to be born private. It is the whole process's, but for one system call,
        # and can only make a file that another thread creates in it more private.
        before = os.umask(0o177)
        try:
            bound.bind(os.fspath(path))
        except BaseException:
            bound.close()
            raise
        finally:
            os.umask(before)
    except OSError as error:
        raise _refusal(path, error) from error
    bound.setblocking(False)
    return bound


def _make_room(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise RefusedError(
            f"{path} exists and is not a socket", hint=f"remove it yourself, or choose another {WHERE}: it is not ours"
        )
    if _answers(path):
        raise RefusedError(
            f"another process answers on {path}",
            hint=f"stop the kbackupd that runs with this configuration, or give this one its own {WHERE}",
        )
    os.unlink(path)


def _answers(path: Path) -> bool:
    """Whether a process listens at `path`. In doubt it does: only a refused connection proves that nobody is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True
        return True


def _refusal(path: Path, error: OSError) -> ConfigurationError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return ConfigurationError(
                f"cannot create {path}: there is no directory {path.parent}",
                hint=f"create it (systemd: RuntimeDirectory=kbackupd), or set {WHERE} to a path that can be written",
                where=WHERE,
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return ConfigurationError(
                f"cannot create {path}: permission denied",
                hint=f"let the daemon's user write to {path.parent}, or set {WHERE} to a path it can write",
                where=WHERE,
            )
        case _:
            return ConfigurationError(f"cannot create {path}: {error.strerror}", where=WHERE)
