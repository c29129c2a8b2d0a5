"""Every way a broker says no, in our own words and with what to do."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiokafka.errors as aio
import pytest

from kbackupd.kafka.errors import code_name, error_for_code, translate
from kbackupd.kafka.security import security_arguments
from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.errors import ConfigurationError, KafkaDeniedError, KafkaUnavailableError
from kbackupd.model.settings import SaslMechanism, SaslSettings, Secret, SecurityProtocol, SecuritySettings


@pytest.mark.parametrize("code", [code for code in KafkaErrorCode if code.retriable])
def test_a_code_that_may_pass_is_unavailable(code: KafkaErrorCode) -> None:
    error = error_for_code(code, "asking")

    assert isinstance(error, KafkaUnavailableError)
    assert (error.code, code.name in error.message) == (code, True)


@pytest.mark.parametrize("code", [29, 31, 36, 44, 73, 87])
def test_a_code_that_will_not_pass_is_denied(code: int) -> None:
    assert isinstance(error_for_code(code, "asking"), KafkaDeniedError)


def test_a_code_we_do_not_know_is_neither_success_nor_final() -> None:
    error = error_for_code(1234, "asking", detail="who knows")

    assert isinstance(error, KafkaUnavailableError)
    assert error.message == "asking: ERROR_1234 (1234): who knows"
    assert code_name(0) == "NONE"


def test_a_refused_login_is_denied_and_says_where_to_look() -> None:
    error = translate(aio.SaslAuthenticationFailed("Authentication failed: Invalid username or password"), "connecting")

    assert isinstance(error, KafkaDeniedError)
    assert "security.sasl" in error.hint
    assert error.code == KafkaErrorCode.SASL_AUTHENTICATION_FAILED


def test_a_distrusted_certificate_is_denied_and_a_lost_connection_is_not() -> None:
    lost = translate(aio.KafkaConnectionError("Connection at a:1 closed"), "asking")
    distrusted = translate(ssl.SSLCertVerificationError(1, "self-signed certificate"), "connecting")

    assert isinstance(lost, KafkaUnavailableError)
    assert lost.hint == ""
    assert isinstance(distrusted, KafkaDeniedError)
    assert "ca_file" in distrusted.hint


def test_credentials_reach_the_connection_and_nothing_that_is_printed() -> None:
    settings = SecuritySettings(
        protocol=SecurityProtocol.SASL_PLAINTEXT,
        sasl=SaslSettings(mechanism=SaslMechanism.SCRAM_SHA_512, username="backup", password=Secret("hush")),
    )

    assert security_arguments(settings) == {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "backup",
        "sasl_plain_password": "hush",
    }
    assert "hush" not in repr(settings)


def test_certificate_files_that_cannot_be_used_are_a_matter_of_configuration(tmp_path: Path) -> None:
    not_pem = tmp_path / "ca.pem"
    not_pem.write_text("no certificate")
    for path in (not_pem, tmp_path / "missing.pem"):
        with pytest.raises(ConfigurationError, match=path.name):
            security_arguments(SecuritySettings(protocol=SecurityProtocol.SSL, ca_file=path))


def test_sasl_without_credentials_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"needs security\.sasl"):
        security_arguments(SecuritySettings(protocol=SecurityProtocol.SASL_SSL))
