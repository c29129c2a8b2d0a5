"""Samples of partitions that do not move, now and then: a restore to an instant needs them too (docs/format.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from kbackupd.capture.intake import Intake
from kbackupd.capture.roster import Roster
from kbackupd.capture.sessions import Sessions
from kbackupd.model.segment import Sample

INTERVAL_SECONDS = 600.0


def quiet_samples(roster: Roster, sessions: Sessions) -> Iterator[Sample]:
    """What the newest answers said of partitions by leaving them out.

    The last stable offset is that of the answer before: an incremental answer does not tell of one that moved alone.
    """
    for partition in roster.partitions.values():
        loop = sessions.loop_of(partition)
        if loop is not None and loop.unchanged_since(partition.id) is not None:
            sent_ms, answered_ms = loop.last_good_ms
            yield Sample(
                id=partition.id,
                sent_ms=sent_ms,
                answered_ms=answered_ms,
                log_start_offset=partition.log_start_offset,
                last_stable_offset=partition.last_stable_offset,
                high_watermark=partition.proof.high_watermark,
                leader_epoch=partition.leader_epoch,
            )


async def sample_quiet(roster: Roster, sessions: Sessions, intake: Intake) -> None:
    """Add them to the open segment at the interval; no segment is sealed for it. Runs until cancelled."""
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        for sample in quiet_samples(roster, sessions):
            intake.open.sample(sample)
