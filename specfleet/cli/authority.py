"""A certificate authority in a folder. The only file that needs the package cryptography, of the extra `certs`."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from specfleet.errors import InvalidRequest
from specfleet.tls import AUTHORITIES, CHAIN, KEY, role_uri

__all__ = ["Authority"]

_VALID_FOR = timedelta(days=3650)
_EARLIER = timedelta(minutes=5)  # for clocks that are behind
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)(\*\.)?{_LABEL}(\.{_LABEL})*")


class Authority:
    """Signs certificates. Whoever reads its key can be anyone in the fleet."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate, self._key = certificate, key

    @classmethod
    def of(cls, folder: Path, now: datetime) -> Authority:
        """The one that lives there, which is made where there is none."""
        if (folder / KEY).exists():
            return cls._read(folder)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "specfleet development authority")])
        certificate = (
            _builder(name, key, now, _VALID_FOR)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(folder, {KEY: _pem(key), CHAIN: certificate.public_bytes(serialization.Encoding.PEM)})
        return cls(certificate, key)

    @classmethod
    def _read(cls, folder: Path) -> Authority:
        try:
            certificate = x509.load_pem_x509_certificate((folder / CHAIN).read_bytes())
            key = serialization.load_pem_private_key((folder / KEY).read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise InvalidRequest(f"{folder} holds no authority that can be read: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidRequest(f"{folder / KEY} is of another kind than this command makes; give another folder")
        return cls(certificate, key)

    def issue(self, folder: Path, *, role: str, hosts: Sequence[str], now: datetime, valid_for: timedelta) -> None:
        """A new key and certificate for a role. Only a router's holds for a server, so that nobody else can be one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"specfleet {role}")])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if role == "router" else ExtendedKeyUsageOID.CLIENT_AUTH
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(role_uri(role))]
        if role == "router":
            names += [_host(host) for host in hosts]
        certificate = (
            _builder(name, key, now, valid_for)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        encoded = {KEY: _pem(key), CHAIN: certificate.public_bytes(serialization.Encoding.PEM)}
        _write(folder, encoded | {AUTHORITIES: self.certificate.public_bytes(serialization.Encoding.PEM)})


def _builder(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, valid_for: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + valid_for)
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if _HOST_NAME.fullmatch(host) is None:
        raise InvalidRequest(f"--host is {host!r}; it must be a name or an address, without a port")
    return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Each whole or not at all; keys for their owner alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, content in files.items():
            draft = folder / f"{name}.new"
            mode = 0o600 if name == KEY else 0o644
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as out:
                out.write(content)
            draft.replace(folder / name)
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be written: {error.strerror}") from None
