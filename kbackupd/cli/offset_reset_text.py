"""What `kbackupd offset-reset` prints for people: the plan for review, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kbackupd.cli.output import count_of, plain_table, print_sections
from kbackupd.groups.execute import ExecutionReport
from kbackupd.groups.plan import LeftOut, PlanKind, PlannedPosition, ResetPlan
from kbackupd.model.clock import iso
from kbackupd.model.offset_map import Exactness
from kbackupd.model.units import format_duration

ROWS_ON_TERMINAL = 200
"""Piped output is complete."""
NONE = "–"

_UNSURE = frozenset({Exactness.AMBIGUOUS, Exactness.BEFORE_START})


def print_reset_plan(console: Console, plan: ResetPlan, *, written: Path | None) -> None:
    sections: list[RenderableType] = [_facts(plan), _table(console, plan)]
    notes = list(_notes(console, plan))
    if notes:
        sections.append(Group(*notes))
    if written is not None:
        sections.append(
            Text(
                f"written to {written}; nothing was changed. After review:\n"
                f"  kbackupd offset-reset execute --plan {written} --config …"
            )
        )
    print_sections(console, sections)


def _facts(plan: ResetPlan) -> Table:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    what = "plan" if plan.kind is PlanKind.PLAN else "rollback"
    facts.add_row(what, f"{plan.strategy}, made {iso(plan.made_ms)}")
    if plan.archive is not None:
        facts.add_row("archive", f"{plan.archive.location} ({plan.archive.archive_id})")
        if plan.archive.positions_ms:
            facts.add_row("positions of", iso(plan.archive.positions_ms))
    if plan.timestamp_ms is not None:
        facts.add_row("timestamp", iso(plan.timestamp_ms))
    facts.add_row("target", f"cluster {plan.target_cluster_id}")
    rows = f"{count_of(len(plan.partitions), 'position')} of {count_of(len(plan.groups), 'group')}"
    facts.add_row("changes", f"{plan.changes:,} of {rows}")
    if plan.kind is PlanKind.PLAN:
        counts = Counter(row.exactness for row in plan.partitions)
        facts.add_row("exactness", ", ".join(f"{count:,} {name}" for name, count in counts.most_common()) or NONE)
    facts.add_row("digest", plan.digest)
    return facts


def _table(console: Console, plan: ResetPlan) -> RenderableType:
    if not plan.partitions:
        return Text("no positions")
    table = plain_table(console)
    table.add_column("GROUP", overflow="fold")
    table.add_column("TOPIC", overflow="fold")
    for heading in ("PART", "CURRENT", "NEW"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("HOW", no_wrap=True)
    table.add_column("WHY", overflow="fold", ratio=1 if console.is_terminal else None)
    shown = plan.partitions[:ROWS_ON_TERMINAL] if console.is_terminal else plan.partitions
    for row in shown:
        table.add_row(
            row.group,
            row.topic,
            str(row.partition),
            _offset(row.current_offset),
            _offset(row.new_offset),
            Text(row.exactness, "yellow" if row.exactness in _UNSURE else ""),
            _why(row),
        )
    if len(shown) == len(plan.partitions):
        return table
    more = count_of(len(plan.partitions) - len(shown), "row")
    return Group(table, Text(f"… and {more} more: --format csv or json has all", "dim"))


def _why(row: PlannedPosition) -> str:
    return row.reason if row.changes else f"{row.reason} (no change)"


def _offset(offset: int | None) -> str:
    return NONE if offset is None else str(offset)


def _notes(console: Console, plan: ResetPlan) -> Iterator[Text]:
    if plan.not_planned:
        yield Text(f"not planned: {count_of(len(plan.not_planned), 'position')}", "bold yellow")
        limit = ROWS_ON_TERMINAL if console.is_terminal else len(plan.not_planned)
        for one in plan.not_planned[:limit]:
            where = f"{one.topic}/{one.partition}: " if one.topic else ""
            yield Text(f"  {one.group}  {where}{one.reason}")
        if len(plan.not_planned) > limit:
            yield Text(f"  … and {len(plan.not_planned) - limit:,} more: --format json has all", "dim")
    if plan.left_out:
        yield Text(left_out_text(plan.left_out))
    if plan.absent_groups:
        absent = ", ".join(plan.absent_groups[:10]) + (", …" if len(plan.absent_groups) > 10 else "")
        what = "the target does not have" if plan.kind is PlanKind.PLAN else "that were not there, and are deleted"
        yield Text(f"groups {what}: {absent}", "dim")


def left_out_text(left_out: Sequence[LeftOut]) -> str:
    names = ", ".join(one.topic for one in left_out[:10]) + (f" and {len(left_out) - 10} more" if left_out[10:] else "")
    return f"left out: {count_of(sum(one.positions for one in left_out), 'position')} of topics not restored: {names}"


def print_execution(console: Console, report: ExecutionReport) -> None:
    unchanged = "" if report.applied or report.failed else ", nothing was changed"
    if report.failed:
        head = Text(f"incomplete: {count_of(len(report.failed), 'position')} not as planned", "bold red")
    else:
        head = Text(f"all positions are as planned{unchanged}", "bold green")
    head.append(
        f"\n{report.applied:,} changed, {report.already:,} were so already, {len(report.failed):,} failed"
        f" ({count_of(report.groups, 'group')}, {format_duration(report.seconds)})",
        "not bold default",
    )
    sections: list[RenderableType] = [head]
    if report.failed:
        sections.append(_failed(console, report))
    if report.deleted_groups:
        sections.append(Text(f"deleted, for they were not there before: {', '.join(report.deleted_groups)}"))
    if report.rollback:
        sections.append(
            Text(
                f"what was before is in {report.rollback}; to put it back:\n"
                f"  kbackupd offset-reset rollback --plan {report.rollback} --config …"
            )
        )
    print_sections(console, sections)


def _failed(console: Console, report: ExecutionReport) -> RenderableType:
    table = plain_table(console)
    for heading in ("GROUP", "TOPIC"):
        table.add_column(heading, overflow="fold")
    table.add_column("PART", justify="right", no_wrap=True)
    table.add_column("WHY", overflow="fold")
    shown = report.failed[:ROWS_ON_TERMINAL] if console.is_terminal else report.failed
    for one in shown:
        table.add_row(one.group, one.topic, str(one.partition), one.reason)
    if len(shown) == len(report.failed):
        return table
    return Group(table, Text(f"… and {len(report.failed) - len(shown):,} more: --format json has all", "dim"))
