"""systemd hears the truth and in time: ready, well, leaving; and nothing at all from a loop that is wedged."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kbackupd.daemon.life import DaemonLife
from kbackupd.daemon.systemd import EXTENSION_SECONDS, STATUS_CHARACTERS, Heartbeat, ServiceManager, beating
from kbackupd.model.clock import ManualClock
from kbackupd.model.errors import FencedError
from kbackupd.model.status import HealthReport
from tests.virtual_time import run

WATCHDOG_SECONDS = 30.0


class Systemd:
    """Its end of the socket."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[list[str]]:
        """Every datagram since the last call, as its lines."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(65_536).decode().split("\n"))
            except BlockingIOError:
                return messages

    async def hears(self, seconds: float) -> list[list[str]]:
        """Every datagram of the next seconds, read as they come: the kernel keeps only ten."""
        messages = []
        for _ in range(round(seconds)):
            await asyncio.sleep(1)
            messages += self.heard()
        return messages

    def fill(self) -> None:
        """Take no more, as when PID 1 is busy."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(self._socket.getsockname())
            while True:
                try:
                    sender.send(b"X=1")
                except BlockingIOError:
                    return

    def close(self) -> None:
        self._socket.close()


class Daemon:
    """A heart, its clock and what its health says."""

    def __init__(self, manager: ServiceManager) -> None:
        self.clock = ManualClock()
        self.reasons: tuple[str, ...] = ()
        self.broken = False
        self.heart = Heartbeat(manager, health=self._health, clock=self.clock)

    def _health(self) -> HealthReport:
        if self.broken:
            raise RuntimeError("a partition without a topic")
        return HealthReport(ready=True, healthy=not self.reasons, reasons=self.reasons)

    def run(self, script: Coroutine[None, None, None]) -> None:
        """`script` in virtual time, with the heart beating beside it."""

        async def both() -> None:
            async with beating(self.heart):
                await asyncio.sleep(0)
                await script

        run(both(), clock=self.clock)


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest) -> Iterator[Systemd]:
    with tempfile.TemporaryDirectory(prefix="kb-") as directory:
        address = f"@kbackupd-{uuid.uuid4()}" if request.param == "abstract" else str(Path(directory) / "notify")
        with closing(Systemd(address)) as systemd:
            yield systemd


@pytest.fixture
def manager(systemd: Systemd) -> Iterator[ServiceManager]:
    with closing(ServiceManager.from_environment(systemd.environment)) as manager:
        yield manager


def test_a_start_asks_for_time_until_it_is_ready_and_says_what_it_waits_for(
    systemd: Systemd, manager: ServiceManager
) -> None:
    life = Daemon(manager)
    life.reasons = ("taking over\nthe archive",)

    async def script() -> None:
        extension = f"EXTEND_TIMEOUT_USEC={int(EXTENSION_SECONDS * 1e6)}"
        assert systemd.heard() == [["STATUS=starting: taking over the archive", extension, "WATCHDOG=1"]]
        messages = await systemd.hears(600)
        assert len(messages) >= 600 / EXTENSION_SECONDS
        assert all(extension in message for message in messages)
        life.reasons = ()
        life.heart.began()
        assert systemd.heard() == [["READY=1", "STATUS=following", "WATCHDOG=1"]]
        later = await systemd.hears(60)
        assert later
        assert all(message == ["STATUS=following", "WATCHDOG=1"] for message in later)

    life.run(script())


def test_a_reload_is_told_with_its_moment_and_followed_by_ready(systemd: Systemd, manager: ServiceManager) -> None:
    """systemd.service(5), Type=notify-reload: RELOADING=1 beside MONOTONIC_USEC in one message, then READY=1."""
    life = Daemon(manager)

    async def script() -> None:
        systemd.heard()
        life.heart.reloading()
        life.heart.reloaded()
        assert systemd.heard() == [], "what starts says READY=1 once, when it is"
        life.heart.began()
        systemd.heard()
        life.heart.reloading()
        now = life.clock.monotonic()
        life.heart.reloaded()
        told, done = systemd.heard()
        assert told[:2] == ["RELOADING=1", f"MONOTONIC_USEC={int(now * 1e6)}"]
        assert done[0] == "READY=1"
        life.heart.stopping(within_seconds=5)
        systemd.heard()
        life.heart.reloading()
        life.heart.reloaded()
        assert systemd.heard() == []

    life.run(script())


def test_the_watchdog_is_fed_thrice_in_its_time_with_the_reasons_of_health(
    systemd: Systemd, manager: ServiceManager
) -> None:
    life = Daemon(manager)

    async def script() -> None:
        life.heart.began()
        systemd.heard()
        life.reasons = ("tier critical: exposure 40s is above its target of 30s", "uploads: 503 SlowDown")
        messages = await systemd.hears(WATCHDOG_SECONDS * 10 + 1)
        assert len(messages) >= 30
        assert all("WATCHDOG=1" in message for message in messages)
        assert messages[-1][0] == (
            "STATUS=following: tier critical: exposure 40s is above its target of 30s; uploads: 503 SlowDown"
        )

    life.run(script())


