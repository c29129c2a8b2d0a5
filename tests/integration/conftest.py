"""The real servers, once per session. A server that cannot start fails the tests that need it; nothing is skipped."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbackupd.testbed.kafka import KafkaServer
from kbackupd.testbed.s3 import S3Server
from kbackupd.testbed.shared_classes import share_classes

_serial = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def brokers_start_fast() -> None:
    """The first session on a machine notes Kafka's classes, for all brokers and tools of this and of later ones."""
    share_classes()


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaServer]:
    """One broker for the whole session; who kills or stops it starts it again before returning."""
    with KafkaServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for the whole session; who kills or stops it starts it again before returning."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_bucket(s3_server: S3Server) -> str:
    """One bucket for the whole session; tests keep apart by `s3_prefix`."""
    return s3_server.create_bucket("kbackupd-tests")


@pytest.fixture
def s3_prefix(request: pytest.FixtureRequest) -> str:
    """A key prefix of this test alone, without slashes at either end."""
    return f"{_slug(request)}-{_unique()}"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory of this test's own whose path leaves room for a UNIX socket's 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kb-") as directory:
        yield Path(directory)


@pytest.fixture
def unique_topic(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes a topic name, new at every call; the topic itself is the test's to create."""
    slug = _slug(request)
    return lambda: f"{slug}-{_unique()}"


def _unique() -> str:
    return f"{os.getpid()}-{next(_serial)}"


def _slug(request: pytest.FixtureRequest) -> str:
    """The test's name in characters that topics and keys both take, short enough to leave room for more."""
    name = str(request.node.name).removeprefix("test_").lower()
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name)[:60].strip("-")
