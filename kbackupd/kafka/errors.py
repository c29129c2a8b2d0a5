"""From what aiokafka, the operating system and TLS raise, and from Kafka's error codes, to our error tree."""

from __future__ import annotations

import ssl

import aiokafka.errors as aio

from kbackupd.kafka.types import KafkaErrorCode
from kbackupd.model.errors import KafkaDeniedError, KafkaUnavailableError

KafkaFailure = KafkaUnavailableError | KafkaDeniedError

_HINTS = {
    KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED: "grant this principal Describe and Read on the topic "
    "(and Write, Create and Alter where it restores)",
    KafkaErrorCode.CLUSTER_AUTHORIZATION_FAILED: "grant this principal the operation on the Cluster resource",
    KafkaErrorCode.GROUP_AUTHORIZATION_FAILED: "grant this principal Read on the consumer group",
    KafkaErrorCode.UNSUPPORTED_VERSION: "kbackupd needs Apache Kafka 3.1 or later, or a compatible broker",
    KafkaErrorCode.POLICY_VIOLATION: "the cluster's own policy refuses this; ask whoever runs it",
    KafkaErrorCode.TOPIC_DELETION_DISABLED: "the brokers have delete.topic.enable=false",
}


_VERIFICATION_HINTS = {
    10: "its owner must renew it; until then nothing can be said to it safely",
    9: "its time has not come yet: are the clocks of both machines right?",
    62: "bootstrap_servers and the brokers' advertised.listeners must use a name the certificate was made for",
    64: "bootstrap_servers and the brokers' advertised.listeners must use an address the certificate was made for",
}
"""By OpenSSL's X509_V_ERR_…: expired, not yet valid, host name mismatch, address mismatch."""


def code_name(code: int) -> str:
    """Kafka's own name of `code`, or `ERROR_<code>` for one we do not know."""
    try:
        return KafkaErrorCode(code).name
    except ValueError:
        return f"ERROR_{code}"


def is_retriable(code: int) -> bool:
    """Whether trying again may help; an unknown code is not assumed to be harmless, nor final: it is retriable."""
    try:
        return KafkaErrorCode(code).retriable
    except ValueError:
        return True


def error_for_code(code: int, what: str, *, detail: str | None = None) -> KafkaFailure:
    """The error to raise when `what` was answered with `code`; `detail` is the broker's own sentence."""
    message = f"{what}: {code_name(code)} ({code})" + (f": {detail}" if detail else "")
    if is_retriable(code):
        return KafkaUnavailableError(message, code=code)
    hint = _HINTS[KafkaErrorCode(code)] if code in _HINTS else ""
    return KafkaDeniedError(message, hint=hint, code=code)


def translate(error: BaseException, what: str, *, connecting: bool = False) -> KafkaFailure:
    """`error`, raised below us while doing `what`, as one of ours. Raise it `from` the original.

    Args:
        connecting: whether the connection was still being made, when a reset says something about the configuration.
    """
    if isinstance(error, KafkaUnavailableError | KafkaDeniedError):
        return error
    cause = error.__cause__
    if isinstance(error, aio.KafkaConnectionError) and isinstance(cause, ssl.SSLError | TimeoutError):
        error = cause
    match error:
        case aio.SaslAuthenticationFailed() | aio.UnsupportedSaslMechanismError() | aio.IllegalSaslStateError():
            return KafkaDeniedError(
                f"{what}: authentication refused: {error}",
                hint="check security.sasl: user name, password and a mechanism this listener has enabled",
                code=error.errno,
            )
        case ssl.SSLCertVerificationError():
            # Both attributes are there only if OpenSSL itself raised it.
            return KafkaDeniedError(
                f"{what}: the broker's certificate is not trusted: {getattr(error, 'verify_message', '') or error}",
                hint=_VERIFICATION_HINTS.get(
                    getattr(error, "verify_code", 0), "set security.ca_file to the authority that signed it (PEM)"
                ),
            )
        case ssl.SSLError() if _broken_below(error, connecting):
            return KafkaUnavailableError(
                f"{what}: the connection broke: TLS: {error.reason or error}", code=KafkaErrorCode.NETWORK_EXCEPTION
            )
        case ssl.SSLError():
            return KafkaDeniedError(
                f"{what}: TLS failed: {error.reason or error}",
                hint="is this a TLS listener, and does it want a client certificate it trusts (security.cert_file)?",
            )
        case TimeoutError():
            return KafkaUnavailableError(
                f"{what}: no answer in time",
                hint="is the broker up and reachable, the advertised host name included?",
                code=KafkaErrorCode.REQUEST_TIMED_OUT,
            )
        case aio.KafkaConnectionError() | EOFError() | ConnectionError():
            # A broker that misses our certificate often just hangs up: the alert that says so is lost with the reset.
            hint = (
                "is a broker up there, does security.protocol match its listener, and does that want a client "
                "certificate (security.cert_file)?"
            )
            return KafkaUnavailableError(
                f"{what}: the connection broke: {error}",
                hint=hint if connecting else "",
                code=KafkaErrorCode.NETWORK_EXCEPTION,
            )
        case OSError():
            hint = "check bootstrap_servers, name resolution and firewalls"
            return KafkaUnavailableError(
                f"{what}: {error.strerror or error}", hint=hint, code=KafkaErrorCode.NETWORK_EXCEPTION
            )
        case aio.BrokerResponseError():
            return error_for_code(error.errno, what, detail=str(error))
        case _:
            return KafkaUnavailableError(f"{what}: {type(error).__name__}: {error}")


def _broken_below(error: ssl.SSLError, connecting: bool) -> bool:
    """Whether the network is to blame, rather than what either side wants: then trying again helps.

    What was agreed in the handshake is not refused later, except by an alert: a record that makes no sense was torn or
    altered on its way.
    """
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return True
    reason = error.reason or ""
    return "BAD_RECORD_MAC" in reason or not (connecting or "ALERT" in reason)
