"""Asking what the cluster is configured to be: brokers, topics' configurations, ACLs, quotas. One round.

Keeps I5 part by part: what permissions hide or a broker does not answer stays what it was, marked as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kbackupd.capture.failed_part import failed_by, failed_part
from kbackupd.capture.group_beliefs import BELIEVED_AFTER
from kbackupd.capture.source import ClusterQuestions
from kbackupd.kafka.types import ClusterMetadata, KafkaErrorCode, TopicConfigs, TopicMetadata
from kbackupd.model.clock import Clock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.snapshots import (
    NEVER_MS,
    Acl,
    BrokerState,
    ClusterContent,
    PartState,
    Quota,
    ReadOutcome,
    TopicState,
)

NO_PART = PartState(outcome=ReadOutcome.FAILED, cause="not asked yet")


class ClusterSurvey:
    """Remembers between rounds which parts have come back empty once."""

    def __init__(self, source: ClusterQuestions, *, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._doubted: dict[str, int] = {}

    async def take(self, before: ClusterContent | None) -> ClusterContent:
        """One round; `before` is what the last one gave, or what an earlier life stored.

        Raises:
            KafkaUnavailableError, KafkaDeniedError: not even metadata was answered; nothing has changed then.
        """
        metadata = await self._source.metadata()
        ok = self._ok()
        topics_part, topics = await self._topics(metadata, before)
        acls_part, acls = await self._acls(before)
        quotas_part, quotas = await self._quotas(before)
        return ClusterContent(
            brokers_part=ok,
            brokers=tuple(
                BrokerState(node_id=one.node_id, host=one.host, port=one.port, rack=one.rack)
                for one in sorted(metadata.brokers, key=lambda one: one.node_id)
            ),
            topics_part=topics_part,
            topics=topics,
            acls_part=acls_part,
            acls=acls,
            quotas_part=quotas_part,
            quotas=quotas,
        )

    def _ok(self) -> PartState:
        return PartState(outcome=ReadOutcome.OK, answered_ms=self._clock.now_ms())

    async def _topics(
        self, metadata: ClusterMetadata, before: ClusterContent | None
    ) -> tuple[PartState, tuple[TopicState, ...]]:
        known = {topic.topic_id: topic for topic in before.topics} if before else {}
        rows = {row.topic_id: row for row in metadata.topics if row.error_code == KafkaErrorCode.NONE}
        part = self._ok()
        failure: PartState | None = None
        configs: Mapping[str, TopicConfigs] = {}
        try:
            configs = await self._source.topic_configs([row.name for row in rows.values()])
        except (KafkaUnavailableError, KafkaDeniedError) as error:
            failure = failed_by(error, NEVER_MS)
        answered = self._ok()
        found = [self._topic(row, known.get(id), configs.get(row.name), failure, answered) for id, row in rows.items()]
        missing = [topic for id, topic in known.items() if id not in rows]
        found += [replace(topic, part=why) for topic, why in await self._unlisted(missing)]
        return part, tuple(sorted(found, key=lambda one: (one.name, one.topic_id)))

    @staticmethod
    def _topic(
        row: TopicMetadata,
        before: TopicState | None,
        told: TopicConfigs | None,
        failure: PartState | None,
        answered: PartState,
    ) -> TopicState:
        before_ms = before.part.answered_ms if before else NEVER_MS
        values = before.configs if before else {}
        if told is not None and told.error_code == KafkaErrorCode.NONE:
            part, values = answered, dict(told.values)
        elif told is not None:
            part = failed_part(told.error_code, before_ms)
        else:
            why = failure or failed_part(KafkaErrorCode.UNKNOWN_SERVER_ERROR, before_ms)
            part = replace(why, answered_ms=before_ms)
        return TopicState(
            topic_id=row.topic_id,
            name=row.name,
            partitions=len(row.partitions),
            internal=row.internal,
            part=part,
            configs=values,
        )

    async def _unlisted(self, missing: Sequence[TopicState]) -> list[tuple[TopicState, PartState]]:
        """Topics that metadata leaves out now, but that no broker, asked by name, denies: hidden, or forgotten."""
        if not missing:
            return []
        try:
            asked = await self._source.metadata(sorted({topic.name for topic in missing}))
        except (KafkaUnavailableError, KafkaDeniedError) as error:
            return [(topic, failed_by(error, topic.part.answered_ms)) for topic in missing]
        rows = {row.name: row for row in asked.topics}
        kept = []
        for topic in missing:
            row = rows.get(topic.name)
            code: int = KafkaErrorCode.UNKNOWN_SERVER_ERROR if row is None else row.error_code
            if code == KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                continue
            if row is not None and code == KafkaErrorCode.NONE and row.topic_id != topic.topic_id:
                continue  # another incarnation has the name now
            kept.append((topic, failed_part(code, topic.part.answered_ms)))
        return kept

    async def _acls(self, before: ClusterContent | None) -> tuple[PartState, tuple[Acl, ...]]:
        held, held_part = (before.acls, before.acls_part) if before else ((), NO_PART)
        try:
            answer = await self._source.acls()
        except (KafkaUnavailableError, KafkaDeniedError) as error:
            return failed_by(error, held_part.answered_ms), held
        code = KafkaErrorCode.NONE if answer.error_code == KafkaErrorCode.SECURITY_DISABLED else answer.error_code
        if code != KafkaErrorCode.NONE:
            return failed_part(code, held_part.answered_ms), held
        if (doubt := self._doubt("acls", len(answer.acls), len(held), held_part)) is not None:
            return doubt, held
        return self._ok(), tuple(sorted(answer.acls))

    async def _quotas(self, before: ClusterContent | None) -> tuple[PartState, tuple[Quota, ...]]:
        held, held_part = (before.quotas, before.quotas_part) if before else ((), NO_PART)
        try:
            answer = await self._source.quotas()
        except (KafkaUnavailableError, KafkaDeniedError) as error:
            return failed_by(error, held_part.answered_ms), held
        if answer.error_code != KafkaErrorCode.NONE:
            return failed_part(answer.error_code, held_part.answered_ms), held
        if (doubt := self._doubt("quotas", len(answer.quotas), len(held), held_part)) is not None:
            return doubt, held
        return self._ok(), tuple(sorted(answer.quotas, key=lambda one: repr(sorted(one.entity.items(), key=repr))))

    def _doubt(self, part: str, told: int, held: int, held_part: PartState) -> PartState | None:
        """An empty answer after a full one is believed when it is given twice: brokers that just start know little."""
        if told or not held:
            self._doubted.pop(part, None)
            return None
        count = self._doubted[part] = self._doubted.get(part, 0) + 1
        if count >= BELIEVED_AFTER:
            return None
        cause = f"the answer was empty where {held} were known; asked again before that is believed"
        return PartState(outcome=ReadOutcome.FAILED, cause=cause, answered_ms=held_part.answered_ms)
