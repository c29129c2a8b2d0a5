"""What a restore achieved beside the targets of tiers. Pure.

The achieved RPO is counted from the recovery point (`recovery_point`) to the moment of the disaster where somebody
knows it, else to the begin of the restore. The recovery time is from that begin, of the first run where it was gone on
with, to the end, verification and configuration included; when people decided to restore it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kbackupd.model.settings import UNTIERED, TierSettings
from kbackupd.restore.recovery_point import oldest
from kbackupd.restore.report import RestoreReport


@dataclass(frozen=True, slots=True, kw_only=True)
class TierResult:
    """Actual beside target. Seconds; `rpo_seconds` None: not known of some partition."""

    tier: str
    topics: tuple[str, ...]
    """By their names in the archive, which tiers are about."""
    recovery_point_ms: int | None
    rpo_seconds: float | None
    rpo_target_seconds: float | None
    """None: these topics have no tier."""
    rto_seconds: float
    rto_target_seconds: float | None

    @property
    def rpo_met(self) -> bool | None:
        """None: not known, or there is no target."""
        if self.rpo_seconds is None or self.rpo_target_seconds is None:
            return None
        return self.rpo_seconds <= self.rpo_target_seconds

    @property
    def rto_met(self) -> bool | None:
        return None if self.rto_target_seconds is None else self.rto_seconds <= self.rto_target_seconds


def rpo_seconds(point_ms: int | None, report: RestoreReport, disaster_ms: int | None) -> float | None:
    """How much time's records are lost, at most."""
    if point_ms is None:
        return None
    until_ms = report.first_began_ms if disaster_ms is None else disaster_ms
    return max(until_ms - point_ms, 0) / 1000


def rto_seconds(report: RestoreReport) -> float:
    return (report.began_ms - report.first_began_ms) / 1000 + report.total_seconds


def by_tier(
    report: RestoreReport, tiers: Sequence[TierSettings], disaster_ms: int | None = None
) -> tuple[TierResult, ...]:
    """One for each tier that has topics in `report`, in the order of `tiers`; those without a tier last."""
    members: dict[str, list[int]] = {tier.name: [] for tier in tiers}
    for index, topic in enumerate(report.topics):
        name = next((tier.name for tier in tiers if tier.matches(topic.source)), UNTIERED)
        members.setdefault(name, []).append(index)
    targets = {tier.name: tier for tier in tiers}
    results = []
    for name, indexes in members.items():
        if not indexes:
            continue
        topics = [report.topics[index] for index in indexes]
        point_ms = oldest(topic.recovery_point_ms for topic in topics)
        target = targets.get(name)
        results.append(
            TierResult(
                tier=name,
                topics=tuple(topic.source for topic in topics),
                recovery_point_ms=point_ms,
                rpo_seconds=rpo_seconds(point_ms, report, disaster_ms),
                rpo_target_seconds=target.rpo_seconds if target else None,
                rto_seconds=rto_seconds(report),
                rto_target_seconds=target.rto_seconds if target else None,
            )
        )
    return tuple(results)
