"""Three brokers, each behind a proxy, for all campaigns, healed before every test and gone after the last of them; and,
for those of S3 and of the process, a backup of the session's one broker behind the proxy of its store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from kbackupd.testbed.proxied_cluster import ProxiedCluster
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.s3_proxy import S3Proxy
from tests.integration.campaigns.campaign import Campaign
from tests.integration.campaigns.steady import SteadyBackup
from tests.integration.capture.backup import Backup
from tests.integration.capture.conftest import backup as backup
from tests.integration.capture.conftest import proxy as proxy


@pytest.fixture(scope="package")
def three_brokers() -> Iterator[ProxiedCluster]:
    with ProxiedCluster(3, seed="campaigns") as cluster:
        yield cluster


@pytest.fixture
async def cluster(three_brokers: ProxiedCluster) -> AsyncIterator[ProxiedCluster]:
    """In good weather with every replica in sync, whatever the test before did to it."""
    await three_brokers.heal()
    yield three_brokers
    for one in three_brokers.proxies:
        one.heal()


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


@pytest.fixture
def steady(
    request: pytest.FixtureRequest, backup: Backup, proxy: S3Proxy, unique_topic: Callable[[], str]
) -> Iterator[SteadyBackup]:
    """Topics are made, nothing is produced and no daemon runs yet. The seed is the test's name."""
    made = SteadyBackup(backup, proxy, [unique_topic() for _ in range(4)], seed=request.node.name)
    yield made
    made.close()
