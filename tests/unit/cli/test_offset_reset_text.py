"""What people review fits a terminal, and says what is unsure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from kbackupd.cli.offset_reset_text import print_execution, print_reset_plan
from kbackupd.groups.execute import ExecutionReport, FailedPosition
from kbackupd.groups.plan import LeftOut, NotPlanned, PlanArchive
from kbackupd.model.offset_map import Exactness
from tests.unit.groups.examples import plan_of, row

PLAN = replace(
    plan_of(
        replace(
            row(9_876_543_210, current=1_234, group="payments-billing-service-eu-west-1", topic="payments.orders.v2"),
            exactness=Exactness.NEXT,
            reason="source offset 9876543999 was not restored: the next record that was",
        ),
        replace(row(3, group="g"), exactness=Exactness.BEFORE_START),
    ),
    archive=PlanArchive(
        location="s3://my-kafka-backups/production/main", backup_id="main", archive_id="a" * 22, source_cluster_id="s"
    ),
    not_planned=(NotPlanned(group="g", topic="t", partition=1, source_offset=1, reason="nowhere"),),
    left_out=(LeftOut(topic="audit", positions=2), LeftOut(topic="tmp", positions=1)),
    absent_groups=("g",),
)


@pytest.mark.parametrize("width", [100, 140])
def test_a_plan_fits_the_terminal_and_no_offset_is_folded(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    print_reset_plan(Console(width=width, force_terminal=True, color_system=None), PLAN, written=Path("plan.json"))

    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines), [line for line in lines if len(line) > width]
    assert any("9876543210" in line and "1234" in line and "next" in line for line in lines)
    assert any("before start" in line for line in lines)
    assert "not planned: 1 position" in lines
    assert "  g  t/1: nowhere" in lines
    assert "left out: 3 positions of topics not restored: audit, tmp" in lines
    assert "  kbackupd offset-reset execute --plan plan.json --config …" in lines


def test_a_report_says_what_failed_and_how_to_go_back(capsys: pytest.CaptureFixture[str]) -> None:
    report = ExecutionReport(
        plan="sha256:0",
        target_cluster_id="here",
        groups=2,
        partitions=3,
        applied=1,
        already=1,
        failed=(FailedPosition(group="g", topic="orders", partition=4, reason="the group has members by now"),),
        rollback="plan.json.rollback.json",
        deleted_groups=(),
        seconds=1.5,
    )

    print_execution(Console(width=100, force_terminal=True, color_system=None), report)

    out = capsys.readouterr().out
    assert out.startswith("incomplete: 1 position not as planned\n1 changed, 1 were so already, 1 failed")
    assert "the group has members by now" in out
    assert "  kbackupd offset-reset rollback --plan plan.json.rollback.json --config …" in out
