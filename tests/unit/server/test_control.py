"""The control socket, from both of its ends: `docs/control.md` as tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kbackupd.capture import steering
from kbackupd.model.errors import (
    ConfigurationError,
    DeniedError,
    FencedError,
    IncompleteError,
    KbackupError,
    RefusedError,
    StoreUnavailableError,
    UnreachableError,
    UsageError,
)
from kbackupd.model.status import LeftOutPartition, PartitionState, Problem
from kbackupd.server.client import ControlClient
from kbackupd.server.control import MAX_GLOB_CHARACTERS, MAX_REQUESTS, SECONDS, ControlServer
from tests.unit.server.fake_daemon import FakeDaemon

DOCUMENT = Path(__file__).parents[3] / "docs" / "control.md"


@pytest.fixture
def path() -> Iterator[Path]:
    """A short one: a socket's path has 107 bytes, and pytest's own directories use most of them."""
    with tempfile.TemporaryDirectory(prefix="kb") as directory:
        yield Path(directory) / "control.sock"


@pytest.fixture
async def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
async def server(daemon: FakeDaemon, path: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(daemon, path)
    await server.start()
    yield server
    await server.stop()


async def ask(path: Path, method: str, target: str, **options: Any) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path))) as session,
        session.request(method, f"http://kbackupd{target}", **options) as response,
    ):
        return response.status, json.loads(await response.text())


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def leave_stale(path: Path) -> None:
    """As a daemon killed with SIGKILL leaves its socket."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()


@pytest.mark.usefixtures("server")
class TestVerbs:
    async def test_status_arrives_as_the_daemon_gave_it(self, daemon: FakeDaemon, path: Path) -> None:
        async with ControlClient(path) as client:
            assert await client.status() == daemon.status()

    async def test_flush_answers_only_when_what_it_covers_is_durable(self, daemon: FakeDaemon, path: Path) -> None:
        daemon.may_flush.clear()
        async with ControlClient(path) as client:
            flushing = asyncio.create_task(client.flush("orders"))
            await asyncio.wait_for(daemon.flushing.wait(), 60)
            assert (await client.status()).last_segment is None
            assert not flushing.done()
            daemon.may_flush.set()
            report = await flushing
        assert report.outcome == "stored"
        assert [(p.topic, p.partition, p.durable_offset) for p in report.partitions] == [
            ("orders", 0, 100),
            ("orders", 1, 90),
        ]
        assert report.segments == ("segments/main/3/0000000000000001-1767225600000.kbs",)

    async def test_a_second_flush_says_that_there_was_nothing_new(self, path: Path) -> None:
        async with ControlClient(path) as client:
            await client.flush("*")
            report = await client.flush("*")
        assert (report.outcome, report.segments, len(report.partitions)) == ("nothing new", (), 4)

    async def test_a_checkpoint_answers_its_key_and_then_that_there_is_nothing_new(self, path: Path) -> None:
        async with ControlClient(path) as client:
            first, second = await client.checkpoint(), await client.checkpoint()
        assert (first.outcome, first.partitions, len(first.segments)) == ("stored", 4, 1)
        assert first.key == "checkpoints/main/0000000003/0000000000000001.kbc"
        assert (second.outcome, second.key, second.segments) == ("nothing new", first.key, ())

    async def test_a_reload_arrives_as_the_daemon_gave_it(self, daemon: FakeDaemon, path: Path) -> None:
        async with ControlClient(path) as client:
            assert await client.reload() == daemon.reloaded

    async def test_a_configuration_that_is_wrong_is_exit_code_two_in_the_words_of_config_check(
        self, daemon: FakeDaemon, path: Path
    ) -> None:
        daemon.failure = ConfigurationError("no such key", hint="did you mean x?", where="kbackupd.yaml:4: y")
        status, body = await ask(path, "POST", "/v1/reload")
        assert (status, body["exit_code"]) == (400, 2)
        assert (body["error"], body["hint"]) == ("kbackupd.yaml:4: y: no such key", "did you mean x?")

    async def test_pause_and_resume_reach_exactly_the_topics_of_the_glob(self, daemon: FakeDaemon, path: Path) -> None:
        async with ControlClient(path) as client:
            report = await client.pause("ord*")
            assert (report.topics, report.partitions, report.paused, report.durable) == (("orders",), 2, True, True)
            assert [p.topic for p in daemon.partitions if p.state is PartitionState.PAUSED] == ["orders", "orders"]
            report = await client.resume("*")
        assert (report.paused, report.topics) == (False, ("audit", "orders"))
        assert PartitionState.PAUSED not in {p.state for p in daemon.partitions}

    async def test_a_glob_with_url_characters_arrives_whole(self, path: Path) -> None:
        async with ControlClient(path) as client:
            with pytest.raises(UsageError, match=re.escape("no topic matches 'a&topic=b#[x]?%2a +'")):
                await client.pause("a&topic=b#[x]?%2a +")

    async def test_left_out_the_topic_means_all(self, path: Path) -> None:
        status, report = await ask(path, "POST", "/v1/pause")
        assert (status, report["topics"]) == (200, ["audit", "orders"])


