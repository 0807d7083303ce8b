"""Where a client's address, trust and credential come from: a kubeconfig, or the ServiceAccount of the pod.

Nearly every context has a server, certificates and a token, no more, and that is read here. The rest (a program, a
provider, a token in a file) is for the kubernetes package, which is loaded only then: it takes 20 MiB and a third of a
second (docs/decisions/0015-a-package-where-it-is-needed.md). A kubeconfig that somebody else wrote never gets there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from clustermeshd.kube.kubeconfigs import chosen, refused, server_problem, token_problem
from clustermeshd.model.errors import Fatal

_MATERIAL: Final = ("certificate-authority", "client-certificate", "client-key", "tokenFile")  # files, or *-data
_PLAIN_CLUSTER: Final = frozenset({"server", "certificate-authority", "insecure-skip-tls-verify", "tls-server-name"})
_PLAIN_USER: Final = frozenset({"client-certificate", "client-key", "token"})
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Access:
    """An API server and how to be somebody there. Nothing secret is in its repr.

    ``fingerprint`` changes whenever the content it was made from does; ``expires_at`` is the earlier end of token and
    client certificate, as far as they tell.
    """

    server: str
    tls: ssl.SSLContext = field(repr=False)
    token: str | None = field(repr=False, default=None)
    tls_server_name: str | None = None
    fingerprint: str = ""
    expires_at: datetime | None = None
    source: Path | None = None
    context: str | None = None
    in_cluster: bool = False


@dataclass(frozen=True, slots=True)
class _Means:
    """What a context amounts to, its key material in files."""

    server: str
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    token: str = field(default="", repr=False)
    tls_server_name: str | None = None
    is_verified: bool = True

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority)
        if self.certificate:
            context.load_cert_chain(self.certificate, keyfile=self.key)
        if not self.is_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _UnusableError(Exception):
    """What the kubernetes package says of a kubeconfig, in a line."""


async def from_file(path: Path | None, context: str | None = None) -> Access:
    """Access by a kubeconfig file of ours, or by the pod's service account when ``path`` is None."""
    if path is None:
        return _of_pod()
    try:
        content = await asyncio.to_thread(path.read_bytes)
        document = yaml.safe_load(content)
        entries = _chosen_entries(document, context)
        with _files_in_memory(entries, base=path.parent):
            means = _plain(*entries) if len(entries) == 2 else None
            means = means or await _by_package(document, context)
            return _access(means, fingerprint=hashlib.sha256(content).hexdigest(), source=path, context=context)
    except ssl.SSLError as error:
        raise Fatal(f"kubeconfig {path}: certificates or key: {error.reason or 'unusable'}") from None
    except OSError as error:
        raise Fatal(f"kubeconfig {path}: {error.strerror or error}; name a readable one with --kubeconfig") from error
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Fatal(f"kubeconfig {path}: certificates or key: not base64") from error
    except (_UnusableError, yaml.YAMLError) as error:
        raise Fatal(f"kubeconfig {path}: {str(error).splitlines()[0]}; see `kubectl config view`") from error


async def from_secret(content: bytes, where: str) -> Access:
    """Access by a kubeconfig that somebody else wrote; ``where`` says where it was found. Raises Refused."""
    cluster, user = (
        {key: value for key, value in entry.items() if value and key.removesuffix("-data") in plain}
        for entry, plain in zip(chosen(content, where), (_PLAIN_CLUSTER, _PLAIN_USER), strict=True)
    )
    try:
        with _files_in_memory((cluster, user)):
            means = _plain(cluster, user)
            if means is not None:
                return _access(means, fingerprint=hashlib.sha256(content).hexdigest())
            trouble = "odd values"
    except (ssl.SSLError, OSError, ValueError, TypeError) as error:
        trouble = type(error).__name__  # what it says may quote key material
    raise refused("it cannot be used", where, f"{trouble}; check certificates, key and server")


def _of_pod() -> Access:
    """By the files that the kubelet puts into a pod, and the address in its environment."""
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    authority = _SERVICE_ACCOUNT / "ca.crt"
    trouble = ""
    try:
        if host and port:
            server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
            token = (_SERVICE_ACCOUNT / "token").read_text().strip()
            if token and authority.read_bytes():
                return _access(_Means(server, str(authority), token=token), in_cluster=True)
            trouble = f"a file in {_SERVICE_ACCOUNT} is empty"
        else:
            trouble = "no KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT"
    except ssl.SSLError as error:
        trouble = f"{authority}: {error.reason or 'unusable'}"
    except OSError as error:
        trouble = f"{error.filename}: {error.strerror}"
    raise Fatal(f"not in a cluster ({trouble}); name a kubeconfig with --kubeconfig")


