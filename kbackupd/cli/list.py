"""`kbackupd list`: the archives under a path."""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop

from kbackupd.archive.archive import no_archive
from kbackupd.archive.describe import ArchiveSummary, archives_under
from kbackupd.cli.archive_place import (
    WHERE_A_PATH_ENDS,
    BackupIdOption,
    ConfigOption,
    PathOption,
    opened,
    place,
)
from kbackupd.cli.archive_text import print_archives
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.model.settings import StorageSettings
from kbackupd.model.units import format_few


def command(
    path: PathOption = None,
    config: ConfigOption = None,
    backup_id: BackupIdOption = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Show which archives there are, whose, how big and how recent."""
    found = place(path, None, config)
    there = uvloop.run(_archives(found.storage))
    archives = tuple(one for one in there if backup_id in (None, one.backup_id))
    if backup_id is not None and not archives:
        ids = [one.backup_id for one in there]
        hint = f"there is {format_few(ids)}" if ids else f"no archive at all is under this path ({WHERE_A_PATH_ENDS})"
        raise no_archive(f"{found.storage.url}/{backup_id}", hint=hint)
    if output is OutputFormat.JSON:
        print_json({"path": found.storage.url, "archives": archives})
    else:
        print_archives(stdout_console(), found.storage.url, archives)


async def _archives(storage: StorageSettings) -> tuple[ArchiveSummary, ...]:
    async with opened(storage) as store:
        return await archives_under(store)
