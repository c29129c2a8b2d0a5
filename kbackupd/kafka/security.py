"""Security settings as the keyword arguments of an aiokafka connection: the one place where secrets are revealed."""

from __future__ import annotations

import ssl
from typing import TypedDict

from kbackupd.model.errors import ConfigurationError
from kbackupd.model.settings import SecuritySettings


class SecurityArguments(TypedDict, total=False):
    security_protocol: str
    ssl_context: ssl.SSLContext
    sasl_mechanism: str
    sasl_plain_username: str
    sasl_plain_password: str


def security_arguments(settings: SecuritySettings) -> SecurityArguments:
    """What `aiokafka.conn.create_conn` wants to know. Reads certificate files; raises ConfigurationError."""
    arguments = SecurityArguments(security_protocol=settings.protocol.value)
    if settings.protocol.encrypted:
        arguments["ssl_context"] = _tls(settings)
    if settings.protocol.authenticated:
        if settings.sasl is None:
            raise ConfigurationError(
                f"security.protocol {settings.protocol.value} needs security.sasl",
                hint="add mechanism, username and password",
            )
        arguments["sasl_mechanism"] = settings.sasl.mechanism.value
        arguments["sasl_plain_username"] = settings.sasl.username
        arguments["sasl_plain_password"] = settings.sasl.password.reveal()
    return arguments


def _tls(settings: SecuritySettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if settings.ca_file is None else str(settings.ca_file))
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(f) for f in (settings.ca_file, settings.cert_file, settings.key_file) if f is not None)
        raise ConfigurationError(
            f"TLS files cannot be used ({files}): {error}",
            hint="they must be readable PEM files, the key without a pass phrase",
        ) from error
    return context
