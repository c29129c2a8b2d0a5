"""What the daemon and the process that rolls up for it tell each other: one JSON object each way, over pipes.

The storage with its secrets goes over standard input, never over a command line, where everybody on the host could
read it (hazard 48). It is the one in force, not the one in the file: that may have changed since the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from kbackupd.model.settings import FilesystemSettings, S3Settings, Secret, StorageSettings

FAILED = 4
"""Exit code of a run that says itself why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupRequest:
    backup_id: str
    s3: S3Settings | None = None
    filesystem: FilesystemSettings | None = None
    limits: dict[str, int] = field(default_factory=dict)
    """Fields of `RollupLimits` that are not to be the defaults."""

    @classmethod
    def of(cls, storage: StorageSettings, backup_id: str, limits: dict[str, int]) -> RollupRequest:
        backend = storage.backend
        return cls(
            backup_id=backup_id,
            s3=backend if isinstance(backend, S3Settings) else None,
            filesystem=backend if isinstance(backend, FilesystemSettings) else None,
            limits=limits,
        )

    @property
    def storage(self) -> StorageSettings:
        backend = self.s3 or self.filesystem
        assert backend is not None, "it was made of one"
        return StorageSettings(backend=backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupMade:
    """A run that did all there was to do, even if that was nothing."""

    built: int
    """From footers."""
    merged: int
    """From other roll-ups."""
    segments: int
    """Covered by those that were built."""
    stored_bytes: int
    uncovered: int
    """Segments that no roll-up covers, of all writers."""
    due_in: dict[str, int]
    """As `RollupReport.due_in`."""
    damaged: int = 0
    """Objects that could not be used."""
    damaged_key: str = ""
    """The first of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupFailed:
    """Nothing is lost by it: whatever it made is whole, and the next run goes on from there."""

    message: str
    hint: str = ""
    timed_out: bool = False


def encode(message: RollupRequest | RollupMade | RollupFailed) -> bytes:
    return msgspec.json.encode(message, enc_hook=_plain)


def decode_request(data: bytes) -> RollupRequest:
    """Raises msgspec.DecodeError: it is none."""
    return msgspec.json.decode(data, type=RollupRequest, dec_hook=_typed)


def decode_made(data: bytes) -> RollupMade:
    """Raises msgspec.DecodeError: it is none."""
    return msgspec.json.decode(data, type=RollupMade)


def decode_failed(data: bytes) -> RollupFailed:
    """Raises msgspec.DecodeError: it is none."""
    return msgspec.json.decode(data, type=RollupFailed)


def _plain(value: Any) -> str:
    return value.reveal() if isinstance(value, Secret) else str(value)


def _typed(kind: type, value: Any) -> Any:
    assert kind in (Secret, Path), kind
    return kind(value)
