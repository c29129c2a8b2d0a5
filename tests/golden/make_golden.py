"""Writes the golden files of format 1 that are missing: `python -m tests.golden.make_golden`.

A golden file is never written again: bytes that an old version stored must be read by every later one. A change of
the format is a new directory beside `v1`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kbackupd.format.checkpoint import encode_checkpoint
from kbackupd.format.cluster_snapshot import encode_cluster
from kbackupd.format.documents import encode_backup, encode_claim
from kbackupd.format.groups_snapshot import encode_groups
from kbackupd.format.segment import SegmentDraft, seal
from tests.unit.format.samples import (
    CLUSTER_KEY,
    GROUPS_KEY,
    example_backup,
    example_checkpoint,
    example_claim,
    example_cluster,
    example_draft,
    example_groups,
    footer_only_draft,
)
from tests.unit.format.surgery import flipped, redocumented, resealed, take_apart

V1 = Path(__file__).parent / "v1"


def sealed(draft: SegmentDraft, *, zstd: bool = False) -> tuple[str, bytes]:
    segment = seal(draft, codec="zstd" if zstd else "none")
    return segment.ref.key, b"".join(segment.parts)


def sound() -> dict[str, tuple[str, bytes]]:
    """File name → key and bytes."""
    checkpoint, claim = example_checkpoint(), example_claim()
    return {
        "segment.kbs": sealed(example_draft()),
        "segment-zstd.kbs": sealed(example_draft(), zstd=True),
        "segment-footer-only.kbs": sealed(footer_only_draft()),
        "checkpoint.kbc": (checkpoint.key, encode_checkpoint(checkpoint)),
        "backup.json": ("backup.json", encode_backup(example_backup())),
        "claim.json": (claim.key, encode_claim(claim)),
        "groups.kbn": (GROUPS_KEY, encode_groups(example_groups())[0]),
        "cluster.kbn": (CLUSTER_KEY, encode_cluster(example_cluster())[0]),
    }


def corrupt(files: dict[str, tuple[str, bytes]]) -> dict[str, tuple[str, bytes, str]]:
    """File name → key, bytes and how the message about it begins, after the key."""
    key, segment = files["segment.kbs"]
    zstd = files["segment-zstd.kbs"][1]
    checkpoint_key, checkpoint = files["checkpoint.kbc"]
    claim_key, claim = files["claim.json"]
    backup = files["backup.json"][1]
    groups, cluster = files["groups.kbn"][1], files["cluster.kbn"][1]
    body_bytes = len(take_apart(segment)[0])
    run = "run b8tRS7h4TJ2Vt43Dp85v2A/0 [40, 44) at byte 8: "
    return {
        "segment-cut-off.kbs": (key, segment[:-100], "trailer: no end magic; the object is cut off or damaged"),
        "segment-cut-short.kbs": (key, segment[:40], "object: 40 bytes are too few, or too many were read"),
        "segment-missing-bytes.kbs": (key, segment[200:], "trailer: lengths do not add up to"),
        "segment-magic.kbs": (key, flipped(segment, 0), "magic: not that of a segment"),
        "segment-run-byte.kbs": (key, flipped(segment, 100), run + "CRC-32C of the stored bytes does not fit"),
        "segment-footer-byte.kbs": (key, flipped(segment, body_bytes + 20), "digest: does not fit footer, envelope"),
        "segment-swapped.kbs": (
            "segments/main/0000000007/0000000000000004-1774300001000.kbs",
            segment,
            "envelope: was written as 'segments/main/0000000007/0000000000000003-1774300001000.kbs'",
        ),
        "segment-format-2.kbs": (
            key,
            resealed(segment, envelope=lambda e: e.update(format=2)),
            "envelope: format 2; this version knows format 1",
        ),
        "segment-incompatible.kbs": (
            key,
            resealed(segment, envelope=lambda e: e.update(incompatible=["dictionaries"])),
            "envelope: demands features unknown to this version: dictionaries",
        ),
        "segment-encrypted.kbs": (
            key,
            resealed(segment, envelope=lambda e: e["encryption"].update(algorithm="AES-256-GCM")),
            "envelope: encrypted with 'AES-256-GCM'",
        ),
        "segment-is-checkpoint.kbs": (
            key,
            resealed(segment, envelope=lambda e: e.update(kind="checkpoint")),
            "envelope: is a 'checkpoint', not a 'segment'",
        ),
        "segment-columns.kbs": (
            key,
            resealed(segment, footer=lambda f: f["samples"]["sent_ms"].append(0)),
            "footer: samples: columns differ in length: [1, 2]",
        ),
        "segment-index.kbs": (
            key,
            resealed(segment, footer=lambda f: f["outcomes"].update(topic=[3])),
            "footer: outcomes: topic: index 3 points beyond 3 rows",
        ),
        "segment-type.kbs": (
            key,
            resealed(segment, footer=lambda f: f.update(seq="3")),
            "footer: Expected `int`, got `str` - at `$.seq`",
        ),
        "segment-overlapping-runs.kbs": (
            key,
            resealed(segment, footer=lambda f: f["runs"]["position"].__setitem__(1, 9)),
            "footer: runs: row 1 begins at byte 9, the one before ends at",
        ),
        "segment-records-miscounted.kbs": (
            key,
            resealed(segment, footer=lambda f: f["runs"]["records"].__setitem__(0, 5)),
            run + "records is 5 in the footer, 4 in the batches",
        ),
        "segment-zstd-run-byte.kbs": (key, flipped(zstd, 30), run + "CRC-32C of the stored bytes does not fit"),
        "checkpoint-byte.kbc": (checkpoint_key, flipped(checkpoint, 50), "digest: does not fit footer, envelope"),
        "checkpoint-row.kbc": (
            checkpoint_key,
            resealed(checkpoint, footer=lambda f: f["open_transactions"].update(row=[1, 2])),
            "footer: open_transactions: row: index 2 points beyond 2 rows",
        ),
        "checkpoint-coverage.kbc": (
            checkpoint_key,
            resealed(checkpoint, footer=lambda f: f.update(coverage={"07": [[0, 4]]})),
            "footer: coverage: '07' is not a writer epoch",
        ),
        "groups-byte.kbn": (GROUPS_KEY, flipped(groups, 50), "digest: does not fit footer, envelope"),
        "groups-magic.kbn": (GROUPS_KEY, flipped(groups, 3), "magic: not that of a groups"),
        "groups-swapped.kbn": (
            GROUPS_KEY.replace("2-1774300002000", "3-1774300002000"),
            groups,
            f"envelope: was written as '{GROUPS_KEY}'",
        ),
        "groups-is-cluster.kbn": (GROUPS_KEY, cluster, "envelope: is a 'cluster', not a 'groups'"),
        "groups-time.kbn": (
            GROUPS_KEY,
            resealed(groups, footer=lambda f: f.update(taken_ms=1)),
            "footer: writer, writer_epoch, number or taken_ms contradict the key",
        ),
        "groups-position.kbn": (
            GROUPS_KEY,
            resealed(groups, footer=lambda f: f["positions"]["group"].__setitem__(0, 3)),
            "footer: positions: group: index 3 points beyond 3 rows",
        ),
        "groups-doubled.kbn": (
            GROUPS_KEY,
            resealed(groups, footer=lambda f: f["groups"]["group_id"].__setitem__(1, "billing")),
            "footer: groups: a group id stands twice",
        ),
        "cluster-outcome.kbn": (
            CLUSTER_KEY,
            resealed(cluster, footer=lambda f: f["parts"]["acls"].update(outcome="empty")),
            "footer: Invalid enum value 'empty' - at `$.parts.acls.outcome`",
        ),
        "cluster-columns.kbn": (
            CLUSTER_KEY,
            resealed(cluster, footer=lambda f: f["acls"]["host"].append("*")),
            "footer: acls: columns differ in length: [1, 2]",
        ),
        "backup-byte.json": ("backup.json", flipped(backup, 100), "document: digest does not fit"),
        "backup-cut-off.json": ("backup.json", backup[:-1], "document: not one line of the shape that was written"),
        "backup-format-2.json": (
            "backup.json",
            redocumented(backup, lambda d: d.update(format=2)),
            "document: format 2; this version knows format 1",
        ),
        "backup-start.json": (
            "backup.json",
            redocumented(backup, lambda d: d.update(start="now")),
            "document: Invalid enum value 'now' - at `$.start`",
        ),
        "claim-swapped.json": (
            "writers/main/0000000008.json",
            claim,
            "document: was written as 'writers/main/0000000007.json'",
        ),
        "claim-epoch.json": (
            claim_key,
            redocumented(claim, lambda d: d.update(writer_epoch=8)),
            "document: writer or writer_epoch contradict the key",
        ),
    }


def write_missing(path: Path, data: bytes) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    sys.stdout.write(f"{path}\n")


def main() -> None:
    files = sound()
    for name, (_, data) in files.items():
        write_missing(V1 / name, data)
    write_missing(V1 / "keys.json", _index({name: key for name, (key, _) in files.items()}))
    stored = {name: (key, (V1 / name).read_bytes()) for name, (key, _) in files.items()}
    damaged = corrupt(stored)
    for name, (_, data, _) in damaged.items():
        write_missing(V1 / "corrupt" / name, data)
    expected = {name: {"key": key, "message": message} for name, (key, _, message) in damaged.items()}
    write_missing(V1 / "corrupt" / "expected.json", _index(expected))


def _index(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


if __name__ == "__main__":
    main()
