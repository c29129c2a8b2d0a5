"""Positions that somebody wrote down: `--positions FILE`, CSV or JSON, or the rows of a plan. Pure.

A plan and its CSV can be edited and handed in again: their other columns are known here and ignored, an unknown one is
a typing error and refused.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

import msgspec

from kbackupd.groups.document import ROW_MEMBERS
from kbackupd.groups.strategies import GivenPosition
from kbackupd.model.errors import UsageError

_OFFSETS = ("offset", "new_offset")
_KNOWN = ROW_MEMBERS | set(_OFFSETS)
_HINT = "a row has group, topic, partition and offset (or new_offset): docs/offset-reset.md"
_LARGEST = 2**63 - 1


def parse_positions(name: str, data: bytes) -> list[GivenPosition]:
    """The rows of a file: CSV with a header where its name ends in `.csv`, else JSON.

    Raises:
        UsageError: it is neither, or a row is wrong; each message names the row.
    """
    rows = _csv_rows(name, data) if name.endswith(".csv") else _json_rows(name, data)
    positions = [_position(f"{name}, row {number}", row) for number, row in enumerate(rows, 1)]
    if not positions:
        raise UsageError(f"{name} has no positions", hint=_HINT)
    return positions


def _csv_rows(name: str, data: bytes) -> Iterable[Mapping[str, object]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{name}, line {reader.line_num}: not as many fields as the header has", hint=_HINT)
            yield {key: (None if value == "" and key != "reason" else value) for key, value in row.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: not CSV: {error}", hint=_HINT) from error


def _json_rows(name: str, data: bytes) -> Iterable[Mapping[str, object]]:
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"{name}: not JSON: {error}", hint=_HINT) from error
    rows = document.get("partitions") if isinstance(document, dict) else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{name}: neither a list of rows nor a plan with `partitions`", hint=_HINT)
    return rows


def _position(where: str, row: Mapping[str, object]) -> GivenPosition:
    unknown = [key for key in row if key not in _KNOWN]
    if unknown:
        raise UsageError(f"{where}: {unknown[0]!r} is not known", hint=_HINT)
    given = [key for key in _OFFSETS if key in row]
    if len(given) != 1:
        raise UsageError(f"{where}: {'both offset and new_offset' if given else 'no offset'}", hint=_HINT)
    topic, group = row.get("topic"), row.get("group")
    if not isinstance(topic, str) or not topic:
        raise UsageError(f"{where}: no topic", hint=_HINT)
    if group is not None and (not isinstance(group, str) or not group):
        raise UsageError(f"{where}: group is not a name", hint=_HINT)
    partition = _number(where, "partition", row.get("partition"))
    if partition is None:
        raise UsageError(f"{where}: no partition", hint=_HINT)
    return GivenPosition(topic=topic, partition=partition, offset=_number(where, given[0], row[given[0]]), group=group)


def _number(where: str, key: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise UsageError(f"{where}: {key} is {value!r}, not a number from 0 on", hint=_HINT)
    return value
