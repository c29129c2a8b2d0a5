"""The metadata loop: asks which topics and partitions there are, who leads them, what became of those that are gone.

What the answers make of a topic is done in `incarnations`; which topics are believed to be gone is decided in
`missing_topics`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from kbackupd.capture.incarnations import Incarnations
from kbackupd.capture.missing_topics import Missing, MissingTopics, Silence, unlisted_names
from kbackupd.capture.roster import NO_LEADER, Roster
from kbackupd.capture.source import Source
from kbackupd.capture.waiting import woken
from kbackupd.kafka.types import KafkaErrorCode, TopicMetadata
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.positions import TopicId
from kbackupd.observe import events
from kbackupd.observe.metrics import Metrics
from kbackupd.observe.problems import Problems

MIN_SPACING_SECONDS = 0.5
CONFIGS_INTERVAL_SECONDS = 60.0

log = structlog.get_logger()

_NO_LEADER = Silence(reason=NO_LEADER, code=KafkaErrorCode.LEADER_NOT_AVAILABLE)


class Discovery:
    """Asks, and tells the incarnations what was answered."""

    def __init__(
        self,
        *,
        source: Source,
        literals: Sequence[str],
        interval_seconds: float,
        incarnations: Incarnations,
        roster: Roster,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        """
        Args:
            literals: names in configuration without a wildcard: one that the cluster does not have is a problem.
        """
        self.rounds = 0
        """Successful ones."""
        self.looked_at = float("-inf")
        """Monotonic time at which the newest of them began: it saw what was there then."""
        self._source = source
        self._literals = literals
        self._interval_seconds = interval_seconds
        self._incarnations = incarnations
        self._roster = roster
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._missing = MissingTopics()
        self._configs_at: float | None = None

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
            if topic.error_code == KafkaErrorCode.NONE and self._incarnations.selects(topic.name, topic.internal)
        }
        configs = await self._configs([topic.name for topic in selected.values()])
        missing = await self._look_for(metadata.topics)
        for topic in selected.values():
            # Once more: a reload may have excluded it while brokers were asked.
            if self._incarnations.selects(topic.name, topic.internal):
                self._incarnations.met(topic, configs.get(topic.name))
        for topic_id in missing.gone:
            self._incarnations.deleted(topic_id)
        self._fail_leaderless(missing.silences)
        self._check_literals({topic.name for topic in metadata.topics})
        self.rounds += 1
        self.looked_at = begun

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

    def reconfigure(self, literals: Sequence[str], *, interval_seconds: float) -> None:
        """Look for these names, at this interval, and look around at once."""
        for literal in set(self._literals) - set(literals):
            self._problems.clear(f"topic {literal}")
        self._literals = literals
        self._interval_seconds = interval_seconds
        self._roster.metadata_wanted.set()

    def _check_literals(self, names: set[str]) -> None:
        for literal in self._literals:
            if literal in names:
                self._problems.clear(f"topic {literal}")
            else:
                self._problems.report(
                    f"topic {literal}",
                    "included by name in source.topics.include, but the cluster has no such topic (or hides it)",
                    hint="create it, grant Describe on it, or remove it from the configuration",
                )
