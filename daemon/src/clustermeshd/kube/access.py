"""Where a client's address, trust and credential come from.

The kubernetes package reads kubeconfigs and makes the TLS context. A kubeconfig from a Secret was written by somebody
else and is content only: whatever would make this process run a program, read a file, use a proxy or skip verification
is refused before that package sees it, with the exact field named (Istio and others had to learn this).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config_from_dict

from clustermeshd.model.errors import Fatal, Refused

MAX_BYTES = 256 * 1024
_FORBIDDEN_USER = {
    "exec": "would run a program",
    "auth-provider": "would run code of a provider",
    "tokenFile": "names a file",
    "client-certificate": "names a file",
    "client-key": "names a file",
    "username": "is basic authentication",
    "password": "is basic authentication",
    "as": "asks for impersonation",
    "as-uid": "asks for impersonation",
    "as-groups": "asks for impersonation",
}
_FORBIDDEN_CLUSTER = {
    "certificate-authority": "names a file",
    "proxy-url": "would send traffic through a proxy",
    "insecure-skip-tls-verify": "would trust any server",
}
_MATERIAL = ("certificate-authority", "client-certificate", "client-key", "tokenFile")  # files, or *-data
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?(\.[-a-zA-Z0-9_]{1,63})*\.?")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header may carry


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


async def from_file(path: Path | None, context: str | None = None) -> Access:
    """Access by a kubeconfig file of ours, or by the pod's service account when ``path`` is None."""
    configuration = Configuration()
    if path is None:
        try:
            load_incluster_config(client_configuration=configuration)
        except ConfigException as error:
            raise Fatal(f"not in a cluster ({error}); name a kubeconfig with --kubeconfig") from error
        return _access(configuration, fingerprint="", source=None, context=None, in_cluster=True)
    try:
        content = await asyncio.to_thread(path.read_bytes)
        with _files_in_memory(yaml.safe_load(content), context, base=path.parent) as document:
            await load_kube_config_from_dict(document, context, client_configuration=configuration)
            digest = hashlib.sha256(content).hexdigest()
            return _access(configuration, fingerprint=digest, source=path, context=context)
    except ssl.SSLError as error:
        raise Fatal(f"kubeconfig {path}: certificates or key: {error.reason or 'unusable'}") from None
    except OSError as error:
        raise Fatal(f"kubeconfig {path}: {error.strerror or error}; name a readable one with --kubeconfig") from error
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Fatal(f"kubeconfig {path}: certificates or key: not base64") from error
    except (ConfigException, yaml.YAMLError) as error:
        raise Fatal(f"kubeconfig {path}: {str(error).splitlines()[0]}; see `kubectl config view`") from error


def kubeconfig_in(data: Mapping[str, str], where: str) -> bytes:
    """The ``kubeconfig`` in the data of an access Secret, as the Calico Enterprise pages describe it.

    Raises Refused: SecretInvalid, DatastoreRefused.
    """
    try:
        kind = base64.b64decode(data.get("datastoreType", ""), validate=True).decode().strip()
        content = base64.b64decode(data.get("kubeconfig", ""), validate=True)
    except (binascii.Error, UnicodeDecodeError):
        raise Refused("SecretInvalid", "a value is not base64 text", where=where, fix="create it again") from None
    if kind not in ("", "kubernetes"):
        raise Refused("DatastoreRefused", f"datastoreType is {kind!r}", where=where, fix="set it to kubernetes")
    if not content:
        fix = "add the remote kubeconfig"
        raise Refused("SecretInvalid", "the key kubeconfig is missing or empty", where=where, fix=fix)
    return content


async def from_secret(content: bytes, where: str) -> Access:
    """Access by a kubeconfig that somebody else wrote; ``where`` says where it was found. Raises Refused."""
    document = _document(content, where)
    context, cluster, user = _chosen(document, where)
    _check_cluster(cluster, where)
    _check_user(user, where)
    configuration = Configuration()
    try:
        with _files_in_memory({**document, "current-context": context}, None) as given:
            await load_kube_config_from_dict(given, client_configuration=configuration)
            return _access(configuration, fingerprint=hashlib.sha256(content).hexdigest())
    except (ConfigException, ssl.SSLError, OSError, ValueError, TypeError, KeyError) as error:
        # the cause may quote key material: only its class is told
        raise _refused(
            "it cannot be used", where, f"{type(error).__name__}; check certificates, key and server"
        ) from None


