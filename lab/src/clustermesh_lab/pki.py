"""Certificates and kubeconfigs of one cluster.

Each cluster has an authority of its own, as real ones have: a credential of one cluster must mean nothing to another.
Identities are client certificates (user = common name, groups = organisations), so there is no token file to leak, and
elliptic curves keep making dozens of them below the time of starting one process.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
from base64 import b64encode
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .places import private_dir, private_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LIFETIME = datetime.timedelta(days=3650)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _subject(user: str, groups: Sequence[str] = ()) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """The certificate authority of a cluster, kept in one directory with everything it signed."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = private_dir(directory)
        self.certificate_file = directory / "ca.crt"
        self.service_account_key = directory / "sa.key"
        if (directory / "ca.key").exists():
            loaded = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
            if not isinstance(loaded, ec.EllipticCurvePrivateKey):
                raise TypeError(f"{directory / 'ca.key'} holds no elliptic curve key")
            self._key = loaded
            self._certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        else:
            self._create(name)

    def _create(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(f"{name}-ca")
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = (
            _builder(subject, subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private_file(self.certificate_file, self._certificate.public_bytes(serialization.Encoding.PEM))
        private_file(self.service_account_key, _key_pem(ec.generate_private_key(ec.SECP256R1())))
        private_file(self.directory / "ca.key", _key_pem(self._key))

    def issue(self, file: str, user: str, groups: Sequence[str] = (), names: Sequence[str] = ()) -> tuple[Path, Path]:
        """Certificate and key as FILE.crt and FILE.key: a server's when it has names, else a client's."""
        certificate, key_file = self.directory / f"{file}.crt", self.directory / f"{file}.key"
        if certificate.exists() and key_file.exists():
            return certificate, key_file
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
        draft = (
            _builder(_subject(user, groups), self._certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            draft = draft.add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False)
        signed = draft.sign(self._key, hashes.SHA256())
        private_file(key_file, _key_pem(key))
        private_file(certificate, signed.public_bytes(serialization.Encoding.PEM))
        return certificate, key_file

    def kubeconfig(self, file: str, server: str, user: str, groups: Sequence[str] = (), *, context: str) -> Path:
        """FILE.kubeconfig of an identity, everything embedded: it can be copied anywhere."""
        certificate, key = self.issue(file, user, groups)

        def data(path: Path) -> str:
            return b64encode(path.read_bytes()).decode()

        identity = {"client-certificate-data": data(certificate), "client-key-data": data(key)}
        cluster = {"server": server, "certificate-authority-data": data(self.certificate_file)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": cluster}],
            "users": [{"name": user, "user": identity}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
            "current-context": context,
        }
        return private_file(self.directory / f"{file}.kubeconfig", json.dumps(config, indent=1) + "\n")
