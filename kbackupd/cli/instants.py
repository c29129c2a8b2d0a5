"""Instants and durations as people give them to verbs."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from kbackupd.model.clock import iso
from kbackupd.model.errors import UsageError
from kbackupd.model.units import parse_duration_seconds


def duration(option: str, text: str) -> float:
    try:
        return parse_duration_seconds(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def instant(option: str, text: str | None) -> int | None:
    """Epoch milliseconds or ISO 8601; seconds are refused, for they would be read as a day in January 1970."""
    if text is None:
        return None
    if re.fullmatch(r"\d{12,14}", text):
        return int(text)
    if re.fullmatch(r"\d+", text):
        seconds = int(text)
        likely = f"; {seconds * 1000} would be {iso(seconds * 1000)}" if len(text) == 10 else ""
        raise UsageError(
            f"{option} {text}: as epoch milliseconds that is {iso(min(seconds, 10**14))}",
            hint=f"give epoch milliseconds or ISO 8601{likely}",
        )
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option} {text}: not an instant", hint="such as 2026-03-24T00:00:00Z or 1774310400000"
        ) from error
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