@contextmanager
def _files_in_memory(document: Any, context: str | None, *, base: Path | None = None) -> Iterator[Any]:
    """A kubeconfig whose key material stands in memory files (memfd_create(2)), gone at the end.

    The kubernetes package would write it to a temporary directory, which a read-only or full disk does not have.
    Relative paths are made absolute by ``base``. Only what the context chooses is looked at; anything odd is left as
    it is for that package to refuse.
    """
    opened: list[int] = []
    copy = deepcopy(document)
    try:
        for entry in _chosen_entries(copy, context):
            for key in _MATERIAL:
                data, path = entry.pop(f"{key}-data", None), entry.get(key)
                if isinstance(data, str) and data:
                    opened.append(os.memfd_create(key, os.MFD_CLOEXEC))
                    os.write(opened[-1], base64.b64decode(data))
                    entry[key] = f"/proc/self/fd/{opened[-1]}"
                elif base is not None and isinstance(path, str):
                    entry[key] = str(base / path)
        yield copy
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _chosen_entries(document: Any, context: str | None) -> Iterator[dict[str, Any]]:
    """Cluster and user of the context."""
    if not isinstance(document, dict):
        return
    chosen = _entry(document, "contexts", "context", context or document.get("current-context")) or {}
    for kind in ("cluster", "user"):
        entry = _entry(document, f"{kind}s", kind, chosen.get(kind))
        if entry is not None:
            yield entry


def _entry(document: dict[str, Any], kinds: str, kind: str, name: object) -> dict[str, Any] | None:
    entries = document.get(kinds)
    found = [e for e in entries if isinstance(e, dict) and e.get("name") == name] if isinstance(entries, list) else []
    entry = found[0].get(kind) if found else None
    return entry if isinstance(entry, dict) else None


def _access(
    configuration: Configuration,
    *,
    fingerprint: str,
    source: Path | None = None,
    context: str | None = None,
    in_cluster: bool = False,
) -> Access:
    bearer = configuration.api_key.get("BearerToken", "")
    # kubeconfigs give "Bearer", service accounts "bearer"
    token = (bearer[7:] if bearer[:7].lower() == "bearer " else bearer).strip() or None
    if problem := server_problem(configuration.host) or (_token_problem(token) if token else None):
        raise Fatal(f"kubeconfig {source or 'of the service account'}: {problem}")
    ends = [end for end in (_token_end(token), _certificate_end(configuration.cert_file)) if end is not None]
    return Access(
        server=configuration.host.rstrip("/"),
        tls=RESTClientObject(configuration).ssl_context,
        token=token,
        tls_server_name=configuration.tls_server_name or None,
        fingerprint=fingerprint,
        expires_at=min(ends) if ends else None,
        source=source,
        context=context,
        in_cluster=in_cluster,
    )


