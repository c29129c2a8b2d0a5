"""What needs a broker of its own: logins, a session cache that is too small, a machine that hangs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from kbackupd.kafka.admin import create_topic
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.clock import SystemClock
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.settings import SaslMechanism, SaslSettings, Secret, SecurityProtocol, SecuritySettings
from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.ports import free_ports
from tests.integration.kafka.conftest import connection_to
from tests.integration.kafka.sessions import from_start, poll, session_on, want_all

_JAAS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'username="broker" password="b" user_backup="right";'
)
_SLOTS = 8


class Guarded:
    """A broker with a SASL/PLAIN listener beside the plain one, and one session slot in each of its eight shards."""

    def __init__(self) -> None:
        (self.sasl_port,) = free_ports(1)
        self.server = KafkaServer(
            properties={
                "max.incremental.fetch.session.cache.slots": str(_SLOTS),
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT",
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.guarded.plain.sasl.jaas.config": _JAAS,
            }
        )
        plain, controller = self.server.quorum[self.server.node_id]
        self.server.properties["listeners"] = (
            f"PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},GUARDED://127.0.0.1:{self.sasl_port}"
        )
        self.server.properties["advertised.listeners"] = (
            f"PLAINTEXT://127.0.0.1:{plain},GUARDED://127.0.0.1:{self.sasl_port}"
        )

    def connection(self, password: str, mechanism: SaslMechanism = SaslMechanism.PLAIN) -> KafkaConnection:
        return KafkaConnection(
            bootstrap_servers=[f"127.0.0.1:{self.sasl_port}"],
            security=SecuritySettings(
                protocol=SecurityProtocol.SASL_PLAINTEXT,
                sasl=SaslSettings(mechanism=mechanism, username="backup", password=Secret(password)),
            ),
            client_id="kbackupd-test",
            clock=SystemClock(),
        )


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    broker = Guarded()
    with broker.server:
        yield broker


@pytest_asyncio.fixture
async def plain(guarded: Guarded) -> AsyncIterator[KafkaConnection]:
    async with connection_to(guarded.server.bootstrap) as connection:
        yield connection


async def test_a_right_password_gets_in_and_brokers_are_known_by_that_listener(guarded: Guarded) -> None:
    async with guarded.connection("right") as connection:
        metadata = await cluster_metadata(connection)

    assert [broker.port for broker in metadata.brokers] == [guarded.sasl_port]


async def test_a_wrong_password_is_denied_at_the_start_with_a_hint_and_without_the_password(guarded: Guarded) -> None:
    with pytest.raises(KafkaDeniedError, match="authentication refused") as refused:
        await guarded.connection("wrong-secret").start()

    assert refused.value.code == KafkaErrorCode.SASL_AUTHENTICATION_FAILED
    assert f"127.0.0.1:{guarded.sasl_port}" in refused.value.message
    assert "security.sasl" in refused.value.hint
    assert "wrong-secret" not in refused.value.message


async def test_a_mechanism_the_listener_has_not_enabled_is_denied(guarded: Guarded) -> None:
    with pytest.raises(KafkaDeniedError) as refused:
        await guarded.connection("right", SaslMechanism.SCRAM_SHA_256).start()

    assert refused.value.code == KafkaErrorCode.UNSUPPORTED_SASL_MECHANISM


async def test_without_a_login_the_guarded_listener_is_an_error_and_not_a_hang(guarded: Guarded) -> None:
    with pytest.raises(KafkaUnavailableError, match="Kafka cannot be reached") as unreachable:
        await connection_to(f"127.0.0.1:{guarded.sasl_port}").start()

    assert "security.protocol" in unreachable.value.hint


async def test_when_others_hold_every_session_slot_we_go_on_in_full_and_take_one_when_it_is_free(
    plain: KafkaConnection,
) -> None:
    topic = await create_topic(plain, "crowded", partitions=2)
    crowd: list[FetchSession] = []
    while len(crowd) < _SLOTS:
        # Each new session tries one shard at random, so some tries find theirs taken while others are free.
        other = session_on(plain)
        want_all(other, from_start(topic))
        await poll(other, max_wait_ms=1)
        has_slot = not (await poll(other, max_wait_ms=1)).full
        if has_slot:
            crowd.append(other)
        else:
            await other.close()
    ours = session_on(plain)
    want_all(ours, from_start(topic))
    crowded = [await poll(ours, max_wait_ms=1) for _ in range(3)]
    for other in crowd:
        await other.close(timeout_seconds=30)
    relaxed = [await poll(ours, max_wait_ms=1) for _ in range(2)]

    assert [(answer.full, len(answer.partitions)) for answer in crowded] == [(True, 2)] * 3
    assert [answer.full for answer in relaxed] == [True, False], "closing gave the slots back"


async def test_a_broker_without_session_slots_serves_every_partition_in_turn(
    guarded: Guarded, plain: KafkaConnection
) -> None:
    guarded.server.properties["max.incremental.fetch.session.cache.slots"] = "0"
    await guarded.server.arestart()
    topic = await create_topic(plain, "slotless", partitions=4)
    session = session_on(plain)
    want_all(session, from_start(topic))
    answers = [await poll(session, max_wait_ms=1) for _ in range(3)]

    assert [answer.full for answer in answers] == [True, True, True]
    assert [len(answer.partitions) for answer in answers] == [4, 4, 4]


async def test_a_hung_broker_costs_a_deadline_and_works_again_when_it_wakes(
    guarded: Guarded, plain: KafkaConnection
) -> None:
    topic = await create_topic(plain, "hung")
    session = session_on(plain)
    want_all(session, from_start(topic))
    await poll(session, max_wait_ms=1)
    guarded.server.freeze()
    try:
        with pytest.raises(KafkaUnavailableError, match="no answer in time"):
            await session.fetch(max_bytes=1 << 20, max_wait_ms=10, timeout_seconds=0.5)
    finally:
        guarded.server.thaw()
    answer = await poll(session)

    assert answer.full
    assert [part.error_code for part in answer.partitions] == [0]