def test_a_health_that_cannot_be_told_does_not_stop_the_beats(systemd: Systemd, manager: ServiceManager) -> None:
    life = Daemon(manager)

    async def script() -> None:
        life.heart.began()
        systemd.heard()
        life.broken = True
        messages = await systemd.hears(WATCHDOG_SECONDS * 2 + 1)
        assert len(messages) >= 6
        assert all("WATCHDOG=1" in message for message in messages)
        assert "cannot be told" in messages[-1][0]

    life.run(script())


def test_a_wedged_loop_stops_feeding_the_watchdog(systemd: Systemd, manager: ServiceManager) -> None:
    """A thread that feeds it would keep a daemon alive that backs up nothing."""
    life = Daemon(manager)
    there_before = threading.enumerate()  # other tests' servers, where this is one of many

    async def script() -> None:
        life.heart.began()
        assert await systemd.hears(WATCHDOG_SECONDS)
        threads = threading.enumerate()
        life.clock.advance(WATCHDOG_SECONDS * 10)  # one callback that takes five minutes
        assert systemd.heard() == []
        assert threads == there_before
        assert len(await systemd.hears(1)) == 1

    life.run(script())


def test_a_drain_asks_for_time_only_while_it_is_within_its_own(systemd: Systemd, manager: ServiceManager) -> None:
    """`backup.shutdown_timeout` may be longer than the unit's TimeoutStopSec; a hang after it must not be."""
    life = Daemon(manager)

    async def script() -> None:
        life.heart.began()
        systemd.heard()
        life.heart.stopping(within_seconds=300)
        life.heart.stopping(within_seconds=300)
        (first,) = systemd.heard()
        assert first[0] == "STOPPING=1"
        assert first[1] == "STATUS=draining"
        within = await systemd.hears(299)
        assert len(within) >= 299 / EXTENSION_SECONDS
        assert all(any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in message) for message in within)
        beyond = await systemd.hears(300)
        assert beyond
        assert all(message == ["STATUS=draining", "WATCHDOG=1"] for message in beyond)

    life.run(script())


def test_ready_is_said_again_until_systemd_took_it(systemd: Systemd, manager: ServiceManager) -> None:
    """Lost, the start would time out and a healthy daemon be killed."""
    life = Daemon(manager)

    async def script() -> None:
        systemd.fill()
        life.heart.began()
        assert not any("READY=1" in message for message in systemd.heard())
        messages = await systemd.hears(WATCHDOG_SECONDS)
        assert messages[0][0] == "READY=1"
        assert sum("READY=1" in message for message in messages) == 1

    life.run(script())


def test_a_long_list_of_reasons_fits_one_line(systemd: Systemd, manager: ServiceManager) -> None:
    life = Daemon(manager)
    life.reasons = ("é" * 5_000,)

    async def script() -> None:
        (message,) = systemd.heard()
        assert len(message[0]) == len("STATUS=") + STATUS_CHARACTERS

    life.run(script())


def test_without_a_service_manager_nothing_beats() -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000"}):
        manager = ServiceManager.from_environment(environment)
        assert not manager.listens
        life = Daemon(manager)

        async def script(life: Daemon = life) -> None:
            life.heart.began()
            life.heart.stopping(within_seconds=1)

        life.run(script())


def test_a_socket_that_is_gone_never_ends_a_backup(tmp_path: Path) -> None:
    with closing(ServiceManager(str(tmp_path / "gone"), watchdog_seconds=1.0)) as manager:
        life = Daemon(manager)

        async def script() -> None:
            life.heart.began()
            await asyncio.sleep(60)

        life.run(script())
        assert not manager.tell("WATCHDOG=1")


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_only_if_it_names_us(variables: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager.from_environment(variables).watchdog_seconds == seconds


async def test_a_life_is_ready_when_it_has_taken_over_and_leaves_when_it_is_told_to(
    systemd: Systemd, manager: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two moments that only the composition root knows."""
    told = Daemon(manager)
    life = object.__new__(DaemonLife)
    following = asyncio.Event()

    class Pipeline:
        async def run(self) -> None:
            following.set()
            await stopped.wait()

        def stop(self) -> None:
            stopped.set()

    class Snapshots:
        async def run(self) -> None:
            await asyncio.Event().wait()

    async def take_over(_: object) -> tuple[Pipeline, Snapshots]:
        assert not any("READY=1" in message for message in systemd.heard())
        return Pipeline(), Snapshots()

    class Backup:
        shutdown_timeout_seconds = 30.0

    class Settings:
        backup = Backup()

    stopped = asyncio.Event()
    monkeypatch.setattr(DaemonLife, "_take_over", take_over)
    for name, value in {
        "_heart": told.heart,
        "_settings": Settings(),
        "_stopped": asyncio.Event(),
        "_pipeline": None,
    }.items():
        setattr(life, name, value)
    running = asyncio.create_task(life.run())
    await following.wait()
    assert systemd.heard()[-1][0] == "READY=1"
    life.stop()
    await running
    assert systemd.heard()[0][0] == "STOPPING=1"


async def test_a_life_that_cannot_take_over_is_never_called_ready(
    systemd: Systemd, manager: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take_over(_: object) -> None:
        raise FencedError("fenced")

    monkeypatch.setattr(DaemonLife, "_take_over", take_over)
    life = object.__new__(DaemonLife)
    for name, value in {"_heart": Daemon(manager).heart, "_stopped": asyncio.Event(), "_pipeline": None}.items():
        setattr(life, name, value)
    with pytest.raises(FencedError):
        await life.run()
    assert systemd.heard() == []
