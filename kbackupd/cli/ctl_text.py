"""What `kbackupd ctl` prints for people of what it had done; `status_text` has the status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from kbackupd.cli.output import count_of, plain_table
from kbackupd.cli.status_text import ALARMING, ROWS_ON_TERMINAL, UNKNOWN, number
from kbackupd.model.status import CheckpointReport, FlushReport, LeftOutPartition, PauseReport, ReloadReport
from kbackupd.model.units import format_duration

Row = TypeVar("Row")


def print_flush(console: Console, report: FlushReport) -> None:
    topics = {p.topic for p in report.partitions}
    took = format_duration(report.seconds)
    what = f"{count_of(len(report.partitions), 'partition')} of {count_of(len(topics), 'topic')}"
    if report.outcome == "stored":
        console.print(f"stored in {took}: {what} durable, in {count_of(len(report.segments), 'segment')}")
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
        durable = UNKNOWN if partition.durable_offset < 0 else number(partition.durable_offset)
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
            UNKNOWN if partition.durable_offset < 0 else number(partition.durable_offset),
            Text(partition.state, ALARMING.get(partition.state, "")),
            partition.reason,
        )
    console.print()
    console.print(table)
    _rest(console, len(left_out) - len(shown), "partition")


def print_checkpoint(console: Console, report: CheckpointReport) -> None:
    took = format_duration(report.seconds)
    if report.outcome == "stored":
        what = f"{count_of(report.partitions, 'partition')}, {count_of(len(report.segments), 'new segment')} before it"
        console.print(f"stored in {took}: a checkpoint of {what}")
    elif report.key is None:
        console.print(f"nothing new: nothing was captured since the start; what it began from says all ({took})")
    else:
        console.print(f"nothing new: the newest checkpoint says all ({took})")
    for key in (*report.segments, *([report.key] if report.key is not None else [])):
        console.print(f"  {key}", soft_wrap=True)


def print_pause(console: Console, report: PauseReport) -> None:
    verb = "paused" if report.paused else "resumed"
    console.print(f"{verb} {count_of(len(report.topics), 'topic')} ({count_of(report.partitions, 'partition')})")
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
        console.print(f"nothing changed: all {count_of(len(report.unchanged), 'setting')} are as they were")
        return
    needs = "needs" if waiting == 1 else "need"
    console.print(f"{applied} applied, {waiting} {needs} a restart, {len(report.unchanged)} unchanged")
    if report.applied:
        table = plain_table(console)
        table.add_column("APPLIED", no_wrap=True)
        for heading in ("BEFORE", "NOW"):
            table.add_column(heading, overflow="fold")
        for change in report.applied:
            table.add_row(change.key, change.before, change.after)
        console.print()
        console.print(table)
    if report.needs_restart:
        table = plain_table(console)
        table.add_column("NEEDS A RESTART", no_wrap=True)
        for heading in ("STILL IN FORCE", "WANTED", "WHY"):
            table.add_column(heading, overflow="fold")
        for one in report.needs_restart:
            table.add_row(one.key, one.running, one.wanted, one.reason)
        console.print()
        console.print(table)


def _shown(console: Console, rows: Iterable[Row]) -> list[Row]:
    everything = list(rows)
    return everything[:ROWS_ON_TERMINAL] if console.is_terminal else everything


def _rest(console: Console, left: int, noun: str) -> None:
    if left:
        console.print(Text(f"… and {count_of(left, noun)} more: --format json has all", "dim"))
