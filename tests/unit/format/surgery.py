"""Objects that are sound by their digests and wrong by their content, or the other way round."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import zstandard

Edit = Callable[[dict[str, Any]], object]


def take_apart(data: bytes) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Body, footer and envelope of a container."""
    footer_length, envelope_length, body_length = struct.unpack_from(">IIQ", data, len(data) - 56)
    footer_at, envelope_at = body_length, body_length + footer_length
    footer = json.loads(zstandard.ZstdDecompressor().decompress(data[footer_at:envelope_at]))
    envelope = json.loads(data[envelope_at : envelope_at + envelope_length])
    return data[:body_length], footer, envelope


def put_together(body: bytes, footer: bytes, envelope: bytes) -> bytes:
    """A container with a right trailer around whatever it is given; `footer` is compressed here."""
    packed = zstandard.ZstdCompressor().compress(footer)
    sealed = packed + envelope + struct.pack(">IIQ", len(packed), len(envelope), len(body))
    return body + sealed + hashlib.sha256(sealed).digest() + b"KBEND\0\0\1"


def resealed(
    data: bytes,
    *,
    footer: Edit | None = None,
    envelope: Edit | None = None,
    body: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """The container after an edit by somebody who knows how to make digests fit."""
    old_body, old_footer, old_envelope = take_apart(data)
    if body is not None:
        old_body = body(old_body)
        old_footer["body_sha256"] = hashlib.sha256(old_body).hexdigest()
    if footer is not None:
        footer(old_footer)
    if envelope is not None:
        envelope(old_envelope)
    return put_together(old_body, json.dumps(old_footer).encode(), json.dumps(old_envelope).encode())


def flipped(data: bytes, position: int, mask: int = 1) -> bytes:
    damaged = bytearray(data)
    damaged[position] ^= mask
    return bytes(damaged)


def redocumented(data: bytes, edit: Edit) -> bytes:
    """The document after an edit, its digest made to fit."""
    document = json.loads(data)["document"]
    edit(document)
    inner = json.dumps(document, separators=(",", ":")).encode()
    return b'{"sha256":"' + hashlib.sha256(inner).hexdigest().encode() + b'","document":' + inner + b"}\n"
