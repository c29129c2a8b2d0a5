"""Objects in an S3 bucket, of AWS or of anything that speaks its protocol.

Owns one aiobotocore client with a bounded connection pool. Keeps I2 by sending `If-None-Match: *` with every PUT, and
I5 by `s3_errors.py`. Never waits to try again: botocore's own retries are off, `retrying.py` is the one retry layer
(aiohttp alone sends a request without a body once more when the connection breaks before an answer).
Each request has a connect time-out and a time-out between bytes, and idle connections are dropped before servers and
load balancers drop them silently.

Memory: an object is sent from the caller's buffers, without a copy, and comes into one buffer.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from kbackupd.model.errors import (
    CorruptObjectError,
    ObjectExistsError,
    ObjectMissingError,
    StoreUnavailableError,
)
from kbackupd.model.settings import S3Settings
from kbackupd.store.buffers import crc32c_base64, equal_bytes, total_bytes
from kbackupd.store.keys import checked_key
from kbackupd.store.parts_body import PartsBody
from kbackupd.store.protocol import DELETE_BATCH_KEYS, Buffer, ObjectInfo
from kbackupd.store.s3_errors import S3_FAILURES, causes, status_of, translate, translate_item, truncated

LIST_PAGE_KEYS = 1000
"""The most a ListObjectsV2 answers at once."""

IN_THREAD_BYTES = 256 << 10
"""Above this, checksumming would hold the event loop noticeably."""

COMPARE_BYTES = 64 << 10
"""Up to this size an object met under our key is compared byte by byte; above, by size and CRC-32C."""

_PIECE_BYTES = 1 << 20
"""Of an answer: more than the client holds back before it stops reading from the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Limits:
    """Bounds of the client. Idle connections go after `keep_alive_seconds`: S3 and load balancers drop them later."""

    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 20.0
    keep_alive_seconds: float = 5.0
    connections: int = 16


