"""A connection of ours to the session's broker, and an independent client that fills topics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from confluent_kafka import Producer

from kbackupd.kafka.admin import create_topic
from kbackupd.kafka.connection import KafkaConnection
from kbackupd.kafka.types import TopicMetadata
from kbackupd.model.clock import SystemClock
from kbackupd.model.settings import SecuritySettings
from kbackupd.testbed.kafka import KafkaServer


def connection_to(*bootstrap_servers: str, connect_timeout_seconds: float = 10.0) -> KafkaConnection:
    return KafkaConnection(
        bootstrap_servers=bootstrap_servers,
        security=SecuritySettings(),
        client_id="kbackupd-test",
        clock=SystemClock(),
        connect_timeout_seconds=connect_timeout_seconds,
    )


@pytest_asyncio.fixture
async def connection(kafka: KafkaServer) -> AsyncIterator[KafkaConnection]:
    async with connection_to(kafka.bootstrap) as connection:
        yield connection


class Topics:
    """Creates topics with our own admin and fills them with librdkafka."""

    def __init__(self, connection: KafkaConnection, kafka: KafkaServer, name: Callable[[], str]) -> None:
        self.connection = connection
        self.kafka = kafka
        self._name = name
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 20})

    async def create(self, partitions: int = 1, **configs: str) -> TopicMetadata:
        spelled = {key.replace("_", "."): value for key, value in configs.items()}
        return await create_topic(self.connection, self._name(), partitions=partitions, configs=spelled)

    def fill(self, topic: TopicMetadata, records: int, *, partition: int = 0, size_bytes: int = 200) -> None:
        for number in range(records):
            value = f"{topic.name}/{partition}/{number}/".encode()
            self._producer.produce(topic.name, value=value.ljust(size_bytes, b"."), partition=partition)
            self._producer.poll(0)
        left = self._producer.flush(120)
        assert left == 0, f"{left} records were not delivered"


@pytest.fixture
def topics(connection: KafkaConnection, kafka: KafkaServer, unique_topic: Callable[[], str]) -> Topics:
    return Topics(connection, kafka, unique_topic)
