"""Three brokers, each behind a proxy, for all campaigns of a session; every test finds them healed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from kbackupd.testbed.proxied_cluster import ProxiedCluster


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
