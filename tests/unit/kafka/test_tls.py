"""TLS on both event loops: answers under the swapped protocol, connections that break below it, and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvloop

from kbackupd.kafka import frames, security
from kbackupd.kafka.fetch import FetchSession
from kbackupd.kafka.security import security_arguments
from kbackupd.model.errors import ConfigurationError, KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.settings import SecurityProtocol, SecuritySettings
from kbackupd.testbed.certificates import CertificateAuthority, CertificateFiles
from kbackupd.testbed.tcp_proxy import Break, TcpProxy
from tests.unit.kafka.sockets import FETCH, FakeBroker, connection_to, fake_broker, fetch_answer, fetched, session_over

_RECORDS = bytes(range(256)) * (12 << 10)
"""Three MiB."""

Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end on one of the two event loops."""

    def on_this_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main)

    return on_this_loop


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(authority: CertificateAuthority) -> CertificateFiles:
    return authority.issue("server")


def listener(files: CertificateFiles, *, clients_of: CertificateAuthority | None = None) -> ssl.SSLContext:
    """Of a broker with that certificate; with `clients_of` only for clients that have one of theirs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    if clients_of is not None:
        context.load_verify_locations(clients_of.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def trusting(authority: CertificateAuthority, own: CertificateFiles | None = None) -> SecuritySettings:
    settings = SecuritySettings(protocol=SecurityProtocol.SSL, ca_file=authority.certificate)
    return settings if own is None else replace(settings, cert_file=own.certificate, key_file=own.key)


_ANSWER = fetch_answer(_RECORDS)


@contextlib.asynccontextmanager
async def fetching(
    authority: CertificateAuthority, server: CertificateFiles
) -> AsyncIterator[tuple[FetchSession, FakeBroker, TcpProxy]]:
    """A session, through a proxy below TLS, with a broker that answers every fetch with `_RECORDS`."""
    async with fake_broker(respond=lambda key, _: _ANSWER if key == FETCH else None, tls=listener(server)) as broker:
        with TcpProxy(broker.port) as proxy:
            broker.port = proxy.port
            async with connection_to(proxy.port, security=trusting(authority)) as connection:
                yield session_over(connection), broker, proxy


def test_answers_of_megabytes_arrive_as_the_bytes_that_were_sent(
    run: Run, authority: CertificateAuthority, server: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "GROW_BYTES", 1_000_000)  # so that a frame grows while TLS still writes into it

    async def main() -> None:
        async with fetching(authority, server) as (session, _, _):
            for _ in range(4):
                assert await fetched(session) == [_RECORDS]

    run(main())


@pytest.mark.parametrize("how", Break)
def test_hazard_41_a_connection_that_breaks_within_an_answer_is_an_outage_and_the_next_one_gets_all_of_it(
    run: Run, authority: CertificateAuthority, server: CertificateFiles, how: Break
) -> None:
    async def main() -> None:
        async with fetching(authority, server) as (session, _, proxy):
            assert await fetched(session) == [_RECORDS]
            rule = proxy.strike(how, after_bytes=len(_RECORDS) // 2, times=1)

            with pytest.raises(KafkaUnavailableError):
                await fetched(session)

            assert len(rule.struck) == 1
            assert await fetched(session) == [_RECORDS]

    run(main())


@pytest.mark.parametrize("how", [Break.RESET, Break.END])
@pytest.mark.parametrize("after_bytes", [0, 700], ids=["at once", "in its middle"])
def test_a_handshake_that_breaks_off_is_an_outage_not_a_refusal(
    run: Run, authority: CertificateAuthority, server: CertificateFiles, how: Break, after_bytes: int
) -> None:
    async def main() -> None:
        async with fake_broker(tls=listener(server)) as broker:
            with TcpProxy(broker.port) as proxy:
                proxy.strike(how, after_bytes=after_bytes, times=1)
                with pytest.raises(KafkaUnavailableError, match=f"127.0.0.1:{proxy.port}"):
                    await connection_to(proxy.port, security=trusting(authority)).start()

    run(main())


def test_hazard_40_a_connection_the_broker_closed_as_idle_is_made_anew_without_an_error(
    run: Run, authority: CertificateAuthority, server: CertificateFiles
) -> None:
    async def main() -> None:
        async with fetching(authority, server) as (session, broker, proxy):
            assert await fetched(session) == [_RECORDS]
            before = proxy.accepted
            broker.say_goodbye()
            await asyncio.wait_for(broker.closed.wait(), 60)

            with contextlib.suppress(KafkaUnavailableError):  # it may have been asked before the farewell came
                await fetched(session)
            assert await fetched(session) == [_RECORDS]

            assert proxy.accepted > before

    run(main())


async def refusal(port: int, security: SecuritySettings) -> KafkaDeniedError:
    with pytest.raises(KafkaDeniedError) as denied:
        await connection_to(port, security=security).start()
    assert f"127.0.0.1:{port}" in denied.value.message
    return denied.value


def test_a_certificate_of_an_unknown_authority_is_refused_with_where_to_name_it(
    run: Run, server: CertificateFiles, tmp_path: Path
) -> None:
    stranger = CertificateAuthority(tmp_path, "stranger")

    async def main() -> None:
        async with fake_broker(tls=listener(server)) as broker:
            denied = await refusal(broker.port, trusting(stranger))
        assert "not trusted" in denied.message
        assert "security.ca_file" in denied.hint

    run(main())


def test_an_expired_certificate_is_refused_with_who_must_renew_it(run: Run, authority: CertificateAuthority) -> None:
    expired = authority.issue("expired", expired=True)

    async def main() -> None:
        async with fake_broker(tls=listener(expired)) as broker:
            denied = await refusal(broker.port, trusting(authority))
        assert "has expired" in denied.message
        assert "renew" in denied.hint
        assert "ca_file" not in denied.hint

    run(main())


def test_a_certificate_for_another_host_is_refused_with_both_names(run: Run, authority: CertificateAuthority) -> None:
    elsewhere = authority.issue("elsewhere", hosts=["kafka.example.org"])

    async def main() -> None:
        async with fake_broker(tls=listener(elsewhere)) as broker:
            denied = await refusal(broker.port, trusting(authority))
        assert "not valid for '127.0.0.1'" in denied.message
        assert "advertised.listeners" in denied.hint
        assert "ca_file" not in denied.hint

    run(main())


def test_mutual_tls_takes_our_certificate_and_without_one_says_which_key_is_missing(
    run: Run, authority: CertificateAuthority, server: CertificateFiles
) -> None:
    own = authority.issue("own")

    async def main() -> None:
        async with fake_broker(tls=listener(server, clients_of=authority)) as broker:
            async with connection_to(broker.port, security=trusting(authority, own)) as connection:
                assert list(connection.brokers) == [1]
            with pytest.raises((KafkaDeniedError, KafkaUnavailableError)) as refused:
                await connection_to(broker.port, security=trusting(authority)).start()
        assert "security.cert_file" in refused.value.hint

    run(main())


_FILES: dict[str, Callable[[SecuritySettings, Path], SecuritySettings]] = {
    "ca_file": lambda settings, path: replace(settings, ca_file=path),
    "cert_file": lambda settings, path: replace(settings, cert_file=path),
    "key_file": lambda settings, path: replace(settings, key_file=path),
}


@pytest.mark.parametrize("missing", list(_FILES))
def test_a_file_that_cannot_be_read_is_named_with_its_key(
    authority: CertificateAuthority, server: CertificateFiles, tmp_path: Path, missing: str
) -> None:
    absent = tmp_path / "absent.pem"
    settings = _FILES[missing](trusting(authority, server), absent)

    with pytest.raises(ConfigurationError) as wrong:
        security_arguments(settings)

    assert f"security.{missing} {absent}: No such file or directory" in wrong.value.message


@pytest.mark.parametrize("gone", list(_FILES))
def test_a_file_that_is_taken_away_while_it_is_read_is_told_as_one_that_cannot_be_used(
    authority: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Renewals replace files at any moment; an OSError here would pass for one of the network, or for none at all."""
    own = authority.issue("fleeting")
    file = tmp_path / "fleeting.pem"
    settings = _FILES[gone](trusting(authority, own), file)
    file.write_bytes(
        {"ca_file": authority.certificate, "cert_file": own.certificate, "key_file": own.key}[gone].read_bytes()
    )
    require_readable = security._require_readable

    def then_removed(key: str, path: Path) -> None:
        require_readable(key, path)
        if key == gone:
            path.unlink()

    monkeypatch.setattr(security, "_require_readable", then_removed)
    with pytest.raises(ConfigurationError, match=r"security\.\w+ "):
        security_arguments(settings)


