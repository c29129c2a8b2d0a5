"""What `kbackupd run --once` prints for people when it is over: the verdict first, then what is missing and why."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.text import Text

from kbackupd.cli.output import count_of, plain_table, print_sections
from kbackupd.cli.validate_text import findings_sections
from kbackupd.daemon.once_report import MissingPart, OnceReport, OnceVerdict
from kbackupd.model.clock import iso
from kbackupd.model.units import format_bytes, format_duration

ROWS_ON_TERMINAL = 30
"""Of a list; piped output is complete."""

_STYLES = {
    OnceVerdict.COMPLETE: "bold green",
    OnceVerdict.DECLARED_GAPS: "bold yellow",
    OnceVerdict.INCOMPLETE: "bold red",
    OnceVerdict.NOT_VALID: "bold red",
}


def print_report(console: Console, report: OnceReport) -> None:
    sections: list[RenderableType] = [_head(report)]
    if report.topics:
        sections.append(_topics(console, report))
    if report.missing:
        lines = [_missing(one) for one in report.missing]
        lines += [Text(f"  → {hint}", "cyan") for hint in dict.fromkeys(one.hint for one in report.missing) if hint]
        sections.append(_listed(console, "MISSING", lines))
    if report.gaps:
        sections.append(
            _listed(
                console,
                "GONE FOR GOOD, declared as gaps",
                [
                    Text(f"  {gap.name} offsets [{gap.first_offset}, {gap.next_offset}): {gap.meaning}")
                    for gap in report.gaps
                ],
            )
        )
    if report.validation is not None and not report.validation.valid:
        sections += findings_sections(console, report.validation)
    print_sections(console, sections)


def _head(report: OnceReport) -> RenderableType:
    verdict = Text(report.verdict.upper(), _STYLES[report.verdict])
    verdict = Text.assemble(verdict, _how_far(report))
    rows = [
        ("archive", f"{report.location}, writer {report.writer} epoch {report.writer_epoch}"),
        ("partitions", f"{report.partitions_complete:,} of {report.partitions:,} complete"),
        (
            "captured",
            f"{report.records:,} records, {format_bytes(report.bytes)};"
            f" stored in {count_of(report.segments, 'segment')},"
            f" {format_bytes(report.stored_bytes)}",
        ),
        ("snapshot", _snapshot(report)),
        ("validated", _validated(report)),
        ("took", format_duration(report.total_seconds)),
    ]
    if not report.partitions and report.complete_as_of_ms is not None:
        rows.insert(2, ("", "no topic of the cluster is part of the backup: see source.topics"))
    lines = [Text(f"{name:<10}  {value}", no_wrap=True, overflow="fold") for name, value in rows]
    return Group(verdict, *lines)


def _how_far(report: OnceReport) -> str:
    ended = ", interrupted" if report.interrupted else ", the time given was over" if report.timed_out else ""
    if report.complete_as_of_ms is None or report.verdict is OnceVerdict.NOT_VALID:
        return ended
    if ended:
        return f"{ended}  in part as of {iso(report.complete_as_of_ms)}"
    but = "" if report.verdict is OnceVerdict.COMPLETE else "all but what is listed below, "
    return f"  {but}as of {iso(report.complete_as_of_ms)}"


def _snapshot(report: OnceReport) -> str:
    lacking = [one.name for one in report.missing if one.what == "snapshot"]
    if lacking:
        return f"not of {', '.join(lacking)}"
    if report.snapshots_hidden:
        return f"taken; permissions hide some of: {', '.join(report.snapshots_hidden)}"
    return "groups, topic configurations, ACLs and quotas"


def _validated(report: OnceReport) -> str:
    found = report.validation
    if found is None:
        return "no: interrupted"
    bodies = "every byte read" if found.deep else "no segment body read"
    took = format_duration(found.duration_seconds)
    if found.valid:
        return f"valid ({count_of(found.checked.segments, 'segment')}, {bodies}, {took})"
    return f"NOT VALID: {count_of(found.errors, 'error')} ({bodies}, {took})"


def _topics(console: Console, report: OnceReport) -> RenderableType:
    table = plain_table(console)
    table.add_column("TOPIC", overflow="fold")
    for name in ("PARTITIONS", "NEW RECORDS", "SIZE"):
        table.add_column(name, justify="right")
    shown = report.topics[:ROWS_ON_TERMINAL] if console.is_terminal else report.topics
    for row in shown:
        table.add_row(row.topic, f"{row.partitions:,}", f"{row.records:,}", format_bytes(row.bytes))
    if len(shown) == len(report.topics):
        return table
    return Group(
        table, Text(f"… and {count_of(len(report.topics) - len(shown), 'more topic')}: --format json has all", "dim")
    )


def _missing(one: MissingPart) -> Text:
    where = one.name if one.what == "partition" else f"{one.what} {one.name}"
    if one.what == "partition" and 0 <= one.first_offset < one.next_offset:
        where += f" offsets [{one.first_offset}, {one.next_offset})"
    return Text.assemble(("  ", ""), (where, "bold"), f"  {one.fate}: {one.reason}")


def _listed(console: Console, title: str, lines: Iterable[Text]) -> RenderableType:
    every = list(lines)
    shown = every[:ROWS_ON_TERMINAL] if console.is_terminal else every
    rows: list[RenderableType] = [Text(title, "bold"), *shown]
    if len(shown) < len(every):
        rows.append(Text(f"  … and {len(every) - len(shown):,} more: --format json has all", "dim"))
    return Group(*rows)
