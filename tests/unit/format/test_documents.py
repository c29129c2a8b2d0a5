"""`backup.json` and claims: one line, every byte covered, readable with jq."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.format.documents import (
    decode_backup,
    decode_claim,
    decode_document,
    encode_backup,
    encode_claim,
    encode_document,
)
from kbackupd.format.keys import claim_key
from kbackupd.model.archive import ArchiveDocument, WriterClaim
from kbackupd.model.errors import CorruptObjectError, UnsupportedFormatError
from kbackupd.model.segment import Identity
from tests import independent_reader
from tests.unit.format.samples import IDENTITY, example_backup, example_claim
from tests.unit.format.surgery import redocumented

EMPTY = encode_document({})
TEXT = st.text(max_size=30)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
BACKUPS = st.builds(
    ArchiveDocument,
    backup_id=TEXT,
    archive_id=TEXT,
    cluster_id=TEXT,
    created_ms=st.integers(0, 2**62),
    start=st.sampled_from(("earliest", "latest")),
    texts=st.dictionaries(TEXT, DIGESTS, max_size=3),
    compatible=st.lists(TEXT, max_size=2).map(tuple),
)
CLAIMS = st.builds(
    lambda identity, epoch, claimed_ms, software: WriterClaim(
        key=claim_key("main", epoch),
        identity=identity,
        writer="main",
        writer_epoch=epoch,
        claimed_ms=claimed_ms,
        software=software,
    ),
    st.builds(Identity, backup_id=TEXT, archive_id=TEXT, cluster_id=TEXT),
    st.integers(0, 10**10 - 1),
    st.integers(0, 2**62),
    TEXT,
)


@given(BACKUPS)
def test_any_archives_identity_comes_back(document: ArchiveDocument) -> None:
    data = encode_backup(document)
    assert decode_backup(data) == document
    assert independent_reader.document(data)["backup_id"] == document.backup_id
    assert data.count(b"\n") == 1


@given(CLAIMS)
def test_any_claim_comes_back(claim: WriterClaim) -> None:
    assert decode_claim(claim.key, encode_claim(claim), claim.identity) == claim


@given(st.dictionaries(TEXT, st.none() | st.booleans() | st.integers(0, 2**62) | TEXT))
def test_a_document_is_json_whose_digest_covers_it(document: dict[str, object]) -> None:
    data = encode_document(document)
    assert decode_document("some.json", data) == document
    whole = json.loads(data)
    assert whole["document"] == document
    inner = data[data.index(b',"document":') + len(b',"document":') : -2]
    assert whole["sha256"] == hashlib.sha256(inner).hexdigest()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"sha256":"","document":{}}\n',
        EMPTY[:-1],
        EMPTY + b"\n",
        b"\xff" * 200,
    ],
)
def test_anything_but_that_one_line_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptObjectError, match=r"backup\.json: document: "):
        decode_backup(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [("cluster_id", None), ("created_ms", -1), ("created_ms", "now"), ("start", "never"), ("texts", {"a": "b"})],
)
def test_a_document_of_another_shape_is_refused(name: str, value: object) -> None:
    wrong = redocumented(encode_backup(example_backup()), lambda document: document.update({name: value}))
    with pytest.raises(CorruptObjectError, match=name):
        decode_backup(wrong)


def test_an_unknown_incompatible_feature_is_refused_with_a_hint_and_a_compatible_one_is_ignored() -> None:
    data = encode_backup(example_backup())
    with pytest.raises(UnsupportedFormatError, match="unknown to this version: shards") as caught:
        decode_backup(redocumented(data, lambda document: document.update(incompatible=["shards"])))
    assert "a newer one" in caught.value.hint
    newer = decode_backup(redocumented(data, lambda document: document.update(compatible=["x"], x={"y": 1})))
    assert newer == replace(example_backup(), compatible=("x",))


def test_a_claim_of_another_archive_or_key_is_refused() -> None:
    claim = example_claim()
    with pytest.raises(CorruptObjectError, match="belongs to another archive"):
        decode_claim(claim.key, encode_claim(claim), replace(IDENTITY, backup_id="other"))
    with pytest.raises(ValueError, match="is not the key of epoch 8"):
        encode_claim(replace(claim, writer_epoch=8))


def test_a_start_policy_that_is_none_is_not_written() -> None:
    with pytest.raises(ValueError, match="never"):
        encode_backup(replace(example_backup(), start="never"))
