"""What a segment's upload leaves in memory when it failed: nothing that only a search for garbage would find."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from kbackupd.model.errors import StoreUnavailableError
from kbackupd.model.settings import S3Settings, Secret
from kbackupd.store.retrying import RetryingStore, RetryPolicy
from kbackupd.store.s3 import S3Store
from kbackupd.testbed.proxy import reset
from tests.unit.kafka.sockets import refusing_port

_BYTES = 3_000_000


class _Buffer(bytearray):
    """One that can be referred to weakly."""


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@asynccontextmanager
async def _server(how: str) -> AsyncIterator[int]:
    """Reads a request's head, tells it to go on, reads some of the body, and then fails it."""
    if how == "refuses":
        yield refusing_port()
        return
    until = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if how != "resets at once":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await reader.readexactly(_BYTES // 3)
            if how == "stops reading":
                await until.wait()
            if how == "answers 503":
                await reader.readexactly(_BYTES - _BYTES // 3)
                writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")
            else:
                reset(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        until.set()
        server.close()


@pytest.mark.parametrize("how", ["refuses", "resets at once", "resets half-way", "stops reading", "answers 503"])
@pytest.mark.usefixtures("no_garbage_collector")
async def test_an_upload_that_failed_leaves_no_reference_to_its_bytes(how: str) -> None:
    """Invariant I9: the budget has them back by then, and whoever reserves them next would be the second."""
    async with _server(how) as port:
        inner = await S3Store.open(
            S3Settings(
                bucket="bucket",
                region="us-east-1",
                endpoint=f"http://127.0.0.1:{port}",
                access_key_id=Secret("key"),
                secret_access_key=Secret("secret"),
            )
        )
        store = RetryingStore(
            inner,
            policy=RetryPolicy(attempt_seconds=1.0, total_seconds=0.5, slowest_bytes_per_second=1 << 30),
        )
        gone = asyncio.Event()
        try:
            await _fail_to_put(store, gone)
            await asyncio.wait_for(gone.wait(), 30.0)
        finally:
            await store.close()


async def _fail_to_put(store: RetryingStore, gone: asyncio.Event) -> None:
    buffer = _Buffer(_BYTES)
    # The last to let go may be the thread that made the checksum, and a loop at rest does not hear of what others do.
    weakref.finalize(buffer, asyncio.get_running_loop().call_soon_threadsafe, gone.set)
    with pytest.raises(StoreUnavailableError):
        await store.put_if_absent("segments/1", [buffer])
