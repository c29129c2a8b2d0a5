"""Every way in which an S3 request fails, turned into one of our errors, by status and code, never by text.

Keeps invariant I5: a key is absent only if the server says NoSuchKey. A 404 without that code is a proxy or a load
balancer speaking for a server that is away, and a missing bucket is a mistake in the configuration.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from kbackupd.model.errors import (
    CorruptObjectError,
    KbackupError,
    ObjectMissingError,
    StoreDeniedError,
    StoreUnavailableError,
)

S3_FAILURES: Final = (ClientError, BotoCoreError, ResponseParserError, aiohttp.ClientError, TimeoutError, OSError)
"""What aiobotocore and the layers below it raise."""

_CREDENTIALS_HINT = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or an instance role, or the storage keys"
)
_REGION_HINT = "set storage.s3.region (or AWS_REGION) to the region the bucket is in"
_PERMISSION_HINT = (
    "the credentials need s3:GetObject, s3:PutObject and s3:ListBucket here (s3:DeleteObject for pruning)"
)

_DESCRIPTORS_HINT = "the process has no descriptor left: raise its limit of open files (LimitNOFILE=, ulimit -n)"
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)

_DENIED_HINTS: Final = {
    "AccessDenied": _PERMISSION_HINT,
    "AllAccessDisabled": _PERMISSION_HINT,
    "403": _PERMISSION_HINT,
    "InvalidAccessKeyId": "the server does not know this access key id",
    "SignatureDoesNotMatch": "the secret access key is wrong, or a proxy rewrites requests",
    "ExpiredToken": "renew the session credentials",
    "TokenRefreshRequired": "renew the session credentials",
    "InvalidToken": "the session token does not belong to these keys",
    "RequestTimeTooSkewed": "this machine's clock is off; synchronise it",
    "NoSuchBucket": "create the bucket, or correct its name; kbackupd never creates one",
    "InvalidBucketName": "correct storage.s3.bucket",
    "PermanentRedirect": _REGION_HINT,
    "AuthorizationHeaderMalformed": _REGION_HINT,
    "IllegalLocationConstraintException": _REGION_HINT,
    "NotImplemented": "the server lacks something kbackupd rests on, such as If-None-Match on PUT",
}

_RETRYABLE_CAUSES: Final = {
    "SlowDown": "throttled",
    "Throttling": "throttled",
    "ThrottlingException": "throttled",
    "TooManyRequests": "throttled",
    "RequestLimitExceeded": "throttled",
    "RequestTimeout": "timeout",
    "IncompleteBody": "truncated",
    "BadDigest": "checksum",
    "InvalidDigest": "checksum",
    "XAmzContentChecksumMismatch": "checksum",
    "ConditionalRequestConflict": "conflict",
    "OperationAborted": "conflict",
    "InternalError": "server_error",
    "ServiceUnavailable": "server_error",
}

_STATUS_CAUSES: Final = {408: "timeout", 425: "throttled", 429: "throttled", 409: "conflict"}


def status_of(error: BaseException) -> int:
    """The HTTP status of a ClientError; 0 for everything else."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: BaseException) -> str:
    """S3's error code, such as `NoSuchKey`; a HEAD has no body, then it is the status; `""` for other errors."""
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def translate(error: BaseException, *, operation: str, key: str, location: str) -> KbackupError:
    """One of our errors for `error`, met while doing `operation` on `key` in the store at `location`."""
    where = f"{operation} {key} in {location}" if key else f"{operation} in {location}"
    if isinstance(error, ClientError):
        return _from_answer(status_of(error), code_of(error), _message_of(error), where=where, key=key)
    return _from_transport(error, where)


def translate_item(item: dict[str, Any], *, location: str) -> KbackupError:
    """One of our errors for one entry in the `Errors` of a DeleteObjects answer (status 200 all the same)."""
    key, code = str(item.get("Key", "")), str(item.get("Code", ""))
    where = f"delete {key} in {location}"
    return _from_answer(0, code, str(item.get("Message", "")), where=where, key=key)


