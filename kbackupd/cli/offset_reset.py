"""`kbackupd offset-reset`: plan where consumer groups shall go on, review it, execute it, undo it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from kbackupd.archive.local_file import read_local
from kbackupd.archive.new_file import NewFile
from kbackupd.cli.archive_place import opened
from kbackupd.cli.group_target import group_target
from kbackupd.cli.instants import instant
from kbackupd.cli.offset_map import load_offset_map
from kbackupd.cli.offset_reset_text import print_execution, print_reset_plan
from kbackupd.cli.output import OutputFormat, print_json, stdout_console
from kbackupd.groups.document import csv_of, decode_plan, encode_plan
from kbackupd.groups.execute import ExecutionReport, execute_plan
from kbackupd.groups.make_plan import MadePlan, make_reset_plan
from kbackupd.groups.plan import PlanKind, ResetPlan, Strategy
from kbackupd.groups.positions_file import parse_positions
from kbackupd.groups.request import PlanRequest
from kbackupd.groups.rollback import RollbackFile, rollback_path
from kbackupd.groups.state import GroupInTarget
from kbackupd.groups.target import TargetLogs
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import UsageError
from kbackupd.model.settings import RestoreSettings
from kbackupd.restore.source_records import ArchivedRecords
from kbackupd.settings.load import load_restore_settings

app = typer.Typer(
    help="Move consumer groups to where they belong: plan, show, execute, rollback.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class PlanFormat(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class ChosenStrategy(StrEnum):
    TIMESTAMP = "timestamp"
    OFFSET = "offset"
    GROUP = "group"
    CLUSTER_SCAN = "cluster-scan"
    MANUAL = "manual"


ConfigOption = Annotated[
    Path, typer.Option("--config", envvar="KBACKUPD_CONFIG", metavar="FILE", help="The restore's configuration.")
]
PlanFormatOption = Annotated[PlanFormat, typer.Option("--format", help="table, csv or json")]


@app.command()
def plan(
    config: ConfigOption,
    strategy: Annotated[ChosenStrategy, typer.Option("--strategy", help="Where new positions come from.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The plan; it must not exist.")],
    offset_map: Annotated[
        Path | None, typer.Option("--offset-map", metavar="FILE", help="As restore --offset-map wrote it.")
    ] = None,
    group: Annotated[list[str] | None, typer.Option("--group", metavar="GLOB", help="Which groups.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", metavar="GLOB", help="Which topics, by their names in the target.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="The groups' positions of this instant. [default: last]")
    ] = None,
    timestamp: Annotated[
        str | None, typer.Option("--timestamp", metavar="TIME", help="For timestamp: ISO 8601 or epoch ms.")
    ] = None,
    offset: Annotated[
        int | None, typer.Option("--offset", min=0, metavar="N", help="For offset: this source offset everywhere.")
    ] = None,
    positions: Annotated[
        Path | None, typer.Option("--positions", metavar="FILE", help="For offset and manual: CSV or JSON.")
    ] = None,
    format: PlanFormatOption = PlanFormat.TABLE,
) -> None:
    """Work out new positions and write them to a file for review. Nothing is changed.

    Exit codes: 0 planned · 2 usage · 4 archive or target unreachable · 5 refused: map or file do not fit ·
    6 planned, but not for every position that was asked for.
    """
    _check_options(strategy, timestamp, offset, positions, at, offset_map)
    request = PlanRequest(
        strategy=Strategy(strategy),
        groups=tuple(group or ()),
        topics=tuple(topic or ()),
        at_ms=instant("--at", at),
        timestamp_ms=instant("--timestamp", timestamp),
        offset=offset,
        given=tuple(parse_positions(str(positions), read_local(positions, "--positions"))) if positions else (),
        offset_map=load_offset_map(offset_map) if offset_map else None,
    )
    settings = load_restore_settings(config, os.environ)
    file = NewFile.create(output, "offset-plan.json")
    try:
        made = uvloop.run(_plan(request, settings))
        file.write([memoryview(encode_plan(made.plan))])
        file.publish()
    finally:
        file.discard()
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    _print(made.plan, format, file.target)
    if made.plan.not_planned:
        raise typer.Exit(6)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plan or a rollback file.")],
    format: PlanFormatOption = PlanFormat.TABLE,
) -> None:
    """Print a plan for review. A file that was edited is refused.

    Exit codes: 0 shown · 2 no such file · 3 not a plan, cut off · 5 edited, or something else.
    """
    _print(decode_plan(str(file), read_local(file, "plan")), format, None)


@app.command()
def execute(
    plan: Annotated[Path, typer.Option("--plan", metavar="FILE", help="The reviewed plan.")],
    config: ConfigOption,
    format: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Bring the groups to where the reviewed plan says. What was before is first kept in FILE.rollback.json.

    Exit codes: 0 all positions are as planned · 2 usage · 4 target unreachable · 5 refused, nothing was changed: the
    plan was edited, is for another cluster, positions have moved since, groups are in use · 6 some were not changed.
    """
    reviewed = decode_plan(str(plan), read_local(plan, "plan"), PlanKind.PLAN)
    _execute(reviewed, config, format, rollback_path(plan))


