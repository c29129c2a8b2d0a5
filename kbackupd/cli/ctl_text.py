"""What `kbackupd ctl` prints for people: the worst first, colour only as emphasis, never as the only sign."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kbackupd.cli.output import plain_table, print_sections
from kbackupd.model.clock import iso
from kbackupd.model.status import (
    CheckpointReport,
    FlushReport,
    LeftOutPartition,
    PartitionState,
    PauseReport,
    Problem,
    ReloadReport,
    StatusReport,
    TierStatus,
    TopicStatus,
)
from kbackupd.model.units import format_bytes, format_duration

ROWS_ON_TERMINAL = 30
"""Of a table; the rest is summed up in a line. Piped output is complete."""
UNKNOWN = "?"
NONE = "–"
Row = TypeVar("Row")

NEAR = 0.8
"""Share of a target from which on it is shown as nearly missed."""

_ALARMING = {PartitionState.QUARANTINED: "red", PartitionState.RETRYING: "yellow", PartitionState.PAUSED: "yellow"}


def print_status(console: Console, report: StatusReport) -> None:
    """The whole status: who, how well, tiers, topics, problems, notes."""
    targets = {tier.name: tier.rpo_target_seconds for tier in report.tiers}
    sections: list[RenderableType] = [_head(report), _tiers(console, report.tiers)]
    if report.topics:
        sections.append(_topics(console, report.topics, targets))
    if report.problems:
        sections.append(_problems(report, report.problems, "problem", "bold red"))
    if report.notes:
        sections.append(_problems(report, report.notes, "note", "bold"))
    print_sections(console, sections)


def print_flush(console: Console, report: FlushReport) -> None:
    topics = {p.topic for p in report.partitions}
    took = format_duration(report.seconds)
    what = f"{_count(len(report.partitions), 'partition')} of {_count(len(topics), 'topic')}"
    if report.outcome == "stored":
        console.print(f"stored in {took}: {what} durable, in {_count(len(report.segments), 'segment')}")
        for key in report.segments:
            console.print(f"  {key}", soft_wrap=True)
    else:
        console.print(f"nothing new: all that was captured of {what} was durable already ({took})")
    if report.left_out:
        _print_left_out(console, report.left_out)
    if not report.partitions:
        return
    table = plain_table(console)
    table.add_column("TOPIC", overflow="fold")
    table.add_column("PARTITION", justify="right")
    table.add_column("DURABLE BELOW OFFSET", justify="right")
    shown = _shown(console, sorted(report.partitions, key=lambda p: (p.topic, p.topic_id, p.partition)))
    for partition in shown:
        durable = UNKNOWN if partition.durable_offset < 0 else _number(partition.durable_offset)
        table.add_row(partition.topic, str(partition.partition), durable)
    console.print()
    console.print(table)
    _rest(console, len(report.partitions) - len(shown), "partition")


def _print_left_out(console: Console, left_out: tuple[LeftOutPartition, ...]) -> None:
    table = plain_table(console)
    table.add_column("LEFT OUT", overflow="fold")
    table.add_column("PARTITION", justify="right")
    table.add_column("DURABLE BELOW OFFSET", justify="right")
    table.add_column("STATE")
    table.add_column("WHY", overflow="fold")
    shown = _shown(console, sorted(left_out, key=lambda p: (p.topic, p.topic_id, p.partition)))
    for partition in shown:
        table.add_row(
            partition.topic,
            str(partition.partition),
            UNKNOWN if partition.durable_offset < 0 else _number(partition.durable_offset),
            Text(partition.state, _ALARMING.get(partition.state, "")),
            partition.reason,
        )
    console.print()
    console.print(table)
    _rest(console, len(left_out) - len(shown), "partition")


def print_checkpoint(console: Console, report: CheckpointReport) -> None:
    took = format_duration(report.seconds)
    if report.outcome == "stored":
        what = f"{_count(report.partitions, 'partition')}, {_count(len(report.segments), 'new segment')} before it"
        console.print(f"stored in {took}: a checkpoint of {what}")
    elif report.key is None:
        console.print(f"nothing new: nothing was captured since the start; what it began from says all ({took})")
    else:
        console.print(f"nothing new: the newest checkpoint says all ({took})")
    for key in (*report.segments, *([report.key] if report.key is not None else [])):
        console.print(f"  {key}", soft_wrap=True)


def print_pause(console: Console, report: PauseReport) -> None:
    verb = "paused" if report.paused else "resumed"
    console.print(f"{verb} {_count(len(report.topics), 'topic')} ({_count(report.partitions, 'partition')})")
    shown = _shown(console, report.topics)
    for name in shown:
        console.print(f"  {name}", soft_wrap=True)
    _rest(console, len(report.topics) - len(shown), "topic")
    if not report.durable:
        console.print("not yet durable: a restart before its upload lands would forget it", style="yellow")
    elif report.paused:
        console.print("it survives a restart; kbackupd ctl resume undoes it")


def print_reload(console: Console, report: ReloadReport) -> None:
    applied, waiting = len(report.applied), len(report.needs_restart)
    if not applied and not waiting:
        console.print(f"nothing changed: all {_count(len(report.unchanged), 'setting')} are as they were")
        return
    console.print(f"{applied} applied, {waiting} need a restart, {len(report.unchanged)} unchanged")
    if report.applied:
        table = plain_table(console)
        for heading in ("APPLIED", "BEFORE", "NOW"):
            table.add_column(heading, overflow="fold")
        for change in report.applied:
            table.add_row(change.key, change.before, change.after)
        console.print()
        console.print(table)
    if report.needs_restart:
        table = plain_table(console)
        for heading in ("NEEDS A RESTART", "STILL IN FORCE", "WANTED", "WHY"):
            table.add_column(heading, overflow="fold")
        for one in report.needs_restart:
            table.add_row(one.key, one.running, one.wanted, one.reason)
        console.print()
        console.print(table)


def _head(report: StatusReport) -> RenderableType:
    verdict = Text()
    if not report.ready:
        verdict.append("STARTING", "bold yellow")
    elif report.healthy:
        verdict.append("HEALTHY", "bold green")
    else:
        verdict.append("UNHEALTHY", "bold red")
    up = format_duration(max(0, report.now_ms - report.started_ms) / 1000)
    verdict.append(f"  kbackupd {report.version}, up {up}, {iso(report.now_ms)}", "dim")

    memory = report.memory
    lines = [
        ("backup", f"{report.backup_id}, writer {report.writer} epoch {report.writer_epoch}"),
        ("archive", f"{report.archive_id} of cluster {report.cluster_id}"),
        ("segment", _last_segment(report)),
        ("checkpoint", NONE if report.last_checkpoint_ms is None else _ago(report, report.last_checkpoint_ms)),
        (
            "memory",
            f"{format_bytes(memory.rss_bytes)} of {format_bytes(memory.limit_bytes)} used, "
            f"{format_bytes(memory.reserved_bytes)} of {format_bytes(memory.budget_bytes)} reserved for data",
        ),
    ]
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in lines:
        facts.add_row(name, text)
    return Group(verdict, facts)


def _last_segment(report: StatusReport) -> str:
    flying = f", {_count(report.uploads_in_flight, 'upload')} in flight" if report.uploads_in_flight else ""
    segment = report.last_segment
    if segment is None:
        return f"none yet{flying}"
    return f"{_ago(report, segment.sealed_ms)}, {format_bytes(segment.stored_bytes)}{flying}  {segment.key}"


def _tiers(console: Console, tiers: Iterable[TierStatus]) -> RenderableType:
    table = plain_table(console)
    table.add_column("TIER", overflow="fold")
    for heading in ("EXPOSURE", "TARGET", "USED", "LAG", "TOPICS", "PARTITIONS"):
        table.add_column(heading, justify="right", no_wrap=True)
    for tier in tiers:
        target = tier.rpo_target_seconds
        table.add_row(
            tier.name,
            _exposure(tier),
            NONE if target is None else format_duration(target),
            _share(tier.exposure_seconds, target),
            _lag(tier.lag_records, tier.partitions),
            _number(tier.topics),
            _number(tier.partitions),
        )
    return table


def _topics(console: Console, topics: tuple[TopicStatus, ...], targets: dict[str, float | None]) -> RenderableType:
    table = plain_table(console)
    table.add_column("TOPIC", overflow="fold", ratio=None)
    table.add_column("TIER", overflow="fold")
    for heading in ("EXPOSURE", "LAG", "LOSS IN"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("PARTITIONS", overflow="fold")
    shown = _shown(console, sorted(topics, key=lambda topic: _urgency(topic, targets)))
    for topic in shown:
        open_partitions = topic.partitions - topic.states.get(PartitionState.CLOSED, 0)
        table.add_row(
            topic.name if open_partitions else Text(f"{topic.name} (deleted, {topic.topic_id})", "dim"),
            topic.tier,
            _short_exposure(topic, targets.get(topic.tier), open_partitions),
            _lag(topic.lag_records, open_partitions),
            NONE if topic.time_to_loss_seconds is None else _loss(topic.time_to_loss_seconds),
            _states(topic),
        )
    left = len(topics) - len(shown)
    if not left:
        return table
    return Group(
        table, Text(f"… and {_count(left, 'topic')} less urgent: --topic GLOB picks, --format json has all", "dim")
    )


def _urgency(topic: TopicStatus, targets: dict[str, float | None]) -> tuple[bool, bool, float, str]:
    """Sort key: deleted ones last; failing ones first, then by how much of the target is used up; unknown is worst."""
    alarm = topic.states.get(PartitionState.QUARANTINED, 0) > 0
    closed = topic.states.get(PartitionState.CLOSED, 0) == topic.partitions
    target = targets.get(topic.tier)
    if topic.exposure_seconds is None:
        used = float("inf")
    else:
        used = topic.exposure_seconds / target if target else 0.0
    return (closed, not alarm, -used, topic.name)


def _problems(report: StatusReport, problems: tuple[Problem, ...], noun: str, style: str) -> RenderableType:
    lines: list[RenderableType] = [Text(f"{_count(len(problems), noun).upper()}", style)]
    for problem in problems:
        times = f", {problem.count:,} times" if problem.count > 1 else ""
        since = format_duration(max(0, report.now_ms - problem.since_ms) / 1000)
        lines.append(Text.assemble((problem.subject, "bold"), (f"  for {since}{times}", "dim")))
        lines.append(Padding(Text(problem.message), (0, 0, 0, 2), expand=False))
        if problem.hint:
            lines.append(Padding(Text(f"→ {problem.hint}", "cyan"), (0, 0, 0, 2), expand=False))
    return Group(*lines)


def _exposure(tier: TierStatus) -> Text:
    if not tier.partitions:
        return Text(NONE, "dim")
    seconds, target = tier.exposure_seconds, tier.rpo_target_seconds
    if seconds is None:
        return Text(f"{UNKNOWN} ({tier.unknown_partitions:,} unknown)", "yellow")
    text = Text(format_duration(seconds), _style(seconds, target))
    if target is not None and seconds > target:
        text.append(" MISSED")
    if tier.unknown_partitions:
        text.append(f" ({tier.unknown_partitions:,} unknown)", "yellow")
    return text


def _short_exposure(topic: TopicStatus, target: float | None, open_partitions: int) -> Text:
    """`≥` when some partitions are unknown, `!` when the target is missed: many rows leave no room for words."""
    if not open_partitions:
        return Text(NONE, "dim")
    seconds = topic.exposure_seconds
    if seconds is None:
        return Text(UNKNOWN, "yellow")
    least = "≥" if topic.unknown_partitions else ""
    missed = "! " if target is not None and seconds > target else ""
    return Text(f"{missed}{least}{format_duration(seconds)}", _style(seconds, target))


def _style(seconds: float, target: float | None) -> str:
    if target is None:
        return ""
    return "red" if seconds > target else "yellow" if seconds > NEAR * target else "green"


def _share(seconds: float | None, target: float | None) -> str:
    return NONE if seconds is None or not target else f"{seconds / target:.0%}"


def _lag(records: int | None, partitions: int) -> str:
    if not partitions:
        return NONE
    return UNKNOWN if records is None else _number(records)


def _loss(seconds: float) -> Text:
    return Text(format_duration(seconds), "red" if seconds < 3600 else "yellow" if seconds < 86400 else "")


def _states(topic: TopicStatus) -> Text:
    """`12 following`, or the states apart, the alarming ones marked."""
    text = Text()
    for state in PartitionState:
        count = topic.states.get(state, 0)
        if count:
            text.append(", " if text else "")
            text.append(f"{_number(count)} {state}", _ALARMING.get(state, ""))
    return text


def _shown(console: Console, rows: Iterable[Row]) -> list[Row]:
    everything = list(rows)
    return everything[:ROWS_ON_TERMINAL] if console.is_terminal else everything


def _rest(console: Console, left: int, noun: str) -> None:
    if left:
        console.print(Text(f"… and {_count(left, noun)} more: --format json has all", "dim"))


def _ago(report: StatusReport, ms: int) -> str:
    return f"{format_duration(max(0, report.now_ms - ms) / 1000)} ago"


def _number(value: int) -> str:
    return f"{value:,}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
