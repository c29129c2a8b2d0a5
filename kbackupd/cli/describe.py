"""`kbackupd describe`: what an archive holds."""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop

from kbackupd.archive.archive import Archive
from kbackupd.archive.describe import ArchiveDescription, describe
from kbackupd.cli.archive_place import BackupIdOption, ConfigOption, PathOption, one_archive, opened
from kbackupd.cli.archive_text import print_description
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.model.settings import StorageSettings


def command(
    path: PathOption = None,
    backup_id: BackupIdOption = None,
    config: ConfigOption = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Show topics, partitions, offsets, counts, times, gaps, incarnations and writers; reads no record."""
    storage, id = one_archive(path, backup_id, config)
    description = uvloop.run(_describe(storage, id))
    if output is OutputFormat.JSON:
        print_json(description)
    else:
        print_description(stdout_console(), description)


async def _describe(storage: StorageSettings, backup_id: str) -> ArchiveDescription:
    async with opened(storage) as store:
        return describe(await Archive.open(store, backup_id))