class S3Store:
    """An `ObjectStore` in one bucket below one prefix; make it with `open`."""

    def __init__(self, client: Any, resources: AsyncExitStack, *, bucket: str, prefix: str) -> None:
        self._client = client
        self._resources = resources
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""

    @classmethod
    async def open(cls, settings: S3Settings, *, limits: S3Limits | None = None) -> S3Store:
        """Prepare a client; sends nothing to the bucket yet.

        Args:
            settings: an empty endpoint or region and absent keys are left to the AWS chain. An endpoint that is an
                address or a bare host name is spoken to in path style, for `bucket.localhost` leads nowhere.

        Raises:
            StoreDeniedError: unknown profile or half a set of credentials.
        """
        limits = S3Limits() if limits is None else limits
        prefix = settings.prefix.strip("/")
        location = f"s3://{settings.bucket}/{prefix}".rstrip("/")
        options = {
            "endpoint_url": settings.endpoint or None,
            "region_name": settings.region or None,
            "aws_access_key_id": settings.access_key_id.reveal() if settings.access_key_id else None,
            "aws_secret_access_key": settings.secret_access_key.reveal() if settings.secret_access_key else None,
            "aws_session_token": settings.session_token.reveal() if settings.session_token else None,
        }
        async with AsyncExitStack() as resources:
            try:
                session = AioSession(profile=settings.profile)
                client = await resources.enter_async_context(
                    session.create_client("s3", config=_client_config(settings, limits), **options)
                )
            except (*S3_FAILURES, ValueError) as error:
                raise translate(error, operation="open", key="", location=location) from error
            return cls(client, resources.pop_all(), bucket=settings.bucket, prefix=prefix)
        raise AssertionError("the exit stack swallows nothing")

    @property
    def location(self) -> str:
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    async def put_if_absent(self, key: str, parts: Sequence[Buffer]) -> None:
        size_bytes = total_bytes(parts)
        if size_bytes > IN_THREAD_BYTES:
            checksum = await asyncio.to_thread(crc32c_base64, parts)
        else:
            checksum = crc32c_base64(parts)
        body = PartsBody(parts)
        try:
            with self._translated("put", key):
                if await self._created(key, body, size_bytes, checksum):
                    return
        finally:
            # A failed request refers to itself, and to its body, until somebody searches for such garbage.
            body.release()
        # Somebody's object is there. It is our own if an earlier try took effect and only its answer was lost
        # (hazard 54), so look before crying.
        if not await self._holds(key, parts, size_bytes, checksum):
            raise ObjectExistsError(key)

    async def get(self, key: str) -> bytes:
        with self._translated("get", key):
            answer = await self._client.get_object(**self._object(key))
            return await self._body(answer, f"get {key}")

    async def get_range(self, key: str, first_byte: int, length: int) -> bytes:
        if first_byte < 0 or length < 0:
            raise ValueError(f"not a range: {first_byte}, {length}")
        if length == 0:
            await self.head(key)
            return b""
        next_byte = first_byte + length
        with self._translated("get range of", key):
            answer = await self._client.get_object(**self._object(key), Range=f"bytes={first_byte}-{next_byte - 1}")
            data = await self._body(answer, f"get range of {key}")
        if "ContentRange" not in answer:  # The server answered 200 with the whole object, as HTTP permits.
            data = data[first_byte:next_byte]
        if len(data) != length:
            raise CorruptObjectError(
                key, f"asked for {length} bytes from {first_byte}, it has {_object_bytes(answer)} in all"
            )
        return data

    async def get_suffix(self, key: str, length: int) -> tuple[bytes, int]:
        if length <= 0:
            raise ValueError(f"not a suffix length: {length}")
        try:
            with self._translated("get suffix of", key):
                answer = await self._client.get_object(**self._object(key), Range=f"bytes=-{length}")
                data = await self._body(answer, f"get suffix of {key}")
        except CorruptObjectError:
            # No suffix of an empty object is satisfiable (416); make sure that empty is what it is.
            if (await self.head(key)).size_bytes != 0:
                raise
            return b"", 0
        size_bytes = _object_bytes(answer)
        data = data[-length:]
        if len(data) != min(length, size_bytes):
            raise truncated(f"get suffix of {key}", len(data), min(length, size_bytes))
        return data, size_bytes

    async def head(self, key: str) -> ObjectInfo:
        with self._translated("head", key):
            try:
                answer = await self._client.head_object(**self._object(key))
            except S3_FAILURES as error:
                if status_of(error) != 404:
                    raise
                # An answer to HEAD has no body, so this 404 may be a missing bucket or a proxy's own; only the
                # code in the answer to a GET tells absent from unreadable (invariant I5).
                answer = await self._client.get_object(**self._object(key))
                await answer["Body"].aclose()
        return ObjectInfo(
            key=key,
            size_bytes=int(answer["ContentLength"]),
            modified_ms=round(answer["LastModified"].timestamp() * 1000),
        )

    async def list_from(
        self, prefix: str, *, start_after: str = "", limit: int | None = None
    ) -> AsyncIterator[ObjectInfo]:
        left = limit
        position = {"StartAfter": self._root + start_after} if start_after else {}
        while left is None or left > 0:
            with self._translated("list", prefix):
                page = await self._client.list_objects_v2(
                    Bucket=self._bucket,
                    Prefix=self._root + prefix,
                    MaxKeys=LIST_PAGE_KEYS if left is None else min(LIST_PAGE_KEYS, left),
                    **position,
                )
            rows = page.get("Contents", ())
            if "IsTruncated" not in page or (page["IsTruncated"] and not rows):
                raise StoreUnavailableError(
                    f"list {prefix} in {self.location}: the answer is no listing, or one that never ends",
                    cause="not_s3",
                )
            for row in rows:
                if row["Key"].endswith("/"):  # A console's "folder": an empty object that none of us wrote.
                    continue
                yield ObjectInfo(
                    key=row["Key"][len(self._root) :],
                    size_bytes=int(row["Size"]),
                    modified_ms=round(row["LastModified"].timestamp() * 1000),
                )
                if left is not None:
                    left -= 1
            if not page["IsTruncated"]:
                return
            token = page.get("NextContinuationToken")
            position = {"ContinuationToken": token} if token else {"StartAfter": rows[-1]["Key"]}

    async def delete_many(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), DELETE_BATCH_KEYS):
            batch = [{"Key": self._root + checked_key(key)} for key in keys[first : first + DELETE_BATCH_KEYS]]
            with self._translated("delete", f"{len(batch)} objects"):
                answer = await self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True}
                )
            failures = [translate_item(item, location=self.location) for item in answer.get("Errors", ())]
            for failure in failures:
                if not isinstance(failure, ObjectMissingError):
                    raise failure

    async def close(self) -> None:
        await self._resources.aclose()

    async def _created(self, key: str, body: PartsBody, size_bytes: int, checksum: str) -> bool:
        """Send the PUT; False when the server says that something is there already (412)."""
        try:
            await self._client.put_object(
                **self._object(key),
                Body=body,
                ContentLength=size_bytes,
                ContentType="application/octet-stream",
                IfNoneMatch="*",
                ChecksumCRC32C=checksum,
            )
        except S3_FAILURES as error:
            if status_of(error) == 412:
                return False
            raise
        return True

    async def _holds(self, key: str, parts: Sequence[Buffer], size_bytes: int, checksum: str) -> bool:
        """True when the object under `key` is exactly `parts`."""
        try:
            with self._translated("compare", key):
                found = await self._client.head_object(**self._object(key), ChecksumMode="ENABLED")
            if int(found["ContentLength"]) != size_bytes:
                return False
            if size_bytes > COMPARE_BYTES and found.get("ChecksumCRC32C"):
                return bool(found["ChecksumCRC32C"] == checksum)
            stored = await self.get(key)
        except (ObjectMissingError, StoreUnavailableError) as error:
            raise StoreUnavailableError(
                f"put {key} in {self.location}: something was there, and then it could not be looked at",
                cause=error.cause if isinstance(error, StoreUnavailableError) else "conflict",
            ) from error
        return await asyncio.to_thread(equal_bytes, parts, (stored,))

    async def _body(self, answer: Mapping[str, Any], where: str) -> bytes:
        # Into one buffer of its size: a client that collects pieces has all of them beside what it joins them to, and
        # a buffer that grows leaves holes in the heap.
        size_bytes = int(answer["ContentLength"])
        data = io.BytesIO()
        if size_bytes:
            data.seek(size_bytes - 1)
            data.write(b"\0")
            data.seek(0)
        async with answer["Body"] as body:
            while piece := await body.read(_PIECE_BYTES):
                data.write(piece)
        if data.tell() != size_bytes:
            raise truncated(where, data.tell(), size_bytes)
        return data.getvalue()

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": checked_key(self._root + checked_key(key))}

    @contextmanager
    def _translated(self, operation: str, key: str) -> Iterator[None]:
        try:
            yield
        except S3_FAILURES as error:
            raise translate(error, operation=operation, key=key, location=self.location) from _without_frames(error)


