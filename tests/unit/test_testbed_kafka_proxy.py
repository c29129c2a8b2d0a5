"""The proxy in front of a broker made of a few lines: passes what it is told to pass, breaks what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Callable

import pytest

from kbackupd.testbed.kafka_proxy import FETCH, METADATA, PRODUCE, HoldAnswer, HoldRequest, KafkaProxy
from kbackupd.testbed.proxy import CutAnswer, LoseAnswer, Reset

DEADLINE_SECONDS = 20.0


class Broker:
    """Answers every request with its correlation id and as many bytes as its body asks for."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []
        """(API key, correlation id)"""
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = struct.unpack(">i", await reader.readexactly(4))
                request = await reader.readexactly(length)
                api_key, _, correlation_id = struct.unpack_from(">hhi", request)
                (wanted,) = struct.unpack_from(">i", request, 8)
                self.heard.append((api_key, correlation_id))
                writer.write(answer_of(correlation_id, wanted))
                await writer.drain()
        writer.close()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()


def answer_of(correlation_id: int, wanted: int) -> bytes:
    body = struct.pack(">i", correlation_id) + bytes(n % 251 for n in range(wanted))
    return struct.pack(">i", len(body)) + body


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def ask(self, api_key: int, correlation_id: int, *, wanted: int = 10) -> None:
        body = struct.pack(">hhii", api_key, 0, correlation_id, wanted) + bytes(100)
        self.writer.write(struct.pack(">i", len(body)) + body)

    async def answer(self, correlation_id: int, *, wanted: int = 10) -> None:
        """The next answer must be this one, unchanged."""
        expected = answer_of(correlation_id, wanted)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await self.reader.readexactly(len(expected)) == expected

    async def rest(self) -> bytes:
        """All that comes until the connection ends, which must be in good order."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.reader.read()

    async def is_reset(self) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(ConnectionResetError):
                await self.reader.read()


async def reaches(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    broker.port = server.sockets[0].getsockname()[1]
    yield broker
    server.close()
    broker.hang_up()


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[KafkaProxy]:
    with KafkaProxy(broker.port, seed=1) as proxy:
        yield proxy


async def connected(proxy: KafkaProxy) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", proxy.port))


async def answered_once(proxy: KafkaProxy) -> Client:
    """Connected, with fetch 1 behind it."""
    client = await connected(proxy)
    client.ask(FETCH, 1)
    await client.answer(1)
    return client


async def test_good_weather_changes_no_byte_of_pipelined_requests_and_large_answers(
    broker: Broker, proxy: KafkaProxy
) -> None:
    client = await connected(proxy)
    for number, wanted in enumerate((10, 3_000_000, 0)):
        client.ask(FETCH, number, wanted=wanted)
    for number, wanted in enumerate((10, 3_000_000, 0)):
        await client.answer(number, wanted=wanted)
    assert broker.heard == [(FETCH, 0), (FETCH, 1), (FETCH, 2)]
    assert proxy.requests == {FETCH: 3}


async def test_a_blocked_port_resets_who_is_there_and_refuses_who_comes_until_it_heals(
    broker: Broker, proxy: KafkaProxy
) -> None:
    client = await answered_once(proxy)
    proxy.block()
    await client.is_reset()
    with pytest.raises(ConnectionRefusedError):
        await connected(proxy)
    port = proxy.port
    proxy.heal()
    assert proxy.port == port
    again = await connected(proxy)
    again.ask(FETCH, 2)
    await again.answer(2)


async def test_silence_keeps_connections_open_takes_new_ones_and_delivers_late(
    broker: Broker, proxy: KafkaProxy
) -> None:
    old = await answered_once(proxy)
    proxy.silence()
    new = await connected(proxy)
    old.ask(PRODUCE, 2)
    new.ask(METADATA, 3)
    await reaches(lambda: proxy.requests[PRODUCE] == 1)
    assert broker.heard == [(FETCH, 1)]
    proxy.heal()
    await old.answer(2)
    await new.answer(3)


async def test_a_forgotten_connection_carries_nothing_while_new_ones_do_and_is_reset_when_it_heals(
    broker: Broker, proxy: KafkaProxy
) -> None:
    old = await answered_once(proxy)
    proxy.forget()
    old.ask(FETCH, 2)
    new = await connected(proxy)
    new.ask(FETCH, 3)
    await new.answer(3)
    assert broker.heard == [(FETCH, 1), (FETCH, 3)]
    proxy.heal()
    await old.is_reset()
    new.ask(FETCH, 4)
    await new.answer(4)


async def test_a_request_of_a_client_that_left_in_silence_arrives_all_the_same(
    broker: Broker, proxy: KafkaProxy
) -> None:
    client = await answered_once(proxy)
    proxy.silence()
    client.ask(PRODUCE, 2)
    await reaches(lambda: proxy.requests[PRODUCE] == 1)
    client.writer.close()
    proxy.heal()
    await reaches(lambda: (PRODUCE, 2) in broker.heard)
    await reaches(lambda: proxy.connections == 0)


async def test_a_delay_takes_at_least_the_round_trip_and_does_not_add_up_over_requests_under_way(
    proxy: KafkaProxy,
) -> None:
    client = await connected(proxy)
    client.ask(FETCH, 0)
    await client.answer(0)
    proxy.delay(0.1)
    clock = asyncio.get_running_loop().time
    began = clock()
    async with asyncio.timeout(DEADLINE_SECONDS):
        for number in range(1, 401):  # one after the other they would take 40 s
            client.ask(FETCH, number)
        for number in range(1, 401):
            await client.answer(number)
    assert clock() - began >= 0.1


async def test_a_trickle_slows_answers_down_and_loses_none_of_them(proxy: KafkaProxy) -> None:
    client = await connected(proxy)
    proxy.trickle(100_000)
    clock = asyncio.get_running_loop().time
    began = clock()
    client.ask(FETCH, 1, wanted=20_000)
    await client.answer(1, wanted=20_000)
    assert clock() - began >= 0.1
    client.ask(FETCH, 2, wanted=5_000_000)
    await reaches(lambda: proxy.requests[FETCH] == 2)
    proxy.heal()
    await client.answer(2, wanted=5_000_000)


async def test_a_lost_answer_is_of_a_request_the_broker_heard_and_other_api_keys_are_spared(
    broker: Broker, proxy: KafkaProxy
) -> None:
    rule = proxy.strike(LoseAnswer(), api_keys=(PRODUCE,), times=1)
    client = await connected(proxy)
    client.ask(METADATA, 1)
    await client.answer(1)
    client.ask(PRODUCE, 2)
    await client.is_reset()
    assert rule.struck == [PRODUCE]
    assert broker.heard == [(METADATA, 1), (PRODUCE, 2)]
    again = await connected(proxy)
    again.ask(PRODUCE, 3)
    await again.answer(3)


async def test_a_reset_is_of_a_request_the_broker_never_heard(broker: Broker, proxy: KafkaProxy) -> None:
    proxy.strike(Reset(), api_keys=(FETCH,), times=1)
    client = await connected(proxy)
    client.ask(FETCH, 1)
    await client.is_reset()
    assert broker.heard == []


@pytest.mark.parametrize("after_bytes", [0, 3, 8, 11, 100_000])
async def test_a_torn_answer_ends_after_exactly_so_many_bytes(after_bytes: int, proxy: KafkaProxy) -> None:
    proxy.strike(CutAnswer(after_bytes=after_bytes), api_keys=(FETCH,))
    client = await connected(proxy)
    client.ask(FETCH, 1, wanted=200_000)
    assert await client.rest() == answer_of(1, 200_000)[:after_bytes]


async def test_a_held_answer_and_those_behind_it_come_when_the_rule_is_lifted_and_other_connections_go_on(
    broker: Broker, proxy: KafkaProxy
) -> None:
    rule = proxy.strike(HoldAnswer(), api_keys=(FETCH,), times=1)
    held, other = await connected(proxy), await connected(proxy)
    held.ask(FETCH, 1)
    held.ask(METADATA, 2)
    await reaches(lambda: (METADATA, 2) in broker.heard)
    other.ask(FETCH, 3)
    await other.answer(3)
    rule.lift()
    await held.answer(1)
    await held.answer(2)


async def test_a_held_request_reaches_the_broker_when_the_rule_is_lifted_even_if_the_client_has_left(
    broker: Broker, proxy: KafkaProxy
) -> None:
    rule = proxy.strike(HoldRequest(), api_keys=(PRODUCE,), times=1)
    held, other = await connected(proxy), await connected(proxy)
    held.ask(PRODUCE, 1)
    await reaches(lambda: rule.struck == [PRODUCE])
    held.writer.close()
    other.ask(PRODUCE, 2)
    await other.answer(2)
    assert broker.heard == [(PRODUCE, 2)]
    rule.lift()
    await reaches(lambda: broker.heard == [(PRODUCE, 2), (PRODUCE, 1)])


async def test_chance_strikes_the_same_requests_for_the_same_seed(broker: Broker) -> None:
    async def struck(seed: int) -> list[int]:
        with KafkaProxy(broker.port, seed=seed) as proxy:
            proxy.strike(Reset(), share=0.3)
            found = []
            for number in range(40):
                client = await connected(proxy)
                client.ask(FETCH, number)
                try:
                    await client.answer(number)
                except (ConnectionResetError, asyncio.IncompleteReadError):
                    found.append(number)
                client.writer.close()
            return found

    first = await struck(7)
    assert 0 < len(first) < 40
    assert await struck(7) == first
    assert await struck(8) != first


async def test_what_the_broker_sent_before_it_closed_arrives_and_then_the_connection_ends(
    broker: Broker, proxy: KafkaProxy
) -> None:
    rule = proxy.strike(HoldAnswer(), api_keys=(FETCH,))
    client = await connected(proxy)
    client.ask(FETCH, 1)
    await reaches(lambda: broker.heard == [(FETCH, 1)])
    broker.hang_up()
    rule.lift()
    await client.answer(1)
    assert await client.rest() == b""


async def test_a_broker_that_is_down_is_a_reset(broker: Broker) -> None:
    with KafkaProxy(1) as proxy:
        try:
            client = await connected(proxy)
        except ConnectionResetError:
            return  # so soon that it was not even connected
        await client.is_reset()
