"""When the open segment is sealed: size, age, starvation, and not for our own offset commits (hazard 56a)."""

from __future__ import annotations

import pytest

from kbackupd.capture.roll import OpenFacts, RollPolicy, RollReason, decide, next_deadline

POLICY = RollPolicy(segment_max_bytes=1_000, flush_interval_seconds=10, system_interval_seconds=30)


@pytest.mark.parametrize(
    ("facts", "now", "starved", "in_flight", "reason"),
    [
        (OpenFacts(), 1e9, True, 0, None),
        (OpenFacts(held_bytes=999, oldest_user=100), 100, False, 0, None),
        (OpenFacts(held_bytes=1_000, oldest_user=100), 100, False, 9, RollReason.SIZE),
        (OpenFacts(held_bytes=1, oldest_user=100), 109.9, False, 0, None),
        (OpenFacts(held_bytes=1, oldest_user=100), 110, False, 0, RollReason.AGE),
        (OpenFacts(held_bytes=1, oldest_system=100), 129.9, False, 0, None),
        (OpenFacts(held_bytes=1, oldest_system=100), 130, False, 0, RollReason.AGE),
        (OpenFacts(held_bytes=1, oldest_system=50, oldest_user=100), 80, False, 0, RollReason.AGE),
        (OpenFacts(held_bytes=1, oldest_user=100), 100, True, 0, RollReason.STARVED),
        (OpenFacts(held_bytes=1, oldest_user=100), 100, True, 1, None),
        (OpenFacts(held_bytes=0, oldest_user=100), 100, True, 0, None),
        (OpenFacts(held_bytes=0, oldest_user=100), 110, False, 0, RollReason.AGE),
    ],
    ids=[
        "nothing held is never sealed",
        "a byte below the size waits",
        "the size is enough whatever is in flight",
        "not yet as old as the flush interval",
        "as old as the flush interval",
        "system streams alone wait for the checkpoint interval",
        "but no longer",
        "an old system stream goes with whatever is sealed at its time",
        "somebody waits for memory that only this segment holds",
        "an upload is about to free memory: wait for it",
        "sealing what holds no bytes frees none",
        "a ledger event alone makes a segment, in its time",
    ],
)
def test_the_open_segment_is_sealed(
    facts: OpenFacts, now: float, starved: bool, in_flight: int, reason: RollReason | None
) -> None:
    assert decide(POLICY, facts, now=now, starved=starved, in_flight=in_flight) == reason


def test_the_next_deadline_is_the_earliest_of_both_ages() -> None:
    assert next_deadline(POLICY, OpenFacts()) is None
    assert next_deadline(POLICY, OpenFacts(oldest_user=100, oldest_system=70)) == 100
    assert next_deadline(POLICY, OpenFacts(oldest_user=80, oldest_system=70)) == 90
