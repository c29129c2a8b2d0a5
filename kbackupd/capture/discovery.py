"""The metadata loop: which topics and partitions there are, who leads them, what became of those that are gone.

Every change of a topic's life becomes a ledger event (invariants I6, I7). Which topics are believed to be gone is
decided in `missing_topics`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from kbackupd.archive.partition_state import PartitionState
from kbackupd.archive.writer_state import WriterState
from kbackupd.capture.intake import Intake
from kbackupd.capture.missing_topics import Missing, MissingTopics, Silence, unlisted_names
from kbackupd.capture.partition import PartitionCapture
from kbackupd.capture.roster import NO_LEADER, CapturedTopic, Roster
from kbackupd.capture.source import Source
from kbackupd.capture.waiting import woken
from kbackupd.kafka.types import KafkaErrorCode, PartitionMetadata, TopicMetadata
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.events import Gap, GapCause, TopicDeleted, TopicExcluded, TopicSeen
from kbackupd.model.positions import PartitionId, TopicId
from kbackupd.model.settings import SYSTEM_TIER, SYSTEM_TOPICS, SourceSettings
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems

MIN_SPACING_SECONDS = 0.5
CONFIGS_INTERVAL_SECONDS = 60.0

log = structlog.get_logger()

_NO_LEADER = Silence(reason=NO_LEADER, code=KafkaErrorCode.LEADER_NOT_AVAILABLE)


class Discovery:
    """
    Args:
        state: what is durable: positions of incarnations seen in earlier lives.
    """

    def __init__(
        self,
        *,
        source: Source,
        settings: SourceSettings,
        interval_seconds: float,
        tier_of: Callable[[str], str],
        roster: Roster,
        intake: Intake,
        state: WriterState,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        self.rounds = 0
        """Successful ones."""
        self.looked_at = float("-inf")
        """Monotonic time at which the newest of them began: it saw what was there then."""
        self._source = source
        self._settings = settings
        self._interval_seconds = interval_seconds
        self._tier_of = tier_of
        self._roster = roster
        self._intake = intake
        self._state = state
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._missing = MissingTopics()
        self._incarnations: dict[str, list[TopicId]] = {}
        """By name, those that were open when the newest was met, and that one."""
        self._configs_at: float | None = None
        self._excluded: set[TopicId] = set()
        """Those whose exclusion this life has recorded, durable or not yet; one that is included again is told anew."""

    async def run(self) -> None:
        """Look around at once, then at the interval or when somebody asks; runs until cancelled."""
        while True:
            self._roster.metadata_wanted.clear()
            try:
                await self.look_around()
                self._problems.clear("metadata")
            except (KafkaUnavailableError, KafkaDeniedError) as error:
                self._metrics.error_met(error)
                self._problems.report("metadata", error.message, hint=error.hint)
                log.warning(events.METADATA_FAILED, error=error.message)
            await asyncio.sleep(MIN_SPACING_SECONDS)
            interval = 1.0 if self._missing.doubted else self._interval_seconds
            await woken(self._roster.metadata_wanted, interval)

    async def look_around(self) -> None:
        """One round. Raises KafkaUnavailableError or KafkaDeniedError and then changes nothing."""
        begun = self._clock.monotonic()
        metadata = await self._source.metadata()
        selected = {
            topic.topic_id: topic
            for topic in metadata.topics
            if topic.error_code == KafkaErrorCode.NONE and self.selects(topic.name, topic.internal)
        }
        configs = await self._configs([topic.name for topic in selected.values()])
        missing = await self._look_for(metadata.topics)
        for topic in selected.values():
            # Once more: a reload may have excluded it while brokers were asked.
            if self.selects(topic.name, topic.internal):
                self._met(topic, configs.get(topic.name))
        for topic_id in missing.gone:
            self._deleted(topic_id)
        self._fail_leaderless(missing.silences)
        self._check_literals({topic.name for topic in metadata.topics})
        self.rounds += 1
        self.looked_at = begun

    def selects(self, name: str, internal: bool) -> bool:
        """Whether a topic of that name is part of the backup."""
        if name in SYSTEM_TOPICS:
            return self._settings.internal_topics
        return not internal and self._settings.topics.selects(name)

    async def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Overrides by topic, for those we are told; asked for new topics at once, for all now and then."""
        known = {topic.name for topic in self._roster.topics.values() if not topic.closed}
        now = self._clock.monotonic()
        if self._configs_at is None or now - self._configs_at >= CONFIGS_INTERVAL_SECONDS:
            self._configs_at, wanted = now, names
        else:
            wanted = [name for name in names if name not in known]
        if not wanted:
            return {}
        answers = await self._source.topic_configs(wanted)
        hidden = sorted(
            name for name, answer in answers.items() if answer.error_code == KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED
        )
        if hidden:
            self._problems.report(
                "topic configurations",
                f"hidden by permissions for {len(hidden)} topics, {hidden[0]!r} first",
                hint="grant DescribeConfigs on topics; until then a restore creates them with the broker's defaults",
            )
        else:
            self._problems.clear("topic configurations")
        return {
            name: dict(answer.values) for name, answer in answers.items() if answer.error_code == KafkaErrorCode.NONE
        }

    async def _look_for(self, listed: Sequence[TopicMetadata]) -> Missing:
        """Which open incarnations the brokers' answers miss, after those whose names are not listed were asked for."""
        open_ = {topic.id: topic.name for topic in self._roster.topics.values() if not topic.closed}
        unlisted = unlisted_names(open_, listed)
        asked = (await self._source.metadata(unlisted)).topics if unlisted else ()
        missing = self._missing.judge(open_, listed=listed, asked=asked)
        for topic_id, silence in missing.silences.items():
            if silence.code == KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED:
                self._problems.report(
                    f"topic {open_[topic_id]}",
                    "permissions hide it now; it is not being backed up",
                    hint=silence.hint,
                )
        return missing

    def _fail_leaderless(self, silences: Mapping[TopicId, Silence]) -> None:
        """Partitions nobody can be asked for are not 'starting' for ever: they fail, visibly, with the reason."""
        for partition in self._roster.partitions.values():
            if self._roster.lacks_leader(partition):
                why = silences.get(partition.id.topic_id, _NO_LEADER)
                self._roster.fail(partition, why.reason, code=why.code, hint=why.hint)

    def _met(self, topic: TopicMetadata, configs: dict[str, str] | None) -> None:
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
        others = [id for id in self._incarnations.get(topic.name, ()) if id != topic.topic_id]
        known = [found for id in others if (found := self._roster.topics.get(id)) is not None and not found.closed]
        self._incarnations[topic.name] = [*(found.id for found in known), topic.topic_id]
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

    def _deleted(self, topic_id: TopicId) -> None:
        topic = self._roster.topics[topic_id]
        if not topic.closed:
            log.warning(events.TOPIC_DELETED, topic=topic.name, topic_id=topic.id)
            self._close(topic)
            # That permissions hide it, or its absence, is explained; a name that is asked for is missed again below.
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

    def exclude_unselected(self) -> None:
        """Topics of earlier lives that configuration leaves out now: say so once, keep what is there."""
        for durable in self._state.topics.values():
            if durable.closed or self.selects(durable.name, durable.internal):
                continue
            self._roster.names[durable.id] = durable.name
            self._record_excluded(durable.id, durable.name)

    def reconfigure(self, settings: SourceSettings, *, interval_seconds: float) -> None:
        """Another choice of topics, and their tiers told anew. What is left out is not fetched from now on.

        The ledger has it as of an exclusion found at a start; what is included now is met in the next round, which
        begins at once, and goes on where it was (invariant I6: what it lost meanwhile is a gap with its cause).
        """
        literals, self._settings = self._settings.topics.literals, settings
        self._interval_seconds = interval_seconds
        for literal in set(literals) - set(settings.topics.literals):
            self._problems.clear(f"topic {literal}")
        for topic in self._roster.topics.values():
            if topic.closed:
                continue
            if not self.selects(topic.name, topic.internal):
                self._exclude(topic)
            elif topic.tier != SYSTEM_TIER:
                topic.tier = self._tier_of(topic.name)
                for partition in self._roster.of_topic(topic.id):
                    partition.tier = topic.tier
        self._roster.metadata_wanted.set()

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
            self._incarnations.setdefault(topic.name, []).append(topic.id)
        for id, state in self._state.partitions.items():
            known = self._roster.topics.get(id.topic_id)
            if known is not None:
                self._roster.add(self._resumed(state, known))

    def _resumed(self, durable: PartitionState, topic: CapturedTopic) -> PartitionCapture:
        system = topic.name in SYSTEM_TOPICS
        partition = PartitionCapture.resumed(durable, topic=topic.name, system=system, tier=topic.tier)
        if partition.overtaken and partition.position >= 0:
            self._intake.record(partition.cut_to(partition.position, at_ms=self._clock.now_ms()))
        return partition

    def _check_literals(self, names: set[str]) -> None:
        for literal in self._settings.topics.literals:
            if literal in names:
                self._problems.clear(f"topic {literal}")
            else:
                self._problems.report(
                    f"topic {literal}",
                    "included by name in source.topics.include, but the cluster has no such topic (or hides it)",
                    hint="create it, grant Describe on it, or remove it from the configuration",
                )
