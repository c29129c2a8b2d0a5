"""Three brokers, each behind a proxy, for all campaigns of a session; every test finds them healed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.s3 import S3Server
from tests.integration.campaigns.campaign import Campaign


@pytest.fixture(scope="session")
def three_brokers() -> Iterator[ProxiedCluster]:
    with ProxiedCluster(3, seed="campaigns") as cluster:
        yield cluster


@pytest.fixture
async def cluster(three_brokers: ProxiedCluster) -> AsyncIterator[ProxiedCluster]:
    """In good weather with every replica in sync, whatever the test before did to it."""
    await three_brokers.heal()
    yield three_brokers
    for proxy in three_brokers.proxies:
        proxy.heal()


@pytest.fixture
def campaign(
    request: pytest.FixtureRequest,
    cluster: ProxiedCluster,
    s3_server: S3Server,
    s3_bucket: str,
    s3_prefix: str,
    short_path: Path,
) -> Iterator[Campaign]:
    """Of this test, with its name as seed; its daemon is gone at the end."""
    made = Campaign(cluster, s3_server, s3_bucket, s3_prefix, short_path, seed=request.node.name)
    yield made
    made.close()
