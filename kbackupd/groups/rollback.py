"""What was before a plan was executed: one file beside the plan, durable before the first change.

The first snapshot is the true one. A plan that is executed again, because it was interrupted or a group failed, meets
its own file and keeps it; another plan's file is never taken for it and never overwritten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from kbackupd.archive.local_file import read_local
from kbackupd.archive.new_file import NewFile
from kbackupd.groups.document import decode_plan, encode_plan
from kbackupd.groups.execute import rollback_plan
from kbackupd.groups.plan import PlanKind, ResetPlan
from kbackupd.groups.state import GroupInTarget
from kbackupd.model.clock import Clock
from kbackupd.model.errors import RefusedError

SUFFIX = ".rollback.json"


def rollback_path(plan_path: Path) -> Path:
    """`offset-plan.json` → `offset-plan.json.rollback.json`."""
    return plan_path.with_name(plan_path.name + SUFFIX)


class RollbackFile:
    """Where the snapshot of one plan goes."""

    def __init__(self, path: Path, plan: ResetPlan, clock: Clock) -> None:
        self._path = path
        self._plan = plan
        self._clock = clock
        self.kept = False
        """Changes may have begun."""

    async def keep(self, groups: Mapping[str, GroupInTarget]) -> str:
        """Where what `groups` have now is kept; on return it is durable.

        Raises:
            RefusedError: there is a file that is not this plan's.
            UsageError, UnwritableError: it cannot be written.
        """
        await asyncio.to_thread(self._keep, groups)
        self.kept = True
        return str(self._path)

    def _keep(self, groups: Mapping[str, GroupInTarget]) -> None:
        if self._path.exists():
            kept = decode_plan(str(self._path), read_local(self._path, "rollback file"), PlanKind.ROLLBACK)
            if kept.undoes != self._plan.digest:
                raise RefusedError(
                    f"{self._path} is the rollback file of another plan",
                    hint="give the plan another name: its rollback file is kept beside it",
                )
            return
        document = rollback_plan(self._plan, groups, made_ms=self._clock.now_ms())
        file = NewFile.create(self._path, self._path.name)
        try:
            file.write([memoryview(encode_plan(document))])
            file.publish()
        finally:
            file.discard()
