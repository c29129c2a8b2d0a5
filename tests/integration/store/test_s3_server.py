"""What only a real S3 server shows: its refusals, its absence, its silence, and that it keeps objects whole."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kbackupd.model.errors import (
    KbackupError,
    ObjectExistsError,
    StoreDeniedError,
    StoreUnavailableError,
)
from kbackupd.model.settings import S3Settings, Secret, StorageSettings
from kbackupd.store.open import open_store, parse_location
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.retrying import RetryPolicy
from kbackupd.store.s3 import S3Limits
from kbackupd.testbed.ports import free_ports
from kbackupd.testbed.s3 import S3Server

SHORT = RetryPolicy(attempt_seconds=1.0, total_seconds=2.0, slowest_bytes_per_second=1 << 40)
SEGMENT = os.urandom(16 << 20)


@asynccontextmanager
async def opened(settings: S3Settings, policy: RetryPolicy | None = None) -> AsyncIterator[ObjectStore]:
    store = await open_store(StorageSettings(backend=settings), policy=policy, environ={})
    try:
        yield store
    finally:
        await store.close()


async def errors_of_every_operation(store: ObjectStore) -> list[KbackupError]:
    """Each operation's error; one that does not fail fails the test."""
    errors: list[KbackupError] = []
    for call in (
        store.put_if_absent("key", [b"x"]),
        store.put_if_absent("key", [SEGMENT]),
        store.get("key"),
        store.get_range("key", 0, 1),
        store.get_suffix("key", 1),
        store.head("key"),
        anext(store.list_from("")),
        store.delete_many(["key"]),
    ):
        with pytest.raises(KbackupError) as caught:
            await call
        errors.append(caught.value)
    return errors


@pytest.mark.parametrize("wrong", ["key", "secret"])
async def test_wrong_credentials_are_denied_never_absent_and_never_retried(
    s3_settings: S3Settings, s3_server: S3Server, wrong: str
) -> None:
    settings = dataclasses.replace(
        s3_settings,
        access_key_id=Secret("nobody" if wrong == "key" else s3_server.access_key),
        secret_access_key=Secret("guessed"),
    )
    async with opened(settings) as store:
        for error in await errors_of_every_operation(store):
            assert isinstance(error, StoreDeniedError)
            assert error.hint
            assert "guessed" not in str(error)


async def test_missing_bucket_is_denied_with_a_hint_never_an_empty_archive(s3_settings: S3Settings) -> None:
    async with opened(dataclasses.replace(s3_settings, bucket="kbackupd-no-such-bucket")) as store:
        for call in (
            store.get("key"),
            store.get_range("key", 0, 1),
            store.get_suffix("key", 1),
            store.head("key"),
            anext(store.list_from("")),
            store.delete_many(["key"]),
        ):
            with pytest.raises(StoreDeniedError) as caught:
                await call
            assert "bucket" in caught.value.hint


async def test_dead_port_is_unavailable_when_the_total_deadline_has_passed(s3_settings: S3Settings) -> None:
    (closed,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{closed}"
    policy = RetryPolicy(total_seconds=0.3, first_wait_seconds=0.05)
    async with opened(dataclasses.replace(s3_settings, endpoint=endpoint), policy) as store:
        for error in await errors_of_every_operation(store):
            assert isinstance(error, StoreUnavailableError)
            assert error.cause == "connect"
            assert "gave up after" in error.message


async def test_hazard_40_server_that_is_silent_without_closing_is_unavailable_and_usable_again_later(
    s3_settings: S3Settings, s3_server: S3Server
) -> None:
    async with opened(s3_settings) as patient:
        await patient.put_if_absent("before", [b"x"])
    async with opened(s3_settings, SHORT) as store:
        s3_server.freeze()
        try:
            for call in (store.get("before"), store.put_if_absent("during", [SEGMENT])):
                with pytest.raises(StoreUnavailableError) as caught:
                    await call
                assert caught.value.cause == "timeout"
        finally:
            s3_server.thaw()
        assert await once_available(store, "before") == b"x"


async def once_available(store: ObjectStore, key: str) -> bytes:
    """A server that wakes has first to see to all that was asked of it meanwhile."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(StoreUnavailableError):
                return await store.get(key)


async def test_operation_outlives_a_restart_of_the_server(s3_settings: S3Settings, s3_server: S3Server) -> None:
    async with opened(s3_settings) as store:
        await store.put_if_absent("before", [SEGMENT])
        await s3_server.akill()
        async with asyncio.TaskGroup() as group:
            read = group.create_task(store.get("before"))
            group.create_task(store.put_if_absent("during", [SEGMENT]))
            group.create_task(s3_server.astart())
        assert read.result() == SEGMENT
        assert await store.get("during") == SEGMENT


async def test_cancelled_put_leaves_the_whole_object_or_none(s3_settings: S3Settings) -> None:
    async with opened(s3_settings) as store:
        for turns in (1, 10, 40, 80, 160, 320, 640):
            put = asyncio.create_task(store.put_if_absent(f"cancelled/{turns}", [SEGMENT]))
            for _ in range(turns):
                await asyncio.sleep(0)
            put.cancel()
            await asyncio.wait([put])
        async for info in store.list_from("cancelled/"):
            assert await store.get(info.key) == SEGMENT


async def test_identical_big_object_is_recognised_by_the_servers_checksum(s3_settings: S3Settings) -> None:
    async with opened(s3_settings) as store:
        await store.put_if_absent("segment", [SEGMENT])
        await store.put_if_absent("segment", [SEGMENT[:1000], SEGMENT[1000:]])
        with pytest.raises(ObjectExistsError):
            await store.put_if_absent("segment", [SEGMENT[:-1], bytes([SEGMENT[-1] ^ 1])])
        assert await store.get("segment") == SEGMENT


async def test_more_requests_at_once_than_connections_wait_their_turn(s3_settings: S3Settings) -> None:
    store = await open_store(StorageSettings(backend=s3_settings), limits=S3Limits(connections=2), environ={})
    try:
        await store.put_if_absent("segment", [SEGMENT])
        ranges = await asyncio.gather(*(store.get_range("segment", first, 1000) for first in range(0, 100_000, 1000)))
        assert b"".join(ranges) == SEGMENT[:100_000]
    finally:
        await store.close()


async def test_hazard_17_address_and_standard_variables_are_enough(
    s3_server: S3Server, s3_bucket: str, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    store = await open_store(parse_location(f"s3://{s3_bucket}/{s3_prefix}", os.environ))
    try:
        await store.put_if_absent("key", [b"x"])
        status, body = s3_server.client().request("GET", f"/{s3_bucket}/{s3_prefix}/key")
        assert (status, body) == (200, b"x")
    finally:
        await store.close()
