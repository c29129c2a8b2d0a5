"""`kbackupd list`: the archives under a path."""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop

from kbackupd.archive.describe import ArchiveSummary, archives_under
from kbackupd.cli.archive_place import BackupIdOption, ConfigOption, PathOption, opened, place
from kbackupd.cli.archive_text import print_archives
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.model.settings import StorageSettings


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
    if output is OutputFormat.JSON:
        print_json({"path": found.storage.url, "archives": archives})
    else:
        print_archives(stdout_console(), found.storage.url, archives, there=[one.backup_id for one in there])


async def _archives(storage: StorageSettings) -> tuple[ArchiveSummary, ...]:
    async with opened(storage) as store:
        return await archives_under(store)
