"""`kbackupd describe`: what an archive holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer
import uvloop

from kbackupd.archive.describe import ArchiveDescription, describe_stored
from kbackupd.archive.state import state_at
from kbackupd.cli.archive_place import BackupIdOption, ConfigOption, PathOption, one_archive, opened
from kbackupd.cli.archive_text import print_description
from kbackupd.cli.instants import instant
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.model.settings import StorageSettings


def command(
    path: PathOption = None,
    backup_id: BackupIdOption = None,
    config: ConfigOption = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Configuration as of this instant (ISO 8601 or epoch ms)."),
    ] = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Show topics, partitions, offsets, counts, times, gaps, incarnations and writers; reads no record.

    With --at also the configuration of every topic as of then, and what was known of groups, ACLs and quotas.
    """
    at_ms = instant("--at", at)
    storage, id = one_archive(path, backup_id, config)
    description = uvloop.run(_describe(storage, id, at_ms))
    if output is OutputFormat.JSON:
        print_json(description)
    else:
        print_description(stdout_console(), description)


async def _describe(storage: StorageSettings, backup_id: str, at_ms: int | None) -> ArchiveDescription:
    async with opened(storage) as store:
        archive, description = await describe_stored(store, backup_id)
        return replace(description, state=await state_at(archive, store, at_ms))
