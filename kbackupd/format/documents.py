"""Documents: one line of JSON whose every byte is covered ("Documents" in docs/format.md); `backup.json` and claims."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from kbackupd.format.columns import Count, Digest, check_identity, decode_json
from kbackupd.format.container import FORMAT, check_demands
from kbackupd.format.keys import BACKUP_KEY, ClaimKey, claim_key, parse_claim_key
from kbackupd.model.archive import ArchiveDocument, WriterClaim
from kbackupd.model.errors import CorruptObjectError
from kbackupd.model.positions import TopicId
from kbackupd.model.segment import Identity
from kbackupd.model.settings import StartPolicy

_HEAD = b'{"sha256":"'
_MIDDLE = b'","document":'
_END = b"}\n"
_DOCUMENT_AT = len(_HEAD) + 64 + len(_MIDDLE)


class _Archive(Struct, omit_defaults=True):
    key: str
    format: int
    incompatible: list[str]
    compatible: list[str]
    backup_id: str
    archive_id: str
    cluster_id: str
    created_ms: Count
    start: StartPolicy
    texts: dict[str, Digest]
    ends: dict[str, list[int]] = {}


class _Claim(Struct):
    key: str
    backup_id: str
    archive_id: str
    cluster_id: str
    writer: str
    writer_epoch: Count
    claimed_ms: Count
    software: str


def encode_document(document: Mapping[str, object] | Struct) -> bytes:
    """The object's bytes: digest and document on one line."""
    inner = msgspec.json.encode(document)
    return _HEAD + hashlib.sha256(inner).hexdigest().encode() + _MIDDLE + inner + _END


def decode_document(key: str, data: bytes) -> dict[str, object]:
    """The document, its shape and digest checked; its members are the caller's to judge.

    Raises:
        CorruptObjectError: a byte is not as written.
    """
    return decode_json(key, "document", open_document(key, data), dict[str, object])


def open_document(key: str, data: bytes) -> bytes:
    """The JSON of the document, its digest checked.

    Raises:
        CorruptObjectError: a byte is not as written.
    """
    inner = data[_DOCUMENT_AT : -len(_END)]
    if not data.startswith(_HEAD) or data[75:_DOCUMENT_AT] != _MIDDLE or not data.endswith(_END):
        raise CorruptObjectError(key, "document: not one line of the shape that was written; cut off or damaged")
    if data[len(_HEAD) : 75] != hashlib.sha256(inner).hexdigest().encode():
        raise CorruptObjectError(key, "document: digest does not fit")
    return inner


def encode_backup(document: ArchiveDocument) -> bytes:
    """`backup.json`.

    Raises:
        ValueError: `start` is no start policy.
    """
    return encode_document(
        _Archive(
            key=BACKUP_KEY,
            format=FORMAT,
            incompatible=[],
            compatible=list(document.compatible),
            backup_id=document.backup_id,
            archive_id=document.archive_id,
            cluster_id=document.cluster_id,
            created_ms=document.created_ms,
            start=StartPolicy(document.start),
            texts=document.texts,
            ends={topic_id: list(offsets) for topic_id, offsets in document.ends.items()},
        )
    )


def decode_backup(data: bytes, *, key: str = BACKUP_KEY) -> ArchiveDocument:
    """The identity of an archive.

    Raises:
        CorruptObjectError: damaged, or another object under this name.
        UnsupportedFormatError: sound, but of a newer format.
    """
    inner = open_document(key, data)
    check_demands(key, "document", inner)
    row = decode_json(key, "document", inner, _Archive)
    _check_key(key, row.key)
    return ArchiveDocument(
        backup_id=row.backup_id,
        archive_id=row.archive_id,
        cluster_id=row.cluster_id,
        created_ms=row.created_ms,
        start=row.start,
        texts=row.texts,
        ends={TopicId(topic_id): tuple(offsets) for topic_id, offsets in row.ends.items()},
        compatible=tuple(row.compatible),
    )


def encode_claim(claim: WriterClaim) -> bytes:
    """The bytes of a claim.

    Raises:
        ValueError: its key is not that of its writer and epoch.
    """
    if claim.key != claim_key(claim.writer, claim.writer_epoch):
        raise ValueError(f"{claim.key} is not the key of epoch {claim.writer_epoch} of writer {claim.writer}")
    return encode_document(
        _Claim(
            key=claim.key,
            backup_id=claim.identity.backup_id,
            archive_id=claim.identity.archive_id,
            cluster_id=claim.identity.cluster_id,
            writer=claim.writer,
            writer_epoch=claim.writer_epoch,
            claimed_ms=claim.claimed_ms,
            software=claim.software,
        )
    )


def decode_claim(key: str, data: bytes, expect: Identity | None = None) -> WriterClaim:
    """The claim of a writer epoch.

    Raises:
        CorruptObjectError: damaged, another object under this name, or of another archive than `expect`.
    """
    row = decode_json(key, "document", open_document(key, data), _Claim)
    _check_key(key, row.key)
    if parse_claim_key(key) != ClaimKey(row.writer, row.writer_epoch):
        raise CorruptObjectError(key, "document: writer or writer_epoch contradict the key")
    identity = Identity(backup_id=row.backup_id, archive_id=row.archive_id, cluster_id=row.cluster_id)
    check_identity(key, identity, expect)
    return WriterClaim(
        key=key,
        identity=identity,
        writer=row.writer,
        writer_epoch=row.writer_epoch,
        claimed_ms=row.claimed_ms,
        software=row.software,
    )


def _check_key(key: str, written: str) -> None:
    if written != key:
        raise CorruptObjectError(key, f"document: was written as {written!r}")
