"""The observability port, asked over real TCP."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from kbackupd.model.errors import ConfigurationError
from kbackupd.model.status import PartitionState, Problem
from kbackupd.server.http import ObservabilityServer
from tests.unit.server.fake_daemon import FakeDaemon, sample

PROBLEM = Problem(subject="tier critical", message="critical misses its RPO", hint="", since_ms=0, count=1)


@pytest.fixture
async def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
async def server(daemon: FakeDaemon) -> AsyncIterator[ObservabilityServer]:
    server = ObservabilityServer(daemon, host="127.0.0.1", port=0)
    await server.start()
    yield server
    await server.stop()


async def get(server: ObservabilityServer, path: str) -> tuple[int, str, str]:
    """(status, content type, body)."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.get(f"http://127.0.0.1:{server.port}{path}") as response,
    ):
        return response.status, response.headers["Content-Type"], await response.text()


async def test_metrics_are_those_of_this_moment_in_the_exposition_format(
    server: ObservabilityServer, daemon: FakeDaemon
) -> None:
    status, kind, body = await get(server, "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert 'kbackupd_rpo_exposure_seconds{tier="critical",topic="orders"} 8.5' in body
    daemon.partitions = [sample("orders", exposure=77.0, state=PartitionState.RETRYING)]
    assert 'kbackupd_rpo_exposure_seconds{tier="critical",topic="orders"} 77.0' in (await get(server, "/metrics"))[2]


@pytest.mark.parametrize(
    ("ready", "problems", "answers"),
    [
        (True, (), {"/livez": 200, "/readyz": 200, "/healthz": 200}),
        (True, (PROBLEM,), {"/livez": 200, "/readyz": 200, "/healthz": 503}),
        (False, (), {"/livez": 200, "/readyz": 503, "/healthz": 503}),
    ],
    ids=["well", "target missed", "starting"],
)
async def test_probes_are_red_for_their_own_reason_only(
    server: ObservabilityServer,
    daemon: FakeDaemon,
    ready: bool,
    problems: tuple[Problem, ...],
    answers: dict[str, int],
) -> None:
    daemon.ready, daemon.problems = ready, problems
    assert {path: (await get(server, path))[0] for path in answers} == answers


async def test_a_fault_in_what_health_is_judged_by_does_not_have_a_daemon_restarted_that_backs_up(
    server: ObservabilityServer, daemon: FakeDaemon
) -> None:
    """Hazard 44, the other way round: the answer itself proves that the loop turns, and nothing else is asked."""
    daemon.health_failure = RuntimeError("a sample that cannot be taken")
    assert [(await get(server, path))[0] for path in ("/livez", "/readyz", "/healthz")] == [200, 500, 500]


async def test_a_red_probe_says_why_and_a_green_one_names_no_reason(
    server: ObservabilityServer, daemon: FakeDaemon
) -> None:
    daemon.problems = (PROBLEM,)
    assert json.loads((await get(server, "/healthz"))[2]) == {"ok": False, "reasons": ["critical misses its RPO"]}
    assert json.loads((await get(server, "/livez"))[2]) == {"ok": True, "reasons": []}


async def test_status_is_the_report_as_json(server: ObservabilityServer) -> None:
    status, kind, body = await get(server, "/status")
    report = json.loads(body)
    assert (status, kind) == (200, "application/json; charset=utf-8")
    assert report["backup_id"] == "main"
    assert report["topics"][0]["exposure_seconds"] == 1.0
    assert report["topics"][0]["unknown_partitions"] == 1


async def test_nothing_on_the_port_steers_the_daemon(server: ObservabilityServer, daemon: FakeDaemon) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/v1/pause", "/pause", "/status"):
            async with session.post(f"http://127.0.0.1:{server.port}{path}") as response:
                assert response.status in (404, 405)
                body = await response.json()
                # Somebody who looks for figures here must not be sent to the protocol of the other server.
                assert "/metrics" in body["hint"]
                assert "control.md" not in body["hint"]
    assert {p.state for p in daemon.partitions} == {PartitionState.STARTING, PartitionState.FOLLOWING}


async def test_a_fault_behind_a_page_is_answered_without_its_details_and_the_server_goes_on(
    server: ObservabilityServer, daemon: FakeDaemon
) -> None:
    daemon.failure = RuntimeError("password=hunter2")
    status, _, body = await get(server, "/status")
    assert status == 500
    assert "hunter2" not in body
    assert (await get(server, "/livez"))[0] == 200


async def test_a_port_in_use_is_one_clear_message(daemon: FakeDaemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught:
            await ObservabilityServer(daemon, host="127.0.0.1", port=port).start()
    assert caught.value.message == f"observability.listen: cannot listen on 127.0.0.1:{port}: address already in use"
    assert "observability.listen" in caught.value.hint


async def test_a_host_that_is_not_ours_is_one_clear_message(daemon: FakeDaemon) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:0: cannot assign requested address"):
        await ObservabilityServer(daemon, host="192.0.2.1", port=0).start()


async def test_after_stop_the_port_is_free(daemon: FakeDaemon) -> None:
    first = ObservabilityServer(daemon, host="127.0.0.1", port=0)
    await first.start()
    await first.stop()
    second = ObservabilityServer(daemon, host="127.0.0.1", port=first.port)
    await second.start()
    assert (await get(second, "/livez"))[0] == 200
    await second.stop()
    await second.stop()
