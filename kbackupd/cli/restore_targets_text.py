"""Recovery point and recovery time, behind a restore's report: actual beside target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console
from rich.text import Text

from kbackupd.cli.output import count_of, print_sections
from kbackupd.model.clock import iso
from kbackupd.model.settings import TierSettings
from kbackupd.model.units import format_duration
from kbackupd.restore.recovery_point import oldest
from kbackupd.restore.report import RestoreReport
from kbackupd.restore.targets import TierResult, by_tier, rpo_seconds, rto_seconds

_WORDS = {True: "met", False: "MISSED", None: "not known"}


def recovery_document(
    report: RestoreReport, tiers: Sequence[TierSettings] | None, disaster_ms: int | None
) -> dict[str, object]:
    """For programs."""
    point_ms = oldest(topic.recovery_point_ms for topic in report.topics)
    return {
        "point_ms": point_ms,
        "disaster_ms": disaster_ms,
        "rpo_seconds": rpo_seconds(point_ms, report, disaster_ms),
        "rto_seconds": rto_seconds(report),
        "tiers": [
            {**msgspec.to_builtins(one), "rpo_met": one.rpo_met, "rto_met": one.rto_met}
            for one in by_tier(report, tiers or (), disaster_ms)
        ]
        if tiers is not None
        else None,
    }


def print_recovery(
    console: Console, report: RestoreReport, tiers: Sequence[TierSettings] | None, disaster_ms: int | None
) -> None:
    """For people."""
    lines = Text("\n".join(recovery_lines(report, tiers, disaster_ms)))
    print_sections(console, [lines], behind=True)


def recovery_lines(
    report: RestoreReport, tiers: Sequence[TierSettings] | None, disaster_ms: int | None
) -> Iterator[str]:
    point_ms = oldest(topic.recovery_point_ms for topic in report.topics)
    lost = rpo_seconds(point_ms, report, disaster_ms)
    until = "the restore was begun" if disaster_ms is None else "the disaster"
    if point_ms is None or lost is None:
        yield "recovery point: not known of every partition; nothing in the archive proves up to when it is complete"
    else:
        yield f"recovery point: complete up to {iso(point_ms)} or later, {format_duration(lost)} before {until}"
    yield f"recovery time: {format_duration(round(rto_seconds(report), 3))}"
    for one in by_tier(report, tiers, disaster_ms) if tiers is not None else ():
        yield _tier(one)


def _tier(one: TierResult) -> str:
    rpo = "not known" if one.rpo_seconds is None else format_duration(one.rpo_seconds)
    rto = format_duration(round(one.rto_seconds, 3))
    topics = count_of(len(one.topics), "topic")
    if one.rpo_target_seconds is None or one.rto_target_seconds is None:
        return f"  {one.tier} ({topics}): RPO {rpo}, RTO {rto}; no targets"
    return (
        f"  {one.tier} ({topics}): RPO {rpo} of {format_duration(one.rpo_target_seconds)}, {_WORDS[one.rpo_met]};"
        f" RTO {rto} of {format_duration(one.rto_target_seconds)}, {_WORDS[one.rto_met]}"
    )
