"""What a kubeconfig may hold that somebody else wrote: content only.

Whatever would make this process run a program, read a file, use a proxy or skip verification is refused before it is
used, with the exact field named (Istio and others had to learn this).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import yaml

from clustermeshd.model.errors import Refused

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
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?(\.[-a-zA-Z0-9_]{1,63})*\.?")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header may carry


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


def chosen(content: bytes, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cluster and user of the current context, which are as they may be. Raises Refused: KubeconfigRefused."""
    document = _document(content, where)
    cluster, user = _chosen(document, where)
    _check_cluster(cluster, where)
    _check_user(user, where)
    return cluster, user


class _NoAliases(yaml.SafeLoader):
    """Anchors make small texts huge; a kubeconfig needs none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def _document(content: bytes, where: str) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise refused(f"{len(content)} bytes", where, f"at most {MAX_BYTES}")
    try:
        document = yaml.load(content, Loader=_NoAliases)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
        raise refused("it is not YAML", where, "put a kubeconfig there") from None
    if not isinstance(document, dict):
        raise refused("it is not a mapping", where, "put a kubeconfig there")
    return document


def _chosen(document: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    contexts = _named(document, "contexts", "context", where)
    current = document.get("current-context")
    if not current:
        if len(contexts) != 1:
            raise refused(f"{len(contexts)} contexts and no current-context", where, "set current-context")
        (current,) = contexts
    if not isinstance(current, str) or current not in contexts:
        raise refused("current-context names no context", where, "name one of contexts")
    clusters = _named(document, "clusters", "cluster", where)
    users = _named(document, "users", "user", where)
    cluster, user = (contexts[current].get(kind) for kind in ("cluster", "user"))
    if not isinstance(cluster, str) or cluster not in clusters or not isinstance(user, str) or user not in users:
        raise refused("the current context names a cluster or user that is not there", where, "add it")
    return clusters[cluster], users[user]


def _named(document: Mapping[str, Any], plural: str, singular: str, where: str) -> dict[Any, dict[str, Any]]:
    entries = document.get(plural)
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("name"), str) and isinstance(e.get(singular), dict) for e in entries
    ):
        raise refused(f"{plural} is no list of named {singular}s", where, "put a kubeconfig there")
    found = {entry["name"]: entry[singular] for entry in entries}
    if len(found) < len(entries):
        raise refused(f"{plural} has two entries of one name", where, "leave one")
    return found


def _check_cluster(cluster: Mapping[str, Any], where: str) -> None:
    for key, why in _FORBIDDEN_CLUSTER.items():
        if cluster.get(key):
            raise refused(f"clusters[].cluster.{key} {why}", where, "remove it")
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith("https://"):
        raise refused("clusters[].cluster.server is not https://", where, "set the API server's https URL")
    if problem := server_problem(server):
        raise refused(f"clusters[].cluster.server {problem}", where, "set https://HOST:PORT")
    name = cluster.get("tls-server-name")
    if name and not (isinstance(name, str) and _is_host(name)):
        raise refused("clusters[].cluster.tls-server-name is no host name", where, "set the name in the certificate")
    if not isinstance(cluster.get("certificate-authority-data"), str) or not cluster["certificate-authority-data"]:
        raise refused(
            "clusters[].cluster.certificate-authority-data is missing", where, "set it; system roots are never used"
        )
    _check_base64(cluster, ("certificate-authority-data",), "clusters[].cluster", where)


def _check_user(user: Mapping[str, Any], where: str) -> None:
    for key, why in _FORBIDDEN_USER.items():
        if user.get(key):
            raise refused(
                f"users[].user.{key} {why}", where, "use token or client-certificate-data and client-key-data"
            )
    token = user.get("token")
    if token and not isinstance(token, str):
        raise refused("users[].user.token is no text", where, "set the bearer token")
    if token and (problem := token_problem(token.strip())):
        raise refused(f"users[].user.token {problem}", where, "set the bearer token as it was issued")
    certificate = bool(user.get("client-certificate-data")) and bool(user.get("client-key-data"))
    if not certificate and not (token and token.strip()):
        raise refused(
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


def token_problem(token: str) -> str | None:
    return (
        None if _TOKEN.fullmatch(token) or not token else "holds blanks, control characters or letters outside ASCII"
    )


def _check_base64(entry: Mapping[str, Any], keys: tuple[str, ...], path: str, where: str) -> None:
    for key in keys:
        value = entry.get(key)
        try:
            base64.b64decode(value or "", validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise refused(f"{path}.{key} is not base64", where, "encode the PEM text") from None


def refused(found: str, where: str, fix: str) -> Refused:
    return Refused("KubeconfigRefused", f"kubeconfig: {found}", where=where, fix=fix)
