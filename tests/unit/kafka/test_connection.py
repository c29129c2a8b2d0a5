"""Connections to brokers that are silent, old, broken, moved or gone: always a clear error, and never a hang."""

from __future__ import annotations

import asyncio
import struct

import pytest
import uvloop

from kbackupd.kafka.codec import int16, int32, int64
from kbackupd.kafka.metadata import cluster_metadata
from kbackupd.kafka.types import BrokerInfo
from kbackupd.kafka.wire import InitProducerIdRequest, MetadataRequest
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.settings import SecurityProtocol, SecuritySettings
from tests.unit.kafka.sockets import MODERN, connection_to, fake_broker, refusing_port, silent_server

_INIT_PRODUCER_ID = 22
_METADATA = 3
_PRODUCER_ID_ANSWER = b"\0" + int32(0) + int16(0) + int64(4711) + int16(3) + b"\0"


def _answers_producer_ids(key: int, _request: bytes) -> bytes | None:
    return _PRODUCER_ID_ANSWER if key == _INIT_PRODUCER_ID else None


async def test_bootstrap_servers_that_are_down_or_silent_are_passed_over() -> None:
    async with silent_server() as silent, fake_broker() as broker:
        connection = connection_to(refusing_port(), silent, broker.port, connect_timeout_seconds=2.0)
        await connection.start()

        assert connection.brokers == {1: BrokerInfo(node_id=1, host="127.0.0.1", port=broker.port)}
        await connection.close()


async def test_when_none_answers_each_is_named_with_its_reason() -> None:
    refused = refusing_port()
    async with silent_server() as silent:
        with pytest.raises(KafkaUnavailableError) as unreachable:
            await connection_to(refused, silent, connect_timeout_seconds=0.5).start()

    assert f"127.0.0.1:{refused}" in unreachable.value.message
    assert f"127.0.0.1:{silent}: no answer" in unreachable.value.message.replace(" (within 0.5 s)", "")
    assert unreachable.value.hint
    assert unreachable.value.retryable


async def test_a_broker_before_kafka_3_1_is_refused_with_what_is_needed() -> None:
    async with fake_broker({**MODERN, 1: (0, 12)}) as broker:
        with pytest.raises(KafkaDeniedError, match="FetchRequest v13") as refused:
            await connection_to(broker.port).start()

    assert f"127.0.0.1:{broker.port}" in refused.value.message
    assert "3.1" in refused.value.hint
    assert refused.value.exit_code == 4


async def test_speaking_plaintext_to_a_listener_that_hangs_up_hints_at_the_protocol() -> None:
    async with fake_broker(respond=lambda _key, _request: b"") as broker:
        with pytest.raises(KafkaUnavailableError, match="connection broke") as hung_up:
            await connection_to(broker.port).start()

    assert "security.protocol" in hung_up.value.hint


