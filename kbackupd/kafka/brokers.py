"""What a topic that sets nothing itself would get: the brokers' own defaults, under the topic's names for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.codec import EMPTY_TAGS, array, boolean, int8, string
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.kafka.wire_admin import DescribedTopic, DescribeTopicConfigsRequest
from kbackupd.model.errors import KafkaUnavailableError

_BROKER = 4
"""Resource type (org.apache.kafka.common.config.ConfigResource.Type)."""

_BROKER_KEYS = {
    "cleanup.policy": "log.cleanup.policy",
    "retention.bytes": "log.retention.bytes",
    "max.message.bytes": "message.max.bytes",
    "message.timestamp.type": "log.message.timestamp.type",
}
_RETENTION = (("log.retention.ms", 1), ("log.retention.minutes", 60_000), ("log.retention.hours", 3_600_000))
"""The first that is set counts."""


@dataclass(frozen=True, slots=True, repr=False)
class DescribeBrokerConfigsRequest(DescribeTopicConfigsRequest):
    """`topics` holds broker ids as text here."""

    def encode(self) -> bytes:
        keys = array(self.keys, string)
        resources = array(self.topics, lambda name: int8(_BROKER) + string(name) + keys + EMPTY_TAGS)
        return resources + boolean(False) + boolean(False) + EMPTY_TAGS


async def _describe_any(
    connection: KafkaConnection, keys: Sequence[str], timeout_seconds: float | None
) -> DescribedTopic | None:
    """The first broker's answer that comes: each has to be asked about itself."""
    failure = KafkaUnavailableError("no broker is known")
    for node_id in sorted(connection.brokers):
        request = DescribeBrokerConfigsRequest(topics=[str(node_id)], keys=keys)
        try:
            return (await connection.send(node_id, request, timeout_seconds=timeout_seconds)).get(str(node_id))
        except KafkaUnavailableError as error:
            failure = error
    raise failure


async def broker_settings(
    connection: KafkaConnection, keys: Sequence[str], *, timeout_seconds: float | None = None
) -> Mapping[str, str]:
    """What one broker is configured with, of these keys; empty where this principal may not describe brokers.

    Raises: KafkaUnavailableError, KafkaDeniedError.
    """
    described = await _describe_any(connection, keys, timeout_seconds)
    if described is None or described.error_code != KafkaErrorCode.NONE:
        return {}
    return {entry.name: entry.value for entry in described.entries if entry.value is not None}


async def topic_defaults(connection: KafkaConnection, *, timeout_seconds: float | None = None) -> Mapping[str, str]:
    """Topic keys and the value each has on a topic that does not set it, as one broker is configured.

    Empty where this principal may not describe brokers; only the keys kbackupd decides by.

    Raises: KafkaUnavailableError, KafkaDeniedError.
    """
    keys = [*_BROKER_KEYS.values(), *(name for name, _ in _RETENTION)]
    values = await broker_settings(connection, keys, timeout_seconds=timeout_seconds)
    defaults = {key: values[name] for key, name in _BROKER_KEYS.items() if name in values}
    for name, unit_ms in _RETENTION:
        if name in values:
            retention = int(values[name])
            defaults["retention.ms"] = str(retention * unit_ms if retention >= 0 else -1)
            break
    return defaults
