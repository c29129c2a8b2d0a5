"""The documents of a restore, to and from their bytes ("Restores" in docs/format.md)."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kbackupd.format.columns import check_identity, decode_json
from kbackupd.format.documents import encode_document, open_document
from kbackupd.format.keys import RestoreKey, RestoreStage, parse_restore_key, restore_key
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.restores import RestoreBegun, RestoreDone, RestoreReady, RestoreWithdrawn
from kbackupd.model.segment import Identity

Document = TypeVar("Document", RestoreBegun, RestoreReady, RestoreWithdrawn, RestoreDone)
AnyRestoreDocument = RestoreBegun | RestoreReady | RestoreWithdrawn | RestoreDone

_STAGES: dict[type, RestoreStage] = {
    RestoreBegun: "begun",
    RestoreReady: "ready",
    RestoreWithdrawn: "withdrawn",
    RestoreDone: "done",
}


def encode_restore(document: AnyRestoreDocument) -> bytes:
    """The object's bytes.

    Raises:
        ValueError: its key is not that of its restore and stage.
    """
    if document.key != restore_key(document.restore_id, _STAGES[type(document)]):
        raise ValueError(f"{document.key} is not the key of this document of restore {document.restore_id}")
    return encode_document(msgspec.to_builtins(document))


def decode_stage(key: str, data: bytes, expect: Identity | None = None) -> AnyRestoreDocument:
    """The document of whatever stage the key names; raises as `decode_restore`."""
    at = parse_restore_key(key)
    match at.stage if at else None:
        case "begun":
            return decode_restore(RestoreBegun, key, data, expect)
        case "ready":
            return decode_restore(RestoreReady, key, data, expect)
        case "withdrawn":
            return decode_restore(RestoreWithdrawn, key, data, expect)
        case _:
            return decode_restore(RestoreDone, key, data, expect)


def decode_restore(shape: type[Document], key: str, data: bytes, expect: Identity | None = None) -> Document:
    """The document of that shape.

    Raises:
        CorruptObjectError: damaged, another object under this name, or of another archive than `expect`.
    """
    document = decode_json(key, "document", open_document(key, data), shape)
    if document.key != key or parse_restore_key(key) != RestoreKey(document.restore_id, _STAGES[shape]):
        raise CorruptObjectError(key, f"document: was written as {document.key!r}, of restore {document.restore_id!r}")
    check_identity(key, document.identity, expect)
    return document
