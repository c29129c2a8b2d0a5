"""What the S3 store makes of everything a server, or the network before it, can answer."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from crc32c import crc32c

from kbackupd.model.errors import (
    CorruptObjectError,
    KbackupError,
    ObjectExistsError,
    ObjectMissingError,
    StoreDeniedError,
    StoreUnavailableError,
)
from kbackupd.model.settings import S3Settings, Secret
from kbackupd.store.protocol import ObjectStore
from kbackupd.store.retrying import RetryingStore
from kbackupd.store.s3 import COMPARE_BYTES, S3Limits, S3Store
from tests.unit.store.scripted_s3 import HANG_UP, SILENCE, Answer, ScriptedS3, fault

OK = Answer()
EXISTS = fault(412, "PreconditionFailed")
BIG = bytes(range(256)) * 2048
IMPATIENT = S3Limits(connect_timeout_seconds=60.0, read_timeout_seconds=0.2)
"""For what never comes."""


@asynccontextmanager
async def against(
    answers: Sequence[Answer], limits: S3Limits | None = None
) -> AsyncIterator[tuple[S3Store, ScriptedS3]]:
    async with ScriptedS3(answers) as server:
        store = await S3Store.open(server.settings, limits=limits)
        try:
            yield store, server
        finally:
            await store.close()


def checksum(data: bytes) -> str:
    return base64.b64encode(crc32c(data).to_bytes(4, "big")).decode()


def listing(keys: Sequence[str], *, token: str | None = None, truncated: bool | None = None) -> Answer:
    rows = "".join(
        f"<Contents><Key>prefix/{key}</Key><LastModified>2026-11-23T20:00:00.000Z</LastModified><Size>7</Size></Contents>"
        for key in keys
    )
    more = token is not None if truncated is None else truncated
    tail = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
    tail += f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return Answer(body=f"<?xml version='1.0'?><ListBucketResult>{rows}{tail}</ListBucketResult>".encode())


async def failure_of(answer: Answer, limits: S3Limits | None = None) -> KbackupError:
    # Twice, for aiohttp itself asks again when the connection breaks before an answer.
    async with against([answer, answer], limits) as (store, _):
        with pytest.raises(KbackupError) as caught:
            await store.get("key")
        return caught.value


@pytest.mark.parametrize("data", [b"payload", BIG], ids=["small", "big"])
async def test_put_is_create_only_checksummed_and_below_the_prefix(data: bytes) -> None:
    async with against([OK]) as (store, server):
        await store.put_if_absent("a/b.kbs", [data[:5], data[5:]])
    (request,) = server.requests
    assert (request.method, request.target) == ("PUT", "/bucket/prefix/a/b.kbs")
    assert request.headers["if-none-match"] == "*"
    assert request.headers["x-amz-checksum-crc32c"] == checksum(data)
    assert "x-amz-checksum-crc32c" in request.headers["authorization"]
    assert request.body == data
    assert request.headers["expect"] == "100-continue"


async def test_hazard_54_precondition_failed_on_our_own_retried_put_is_success() -> None:
    found = Answer(announced_bytes=len(BIG), headers=(("x-amz-checksum-crc32c", checksum(BIG)),))
    async with against([EXISTS, found]) as (store, server):
        await store.put_if_absent("key", [BIG])
    assert [request.method for request in server.requests] == ["PUT", "HEAD"]
    assert server.requests[1].headers["x-amz-checksum-mode"] == "ENABLED"


@pytest.mark.parametrize(
    "found",
    [
        Answer(announced_bytes=len(BIG) + 1, headers=(("x-amz-checksum-crc32c", checksum(BIG)),)),
        Answer(announced_bytes=len(BIG), headers=(("x-amz-checksum-crc32c", checksum(b"other")),)),
    ],
    ids=["other size", "other checksum"],
)
async def test_precondition_failed_over_another_object_is_that_it_exists(found: Answer) -> None:
    async with against([EXISTS, found]) as (store, _):
        with pytest.raises(ObjectExistsError):
            await store.put_if_absent("key", [BIG])


@pytest.mark.parametrize(("stored", "same"), [(BIG, True), (BIG[:-1] + b"x", False)])
async def test_where_the_server_keeps_no_checksum_the_bytes_are_compared(stored: bytes, same: bool) -> None:
    async with against([EXISTS, Answer(announced_bytes=len(BIG)), Answer(body=stored)]) as (store, server):
        if same:
            await store.put_if_absent("key", [BIG[:7], BIG[7:]])
        else:
            with pytest.raises(ObjectExistsError):
                await store.put_if_absent("key", [BIG])
    assert [request.method for request in server.requests] == ["PUT", "HEAD", "GET"]


async def test_small_objects_such_as_claims_are_compared_by_their_bytes_whatever_the_checksum_says() -> None:
    ours, theirs = b"claim of one", b"claim of two"
    assert len(ours) <= COMPARE_BYTES
    lying = Answer(announced_bytes=len(ours), headers=(("x-amz-checksum-crc32c", checksum(ours)),))
    async with against([EXISTS, lying, Answer(body=theirs)]) as (store, _):
        with pytest.raises(ObjectExistsError):
            await store.put_if_absent("writers/main/1", [ours])


async def test_object_that_exists_and_then_cannot_be_looked_at_is_worth_another_try() -> None:
    async with against([EXISTS, fault(404, "")]) as (store, _):
        with pytest.raises(StoreUnavailableError):
            await store.put_if_absent("key", [BIG])


async def test_racing_put_is_tried_again() -> None:
    answers = [fault(409, "ConditionalRequestConflict"), OK]
    async with against(answers) as (store, server):
        await RetryingStore(store, sleep=lambda _: asyncio.sleep(0)).put_if_absent("key", [b"x"])
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (fault(503, "SlowDown"), "throttled"),
        (fault(429, "TooManyRequests"), "throttled"),
        (fault(500, "InternalError"), "server_error"),
        (fault(502, "Whatever"), "server_error"),
        (Answer(status=503, body=b"<html>no backend</html>"), "server_error"),
        (fault(400, "RequestTimeout"), "timeout"),
        (fault(400, "BadDigest"), "checksum"),
        (fault(409, "OperationAborted"), "conflict"),
        (Answer(status=404, body=b"404 page not found"), "not_s3"),
        (Answer(status=404), "not_s3"),
        (HANG_UP, "reset"),
        (SILENCE, "timeout"),
    ],
)
async def test_what_may_pass_is_unavailable_with_a_bounded_cause(answer: Answer, cause: str) -> None:
    error = await failure_of(answer, IMPATIENT if answer is SILENCE else None)
    assert isinstance(error, StoreUnavailableError)
    assert error.retryable
    assert error.cause == cause


@pytest.mark.parametrize(
    "answer",
    [
        fault(403, "AccessDenied"),
        fault(403, "SignatureDoesNotMatch"),
        fault(403, "InvalidAccessKeyId"),
        fault(403, "RequestTimeTooSkewed"),
        fault(403, "Unheard"),
        fault(401, "Unauthorized"),
        fault(400, "ExpiredToken"),
        fault(404, "NoSuchBucket"),
        fault(301, "PermanentRedirect"),
        fault(501, "NotImplemented"),
    ],
)
async def test_what_will_not_pass_is_denied_and_says_what_to_do(answer: Answer) -> None:
    error = await failure_of(answer)
    assert isinstance(error, StoreDeniedError)
    assert not error.retryable
    assert error.hint
    assert "s3://bucket/prefix" in error.message


async def test_only_no_such_key_is_missing() -> None:
    error = await failure_of(fault(404, "NoSuchKey"))
    assert isinstance(error, ObjectMissingError)
    assert error.key == "key"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (fault(404, "NoSuchKey"), ObjectMissingError),
        (fault(404, "NoSuchBucket"), StoreDeniedError),
        (Answer(status=404, body=b"404 page not found"), StoreUnavailableError),
    ],
)
async def test_head_without_a_reason_asks_for_one_before_saying_missing(
    reason: Answer, expected: type[KbackupError]
) -> None:
    async with against([Answer(status=404), reason]) as (store, server):
        with pytest.raises(expected):
            await store.head("key")
    assert [request.method for request in server.requests] == ["HEAD", "GET"]


async def test_head_of_an_object_that_appears_meanwhile_finds_it() -> None:
    async with against([Answer(status=404), Answer(body=b"seven b")]) as (store, _):
        assert (await store.head("key")).size_bytes == 7


@pytest.mark.parametrize("sent", [0, 1, 9])
async def test_hazard_54_truncated_get_is_unavailable_never_short(sent: int) -> None:
    torn = Answer(body=b"0123456789"[:sent], announced_bytes=10, then="close")
    async with against([torn, torn, torn]) as (store, _):
        for read in (store.get("key"), store.get_range("key", 0, 10), store.get_suffix("key", 10)):
            with pytest.raises(StoreUnavailableError) as caught:
                await read
            assert caught.value.cause in ("truncated", "reset")


async def test_hazard_40_body_that_stops_without_closing_is_a_timeout() -> None:
    async with against([Answer(body=b"01234", announced_bytes=10)], IMPATIENT) as (store, _):
        with pytest.raises(StoreUnavailableError) as caught:
            await store.get("key")
    assert caught.value.cause == "timeout"


async def test_hazard_40_connection_closed_while_idle_is_not_noticed_by_the_caller() -> None:
    answers = [Answer(body=b"first", then="close"), Answer(body=b"second")]
    async with against(answers) as (store, server):
        assert await store.get("key") == b"first"
        assert await store.get("key") == b"second"
    assert server.connections == 2


async def test_hazard_54_answer_lost_with_the_connection_is_no_error_when_the_object_is_ours() -> None:
    found = Answer(announced_bytes=len(BIG), headers=(("x-amz-checksum-crc32c", checksum(BIG)),))
    async with against([HANG_UP, EXISTS, found]) as (store, server):
        patient: ObjectStore = RetryingStore(store, sleep=lambda _: asyncio.sleep(0))
        await patient.put_if_absent("key", [BIG])
    assert [request.body for request in server.requests] == [BIG, BIG, b""]


async def test_torn_read_is_read_again_by_the_retry_layer() -> None:
    torn = Answer(body=b"01234", announced_bytes=10, then="close")
    async with against([torn, fault(503, "SlowDown"), Answer(body=b"0123456789")]) as (store, _):
        patient: ObjectStore = RetryingStore(store, sleep=lambda _: asyncio.sleep(0))
        assert await patient.get("key") == b"0123456789"


async def test_range_shorter_than_asked_for_means_that_the_object_is() -> None:
    short = Answer(status=206, body=b"89", headers=(("Content-Range", "bytes 8-9/10"),))
    async with against([short, fault(416, "InvalidRange")]) as (store, server):
        with pytest.raises(CorruptObjectError, match="10 in all"):
            await store.get_range("key", 8, 5)
        with pytest.raises(CorruptObjectError):
            await store.get_range("key", 10, 5)
    assert server.requests[0].headers["range"] == "bytes=8-12"


async def test_server_that_ignores_ranges_is_understood() -> None:
    whole = Answer(body=b"0123456789")
    async with against([whole, whole]) as (store, _):
        assert await store.get_range("key", 3, 4) == b"3456"
        assert await store.get_suffix("key", 4) == (b"6789", 10)


async def test_unsatisfiable_suffix_of_an_object_that_is_not_empty_is_an_error() -> None:
    async with against([fault(416, "InvalidRange"), Answer(announced_bytes=10)]) as (store, _):
        with pytest.raises(CorruptObjectError):
            await store.get_suffix("key", 4)


async def test_hazard_53_errors_inside_a_200_answer_to_delete_are_errors() -> None:
    inside = "<Error><Key>prefix/b</Key><Code>{}</Code><Message>scripted</Message></Error>"

    def answer(*codes: str) -> Answer:
        errors = "".join(inside.format(code) for code in codes)
        return Answer(body=f"<?xml version='1.0'?><DeleteResult>{errors}</DeleteResult>".encode())

    answers = [answer("AccessDenied"), answer("InternalError"), answer("NoSuchKey", "SlowDown"), answer("NoSuchKey")]
    async with against(answers) as (store, _):
        with pytest.raises(StoreDeniedError):
            await store.delete_many(["a", "b"])
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await store.delete_many(["a", "b"])
        await store.delete_many(["a", "b"])


async def test_delete_goes_in_batches_that_a_server_takes() -> None:
    done = Answer(body=b"<?xml version='1.0'?><DeleteResult/>")
    async with against([done, done, done]) as (store, server):
        await store.delete_many([f"{number}" for number in range(2001)])
    assert [request.body.count(b"<Key>") for request in server.requests] == [1000, 1000, 1]


async def test_listing_follows_the_token_and_strips_the_prefix() -> None:
    async with against([listing(["a", "b"], token="more"), listing(["c"])]) as (store, server):
        assert [info.key async for info in store.list_from("", start_after="0")] == ["a", "b", "c"]
    assert "start-after=prefix%2F0" in server.requests[0].target
    assert "continuation-token=more" in server.requests[1].target


async def test_listing_without_a_token_goes_on_behind_its_last_key() -> None:
    async with against([listing(["a", "b"], truncated=True), listing(["c"])]) as (store, server):
        assert [info.key async for info in store.list_from("")] == ["a", "b", "c"]
    assert "start-after=prefix%2Fb" in server.requests[1].target


async def test_folders_made_by_a_console_are_not_objects() -> None:
    async with against([listing(["", "a/", "a/b"])]) as (store, _):
        assert [info.key async for info in store.list_from("")] == ["a/b"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(),
        Answer(body=b"<html>welcome</html>"),
        Answer(body=b"not even XML"),
        listing([], token="again"),
        fault(404, "NoSuchBucket"),
        fault(404, "NoSuchKey"),
    ],
    ids=["nothing", "a web page", "text", "truncated for ever", "no bucket", "no key"],
)
async def test_what_is_no_listing_is_never_taken_for_an_empty_one(answer: Answer) -> None:
    async with against([answer]) as (store, _):
        with pytest.raises(KbackupError):
            await anext(store.list_from(""))


async def test_cancelled_put_of_a_big_object_leaves_the_store_usable() -> None:
    async with against([SILENCE, OK]) as (store, server):
        put = asyncio.create_task(store.put_if_absent("key", [BIG]))
        async with asyncio.timeout(60):
            await server.asked.wait()
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        await store.put_if_absent("key", [BIG])
    assert server.requests[1].body == BIG


async def test_hazard_48_no_secret_in_an_error() -> None:
    settings = S3Settings(
        bucket="bucket",
        endpoint="http://127.0.0.1:1",
        region="us-east-1",
        access_key_id=Secret("AKIDVISIBLE"),
        secret_access_key=Secret("TOPSECRET"),
        session_token=Secret("TOKENSECRET"),
    )
    store = await S3Store.open(settings)
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            await store.get("key")
    finally:
        await store.close()
    assert caught.value.cause == "connect"
    assert "SECRET" not in str(caught.value) + repr(caught.value.__cause__)


async def test_unknown_profile_is_denied_with_a_hint() -> None:
    with pytest.raises(StoreDeniedError, match="no-such-profile") as caught:
        await S3Store.open(S3Settings(bucket="bucket", region="us-east-1", profile="no-such-profile"))
    assert "profile" in caught.value.hint
