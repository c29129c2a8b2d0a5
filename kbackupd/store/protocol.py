"""The seam between the archive and whatever keeps its objects: one protocol, many stores and decorators.

Owns the contract that `tests/contract_store.py` checks for every store. It keeps two invariants: I2, an object is
written once and never overwritten, and I5, only a successful "there is none" is ever reported as absent.

Keys are relative to the store's prefix: non-empty, `/`-separated, no leading or trailing slash, no empty, `.` or `..`
segment, no control characters, at most 1,024 bytes of UTF-8 together with the prefix (the limit of S3). A key that
breaks these rules is a programming error: `ValueError`.

Errors, whatever the operation:

    ObjectMissingError      the store answered, successfully, that there is no such object
    ObjectExistsError       `put_if_absent` only: another object is there under that key
    StoreDeniedError        the store said no for good: credentials, permissions, no such bucket, malformed request
    StoreUnavailableError   time-out, reset, 5xx, throttled, disk full, early end of a body; trying again may help
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Buffer = bytes | bytearray | memoryview

MAX_KEY_BYTES = 1024
"""The longest key S3 takes, prefix included (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html)."""

DELETE_BATCH_KEYS = 1000
"""The most one S3 DeleteObjects request takes; more go in batches, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object as a listing or a head shows it; `modified_ms` is the store's clock, not ours: information only."""

    key: str
    size_bytes: int
    modified_ms: int


class ObjectStore(Protocol):
    """Objects that are written once. Safe for concurrent use by many tasks of one event loop."""

    @property
    def location(self) -> str:
        """Where the objects are, for people and reports: `s3://bucket/prefix`, `file:///dir`, `memory:`."""

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        """Store the concatenation of `parts` under `key`, if nothing is there yet.

        The object is durable on return. Identical bytes already there are success: it is our own retried request
        (hazard 54). The caller must not change the buffers until this returns. Cancelled, or ended by an error that
        is not ObjectExistsError: either the whole object is there or none of it.

        Raises:
            ObjectExistsError: other bytes are there under `key`; they stay as they are.
        """

    async def get(self, key: str) -> bytes:
        """The whole object; every byte that the store announced, or an error."""

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        """Exactly `length` bytes from `first_byte` on; a `length` of zero answers `b""` if the object exists.

        Raises:
            CorruptObjectError: the object ends before `first_byte + length`.
        """

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        """The last `min(length, size)` bytes, and the whole object's size in bytes; `length` is positive."""

    async def head(self, key: str) -> ObjectInfo:
        """What is known about the object without reading it."""

    def list_from(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> AsyncIterator[ObjectInfo]:
        """Objects whose key starts with `prefix` (any string, `""` for all), in the order of their UTF-8 bytes.

        Pages through listings of any length in bounded memory. An object put or deleted meanwhile may or may not be
        seen; all others are seen exactly once. The keys of one directory are in order on every server; across
        directories rest on completeness only, for SeaweedFS sorts `a/x` before `a-b` where S3 does the reverse.

        Args:
            start_after: an object's key, there or not; only keys greater than it are listed. Never a directory's
                name: SeaweedFS would leave out what is in it.
            limit: at most so many objects; None for all.
        """

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete the objects, any number of them; those that are not there are no error.

        On an error or cancellation any part of them may be gone. One key that could not be deleted is an error,
        though the store answered 200 (hazard 53).
        """

    async def close(self) -> None:
        """Release connections; idempotent. Nothing else may be called afterwards."""
