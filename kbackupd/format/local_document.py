"""JSON documents that people keep in files of their own: a digest over the content, whatever its layout.

Canonical content is the document without its member `digest`, keys sorted, no spaces, UTF-8: what
`jq -cjS 'del(.digest)' FILE | sha256sum` digests. So a file may be indented or not, and still nothing in it can change
unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from kbackupd.model.errors import CorruptObjectError, RefusedError, UnsupportedFormatError

_DIGEST = "digest"
_PREFIX = "sha256:"


def content_digest(document: Mapping[str, object]) -> str:
    """`sha256:` and 64 digits over the canonical content of `document`, of plain JSON values."""
    content = {key: value for key, value in document.items() if key != _DIGEST}
    return _PREFIX + hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def encode_local(document: object, *, indent: int = 0) -> bytes:
    """The file's bytes, with the digest as its last member.

    Args:
        document: a struct or dataclass.
        indent: spaces; 0: one line.
    """
    content: dict[str, object] = msgspec.to_builtins(document)
    content.pop(_DIGEST, None)
    content[_DIGEST] = content_digest(content)
    encoded = msgspec.json.encode(content)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded) + b"\n"


def decode_local(name: str, data: bytes, *, kinds: tuple[str, ...], formats: tuple[int, ...]) -> dict[str, object]:
    """The document in `data`, of one of these kinds and formats, its digest still to be checked.

    Args:
        name: the file's, for messages.

    Raises:
        CorruptObjectError: not JSON, cut off.
        RefusedError: JSON of another kind.
        UnsupportedFormatError: of a format this version does not know.
    """
    try:
        document = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError) as error:
        raise CorruptObjectError(name, f"not a JSON document, or cut off: {error}") from error
    found = document.get("kind")
    if found not in kinds:
        was = f"of kind {found!r}" if isinstance(found, str) else "without a kind"
        raise RefusedError(f"{name}: not the {' or '.join(kinds)} that is wanted here: a document {was}")
    if document.get("format") not in formats:
        raise UnsupportedFormatError(name, f"{found} of format {document.get('format')!r}, which is not known here")
    return document


def digest_fits(document: Mapping[str, object]) -> bool:
    return document.get(_DIGEST) == content_digest(document)
