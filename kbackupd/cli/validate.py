"""`kbackupd validate`: is the archive whole, and can it be trusted?"""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop

from kbackupd.cli.archive_place import BackupIdOption, ConfigOption, PathOption, one_archive, opened
from kbackupd.cli.instants import duration, instant
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.cli.validate_text import print_report, reading
from kbackupd.model.clock import SystemClock, iso
from kbackupd.model.errors import UsageError
from kbackupd.model.settings import StorageSettings
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
        from_ms=instant("--from", from_time),
        to_ms=instant("--to", to_time),
        tolerance_seconds=duration("--tolerance", tolerance),
    )
    if expected.from_ms is not None and expected.to_ms is not None and expected.from_ms >= expected.to_ms:
        raise UsageError("--from is not before --to")
    now_ms = SystemClock().now_ms()
    for option, at_ms in (("--from", expected.from_ms), ("--to", expected.to_ms)):
        if at_ms is not None and at_ms > now_ms:
            raise UsageError(
                f"{option}: {iso(at_ms)} is in the future; it is {iso(now_ms)}",
                hint="no archive can cover what has not happened yet",
            )
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
