"""`kbackupd offset-map`: where a restore put each record, and where a position from the source belongs."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from kbackupd.archive.local_file import read_local
from kbackupd.cli.offset_map_text import print_lookup, print_map
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.format.offset_map import decode_offset_map
from kbackupd.model.errors import UsageError
from kbackupd.model.offset_map import OffsetMapDocument

MapArgument = Annotated[Path, typer.Argument(metavar="FILE", help="As restore --offset-map wrote it.")]
FormatOption = Annotated[OutputFormat, typer.Option("--format", help="text or json")]

app = typer.Typer(help="Read the offset map of a restore: show, lookup.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def show(
    file: MapArgument,
    topic: Annotated[
        str, typer.Option("--topic", metavar="GLOB", help="Which topics, by their names at the source.")
    ] = "*",
    format: FormatOption = OutputFormat.TEXT,
) -> None:
    """Show per partition which offsets of the source were restored, and where they lie in the target.

    Exit codes: 0 shown · 2 no such file, no such topic · 3 the file is damaged · 5 it is something else.
    """
    document = load_offset_map(file)
    topics = tuple(one for one in document.topics if fnmatchcase(one.source, topic))
    if not topics and topic != "*":
        raise UsageError(f"no topic of {file} matches {topic!r}", hint=_names(document))
    document = replace(document, topics=topics)
    print_json(document) if format is OutputFormat.JSON else print_map(stdout_console(), document)


@app.command()
def lookup(
    file: MapArgument,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Its name at the source.")],
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="Its number at the source.")],
    offsets: Annotated[list[int], typer.Argument(metavar="OFFSET", help="Positions: the next offset to be read.")],
    format: FormatOption = OutputFormat.TEXT,
) -> None:
    """Say where positions of the source are in the target: at the same record, the next restored one, or the end.

    Exit codes: as of show.
    """
    document = load_offset_map(file)
    found = document.topic(topic)
    if found is None:
        raise UsageError(f"{file} has no topic {topic!r}", hint=_names(document))
    mapped = found.partition(partition)
    if mapped is None:
        raise UsageError(
            f"{file} has no partition {partition} of {topic}",
            hint=f"it has {', '.join(str(one.source_partition) for one in found.partitions)}",
        )
    positions = [mapped.mapped(offset) for offset in offsets]
    if format is OutputFormat.JSON:
        print_json(
            {
                "topic": found.source,
                "partition": mapped.source_partition,
                "target": found.target,
                "target_partition": mapped.target_partition,
                "complete": mapped.complete,
                "positions": positions,
            }
        )
    else:
        print_lookup(stdout_console(), found, mapped, positions)


def load_offset_map(path: Path) -> OffsetMapDocument:
    """Raises: UsageError, CorruptObjectError, RefusedError, UnsupportedFormatError; each names the file."""
    return decode_offset_map(str(path), read_local(path, "offset map"))


def _names(document: OffsetMapDocument) -> str:
    names = [one.source for one in document.topics]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"it has {', '.join(names[:20])}{more}" if names else "it has no topics"
