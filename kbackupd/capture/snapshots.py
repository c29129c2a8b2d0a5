"""The snapshot loop: group positions and the cluster's configuration, at an interval, stored when they changed.

It stands beside the data path and cannot touch it (principle P6): its connections are its own, and whatever goes wrong
in here ends a round, never the loop and never the daemon. A life begins with what the life before knew, so that a
broker which is down at the start takes nothing away (hazard 15).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol

import structlog

from kbackupd.archive.snapshots import SnapshotLog
from kbackupd.capture.cluster_survey import ClusterSurvey
from kbackupd.capture.group_survey import GroupSurvey
from kbackupd.capture.source import ClusterQuestions
from kbackupd.capture.waiting import woken
from kbackupd.format.cluster_snapshot import CLUSTER_FORMAT
from kbackupd.format.groups_snapshot import GROUPS_FORMAT
from kbackupd.format.snapshots import SnapshotFormat
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError, KbackupError
from kbackupd.model.segment import Identity
from kbackupd.model.snapshots import ClusterContent, Content, GroupsContent, PartState, ReadOutcome
from kbackupd.observe import events
from kbackupd.observe.labels import SnapshotCause, SnapshotPart
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems
from kbackupd.store.protocol import ObjectStore

FIRST_RETRY_SECONDS = 5.0
PROBLEM_AFTER_ROUNDS = 3
"""So many failed rounds in a row are a problem: a restarting broker fails one or two."""

HINTS: dict[SnapshotPart, str] = {
    "groups": "grant Describe on the Cluster, on all consumer groups and on all topics; until then "
    "__consumer_offsets, where it may be read, is the only witness of what is hidden",
    "topics": "grant DescribeConfigs on topics; until then a restore knows no configuration of those",
    "acls": "grant Describe on the Cluster; until then ACLs are not kept",
    "quotas": "grant DescribeConfigs on the Cluster; until then client quotas are not kept",
}

log = structlog.get_logger()


class _Survey(Protocol[Content]):
    async def take(self, before: Content | None) -> Content: ...


Named = tuple[str, PartState]
"""What was asked for, in words, and what became of it."""


class _Track(Generic[Content]):
    """One kind: what it asks, what was last known, and where it is stored."""

    def __init__(
        self,
        survey: _Survey[Content],
        format: SnapshotFormat[Content],
        states: Callable[[Content], Mapping[SnapshotPart, Sequence[Named]]],
        parts: Sequence[SnapshotPart],
    ) -> None:
        self.survey: _Survey[Content] = survey
        self.format: SnapshotFormat[Content] = format
        self.states: Callable[[Content], Mapping[SnapshotPart, Sequence[Named]]] = states
        self.parts = parts
        self.log: SnapshotLog[Content] | None = None
        self.known: Content | None = None
        """What the last round gave; its answers may be newer than those of what was stored last."""


class Snapshots:
    """All snapshots of one life of the daemon; run by one task."""

    def __init__(
        self,
        *,
        source: ClusterQuestions,
        store: ObjectStore,
        identity: Identity,
        writer: str,
        writer_epoch: int,
        interval_seconds: float,
        own_group: str | None = None,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        """
        Args:
            own_group: to which durable offsets are committed: not part of any snapshot.
        """
        self._store = store
        self._identity = identity
        self._writer = writer
        self._writer_epoch = writer_epoch
        self._interval_seconds = interval_seconds
        self._interval_changed = asyncio.Event()
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._groups: _Track[GroupsContent] = _Track(
            GroupSurvey(source, clock=clock, own_group=own_group), GROUPS_FORMAT, _group_states, ("groups",)
        )
        self._cluster: _Track[ClusterContent] = _Track(
            ClusterSurvey(source, clock=clock), CLUSTER_FORMAT, _cluster_states, ("topics", "acls", "quotas")
        )
        self.failing: dict[SnapshotPart, str] = {}
        """What the newest round did not get, and why."""
        self._failed_rounds: dict[SnapshotPart, int] = {}
        self._told_hidden: set[SnapshotPart] = set()

    def every(self, interval_seconds: float) -> None:
        """Another interval from now on, counted from a round that is due now."""
        if interval_seconds != self._interval_seconds:
            self._interval_seconds = interval_seconds
            self._interval_changed.set()

    async def run(self) -> None:
        """A round at once, so that this life has one on record, then at the interval; runs until cancelled."""
        while True:
            await self.take()
            self._interval_changed.clear()
            await woken(self._interval_changed, self.pause_seconds)

    @property
    def hidden(self) -> tuple[SnapshotPart, ...]:
        """Of what permissions hide something."""
        return tuple(sorted(self._told_hidden))

    @property
    def pause_seconds(self) -> float:
        """Until the next round: what failed is asked again soon, then less and less soon."""
        failed = max(self._failed_rounds.values(), default=0)
        if not failed:
            return self._interval_seconds
        return min(self._interval_seconds, FIRST_RETRY_SECONDS * 2.0 ** min(failed - 1, 20))

    async def take(self) -> None:
        """One round of both kinds; durable on return, or reported. Raises nothing."""
        await self._round(self._groups)
        await self._round(self._cluster)

    async def _round(self, track: _Track[Content]) -> None:
        try:
            content = await self._read_and_store(track)
        except KbackupError as error:
            cause: SnapshotCause = "failed" if isinstance(error, KafkaUnavailableError | KafkaDeniedError) else "store"
            self._failed(track.parts, cause, error, error.message, error.hint)
        except Exception as error:  # noqa: BLE001  a fault in here must not end the backup of records
            what = f"unexpected {type(error).__name__}: {error}"
            self._failed(track.parts, "unexpected", error, what, "this is a fault of kbackupd: please report it")
        else:
            for part, states in track.states(content).items():
                self._judge(part, states)

    async def _read_and_store(self, track: _Track[Content]) -> Content:
        kept = track.log
        if kept is None:
            kept = track.log = await SnapshotLog.open(
                self._store,
                track.format,
                identity=self._identity,
                writer=self._writer,
                writer_epoch=self._writer_epoch,
            )
            track.known = kept.last.content if kept.last is not None else None
        asked_ms = self._clock.now_ms()
        content = track.known = await track.survey.take(track.known)
        key = await kept.append(content, asked_ms=asked_ms, taken_ms=self._clock.now_ms())
        if key is not None:
            self._metrics.snapshot_stored(track.format.kind)
            log.info(events.SNAPSHOT_STORED, key=key)
        return content

    def _failed(
        self, parts: Iterable[SnapshotPart], cause: SnapshotCause, error: Exception, message: str, hint: str
    ) -> None:
        self._metrics.error_met(error)
        log.warning(events.SNAPSHOT_FAILED, cause=cause, error=message)
        for part in parts:
            self._metrics.snapshot_failed(part, cause)
            self._missed(part, message, hint)

    def _judge(self, part: SnapshotPart, states: Sequence[Named]) -> None:
        """What a round that ended well says of one part."""
        failed = [(name, state) for name, state in states if state.outcome is ReadOutcome.FAILED]
        denied = [(name, state) for name, state in states if state.outcome is ReadOutcome.DENIED]
        if denied:
            self._metrics.snapshot_failed(part, "denied")
            if part not in self._told_hidden:
                self._told_hidden.add(part)
                log.warning(events.SNAPSHOT_HIDDEN, part=part, what=_summed(denied), hint=HINTS[part])
        else:
            self._told_hidden.discard(part)
        if failed:
            self._metrics.snapshot_failed(part, "failed")
            log.warning(events.SNAPSHOT_FAILED, cause="failed", error=_summed(failed))
            self._missed(part, _summed(failed), "what was known before stays; see the brokers' state")
            return
        self._failed_rounds.pop(part, None)
        self.failing.pop(part, None)
        self._problems.clear(f"snapshot of {part}")
        if len(denied) < len(states):
            self._metrics.snapshot_read(part)

    def _missed(self, part: SnapshotPart, message: str, hint: str) -> None:
        self.failing[part] = message
        rounds = self._failed_rounds[part] = self._failed_rounds.get(part, 0) + 1
        if rounds >= PROBLEM_AFTER_ROUNDS:
            self._problems.report(f"snapshot of {part}", message, hint=hint)


def _group_states(content: GroupsContent) -> Mapping[SnapshotPart, Sequence[Named]]:
    states = [(f"broker {one.node_id}", one.part) for one in content.coordinators]
    states += [(f"group {one.group_id}", one.part) for one in content.groups]
    if not content.lists_all:
        cause = "without Describe on the Cluster brokers leave groups out that this principal may not describe"
        states.append(("the list of groups", PartState(outcome=ReadOutcome.DENIED, cause=cause)))
    return {"groups": states}


def _cluster_states(content: ClusterContent) -> Mapping[SnapshotPart, Sequence[Named]]:
    topics = [("the list of topics", content.topics_part)]
    topics += [(f"topic {one.name}", one.part) for one in content.topics]
    return {
        "topics": topics,
        "acls": [("the list of ACLs", content.acls_part)],
        "quotas": [("the list of client quotas", content.quotas_part)],
    }


def _summed(states: Sequence[Named]) -> str:
    """The first of them in full, and how many more there are."""
    name, state = states[0]
    more = f" (and {len(states) - 1} more)" if len(states) > 1 else ""
    return f"{name}: {state.cause}{more}"
