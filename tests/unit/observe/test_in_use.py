"""What is promised is delivered: every event is logged and every metric moved by the daemon's own code (hazard 45)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kbackupd
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics

PACKAGE = Path(kbackupd.__file__).parent
SOURCE = "\n".join(
    file.read_text(encoding="utf-8")
    for file in sorted(PACKAGE.rglob("*.py"))
    if file.name != "reference.py" and file != PACKAGE / "observe" / "events.py"
)
EVENTS = [name for name in vars(events) if name.isupper()]
MOVES = [name for name in vars(Metrics) if not name.startswith("_") and name != "render"]


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_is_logged_somewhere(name: str) -> None:
    assert re.search(rf"\b{name}\b", SOURCE)


@pytest.mark.parametrize("name", MOVES)
def test_every_metric_is_moved_somewhere(name: str) -> None:
    assert re.search(rf"\.{name}\b", SOURCE)


def test_events_are_named_apart() -> None:
    texts = [getattr(events, name) for name in EVENTS]
    assert sorted(set(texts)) == sorted(texts)
    assert [text for text in texts if not re.fullmatch(r"[a-z]+\.[a-z_]+", text)] == []
