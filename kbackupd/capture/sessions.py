"""All fetch loops of a pipeline: which there are, who fetches a partition, what its loop knows of it."""

from __future__ import annotations

import asyncio

from kbackupd.capture.intake import Intake
from kbackupd.capture.partition import PartitionCapture, SessionKind
from kbackupd.capture.roster import Roster
from kbackupd.capture.session_loop import FetchContext, SessionLoop
from kbackupd.capture.source import Source
from kbackupd.model.status import PartitionState

BEING_ASKED = frozenset({PartitionState.STARTING, PartitionState.FOLLOWING, PartitionState.CATCHING_UP})
"""All is well with partitions in these states but that their broker may not answer: then they are being retried."""


class Sessions:
    """All loops, started when a partition first needs them."""

    def __init__(self, *, source: Source, context: FetchContext) -> None:
        self._source = source
        self._context = context
        self._loops: dict[tuple[int, SessionKind], SessionLoop] = {}
        self._tasks: dict[tuple[int, SessionKind], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._intake: Intake | None = None
        self._roster: Roster | None = None

    def start(self, group: asyncio.TaskGroup, *, intake: Intake, roster: Roster) -> None:
        self._group, self._intake, self._roster = group, intake, roster

    def place_for(self, node_id: int, kind: SessionKind) -> SessionLoop:
        if self._group is None or self._intake is None or self._roster is None:
            raise RuntimeError("sessions are used before they were started")
        loop = self._loops.get((node_id, kind))
        if loop is None:
            loop = SessionLoop(
                node_id=node_id,
                kind=kind,
                session=self._source.session(node_id),
                intake=self._intake,
                roster=self._roster,
                context=self._context,
                busy_loops=self.busy,
            )
            self._loops[node_id, kind] = loop
            self._tasks[node_id, kind] = self._group.create_task(loop.run(), name=f"fetch-{node_id}-{kind.value}")
        return loop

    def busy(self, kind: SessionKind) -> int:
        """How many loops of the kind have something to fetch."""
        return sum(1 for loop in self._loops.values() if loop.kind is kind and loop.partitions)

    def loop_of(self, partition: PartitionCapture) -> SessionLoop | None:
        loop = self._loops.get((partition.leader_id, partition.kind))
        return loop if loop is not None and partition.id in loop.partitions else None

    def failure(self, partition: PartitionCapture) -> str | None:
        """Why the broker it is fetched from does not answer; None if it does."""
        loop = self.loop_of(partition)
        return loop.failure if loop is not None and loop.failing else None

    def heard(self, partition: PartitionCapture) -> float:
        """When the last request was sent whose answer told where its log ends, or left it out for being unchanged."""
        loop = self.loop_of(partition)
        unchanged = loop.heard.unchanged_since(partition) if loop is not None else None
        return max(partition.answered_sent, partition.answered_sent if unchanged is None else unchanged)

    async def stop(self) -> None:
        """Cancel every loop and wait for them: afterwards nothing is added to the open segment."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        self._loops.clear()
