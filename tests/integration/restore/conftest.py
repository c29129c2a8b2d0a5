"""Archives that a real daemon makes, for tests of their restore; and a target that refuses much."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from tests.integration.capture.backup import Backup
from tests.integration.restore.picky_kafka import PickyKafka


@pytest.fixture
def backup(
    kafka: KafkaServer, s3_server: S3Server, s3_bucket: str, s3_prefix: str, short_path: Path
) -> Iterator[Backup]:
    """An empty place for an archive of topics of the session's broker; its daemons are gone at the end."""
    made = Backup(kafka, s3_server, s3_bucket, s3_prefix, short_path)
    yield made
    made.close()


@pytest.fixture(scope="package")
def picky_kafka() -> Iterator[PickyKafka]:
    """One broker for all tests of refusals; ACLs, quotas and defaults are gone again when a test returns."""
    with PickyKafka() as server:
        yield server


@pytest.fixture
def picky(picky_kafka: PickyKafka) -> Iterator[PickyKafka]:
    yield picky_kafka
    picky_kafka.revoke()
