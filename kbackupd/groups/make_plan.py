"""The making of a plan on one page: source positions → drafts by the strategy → what the target has → the plan.

Changes nothing, in the target or the archive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from kbackupd.archive.archive import Archive
from kbackupd.groups.cluster_scan import SourceRecords
from kbackupd.groups.coordinators import Coordinators
from kbackupd.groups.drafting import Drafting, by_group, by_offset, by_scan, by_timestamp, identify
from kbackupd.groups.plan import PlanArchive, ResetPlan, Strategy
from kbackupd.groups.planning import build_plan, needed_groups, needed_partitions, selects
from kbackupd.groups.request import PlanRequest
from kbackupd.groups.strategies import Drafts, as_given
from kbackupd.groups.target import TargetLogs, groups_in_target, refuse_untold, target_topics
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.model.errors import UsageError
from kbackupd.model.settings import RestoreSettings
from kbackupd.store.protocol import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePlan:
    plan: ResetPlan
    notes: tuple[str, ...]
    """What people should know of where it comes from."""


async def make_reset_plan(
    request: PlanRequest,
    *,
    settings: RestoreSettings,
    store: ObjectStore | None,
    connection: KafkaConnection,
    coordinators: Coordinators,
    list_groups: Callable[[], Awaitable[Sequence[str]]],
    source_records: Callable[[Archive], SourceRecords],
) -> MadePlan:
    """The plan that `request` asks for, against the target as it is now.

    Args:
        store: of `settings.source`; None for strategy `manual`, which needs no archive.
        list_groups: the groups the target has.
        source_records: how to read what a restore would bring back.

    Raises:
        UsageError: the request says too little, contradicts itself, or selects nothing at all.
        RefusedError: the offset map is of another archive, cluster or topic than is there.
        IncompleteError: the archive knew no groups by then.
        KbackupError: archive or target cannot be read.
    """
    cluster_id, topics = await target_topics(connection, None)
    archive: PlanArchive | None = None
    notes: tuple[str, ...] = ()
    if store is None:
        drafts = _by_hand(request)
    else:
        drafting = Drafting(
            request=request,
            settings=settings,
            store=store,
            connection=connection,
            coordinators=coordinators,
            list_groups=list_groups,
            source_records=source_records,
            cluster_id=cluster_id,
            topics=topics,
        )
        await identify(drafting)
        drafts = await _drafted(drafting)
        archive, notes = drafting.archive, tuple(drafting.notes)
    _refuse_nothing(drafts)
    groups = await groups_in_target(coordinators, needed_groups(drafts))
    refuse_untold(groups)
    plan = build_plan(
        drafts,
        strategy=request.strategy,
        made_ms=connection.clock.now_ms(),
        target_cluster_id=cluster_id,
        topics=topics,
        ranges=await TargetLogs(connection).ranges(needed_partitions(drafts, topics)),
        groups=groups,
        archive=archive,
        offset_map=request.offset_map.digest if request.offset_map else None,
        timestamp_ms=request.timestamp_ms,
    )
    return MadePlan(plan=plan, notes=notes)


async def _drafted(drafting: Drafting) -> Drafts:
    match drafting.request.strategy:
        case Strategy.GROUP:
            return await by_group(drafting)
        case Strategy.OFFSET:
            return await by_offset(drafting)
        case Strategy.TIMESTAMP:
            return await by_timestamp(drafting)
        case Strategy.CLUSTER_SCAN:
            return await by_scan(drafting)
        case Strategy.MANUAL:
            return _by_hand(drafting.request)


def _refuse_nothing(drafts: Drafts) -> None:
    """An empty plan would be executed with success and have moved nobody (hazard 12)."""
    if drafts.planned or drafts.not_planned:
        return
    if drafts.left_out:
        names = ", ".join(sorted(drafts.left_out)[:10])
        raise UsageError(
            f"all {drafts.left_out.total()} positions are of topics that were not restored: {names}",
            hint="topics and topic_mapping of --config, and the offset map, say what was",
        )
    raise UsageError(
        "no position is selected: no group, or no topic of theirs, matches",
        hint="kbackupd groups shows the archive's groups; --topic takes names in the target",
    )


def _by_hand(request: PlanRequest) -> Drafts:
    if not request.given:
        raise UsageError("--strategy manual needs --positions FILE", hint="docs/offset-reset.md says what is in it")
    nameless = next((row for row in request.given if row.group is None), None)
    if nameless is not None:
        raise UsageError(f"--positions: {nameless.topic}/{nameless.partition} has no group")
    return as_given(
        [
            row
            for row in request.given
            if selects(request.topics, row.topic) and row.group is not None and selects(request.groups, row.group)
        ]
    )