async def test_speaking_tls_to_a_plaintext_listener_is_told_apart_from_an_outage() -> None:
    async def says_http(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(says_http, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(KafkaDeniedError, match="TLS failed") as refused:
        await connection_to(port, security=SecuritySettings(protocol=SecurityProtocol.SSL)).start()
    server.close()

    assert "TLS listener" in refused.value.hint


async def test_a_silent_broker_costs_one_deadline_and_the_next_request_a_new_connection() -> None:
    silent = {"now": False}

    def respond(key: int, request: bytes) -> bytes | None:
        return None if silent["now"] else _answers_producer_ids(key, request)

    async with fake_broker(respond=respond) as broker, connection_to(broker.port) as connection:
        await connection.send(1, InitProducerIdRequest())
        silent["now"] = True
        with pytest.raises(KafkaUnavailableError, match=r"InitProducerIdRequest_v2 to broker 1 .*no answer in time"):
            await connection.send(1, InitProducerIdRequest(), timeout_seconds=0.1)
        before = broker.accepted
        silent["now"] = False
        answer = await connection.send(1, InitProducerIdRequest(), timeout_seconds=30)

        assert answer.producer_id == 4711
        assert broker.accepted == before + 1


async def test_one_silent_broker_does_not_keep_us_from_another() -> None:
    async with silent_server() as silent, fake_broker(respond=_answers_producer_ids) as broker:
        connection = connection_to(broker.port, connect_timeout_seconds=120)
        await connection.start()
        connection.learn(
            [
                BrokerInfo(node_id=1, host="127.0.0.1", port=broker.port),
                BrokerInfo(node_id=2, host="127.0.0.1", port=silent),
            ]
        )
        stuck = asyncio.create_task(connection.send(2, InitProducerIdRequest(), timeout_seconds=120))
        await asyncio.sleep(0)
        await connection.send(1, InitProducerIdRequest(), timeout_seconds=60)

        assert not stuck.done()
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        await connection.close()


async def test_a_lane_that_waits_does_not_hold_up_the_others() -> None:
    waiting = asyncio.Event()

    def respond(key: int, request: bytes) -> bytes | None:
        if key != _INIT_PRODUCER_ID:
            return None
        if not waiting.is_set():
            waiting.set()
            return None
        return _PRODUCER_ID_ANSWER

    async with fake_broker(respond=respond) as broker, connection_to(broker.port) as connection:
        lane = connection.new_lane()
        stuck = asyncio.create_task(connection.send(1, InitProducerIdRequest(), timeout_seconds=60, lane=lane))
        await waiting.wait()
        answer = await connection.send(1, InitProducerIdRequest(), timeout_seconds=60, lane=connection.new_lane())

        assert answer.producer_id == 4711
        assert not stuck.done()
        connection.drop(1, lane=lane)
        with pytest.raises(KafkaUnavailableError, match="connection broke"):
            await stuck


async def test_a_broker_that_moved_is_found_at_its_new_address() -> None:
    async with fake_broker(respond=_answers_producer_ids) as old, fake_broker(respond=_answers_producer_ids) as new:
        connection = connection_to(old.port)
        await connection.start()
        await connection.send(1, InitProducerIdRequest())
        connection.learn([BrokerInfo(node_id=1, host="127.0.0.1", port=new.port)])
        await connection.send(1, InitProducerIdRequest())
        async with asyncio.timeout(60):
            await old.closed.wait()

        assert new.requests.count(_INIT_PRODUCER_ID) == 1
        await connection.close()


async def test_an_empty_broker_list_from_a_broker_that_just_starts_is_not_believed() -> None:
    async with fake_broker(respond=_answers_producer_ids) as broker, connection_to(broker.port) as connection:
        connection.learn([])

        assert set(connection.brokers) == {1}


async def test_a_broker_nobody_told_us_of_is_an_error_that_may_pass() -> None:
    async with fake_broker() as broker, connection_to(broker.port) as connection:
        with pytest.raises(KafkaUnavailableError, match="broker 9 is not in the cluster's metadata"):
            await connection.send(9, InitProducerIdRequest())


async def test_an_answer_that_does_not_parse_is_an_error_and_its_connection_is_not_used_again() -> None:
    nonsense = {"now": True}

    def respond(key: int, request: bytes) -> bytes | None:
        if key == _INIT_PRODUCER_ID and nonsense["now"]:
            return b"\0\0\0"
        return _answers_producer_ids(key, request)

    async with fake_broker(respond=respond) as broker, connection_to(broker.port) as connection:
        with pytest.raises(KafkaUnavailableError, match="does not parse") as unreadable:
            await connection.send(1, InitProducerIdRequest())
        before = broker.accepted
        nonsense["now"] = False
        await connection.send(1, InitProducerIdRequest())

        assert isinstance(unreadable.value.__cause__, struct.error)
        assert broker.accepted == before + 1


async def test_when_every_known_broker_is_gone_the_bootstrap_servers_are_asked_again() -> None:
    async with fake_broker() as broker:
        connection = connection_to(broker.port)
        await connection.start()
        connection.learn([BrokerInfo(node_id=7, host="127.0.0.1", port=refusing_port())])
        metadata = await cluster_metadata(connection, [], timeout_seconds=60)

        assert [(b.node_id, b.port) for b in metadata.brokers] == [(1, broker.port)]
        assert set(connection.brokers) == {1}
        await connection.close()


async def test_closing_fails_what_is_under_way_and_everything_after() -> None:
    arrived = asyncio.Event()

    def respond(key: int, _request: bytes) -> bytes | None:
        if key == _INIT_PRODUCER_ID:
            arrived.set()
        return None

    async with fake_broker(respond=respond) as broker:
        connection = connection_to(broker.port)
        await connection.start()
        under_way = asyncio.create_task(connection.send(1, InitProducerIdRequest(), timeout_seconds=60))
        await arrived.wait()
        await connection.close()
        with pytest.raises(KafkaUnavailableError):
            await under_way
        with pytest.raises(KafkaUnavailableError, match="is closed"):
            await connection.send(1, MetadataRequest(topics=()))


def test_a_request_sent_in_the_moment_in_which_the_connection_is_reset_goes_to_a_new_one() -> None:
    """Hazard 41: on uvloop, as the daemon runs, that was a RuntimeError, which nobody took for a lost connection: the
    whole daemon died of one reset.
    """

    async def scenario() -> None:
        async with fake_broker(respond=_answers_producer_ids) as broker:
            connection = connection_to(broker.port)
            await connection.start()
            await connection.send(1, InitProducerIdRequest())
            first = connection._links[1, 0].connection
            assert first is not None
            # As the event loop does when it meets the reset: from here on the transport is closed, and whoever reads
            # from it has not been told yet.
            first._writer.transport.abort()
            assert first.connected()
            assert (await connection.send(1, InitProducerIdRequest())).producer_id == 4711
            assert connection._links[1, 0].connection is not first
            await connection.close()

    uvloop.run(scenario())
