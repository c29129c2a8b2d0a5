"""What `list`, `describe` and `dump` print for people: one line for each thing, what is wrong in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kbackupd.archive.describe import ArchiveDescription, ArchiveSummary, PartitionDescription, TopicDescription
from kbackupd.archive.dump import DumpReport
from kbackupd.archive.state import StateDescription
from kbackupd.cli.archive_place import WHERE_A_PATH_ENDS
from kbackupd.cli.output import count_of, fitting, plain_table, print_sections
from kbackupd.model.clock import iso
from kbackupd.model.units import format_bytes

ROWS_ON_TERMINAL = 60
"""Of a table; the rest is summed up in a line. Piped output is complete."""
_LEFT_OUT_OF_LIST = ((), ("ARCHIVE",), ("ARCHIVE", "WRITERS"), ("ARCHIVE", "WRITERS", "CREATED", "OBJECTS"))
"""Columns of `list` that go first on a terminal without room for all."""
_LEFT_OUT_OF_TOPICS = ((), ("RAW",), ("RAW", "LAST CAPTURED"), ("RAW", "LAST CAPTURED", "STORED"))
"""The same of `describe`."""
NONE = "–"


def print_archives(console: Console, path: str, archives: Sequence[ArchiveSummary]) -> None:
    if not archives:
        console.print(f"no archives under {path} ({WHERE_A_PATH_ENDS})", soft_wrap=True)
        return
    # Ids that are folded cannot be copied: where there is no room, `describe` and JSON have what is left out.
    table = fitting(console, [_archives(console, archives, without) for without in _LEFT_OUT_OF_LIST])
    problems = [Text(f"{one.backup_id}: {one.problem}", "red") for one in archives if one.problem]
    print_sections(console, [table, Group(*problems)] if problems else [table])


def _archives(console: Console, archives: Sequence[ArchiveSummary], without: Sequence[str]) -> Table:
    rows = [
        {
            "BACKUP ID": one.backup_id,
            "CREATED": _second(one.created_ms),
            "LAST SEGMENT": _second(one.last_sealed_ms),
            "OBJECTS": f"{one.objects:,}",
            "BYTES": format_bytes(one.stored_bytes),
            "WRITERS": ", ".join(one.writers) or NONE,
            "CLUSTER": one.cluster_id or Text("damaged", "bold red"),
            "ARCHIVE": one.archive_id or NONE,
        }
        for one in archives
    ]
    table = plain_table(console)
    shown = [heading for heading in rows[0] if heading not in without]
    for heading in shown:
        folds = heading in ("BACKUP ID", "WRITERS")
        right = heading in ("OBJECTS", "BYTES")
        table.add_column(
            heading, justify="right" if right else "left", overflow="fold" if folds else "ellipsis", no_wrap=not folds
        )
    for row in rows:
        table.add_row(*(row[heading] for heading in shown))
    return table


def print_description(console: Console, found: ArchiveDescription) -> None:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("archive", f"{found.backup_id} at {found.location}")
    facts.add_row("identity", f"{found.archive_id} of cluster {found.cluster_id}")
    facts.add_row("created", f"{_second(found.created_ms)}, start {found.start}")
    facts.add_row("stored", f"{count_of(found.segments, 'segment')}, {format_bytes(found.stored_bytes)}")
    for writer in found.writers:
        facts.add_row(
            "writer",
            f"{writer.writer}: started {count_of(writer.epochs, 'time')}, {count_of(writer.segments, 'segment')}, "
            f"{count_of(writer.checkpoints, 'checkpoint')}, last segment {_second(writer.last_sealed_ms)}",
        )
    if found.state is not None:
        for label, text in _state_facts(found.state):
            facts.add_row(label, text)
    sections: list[RenderableType] = [facts, _topics(console, found.topics)]
    if found.state is not None and found.state.at_ms is not None:
        sections.append(_configurations(console, found.state))
    notes = list(_notes(found))
    if notes:
        shown = notes if not console.is_terminal else notes[:ROWS_ON_TERMINAL]
        left = [Text(f"… and {len(notes) - len(shown)} more: --format json has all", "dim")] if notes != shown else []
        sections.append(Group(*shown, *left))
    print_sections(console, sections)


def _state_facts(state: StateDescription) -> Iterator[tuple[str, Text]]:
    """What the snapshots say, in a line each, and what they do not."""
    until = "" if state.at_ms is None else f" by {iso(state.at_ms)}"
    groups = state.groups
    if groups is None:
        yield "groups", Text(f"none captured{until}")
    else:
        text = f"{count_of(groups.groups, 'group')}, {count_of(groups.positions, 'position')}"
        text += f", taken {iso(groups.taken_ms)}"
        if groups.not_read:
            text += f"; {groups.not_read:,} hidden or not answered then: as they were before"
        if not groups.lists_all:
            text += "; groups that the backup may not describe are left out"
        yield "groups", Text(text)
    for part in state.parts:
        text = f"{part.count:,}, as of {iso(part.answered_ms)}" if part.answered_ms >= 0 else "not known"
        if part.outcome != "ok":
            text += f"; {part.outcome}: {part.cause}"
        yield part.name, Text(text)
    for damaged in state.damaged:
        yield "damaged", Text(f"{damaged.key}: {damaged.reason}; an older snapshot stands in", "red")


def _configurations(console: Console, state: StateDescription) -> RenderableType:
    at = iso(state.at_ms) if state.at_ms is not None else "the end"
    title = Text(f"CONFIGURATION AS OF {at}", "bold")
    if not state.topics:
        return Group(title, Text("no topic was known"))
    table = plain_table(console)
    table.add_column("TOPIC", overflow="fold")
    table.add_column("PARTITIONS", justify="right")
    table.add_column("SET ON THE TOPIC", overflow="fold")
    table.add_column("AS OF", no_wrap=True)
    shown = state.topics[:ROWS_ON_TERMINAL] if console.is_terminal else state.topics
    for topic in shown:
        configs = ", ".join(f"{key}={value}" for key, value in sorted(topic.configs.items())) or NONE
        if topic.outcome != "ok":
            configs = f"{configs} ({topic.outcome}: {topic.cause})"
        name = topic.name if topic.backed_up else f"{topic.name} (not captured by then)"
        table.add_row(name, str(topic.partitions), configs, _second(topic.as_of_ms))
    left = len(state.topics) - len(shown)
    more = [Text(f"… and {left:,} topics more: --format json has all", "dim")] if left else []
    return Group(title, table, *more)


def _topics(console: Console, topics: Sequence[TopicDescription]) -> RenderableType:
    if not topics:
        return Text("no topics yet")
    rows = [(topic, one) for topic in sorted(topics, key=_order) for one in topic.partitions]
    shown = rows[:ROWS_ON_TERMINAL] if console.is_terminal else rows
    table = fitting(console, [_partitions(console, shown, without) for without in _LEFT_OUT_OF_TOPICS])
    totals = Text(
        f"{count_of(len(topics), 'topic')}, {count_of(len(rows), 'partition')}, "
        f"{sum(topic.records for topic in topics):,} records by header, "
        f"{format_bytes(sum(topic.raw_bytes for topic in topics))} raw",
        "dim",
    )
    if len(shown) == len(rows):
        return Group(table, totals)
    return Group(table, Text(f"… and {len(rows) - len(shown):,} partitions more: --format json has all", "dim"), totals)


def _partitions(
    console: Console, rows: Sequence[tuple[TopicDescription, PartitionDescription]], without: Sequence[str]
) -> Table:
    table = plain_table(console)
    table.add_column("TOPIC", overflow="fold")
    table.add_column("PARTITION" if not without else "PART", justify="right")
    table.add_column("OFFSETS", overflow="fold")
    for heading in ("RECORDS", "STORED", "RAW"):
        if heading not in without:
            table.add_column(heading, justify="right", no_wrap=True)
    if "LAST CAPTURED" not in without:
        table.add_column("LAST CAPTURED", no_wrap=True)
    for topic, one in rows:
        cells = {
            "RECORDS": ("≤ " if one.estimated else "") + f"{one.records:,}",
            "STORED": format_bytes(one.stored_bytes),
            "RAW": format_bytes(one.raw_bytes),
            "LAST CAPTURED": _second(one.last_captured_ms),
        }
        counted = [cell for heading, cell in cells.items() if heading not in without]
        table.add_row(_name(topic), str(one.partition), _offsets(one), *counted)
    return table


def _order(topic: TopicDescription) -> tuple[bool, str, int]:
    return topic.internal, topic.name, topic.first_seen_ms


def _name(topic: TopicDescription) -> Text:
    if topic.deleted_ms is not None:
        return Text(f"{topic.name} (deleted)", "dim")
    if not topic.newest:
        return Text(f"{topic.name} (replaced)", "dim")
    return Text(topic.name, "dim" if topic.internal else "")


def _offsets(one: PartitionDescription) -> str:
    text = f"[{one.first_offset:,}, {one.next_offset:,})"
    if one.gaps:
        text += f", {count_of(len(one.gaps), 'gap')}"
    if one.holes:
        text += f", {count_of(len(one.holes), 'hole')}"
    if len(one.branches) > 1:
        text += f", branch {one.branch}"
    return text


def _notes(found: ArchiveDescription) -> Iterator[Text]:
    for damaged in found.damaged:
        yield Text(f"damaged: {damaged.object}: {damaged.reason}", "red")
    for topic in found.topics:
        if topic.deleted_ms is not None:
            yield Text(f"{topic.name} ({topic.topic_id}): deleted at the source, seen {_second(topic.deleted_ms)}")
        elif not topic.newest:
            yield Text(f"{topic.name} ({topic.topic_id}): an earlier incarnation; another topic took its name")
        if topic.excluded_ms is not None:
            yield Text(f"{topic.name}: excluded by configuration since {_second(topic.excluded_ms)}")
        for one in topic.partitions:
            where = f"{topic.name}/{one.partition}"
            for hole in one.holes:
                yield Text(f"{where}: offsets {hole} are missing without a cause; kbackupd validate judges", "red")
            for gap in one.gaps:
                offsets = f"[{gap.first_offset}, {gap.next_offset})"
                yield Text(f"{where}: gap {offsets}: {gap.cause.value}, {_second(gap.at_ms)}")
            if one.open_transactions:
                yield Text(f"{where}: {count_of(one.open_transactions, 'transaction')} without a known outcome")


def print_dump(console: Console, report: DumpReport) -> None:
    console.print(
        f"{report.topic}/{report.partition}: {count_of(report.batches, 'batch', 'batches')}, offsets "
        f"[{report.first_offset}, {report.next_offset}), {format_bytes(report.bytes)} in {report.output}",
        soft_wrap=True,
    )
    for gap in report.gaps:
        console.print(f"gap [{gap.first_offset}, {gap.next_offset}): {gap.cause.value}", soft_wrap=True)


def _second(ms: int | None) -> str:
    return NONE if ms is None else iso(ms)[:19] + "Z"
