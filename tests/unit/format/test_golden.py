"""What version 1 stored is read by every later version, damage is told by name, and the writer's bytes are pinned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kbackupd.format.checkpoint import decode_checkpoint, encode_checkpoint
from kbackupd.format.cluster_snapshot import decode_cluster, encode_cluster
from kbackupd.format.documents import decode_backup, decode_claim, encode_backup, encode_claim
from kbackupd.format.groups_snapshot import decode_groups, encode_groups
from kbackupd.format.segment import run_bytes, seal, verify_whole
from kbackupd.model.errors import CorruptObjectError, UnsupportedFormatError
from kbackupd.model.segment import Footer
from tests import independent_reader
from tests.unit.format.samples import (
    IDENTITY,
    example_backup,
    example_checkpoint,
    example_claim,
    example_cluster,
    example_draft,
    example_groups,
    example_runs,
    footer_only_draft,
)
from tests.unit.format.surgery import flipped, take_apart

V1 = Path(__file__).parents[2] / "golden" / "v1"
KEYS: dict[str, str] = json.loads((V1 / "keys.json").read_text())
EXPECTED: dict[str, dict[str, str]] = json.loads((V1 / "corrupt" / "expected.json").read_text())
SEGMENTS = ("segment.kbs", "segment-zstd.kbs", "segment-footer-only.kbs")


def golden(name: str) -> bytes:
    return (V1 / name).read_bytes()


def read(name: str, key: str, data: bytes) -> object:
    """Read a golden object by all means there are for its kind."""
    if name.endswith(".kbs"):
        return verify_whole(key, data, IDENTITY)
    if name.endswith(".kbc"):
        return decode_checkpoint(key, data, IDENTITY)
    if name.endswith(".kbn"):
        decode = decode_groups if name.startswith("groups") else decode_cluster
        return decode(key, data, IDENTITY)[0]
    if name.startswith("backup"):
        return decode_backup(data)
    return decode_claim(key, data, IDENTITY)


def comparable(value: object) -> object:
    """A footer without what depends on the version of libzstd."""
    if not isinstance(value, Footer):
        return value
    runs = tuple(
        run._replace(position=0, stored_bytes=0, crc32c=0) if run.codec == "zstd" else run for run in value.runs
    )
    if all(run.codec == "none" for run in runs):
        return value
    return replace(value, runs=tuple(run._replace(position=0) for run in runs), body_bytes=0, body_sha256="")


@pytest.mark.parametrize("name", KEYS)
def test_golden_object_reads_as_the_values_it_was_made_from(name: str) -> None:
    found = read(name, KEYS[name], golden(name))
    made_from = {
        "segment.kbs": seal(example_draft(), codec="none").footer,
        "segment-zstd.kbs": seal(example_draft(), codec="zstd").footer,
        "segment-footer-only.kbs": seal(footer_only_draft(), codec="zstd").footer,
        "checkpoint.kbc": example_checkpoint(),
        "backup.json": example_backup(),
        "claim.json": example_claim(),
        "groups.kbn": example_groups(),
        "cluster.kbn": example_cluster(),
    }
    assert comparable(found) == comparable(made_from[name])


def test_every_golden_file_is_tested() -> None:
    assert {path.name for path in V1.iterdir() if path.is_file()} == {*KEYS, "keys.json"}
    assert {path.name for path in (V1 / "corrupt").iterdir()} == {*EXPECTED, "expected.json"}


@pytest.mark.parametrize("name", SEGMENTS[:2])
def test_golden_runs_hold_the_brokers_bytes_unchanged(name: str) -> None:
    data = golden(name)
    footer = verify_whole(KEYS[name], data)
    stored = [run_bytes(run, data[run.position : run.position + run.stored_bytes]) for run in footer.runs]
    assert stored == [b"".join(draft.chunks) for draft in example_runs()]
    assert [run.codec for run in footer.runs].count("zstd") == (4 if name == "segment-zstd.kbs" else 0)


@pytest.mark.parametrize("name", SEGMENTS)
def test_independent_reader_decodes_a_segment(name: str) -> None:
    data = golden(name)
    found = independent_reader.container(data, KEYS[name])
    ours = verify_whole(KEYS[name], data)
    runs = [run_bytes(run, data[run.position : run.position + run.stored_bytes]) for run in ours.runs]
    assert [run["bytes"] for run in found["runs"]] == runs
    assert [(run["topic_id"], run["partition"]) for run in found["runs"]] == [run.id for run in ours.runs]
    assert [run["next_offset"] for run in found["runs"]] == [run.next_offset for run in ours.runs]


def test_independent_reader_decodes_checkpoint_snapshots_and_documents() -> None:
    checkpoint = independent_reader.container(golden("checkpoint.kbc"), KEYS["checkpoint.kbc"])
    assert checkpoint["footer"]["partitions"]["next_offset"] == [44, 12]
    groups = independent_reader.container(golden("groups.kbn"), KEYS["groups.kbn"])["footer"]
    assert groups["groups"]["group_id"] == ["billing", "fraud", "secret"]
    assert groups["positions"]["offset"] == [43, 12, 3_000_000_000, 43]
    cluster = independent_reader.container(golden("cluster.kbn"), KEYS["cluster.kbn"])["footer"]
    assert cluster["topics"]["configs"] == [{"cleanup.policy": "compact"}, {}]
    assert independent_reader.document(golden("backup.json"))["archive_id"] == IDENTITY.archive_id
    assert independent_reader.document(golden("claim.json"))["writer_epoch"] == 7


@pytest.mark.parametrize(
    "name", ["segment.kbs", "segment-footer-only.kbs", "checkpoint.kbc", "groups.kbn", "cluster.kbn"]
)
def test_writer_still_writes_the_golden_container(name: str) -> None:
    written = {
        "segment.kbs": lambda: b"".join(seal(example_draft(), codec="none").parts),
        "segment-footer-only.kbs": lambda: b"".join(seal(footer_only_draft(), codec="none").parts),
        "checkpoint.kbc": lambda: encode_checkpoint(example_checkpoint()),
        "groups.kbn": lambda: encode_groups(example_groups())[0],
        "cluster.kbn": lambda: encode_cluster(example_cluster())[0],
    }[name]()
    # Another version of libzstd may pack the footer into other bytes; what it unpacks to may not change.
    assert take_apart(written) == take_apart(golden(name))


def test_writer_still_writes_the_golden_documents() -> None:
    assert encode_backup(example_backup()) == golden("backup.json")
    assert encode_claim(example_claim()) == golden("claim.json")


@pytest.mark.parametrize("name", EXPECTED)
def test_corrupt_golden_object_is_refused_and_the_place_is_named(name: str) -> None:
    key, message = EXPECTED[name]["key"], EXPECTED[name]["message"]
    newer = name.endswith(("format-2.kbs", "incompatible.kbs", "encrypted.kbs", "format-2.json"))
    with pytest.raises(UnsupportedFormatError if newer else CorruptObjectError) as caught:
        read(name, key, golden(f"corrupt/{name}"))
    assert str(caught.value).startswith(f"{key}: {message}")
    if newer:
        assert "version of kbackupd that wrote it" in caught.value.hint


@pytest.mark.parametrize("name", KEYS)
def test_any_flipped_byte_of_any_object_is_found(name: str) -> None:
    data = golden(name)
    for position in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            with pytest.raises(CorruptObjectError):
                read(name, KEYS[name], flipped(data, position, mask))


@pytest.mark.parametrize("name", KEYS)
def test_any_truncation_or_addition_is_found(name: str) -> None:
    data = golden(name)
    damaged = [data[:length] for length in range(len(data))]
    damaged += [data[length:] for length in range(1, len(data))]
    damaged += [data + b"\0", data + data, b"\0" + data]
    for each in damaged:
        with pytest.raises(CorruptObjectError):
            read(name, KEYS[name], each)
