"""A broker that refuses: an authorizer, a login, a policy on retention, small requests. Shared by tests of refusals.

Whoever comes by the plain listener may do everything; "restorer", on the guarded one, only what ACLs say.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._config import ConfigResource, ConfigSource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from kbackupd.model.snapshots import Acl
from kbackupd.testbed.java import kafka_tool
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.listeners import listener
from kbackupd.testbed.process import Deadline
from tests.integration.conditions import reaches
from tests.integration.restore.retention_policy import broker_settings

RESTORER, PASSWORD = "restorer", "secret"
REQUEST_BYTES = 400_000

TOPIC, GROUP, CLUSTER = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.BROKER
LITERAL, PREFIXED = ResourcePatternType.LITERAL, ResourcePatternType.PREFIXED
ALLOW, DENY = AclPermissionType.ALLOW, AclPermissionType.DENY

_SECONDS = 60
_CONFIGS = "kafka.admin.ConfigCommand"
_ANY_ACL = AclBindingFilter(
    ResourceType.ANY,
    None,  # type: ignore[arg-type]  # the client's types do not say that None is any
    ResourcePatternType.ANY,
    None,  # type: ignore[arg-type]
    None,  # type: ignore[arg-type]
    AclOperation.ANY,
    AclPermissionType.ANY,
)
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # the client does not say
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_OVERRIDE = ConfigSource.DYNAMIC_TOPIC_CONFIG.value


class PickyKafka(KafkaServer):
    """Start it as any other."""

    def __init__(self) -> None:
        self.guarded = listener("GUARDED", "SASL_PLAINTEXT")
        self._policy = tempfile.TemporaryDirectory(prefix="kb-policy-")
        policy, self._agent = broker_settings(Path(self._policy.name))
        super().__init__(
            heap="384m",
            listeners=(self.guarded,),
            users={RESTORER: PASSWORD},
            properties={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "socket.request.max.bytes": str(REQUEST_BYTES),
                **policy,
            },
        )

    def launch(self) -> None:
        # Not an option of the broker alone: what formats its directory looks for the policy, too.
        with patch.dict(os.environ, {"JDK_JAVA_OPTIONS": self._agent}):
            super().launch()

    def close(self) -> None:
        super().close()
        self._policy.cleanup()

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def grant(
        self,
        kind: ResourceType,
        name: str,
        *operations: AclOperation,
        principal: str = f"User:{RESTORER}",
        pattern: ResourcePatternType = LITERAL,
        permission: AclPermissionType = ALLOW,
    ) -> None:
        """Returns when the broker's authorizer, which follows the controller, knows of it."""
        bindings = [AclBinding(kind, name, pattern, principal, "*", one, permission) for one in operations]
        admin = self.admin
        for future in admin.create_acls(bindings).values():
            future.result(_SECONDS)
        self._follows(lambda there: there >= {plain(one) for one in bindings})

    def revoke(self, *acls: Acl) -> None:
        """All of them, if none is named."""
        admin = self.admin
        gone = [one for one in admin.describe_acls(_ANY_ACL).result(_SECONDS) if not acls or plain(one) in acls]
        filters = [
            AclBindingFilter(
                one.restype,
                one.name,
                one.resource_pattern_type,
                one.principal,
                one.host,
                one.operation,
                one.permission_type,
            )
            for one in gone
        ]
        if filters:
            for future in admin.delete_acls(filters).values():
                future.result(_SECONDS)
        self._follows(lambda there: not there & {plain(one) for one in gone})

    @property
    def acls(self) -> set[Acl]:
        """As an independent client reads them."""
        admin = self.admin
        return {plain(one) for one in admin.describe_acls(_ANY_ACL).result(_SECONDS)}

    def _follows(self, holds: Callable[[set[Acl]], bool]) -> None:
        deadline = Deadline(_SECONDS)
        while not holds(self.acls):
            assert not deadline.passed, "the broker does not follow its controller"

    def min_insync_replicas(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Of topics that do not say; for the time of the context."""
        # Kafka 4 has nobody remove it again: 1 is what it is without.
        entity = ("--entity-type", "brokers", "--entity-default")
        return self._configured(entity, f"min.insync.replicas={count}", ("--add-config", "min.insync.replicas=1"))

    def producer_quota(
        self, bytes_per_second: int, entity_type: str, name: str
    ) -> contextlib.AbstractContextManager[None]:
        """For the time of the context. `entity_type` is `clients` or `users`."""
        entity, key = ("--entity-type", entity_type, "--entity-name", name), "producer_byte_rate"
        return self._configured(entity, f"{key}={bytes_per_second}", ("--delete-config", key))

    @contextlib.contextmanager
    def _configured(self, entity: Sequence[str], setting: str, afterwards: Sequence[str]) -> Iterator[None]:
        alter = ("--bootstrap-server", self.bootstrap, "--alter", *entity)
        kafka_tool(_CONFIGS, *alter, "--add-config", setting)
        try:
            yield
        finally:
            kafka_tool(_CONFIGS, *alter, *afterwards)


def plain(acl: AclBinding) -> Acl:
    """In the words of a snapshot."""
    return Acl(
        "CLUSTER" if acl.restype is CLUSTER else _word(acl.restype),
        acl.name,
        _word(acl.resource_pattern_type),
        acl.principal,
        acl.host,
        _word(acl.operation),
        _word(acl.permission_type),
    )


def _word(value: object) -> str:
    """The client's types admit plain words as well."""
    return str(getattr(value, "name", value))


def topic_state(bootstrap: str, topic: str) -> tuple[Mapping[int, tuple[int, int]], Mapping[str, str]] | None:
    """What an independent client sees: partition → log start and log end, and the topic's overrides; None: no topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    metadata = admin.list_topics(timeout=_SECONDS).topics.get(topic)
    if metadata is None:
        return None
    partitions = sorted(metadata.partitions)

    def asked(spec: OffsetSpec) -> list[int]:
        wanted = {TopicPartition(topic, number): spec for number in partitions}
        answers = admin.list_offsets(wanted, isolation_level=IsolationLevel.READ_UNCOMMITTED)
        return [answers[TopicPartition(topic, number)].result(_SECONDS).offset for number in partitions]

    resource = ConfigResource(ResourceType.TOPIC, topic)
    configs = admin.describe_configs([resource])[resource].result(_SECONDS)
    return (
        dict(zip(partitions, zip(asked(_EARLIEST), asked(_LATEST), strict=True), strict=True)),
        {key: one.value for key, one in configs.items() if one.source == _OVERRIDE},
    )


async def has_configuration(bootstrap: str, topic: str, overrides: Mapping[str, str]) -> None:
    """Return when the topic has exactly these: the broker follows the controller within moments."""

    def found() -> bool:
        state = topic_state(bootstrap, topic)
        return state is not None and state[1] == overrides

    await reaches(found, f"{topic} is configured as {overrides}")
