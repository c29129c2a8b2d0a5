"""What a running restore tells on stderr while nobody looks: notes at once, how far it is now and then."""

from __future__ import annotations

import asyncio

import pytest

from kbackupd.cli.restore_progress import showing
from kbackupd.cli.restore_text import interruption
from kbackupd.model.clock import ManualClock
from kbackupd.restore.progress import Phase, RestoreProgress
from tests.virtual_time import run

NOTE = "a producer quota of the target slows it"


def told_within(seconds: float, capsys: pytest.CaptureFixture[str]) -> list[str]:
    clock = ManualClock()

    async def restoring() -> None:
        progress = RestoreProgress(began_at=clock.monotonic())
        async with showing(progress, clock):
            await asyncio.sleep(0)
            progress.notes.append(NOTE)
            await asyncio.sleep(seconds)

    run(restoring(), clock=clock)
    return capsys.readouterr().err.splitlines()


def test_a_note_is_told_before_the_first_line_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    told = told_within(11.0, capsys)

    assert told[0] == NOTE
    assert len(told) == 3, "and a line every five seconds"
    assert told.count(NOTE) == 1


def test_a_note_is_told_even_where_all_is_over_in_a_moment(capsys: pytest.CaptureFixture[str]) -> None:
    assert told_within(0.0, capsys) == [NOTE]


@pytest.mark.parametrize("appends", [True, False])
def test_the_last_word_of_a_restore_that_did_not_end_claims_nothing_of_topics_that_may_be_otherwise(
    appends: bool,
) -> None:
    progress = RestoreProgress(began_at=0.0, appends=appends)

    def last_word(phase: Phase) -> str:
        progress.enter(phase, 0.0)
        return interruption(progress, interrupted=True)

    assert last_word(Phase.PREFLIGHT).endswith("nothing was written to the target")
    progress.touched["orders"] = None
    assert "empty" not in last_word(Phase.PREPARING), "with append, or where an earlier run came, it holds records"
    assert "at least 0 records" in last_word(Phase.RESTORING), "what an earlier run left may not have been looked at"
    assert "without retention and compaction: orders" in last_word(Phase.RESTORING)
    assert "retention" not in last_word(Phase.CONFIGURING), "some topics have their own configuration by then"
    assert ("delete" in last_word(Phase.RESTORING)) is not appends
