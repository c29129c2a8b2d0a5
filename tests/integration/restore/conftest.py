"""Archives that a real daemon makes, for tests of their restore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from tests.integration.capture.backup import Backup


@pytest.fixture
def backup(
    kafka: KafkaServer, s3_server: S3Server, s3_bucket: str, s3_prefix: str, short_path: Path
) -> Iterator[Backup]:
    """An empty place for an archive of topics of the session's broker; its daemons are gone at the end."""
    made = Backup(kafka, s3_server, s3_bucket, s3_prefix, short_path)
    yield made
    made.close()
