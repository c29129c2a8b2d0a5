"""An archive per test on the session's servers, and a broker of our own to be mistreated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.s3_proxy import S3Proxy
from tests.integration.capture.backup import Backup


@pytest.fixture
def backup(
    kafka: KafkaServer, s3_server: S3Server, s3_bucket: str, s3_prefix: str, short_path: Path
) -> Iterator[Backup]:
    """An empty place for an archive; whatever daemons the test made of it are gone at the end."""
    made = Backup(kafka, s3_server, s3_bucket, s3_prefix, short_path)
    yield made
    made.close()


@pytest.fixture(scope="package")
def fragile_kafka() -> Iterator[KafkaServer]:
    """Another cluster, whose broker tests stop and whose files they damage; each leaves it running.

    It ends with this package: idle brokers take processor time from all tests behind them.
    """
    with KafkaServer(heap="384m") as server:
        yield server


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    """Before the session's S3 server; every rule is the test's own."""
    with S3Proxy(s3_server.port) as proxy:
        yield proxy
