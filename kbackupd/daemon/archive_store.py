"""The store of the daemon's archive, whose every try and failure is counted, and told where somebody should look."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import structlog

from kbackupd.model.clock import Clock
from kbackupd.model.errors import KbackupError, StoreUnavailableError
from kbackupd.model.settings import DaemonSettings
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.observe.repeats import RepeatLimiter
from kbackupd.store.metered import Operation, Outcome
from kbackupd.store.open import open_store
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.retrying import OnRetry, RetryPolicy
from kbackupd.store.scoped import ScopedStore

PROBLEM_AFTER_TRIES = 2
"""So many failed tries of one operation of the store are a problem that status shows."""

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def open_archive_store(
    settings: DaemonSettings, metrics: Metrics, problems: Problems, clock: Clock, retries: RetryPolicy | None
) -> AsyncIterator[ObjectStore]:
    retried = retry_listener(metrics, problems, clock)

    def ended(operation: Operation, seconds: float, size_bytes: int, outcome: Outcome) -> None:
        metrics.store_operation_ended(operation, seconds, size_bytes, outcome)
        if outcome not in ("unavailable", "cancelled"):
            problems.clear(f"store {operation}")

    store = await open_store(
        settings.storage,
        policy=retries,
        on_operation=ended,
        on_retry=retried,
        on_failure=metrics.store_failed,
        clock=clock,
    )
    try:
        yield ScopedStore(store, settings.backup_id)
    finally:
        await store.close()


def retry_listener(metrics: Metrics, problems: Problems, clock: Clock) -> OnRetry:
    """What is made of a failed try that will be followed by another.

    A store that is gone is tried for a minute before an operation fails: told by then only, status would call the
    daemon healthy meanwhile, and a drain that runs out of time could not say why. One failed try is everyday life; from
    the second of one operation on it is said, but once a minute for each kind with a count: in bad weather every
    operation fails twice, several times a second and for hours.
    """
    repeats = RepeatLimiter(clock)

    def retried(operation: str, error: KbackupError, attempt: int) -> None:
        metrics.store_retried(operation, error)
        told = {"operation": operation, "error": error.message, "attempt": attempt}
        if attempt < PROBLEM_AFTER_TRIES:
            log.debug(events.STORE_RETRIED, **told)
            return
        problems.report(f"store {operation}", error.message, hint=error.hint)
        cause = error.cause if isinstance(error, StoreUnavailableError) else ""
        if (count := repeats.admit((operation, cause))) is None:
            log.debug(events.STORE_RETRIED, **told)
        else:
            log.warning(events.STORE_RETRIED, count=count, **told)

    return retried