def _plain(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> _Means | None:
    """What they amount to, where that is nothing but a server, certificates and a token."""
    if not (cluster.keys() <= _PLAIN_CLUSTER and user.keys() <= _PLAIN_USER):
        return None
    texts = {key: value for key, value in {**cluster, **user}.items() if key != "insecure-skip-tls-verify"}
    if not all(isinstance(value, str) for value in texts.values()):
        return None
    means = _Means(
        server=texts.get("server", ""),
        authority=texts.get("certificate-authority"),
        certificate=texts.get("client-certificate"),
        key=texts.get("client-key"),
        token=texts.get("token", ""),
        tls_server_name=texts.get("tls-server-name"),
        is_verified=not cluster.get("insecure-skip-tls-verify"),
    )
    has_files = all(Path(path).is_file() for path in (means.authority, means.certificate, means.key) if path)
    return means if has_files and means.server.startswith("https://") else None


async def _by_package(document: Any, context: str | None) -> _Means:
    """The context as the kubernetes package understands it. Raises _UnusableError."""
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.config import ConfigException, load_kube_config_from_dict

    found = Configuration()
    try:
        await load_kube_config_from_dict(document, context, client_configuration=found)
    except ConfigException as error:
        raise _UnusableError(str(error) or "it cannot be used") from error
    return _Means(
        found.host,
        found.ssl_ca_cert,
        found.cert_file,
        found.key_file,
        found.api_key.get("BearerToken", "").removeprefix("Bearer "),
        found.tls_server_name,
        found.verify_ssl,
    )


@contextmanager
def _files_in_memory(entries: Iterable[dict[str, Any]], *, base: Path | None = None) -> Iterator[None]:
    """Puts the key material of a cluster and a user into memory files (memfd_create(2)), gone at the end.

    A read-only or full disk takes no temporary file. Relative paths are made absolute by ``base``. Anything odd is
    left as it is.
    """
    opened: list[int] = []
    try:
        for entry in entries:
            for key in _MATERIAL:
                data, path = entry.pop(f"{key}-data", None), entry.get(key)
                if isinstance(data, str) and data:
                    opened.append(os.memfd_create(key, os.MFD_CLOEXEC))
                    os.write(opened[-1], base64.b64decode(data))
                    entry[key] = f"/proc/self/fd/{opened[-1]}"
                elif base is not None and isinstance(path, str):
                    entry[key] = str(base / path)
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _chosen_entries(document: Any, context: str | None) -> list[dict[str, Any]]:
    """Cluster and user of the context; fewer where it is not clear which those are."""
    if not isinstance(document, dict):
        return []
    wanted = _entry(document, "contexts", "context", context or document.get("current-context")) or {}
    found = (_entry(document, f"{kind}s", kind, wanted.get(kind)) for kind in ("cluster", "user"))
    return [entry for entry in found if entry is not None]


def _entry(document: dict[str, Any], kinds: str, kind: str, name: object) -> dict[str, Any] | None:
    """None where there is none, or several: that is for the kubernetes package to judge."""
    entries = document.get(kinds)
    found = [e for e in entries if isinstance(e, dict) and e.get("name") == name] if isinstance(entries, list) else []
    entry = found[0].get(kind) if len(found) == 1 else None
    return entry if isinstance(entry, dict) else None


def _access(
    means: _Means,
    *,
    fingerprint: str = "",
    source: Path | None = None,
    context: str | None = None,
    in_cluster: bool = False,
) -> Access:
    token = means.token.strip() or None
    if problem := server_problem(means.server) or (token_problem(token) if token else None):
        raise Fatal(f"kubeconfig {source or 'of the service account'}: {problem}")
    ends = [end for end in (_token_end(token), _certificate_end(means.certificate)) if end is not None]
    return Access(
        server=means.server.rstrip("/"),
        tls=means.tls(),
        token=token,
        tls_server_name=means.tls_server_name or None,
        fingerprint=fingerprint,
        expires_at=min(ends) if ends else None,
        source=source,
        context=context,
        in_cluster=in_cluster,
    )


def _token_end(token: str | None) -> datetime | None:
    """``exp`` of a JWT (RFC 7519); a token that is none tells nothing."""
    parts = (token or "").split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return datetime.fromtimestamp(float(claims["exp"]), UTC)
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return None


def _certificate_end(path: str | None) -> datetime | None:
    if not path:
        return None
    try:
        decoded = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]  # noqa: SLF001
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(decoded["notAfter"]), UTC)
    except (ssl.SSLError, OSError, KeyError, ValueError):
        return None
