"""Batches go out from where they lie, in as many pieces as the socket takes, and arrive as they are."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from kbackupd.kafka.codec import int32, uvarint
from kbackupd.kafka.types import TopicPartition
from kbackupd.kafka.wire import ProduceRequest
from kbackupd.model.settings import SecurityProtocol, SecuritySettings
from kbackupd.testbed.certificates import CertificateAuthority
from tests.unit.kafka.sockets import MODERN, connection_to, fake_broker

_VERSIONS = MODERN | {ProduceRequest.API_KEY: (3, 12)}
_NOTHING_TO_SAY = b"\0" + uvarint(1) + int32(0) + b"\0"


def batches(number: int) -> dict[TopicPartition, bytes | bytearray]:
    """Of up to 1.8 MB, no two alike."""
    return {TopicPartition("t", index): bytearray(bytes([number, index]) * (300_000 * index)) for index in range(1, 4)}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_requests_of_megabytes_arrive_as_they_were_handed_over_several_under_way_at_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop], encrypted: bool, tmp_path: Path
) -> None:
    requests = [ProduceRequest(batches=batches(number), timeout_ms=1000) for number in range(5)]
    came: list[bytes] = []
    tls, security = None, SecuritySettings()
    if encrypted:
        authority = CertificateAuthority(tmp_path)
        files = authority.issue("server")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(files.certificate, files.key)
        security = SecuritySettings(protocol=SecurityProtocol.SSL, ca_file=authority.certificate)

    def respond(key: int, request: bytes) -> bytes | None:
        if key != ProduceRequest.API_KEY:
            return None
        came.append(request)
        return _NOTHING_TO_SAY

    async def send_all() -> None:
        async with (
            fake_broker(_VERSIONS, respond, tls=tls) as broker,
            connection_to(broker.port, security=security) as connection,
        ):
            answers = await asyncio.gather(*(connection.send(1, request) for request in requests))
        assert answers == [{}] * len(requests)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(send_all())
    bodies = [request.encode() for request in requests]
    assert [request[-len(body) :] for request, body in zip(came, bodies, strict=True)] == bodies
    assert len({len(request) - len(body) for request, body in zip(came, bodies, strict=True)}) == 1, "one header each"
