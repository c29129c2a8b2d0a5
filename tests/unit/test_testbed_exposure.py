"""The demo's RPO figure must include the time nobody knew, or a dead daemon would look like a perfect one."""

from __future__ import annotations

import pytest

from kbackupd.testbed.daemon import Json, Section
from kbackupd.testbed.exposure import ExposureWatch, exposure_of

TIERS = frozenset({"critical", "standard"})


def watch() -> ExposureWatch:
    return ExposureWatch(lambda: None, TIERS)


def tier(name: str, exposure: float | None, *, unknown: int = 0, partitions: int = 3) -> Json:
    return {"name": name, "exposure_seconds": exposure, "unknown_partitions": unknown, "partitions": partitions}


def status(*tiers: Json) -> Section:
    return {"tiers": list(tiers)}


def test_nothing_counts_before_the_first_figure() -> None:
    watched = watch()
    watched.note(None, 10.0)
    watched.note(None, 20.0)
    assert watched.now_seconds is None
    assert watched.worst_seconds == 0.0


def test_exposure_goes_on_growing_while_the_daemon_is_dead() -> None:
    watched = watch()
    watched.note(2.0, 100.0)
    watched.note(None, 103.0)
    assert watched.now_seconds == 5.0
    watched.note(0.5, 104.0)
    assert watched.now_seconds == 0.5
    assert watched.worst_seconds == 5.0
    assert watched.worst_running_seconds == 2.0


@pytest.mark.parametrize(
    ("answer", "exposure"),
    [
        (None, None),
        ({}, None),
        (status(tier("critical", 1.0), tier("standard", 3.0)), 3.0),
        (status(tier("critical", 1.0, unknown=1), tier("standard", 3.0)), None),
        (status(tier("critical", None), tier("standard", 3.0)), None),
        (status(tier("critical", None, partitions=0), tier("standard", 3.0)), 3.0),
        (status(tier("critical", 1.0), tier("untiered", 60.0)), 1.0),
    ],
)
def test_the_worst_of_the_tiers_counts_and_one_unknown_partition_makes_it_unknown(
    answer: Section | None, exposure: float | None
) -> None:
    assert exposure_of(answer, TIERS) == exposure
