"""Security settings as the keyword arguments of an aiokafka connection: the one place where secrets are revealed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TypedDict

from kbackupd.model.errors import ConfigurationError
from kbackupd.model.settings import SecuritySettings


class SecurityArguments(TypedDict, total=False):
    security_protocol: str
    ssl_context: ssl.SSLContext
    sasl_mechanism: str
    sasl_plain_username: str
    sasl_plain_password: str


class Credentials:
    """The arguments of every new connection, with the certificate files as they are at that time.

    Certificates live for hours where machines issue them; a daemon lives for months, and is not restarted for each.
    """

    def __init__(self, settings: SecuritySettings) -> None:
        self._settings = settings
        self._arguments: SecurityArguments | None = None
        self._read: tuple[tuple[int, ...], ...] = ()

    def arguments(self) -> SecurityArguments:
        """Reads files that changed since the last call.

        Raises:
            ConfigurationError: they cannot be used, and never could be by this object. Afterwards the last usable ones
                go on counting: a certificate is there a moment before its key.
        """
        files = (self._settings.ca_file, self._settings.cert_file, self._settings.key_file)
        found = tuple(_identity(path) for path in files if path is not None)
        if self._arguments is None or found != self._read:
            try:
                self._arguments = security_arguments(self._settings)
                self._read = found
            except ConfigurationError:
                if self._arguments is None:
                    raise
        return self._arguments


def _identity(path: Path) -> tuple[int, ...]:
    """What differs when a file was written or replaced; empty: it is not there."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


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
    ca_file, cert_file, key_file = settings.ca_file, settings.cert_file, settings.key_file
    for key, path in (("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)):
        if path is not None:
            _require_readable(key, path)
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:  # OpenSSL's are some of these; so is that it has gone since it was found readable
        raise _unusable("ca_file", ca_file, "there is no PEM certificate in it") from error
    if cert_file is not None:
        _identify(context, cert_file, key_file)
    return context


def _identify(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    locked = False

    def pass_phrase() -> str:
        # Where there is no such function OpenSSL asks the terminal, and a service waits for ever.
        nonlocal locked
        locked = True
        return ""

    try:
        context.load_cert_chain(cert_file, key_file, password=pass_phrase)
    except (OSError, ValueError) as error:
        if locked:
            raise _unusable("key_file", key_file, "it has a pass phrase") from error
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise _unusable("key_file", key_file, f"it is not the key of security.cert_file {cert_file}") from error
        raise _unusable("cert_file", cert_file, f"no PEM certificate in it, or no key in {key_file}") from error


def _require_readable(key: str, path: Path) -> None:
    # Of several files, OpenSSL does not say which one it could not read.
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise _unusable(key, path, error.strerror or str(error)) from error


def _unusable(key: str, path: Path | None, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"security.{key} {path}: {why}",
        hint="TLS files must be PEM, readable for the user kbackupd runs as, and the key without a pass phrase",
    )
