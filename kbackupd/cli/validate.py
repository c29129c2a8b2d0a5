"""`kbackupd validate`: is the archive whole, and can it be trusted?"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import typer
import uvloop

from kbackupd.cli.archive_place import BackupIdOption, ConfigOption, PathOption, one_archive, opened
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.cli.validate_text import print_report, reading
from kbackupd.model.clock import iso
from kbackupd.model.errors import UsageError
from kbackupd.model.settings import StorageSettings
from kbackupd.model.units import parse_duration_seconds
from kbackupd.validate.coverage import Expected
from kbackupd.validate.report import ValidationReport
from kbackupd.validate.validate import validate


def command(
    path: PathOption = None,
    backup_id: BackupIdOption = None,
    config: ConfigOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte: digests, checksums, every batch decompressed.")
    ] = False,
    expect_topic: Annotated[
        list[str] | None, typer.Option("--expect-topic", metavar="NAME", help="A topic that must be there; repeatable.")
    ] = None,
    from_time: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="The archive must cover this instant on (ISO 8601 or epoch ms)."),
    ] = None,
    to_time: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="… up to this instant, exclusive.")
    ] = None,
    tolerance: Annotated[
        str, typer.Option("--tolerance", metavar="DURATION", help="How long nobody may have looked, between the two.")
    ] = "15m",
    output: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Check an archive; without --deep no segment body is read.

    Exit codes: 0 valid (gaps with a cause are no error) · 3 not valid · 4 unreachable, denied, or not there.
    """
    storage, id = one_archive(path, backup_id, config)
    expected = Expected(
        topics=tuple(expect_topic or ()),
        from_ms=_instant("--from", from_time),
        to_ms=_instant("--to", to_time),
        tolerance_seconds=_duration(tolerance),
    )
    if expected.from_ms is not None and expected.to_ms is not None and expected.from_ms >= expected.to_ms:
        raise UsageError("--from is not before --to")
    report = uvloop.run(_validate(storage, id, deep=deep, expected=expected))
    if output is OutputFormat.JSON:
        print_json(report)
    else:
        print_report(stdout_console(), report)
    raise typer.Exit(report.exit_code)


async def _validate(storage: StorageSettings, backup_id: str, *, deep: bool, expected: Expected) -> ValidationReport:
    async with opened(storage) as store:
        with reading() as progress:
            return await validate(
                store, backup_id, deep=deep, expected=expected, on_total=progress.total, on_bytes=progress.read
            )


def _duration(text: str) -> float:
    try:
        return parse_duration_seconds(text)
    except ValueError as error:
        raise UsageError(f"--tolerance: {error}") from error


def _instant(option: str, text: str | None) -> int | None:
    """Epoch milliseconds or ISO 8601; seconds are refused, for they would be read as a day in January 1970."""
    if text is None:
        return None
    if re.fullmatch(r"\d{12,14}", text):
        return int(text)
    if re.fullmatch(r"\d+", text):
        seconds = int(text)
        likely = f"; {seconds * 1000} would be {iso(seconds * 1000)}" if len(text) == 10 else ""
        raise UsageError(
            f"{option} {text}: as epoch milliseconds that is {iso(min(seconds, 10**14))}",
            hint=f"give epoch milliseconds or ISO 8601{likely}",
        )
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option} {text}: not an instant", hint="such as 2026-03-24T00:00:00Z or 1774310400000"
        ) from error
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