def test_a_key_with_a_pass_phrase_is_refused_instead_of_asking_a_terminal_for_it(
    authority: CertificateAuthority, server: CertificateFiles, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.pem"
    # What makes it locked is its head; nobody gets so far as to find the rest meaningless.
    head = f"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,{'0' * 32}\n\n"
    locked.write_text(f"-----BEGIN EC PRIVATE KEY-----\n{head}{'A' * 64}\n-----END EC PRIVATE KEY-----\n")

    with pytest.raises(ConfigurationError) as wrong:
        security_arguments(replace(trusting(authority, server), key_file=locked))

    assert f"security.key_file {locked}: it has a pass phrase" in wrong.value.message
    assert "without a pass phrase" in wrong.value.hint


def test_a_key_of_another_certificate_and_a_file_without_any_are_told_apart(
    authority: CertificateAuthority, server: CertificateFiles, tmp_path: Path
) -> None:
    other = authority.issue("other")
    with pytest.raises(ConfigurationError, match=r"key_file .*: it is not the key of security.cert_file"):
        security_arguments(replace(trusting(authority, server), key_file=other.key))

    text = tmp_path / "text.pem"
    text.write_text("not a certificate\n")
    with pytest.raises(ConfigurationError, match=f"security.ca_file {text}: there is no PEM certificate in it"):
        security_arguments(replace(trusting(authority), ca_file=text))


def test_a_renewed_certificate_counts_from_the_next_connection_on_and_a_half_written_one_changes_nothing(
    run: Run, authority: CertificateAuthority, server: CertificateFiles, tmp_path: Path
) -> None:
    old, new = authority.issue("client-old", expired=True), authority.issue("client-new")
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    cert.write_bytes(old.certificate.read_bytes())
    key.write_bytes(old.key.read_bytes())
    security = replace(trusting(authority), cert_file=cert, key_file=key)

    async def main() -> None:
        async with fake_broker(tls=listener(server, clients_of=authority)) as broker:
            connection = connection_to(broker.port, security=security)
            with pytest.raises((KafkaDeniedError, KafkaUnavailableError)):
                await connection.start()
            cert.write_bytes(new.certificate.read_bytes())
            key.write_bytes(new.key.read_bytes())
            await connection.start()

            key.write_bytes(old.key.read_bytes())
            await connection.start()
            key.unlink()
            await connection.start()

    run(main())
