"""What `kbackupd groups` prints for people: a line per position, then what was hidden or not answered."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kbackupd.archive.groups import GroupsReport
from kbackupd.cli.output import plain_table, print_sections
from kbackupd.model.clock import iso
from kbackupd.model.snapshots import NEVER_MS, ReadOutcome

ROWS_ON_TERMINAL = 200
"""Piped output is complete."""
NONE = "–"


def print_groups(console: Console, report: GroupsReport, *, glob: str) -> None:
    asked = "the last known" if report.at_ms is None else f"as of {iso(report.at_ms)}"
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("positions", f"{report.backup_id}, {asked}: snapshot of {iso(report.taken_ms)}")
    facts.add_row("complete", "yes" if report.complete else "no, see below")
    sections: list[RenderableType] = [facts, _table(console, report, glob)]
    notes = list(_notes(report))
    if notes:
        sections.append(Group(*notes))
    print_sections(console, sections)


def _table(console: Console, report: GroupsReport, glob: str) -> RenderableType:
    if not report.groups:
        return Text(f"no group matches {glob}" if glob != "*" else "no groups")
    table = plain_table(console)
    for heading in ("GROUP", "STATE", "TOPIC"):
        table.add_column(heading, overflow="fold")
    for heading in ("PARTITION", "OFFSET"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("ANSWERED", no_wrap=True)
    rows = list(_rows(report))
    shown = rows[:ROWS_ON_TERMINAL] if console.is_terminal else rows
    for row in shown:
        table.add_row(*row)
    if len(shown) == len(rows):
        return table
    return Group(table, Text(f"… and {len(rows) - len(shown):,} rows more: --format json has all", "dim"))


def _rows(report: GroupsReport) -> Iterator[tuple[str, str, str, str, str, str]]:
    for group in report.groups:
        answered = NONE if group.answered_ms == NEVER_MS else iso(group.answered_ms)
        state = group.state if group.outcome is ReadOutcome.OK else f"{group.state} ({group.outcome})"
        if not group.positions:
            what = "not known" if group.answered_ms == NEVER_MS else "no positions"
            yield group.group_id, state, what, NONE, NONE, answered
        for one in group.positions:
            yield group.group_id, state, one.topic, str(one.partition), f"{one.offset:,}", answered


def _notes(report: GroupsReport) -> Iterator[Text]:
    for damaged in report.damaged:
        yield Text(f"damaged: {damaged.key}: {damaged.reason}; an older snapshot is shown", "red")
    if not report.lists_all:
        why = "groups that the backup's principal may not describe are left out: grant it Describe on the Cluster"
        yield Text(why, "yellow")
    for broker in report.coordinators:
        if broker.outcome is not ReadOutcome.OK:
            yield Text(f"broker {broker.node_id}: {broker.outcome}: {broker.cause}", "yellow")
    for group in report.groups:
        if group.outcome is not ReadOutcome.OK:
            since = "never told" if group.answered_ms == NEVER_MS else f"shown as of {iso(group.answered_ms)}"
            yield Text(f"group {group.group_id}: {group.outcome}: {group.cause}; {since}", "yellow")
