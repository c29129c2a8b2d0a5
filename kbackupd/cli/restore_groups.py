"""The consumer groups that `kbackupd restore` brings along, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from kbackupd.archive.archive import Archive
from kbackupd.cli.group_target import over
from kbackupd.cli.offset_reset_text import left_out_text
from kbackupd.cli.output import count_of, print_sections
from kbackupd.groups.after_restore import GroupsOutcome, bring_along
from kbackupd.groups.make_plan import MadePlan, make_reset_plan
from kbackupd.groups.plan import Strategy
from kbackupd.groups.request import PlanRequest
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.model.clock import iso
from kbackupd.model.errors import KbackupError
from kbackupd.model.settings import RestoreSettings
from kbackupd.restore.instant import Instant
from kbackupd.restore.map_file import OffsetMapFile
from kbackupd.restore.report import RestoreReport, Verdict
from kbackupd.restore.source_records import ArchivedRecords
from kbackupd.store.protocol import ObjectStore

LISTED = 20
"""Positions named one by one in the text; the plan's file has all."""


def default_map_path(now_ms: int) -> Path:
    """Where the offset map goes that groups need and nobody asked for: in the working directory, never twice."""
    stamp = iso(now_ms).replace("-", "").replace(":", "").partition(".")[0]
    return Path(f"kbackupd-restore-{stamp}.offset-map.json")


def plan_path(map_path: Path) -> Path:
    return map_path.with_name(map_path.name + ".offset-plan.json")


async def bring_groups(
    report: RestoreReport,
    map_file: OffsetMapFile,
    *,
    settings: RestoreSettings,
    store: ObjectStore,
    connection: KafkaConnection,
    archive: Archive | None = None,
    instant: Instant | None = None,
) -> GroupsOutcome:
    """Let the configured groups go on in what was restored, unless the restore itself is not what it should be.

    Args:
        archive: as it was restored from.
        instant: of which it was; positions are of then, by the same archive, and with the same transactions.
    """
    if report.verdict not in (Verdict.COMPLETE, Verdict.DECLARED_GAPS):
        return _nothing("the restore is incomplete: groups were left alone", "kbackupd offset-reset plan moves them")
    try:
        document = map_file.write()  # durable before the first group goes by it
    except KbackupError as error:  # told once more when the file is closed; the report must come first
        return _nothing(f"groups were left alone, for there is no offset map: {error.message}", error.hint)
    target = over(connection)
    request = PlanRequest(
        strategy=Strategy.GROUP,
        groups=settings.options.consumer_groups.include,
        at_ms=settings.options.scope.as_of_ms,
        offset_map=document,
        pinned=archive.pinned if archive is not None and instant is not None else None,
        decided=None if instant is None else instant.positions,
    )

    async def make() -> MadePlan:
        return await make_reset_plan(
            request,
            settings=settings,
            store=store,
            connection=connection,
            coordinators=target.coordinators,
            list_groups=target.list_groups,
            source_records=ArchivedRecords,
        )

    return await bring_along(make, plan_path(map_file.path), connection=connection, coordinators=target.coordinators)


def _nothing(problem: str, hint: str) -> GroupsOutcome:
    return GroupsOutcome(
        plan=None, planned=0, left_out=(), not_planned=(), executed=None, problem=problem, hint=hint, notes=()
    )


def groups_interruption(map_path: Path) -> str:
    """The last word where the restore was done and its groups were not."""
    plan = plan_path(map_path)
    how = f"execute --plan {plan}" if plan.exists() else f"plan --strategy group --offset-map {map_path}"
    return (
        "the restore itself is done; it stopped while moving consumer groups, and some may have been moved: "
        f"kbackupd offset-reset {how} …"
    )


def with_groups(report: RestoreReport, outcome: GroupsOutcome) -> dict[str, object]:
    """The report's members and `consumer_groups`, for programs."""
    return {**msgspec.to_builtins(report), "consumer_groups": msgspec.to_builtins(outcome)}


def print_groups_intent(console: Console, settings: RestoreSettings) -> None:
    """Behind a dry run's plan: which positions they will have depends on what is restored."""
    wanted = settings.options.consumer_groups
    if wanted.restore:
        which, at_ms = ", ".join(wanted.include), settings.options.scope.as_of_ms
        where = "in the archive" if at_ms is None else f"at {iso(at_ms)}"
        print_sections(console, [Text(f"consumer groups {which}: will go on where they stood {where}")], behind=True)


def print_groups_outcome(console: Console, outcome: GroupsOutcome | None) -> None:
    """Behind the report, for people."""
    if outcome is not None:
        lines = Text("\n".join(groups_lines(outcome)))
        print_sections(console, [lines], behind=True)


def groups_lines(outcome: GroupsOutcome) -> Iterator[str]:
    """For people, behind the report."""
    executed = outcome.executed
    if executed is not None:
        yield (
            f"consumer groups: {count_of(executed.applied, 'position')} of {count_of(executed.groups, 'group')} set"
            f", {executed.already} were so already"
        )
        for one in executed.failed[:LISTED]:
            yield f"  not set: {one.group}  {one.topic}/{one.partition}: {one.reason}"
        if len(executed.failed) > LISTED:
            yield f"  … and {len(executed.failed) - LISTED} more; --format json has all"
    if outcome.problem:
        yield f"consumer groups: {outcome.problem}"
    if outcome.hint:
        yield f"  {outcome.hint}"
    for missing in outcome.not_planned[:LISTED]:
        where = f"{missing.topic}/{missing.partition}: " if missing.topic else ""
        yield f"  not planned: {missing.group}  {where}{missing.reason}"
    if len(outcome.not_planned) > LISTED:
        yield f"  … and {len(outcome.not_planned) - LISTED} more in the plan"
    if outcome.left_out:
        yield f"  {left_out_text(outcome.left_out)}"
    yield from (f"  note: {note}" for note in outcome.notes)
    if outcome.plan:
        yield f"  plan: {outcome.plan}"
    if executed is not None and executed.rollback:
        yield f"  to undo: kbackupd offset-reset rollback --plan {executed.rollback} --config …"
