"""What `kbackupd validate` prints for people: the verdict first, then what is wrong, then what is worth knowing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from kbackupd.cli.output import print_sections
from kbackupd.model.clock import iso
from kbackupd.model.units import format_bytes, format_duration
from kbackupd.validate.report import Finding, Severity, ValidationReport

FINDINGS_ON_TERMINAL = 40
"""Of each severity; piped output is complete."""
_LINE_SECONDS = 5.0


def print_report(console: Console, report: ValidationReport) -> None:
    print_sections(console, [_verdict(report), *findings_sections(console, report)])


def findings_sections(console: Console, report: ValidationReport) -> list[RenderableType]:
    """Errors, then what is worth knowing; a severity without findings is left out."""
    sections: list[RenderableType] = []
    for severity, style in ((Severity.ERROR, "bold red"), (Severity.INFORMATION, "bold")):
        findings = [one for one in report.findings if one.severity is severity]
        if findings:
            sections.append(_findings(console, severity, style, findings))
    return sections


def _verdict(report: ValidationReport) -> RenderableType:
    verdict = Text()
    verdict.append("VALID" if report.valid else "NOT VALID", "bold green" if report.valid else "bold red")
    verdict.append(f"  {report.location}")
    verdict.append(f", {iso(report.started_ms)}, took {format_duration(report.duration_seconds)}", "dim")
    checked = report.checked
    counts = (
        f"{checked.objects:,} objects, {checked.segments:,} segments, {checked.checkpoints:,} checkpoints, "
        f"{checked.snapshots:,} snapshots; "
        f"{checked.topics:,} topics, {checked.partitions:,} partitions, {checked.runs:,} runs, "
        f"{checked.batches:,} batches, {checked.records:,} records"
    )
    if report.deep:
        read = f"every byte was read: {format_bytes(checked.body_bytes)} of segment bodies, each batch decompressed"
    else:
        read = "segment bodies were not read: --deep reads every byte"
    summary = (
        f"{report.errors:,} {'error' if report.errors == 1 else 'errors'}, {report.informations:,} for information"
    )
    return Group(verdict, Text(counts), Text(read), Text(summary))


def _findings(console: Console, severity: Severity, style: str, findings: Sequence[Finding]) -> RenderableType:
    shown = findings[:FINDINGS_ON_TERMINAL] if console.is_terminal else findings
    lines: list[RenderableType] = [Text("ERRORS" if severity is Severity.ERROR else "FOR INFORMATION", style)]
    for one in shown:
        lines.append(Text.assemble((one.place or "archive", "bold"), (f"  {one.code.value}", "dim")))
        lines.append(Padding(Text(one.message), (0, 0, 0, 2), expand=False))
        if one.action:
            lines.append(Padding(Text(f"→ {one.action}", "cyan"), (0, 0, 0, 2), expand=False))
    if len(shown) < len(findings):
        lines.append(Text(f"… and {len(findings) - len(shown):,} more: --format json has all", "dim"))
    return Group(*lines)


class ReadingProgress:
    """How far `--deep` has come; silent until there is something to read."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("reading", total=None, visible=False)
        self._total = 0
        self._read = 0
        self._said_at = time.monotonic()

    def total(self, expected_bytes: int) -> None:
        self._total = expected_bytes
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=expected_bytes, visible=True)

    def read(self, read_bytes: int) -> None:
        self._read += read_bytes
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._read)
        elif time.monotonic() - self._said_at >= _LINE_SECONDS:
            self._said_at = time.monotonic()
            print(f"read {format_bytes(self._read)} of {format_bytes(self._total)}", file=sys.stderr, flush=True)


@contextmanager
def reading() -> Iterator[ReadingProgress]:
    """Progress on stderr: a bar on a terminal, a line every few seconds when piped."""
    if not sys.stderr.isatty():
        yield ReadingProgress(None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield ReadingProgress(bar)
