"""What `kbackupd offset-map` prints for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kbackupd.cli.output import count_of, plain_table, print_sections
from kbackupd.model.clock import iso
from kbackupd.model.offset_map import Exactness, MappedPosition, OffsetMapDocument, OffsetsMode, PartitionMap, TopicMap

ROWS_ON_TERMINAL = 200
"""Piped output is complete."""

MEANING = {
    Exactness.EXACT: "the record itself",
    Exactness.NEXT: "it was not restored: the next record that was",
    Exactness.END: "nothing at or after it was restored: the end",
    Exactness.BEFORE_START: "below what was restored: the first record",
    Exactness.AMBIGUOUS: "several equal records: the first of them",
    Exactness.GIVEN: "as given",
}


def print_map(console: Console, document: OffsetMapDocument) -> None:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("archive", f"{document.archive} (archive id {document.archive_id})")
    facts.add_row("from cluster", document.source_cluster_id)
    facts.add_row("to cluster", document.target_cluster_id)
    facts.add_row("written", iso(document.made_ms))
    topics = _blocks(console, document) if console.is_terminal else [_rows(console, document)]
    print_sections(console, [facts, *(topics if document.topics else [Text("no topics")])])


def _blocks(console: Console, document: OffsetMapDocument) -> list[RenderableType]:
    """A table for each topic, under both its names: beside offsets of ten digits they would be folded to bits."""
    blocks: list[RenderableType] = []
    left = ROWS_ON_TERMINAL
    for topic in document.topics:
        table = _table(console)
        for one in topic.partitions[: max(left, 0)]:
            table.add_row(*_cells(one))
        if left > 0:
            blocks.append(Group(Text(f"{topic.source} → {topic.target}", "bold"), table))
        left -= len(topic.partitions)
    if left < 0:
        blocks.append(Text(f"… and {count_of(-left, 'partition')} more: --format json has all", "dim"))
    return blocks


def _rows(console: Console, document: OffsetMapDocument) -> RenderableType:
    """Piped: a line for each partition, with the topic's names."""
    table = _table(console, "TOPIC", "TARGET")
    for topic in document.topics:
        for one in topic.partitions:
            table.add_row(topic.source, topic.target, *_cells(one))
    return table


def _table(console: Console, *names: str) -> Table:
    table = plain_table(console)
    for name in names:
        table.add_column(name)
    for heading in ("PART", "SOURCE OFFSETS", "TARGET OFFSETS", "RECORDS", "RUNS"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("STATE", no_wrap=True)
    return table


def _cells(one: PartitionMap) -> tuple[str | Text, ...]:
    return (
        _partition(one),
        f"[{one.source_first_offset}, {one.source_next_offset})",
        f"[{one.target_first_offset}, {one.target_next_offset})",
        f"{one.records:,}",
        f"{len(one.counts):,}",
        _state(one),
    )


def _state(one: PartitionMap) -> Text:
    state = Text("complete") if one.complete else Text("not to its end", "yellow")
    return state.append(", offsets kept") if one.mode is OffsetsMode.PRESERVE else state


def _partition(one: PartitionMap) -> str:
    if one.source_partition == one.target_partition:
        return str(one.source_partition)
    return f"{one.source_partition} → {one.target_partition}"


def print_lookup(console: Console, topic: TopicMap, one: PartitionMap, positions: Sequence[MappedPosition]) -> None:
    head = Text(f"{topic.source}/{one.source_partition} → {topic.target}/{one.target_partition}")
    if not one.complete:
        head.append(f"\nnot restored to its end: only offsets below {one.source_next_offset}", "yellow")
    table = plain_table(console)
    table.add_column("SOURCE", justify="right", no_wrap=True)
    table.add_column("TARGET", justify="right", no_wrap=True)
    table.add_column("HOW", no_wrap=True)
    table.add_column("", overflow="fold")
    for position in positions:
        table.add_row(
            str(position.source_offset),
            str(position.target_offset),
            position.exactness,
            MEANING[position.exactness],
        )
    print_sections(console, [head, table])
