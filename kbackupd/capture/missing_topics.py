"""Which topics are gone, and why others cannot be fetched: by what brokers answered, and how often. Pure.

"Gone" is believed only when brokers said so twice in a row, by name and successfully (I5): a lagging broker's answer,
or one cut by permissions, is not a deletion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.errors import code_name
from kbackupd.kafka.types import KafkaErrorCode, TopicMetadata
from kbackupd.model.positions import TopicId

BELIEVED_AFTER = 2
"""Successful answers in a row without a topic before it counts as deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Why nobody says who leads a topic's partitions."""

    reason: str
    code: int
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What one round of answers does not describe of the incarnations that are open."""

    gone: Sequence[TopicId]
    """Denied often enough to believe it."""
    silences: Mapping[TopicId, Silence]
    """Those that are gone have one too."""


def unlisted_names(open_: Mapping[TopicId, str], listed: Sequence[TopicMetadata]) -> list[str]:
    """Names of the open incarnations that a list of all topics does not have: each must be asked for by name."""
    described = {row.topic_id for row in listed if row.error_code == KafkaErrorCode.NONE}
    names = {row.name for row in listed}
    return [name for id, name in open_.items() if id not in described and name not in names]


class MissingTopics:
    """Remembers from round to round which incarnations were denied; a round in which one is not begins anew."""

    def __init__(self) -> None:
        self._denials: dict[TopicId, int] = {}

    @property
    def doubted(self) -> bool:
        """Whether one was denied and it is not believed yet: brokers had better be asked again soon."""
        return bool(self._denials)

    def judge(
        self, open_: Mapping[TopicId, str], *, listed: Sequence[TopicMetadata], asked: Sequence[TopicMetadata]
    ) -> Missing:
        """Take in one round of answers.

        Args:
            open_: incarnation → name of the topics that are backed up.
            listed: the answer to a request for all topics.
            asked: the answer to one for the `unlisted_names`.
        """
        # A name answered with an error says nothing about its incarnations (invariant I5).
        rows = {row.name: row for row in listed}
        described = {row.topic_id for row in listed if row.error_code == KafkaErrorCode.NONE}
        answers = {row.name: row.error_code for row in asked}
        counts: dict[TopicId, int] = {}
        silences: dict[TopicId, Silence] = {}
        for id, name in open_.items():
            if id in described:
                continue
            row = rows.get(name)
            code = row.error_code if row is not None else answers.get(name, KafkaErrorCode.UNKNOWN_SERVER_ERROR)
            if code == (KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION if row is None else KafkaErrorCode.NONE):
                counts[id] = self._denials.get(id, 0) + 1
                code = code if row is None else KafkaErrorCode.UNKNOWN_TOPIC_ID
            elif code == KafkaErrorCode.NONE:
                continue  # there after all: the next round describes it
            silences[id] = _silence(name, code)
        self._denials = {id: count for id, count in counts.items() if count < BELIEVED_AFTER}
        return Missing(gone=[id for id, count in counts.items() if count >= BELIEVED_AFTER], silences=silences)


def _silence(topic: str, code: int) -> Silence:
    match code:
        case KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED:
            hint = f"grant Describe and Read on topic {topic!r} to kbackupd's principal"
            return Silence(reason="permissions hide its topic", code=code, hint=hint)
        case KafkaErrorCode.UNKNOWN_TOPIC_OR_PARTITION | KafkaErrorCode.UNKNOWN_TOPIC_ID:
            return Silence(reason="the brokers do not know its topic any more", code=code)
        case _:
            return Silence(reason=f"the brokers answer {code_name(code)} for its topic", code=code)
