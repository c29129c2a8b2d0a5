"""When the daemon has its archive rolled up: at an interval, and only where there is something to roll up.

It stands beside the data path and cannot touch it (principle P6): another process does the work, whatever goes wrong
ends a round, never the loop and never the daemon. Nothing depends on a roll-up; without them readers open every
segment, and that is all a failure here costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from kbackupd.capture.waiting import woken
from kbackupd.daemon.rollup_messages import RollupFailed, RollupMade
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems

SUBJECT = "roll-ups"
FIRST_RETRY_SECONDS = 60.0

RollUp = Callable[[], Awaitable[RollupMade | RollupFailed]]

log = structlog.get_logger()


class Rollups:
    """All runs of one life of the daemon; run by one task.

    Args:
        roll_up: one run; its process is gone when it returns or is cancelled.
        stored: how many segments this life has made durable.
        interval_seconds: 0: never.
    """

    def __init__(
        self,
        *,
        roll_up: RollUp,
        writer: str,
        stored: Callable[[], int],
        interval_seconds: float,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        self._roll_up = roll_up
        self._writer = writer
        self._stored = stored
        self._interval_seconds = interval_seconds
        self._interval_changed = asyncio.Event()
        self._metrics = metrics
        self._problems = problems
        self._failed_rounds = 0
        self._due_at: int | None = None
        """Once so many are stored; None: what earlier lives left is not known, so look."""
        self._uncovered: int | None = None
        self._stored_before = 0

    def every(self, interval_seconds: float) -> None:
        """Another interval, counted from now; 0 is never. A run that is under way goes on."""
        if interval_seconds != self._interval_seconds:
            self._interval_seconds = interval_seconds
            self._interval_changed.set()
            if not interval_seconds:
                self._failed_rounds = 0
                self._problems.clear(SUBJECT)

    async def run(self) -> None:
        """At the interval, first one interval from now: whoever is started again and again must not roll up each time.

        Runs until cancelled, which ends a process that is under way.
        """
        while True:
            self._interval_changed.clear()
            await woken(self._interval_changed, self.pause_seconds)
            if not self._interval_changed.is_set() and self.due:
                await self.round()

    @property
    def pause_seconds(self) -> float | None:
        """Until the next look; None: for ever. What failed is tried again soon, then less and less soon."""
        if not self._interval_seconds:
            return None
        if not self._failed_rounds:
            return self._interval_seconds
        return min(self._interval_seconds, FIRST_RETRY_SECONDS * 2.0 ** min(self._failed_rounds - 1, 20))

    @property
    def due(self) -> bool:
        """Whether as much was stored as the newest run said it takes: an idle daemon starts no process."""
        return self._due_at is None or self._stored() >= self._due_at

    def not_rolled_up(self) -> int | None:
        """Segments of the archive that no roll-up covers, at most; None before the first run."""
        return None if self._uncovered is None else self._uncovered + self._stored() - self._stored_before

    async def round(self) -> None:
        """One run; what it made is durable on return, or it is reported. Raises nothing."""
        before = self._stored()
        try:
            outcome = await self._roll_up()
        except Exception as error:  # noqa: BLE001  a fault in here must not end the backup of records
            outcome = RollupFailed(
                message=f"unexpected {type(error).__name__}: {error}",
                hint="this is a fault of kbackupd: please report it",
            )
        if isinstance(outcome, RollupFailed):
            self._failed(outcome)
        else:
            self._made(outcome, before)

    def _made(self, made: RollupMade, before: int) -> None:
        self._metrics.rollup_run_ended("ok")
        # From before the run on: what was stored during it, it may have seen. A look too early finds nothing to do.
        due_in = made.due_in.get(self._writer)
        self._due_at = None if due_in is None else before + due_in
        self._uncovered, self._stored_before = made.uncovered, before
        self._failed_rounds = 0
        self._problems.clear(SUBJECT)
        self._problems.withdraw(SUBJECT)
        if made.damaged:
            self._problems.note(
                SUBJECT,
                f"{made.damaged} objects are damaged and were left out, {made.damaged_key} first",
                hint="kbackupd validate --deep says what of it is lost, and what to do",
            )
        log.info(
            events.ROLLUPS_MADE,
            built=made.built,
            merged=made.merged,
            segments=made.segments,
            bytes=made.stored_bytes,
            uncovered=made.uncovered,
        )

    def _failed(self, failed: RollupFailed) -> None:
        self._metrics.rollup_run_ended("timeout" if failed.timed_out else "failed")
        self._failed_rounds += 1
        log.warning(events.ROLLUPS_FAILED, error=failed.message, attempt=self._failed_rounds)
        if self._interval_seconds:
            self._problems.report(SUBJECT, failed.message, hint=failed.hint)
