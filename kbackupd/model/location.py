"""An archive's address as people write it, `s3://bucket/prefix` or `file:///dir`, taken apart.

Pure: the environment is handed in. Hazard 17: an `s3://` address never becomes a local directory, nor the reverse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kbackupd.model.errors import UsageError
from kbackupd.model.settings import FilesystemSettings, S3Settings, StorageSettings

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_BUCKET = re.compile(r"[a-z0-9A-Z][a-zA-Z0-9._-]{1,253}[a-z0-9A-Z]")


def parse_location(text: str, environ: Mapping[str, str]) -> StorageSettings:
    """`s3://bucket[/prefix]` or `file:///absolute/dir` as settings; S3's endpoint and region from `environ`.

    Raises:
        UsageError: anything else, with the likely correction as hint.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise UsageError(
            f"{text!r} does not say what kind of storage it is",
            hint=f"write file://{Path(text).absolute()} for a directory, s3://bucket/prefix for a bucket",
        )
    match scheme[1].lower():
        case "s3":
            return StorageSettings(backend=with_aws_environment(_s3(text), environ))
        case "file":
            return StorageSettings(backend=_filesystem(text))
        case other:
            raise UsageError(
                f"{text!r}: there is no storage of type {other!r}",
                hint="write s3://bucket/prefix or file:///dir; for S3-compatible servers set AWS_ENDPOINT_URL",
            )


def with_aws_environment(settings: S3Settings, environ: Mapping[str, str]) -> S3Settings:
    """`settings` with an empty endpoint or region filled from AWS's standard variables."""
    endpoint = settings.endpoint or environ.get("AWS_ENDPOINT_URL_S3", "") or environ.get("AWS_ENDPOINT_URL", "")
    region = settings.region or environ.get("AWS_REGION", "") or environ.get("AWS_DEFAULT_REGION", "")
    return S3Settings(
        bucket=settings.bucket,
        prefix=settings.prefix,
        # Other servers ignore the region, but the signature must name one.
        region=region or ("us-east-1" if endpoint else ""),
        endpoint=endpoint,
        force_path_style=settings.force_path_style,
        profile=settings.profile,
        access_key_id=settings.access_key_id,
        secret_access_key=settings.secret_access_key,
        session_token=settings.session_token,
    )


def _s3(text: str) -> S3Settings:
    # Not urlsplit: keys may hold `?` and `#`, and its netloc would be lowered or taken for user and port.
    rest = text[len("s3:") :]
    bucket, _, prefix = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{text!r} names no bucket", hint="write s3://bucket/prefix")
    return S3Settings(bucket=bucket, prefix=prefix.strip("/"))


def _filesystem(text: str) -> FilesystemSettings:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UsageError(
            f"{text!r} is not an absolute path",
            hint="write three slashes and the full path: file:///var/backups",
        )
    path = unquote(text[len("file:") :].removeprefix("//").removeprefix(parts.netloc))
    return FilesystemSettings(path=Path(path))
