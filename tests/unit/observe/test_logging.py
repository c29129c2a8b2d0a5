"""Log lines: readable by machines, free of secrets, and never in the way of the event loop (hazards 48, 49)."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from kbackupd.model.settings import Secret
from kbackupd.observe.events import LIBRARY_LOGGED, LINES_DROPPED, SEGMENT_STORED
from kbackupd.observe.logging import MASK, LogFormat, configure_logging, mask_text
from kbackupd.observe.writer import LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def read_all(pipe: tuple[int, int]) -> list[str]:
    """Everything written so far; closes the writing end."""
    reading, writing = pipe
    os.close(writing)
    with os.fdopen(os.dup(reading), encoding="utf-8") as stream:
        return stream.read().splitlines()


def lost(count: int) -> str:
    return f"lost {count}"


def fill(fd: int) -> None:
    """Leave no room in the pipe, as a reader does that stopped reading."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        while True:
            os.write(fd, b"." * 4096)
    except BlockingIOError:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def events(pipe: tuple[int, int]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_all(pipe)]


def test_a_line_is_one_json_object_with_event_level_time_and_fields(pipe: tuple[int, int]) -> None:
    writer = configure_logging(format="json", level="info", fd=pipe[1])
    structlog.get_logger().info(SEGMENT_STORED, key="segments/main/1/2.kbs", stored_bytes=7)
    structlog.get_logger().debug("batch.fetched")
    assert writer.close(60)
    (event,) = events(pipe)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": SEGMENT_STORED, "level": "info", "key": "segments/main/1/2.kbs", "stored_bytes": 7}


def test_console_lines_are_plain_when_they_are_piped(pipe: tuple[int, int]) -> None:
    writer = configure_logging(format="console", level="info", fd=pipe[1])
    structlog.get_logger().warning("gap.recorded", topic="orders")
    assert writer.close(60)
    (line,) = read_all(pipe)
    assert "gap.recorded" in line
    assert "topic=orders" in line
    assert "\x1b" not in line


def test_a_traceback_is_part_of_its_json_line(pipe: tuple[int, int]) -> None:
    writer = configure_logging(format="json", level="info", fd=pipe[1])
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("task.failed")
    assert writer.close(60)
    (event,) = events(pipe)
    assert "ValueError: broken" in event["exception"]


def test_secrets_do_not_get_into_the_log_by_name_by_text_or_inside_a_traceback(pipe: tuple[int, int]) -> None:
    writer = configure_logging(format="json", level="info", fd=pipe[1])
    try:
        raise ValueError("GET https://user:hunter2@s3.example/x?X-Amz-Signature=hunter2 password=hunter2")
    except ValueError:
        structlog.get_logger().exception(
            "task.failed",
            sasl_password="hunter2",
            secret_access_key="hunter2",
            wrapped=Secret("hunter2"),
            nested={"token": "hunter2", "port": 9092},
            url="kafka://me:hunter2@broker:9092",
        )
    assert writer.close(60)
    (line,) = read_all(pipe)
    assert "hunter2" not in line
    event = json.loads(line)
    assert event["sasl_password"] == MASK
    assert event["nested"] == {"token": MASK, "port": 9092}
    assert event["url"] == f"kafka://me:{MASK}@broker:9092"


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(pipe: tuple[int, int], format: LogFormat) -> None:
    writer = configure_logging(format=format, level="info", fd=pipe[1])
    unnamed = ["hunter2"]
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("task.failed", fields=len(unnamed))
    assert writer.close(60)
    text = "\n".join(read_all(pipe))
    assert "ValueError: broken" in text
    assert "hunter2" not in text.replace('unnamed = ["hunter2"]', "")


def test_masking_leaves_ordinary_text_alone() -> None:
    text = "orders/3 at https://s3.example:9000/bucket?list-type=2, token bucket is empty"
    assert mask_text(text) == text


def test_libraries_speak_through_the_same_lines_once_a_minute_with_a_count(pipe: tuple[int, int]) -> None:
    writer = configure_logging(format="json", level="info", fd=pipe[1])
    for node in range(50):
        logging.getLogger("library").error("Unable connect to node with id %s", node)
    logging.getLogger("library").info("chatter")
    assert writer.close(60)
    (event,) = events(pipe)
    assert (event["event"], event["logger"], event["message"]) == (
        LIBRARY_LOGGED,
        "library",
        "Unable connect to node with id 0",
    )


async def test_a_blocked_stdout_does_not_hold_up_the_loop_and_what_is_lost_is_counted(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    writer = LineWriter(pipe[1], lost=lost, limit_bytes=10_000)
    async with asyncio.timeout(60):
        for n in range(2_000):
            writer.write(f"line {n:04} " + "x" * 90)
            await asyncio.sleep(0)
    assert writer.dropped >= 1_900
    assert not writer.close(timeout_seconds=0.05), "closing waits no longer than told"
    os.close(pipe[0])
    writer.close()


def until_taken(writer: LineWriter) -> None:
    """Return when the thread is stuck with the first line; what is lost from then on, it confesses at once."""
    deadline = time.monotonic() + 60
    while writer._lines:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_after_a_jam_the_output_goes_on_and_confesses_how_many_lines_are_missing(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    writer = LineWriter(pipe[1], lost=lost, limit_bytes=1_000)
    writer.write("line 000")
    until_taken(writer)
    for n in range(1, 200):
        writer.write(f"line {n:03}")
    dropped = writer.dropped
    assert dropped > 0
    received = b""
    while b"lost" not in received:
        received += os.read(pipe[0], 65_536)
    assert not writer.close(60), "lines were lost, so not everything got out"
    lines = (received.lstrip(b".").decode() + "\n".join(read_all(pipe))).splitlines()
    assert f"lost {dropped}" in lines
    assert [line for line in lines if line.startswith("line")] == [f"line {n:03}" for n in range(200 - dropped)]


def test_the_json_log_confesses_lost_lines_as_an_event(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    writer = configure_logging(format="json", level="info", fd=pipe[1])
    structlog.get_logger().info("segment.stored", filler="x" * 100_000)
    until_taken(writer)
    for _ in range(99):
        structlog.get_logger().info("segment.stored", filler="x" * 100_000)
    dropped = writer.dropped
    received = b""
    while LINES_DROPPED.encode() not in received:
        received += os.read(pipe[0], 1 << 20)
    while not received.endswith(b"\n"):
        received += os.read(pipe[0], 1 << 20)
    confession = next(line for line in received.decode().splitlines() if LINES_DROPPED in line)
    assert json.loads(confession)["count"] == dropped
    os.close(pipe[0])
    writer.close()


def test_where_the_system_has_no_thread_left_a_line_is_lost_and_confessed_with_the_next_one(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    writer = LineWriter(pipe[1], lost=lost)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        writer.write("first")
    writer.write("second")
    assert not writer.close()
    assert read_all(pipe) == ["second", "lost 1"]


def test_an_output_that_is_gone_loses_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    writer = LineWriter(pipe[1], lost=lost)
    writer.write("into the void")
    assert not writer.close()
    assert writer.dropped == 1


def test_a_descriptor_that_came_non_blocking_is_written_to_all_the_same(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer = LineWriter(pipe[1], lost=lost)
    long = "y" * 200_000
    writer.write(long)
    received = b""
    while not received.endswith(b"\n"):
        received += os.read(pipe[0], 65_536)
    assert received.decode() == long + "\n"
    assert writer.close(60)


def test_lines_after_closing_are_counted_as_lost(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], lost=lost)
    assert writer.close(60)
    writer.write("late")
    assert writer.dropped == 1