def _without_frames(error: BaseException) -> BaseException:
    """`error` and what led to it without the frames they passed.

    Requests, connections and their failures refer to each other, and by way of those frames to all that our callers
    hold, a segment's buffers among it: whatever the memory budget said, they stayed until a search for garbage.
    """
    for one in causes(error):
        one.__traceback__ = None
    return error


def _client_config(settings: S3Settings, limits: S3Limits) -> AioConfig:
    host = urlsplit(settings.endpoint).hostname or ""
    path_style = settings.force_path_style or (host != "" and (_is_address(host) or "." not in host))
    return AioConfig(
        connect_timeout=limits.connect_timeout_seconds,
        read_timeout=limits.read_timeout_seconds,
        max_pool_connections=limits.connections,
        connector_args={"keepalive_timeout": limits.keep_alive_seconds},
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # The signed ChecksumCRC32C header covers the body; hashing 32 MiB with SHA-256 as well would hold the event
        # loop for tens of milliseconds and protects nothing that TLS does not.
        s3={"addressing_style": "path" if path_style else "auto", "payload_signing_enabled": False},
        # None: the environment's proxies. A server on this machine is never behind one.
        proxies={} if _is_loopback(host) else None,
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _object_bytes(answer: Mapping[str, Any]) -> int:
    """The whole object's size: `bytes 7-9/10` says 10; without a range the body is the object."""
    if "ContentRange" in answer:
        return int(str(answer["ContentRange"]).rpartition("/")[2])
    return int(answer["ContentLength"])