@pytest.mark.usefixtures("server")
class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "target", "status", "error"),
        [
            ("POST", "/v1/pause?topics=orders", 400, "/v1/pause has no parameter 'topics'"),
            ("GET", "/v1/status?topic=orders", 400, "/v1/status has no parameter 'topic'"),
            ("POST", "/v1/checkpoint?topic=orders", 400, "/v1/checkpoint has no parameter 'topic'"),
            ("POST", "/v1/pause?topic=", 400, "topic is empty"),
            ("POST", "/v1/pause?topic=a&topic=b", 400, "topic is given more than once"),
            ("POST", f"/v1/pause?topic={'a' * (MAX_GLOB_CHARACTERS + 1)}", 400, "topic is longer than 1024 characters"),
            ("POST", "/v1/pause?topic=paymnets*", 400, "no topic matches 'paymnets*'"),
            ("GET", "/v1/flush", 405, "GET /v1/flush: Method Not Allowed"),
            ("POST", "/v2/flush", 404, "POST /v2/flush: Not Found"),
        ],
    )
    async def test_a_wrong_request_changes_nothing_and_says_what_is_wrong(
        self, daemon: FakeDaemon, path: Path, method: str, target: str, status: int, error: str
    ) -> None:
        before = list(daemon.partitions)
        answered, body = await ask(path, method, target)
        assert (answered, body["error"], body["exit_code"]) == (status, error, 2)
        assert set(body) == {"error", "hint", "exit_code"}
        assert daemon.partitions == before

    async def test_a_body_is_refused_so_that_a_topic_inside_it_does_not_become_all_topics(
        self, daemon: FakeDaemon, path: Path
    ) -> None:
        before = list(daemon.partitions)
        status, body = await ask(path, "POST", "/v1/pause", json={"topic": "orders"})
        assert (status, body["exit_code"]) == (400, 2)
        assert daemon.partitions == before

    async def test_requests_beyond_the_limit_are_turned_away_and_served_again_later(
        self, daemon: FakeDaemon, path: Path
    ) -> None:
        daemon.may_flush.clear()
        async with ControlClient(path) as client, asyncio.TaskGroup() as tasks:
            flushes = [tasks.create_task(client.flush("*")) for _ in range(MAX_REQUESTS)]
            refusal = ""
            async with asyncio.timeout(60):
                while not refusal:
                    try:
                        await client.status()
                    except UnreachableError as error:
                        refusal = error.message
            assert refusal == f"{MAX_REQUESTS} requests are being served already"
            daemon.may_flush.set()
            await asyncio.gather(*flushes)
            assert (await client.status()).backup_id == "main"

    @pytest.mark.parametrize(
        ("failure", "status", "raised"),
        [
            (StoreUnavailableError("s3 is away", hint="wait"), 502, UnreachableError),
            (RefusedError("no", hint="wait"), 409, RefusedError),
            (FencedError("taken over", hint="wait"), 409, FencedError),
            (IncompleteError("half", hint="wait"), 502, IncompleteError),
            (KbackupError("odd", hint="wait"), 500, KbackupError),
        ],
    )
    async def test_the_daemons_error_arrives_with_its_message_hint_and_exit_code(
        self, daemon: FakeDaemon, path: Path, failure: KbackupError, status: int, raised: type[KbackupError]
    ) -> None:
        daemon.failure = failure
        assert (await ask(path, "POST", "/v1/flush"))[0] == status
        async with ControlClient(path) as client:
            with pytest.raises(raised) as caught:
                await client.flush("*")
        assert (caught.value.message, caught.value.hint) == (failure.message, "wait")
        assert caught.value.exit_code == failure.exit_code

    @pytest.mark.parametrize("failure", [RuntimeError("password=hunter2"), TimeoutError("of the daemon's own")])
    async def test_a_fault_of_the_daemon_is_exit_code_one_and_tells_no_details(
        self, daemon: FakeDaemon, path: Path, failure: Exception
    ) -> None:
        daemon.failure = failure
        status, body = await ask(path, "POST", "/v1/flush")
        assert (status, body["exit_code"], body["error"]) == (500, 1, "the daemon failed to answer")
        assert "hunter2" not in json.dumps(body)

    async def test_a_client_that_hangs_up_does_not_stop_the_flush(self, daemon: FakeDaemon, path: Path) -> None:
        daemon.may_flush.clear()
        async with ControlClient(path) as client:
            flushing = asyncio.create_task(client.flush("orders"))
            await asyncio.wait_for(daemon.flushing.wait(), 60)
            flushing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flushing
        daemon.may_flush.set()
        async with asyncio.timeout(60):
            await daemon.flushed.wait()
        assert daemon.last_segment is not None


