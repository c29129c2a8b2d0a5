"""Answers as they come off the wire: cut anywhere, of any size, ended at any point; each whole frame exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from kbackupd.kafka import frames
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.frames import FrameReader
from kbackupd.model.errors import KafkaUnavailableError
from tests.unit.kafka.sockets import FETCH, connection_to, fake_broker, fetch_answer, fetched, session_over


class _Before(asyncio.StreamReaderProtocol):
    """The protocol that was there first; notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True


def _framed(*bodies: bytes) -> bytes:
    return b"".join(struct.pack(">i", len(body)) + body for body in bodies)


def _feed(reader: FrameReader, data: bytes, step: int) -> None:
    """As an event loop does: never more than the buffer it was given takes, at most `step` bytes at a time."""
    while data:
        buffer = reader.get_buffer(-1)
        taken = min(step, len(buffer), len(data))
        buffer[:taken] = data[:taken]
        buffer.release()
        reader.buffer_updated(taken)
        data = data[taken:]


@given(bodies=st.lists(st.binary(max_size=300), max_size=6), step=st.integers(1, 400), grow=st.integers(1, 500))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(bodies: list[bytes], step: int, grow: int) -> None:
    async def received() -> list[bytes]:
        reader = FrameReader(_Before())
        _feed(reader, _framed(*bodies), step)
        return [bytes(await reader.frame()) for _ in bodies]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "GROW_BYTES", grow)
        assert asyncio.run(received()) == bodies


async def test_who_waits_for_a_frame_gets_it_when_its_last_byte_comes() -> None:
    reader = FrameReader(_Before())
    waiting = asyncio.create_task(reader.frame())
    data = _framed(b"answer")
    _feed(reader, data[:-1], 3)
    await asyncio.sleep(0)
    assert not waiting.done()
    _feed(reader, data[-1:], 3)
    assert await waiting == b"answer"


async def test_what_was_whole_before_the_connection_ended_is_still_handed_out_and_then_the_end() -> None:
    before = _Before()
    reader = FrameReader(before)
    _feed(reader, _framed(b"whole") + _framed(b"cut off")[:-2], 100)
    reader.eof_received()
    reader.connection_lost(None)

    assert not reader.at_eof()
    assert await reader.frame() == b"whole"
    assert reader.at_eof()
    with pytest.raises(EOFError):
        await reader.frame()
    assert before.told == ["eof", "lost"]


async def test_a_reset_ends_the_waiting_with_itself() -> None:
    reader = FrameReader(_Before())
    waiting = asyncio.create_task(reader.frame())
    await asyncio.sleep(0)
    reader.connection_lost(ConnectionResetError("by the peer"))
    with pytest.raises(ConnectionResetError):
        await waiting


async def test_a_senseless_length_takes_no_memory() -> None:
    reader = FrameReader(_Before())
    _feed(reader, struct.pack(">i", 2**31 - 1), 4)
    assert len(reader.get_buffer(-1)) == frames.GROW_BYTES

    negative = FrameReader(_Before())
    _feed(negative, struct.pack(">i", -5), 4)
    with pytest.raises(EOFError, match="-5 bytes"):
        await negative.frame()


@pytest.mark.parametrize(
    "end",
    [
        lambda reader: reader.connection_lost(ConnectionResetError("by the peer")),
        lambda reader: reader.eof_received(),
        lambda reader: reader.discard(),
    ],
    ids=["reset", "eof", "given up"],
)
async def test_of_a_frame_that_was_cut_off_nothing_is_kept_and_of_what_still_comes_neither(
    end: Callable[[FrameReader], object],
) -> None:
    """Invariant I9: what was reserved for it is given back by then, and only a search for garbage would find it."""
    reader = FrameReader(_Before())
    waiting = asyncio.create_task(reader.frame())
    await asyncio.sleep(0)
    tracemalloc.start()
    try:
        _feed(reader, struct.pack(">i", 24 << 20) + bytes(64), 64)
        assert tracemalloc.get_traced_memory()[0] > 24 << 20
        end(reader)
        with pytest.raises((EOFError, ConnectionResetError)):
            await waiting
        for _ in range(3):
            _feed(reader, _framed(b"x" * 500_000), 1 << 20)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises((EOFError, ConnectionResetError)):
        await reader.frame()


async def test_a_dropped_connection_gives_up_what_it_had_of_an_answer() -> None:
    """A transport outlives its connection: over TLS until the other side has agreed, and it goes on delivering."""
    readers: list[FrameReader] = []
    whole = _framed(bytes(4) + fetch_answer(bytes(2 << 20)))
    asked = asyncio.Event()

    def silent(key: int, _: bytes) -> None:
        if key == FETCH:
            asked.set()

    class Noted(FrameReader):
        def __init__(self, before: asyncio.StreamReaderProtocol) -> None:
            super().__init__(before)
            readers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "FrameReader", Noted)
        async with fake_broker(respond=silent) as broker, connection_to(broker.port) as connection:
            fetching = asyncio.create_task(fetched(session_over(connection)))
            await asyncio.wait_for(asked.wait(), 60.0)
            receiving = readers[-1]
            _feed(receiving, whole[:-1], 1 << 20)
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
            assert len(receiving.get_buffer(-1)) <= 64 << 10
            _feed(receiving, whole[-1:], 1)
            with pytest.raises(EOFError):
                await receiving.frame()


@contextlib.asynccontextmanager
async def _session_with(answer: bytes) -> AsyncIterator[FetchSession]:
    """A session with a broker that answers every fetch so; b"": that hangs up."""
    async with (
        fake_broker(respond=lambda key, _: answer if key == FETCH else None) as broker,
        connection_to(broker.port) as connection,
    ):
        yield session_over(connection)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_fetch_answers_of_megabytes_arrive_as_the_bytes_that_were_sent(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    records = bytes(range(256)) * (12 << 10)

    async def received() -> list[bytes]:
        async with _session_with(fetch_answer(records)) as session:
            return [records for _ in range(3) for records in await fetched(session)]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        found = runner.run(received())
    assert found == [records] * 3
    assert {type(one) for one in found} == {bytes}


async def test_a_broker_that_hangs_up_instead_of_answering_is_unavailable_not_a_hang() -> None:
    async with _session_with(b"") as session:
        with pytest.raises(KafkaUnavailableError):
            await fetched(session)
