"""`kbackupd groups`: consumer groups' positions as they were at an instant."""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop

from kbackupd.archive.group_reports import GroupsReport
from kbackupd.archive.groups import groups_at
from kbackupd.cli.archive_place import BackupIdOption, ConfigOption, PathOption, one_archive, opened
from kbackupd.cli.groups_text import print_groups
from kbackupd.cli.instants import instant
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.model.settings import StorageSettings


def command(
    path: PathOption = None,
    backup_id: BackupIdOption = None,
    config: ConfigOption = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="As of this instant (ISO 8601 or epoch ms)."),
    ] = None,
    group: Annotated[str, typer.Option("--group", metavar="GLOB", help="Which groups.")] = "*",
    output: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Show the positions of consumer groups as they were at an instant, and what was hidden or unknown then.

    Exit codes: 0 shown · 4 unreachable, denied, or no such archive · 6 nothing had been captured by then.
    """
    at_ms = instant("--at", at)
    storage, id = one_archive(path, backup_id, config)
    report = uvloop.run(_groups(storage, id, at_ms, group))
    if output is OutputFormat.JSON:
        print_json(report)
    else:
        print_groups(stdout_console(), report, glob=group)


async def _groups(storage: StorageSettings, backup_id: str, at_ms: int | None, glob: str) -> GroupsReport:
    async with opened(storage) as store:
        return await groups_at(store, backup_id, at_ms, glob)
