"""The daemon's log as a clock: what it says of an event, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path


def logged(log: Path, event: str) -> list[Mapping[str, object]]:
    """The whole lines with this event, in order."""
    text = log.read_text(errors="replace")
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [json.loads(line) for line in lines if f'"{event}"' in line]


def logged_at(line: Mapping[str, object]) -> float:
    """When it was logged, in seconds since the epoch."""
    return datetime.fromisoformat(str(line["timestamp"])).timestamp()
