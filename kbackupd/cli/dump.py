"""`kbackupd dump`: a partition as a Kafka log file."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from kbackupd.archive.archive import Archive, ArchivedTopic
from kbackupd.archive.dump import DumpReport, dump
from kbackupd.cli.archive_place import BackupIdOption, ConfigOption, PathOption, one_archive, opened
from kbackupd.cli.archive_text import print_dump
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.model.errors import IncompleteError, UsageError
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.settings import StorageSettings


def command(
    topic: Annotated[str, typer.Option("--topic", metavar="NAME", help="Its newest incarnation is taken.")],
    partition: Annotated[int, typer.Option("--partition", min=0)],
    output: Annotated[
        Path,
        typer.Option("--output", metavar="FILE.log", help="Must not exist; a directory gets a file as Kafka names it."),
    ],
    path: PathOption = None,
    backup_id: BackupIdOption = None,
    config: ConfigOption = None,
    topic_id: Annotated[
        str | None, typer.Option("--topic-id", metavar="ID", help="Another incarnation, as describe shows it.")
    ] = None,
    first: Annotated[int | None, typer.Option("--from", metavar="OFFSET", min=0, help="First offset wanted.")] = None,
    following: Annotated[
        int | None, typer.Option("--to", metavar="OFFSET", min=0, help="First offset not wanted any more.")
    ] = None,
    branch: Annotated[
        int | None, typer.Option("--branch", min=0, help="Another history than the newest, as describe shows it.")
    ] = None,
    format: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Write a partition's batches, byte for byte, as a log file that Kafka's own DumpLogSegments reads.

    Batches are written whole, also where --from or --to lie inside one. Exit codes: 0 written · 2 there is no such
    batch, or no file can be made there · 3 stored bytes are damaged · 4 it could not be written, or the archive not
    be read · 5 the file exists · 6 written, but offsets are missing that nothing explains.
    """
    storage, id = one_archive(path, backup_id, config)
    if first is not None and following is not None and first >= following:
        raise UsageError("--from is not before --to")
    report = uvloop.run(
        _dump(storage, id, topic, topic_id, partition, output, first=first, following=following, branch=branch)
    )
    if format is OutputFormat.JSON:
        print_json(report)
    else:
        print_dump(stdout_console(), report)
    if not report.output.stem.isdigit():
        print("note: DumpLogSegments takes the first offset from the file's name; name it in digits", file=sys.stderr)
    if report.holes:
        raise IncompleteError(
            f"{report.topic}/{report.partition}: offsets are missing that nothing explains: "
            + ", ".join(map(str, report.holes)),
            hint="kbackupd validate says which objects are damaged or gone",
        )


async def _dump(
    storage: StorageSettings,
    backup_id: str,
    topic: str,
    topic_id: str | None,
    partition: int,
    output: Path,
    *,
    first: int | None,
    following: int | None,
    branch: int | None,
) -> DumpReport:
    async with opened(storage) as store:
        archive = await Archive.open(store, backup_id, wanted=topic.__eq__)
        chosen = _topic(archive, topic, topic_id)
        if partition >= chosen.partitions:
            raise UsageError(f"topic {topic} has no partition {partition}", hint=f"it has 0 to {chosen.partitions - 1}")
        id = PartitionId(chosen.topic_id, partition)
        try:
            history = archive.history(id, branch)
        except KeyError as error:
            known = ", ".join(map(str, archive.history(id).branches))
            raise UsageError(f"{topic}/{partition} has no branch {branch}", hint=f"it has {known}") from error
        return await dump(archive, history, output, first_offset=first, next_offset=following)


def _topic(archive: Archive, name: str, topic_id: str | None) -> ArchivedTopic:
    newest = archive.newest()
    if topic_id is not None:
        found = archive.topic(TopicId(topic_id))
        if found is None or found.name != name:
            ids = ", ".join(one.topic_id for one in archive.topics if one.name == name)
            raise UsageError(f"no incarnation {topic_id} of topic {name!r}", hint=f"it has {ids or 'none'}")
        return found
    if name not in newest:
        close = difflib.get_close_matches(name, newest, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "kbackupd describe lists the topics"
        raise UsageError(f"the archive has no topic {name!r}", hint=hint)
    return newest[name]
