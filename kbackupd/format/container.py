"""The frame of all objects but documents: magic, body, footer, envelope, trailer (docs/format.md, Containers).

Nothing is believed before the digest holds: a flipped bit is damage, never "a format I do not know".
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import msgspec
import zstandard
from msgspec import Struct

from kbackupd.format.columns import check_identity, decode_json
from kbackupd.model.errors import CorruptObjectError, UnsupportedFormatError
from kbackupd.model.segment import Identity

SEGMENT = "segment"
CHECKPOINT = "checkpoint"
GROUPS = "groups"
CLUSTER = "cluster"
ROLLUP = "rollup"
MAGIC = {
    SEGMENT: b"KBSEG\x00\x00\x01",
    CHECKPOINT: b"KBCKP\x00\x00\x01",
    GROUPS: b"KBGRP\x00\x00\x01",
    CLUSTER: b"KBCLU\x00\x00\x01",
    ROLLUP: b"KBRUP\x00\x00\x01",
}
END_MAGIC = b"KBEND\x00\x00\x01"
MAGIC_BYTES = 8
TRAILER_BYTES = 56
TAIL_READ_BYTES = 256 << 10
"""What a first read of an object's end asks for: enough for the index of ten thousand partitions."""
MAX_FOOTER_JSON_BYTES = 1 << 30
FORMAT = 1
KNOWN_INCOMPATIBLE: frozenset[str] = frozenset()

_LENGTHS = struct.Struct(">IIQ")
_FOOTER_LEVEL = 6


class _Demands(Struct):
    """What decides whether the rest can be understood at all; the same members in documents."""

    format: int
    incompatible: list[str]


class _Encryption(Struct):
    algorithm: str | None
    key_id: str | None
    nonce: str | None


class _Envelope(Struct):
    kind: str
    format: int
    incompatible: list[str]
    compatible: list[str]
    encryption: _Encryption
    key: str
    backup_id: str
    archive_id: str
    cluster_id: str


@dataclass(frozen=True, slots=True)
class NeedMore:
    """The object's last `bytes` bytes are needed; fewer were given."""

    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """A container's end, its digest checked."""

    kind: str
    identity: Identity
    footer_json: bytes
    body_bytes: int
    """Length of magic and runs."""
    digest: str


def check_demands(key: str, what: str, data: bytes | memoryview) -> None:
    """Refuse what only a newer version can understand; features in `compatible` are of no concern.

    Raises:
        UnsupportedFormatError: another format, or an unknown incompatible feature.
        CorruptObjectError: not even that can be read.
    """
    demands = decode_json(key, what, data, _Demands)
    if demands.format != FORMAT:
        raise UnsupportedFormatError(key, f"{what}: format {demands.format}; this version knows format {FORMAT}")
    unknown = sorted(set(demands.incompatible) - KNOWN_INCOMPATIBLE)
    if unknown:
        raise UnsupportedFormatError(key, f"{what}: demands features unknown to this version: {', '.join(unknown)}")


def encode_tail(
    *, kind: str, key: str, identity: Identity, footer_json: bytes, body_bytes: int, compatible: tuple[str, ...] = ()
) -> tuple[bytes, str]:
    """Footer, envelope and trailer as bytes, and the object's digest (hex)."""
    footer = zstandard.ZstdCompressor(level=_FOOTER_LEVEL).compress(footer_json)
    envelope = msgspec.json.encode(
        _Envelope(
            kind=kind,
            format=FORMAT,
            incompatible=[],
            compatible=list(compatible),
            encryption=_Encryption(None, None, None),
            key=key,
            backup_id=identity.backup_id,
            archive_id=identity.archive_id,
            cluster_id=identity.cluster_id,
        )
    )
    sealed = footer + envelope + _LENGTHS.pack(len(footer), len(envelope), body_bytes)
    digest = hashlib.sha256(sealed)
    return sealed + digest.digest() + END_MAGIC, digest.hexdigest()


def parse_tail(
    key: str, tail: bytes | memoryview, total_size: int, *, kind: str, expect: Identity | None = None
) -> Tail | NeedMore:
    """An object's end, checked: magic, lengths, digest, envelope, and that it is what is looked for under `key`.

    Args:
        tail: the object's last bytes, as many as there are at hand (all of them will do).
        total_size: of the whole object.
        kind: SEGMENT, CHECKPOINT, GROUPS, CLUSTER or ROLLUP.
        expect: the archive it must belong to; None takes any.

    Raises:
        CorruptObjectError: anything is not as written; the reason names the place.
        UnsupportedFormatError: sound, but of a newer format.
    """
    view = memoryview(tail)
    least = MAGIC_BYTES + TRAILER_BYTES
    if total_size < least or len(view) > total_size:
        raise CorruptObjectError(key, f"object: {total_size} bytes are too few, or too many were read")
    if len(view) < TRAILER_BYTES:
        return NeedMore(min(total_size, TAIL_READ_BYTES))
    if view[-8:] != END_MAGIC:
        raise CorruptObjectError(key, "trailer: no end magic; the object is cut off or damaged")
    footer_bytes, envelope_bytes, body_bytes = _LENGTHS.unpack_from(view, len(view) - TRAILER_BYTES)
    needed = footer_bytes + envelope_bytes + TRAILER_BYTES
    if body_bytes < MAGIC_BYTES or body_bytes + needed != total_size:
        raise CorruptObjectError(key, f"trailer: lengths do not add up to {total_size} bytes")
    if needed > len(view):
        return NeedMore(needed)
    sealed = view[len(view) - needed : len(view) - 40]
    digest = hashlib.sha256(sealed)
    if view[-40:-8] != digest.digest():
        raise CorruptObjectError(key, "digest: does not fit footer, envelope and trailer")
    identity = _check_envelope(key, sealed[footer_bytes : footer_bytes + envelope_bytes], kind)
    check_identity(key, identity, expect)
    return Tail(
        kind=kind,
        identity=identity,
        footer_json=_decompress_footer(key, sealed[:footer_bytes]),
        body_bytes=body_bytes,
        digest=digest.hexdigest(),
    )


def _check_envelope(key: str, data: memoryview, kind: str) -> Identity:
    check_demands(key, "envelope", data)
    envelope = decode_json(key, "envelope", data, _Envelope)
    if envelope.encryption.algorithm is not None:
        raise UnsupportedFormatError(key, f"envelope: encrypted with {envelope.encryption.algorithm!r}")
    if envelope.kind != kind:
        raise CorruptObjectError(key, f"envelope: is a {envelope.kind!r}, not a {kind!r}")
    if envelope.key != key:
        raise CorruptObjectError(
            key,
            f"envelope: was written as {envelope.key!r}",
            hint="objects were swapped, renamed or copied; put the right one back from a copy of the archive",
        )
    return Identity(backup_id=envelope.backup_id, archive_id=envelope.archive_id, cluster_id=envelope.cluster_id)


def _decompress_footer(key: str, footer: memoryview) -> bytes:
    try:
        size = zstandard.frame_content_size(footer)
        if not 0 <= size <= MAX_FOOTER_JSON_BYTES:
            raise CorruptObjectError(key, f"footer: says it decompresses to {size} bytes")
        return zstandard.ZstdDecompressor().decompress(footer, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as problem:
        raise CorruptObjectError(key, f"footer: does not decompress: {problem}") from problem


def check_magic(key: str, body: bytes | memoryview, kind: str) -> None:
    """Raises CorruptObjectError unless `body` begins as an object of `kind` does."""
    if bytes(body[:MAGIC_BYTES]) != MAGIC[kind]:
        raise CorruptObjectError(key, f"magic: not that of a {kind}")
