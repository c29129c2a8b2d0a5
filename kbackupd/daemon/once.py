"""`kbackupd run --once`: capture to the ends of the start, validate, report (docs/once.md).

Wires `capture.once` and `validate` into a life of the daemon; everything else about that life is as always.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kbackupd.capture.goals import Fate
from kbackupd.capture.once import Once
from kbackupd.capture.once_progress import OncePhase, OnceProgress
from kbackupd.capture.pipeline import Pipeline
from kbackupd.capture.snapshots import Snapshots
from kbackupd.capture.source import Source
from kbackupd.daemon.once_report import (
    MissingPart,
    OnceReport,
    declared_gaps,
    missing_partitions,
    missing_topics,
    topics_captured,
    verdict_of,
)
from kbackupd.format import keys
from kbackupd.model.clock import Clock
from kbackupd.model.errors import ConfigurationError, ObjectMissingError
from kbackupd.model.settings import DaemonSettings, StartPolicy, StorageSettings
from kbackupd.observe.problems import Problems
from kbackupd.store.open import open_store
from kbackupd.store.protocol import ObjectStore
from kbackupd.validate.coverage import Expected, ExpectedEnd
from kbackupd.validate.report import ValidationReport
from kbackupd.validate.validate import validate

DEFAULT_PATIENCE_SECONDS = 300.0


class OnceErrand:
    """Implements `daemon.errand.Errand`; `report` is there once it is done.

    Args:
        timeout_seconds: from now on, after which the run ends with what it has; None: no limit.
        patience_seconds: how long what does not move may keep the run waiting once nothing else moves either.
        deep: validation reads every byte.
        opening: opens the store anew for validation, which trusts nothing this life knows.
    """

    def __init__(
        self,
        settings: DaemonSettings,
        *,
        clock: Clock,
        progress: OnceProgress,
        timeout_seconds: float | None = None,
        patience_seconds: float = DEFAULT_PATIENCE_SECONDS,
        deep: bool = False,
        opening: Callable[[StorageSettings], Awaitable[ObjectStore]] = open_store,
    ) -> None:
        self.report: OnceReport | None = None
        self._settings = settings
        self._clock = clock
        self._progress = progress
        self._began = clock.monotonic()
        self._began_ms = clock.now_ms()
        self._deadline = None if timeout_seconds is None else self._began + timeout_seconds
        self._patience_seconds = patience_seconds
        self._deep = deep
        self._opening = opening
        self._once: Once | None = None
        self._validating: asyncio.Task[ValidationReport] | None = None
        self._interrupted = False

    async def begin(self, store: ObjectStore) -> None:
        """Raises:
        ConfigurationError: the archive would be made to leave out everything that is there.
        """
        if self._settings.backup.start is not StartPolicy.LATEST:
            return
        try:
            await store.head(keys.BACKUP_KEY)
        except ObjectMissingError as error:
            raise ConfigurationError(
                "start: latest leaves out all that is in the cluster when the archive is created, and there is no "
                f"archive {store.location} yet: --once would back up nothing",
                hint="set it to earliest, or let kbackupd run create the archive first",
                where="backup.start",
            ) from error

    async def run(self, pipeline: Pipeline, snapshots: Snapshots, *, source: Source, problems: Problems) -> None:
        once = self._once = Once(
            pipeline=pipeline,
            source=source,
            snapshots=snapshots,
            clock=self._clock,
            problems=problems,
            progress=self._progress,
            patience_seconds=self._patience_seconds,
            deadline=self._deadline,
            drain_seconds=self._settings.backup.shutdown_timeout_seconds,
        )
        if self._interrupted:
            once.stop()
        await once.run()
        validation = None
        if not self._interrupted:
            self._progress.enter(OncePhase.VALIDATING, self._clock.monotonic())
            self._validating = asyncio.create_task(self._validate(pipeline, once), name="validation")
            try:
                await asyncio.wait({self._validating})
            finally:
                self._validating.cancel()
            # Cancelled by `stop`: whoever asked for that still wants to hear how far the run came.
            validation = None if self._validating.cancelled() else self._validating.result()
        self._progress.enter(OncePhase.DONE, self._clock.monotonic())
        self.report = self._report(pipeline, snapshots, once, validation)

    def stop(self) -> None:
        self._interrupted = True
        if self._once is not None:
            self._once.stop()
        if self._validating is not None:
            self._validating.cancel()

    async def _validate(self, pipeline: Pipeline, once: Once) -> ValidationReport:
        """Also that the archive, read anew, holds every partition up to the end that this run says it has reached."""
        known = pipeline.publisher.state.partitions
        ends = {
            goal.id: ExpectedEnd(
                topic=goal.topic,
                branch=goal.branch,
                first_offset=known[goal.id].first_offset if goal.id in known else goal.first_offset,
                next_offset=goal.captured_to,
            )
            for goal in once.goals
            if goal.fate is Fate.COMPLETE and goal.branch >= 0
        }
        store = await self._opening(self._settings.storage)
        try:
            return await validate(
                store,
                self._settings.backup_id,
                deep=self._deep,
                expected=Expected(ends=ends),
                on_total=self._will_read,
                on_bytes=self._has_read,
            )
        finally:
            await store.close()

    def _will_read(self, bodies_bytes: int) -> None:
        self._progress.bodies_bytes = bodies_bytes

    def _has_read(self, read_bytes: int) -> None:
        self._progress.bodies_read_bytes += read_bytes

    def _report(
        self, pipeline: Pipeline, snapshots: Snapshots, once: Once, validation: ValidationReport | None
    ) -> OnceReport:
        missing = [
            *missing_topics(once, self._settings.source.topics.literals),
            *missing_partitions(once.goals),
            *(
                MissingPart(what="snapshot", name=part, fate="unread", reason=why)
                for part, why in sorted(snapshots.failing.items())
            ),
        ]
        gaps = tuple(declared_gaps(once))
        names = pipeline.roster.names
        state = pipeline.publisher.state
        return OnceReport(
            verdict=verdict_of(validation, missing, gaps, cut_short=once.interrupted or once.timed_out),
            location=f"{self._settings.storage.url}/{self._settings.backup_id}",
            backup_id=self._settings.backup_id,
            cluster_id=pipeline.identity.cluster_id,
            writer=state.writer,
            writer_epoch=pipeline.writer_epoch,
            began_ms=self._began_ms,
            complete_as_of_ms=once.noted_ms,
            interrupted=once.interrupted,
            timed_out=once.timed_out,
            total_seconds=round(self._clock.monotonic() - self._began, 3),
            validate_seconds=validation.duration_seconds if validation else 0.0,
            partitions=len(once.goals),
            partitions_complete=sum(goal.fate is Fate.COMPLETE for goal in once.goals),
            records=once.tally.records,
            bytes=once.tally.raw_bytes,
            segments=once.tally.segments,
            stored_bytes=once.tally.stored_bytes,
            snapshots_hidden=snapshots.hidden,
            topics=topics_captured(once, lambda id: names.get(id, id)),
            missing=tuple(missing),
            gaps=gaps,
            validation=validation,
        )
