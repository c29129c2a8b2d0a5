"""Keys of the archive's objects, made and taken apart: the table in `docs/format.md`, nothing else.

Zero-padded so that lexicographic order is numeric order. A key is parsed only if making it again gives the same
string, so no two keys name one thing.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

BACKUP_KEY = "backup.json"
RESTORE_GUIDE_KEY = "RESTORE.md"
WRITERS_PREFIX = "writers/"
SEGMENTS_PREFIX = "segments/"
CHECKPOINTS_PREFIX = "checkpoints/"
ROLLUPS_PREFIX = "rollups/"
PLANS_PREFIX = "plans/"

SnapshotKind = Literal["groups", "cluster"]
"""Also the first segment of the keys."""
RestoreStage = Literal["begun", "ready", "withdrawn", "done"]

MAX_WRITER_EPOCH = 10**10 - 1
MAX_SEQ = 10**16 - 1
MAX_SEALED_MS = 10**13 - 1
"""In the year 2286."""
MAX_LEVEL = 99
MAX_GENERATION = 9999

RESTORE_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}", re.ASCII)
WRITER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_CLAIM = re.compile(r"writers/([^/]+)/([0-9]{10})\.json", re.ASCII)
_SEGMENT = re.compile(r"segments/([^/]+)/([0-9]{10})/([0-9]{16})-([0-9]{13})\.kbs", re.ASCII)
_CHECKPOINT = re.compile(r"checkpoints/([^/]+)/([0-9]{10})/([0-9]{16})\.kbc", re.ASCII)
_SNAPSHOT = re.compile(r"(groups|cluster)/([^/]+)/([0-9]{10})/([0-9]{16})-([0-9]{13})\.kbn", re.ASCII)
_RESTORE = re.compile(r"plans/([^/]+)/(begun|ready|withdrawn|done)\.json", re.ASCII)
_ROLLUP = re.compile(
    r"rollups/([^/]+)/([0-9]{2})/([0-9]{10})-([0-9]{16})-([0-9]{10})-([0-9]{16})-([0-9]{4})\.kbr", re.ASCII
)


class ClaimKey(NamedTuple):
    writer: str
    writer_epoch: int


class SegmentKey(NamedTuple):
    """Its natural order is the archive's order; `sealed_ms` is information."""

    writer: str
    writer_epoch: int
    seq: int
    sealed_ms: int


class CheckpointKey(NamedTuple):
    writer: str
    writer_epoch: int
    number: int


class SnapshotKey(NamedTuple):
    """Within a kind and writer its natural order is the order of the snapshots."""

    kind: SnapshotKind
    writer: str
    writer_epoch: int
    number: int
    taken_ms: int


class RollupKey(NamedTuple):
    """The first and the last segment that a roll-up covers; which in between are, it says itself."""

    writer: str
    level: int
    first_epoch: int
    first_seq: int
    last_epoch: int
    last_seq: int
    generation: int

    @property
    def first(self) -> tuple[int, int]:
        return self.first_epoch, self.first_seq

    @property
    def last(self) -> tuple[int, int]:
        return self.last_epoch, self.last_seq


class RestoreKey(NamedTuple):
    restore_id: str
    stage: RestoreStage


def _writer(name: str) -> str:
    if not WRITER_NAME.fullmatch(name):
        raise ValueError(f"not a writer name: {name!r} (letters, digits, '.', '_', '-'; at most 63)")
    return name


def _digits(value: int, most: int, what: str) -> str:
    if not 0 <= value <= most:
        raise ValueError(f"{what} {value} does not fit a key")
    return str(value).zfill(len(str(most)))


def claims_prefix(writer: str) -> str:
    return f"{WRITERS_PREFIX}{_writer(writer)}/"


def claim_key(writer: str, writer_epoch: int) -> str:
    return f"{claims_prefix(writer)}{_digits(writer_epoch, MAX_WRITER_EPOCH, 'writer epoch')}.json"


def writer_segments_prefix(writer: str) -> str:
    """All segments of all epochs of a writer."""
    return f"{SEGMENTS_PREFIX}{_writer(writer)}/"


def segments_prefix(writer: str, writer_epoch: int) -> str:
    return f"{writer_segments_prefix(writer)}{_digits(writer_epoch, MAX_WRITER_EPOCH, 'writer epoch')}/"


def segment_seq_prefix(writer: str, writer_epoch: int, seq: int) -> str:
    """Begins every key of `seq`, sorts before them and after all lower sequences: a listing may start after it."""
    return f"{segments_prefix(writer, writer_epoch)}{_digits(seq, MAX_SEQ, 'sequence')}-"