class _NoAliases(yaml.SafeLoader):
    """Anchors make small texts huge; a kubeconfig needs none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def _document(content: bytes, where: str) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise _refused(f"{len(content)} bytes", where, f"at most {MAX_BYTES}")
    try:
        document = yaml.load(content, Loader=_NoAliases)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
        raise _refused("it is not YAML", where, "put a kubeconfig there") from None
    if not isinstance(document, dict):
        raise _refused("it is not a mapping", where, "put a kubeconfig there")
    return document


def _chosen(document: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    contexts = _named(document, "contexts", "context", where)
    current = document.get("current-context")
    if not current:
        if len(contexts) != 1:
            raise _refused(f"{len(contexts)} contexts and no current-context", where, "set current-context")
        (current,) = contexts
    if current not in contexts:
        raise _refused("current-context names no context", where, "name one of contexts")
    clusters = _named(document, "clusters", "cluster", where)
    users = _named(document, "users", "user", where)
    cluster, user = contexts[current].get("cluster"), contexts[current].get("user")
    if cluster not in clusters or user not in users:
        raise _refused("the current context names a cluster or user that is not there", where, "add it")
    return str(current), clusters[cluster], users[user]


def _named(document: Mapping[str, Any], plural: str, singular: str, where: str) -> dict[Any, dict[str, Any]]:
    entries = document.get(plural)
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("name"), str) and isinstance(e.get(singular), dict) for e in entries
    ):
        raise _refused(f"{plural} is no list of named {singular}s", where, "put a kubeconfig there")
    return {entry["name"]: entry[singular] for entry in entries}


def _check_cluster(cluster: Mapping[str, Any], where: str) -> None:
    for key, why in _FORBIDDEN_CLUSTER.items():
        if cluster.get(key):
            raise _refused(f"clusters[].cluster.{key} {why}", where, "remove it")
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith("https://"):
        raise _refused("clusters[].cluster.server is not https://", where, "set the API server's https URL")
    if problem := server_problem(server):
        raise _refused(f"clusters[].cluster.server {problem}", where, "set https://HOST:PORT")
    name = cluster.get("tls-server-name")
    if name and not (isinstance(name, str) and _is_host(name)):
        raise _refused("clusters[].cluster.tls-server-name is no host name", where, "set the name in the certificate")
    if not isinstance(cluster.get("certificate-authority-data"), str) or not cluster["certificate-authority-data"]:
        raise _refused(
            "clusters[].cluster.certificate-authority-data is missing", where, "set it; system roots are never used"
        )
    _check_base64(cluster, ("certificate-authority-data",), "clusters[].cluster", where)


def _check_user(user: Mapping[str, Any], where: str) -> None:
    for key, why in _FORBIDDEN_USER.items():
        if user.get(key):
            raise _refused(
                f"users[].user.{key} {why}", where, "use token or client-certificate-data and client-key-data"
            )
    token = user.get("token")
    if token and not isinstance(token, str):
        raise _refused("users[].user.token is no text", where, "set the bearer token")
    if token and (problem := _token_problem(token.strip())):
        raise _refused(f"users[].user.token {problem}", where, "set the bearer token as it was issued")
    certificate = bool(user.get("client-certificate-data")) and bool(user.get("client-key-data"))
    if not certificate and not (token and token.strip()):
        raise _refused(
            "users[].user has no credential", where, "set token, or client-certificate-data and client-key-data"
        )
    _check_base64(user, ("client-certificate-data", "client-key-data"), "users[].user", where)


def server_problem(server: str) -> str | None:
    """What is wrong with the URL of an API server; never quotes it, because it may hold a password."""
    try:
        parts = urlsplit(server)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "is no URL"
    if not _TOKEN.fullmatch(server):
        return "holds blanks, control characters or letters outside ASCII"
    if "@" in parts.netloc:
        return "holds user information"
    if "?" in server or "#" in server or not _PATH.fullmatch(parts.path):
        return "has more than a host, a port and a plain path"
    return None if _is_host(host) else "names no host"


def _is_host(text: str) -> bool:
    try:
        return "%" not in str(ip_address(text))
    except ValueError:
        return _DNS_NAME.fullmatch(text) is not None


def _token_problem(token: str) -> str | None:
    return (
        None if _TOKEN.fullmatch(token) or not token else "holds blanks, control characters or letters outside ASCII"
    )


def _check_base64(entry: Mapping[str, Any], keys: tuple[str, ...], path: str, where: str) -> None:
    for key in keys:
        value = entry.get(key)
        try:
            base64.b64decode(value or "", validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise _refused(f"{path}.{key} is not base64", where, "encode the PEM text") from None


def _refused(found: str, where: str, fix: str) -> Refused:
    return Refused("KubeconfigRefused", f"kubeconfig: {found}", where=where, fix=fix)


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
