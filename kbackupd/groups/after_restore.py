"""Consumer groups brought along by a restore: the plan is made, kept, and executed at once.

Whatever comes of it, the restore stands: nothing here raises for a group that is in use or a position nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from kbackupd.archive.new_file import NewFile
from kbackupd.groups.coordinators import Coordinators
from kbackupd.groups.document import encode_plan
from kbackupd.groups.execute import ExecutionReport, execute_plan
from kbackupd.groups.make_plan import MadePlan
from kbackupd.groups.plan import LeftOut, NotPlanned
from kbackupd.groups.rollback import RollbackFile, rollback_path
from kbackupd.groups.target import TargetLogs
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.model.errors import KbackupError


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsOutcome:
    """What became of the groups; `problem` says why nothing, or not all, was done."""

    plan: str | None
    """The plan's file; its rollback file is beside it."""
    planned: int
    left_out: tuple[LeftOut, ...]
    not_planned: tuple[NotPlanned, ...]
    executed: ExecutionReport | None
    problem: str
    hint: str
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.problem or self.not_planned or (self.executed and self.executed.failed))


async def bring_along(
    make: Callable[[], Awaitable[MadePlan]],
    plan_path: Path,
    *,
    connection: KafkaConnection,
    coordinators: Coordinators,
) -> GroupsOutcome:
    """Make the plan, keep it as `plan_path`, which must not exist, and execute it.

    On return what counts as applied is committed. Cancelled, as `execute_plan`; the plan's file is there.
    """
    made: MadePlan | None = None
    path: str | None = None
    executed: ExecutionReport | None = None
    problem = hint = ""
    try:
        made = await make()
        await asyncio.to_thread(_write, plan_path, made)
        path = str(plan_path)
        executed = await execute_plan(
            made.plan,
            target=TargetLogs(connection),
            coordinators=coordinators,
            keep_rollback=RollbackFile(rollback_path(plan_path), made.plan, connection.clock).keep,
            clock=connection.clock,
        )
    except KbackupError as error:
        problem, hint = error.message, error.hint
    return GroupsOutcome(
        plan=path,
        planned=len(made.plan.partitions) if made else 0,
        left_out=made.plan.left_out if made else (),
        not_planned=made.plan.not_planned if made else (),
        executed=executed,
        problem=problem,
        hint=hint,
        notes=made.notes if made else (),
    )


def _write(path: Path, made: MadePlan) -> None:
    file = NewFile.create(path, path.name)
    try:
        file.write([memoryview(encode_plan(made.plan))])
        file.publish()
    finally:
        file.discard()
