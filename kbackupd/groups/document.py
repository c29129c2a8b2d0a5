"""Plans as files: bytes <-> `ResetPlan`, and as CSV for spreadsheets. No I/O."""

from __future__ import annotations

import csv
import io
from dataclasses import fields, replace

import msgspec

from kbackupd.format.local_document import content_digest, decode_local, digest_fits, encode_local
from kbackupd.groups.plan import PLAN_FORMAT, PlanKind, PlannedPosition, ResetPlan
from kbackupd.model.errors import CorruptObjectError, RefusedError

CSV_COLUMNS = (
    "group",
    "topic",
    "partition",
    "current_offset",
    "new_offset",
    "exactness",
    "reason",
    "source_topic",
    "source_partition",
    "source_offset",
)
ROW_MEMBERS = frozenset(field.name for field in fields(PlannedPosition))
EDITED_HINT = (
    "plans are executed as they were made: leave the file as it is, or make a new plan from the edited rows with "
    "--strategy manual --positions FILE"
)


def encode_plan(plan: ResetPlan) -> bytes:
    """The file's bytes: indented JSON, digest last."""
    return encode_local(plan, indent=2)


def sealed(plan: ResetPlan) -> ResetPlan:
    """The plan with its digest."""
    return replace(plan, digest=content_digest(msgspec.to_builtins(plan)))


def decode_plan(name: str, data: bytes, kind: PlanKind | None = None) -> ResetPlan:
    """The plan in a file's bytes.

    Args:
        kind: what it must be; None: a plan or a rollback.

    Raises:
        RefusedError: it was edited: the digest does not fit; or it is something else.
        CorruptObjectError: not a plan at all, or cut off.
        UnsupportedFormatError: of a format this version does not know.
    """
    document = decode_local(name, data, kinds=(kind,) if kind else tuple(PlanKind), formats=(PLAN_FORMAT,))
    if not digest_fits(document):
        raise RefusedError(f"{name} was edited or damaged: its digest does not fit its content", hint=EDITED_HINT)
    try:
        return msgspec.convert(document, ResetPlan)
    except msgspec.ValidationError as error:
        raise CorruptObjectError(name, f"not a plan: {error}") from error


def csv_of(plan: ResetPlan) -> str:
    """Header and a line for each row; "no position" is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in plan.partitions:
        writer.writerow(["" if value is None else value for value in (getattr(row, name) for name in CSV_COLUMNS)])
    return out.getvalue()
