"""A certificate authority for tests: P-256 keys and X.509 certificates in PEM files, for loopback and a day.

Made anew at every run, in a temporary directory; nothing of it is ever committed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files of one certificate and its key, and both in one for Kafka's PEM key stores."""

    certificate: Path
    key: Path
    both: Path


class CertificateAuthority:
    """Signs certificates into `directory`; `certificate` is its own, which clients and brokers are to trust.

    Args:
        name: of the authority, and of its files.
    """

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.certificate = directory / f"{name}.pem"
        builder = _certificate(self._name, self._key, _now() + _DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_uses(key_cert_sign=True, crl_sign=True), critical=True)
        self.certificate.write_bytes(self._signed(builder))

    def issue(self, name: str, *, hosts: Sequence[str] = LOOPBACK, expired: bool = False) -> CertificateFiles:
        """A certificate for `CN=name`, valid for servers at `hosts` and for clients, for a day from now.

        Args:
            expired: since an hour ago, rather.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _certificate(_name(name), key, _now() - timedelta(hours=1) if expired else _now() + _DAY)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), False)
        builder = builder.add_extension(_uses(digital_signature=True), critical=True)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = self._signed(builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files = CertificateFiles(*(self._directory / f"{name}.{part}.pem" for part in ("crt", "key", "both")))
        for path, data in ((files.certificate, certificate), (files.key, private), (files.both, private + certificate)):
            path.touch(mode=0o600)
            path.write_bytes(data)
        return files

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.issuer_name(self._name).add_extension(issuer, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _DAY)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _uses(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
