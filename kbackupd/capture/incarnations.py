"""The incarnations of topics: opened, grown, resumed, taken over, deleted, excluded. Asks nobody.

What discovery finds, and what configuration chooses, changes the roster here, and every such change becomes a ledger
event (invariants I6, I7).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from kbackupd.archive.partition_state import PartitionState
from kbackupd.archive.writer_state import WriterState
from kbackupd.capture.intake import Intake
from kbackupd.capture.partition import PartitionCapture
from kbackupd.capture.roster import CapturedTopic, Roster
from kbackupd.kafka.types import PartitionMetadata, TopicMetadata
from kbackupd.model.clock import Clock
from kbackupd.model.events import Gap, GapCause, TopicDeleted, TopicExcluded, TopicSeen
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.settings import SYSTEM_TIER, SYSTEM_TOPICS, SourceSettings
from kbackupd.observe import events
from kbackupd.observe.problems import Problems

log = structlog.get_logger()


class Incarnations:
    """Those that are backed up, and which ought to be.

    Args:
        state: what is durable: positions of incarnations seen in earlier lives.
    """

    def __init__(
        self,
        *,
        settings: SourceSettings,
        tier_of: Callable[[str], str],
        roster: Roster,
        intake: Intake,
        state: WriterState,
        clock: Clock,
        problems: Problems,
    ) -> None:
        self._settings = settings
        self._tier_of = tier_of
        self._roster = roster
        self._intake = intake
        self._state = state
        self._clock = clock
        self._problems = problems
        self._by_name: dict[str, list[TopicId]] = {}
        """Those that were open when the newest of the name was met, and that one."""
        self._excluded: set[TopicId] = set()
        """Those whose exclusion this life has recorded, durable or not yet; one that is included again is told anew."""

    def selects(self, name: str, internal: bool) -> bool:
        """Whether a topic of that name is part of the backup."""
        if name in SYSTEM_TOPICS:
            return self._settings.internal_topics
        return not internal and self._settings.topics.selects(name)

    def exclude_unselected(self) -> None:
        """Topics of earlier lives that configuration leaves out now: say so once, keep what is there."""
        for durable in self._state.topics.values():
            if durable.closed or self.selects(durable.name, durable.internal):
                continue
            self._roster.names[durable.id] = durable.name
            self._record_excluded(durable.id, durable.name)

    def resume_known(self) -> None:
        """Take up what earlier lives captured, before the first metadata answer says what is still there."""
        for durable in self._state.topics.values():
            self._roster.names[durable.id] = durable.name
            if durable.closed or not self.selects(durable.name, durable.internal):
                continue
            system = durable.name in SYSTEM_TOPICS
            topic = CapturedTopic(
                id=durable.id,
                name=durable.name,
                internal=durable.internal or system,
                partitions=durable.partitions,
                tier=SYSTEM_TIER if system else self._tier_of(durable.name),
                configs=durable.configs,
            )
            self._roster.topics[topic.id] = topic
            self._by_name.setdefault(topic.name, []).append(topic.id)
        for id, state in self._state.partitions.items():
            known = self._roster.topics.get(id.topic_id)
            if known is not None:
                self._roster.add(self._resumed(state, known))

    def met(self, topic: TopicMetadata, configs: dict[str, str] | None) -> None:
        """Brokers describe it; `configs`: its overrides, None where they were not told this time."""
        known = self._roster.topics.get(topic.topic_id)
        if known is None or known.closed:
            known = self._opened(topic, configs or {})
        elif len(topic.partitions) > known.partitions or (configs is not None and configs != known.configs):
            known.partitions = max(known.partitions, len(topic.partitions))
            known.configs = configs if configs is not None else known.configs
            self._record_topic(known)
        self._problems.clear(f"topic {topic.name}")
        for row in topic.partitions:
            self._met_partition(known, row)

    def _opened(self, topic: TopicMetadata, configs: dict[str, str]) -> CapturedTopic:
        """First sight of an incarnation in this life (or again after it seemed gone)."""
        predecessor = self._predecessor(topic)
        durable = self._state.topics.get(topic.topic_id)
        reopened = topic.topic_id in self._roster.topics
        system = topic.name in SYSTEM_TOPICS
        opened = CapturedTopic(
            id=topic.topic_id,
            name=topic.name,
            internal=topic.internal or system,
            partitions=max(len(topic.partitions), durable.partitions if durable else 0),
            tier=SYSTEM_TIER if system else self._tier_of(topic.name),
            configs=configs or (durable.configs if durable else {}),
            returned=reopened or (durable is not None and durable.closed),
        )
        self._roster.topics[topic.topic_id] = opened
        self._roster.names[topic.topic_id] = topic.name
        # Told or about to be: another exclusion is another event.
        excluded = topic.topic_id in self._excluded
        self._excluded.discard(topic.topic_id)
        unchanged = (
            not reopened
            and not excluded
            and durable is not None
            and not durable.closed
            and durable.partitions == opened.partitions
            and durable.configs == opened.configs
        )
        if not unchanged:
            self._record_topic(opened, previous=predecessor.id if predecessor else None)
        if predecessor is not None:
            # The predecessor is closed when brokers have denied it often enough: one that lags behind would otherwise
            # make the two incarnations close each other in turn.
            log.warning(events.TOPIC_RECREATED, topic=topic.name, topic_id=topic.topic_id, previous=predecessor.id)
        elif durable is None:
            log.info(events.TOPIC_DISCOVERED, topic=topic.name, topic_id=topic.topic_id, partitions=opened.partitions)
        return opened

    def _predecessor(self, topic: TopicMetadata) -> CapturedTopic | None:
        """An open incarnation of the name that `topic` takes over; from now on `topic` is one itself."""
        others = [id for id in self._by_name.get(topic.name, ()) if id != topic.topic_id]
        known = [found for id in others if (found := self._roster.topics.get(id)) is not None and not found.closed]
        self._by_name[topic.name] = [*(found.id for found in known), topic.topic_id]
        return known[0] if known else None

    def _record_topic(self, topic: CapturedTopic, *, previous: TopicId | None = None) -> None:
        self._intake.record(
            TopicSeen(
                topic_id=topic.id,
                name=topic.name,
                partitions=topic.partitions,
                internal=topic.internal,
                configs=topic.configs,
                previous=previous,
                at_ms=self._clock.now_ms(),
            )
        )

    def _met_partition(self, topic: CapturedTopic, row: PartitionMetadata) -> None:
        id = PartitionId(topic.id, row.partition)
        partition = self._roster.partitions.get(id)
        if partition is None or partition.closed:
            if partition is None:
                partition = self._partition(topic, id)
            else:
                partition.reopened()
                partition.tier = topic.tier
            partition.leader_id, partition.leader_epoch = row.leader_id, row.leader_epoch
            self._roster.add(partition)
            self._roster.place(partition)
            return
        if 0 <= row.leader_epoch < partition.leader_epoch:
            return  # a broker that has not heard of the newest election yet, be it that it knows no leader at all
        if row.leader_id != partition.leader_id or row.leader_epoch != partition.leader_epoch:
            partition.leader_id = row.leader_id
            partition.leader_epoch = max(row.leader_epoch, partition.leader_epoch)
            self._roster.place(partition)

    def _partition(self, topic: CapturedTopic, id: PartitionId) -> PartitionCapture:
        system = topic.name in SYSTEM_TOPICS
        durable = self._state.partitions.get(id)
        if durable is not None:
            return self._resumed(durable, topic)
        log.debug(events.PARTITION_DISCOVERED, partition=f"{topic.name}/{id.partition}")
        return PartitionCapture(id=id, topic=topic.name, system=system, tier=topic.tier)

    def deleted(self, topic_id: TopicId) -> None:
        """Brokers denied it often enough to believe that it is gone; nothing to do if it is closed already."""
        topic = self._roster.topics[topic_id]
        if not topic.closed:
            log.warning(events.TOPIC_DELETED, topic=topic.name, topic_id=topic.id)
            self._close(topic)
            # That permissions hide it, or its absence, is explained; discovery misses a name that is asked for again.
            self._problems.clear(f"topic {topic.name}")

    def _close(self, topic: CapturedTopic) -> None:
        """The incarnation is gone: what of it was known to exist and is not held becomes a gap."""
        at_ms = self._clock.now_ms()
        # Not by the topic's partition count: where the segment that told it was lost, that is zero.
        for partition in self._roster.of_topic(topic.id):
            if partition.closed:
                continue
            self._roster.close(partition)
            if 0 <= partition.position < partition.proof.high_watermark:
                self._intake.record(
                    Gap(
                        id=partition.id,
                        branch=partition.branch,
                        first_offset=partition.position,
                        next_offset=partition.proof.high_watermark,
                        cause=GapCause.TOPIC_DELETED,
                        at_ms=at_ms,
                    )
                )
        topic.closed = True
        self._intake.record(TopicDeleted(topic_id=topic.id, at_ms=at_ms))

    def reconfigure(self, settings: SourceSettings) -> None:
        """Another choice of topics, and their tiers told anew. What is left out is not fetched from now on.

        The ledger has it as of an exclusion found at a start; what is included now is met in discovery's next round and
        goes on where it was (invariant I6: what it lost meanwhile is a gap with its cause).
        """
        self._settings = settings
        for topic in self._roster.topics.values():
            if topic.closed:
                continue
            if not self.selects(topic.name, topic.internal):
                self._exclude(topic)
            elif topic.tier != SYSTEM_TIER:
                topic.tier = self._tier_of(topic.name)
                for partition in self._roster.of_topic(topic.id):
                    partition.tier = topic.tier

    def _exclude(self, topic: CapturedTopic) -> None:
        # Kept, closed, for as long as this life lasts: segments that are not sealed yet speak of its partitions, and
        # included again they must go on from what was captured, which may be beyond what is durable.
        for partition in self._roster.of_topic(topic.id):
            self._roster.close(partition)
            partition.excluded = True
        topic.closed = True
        self._problems.clear(f"topic {topic.name}")
        self._record_excluded(topic.id, topic.name)

    def _record_excluded(self, topic_id: TopicId, name: str) -> None:
        self._excluded.add(topic_id)
        log.warning(events.TOPIC_EXCLUDED, topic=name)
        self._intake.record(TopicExcluded(topic_id=topic_id, at_ms=self._clock.now_ms()))

    def _resumed(self, durable: PartitionState, topic: CapturedTopic) -> PartitionCapture:
        system = topic.name in SYSTEM_TOPICS
        partition = PartitionCapture.resumed(durable, topic=topic.name, system=system, tier=topic.tier)
        if partition.overtaken and partition.position >= 0:
            self._intake.record(partition.cut_to(partition.position, at_ms=self._clock.now_ms()))
        return partition