def segment_key(writer: str, writer_epoch: int, seq: int, sealed_ms: int) -> str:
    return f"{segment_seq_prefix(writer, writer_epoch, seq)}{_digits(sealed_ms, MAX_SEALED_MS, 'time')}.kbs"


def writer_checkpoints_prefix(writer: str) -> str:
    """All checkpoints of all epochs of a writer."""
    return f"{CHECKPOINTS_PREFIX}{_writer(writer)}/"


def checkpoints_prefix(writer: str, writer_epoch: int) -> str:
    return f"{writer_checkpoints_prefix(writer)}{_digits(writer_epoch, MAX_WRITER_EPOCH, 'writer epoch')}/"


def checkpoint_key(writer: str, writer_epoch: int, number: int) -> str:
    return f"{checkpoints_prefix(writer, writer_epoch)}{_digits(number, MAX_SEQ, 'number')}.kbc"


def snapshots_prefix(kind: SnapshotKind, writer: str, writer_epoch: int) -> str:
    return f"{kind}/{_writer(writer)}/{_digits(writer_epoch, MAX_WRITER_EPOCH, 'writer epoch')}/"


def snapshot_number_prefix(kind: SnapshotKind, writer: str, writer_epoch: int, number: int) -> str:
    """Begins the keys of `number`, sorts before them and after all lower numbers: a listing may start after it."""
    return f"{snapshots_prefix(kind, writer, writer_epoch)}{_digits(number, MAX_SEQ, 'number')}-"


def snapshot_key(kind: SnapshotKind, writer: str, writer_epoch: int, number: int, taken_ms: int) -> str:
    prefix = snapshot_number_prefix(kind, writer, writer_epoch, number)
    return f"{prefix}{_digits(taken_ms, MAX_SEALED_MS, 'time')}.kbn"


def writer_rollups_prefix(writer: str) -> str:
    """All roll-ups of all levels over a writer's segments."""
    return f"{ROLLUPS_PREFIX}{_writer(writer)}/"


def rollup_key(at: RollupKey) -> str:
    digits = [
        _digits(at.first_epoch, MAX_WRITER_EPOCH, "writer epoch"),
        _digits(at.first_seq, MAX_SEQ, "sequence"),
        _digits(at.last_epoch, MAX_WRITER_EPOCH, "writer epoch"),
        _digits(at.last_seq, MAX_SEQ, "sequence"),
        _digits(at.generation, MAX_GENERATION, "generation"),
    ]
    return f"{writer_rollups_prefix(at.writer)}{_digits(at.level, MAX_LEVEL, 'level')}/{'-'.join(digits)}.kbr"


def restore_key(restore_id: str, stage: RestoreStage) -> str:
    if not RESTORE_ID.fullmatch(restore_id):
        raise ValueError(f"not the id of a restore: {restore_id!r}")
    return f"{PLANS_PREFIX}{restore_id}/{stage}.json"


def parse_claim_key(key: str) -> ClaimKey | None:
    match = _CLAIM.fullmatch(key)
    if match is None or not WRITER_NAME.fullmatch(match[1]):
        return None
    return ClaimKey(match[1], int(match[2]))


def parse_segment_key(key: str) -> SegmentKey | None:
    match = _SEGMENT.fullmatch(key)
    if match is None or not WRITER_NAME.fullmatch(match[1]):
        return None
    return SegmentKey(match[1], int(match[2]), int(match[3]), int(match[4]))


def parse_checkpoint_key(key: str) -> CheckpointKey | None:
    match = _CHECKPOINT.fullmatch(key)
    if match is None or not WRITER_NAME.fullmatch(match[1]):
        return None
    return CheckpointKey(match[1], int(match[2]), int(match[3]))


def parse_snapshot_key(key: str) -> SnapshotKey | None:
    match = _SNAPSHOT.fullmatch(key)
    if match is None or not WRITER_NAME.fullmatch(match[2]):
        return None
    kind: SnapshotKind = "groups" if match[1] == "groups" else "cluster"
    return SnapshotKey(kind, match[2], int(match[3]), int(match[4]), int(match[5]))


def parse_rollup_key(key: str) -> RollupKey | None:
    match = _ROLLUP.fullmatch(key)
    if match is None or not WRITER_NAME.fullmatch(match[1]):
        return None
    return RollupKey(match[1], *map(int, match.groups()[1:]))


def parse_restore_key(key: str) -> RestoreKey | None:
    match = _RESTORE.fullmatch(key)
    if match is None or not RESTORE_ID.fullmatch(match[1]):
        return None
    return RestoreKey(match[1], next(stage for stage in get_args(RestoreStage) if stage == match[2]))
