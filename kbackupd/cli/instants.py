"""Instants and durations as people give them to verbs."""

from __future__ import annotations

from kbackupd.model.errors import UsageError
from kbackupd.model.instants import NotAnInstantError, parse_instant_ms
from kbackupd.model.units import parse_duration_seconds


def duration(option: str, text: str) -> float:
    try:
        return parse_duration_seconds(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def instant(option: str, text: str | None) -> int | None:
    """Epoch milliseconds or ISO 8601, UTC unless it names a zone; seconds are refused."""
    if text is None:
        return None
    try:
        return parse_instant_ms(text, utc_if_naive=True)
    except NotAnInstantError as error:
        raise UsageError(f"{option}: {error}", hint=error.hint) from error
