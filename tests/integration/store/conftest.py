"""Settings for the real S3 server, below a prefix of the test's own."""

from __future__ import annotations

import pytest

from kbackupd.model.settings import S3Settings, Secret
from kbackupd.testbed.s3 import S3Server


@pytest.fixture
def s3_settings(s3_server: S3Server, s3_bucket: str, s3_prefix: str) -> S3Settings:
    return S3Settings(
        bucket=s3_bucket,
        prefix=s3_prefix,
        region=s3_server.region,
        endpoint=s3_server.endpoint,
        access_key_id=Secret(s3_server.access_key),
        secret_access_key=Secret(s3_server.secret_key),
    )
