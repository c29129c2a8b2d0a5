"""The error tree: one root, an exit code and a hint on every branch.

Errors are translated once, at the rim that met them (`kafka/`, `store/`, `settings/`), with `raise … from`;
everything inside handles or raises these.

    KbackupError                     exit  retryable
    ├── UsageError                     2     no      a verb was called wrongly
    │   └── ConfigurationError         2     no      a configuration file or variable is wrong
    ├── ArchiveInvalidError            3     no      the archive contradicts itself
    │   └── CorruptObjectError         3     no      one object's bytes are not what was written
    ├── UnreachableError               4    yes      a server did not answer, or not in time
    │   ├── StoreUnavailableError      4    yes
    │   └── KafkaUnavailableError      4    yes
    ├── DeniedError                    4     no      a server said no: credentials, permissions, unsupported version
    │   ├── StoreDeniedError           4     no
    │   └── KafkaDeniedError           4     no
    ├── UnwritableError                4     no      a local file could not be written: disk full, read-only, I/O error
    ├── ObjectMissingError             4     no      a successful "no such object" (I5: only this means absent)
    ├── ObjectExistsError              5     no      create-only: another object is already there
    ├── RefusedError                   5     no      going on would harm something
    │   ├── ForeignArchiveError        5     no      the archive belongs to another cluster
    │   └── UnsupportedFormatError     5     no      sound bytes of a format this version does not know
    ├── IncompleteError                6     no      the work ended, but not all of it is done
    └── FencedError                    7     no      another daemon with the same writer name took over
"""

from __future__ import annotations

from typing import ClassVar


class KbackupError(Exception):
    """Root of every error kbackupd raises on purpose.

    Args:
        message: what happened and where, one sentence, no trailing full stop needed.
        hint: what to do about it; empty when nothing sensible can be said.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(KbackupError):
    exit_code = 2


class ConfigurationError(UsageError):
    """A wrong configuration; `where` is `file:line: key.path` as far as it is known."""

    def __init__(self, message: str, *, hint: str = "", where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message, hint=hint)
        self.where = where


class ArchiveInvalidError(KbackupError):
    exit_code = 3


class CorruptObjectError(ArchiveInvalidError):
    """The object `key` does not hold the bytes that were written under that name."""

    def __init__(self, key: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{key}: {reason}", hint=hint)
        self.key = key
        self.reason = reason


class UnreachableError(KbackupError):
    exit_code = 4
    retryable = True


class StoreUnavailableError(UnreachableError):
    """The object store timed out, reset, throttled or answered 5xx. `cause` is a short bounded label for metrics."""

    def __init__(self, message: str, *, hint: str = "", cause: str = "other") -> None:
        super().__init__(message, hint=hint)
        self.cause = cause


class KafkaUnavailableError(UnreachableError):
    """A broker did not answer, or answered with a retriable error; `code` is Kafka's error code, -1 if none."""

    def __init__(self, message: str, *, hint: str = "", code: int = -1) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class DeniedError(KbackupError):
    exit_code = 4


class StoreDeniedError(DeniedError):
    pass


class KafkaDeniedError(DeniedError):
    """The broker refused for good: authorization, unsupported version, invalid request; `code` as above."""

    def __init__(self, message: str, *, hint: str = "", code: int = -1) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class UnwritableError(KbackupError):
    """A local file that was asked for could not be written; nothing of it is left."""

    exit_code = 4


class ObjectMissingError(KbackupError):
    """The store answered, successfully, that there is no object `key`."""

    exit_code = 4

    def __init__(self, key: str) -> None:
        super().__init__(f"no such object: {key}")
        self.key = key


class ObjectExistsError(KbackupError):
    """`put_if_absent` met a different object under the same key."""

    exit_code = 5

    def __init__(self, key: str) -> None:
        super().__init__(f"object exists already with other bytes: {key}")
        self.key = key


class RefusedError(KbackupError):
    exit_code = 5


class ForeignArchiveError(RefusedError):
    pass


class UnsupportedFormatError(RefusedError):
    """The object `key` is undamaged, but its format, or a feature it demands, is not known to this version."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}", hint="read it with the version of kbackupd that wrote it, or a newer one")
        self.key = key
        self.reason = reason


class IncompleteError(KbackupError):
    exit_code = 6


class FencedError(KbackupError):
    exit_code = 7


def principal(error: BaseException) -> BaseException:
    """The error that says most: a task group wraps what failed, and a fault of ours hides behind nothing else."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [principal(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if not isinstance(leaf, KbackupError)), leaves[0])
