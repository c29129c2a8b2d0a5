"""Whatever becomes of the groups, the restore that brought them keeps its report."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from kbackupd.groups.after_restore import GroupsOutcome, bring_along
from kbackupd.groups.coordinators import Coordinators
from kbackupd.groups.make_plan import MadePlan
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import KafkaUnavailableError
from tests.virtual_time import run


def brought(path: Path) -> GroupsOutcome:
    async def make() -> MadePlan:
        raise KafkaUnavailableError("broker 1 is away", hint="wait for it")

    clock = ManualClock()
    connection = cast("KafkaConnection", None)  # a plan that cannot be made asks for nothing more
    return run(bring_along(make, path, connection=connection, coordinators=Coordinators([], clock=clock)), clock=clock)


def test_a_plan_that_cannot_be_made_is_a_problem_that_is_told_and_not_raised(tmp_path: Path) -> None:
    outcome = brought(tmp_path / "plan.json")

    assert (outcome.problem, outcome.hint, outcome.plan, outcome.complete) == (
        "broker 1 is away",
        "wait for it",
        None,
        False,
    )
