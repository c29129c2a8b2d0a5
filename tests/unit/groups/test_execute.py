"""A plan is carried out in the order that makes it safe to stop anywhere, and each row's fate is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kbackupd.groups.coordinators import Coordinators
from kbackupd.groups.document import decode_plan, sealed
from kbackupd.groups.execute import ExecutionReport, execute_plan, rollback_plan
from kbackupd.groups.plan import PlanKind, Position, ResetPlan
from kbackupd.groups.refusals import PlanRefusedError
from kbackupd.groups.rollback import RollbackFile, rollback_path
from kbackupd.groups.state import GroupInTarget
from kbackupd.kafka.types import KafkaErrorCode, TopicPartition
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import RefusedError, UnwritableError
from tests.unit.groups.examples import plan_of, row
from tests.unit.groups.fake_target import FakeTarget
from tests.virtual_time import run


def orders(**positions: int) -> dict[TopicPartition, Position]:
    """p0=7 is partition 0 at offset 7."""
    return {TopicPartition("orders", int(name[1:])): Position(offset) for name, offset in positions.items()}


def executed(plan: ResetPlan, target: FakeTarget, *, fails: bool = False) -> ExecutionReport:
    async def keep(groups: Mapping[str, GroupInTarget]) -> str:
        target.log.append("rollback kept")
        if fails:
            raise UnwritableError("disk full")
        return "kept"

    clock = ManualClock()
    return run(
        execute_plan(
            plan,
            target=target,
            coordinators=Coordinators([target], clock=clock, deadline_seconds=5.0),
            keep_rollback=keep,
            clock=clock,
        ),
        clock=clock,
    )


def test_what_was_is_kept_before_the_first_change_and_everything_is_read_back() -> None:
    target = FakeTarget({"g": orders(p0=7, p1=8)})

    report = executed(plan_of(row(9, current=7), row(None, current=8, partition=1)), target)

    assert target.log == ["rollback kept", "commit g/0=9", "delete g/1"]
    assert target.groups["g"] == orders(p0=9)
    assert (report.applied, report.already, report.failed, report.exit_code) == (2, 0, (), 0)


def test_where_what_was_cannot_be_kept_nothing_is_changed() -> None:
    target = FakeTarget({"g": orders(p0=7)})

    with pytest.raises(UnwritableError):
        executed(plan_of(row(9, current=7)), target, fails=True)

    assert target.log == ["rollback kept"]


def test_what_is_as_planned_already_is_left_alone_and_needs_no_rollback() -> None:
    target = FakeTarget({"g": orders(p0=9)}, members={"g": 1})

    report = executed(plan_of(row(9, current=7)), target)

    assert (target.log, report.already, report.rollback) == ([], 1, None)


def test_a_plan_that_stopped_half_way_is_finished() -> None:
    target = FakeTarget({"a": orders(p0=9), "b": orders(p0=7)})

    report = executed(plan_of(row(9, current=7, group="a"), row(9, current=7, group="b")), target)

    assert (report.applied, report.already, target.log) == (1, 1, ["rollback kept", "commit b/0=9"])


def test_one_refusal_leaves_every_group_as_it_was() -> None:
    target = FakeTarget({"a": orders(p0=7), "b": orders(p0=7)}, members={"b": 1})

    with pytest.raises(PlanRefusedError, match="group b is in use"):
        executed(plan_of(row(9, current=7, group="a"), row(9, current=7, group="b")), target)

    assert target.log == []


def test_hazard_30_a_partition_that_is_refused_costs_itself_and_the_exit_code() -> None:
    target = FakeTarget({"g": orders(p0=7)}, refused={("g", 1): int(KafkaErrorCode.OFFSET_METADATA_TOO_LARGE)})

    report = executed(plan_of(row(9, current=7), row(9, partition=1)), target)

    assert (report.applied, report.exit_code) == (1, 6)
    assert [(one.partition, one.reason) for one in report.failed] == [(1, "OFFSET_METADATA_TOO_LARGE (12)")]


def test_hazard_32_a_member_that_joins_in_between_keeps_its_own_position() -> None:
    target = FakeTarget({"g": orders(p0=7)}, joins_before_commit={"g"})

    report = executed(plan_of(row(9, current=7)), target)

    assert target.groups["g"] == orders(p0=7)
    assert "the group has members by now: UNKNOWN_MEMBER_ID" in report.failed[0].reason


def test_hazard_27_a_commit_whose_answer_was_lost_is_made_again_and_counted_once() -> None:
    target = FakeTarget({"g": orders(p0=7)}, lost_answers=2)

    report = executed(plan_of(row(9, current=7)), target)

    assert (target.log.count("commit g/0=9"), report.applied, report.failed) == (3, 1, ())


def test_a_rollback_deletes_the_groups_that_were_not_there_and_no_other() -> None:
    plan = plan_of(row(9, group="new"), row(9, group="busy"), row(9, current=7, group="old"))
    target = FakeTarget({"old": orders(p0=7)})
    before = {
        "new": GroupInTarget(group_id="new"),
        "busy": GroupInTarget(group_id="busy"),
        "old": GroupInTarget(group_id="old", exists=True, positions=orders(p0=7)),
    }
    executed(plan, target)
    target.groups["busy"] |= orders(p2=5)  # has read something else since

    report = executed(sealed(rollback_plan(plan, before, made_ms=0)), target)

    assert target.groups == {"old": orders(p0=7), "busy": orders(p2=5)}
    assert report.deleted_groups == ("new",)
    assert report.applied == 3


def test_the_rollback_file_is_made_once_and_belongs_to_one_plan(tmp_path: Path) -> None:
    plan, other = plan_of(row(9, current=7)), plan_of(row(8, current=7))
    path = rollback_path(tmp_path / "offset-plan.json")
    clock = ManualClock()

    def keep(plan: ResetPlan, offset: int) -> str:
        group = GroupInTarget(group_id="g", exists=True, positions=orders(p0=offset))
        return run(RollbackFile(path, plan, clock).keep({"g": group}), clock=clock)

    assert keep(plan, 7) == str(tmp_path / "offset-plan.json.rollback.json")
    keep(plan, 9)
    kept = decode_plan("kept", path.read_bytes(), PlanKind.ROLLBACK)
    assert (kept.undoes, kept.partitions[0].new_offset) == (plan.digest, 7)
    with pytest.raises(RefusedError, match="rollback file of another plan"):
        keep(other, 7)
