"""From an address and the environment to a store."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kbackupd.model.errors import StoreDeniedError, UsageError
from kbackupd.model.settings import FilesystemSettings, S3Settings, Secret, StorageSettings
from kbackupd.store.metered import Operation, Outcome
from kbackupd.store.open import open_store, parse_location
from tests.unit.store.scripted_s3 import Answer, ScriptedS3, fault


def s3_of(text: str, environ: dict[str, str]) -> S3Settings:
    backend = parse_location(text, environ).backend
    assert isinstance(backend, S3Settings)
    return backend


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/a/b/", "my.bucket-1", "a/b"),
        ("S3://Bucket_old/what?#is this", "Bucket_old", "what?#is this"),
    ],
)
def test_s3_address_names_bucket_and_prefix(text: str, bucket: str, prefix: str) -> None:
    settings = s3_of(text, {})
    assert (settings.bucket, settings.prefix, settings.endpoint, settings.region) == (bucket, prefix, "", "")


@pytest.mark.parametrize(
    ("environ", "endpoint", "region"),
    [
        ({"AWS_ENDPOINT_URL": "http://a:1"}, "http://a:1", "us-east-1"),
        ({"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_S3": "http://b:2"}, "http://b:2", "us-east-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "", "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-central-1"}, "", "eu-central-1"),
        ({"AWS_ENDPOINT_URL": "", "AWS_REGION": ""}, "", ""),
    ],
)
def test_endpoint_and_region_come_from_the_standard_variables(
    environ: dict[str, str], endpoint: str, region: str
) -> None:
    settings = s3_of("s3://bucket/prefix", environ)
    assert (settings.endpoint, settings.region) == (endpoint, region)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///var/backups", "/var/backups"),
        ("file://localhost/var/backups", "/var/backups"),
        ("file:/var/backups", "/var/backups"),
        ("file:///with%20space/a#b?c", "/with space/a#b?c"),
    ],
)
def test_file_address_names_an_absolute_directory(text: str, path: str) -> None:
    assert parse_location(text, {}).backend == FilesystemSettings(path=Path(path))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("/var/backups", "file:///var/backups"),
        ("backups", "file:///"),
        ("", "s3://bucket/prefix"),
        ("file://var/backups", "file:///var/backups"),
        ("file:backups", "file:///"),
        ("s3:bucket/prefix", "s3://bucket/prefix"),
        ("s3:///prefix", "s3://bucket/prefix"),
        ("s3://user@host/prefix", "s3://bucket/prefix"),
        ("gs://bucket/prefix", "s3://bucket/prefix"),
        ("https://bucket.s3.amazonaws.com/prefix", "s3://bucket/prefix"),
    ],
)
def test_hazard_17_whatever_is_not_clear_is_refused_with_the_likely_correction(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_location(text, {})
    assert hint in caught.value.hint


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "s3://bucket", "file:///var/backups"])
def test_address_survives_the_round_trip(url: str) -> None:
    assert parse_location(url, {}).url == url


async def test_opened_store_retries_and_meters_every_try() -> None:
    told: list[tuple[Operation, Outcome]] = []
    retries: list[int] = []

    def on_operation(operation: Operation, seconds: float, size_bytes: int, outcome: Outcome) -> None:
        told.append((operation, outcome))

    async with ScriptedS3([fault(503, "SlowDown"), Answer(body=b"data")]) as server:
        store = await open_store(
            StorageSettings(backend=server.settings),
            on_operation=on_operation,
            on_retry=lambda operation, error, attempt: retries.append(attempt),
        )
        assert store.location == "s3://bucket/prefix"
        assert await store.get("key") == b"data"
        await store.close()
    assert told == [("get", "unavailable"), ("get", "ok")]
    assert retries == [1]


async def test_environment_supplies_what_the_settings_leave_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedS3([Answer(body=b"data")]) as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMTHEENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        store = await open_store(
            parse_location("s3://bucket/prefix", {"AWS_ENDPOINT_URL": server.settings.endpoint}), environ={}
        )
        assert await store.get("key") == b"data"
        await store.close()
    assert "Credential=FROMTHEENVIRONMENT/" in server.requests[0].headers["authorization"]


@pytest.fixture
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which the AWS chain finds nothing; the path is the file it looks for."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "credentials"


@pytest.fixture
def profile(no_credentials: Path) -> str:
    no_credentials.write_text("[backup]\naws_access_key_id = FROMTHEPROFILE\naws_secret_access_key = secret\n")
    return "backup"


async def test_profile_supplies_credentials(profile: str) -> None:
    async with ScriptedS3([Answer(body=b"data")]) as server:
        settings = S3Settings(bucket="bucket", endpoint=server.settings.endpoint, profile=profile)
        store = await open_store(StorageSettings(backend=settings))
        assert await store.get("key") == b"data"
        await store.close()
    assert "Credential=FROMTHEPROFILE/" in server.requests[0].headers["authorization"]


@pytest.mark.usefixtures("no_credentials")
async def test_no_credentials_anywhere_is_denied_with_a_hint_and_sends_nothing() -> None:
    async with ScriptedS3([]) as server:
        settings = S3Settings(bucket="bucket", endpoint=server.settings.endpoint)
        store = await open_store(StorageSettings(backend=settings))
        with pytest.raises(StoreDeniedError) as caught:
            await store.get("key")
        await store.close()
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    assert server.requests == []


@pytest.mark.parametrize(("force", "host"), [(False, "localhost"), (False, "127.0.0.1"), (True, "127.0.0.1")])
async def test_server_without_a_domain_is_spoken_to_in_path_style(force: bool, host: str) -> None:
    async with ScriptedS3([Answer(body=b"data")]) as server:
        settings = S3Settings(
            bucket="bucket",
            endpoint=server.settings.endpoint.replace("127.0.0.1", host),
            force_path_style=force,
            access_key_id=Secret("key"),
            secret_access_key=Secret("secret"),
        )
        store = await open_store(StorageSettings(backend=settings), environ={})
        assert await store.get("key") == b"data"
        await store.close()
    assert server.requests[0].target == "/bucket/key"


async def test_server_on_this_machine_is_never_looked_for_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with ScriptedS3([Answer(body=b"data")]) as server:
        store = await open_store(StorageSettings(backend=server.settings))
        async with asyncio.timeout(30):
            assert await store.get("key") == b"data"
        await store.close()


async def test_a_missing_directory_is_made_by_nobody_for_it_may_be_a_volume_that_is_not_mounted(tmp_path: Path) -> None:
    settings = StorageSettings(backend=FilesystemSettings(path=tmp_path / "archive"))
    with pytest.raises(StoreDeniedError, match="no directory") as refused:
        await open_store(settings)
    assert "mounted" in refused.value.hint
    assert not settings.backend.path.exists()  # type: ignore[union-attr]  # it is a directory's
    (tmp_path / "archive").mkdir()
    store = await open_store(settings)
    assert store.location == settings.url
    await store.put_if_absent("key", [b"x"])
    await store.close()
    again = await open_store(settings)
    assert await again.get("key") == b"x"
    await again.close()
