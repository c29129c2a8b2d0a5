"""What `kbackupd groups` prints for people: a line per position, then what was lost, hidden or not answered."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kbackupd.archive.group_reports import LOG, SNAPSHOT, GroupReport, GroupsReport, LogReport
from kbackupd.cli.output import plain_table, print_sections
from kbackupd.model.clock import iso
from kbackupd.model.snapshots import NEVER_MS, ReadOutcome
from kbackupd.model.units import format_duration

ROWS_ON_TERMINAL = 200
"""Piped output is complete."""
RANGES_SHOWN = 20
NONE = "–"


def print_groups(console: Console, report: GroupsReport, *, glob: str) -> None:
    asked = "the last known" if report.at_ms is None else f"as of {iso(report.at_ms)}"
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("positions", f"{report.backup_id}, {asked}")
    facts.add_row("source", _source(report))
    facts.add_row("complete", "yes" if report.complete else "no, see below")
    sections: list[RenderableType] = [facts, _table(console, report, glob)]
    notes = list(_notes(report))
    if notes:
        sections.append(Group(*notes))
    print_sections(console, sections)


def _source(report: GroupsReport) -> str:
    """Who tells, and how close that comes to the instant."""
    log, snapshot = "the log __consumer_offsets", f"the snapshot of {iso(report.taken_ms)}"
    named = {LOG: log, SNAPSHOT: snapshot}.get(report.source, f"{log}, and {snapshot} where AS OF says so")
    if report.as_of_ms == NEVER_MS:
        return named
    if report.at_ms is None:
        return f"{named}, complete up to {iso(report.as_of_ms)}"
    before = (report.at_ms - report.as_of_ms) / 1000
    return f"{named}, exact" if before <= 0 else f"{named}, complete up to {format_duration(before)} before"


def _table(console: Console, report: GroupsReport, glob: str) -> RenderableType:
    if not report.groups:
        return Text(f"no group matches {glob}" if glob != "*" else "no groups")
    table = plain_table(console)
    for heading in ("GROUP", "STATE", "TOPIC"):
        table.add_column(heading, overflow="fold")
    for heading in ("PARTITION", "OFFSET"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("AS OF", no_wrap=True)
    rows = list(_rows(report))
    shown = rows[:ROWS_ON_TERMINAL] if console.is_terminal else rows
    for row in shown:
        table.add_row(*row)
    if len(shown) == len(rows):
        return table
    return Group(table, Text(f"… and {len(rows) - len(shown):,} rows more: --format json has all", "dim"))


def _rows(report: GroupsReport) -> Iterator[tuple[str, str, str, str, str, str]]:
    for group in report.groups:
        as_of = _as_of(report, group)
        state = group.state if group.outcome is ReadOutcome.OK else f"{group.state} ({group.outcome})"
        if not group.positions:
            what = "not known" if group.answered_ms == NEVER_MS else "no positions"
            yield group.group_id, state, what, NONE, NONE, as_of
        for one in group.positions:
            doubt = "" if one.certain else " or newer: see below"
            yield group.group_id, state, one.topic, str(one.partition), f"{one.offset:,}", as_of + doubt


def _as_of(report: GroupsReport, group: GroupReport) -> str:
    if group.answered_ms == NEVER_MS:
        return NONE
    mixed = report.source not in (LOG, SNAPSHOT)
    return iso(group.as_of_ms if group.source == LOG else group.answered_ms) + (f" {group.source}" if mixed else "")


def _notes(report: GroupsReport) -> Iterator[Text]:
    for damaged in report.damaged:
        yield Text(f"damaged: {damaged.key}: {damaged.reason}; an older snapshot is shown", "red")
    if report.log is None:
        yield Text("__consumer_offsets was not captured by then, so positions are those of a snapshot", "yellow")
    else:
        yield from _log_notes(report.log)
    if report.log is not None and report.log.complete:
        return  # what no broker answered, the log has
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


def _log_notes(log: LogReport) -> Iterator[Text]:
    unheard = [str(one.partition) for one in log.partitions if one.answered_ms == NEVER_MS]
    if unheard:
        names = ", ".join(unheard)
        yield Text(
            f"__consumer_offsets partitions {names}: not heard of by then, a snapshot tells of their groups", "yellow"
        )
    lost = [(one.partition, each) for one in log.partitions for each in one.lost]
    for partition, each in lost[:RANGES_SHOWN]:
        yield Text(
            f"__consumer_offsets/{partition} offsets [{each.first_offset}, {each.next_offset}) are lost: {each.reason}",
            "yellow",
        )
    if len(lost) > RANGES_SHOWN:
        yield Text(f"… and {len(lost) - RANGES_SHOWN:,} ranges more: --format json has all", "dim")
    for one in log.partitions:
        if one.unreadable:
            yield Text(
                f"__consumer_offsets/{one.partition}: {one.unreadable:,} records are unknown to this version", "yellow"
            )
