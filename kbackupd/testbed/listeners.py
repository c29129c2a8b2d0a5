"""Listeners of a broker beside its plain one: TLS, SASL, mutual TLS, each with a certificate and users of its own, or
plain behind a proxy.

The plain listener stays for other nodes and for whoever looks at the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbackupd.testbed.certificates import CertificateFiles
from kbackupd.testbed.ports import free_ports

SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS = ("PLAIN", *SCRAM)

_PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One of a broker's listeners, on a port of its own.

    Args:
        name: capitals only.
        protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        certificate: the broker's, for the two with TLS.
        clients_of: PEM file of an authority; only clients with one of its certificates get in.
        port: where the broker listens.
        advertised_port: where clients are sent: a proxy's.
    """

    name: str
    protocol: str
    certificate: CertificateFiles | None = None
    clients_of: Path | None = None
    port: int
    advertised_port: int

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.advertised_port}"

    def properties(self, users: Mapping[str, str]) -> dict[str, str]:
        """The broker's, with the users PLAIN knows; SCRAM's are stored in the cluster (`scram_arguments`)."""
        own = f"listener.name.{self.name.lower()}."
        found: dict[str, str] = {}
        if self.certificate is not None:
            found |= {f"{own}ssl.keystore.type": "PEM", f"{own}ssl.keystore.location": str(self.certificate.both)}
        if self.clients_of is not None:
            found |= {
                f"{own}ssl.client.auth": "required",
                f"{own}ssl.truststore.type": "PEM",
                f"{own}ssl.truststore.location": str(self.clients_of),
            }
        if self.protocol.startswith("SASL"):
            known = " ".join(f'user_{user}="{password}"' for user, password in users.items())
            found[f"{own}sasl.enabled.mechanisms"] = ",".join(MECHANISMS)
            found[f"{own}plain.sasl.jaas.config"] = f"{_PLAIN_MODULE} required {known};"
            found |= {f"{own}{one.lower()}.sasl.jaas.config": f"{_SCRAM_MODULE} required;" for one in SCRAM}
        return found


def listener(
    name: str,
    protocol: str,
    *,
    certificate: CertificateFiles | None = None,
    clients_of: Path | None = None,
    advertised_port: int | None = None,
) -> Listener:
    """On a free port, which it also advertises unless told another."""
    (port,) = free_ports(1)
    return Listener(
        name=name,
        protocol=protocol,
        certificate=certificate,
        clients_of=clients_of,
        port=port,
        advertised_port=advertised_port or port,
    )


def listener_properties(
    listeners: Iterable[Listener], *, plain_port: int, controller_port: int, users: Mapping[str, str]
) -> dict[str, str]:
    """Of a broker with these beside its plain listener, which needs no login."""
    extra = list(listeners)
    bound = [f"PLAINTEXT://127.0.0.1:{plain_port}", *(f"{one.name}://127.0.0.1:{one.port}" for one in extra)]
    told = [f"PLAINTEXT://127.0.0.1:{plain_port}", *(f"{one.name}://{one.bootstrap}" for one in extra)]
    protocols = ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT", *(f"{one.name}:{one.protocol}" for one in extra)]
    found = {
        "listeners": ",".join([*bound, f"CONTROLLER://127.0.0.1:{controller_port}"]),
        "advertised.listeners": ",".join(told),
    }
    if extra:
        found["listener.security.protocol.map"] = ",".join(protocols)
    for one in extra:
        found |= one.properties(users)
    return found


def scram_arguments(users: Mapping[str, str]) -> Sequence[str]:
    """For StorageTool: each user's SCRAM credentials of both kinds are among the cluster's first records."""
    return [
        argument
        for user, password in users.items()
        for mechanism in SCRAM
        for argument in ("--add-scram", f"{mechanism}=[name={user},password={password}]")
    ]
