"""`kbackupd rollup`: sum up what many segments say, so that long archives open quickly."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
import uvloop

from kbackupd.archive.rollup_build import RollupReport, build_rollups
from kbackupd.cli.archive_place import BackupIdOption, ConfigOption, PathOption, one_archive, opened
from kbackupd.cli.output import OutputFormat, count_of, print_json, stdout_console
from kbackupd.model.settings import StorageSettings
from kbackupd.model.units import format_bytes
from kbackupd.store.scoped import ScopedStore


def command(
    path: PathOption = None,
    backup_id: BackupIdOption = None,
    config: ConfigOption = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Roll up what segments say, so that a long archive opens with few requests; nothing is changed or removed.

    May run at any time, beside a daemon and beside itself; a second run finds nothing to do. Exit codes: 0 all that
    is due is rolled up · 3 backup.json is damaged, or missing beside other objects · 4 there is no archive, or it could
    not be read or written to.
    """
    storage, id = one_archive(path, backup_id, config)
    report = uvloop.run(_roll_up(storage, id))
    if output is OutputFormat.JSON:
        print_json(report)
    else:
        _print(report)


async def _roll_up(storage: StorageSettings, backup_id: str) -> RollupReport:
    async with opened(storage) as store:
        return await build_rollups(ScopedStore(store, backup_id), on_built=_tell)


def _tell(key: str, size_bytes: int) -> None:
    print(f"{key}  {format_bytes(size_bytes)}", file=sys.stderr)


def _print(report: RollupReport) -> None:
    console = stdout_console()
    made = len(report.built) + len(report.merged)
    if made:
        console.print(
            f"{count_of(made, 'roll-up')} made, {format_bytes(report.stored_bytes)}: {len(report.built)} from the "
            f"footers of {report.segments:,} segments, {len(report.merged)} from others",
            soft_wrap=True,
        )
    else:
        console.print("nothing to roll up")
    console.print(
        f"{count_of(report.rollups, 'roll-up')} and {count_of(report.uncovered, 'footer')} are what a reader opens now",
        soft_wrap=True,
    )
    for one in report.damaged:
        console.print(f"damaged, and left out: {one.key}: {one.reason}", soft_wrap=True)
    if report.raced:
        console.print("another run was at work at the same time; run it again for what that left", soft_wrap=True)