@app.command()
def rollback(
    plan: Annotated[Path, typer.Option("--plan", metavar="FILE", help="FILE.rollback.json, as execute wrote it.")],
    config: ConfigOption,
    format: Annotated[OutputFormat, typer.Option("--format", help="text or json")] = OutputFormat.TEXT,
) -> None:
    """Put back what was before a plan was executed, groups without positions and groups that were not there included.

    Exit codes: as of execute.
    """
    kept = decode_plan(str(plan), read_local(plan, "rollback file"), PlanKind.ROLLBACK)
    _execute(kept, config, format, None)


def _execute(plan: ResetPlan, config: Path, format: OutputFormat, rollback_file: Path | None) -> None:
    settings = load_restore_settings(config, os.environ)
    snapshot = RollbackFile(rollback_file, plan, SystemClock()) if rollback_file else None
    try:
        report = uvloop.run(_carry_out(plan, settings, snapshot))
    except (KeyboardInterrupt, Exception):
        if snapshot is not None and snapshot.kept:
            print(
                "stopped half-way: groups may have been moved already; execute the plan again, or put back what was: "
                f"kbackupd offset-reset rollback --plan {rollback_file} --config {config}",
                file=sys.stderr,
            )
        raise
    print_json(report) if format is OutputFormat.JSON else print_execution(stdout_console(), report)
    raise typer.Exit(report.exit_code)


def _print(plan: ResetPlan, format: PlanFormat, written: Path | None) -> None:
    match format:
        case PlanFormat.TABLE:
            print_reset_plan(stdout_console(), plan, written=written)
        case PlanFormat.CSV:
            sys.stdout.write(csv_of(plan))
        case PlanFormat.JSON:
            print_json(plan)


_OF = {
    "--timestamp": {ChosenStrategy.TIMESTAMP},
    "--offset": {ChosenStrategy.OFFSET},
    "--positions": {ChosenStrategy.OFFSET, ChosenStrategy.MANUAL},
    "--at": {ChosenStrategy.GROUP, ChosenStrategy.CLUSTER_SCAN, ChosenStrategy.TIMESTAMP, ChosenStrategy.OFFSET},
    "--offset-map": {ChosenStrategy.GROUP, ChosenStrategy.OFFSET},
}
"""Options that only some strategies know: given to another they are refused and not ignored (hazard 47)."""


def _check_options(
    strategy: ChosenStrategy,
    timestamp: str | None,
    offset: int | None,
    positions: Path | None,
    at: str | None,
    offset_map: Path | None,
) -> None:
    given = {
        "--timestamp": timestamp,
        "--offset": offset,
        "--positions": positions,
        "--at": at,
        "--offset-map": offset_map,
    }
    for option, value in given.items():
        if value is not None and strategy not in _OF[option]:
            raise UsageError(f"{option} is of --strategy {' or '.join(sorted(_OF[option]))}, not of {strategy}")


async def _plan(request: PlanRequest, settings: RestoreSettings) -> MadePlan:
    async with AsyncExitStack() as stack:
        # The positions somebody wrote down need no archive, and it may be gone.
        by_hand = request.strategy is Strategy.MANUAL
        store = None if by_hand else await stack.enter_async_context(opened(settings.source.storage))
        target = await stack.enter_async_context(group_target(settings))
        return await make_reset_plan(
            request,
            settings=settings,
            store=store,
            connection=target.connection,
            coordinators=target.coordinators,
            list_groups=target.list_groups,
            source_records=ArchivedRecords,
        )


async def _keep_nothing(groups: Mapping[str, GroupInTarget]) -> str | None:
    """A rollback has none of its own: what it undoes is in the plan that was executed."""
    return None


async def _carry_out(plan: ResetPlan, settings: RestoreSettings, snapshot: RollbackFile | None) -> ExecutionReport:
    # As Ctrl-C: the last word says in what state the groups are.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    async with group_target(settings) as target:
        return await execute_plan(
            plan,
            target=TargetLogs(target.connection),
            coordinators=target.coordinators,
            keep_rollback=snapshot.keep if snapshot else _keep_nothing,
            clock=target.connection.clock,
        )
