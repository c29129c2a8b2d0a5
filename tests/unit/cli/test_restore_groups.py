"""Consumer groups that a restore brings along stand where they stood at the restore's own instant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbackupd.cli import restore_groups
from kbackupd.groups.request import PlanRequest
from kbackupd.model.scope import RestoreScope
from kbackupd.restore.report import Verdict
from tests.unit.restore.planned import settings_for


@pytest.mark.parametrize("at_ms", [None, 1_774_360_800_000])
async def test_positions_are_asked_for_as_of_the_instant_that_records_are_of(
    monkeypatch: pytest.MonkeyPatch, at_ms: int | None
) -> None:
    asked: list[PlanRequest] = []

    async def make_reset_plan(request: PlanRequest, **_: object) -> None:
        asked.append(request)

    async def bring_along(make: Callable[[], Awaitable[None]], *_: object, **__: object) -> None:
        await make()

    coordinators = SimpleNamespace(coordinators=None, list_groups=None)
    monkeypatch.setattr(restore_groups, "make_reset_plan", make_reset_plan)
    monkeypatch.setattr(restore_groups, "bring_along", bring_along)
    monkeypatch.setattr(restore_groups, "over", lambda _: coordinators)
    report: Any = SimpleNamespace(verdict=Verdict.COMPLETE)
    map_file: Any = SimpleNamespace(path=Path("map.json"), write=lambda: None)
    nothing: Any = None

    await restore_groups.bring_groups(
        report,
        map_file,
        settings=settings_for("kafka:9092", {}, scope=RestoreScope(as_of_ms=at_ms)),
        store=nothing,
        connection=nothing,
    )

    assert [request.at_ms for request in asked] == [at_ms]
