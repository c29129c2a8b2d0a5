"""`kbackupd ctl`: ask a running daemon, over its control socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from kbackupd.cli.ctl_text import print_checkpoint, print_flush, print_pause, print_reload
from kbackupd.cli.instants import duration
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.cli.status_text import of_topics, print_status
from kbackupd.cli.watch import watch_status
from kbackupd.model.errors import IncompleteError, UsageError
from kbackupd.model.settings import ControlSettings
from kbackupd.model.status import FlushReport, PartitionState
from kbackupd.model.units import format_duration
from kbackupd.server.client import ControlClient

INTERVAL = "2s"
MIN_INTERVAL_SECONDS = 0.1
DEFAULT_SOCKET = ControlSettings().socket

Report = TypeVar("Report")

SocketOption = Annotated[Path, typer.Option("--socket", metavar="PATH", help="The daemon's control socket.")]
TopicOption = Annotated[
    str, typer.Option("--topic", metavar="GLOB", help="Topics it is about, as a glob over their names.")
]
FormatOption = Annotated[OutputFormat, typer.Option("--format", help="For people or for programs.")]

app = typer.Typer(
    help="Steer a running daemon: status, flush, checkpoint, pause, resume, reload.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def group(context: typer.Context, socket: SocketOption = DEFAULT_SOCKET) -> None:
    """Steer a running daemon: status, flush, checkpoint, pause, resume, reload."""
    context.obj = socket


@app.command()
def status(
    context: typer.Context,
    topic: TopicOption = "*",
    format: FormatOption = OutputFormat.TEXT,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        str | None,
        typer.Option("--interval", metavar="DURATION", help=f"Between two looks of --watch. [default: {INTERVAL}]"),
    ] = None,
) -> None:
    """Show how well the backup is doing. Exposure against target per tier and topic, and what needs attention.

    With --watch a terminal is redrawn in place; piped text is one block after the other, parted by `---`; --format json
    gives one line of JSON each time. A daemon that does not answer is said not to, and asked again.
    """
    if watch:
        interval = INTERVAL if interval is None else interval
        seconds = duration("--interval", interval)
        if seconds < MIN_INTERVAL_SECONDS:
            raise UsageError(f"--interval {interval}: at least {format_duration(MIN_INTERVAL_SECONDS)}")
        watch_status(context.obj, topic=topic, format=format, interval_seconds=seconds)
        return
    if interval is not None:
        raise UsageError("--interval is of --watch: without it the status is shown once")
    report = _ask(context, ControlClient.status)
    chosen = of_topics(report, topic)
    if not chosen.topics and topic != "*":
        raise UsageError(f"no topic matches {topic!r}", hint="kbackupd ctl status lists all of them")
    if format is OutputFormat.JSON:
        print_json(chosen)
    else:
        print_status(stdout_console(), report, topic=topic)


@app.command()
def flush(context: typer.Context, topic: TopicOption = "*", format: FormatOption = OutputFormat.TEXT) -> None:
    """Capture all that the leaders have now and make it durable. Returns when it is, and says up to which offsets.

    Exit code 6: some partitions were left out (paused, failing, gone, or still far behind); each is listed with why.
    """
    report = _ask(context, lambda client: client.flush(topic))
    if format is OutputFormat.JSON:
        print_json(report)
    else:
        print_flush(stdout_console(), report)
    if report.left_out:
        first = min(report.left_out, key=lambda one: (one.topic, one.topic_id, one.partition))
        raise IncompleteError(
            f"the flush did without {len(report.left_out)} of {len(report.partitions)} partitions, "
            f"{first.topic}/{first.partition} first: {first.reason}",
            hint=_left_out_hint(report),
        )


@app.command()
def checkpoint(context: typer.Context, format: FormatOption = OutputFormat.TEXT) -> None:
    """Store what is in memory and a checkpoint over it. After it a restart reads nothing older.

    Asks no leader for more, as flush does: it is the quick one of the two.
    """
    report = _ask(context, ControlClient.checkpoint)
    if format is OutputFormat.JSON:
        print_json(report)
    else:
        print_checkpoint(stdout_console(), report)


@app.command()
def pause(
    context: typer.Context,
    topic: Annotated[
        str | None, typer.Option("--topic", metavar="GLOB", help="Topics to pause, as a glob; '*' means all. Required.")
    ] = None,
    format: FormatOption = OutputFormat.TEXT,
) -> None:
    """Stop fetching topics. They stay paused, across restarts of the daemon too, until they are resumed."""
    if topic is None:
        raise UsageError(
            "pause needs to be told which topics: nothing was paused",
            hint="--topic GLOB, such as --topic 'orders*'; --topic '*' stops the whole backup",
        )
    report = _ask(context, lambda client: client.pause(topic))
    if format is OutputFormat.JSON:
        print_json(report)
    else:
        print_pause(stdout_console(), report)


@app.command()
def resume(context: typer.Context, topic: TopicOption = "*", format: FormatOption = OutputFormat.TEXT) -> None:
    """Go on fetching paused topics. They continue where they stopped."""
    report = _ask(context, lambda client: client.resume(topic))
    if format is OutputFormat.JSON:
        print_json(report)
    else:
        print_pause(stdout_console(), report)


@app.command()
def reload(context: typer.Context, format: FormatOption = OutputFormat.TEXT) -> None:
    """Have the daemon read its configuration again. Says what is in force now and what needs a restart.

    A configuration that is wrong changes nothing: exit code 2, with what `kbackupd config check` says of it.
    """
    report = _ask(context, ControlClient.reload)
    if format is OutputFormat.JSON:
        print_json(report)
    else:
        print_reload(stdout_console(), report)


def _left_out_hint(report: FlushReport) -> str:
    if all(one.state is PartitionState.PAUSED for one in report.left_out):
        return "all that is stored stays; kbackupd ctl resume goes on with what is paused"
    return "nothing is lost, capture goes on where it can; kbackupd ctl status says what is wrong"


def _ask(context: typer.Context, question: Callable[[ControlClient], Awaitable[Report]]) -> Report:
    socket = context.obj

    async def asked() -> Report:
        async with ControlClient(socket) as client:
            return await question(client)

    return asyncio.run(asked())
