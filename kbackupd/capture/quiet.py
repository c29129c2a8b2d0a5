"""Samples of partitions that do not move, now and then: a restore to an instant needs them, and so does everybody who
asks the archive whether it was up to date (docs/adr/0010).

A round of them is sealed like records are, so that an idle cluster makes one segment in ten minutes, and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from kbackupd.capture.intake import Intake
from kbackupd.capture.roster import Roster
from kbackupd.capture.sessions import Sessions
from kbackupd.model.segment import Sample

INTERVAL_SECONDS = 600.0
"""Below the 15 minutes for which validation tolerates that nobody looked, with room for a flush interval."""


def quiet_samples(roster: Roster, sessions: Sessions) -> Iterator[Sample]:
    """What the newest answers said of partitions by leaving them out.

    The last stable offset is that of the answer before: an incremental answer does not tell of one that moved alone.
    """
    for partition in roster.partitions.values():
        loop = sessions.loop_of(partition)
        if loop is not None and loop.heard.unchanged_since(partition) is not None:
            sent_ms, answered_ms = loop.heard.last_good_ms
            yield Sample(
                id=partition.id,
                sent_ms=sent_ms,
                answered_ms=answered_ms,
                log_start_offset=partition.log_start_offset,
                last_stable_offset=partition.last_stable_offset,
                high_watermark=partition.proof.high_watermark,
                leader_epoch=partition.leader_epoch,
            )


def take_quiet(roster: Roster, sessions: Sessions, intake: Intake) -> None:
    """One round of them, into the open segment."""
    intake.sampled(quiet_samples(roster, sessions))


async def sample_quiet(roster: Roster, sessions: Sessions, intake: Intake) -> None:
    """A round at every interval; runs until cancelled."""
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        take_quiet(roster, sessions, intake)
