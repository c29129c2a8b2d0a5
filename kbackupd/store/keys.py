"""What may be a key: the rules of `protocol.py`, checked in one place by every store before it acts."""

from __future__ import annotations

from kbackupd.store.protocol import MAX_KEY_BYTES

RESERVED_FIRST_SEGMENT = ".tmp"
"""Where the filesystem store keeps what is not yet whole; reserved in all stores so that they stay exchangeable."""


def checked_key(key: str) -> str:
    """`key` itself. Raises ValueError when it is no key: such a key comes from a bug of ours, never from a user."""
    segments = key.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ValueError(f"not an object key, a segment is empty or points elsewhere: {key!r}")
    if segments[0] == RESERVED_FIRST_SEGMENT:
        raise ValueError(f"not an object key, {RESERVED_FIRST_SEGMENT} is reserved: {key!r}")
    if not key.isprintable():
        raise ValueError(f"not an object key, it holds characters that cannot be printed: {key!r}")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise ValueError(f"not an object key, longer than {MAX_KEY_BYTES} bytes: {key[:80]!r}…")
    return key
