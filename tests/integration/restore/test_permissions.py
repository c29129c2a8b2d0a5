"""What a restore needs to be allowed, against a real authorizer: everything missing is told before the first write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from kbackupd.model.settings import (
    KeepOffsets,
    RestoreSettings,
    SaslMechanism,
    SaslSettings,
    Secret,
    SecurityProtocol,
    SecuritySettings,
)
from kbackupd.restore.preflight import TargetDeniedError
from kbackupd.restore.preserve import Way
from kbackupd.restore.report import RestoreReport, Verdict
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.process import Deadline
from kbackupd.testbed.topics import create_topic, partition_leaders
from kbackupd.testbed.truth import Isolation, read_topic
from tests.archive_builder import ArchiveBuilder
from tests.integration.restore.mirror import restore
from tests.unit.restore.planned import archive_everything, settings_for

_JAAS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'username="broker" password="b" user_restorer="secret";'
)


ISOLATIONS: tuple[Isolation, Isolation] = ("read_committed", "read_uncommitted")


class Strict(KafkaServer):
    """Whoever comes without a name may do everything; "restorer", on a listener with SASL, only what ACLs say."""

    def __init__(self) -> None:
        super().__init__(
            properties={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT",
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.guarded.plain.sasl.jaas.config": _JAAS,
            }
        )
        (self.guarded_port,) = free_ports(1)
        plain, controller = self.quorum[self.node_id]
        named = f"PLAINTEXT://127.0.0.1:{plain},GUARDED://127.0.0.1:{self.guarded_port}"
        self.properties["listeners"] = f"{named},CONTROLLER://127.0.0.1:{controller}"
        self.properties["advertised.listeners"] = named

    def allow(self, topic: str, *operations: AclOperation) -> None:
        self.allow_on(ResourceType.TOPIC, topic, *operations)

    def allow_on(
        self,
        kind: ResourceType,
        name: str,
        *operations: AclOperation,
        pattern: ResourcePatternType = ResourcePatternType.LITERAL,
    ) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        made = admin.create_acls(
            [
                AclBinding(kind, name, pattern, "User:restorer", "*", operation, AclPermissionType.ALLOW)
                for operation in operations
            ]
        )
        for future in made.values():
            future.result(60)
        # The broker's authorizer follows the controller within moments.
        everything = AclBindingFilter(
            kind, name, pattern, "User:restorer", "*", AclOperation.ANY, AclPermissionType.ALLOW
        )
        deadline = Deadline(60)
        while not {acl.operation for acl in admin.describe_acls(everything).result(60)} >= set(operations):
            assert not deadline.passed, f"the broker does not know what was granted on {name}"


@pytest.fixture(scope="module")
def strict() -> Iterator[Strict]:
    with Strict() as server:
        yield server


def logged_in(settings: RestoreSettings) -> RestoreSettings:
    login = SecuritySettings(
        protocol=SecurityProtocol.SASL_PLAINTEXT,
        sasl=SaslSettings(mechanism=SaslMechanism.PLAIN, username="restorer", password=Secret("secret")),
    )
    return replace(settings, target=replace(settings.target, security=login))


async def test_all_missing_permissions_are_told_at_once_and_what_the_remedies_name_is_enough(strict: Strict) -> None:
    built = await ArchiveBuilder.create()
    for name in ("existing", "absent", "hidden"):
        built.log(built.topic(name), 0).append([b"one", b"two"])
    await archive_everything(built)
    settings = logged_in(settings_for(f"127.0.0.1:{strict.guarded_port}", {}))
    create_topic(strict.bootstrap, "existing")
    strict.allow("existing", AclOperation.DESCRIBE)
    strict.allow("absent", AclOperation.DESCRIBE)

    with pytest.raises(TargetDeniedError) as denied:
        await restore(built, settings)

    assert {problem.remedy for problem in denied.value.problems} == {
        "grant Read, Write, AlterConfigs, DescribeConfigs on topic existing",
        "grant Create, Read, Write, AlterConfigs on topic absent",
        "grant Describe, Create, Read, Write, AlterConfigs on topic hidden",
        "grant Write on the target topics, or IdempotentWrite on the cluster",
    }
    assert partition_leaders(strict.bootstrap, "absent") == {}

    few = (AclOperation.READ, AclOperation.WRITE, AclOperation.ALTER_CONFIGS)
    strict.allow("existing", *few, AclOperation.DESCRIBE_CONFIGS)
    strict.allow("absent", *few, AclOperation.CREATE)
    strict.allow("hidden", *few, AclOperation.CREATE, AclOperation.DESCRIBE)

    report = await restore(built, settings)

    assert report.verdict is Verdict.COMPLETE
    for name in ("existing", "absent", "hidden"):
        assert [record.value for record in read_topic(strict.bootstrap, name)[0]] == [b"one", b"two"]


async def test_offsets_are_kept_by_empty_transactions_unless_markers_are_permitted(strict: Strict) -> None:
    built = await ArchiveBuilder.create()
    log = built.log(built.topic("kept", first_offset=7), 0)
    for number in range(5):
        log.append([b"one", b"two"], producer_id=7, transactional=True)
        log.end_transaction(7, committed=number % 2 == 0)
    await archive_everything(built)
    needed = (AclOperation.READ, AclOperation.WRITE, AclOperation.ALTER_CONFIGS, AclOperation.CREATE)
    targets = ["kept-first", "kept-second"]
    for target in targets:
        strict.allow(target, AclOperation.DESCRIBE, *needed)

    async def kept(target: str) -> RestoreReport:
        server = f"127.0.0.1:{strict.guarded_port}"
        return await restore(built, logged_in(settings_for(server, {"kept": target}, offsets=KeepOffsets.PRESERVE)))

    with pytest.raises(TargetDeniedError) as denied:
        await kept(targets[0])

    assert {problem.remedy for problem in denied.value.problems} == {
        "grant Delete on topic kept-first",
        "grant Alter or ClusterAction on the cluster, or Write and Describe on the transactional ids that begin with"
        " kbackupd-restore-",
    }

    for target in targets:
        strict.allow(target, AclOperation.DELETE)
    ids = (AclOperation.DESCRIBE, AclOperation.WRITE)
    strict.allow_on(ResourceType.TRANSACTIONAL_ID, "kbackupd-restore-", *ids, pattern=ResourcePatternType.PREFIXED)
    first = await kept(targets[0])
    strict.allow_on(ResourceType.BROKER, "kafka-cluster", AclOperation.ALTER)
    second = await kept(targets[1])

    assert (first.verdict, second.verdict) == (Verdict.COMPLETE, Verdict.COMPLETE)
    assert (first.filling, second.filling) == (Way.TRANSACTIONS, Way.MARKERS)
    for target in targets:
        for isolation in ISOLATIONS:
            found = read_topic(strict.bootstrap, target, isolation=isolation)[0]
            assert [record.offset for record in found] == [7, 8, 13, 14, 19, 20]
