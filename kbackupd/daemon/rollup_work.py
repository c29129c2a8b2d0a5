"""What the child of a daemon does: `kbackupd rollup` by request instead of by command line."""

from __future__ import annotations

import uvloop

from kbackupd.archive.rollup_build import RollupLimits, RollupReport, build_rollups
from kbackupd.daemon.rollup_messages import FAILED, RollupFailed, RollupMade, RollupRequest, decode_request, encode
from kbackupd.model.errors import KbackupError, principal
from kbackupd.observe.logging import configure_logging
from kbackupd.store.open import open_store
from kbackupd.store.scoped import ScopedStore


def answer(request: bytes) -> tuple[int, bytes]:
    """Roll up all that is due; the exit code and the message for the daemon.

    On return every roll-up that the message counts is durable. What is not a KbackupError is raised: a fault.
    """
    # Standard output belongs to the answer.
    writer = configure_logging(format="console", level="warning", fd=2)
    try:
        report = uvloop.run(_roll_up(decode_request(request)))
    except Exception as error:
        cause = principal(error)
        if not isinstance(cause, KbackupError):
            raise
        return FAILED, encode(RollupFailed(message=cause.message, hint=cause.hint))
    finally:
        writer.close()
    return 0, encode(_made(report))


async def _roll_up(request: RollupRequest) -> RollupReport:
    store = await open_store(request.storage)
    try:
        return await build_rollups(ScopedStore(store, request.backup_id), limits=RollupLimits(**request.limits))
    finally:
        await store.close()


def _made(report: RollupReport) -> RollupMade:
    return RollupMade(
        built=len(report.built),
        merged=len(report.merged),
        segments=report.segments,
        stored_bytes=report.stored_bytes,
        uncovered=report.uncovered,
        due_in=report.due_in,
        damaged=len(report.damaged),
        damaged_key=report.damaged[0].key if report.damaged else "",
    )