async def test_a_verb_that_takes_too_long_is_answered_before_the_client_gives_up(
    daemon: FakeDaemon, path: Path
) -> None:
    daemon.may_flush.clear()
    server = ControlServer(daemon, path, seconds={"/v1/flush": 0.05})
    await server.start()
    async with ControlClient(path) as client:
        with pytest.raises(UnreachableError, match=r"/v1/flush was not done within 0\.05 s") as caught:
            await client.flush("*")
    assert "goes on" in caught.value.hint
    await server.stop()


class TestTheSocketFile:
    async def test_it_is_private_from_the_moment_it_exists_and_the_umask_is_left_alone(
        self, daemon: FakeDaemon, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        bind = socket.socket.bind

        def spying_bind(self: socket.socket, address: Any) -> None:
            bind(self, address)
            seen.append(mode(path))

        monkeypatch.setattr(socket.socket, "bind", spying_bind)
        before = os.umask(0o000)
        try:
            server = ControlServer(daemon, path)
            await server.start()
            assert os.umask(0o000) == 0o000
        finally:
            os.umask(before)
        assert seen == [0o600]
        assert mode(path) == 0o600
        await server.stop()

    async def test_it_is_removed_on_stop_and_stop_may_come_twice(self, daemon: FakeDaemon, path: Path) -> None:
        server = ControlServer(daemon, path)
        await server.start()
        await server.stop()
        await server.stop()
        assert os.listdir(path.parent) == []

    async def test_a_stale_socket_is_replaced(self, daemon: FakeDaemon, path: Path) -> None:
        leave_stale(path)
        server = ControlServer(daemon, path)
        await server.start()
        async with ControlClient(path) as client:
            assert (await client.status()).backup_id == "main"
        await server.stop()

    @pytest.mark.usefixtures("server")
    async def test_a_live_socket_is_refused_and_goes_on_serving(self, daemon: FakeDaemon, path: Path) -> None:
        with pytest.raises(RefusedError, match="another process answers on") as caught:
            await ControlServer(daemon, path).start()
        assert caught.value.exit_code == 5
        async with ControlClient(path) as client:
            assert (await client.status()).backup_id == "main"

    async def test_a_listener_whose_queue_is_full_counts_as_alive(self, daemon: FakeDaemon, path: Path) -> None:
        with contextlib.ExitStack() as sockets:
            busy = sockets.enter_context(socket.socket(socket.AF_UNIX))
            busy.bind(str(path))
            busy.listen(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    waiting = sockets.enter_context(socket.socket(socket.AF_UNIX))
                    waiting.setblocking(False)
                    waiting.connect(str(path))
            with pytest.raises(RefusedError):
                await ControlServer(daemon, path).start()

    async def test_a_file_that_is_no_socket_is_never_removed(self, daemon: FakeDaemon, path: Path) -> None:
        os.mknod(path)
        with pytest.raises(RefusedError, match="exists and is not a socket"):
            await ControlServer(daemon, path).start()
        assert stat.S_ISREG(os.lstat(path).st_mode)

    async def test_stop_leaves_the_socket_of_a_successor_alone(self, daemon: FakeDaemon, path: Path) -> None:
        first = ControlServer(daemon, path)
        await first.start()
        os.unlink(path)
        second = ControlServer(daemon, path)
        await second.start()
        await first.stop()
        async with ControlClient(path) as client:
            assert (await client.status()).backup_id == "main"
        await second.stop()

    async def test_a_missing_directory_is_named_with_the_remedy(self, daemon: FakeDaemon, path: Path) -> None:
        with pytest.raises(ConfigurationError, match=f"there is no directory {path.parent}/absent") as caught:
            await ControlServer(daemon, path.parent / "absent" / "c.sock").start()
        assert "RuntimeDirectory" in caught.value.hint

    async def test_a_path_too_long_for_a_socket_is_refused_with_the_limit(self, daemon: FakeDaemon, path: Path) -> None:
        with pytest.raises(ConfigurationError, match="107 bytes"):
            await ControlServer(daemon, path.with_name("x" * 100)).start()


class TestWithoutADaemon:
    async def test_no_socket(self, path: Path) -> None:
        async with ControlClient(path) as client:
            with pytest.raises(UnreachableError, match=f"there is no socket {path}") as caught:
                await client.status()
        assert "--socket" in caught.value.hint
        assert caught.value.exit_code == 4

    async def test_nobody_listening(self, path: Path) -> None:
        leave_stale(path)
        async with ControlClient(path) as client:
            with pytest.raises(UnreachableError, match=f"nobody listens on {path}"):
                await client.status()

    async def test_a_directory_or_another_file_is_not_taken_for_a_dead_daemons_socket(self, path: Path) -> None:
        for wrong in (path.parent, Path(__file__)):
            async with ControlClient(wrong) as client:
                with pytest.raises(UnreachableError, match=f"{wrong} is no socket") as caught:
                    await client.status()
            assert "--socket" in caught.value.hint

    async def test_no_permission(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def refused(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", refused)
        async with ControlClient(path) as client:
            with pytest.raises(DeniedError, match=f"no permission to use {path}") as caught:
                await client.status()
        assert caught.value.exit_code == 4

    async def test_a_daemon_that_accepts_and_never_answers_is_given_up_in_time(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(path))
            silent.listen()
            async with ControlClient(path, seconds=0.05) as client:
                with pytest.raises(UnreachableError, match=r"no answer from .* within 0\.05 s"):
                    await client.status()

    async def test_a_connection_that_breaks_in_the_middle(self, path: Path) -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            writer.close()

        async with await asyncio.start_unix_server(hang_up, path), ControlClient(path) as client:
            with pytest.raises(UnreachableError, match="broke"):
                await client.status()

    @pytest.mark.parametrize("answer", [b"<html>", b'{"version": 5}'])
    async def test_another_program_on_the_path_is_not_mistaken_for_a_daemon(self, path: Path, answer: bytes) -> None:
        async def foreign(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(foreign, path), ControlClient(path) as client:
            with pytest.raises(UnreachableError, match="no kbackupd this client understands"):
                await client.status()


async def test_fields_a_newer_daemon_adds_are_ignored(daemon: FakeDaemon, path: Path) -> None:
    async def newer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"topics": ["a"], "partitions": 1, "paused": True, "durable": True, "mood": "good"}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(newer, path), ControlClient(path) as client:
        assert (await client.pause("*")).topics == ("a",)


def test_the_daemon_answers_what_it_achieved_before_the_socket_gives_up() -> None:
    assert SECONDS["/v1/flush"] > steering.FLUSH_DEADLINE_SECONDS > steering.CAPTURE_DEADLINE_SECONDS
    assert steering.PAUSE_DEADLINE_SECONDS < SECONDS["/v1/pause"] == SECONDS["/v1/resume"]


@pytest.mark.usefixtures("server")
async def test_the_document_names_every_verb_time_limit_and_field(daemon: FakeDaemon, path: Path) -> None:
    text = DOCUMENT.read_text()
    for verb, seconds in SECONDS.items():
        (row,) = [line for line in text.splitlines() if line.startswith("|") and f"{verb}" in line]
        assert f"{seconds:g} s" in row
    assert f"after {steering.CAPTURE_DEADLINE_SECONDS:g} s" in text
    assert f"within {steering.FLUSH_DEADLINE_SECONDS:g} s" in text
    assert f"after\n{steering.CHECKPOINT_DEADLINE_SECONDS:g} s" in text
    daemon.problems = (Problem(subject="s3", message="slow", hint="", since_ms=0, count=1),)
    daemon.notes = daemon.problems
    daemon.left_out = (
        LeftOutPartition(
            topic="orders", topic_id="i", partition=0, durable_offset=-1, state=PartitionState.PAUSED, reason="paused"
        ),
    )
    _, flush = await ask(path, "POST", "/v1/flush")
    _, checkpoint = await ask(path, "POST", "/v1/checkpoint")
    _, reload = await ask(path, "POST", "/v1/reload")
    _, pause = await ask(path, "POST", "/v1/pause")
    _, status = await ask(path, "GET", "/v1/status")
    fields = {*status, *status["memory"], *status["last_segment"]}
    for rows in ("tiers", "topics", "problems", "notes"):
        fields |= set(status[rows][0])
    fields |= {*reload, *reload["applied"][0], *reload["needs_restart"][0]}
    fields |= {*checkpoint, *flush, *flush["partitions"][0], *flush["left_out"][0], *pause}
    missing = {field for field in fields if f"`{field}`" not in text and f"`{field}[]`" not in text}
    assert missing == set()