def truncated(where: str, got_bytes: int, announced_bytes: int) -> StoreUnavailableError:
    """The body ended early: nothing was learnt of the object, reading it again may help."""
    return StoreUnavailableError(
        f"{where}: the answer ended after {got_bytes} of {announced_bytes} bytes", cause="truncated"
    )


def _from_answer(status: int, code: str, message: str, *, where: str, key: str) -> KbackupError:
    said = f"{where}: the server answered {status or 200} {code}" + (f" ({message})" if message else "")
    if code == "NoSuchKey" and status in (0, 404):
        return ObjectMissingError(key)
    if code == "InvalidRange" or status == 416:
        return CorruptObjectError(key, "it ends before the bytes that were asked for")
    if code in _DENIED_HINTS:
        return StoreDeniedError(said, hint=_DENIED_HINTS[code])
    if code in _RETRYABLE_CAUSES:
        return StoreUnavailableError(said, cause=_RETRYABLE_CAUSES[code])
    if status in _STATUS_CAUSES:
        return StoreUnavailableError(said, cause=_STATUS_CAUSES[status])
    if status == 404:
        return StoreUnavailableError(
            said, cause="not_s3", hint="is this the address of an S3 server, and is it up behind its proxy?"
        )
    if status >= 500 or status == 0:
        return StoreUnavailableError(said, cause="server_error")
    if status in (301, 307, 308):
        return StoreDeniedError(said, hint=_REGION_HINT)
    if status in (401, 403):
        return StoreDeniedError(said, hint=_PERMISSION_HINT)
    return StoreDeniedError(said)


def _from_transport(error: BaseException, where: str) -> KbackupError:
    said = f"{where}: {error or type(error).__name__}"
    for cause in causes(error):
        # botocore says of it only that it cannot connect, which sends people to look at the server.
        if isinstance(cause, OSError) and cause.errno in _NO_DESCRIPTOR:
            return StoreUnavailableError(
                f"{where}: {os.strerror(cause.errno)}", cause="descriptors", hint=_DESCRIPTORS_HINT
            )
    match error:
        case boto.NoCredentialsError() | boto.PartialCredentialsError() | boto.ProfileNotFound():
            return StoreDeniedError(said, hint=_CREDENTIALS_HINT)
        case boto.CredentialRetrievalError() | boto.MetadataRetrievalError() | boto.TokenRetrievalError():
            return StoreUnavailableError(said, cause="credentials", hint=_CREDENTIALS_HINT)
        case boto.NoRegionError():
            return StoreDeniedError(said, hint=_REGION_HINT)
        case boto.ReadTimeoutError() | boto.ConnectTimeoutError() | TimeoutError():
            return StoreUnavailableError(said, cause="timeout")
        case boto.SSLError():
            return StoreUnavailableError(said, cause="tls", hint="is the certificate's authority known here?")
        case boto.EndpointConnectionError() | boto.ProxyConnectionError():
            return StoreUnavailableError(said, cause="connect", hint="is the endpoint right, and the server up?")
        case boto.IncompleteReadError() | aiohttp.ClientPayloadError():
            return StoreUnavailableError(said, cause="truncated")
        case boto.ConnectionClosedError() | boto.ResponseStreamingError() | aiohttp.ClientError() | OSError():
            return StoreUnavailableError(
                said, cause="reset", hint="is this the address of an S3 server, http or https?"
            )
        case ResponseParserError():
            return StoreUnavailableError(said, cause="not_s3", hint="is this the address of an S3 server?")
        case boto.HTTPClientError():
            return StoreUnavailableError(said, cause="other")
        case boto.SSOError() | boto.UnauthorizedSSOTokenError() | boto.LoginError():
            return StoreDeniedError(said, hint=_CREDENTIALS_HINT)
        case _:
            return StoreDeniedError(said, hint="this looks like a wrong storage setting")


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it, each once."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += (one.__context__, one.__cause__)


def _message_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))
