"""The proxy in front of the real S3 server: passes what it is told to pass, and breaks what it is told to break."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kbackupd.model.errors import ObjectMissingError, StoreUnavailableError
from kbackupd.model.settings import S3Settings
from kbackupd.store.s3 import S3Limits, S3Store
from kbackupd.testbed.proxy import CutAnswer, LoseAnswer, Reset
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.s3_proxy import Answer, CutUpload, S3Proxy, Stall, Trickle
from tests.integration.conditions import reaches


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy(s3_server.port) as proxy:
        yield proxy


PATIENT = S3Limits(connect_timeout_seconds=60.0, read_timeout_seconds=60.0)
"""A busy server takes its time, and without a fault every request must succeed."""
IMPATIENT = S3Limits(connect_timeout_seconds=60.0, read_timeout_seconds=2.0)
"""For requests that are stalled until they are given up."""


async def store_behind(proxy: S3Proxy, s3: S3Server, bucket: str, prefix: str, limits: S3Limits = PATIENT) -> S3Store:
    backend = s3.storage(bucket, prefix).backend
    assert isinstance(backend, S3Settings)
    return await S3Store.open(replace(backend, endpoint=proxy.endpoint), limits=limits)


async def test_signed_requests_of_every_kind_and_size_pass_through_unchanged(
    proxy: S3Proxy, s3_server: S3Server, s3_bucket: str, s3_prefix: str
) -> None:
    store = await store_behind(proxy, s3_server, s3_bucket, s3_prefix)
    try:
        large = bytes(range(256)) * 12_000
        await store.put_if_absent("large", [large])
        await store.put_if_absent("empty", [b""])
        assert await store.get("large") == large
        assert await store.get_range("large", 255, 3) == b"\xff\x00\x01"
        assert (await store.head("empty")).size_bytes == 0
        assert [info.key async for info in store.list_from("")] == ["empty", "large"]
        with pytest.raises(ObjectMissingError):
            await store.get("absent")
        await store.delete_many(["large", "empty"])
        assert [info.key async for info in store.list_from("")] == []
    finally:
        await store.close()


@pytest.mark.parametrize(
    "fault", [Answer(status=503), Answer(status=500, code="InternalError"), Reset(), CutAnswer(after_bytes=3), Stall()]
)
async def test_a_struck_read_is_never_an_answer_and_the_next_one_is(
    fault: Answer | Reset | CutAnswer | Stall, proxy: S3Proxy, s3_server: S3Server, s3_bucket: str, s3_prefix: str
) -> None:
    store = await store_behind(proxy, s3_server, s3_bucket, s3_prefix)
    struck = await store_behind(proxy, s3_server, s3_bucket, s3_prefix, IMPATIENT)
    try:
        await store.put_if_absent("object", [b"contents"])
        # Twice: the HTTP client sends a request once more when the connection breaks before an answer.
        rule = proxy.strike(fault, method="GET", key_part="object", times=2)
        with pytest.raises(StoreUnavailableError):
            await struck.get("object")
        assert rule.struck
        rule.lift()
        assert await store.get("object") == b"contents"
    finally:
        await struck.close()
        await store.close()


async def test_a_torn_upload_leaves_nothing_and_a_lost_answer_leaves_the_object(
    proxy: S3Proxy, s3_server: S3Server, s3_bucket: str, s3_prefix: str
) -> None:
    store = await store_behind(proxy, s3_server, s3_bucket, s3_prefix)
    try:
        proxy.strike(CutUpload(after_bytes=1_000), method="PUT", key_part="torn", times=2)
        with pytest.raises(StoreUnavailableError):
            await store.put_if_absent("torn", [bytes(100_000)])
        # More than once where the answer that was lost is a busy server's refusal.
        for _ in range(10):
            rule = proxy.strike(LoseAnswer(), method="PUT", key_part="unheard")
            with pytest.raises(StoreUnavailableError):
                await store.put_if_absent("unheard", [b"contents"])
            rule.lift()
            if found := [info.key async for info in store.list_from("")]:
                break
        assert found == ["unheard"]
    finally:
        await store.close()


async def test_a_stalled_upload_arrives_late_when_its_client_has_given_up(
    proxy: S3Proxy, s3_server: S3Server, s3_bucket: str, s3_prefix: str
) -> None:
    store = await store_behind(proxy, s3_server, s3_bucket, s3_prefix, IMPATIENT)
    try:
        rule = proxy.strike(Stall(), method="PUT", key_part="late", times=1)
        with pytest.raises(StoreUnavailableError):
            await store.put_if_absent("late", [bytes(300_000)])
        assert s3_server.list_objects(s3_bucket, s3_prefix) == {}
        rule.lift()
        await reaches(lambda: s3_server.list_objects(s3_bucket, s3_prefix) == {f"{s3_prefix}/late": 300_000})
    finally:
        await store.close()


async def test_other_connections_go_on_while_one_request_is_stalled(
    proxy: S3Proxy, s3_server: S3Server, s3_bucket: str
) -> None:
    rule = proxy.strike(Stall(), key_part="held")
    held = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    waiting = threading.Thread(target=held.request, args=("GET", f"/{s3_bucket}/held"))
    waiting.start()
    await reaches(lambda: rule.struck == [f"/{s3_bucket}/held"])
    other = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    other.request("GET", f"/{s3_bucket}/other")
    assert other.getresponse().status == 403  # unsigned: the server's own word
    proxy.clear()
    waiting.join()
    assert held.getresponse().status == 403
    held.close()
    other.close()


async def test_a_trickle_brings_everything_in_its_own_time(
    proxy: S3Proxy, s3_server: S3Server, s3_bucket: str, s3_prefix: str
) -> None:
    store = await store_behind(proxy, s3_server, s3_bucket, s3_prefix)
    try:
        contents = bytes(range(256)) * 100
        rule = proxy.strike(Trickle(bytes_per_second=40_000))
        began = time.monotonic()
        await store.put_if_absent("object", [contents])
        assert await store.get("object") == contents
        assert time.monotonic() - began > 2 * len(contents) / 40_000 / 2  # both ways; half of it for generous rounding
        assert rule.struck
    finally:
        await store.close()


async def test_a_share_of_the_requests_is_struck_and_the_same_ones_with_the_same_seed(
    proxy: S3Proxy, s3_server: S3Server, s3_bucket: str
) -> None:
    def answers(seed: int) -> list[int]:
        rule = proxy.strike(Answer(status=503), share=0.5, seed=seed)
        found = []
        for number in range(40):
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
            connection.request("GET", f"/{s3_bucket}/{number}")
            found.append(connection.getresponse().status)
            connection.close()
        rule.lift()
        return found

    first = answers(1)
    assert set(first) == {503, 403}  # unsigned: the server itself says 403
    assert answers(1) == first
    assert answers(2) != first
    assert proxy.seen["GET"] == 120
