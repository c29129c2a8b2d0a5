"""Durations, sizes and lists as people write them: a number and a unit, never a bare number."""

from __future__ import annotations

import re
from collections.abc import Sequence

_DURATION_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_BYTES = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_NUMBER_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def _parse(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = _NUMBER_UNIT.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r} is not a {what}: write a number and a unit ({', '.join(units)}), such as {example}")
    return float(match[1]) * units[match[2]]


def parse_duration_seconds(text: str) -> float:
    """`"10s"` → 10.0. Raises ValueError for a missing or unknown unit."""
    return _parse(text, _DURATION_SECONDS, "duration", "10s")


def parse_size_bytes(text: str) -> int:
    """`"32MiB"` → 33554432. Raises ValueError for a missing or unknown unit."""
    return int(_parse(text, _SIZE_BYTES, "size", "32MiB"))


def format_duration(seconds: float) -> str:
    """Short and readable: `350ms`, `4.2s`, `3m20s`, `2h05m`, `3d04h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def format_bytes(count: float) -> str:
    """Binary units with one decimal: `512 B`, `1.5 KiB`, `32.0 MiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def format_few(items: Sequence[object]) -> str:
    """The first five, and how many more there are: a message stays one line whatever it is about."""
    shown = ", ".join(str(item) for item in items[:5])
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"
