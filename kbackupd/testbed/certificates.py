"""A certificate authority for tests, of the standard library alone: P-256 keys, X.509 v3 (RFC 5280), PEM files.

Neither `openssl` nor a package that can do this is on every machine the testbed runs on, and a JVM for each certificate
would cost seconds. This does not protect anything: its arithmetic leaks the key to whoever can measure it, so keys are
made anew at every run, live in a temporary directory and certify loopback only.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
"""NIST P-256 (FIPS 186-4, D.1.2.3): field, order, generator; a is -3."""

_Point = tuple[int, int] | None
"""None: the point at infinity."""

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
        self._secret = secrets.randbelow(_N - 1) + 1
        self._name = _name(name)
        self._key_id = hashlib.sha1(_public(self._secret), usedforsecurity=False).digest()
        self.certificate = directory / f"{name}.pem"
        body = self._certified(self._name, self._secret, _now() - _DAY, _now() + _DAY, _CA_USES)
        self.certificate.write_text(_pem("CERTIFICATE", body))

    def issue(self, name: str, *, hosts: Sequence[str] = LOOPBACK, expired: bool = False) -> CertificateFiles:
        """A certificate for `CN=name`, valid for servers at `hosts` and for clients, for a day from now.

        Args:
            expired: since an hour ago, rather.
        """
        secret = secrets.randbelow(_N - 1) + 1
        until = _now() - timedelta(hours=1) if expired else _now() + _DAY
        alternatives = b"".join(_alternative(host) for host in hosts)
        extensions = _LEAF_USES + _extension("2.5.29.17", _sequence(alternatives))
        certificate = _pem("CERTIFICATE", self._certified(_name(name), secret, _now() - _DAY, until, extensions))
        key = _pem("PRIVATE KEY", _private_key(secret))
        files = CertificateFiles(*(self._directory / f"{name}.{part}.pem" for part in ("crt", "key", "both")))
        for path, text in ((files.certificate, certificate), (files.key, key), (files.both, key + certificate)):
            path.touch(mode=0o600)
            path.write_text(text)
        return files

    def _certified(self, subject: bytes, secret: int, since: datetime, until: datetime, extensions: bytes) -> bytes:
        public = _public(secret)
        subject_key = hashlib.sha1(public, usedforsecurity=False).digest()
        identifiers = _extension("2.5.29.14", _der(0x04, subject_key))
        identifiers += _extension("2.5.29.35", _sequence(_der(0x80, self._key_id)))
        to_be_signed = _sequence(
            _der(0xA0, _integer(2)),
            _integer(secrets.randbits(120) | 1),
            _ECDSA_WITH_SHA256,
            self._name,
            _sequence(_time(since), _time(until)),
            subject,
            _sequence(_EC_ON_P256, _bits(public)),
            _der(0xA3, _sequence(identifiers, extensions)),
        )
        return _sequence(to_be_signed, _ECDSA_WITH_SHA256, _bits(_signature(self._secret, to_be_signed)))


def _now() -> datetime:
    return datetime.now(UTC)


def _add(one: _Point, other: _Point) -> _Point:
    if one is None or other is None:
        return other if one is None else one
    (x1, y1), (x2, y2) = one, other
    if x1 == x2:
        if (y1 + y2) % _P == 0:
            return None
        slope = 3 * (x1 * x1 - 1) * pow(2 * y1, -1, _P)
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, _P)
    x = (slope * slope - x1 - x2) % _P
    return x, (slope * (x1 - x) - y1) % _P


def _times(factor: int) -> tuple[int, int]:
    """`factor` times the generator, for 0 < factor < _N."""
    total: _Point = None
    power: _Point = _G
    while factor:
        if factor & 1:
            total = _add(total, power)
        power = _add(power, power)
        factor >>= 1
    assert total is not None
    return total


def _public(secret: int) -> bytes:
    x, y = _times(secret)
    return b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")


def _signature(secret: int, data: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(data).digest(), "big")
    nonce = secrets.randbelow(_N - 1) + 1
    r = _times(nonce)[0] % _N
    return _sequence(_integer(r), _integer((digest + r * secret) * pow(nonce, -1, _N) % _N))


def _private_key(secret: int) -> bytes:
    """PKCS #8 (RFC 5958) around RFC 5915, the public key included, as Java wants it."""
    inner = _sequence(_integer(1), _der(0x04, secret.to_bytes(32, "big")), _der(0xA1, _bits(_public(secret))))
    return _sequence(_integer(0), _EC_ON_P256, _der(0x04, inner))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _bits(content: bytes, unused: int = 0) -> bytes:
    return _der(0x03, bytes((unused,)) + content)


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = bytearray((40 * first + second,))
    for value in rest:
        septets = [value & 0x7F]
        while value := value >> 7:
            septets.append(0x80 | value & 0x7F)
        content += bytes(reversed(septets))
    return _der(0x06, bytes(content))


def _time(when: datetime) -> bytes:
    return _der(0x17, when.strftime("%y%m%d%H%M%SZ").encode())


def _name(common_name: str) -> bytes:
    return _sequence(_der(0x31, _sequence(_oid("2.5.4.3"), _der(0x0C, common_name.encode()))))


def _alternative(host: str) -> bytes:
    try:
        return _der(0x87, ipaddress.ip_address(host).packed)
    except ValueError:
        return _der(0x82, host.encode("ascii"))


def _extension(oid: str, content: bytes, *, critical: bool = False) -> bytes:
    return _sequence(_oid(oid), b"\x01\x01\xff" if critical else b"", _der(0x04, content))


def _pem(label: str, content: bytes) -> str:
    text = base64.b64encode(content).decode()
    lines = "\n".join(text[position : position + 64] for position in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


_ECDSA_WITH_SHA256 = _sequence(_oid("1.2.840.10045.4.3.2"))
_EC_ON_P256 = _sequence(_oid("1.2.840.10045.2.1"), _oid("1.2.840.10045.3.1.7"))
_CA_USES = _extension("2.5.29.19", _sequence(b"\x01\x01\xff"), critical=True) + _extension(
    "2.5.29.15", _bits(b"\x06", unused=1), critical=True
)
"""May sign certificates and revocation lists."""
_LEAF_USES = _extension("2.5.29.15", _bits(b"\x80", unused=7), critical=True) + _extension(
    "2.5.29.37", _sequence(_oid("1.3.6.1.5.5.7.3.1"), _oid("1.3.6.1.5.5.7.3.2"))
)
"""May sign in a handshake, as a server's and as a client's."""
