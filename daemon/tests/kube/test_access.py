"""A kubeconfig from a Secret is content only; whatever else it asks for is refused by name."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import ssl
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from clustermesh_lab.pki import Authority
from clustermeshd.kube import errors, resources
from clustermeshd.kube.access import from_file, from_secret
from clustermeshd.kube.client import Client
from clustermeshd.model.errors import Fatal, Refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hostile_server import hostile


@pytest.fixture
def document(api):
    return yaml.safe_load(api.kubeconfig.read_text())


def altered(document, path, value):
    made = copy.deepcopy(document)
    place = made
    for key in path[:-1]:
        place = place[key]
    if value is None:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = value
    return yaml.safe_dump(made).encode()


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


USER = ("users", 0, "user")
CLUSTER = ("clusters", 0, "cluster")


async def test_a_plain_kubeconfig_works(document):
    access = await from_secret(yaml.safe_dump(document).encode(), "Secret a/b")
    async with Client(access, user_agent="t") as client:
        assert (await client.get(resources.NAMESPACES, "kube-system")).metadata.uid
    assert access.expires_at > datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ((*USER, "exec"), {"command": "/bin/sh"}, "users[].user.exec"),
        ((*USER, "auth-provider"), {"name": "gcp"}, "users[].user.auth-provider"),
        ((*USER, "tokenFile"), "/etc/shadow", "users[].user.tokenFile"),
        ((*USER, "client-certificate"), "/etc/x", "users[].user.client-certificate"),
        ((*USER, "client-key"), "/etc/x", "users[].user.client-key"),
        ((*USER, "username"), "admin", "users[].user.username"),
        ((*USER, "as"), "system:admin", "users[].user.as"),
        ((*USER, "client-key-data"), "%%%", "client-key-data"),
        (USER, {}, "no credential"),
        ((*CLUSTER, "certificate-authority"), "/etc/ca", "clusters[].cluster.certificate-authority"),
        ((*CLUSTER, "proxy-url"), "http://proxy", "clusters[].cluster.proxy-url"),
        ((*CLUSTER, "insecure-skip-tls-verify"), True, "insecure-skip-tls-verify"),
        ((*CLUSTER, "server"), "http://127.0.0.1", "https"),
        ((*CLUSTER, "server"), "https://", "names no host"),
        ((*CLUSTER, "server"), "https://x:99999", "is no URL"),
        ((*CLUSTER, "server"), "https://[::1", "is no URL"),
        ((*CLUSTER, "server"), "https://a..b", "names no host"),
        ((*CLUSTER, "server"), "https://" + "a" * 64 + ".example", "names no host"),
        ((*CLUSTER, "server"), "https://b\u00fccher.example", "outside ASCII"),
        ((*CLUSTER, "server"), "https://a\n.example", "control characters"),
        ((*CLUSTER, "server"), "https://127.0.0.1/?x=1", "more than a host"),
        ((*CLUSTER, "server"), "https://canary:canary@127.0.0.1", "user information"),
        ((*CLUSTER, "tls-server-name"), "a..b", "tls-server-name"),
        ((*CLUSTER, "tls-server-name"), ["x"], "tls-server-name"),
        ((*USER, "token"), "canary\r\nX-Evil: 1", "users[].user.token"),
        ((*USER, "token"), "can\u00e4ry", "users[].user.token"),
        ((*USER, "token"), 17, "users[].user.token"),
        ((*CLUSTER, "certificate-authority-data"), None, "certificate-authority-data"),
        ((*CLUSTER, "certificate-authority-data"), "!!", "not base64"),
        (("current-context",), "other", "current-context"),
        (("contexts", 0, "context", "cluster"), "other", "not there"),
        (("users",), "nonsense", "users"),
    ],
)
async def test_what_a_foreign_kubeconfig_may_not_hold_is_refused_by_name(document, path, value, named):
    with pytest.raises(Refused) as caught:
        await from_secret(altered(document, path, value), "Secret a/b")
    assert named in str(caught.value)
    assert "canary" not in str(caught.value)
    assert "Secret a/b" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"a: [", b"- 1", b"\xff\xfe\x00", b"&a [*a]", b"a: &x [1]\nb: [*x, *x]", b"x" * 300_000, b"[" * 5000],
)
async def test_garbage_is_refused_and_never_crashes(content):
    with pytest.raises(Refused):
        await from_secret(content, "Secret a/b")


async def test_no_message_and_no_repr_holds_a_secret(document):
    user = document["users"][0]["user"]
    key = user["client-key-data"]
    access = await from_secret(yaml.safe_dump(document).encode(), "w")
    assert key not in repr(access)
    broken = altered(document, (*USER, "client-key-data"), base64.b64encode(b"canary-secret").decode())
    with pytest.raises(Refused) as caught:
        await from_secret(broken, "w")
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_another_ca_is_refused_and_system_roots_are_not_asked(document, remote_api):
    other = base64.b64encode(remote_api.ca.read_bytes()).decode()
    access = await from_secret(altered(document, (*CLUSTER, "certificate-authority-data"), other), "w")
    async with Client(access, user_agent="t") as client:
        with pytest.raises(errors.Untrusted):
            await client.get(resources.NAMESPACES, "kube-system")


def server_tls(authority, *, name="127.0.0.1", begin=-60, end=60):
    """What a server with a certificate of that authority shows; it is valid between the two minutes from now."""
    signer = x509.load_pem_x509_certificate(authority.certificate_file.read_bytes())
    signing_key = serialization.load_pem_private_key((authority.directory / "ca.key").read_bytes(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    with contextlib.suppress(ValueError):
        name = ip_address(name)
    names = [x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name)]
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]))
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(minutes=begin))
        .not_valid_after(now + timedelta(minutes=end))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .sign(signing_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = authority.directory / "server.pem"
    file.write_bytes(private + made.public_bytes(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


@pytest.mark.parametrize(
    ("shown", "server_name", "refusal"),
    [
        ({}, None, None),
        ({"end": -1}, None, "expired"),
        ({"begin": 1}, None, "not yet valid"),
        ({"name": "127.0.0.2"}, None, "not valid for '127.0.0.1'"),
        ({"name": "west.example"}, None, "not valid for '127.0.0.1'"),
        ({"name": "west.example"}, "west.example", None),
        ({"name": "west.example"}, "east.example", "not valid for 'east.example'"),
        ({"name": "west.example", "end": -1}, "west.example", "expired"),
    ],
)
async def test_a_server_whose_certificate_is_not_for_it_or_not_for_now_is_refused(
    tmp_path, shown, server_name, refusal
):
    authority = Authority(tmp_path / "pki", "west")
    async with hostile(server_tls(authority, **shown)) as server:
        config = json.loads(authority.kubeconfig("admin", server.url, "admin", context="west").read_text())
        if server_name:
            config["clusters"][0]["cluster"]["tls-server-name"] = server_name
        access = await from_secret(json.dumps(config).encode(), "w")
        async with Client(access, user_agent="t") as client:
            if refusal is None:
                assert await client.server_version()
                return
            with pytest.raises(errors.Untrusted, match=refusal) as caught:
                await client.server_version()
            assert caught.value.reason == "CertificateRefused"


async def test_a_wrong_token_is_unauthorized(document):
    content = altered(document, USER, {"token": "not-a-token"})
    async with Client(await from_secret(content, "w"), user_agent="t") as client:
        with pytest.raises(errors.Unauthorized):
            await client.get(resources.NAMESPACES, "kube-system")


def jwt(claims: bytes) -> str:
    parts = (b'{"alg":"none"}', claims, b"signature")
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


@pytest.mark.parametrize(
    ("token", "end"),
    [
        (jwt(b'{"exp":1893456000}'), datetime(2030, 1, 1, tzinfo=UTC)),
        (jwt(b'{"exp":1893456000.5,"sub":"x"}'), datetime(2030, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        (jwt(b'{"sub":"never ends"}'), None),
        (jwt(b'{"exp":null}'), None),
        (jwt(b'{"exp":"soon"}'), None),
        (jwt(b'{"exp":1e30}'), None),
        (jwt(b'{"exp":NaN}'), None),
        (jwt(b'{"exp":-1e300}'), None),
        (jwt(b"[]"), None),
        (jwt(b"\xff"), None),
        ("opaque", None),
        ("a.b.c", None),
    ],
)
async def test_the_end_of_a_token_is_its_exp_where_it_tells_one(document, token, end):
    assert (await from_secret(altered(document, USER, {"token": token}), "w")).expires_at == end


async def test_of_a_token_and_a_certificate_the_earlier_end_counts(document):
    whole = await from_secret(yaml.safe_dump(document).encode(), "w")
    for claims, end in ((b'{"exp":1}', datetime.fromtimestamp(1, UTC)), (b'{"exp":99999999999}', whole.expires_at)):
        both = altered(document, (*USER, "token"), jwt(claims))
        assert (await from_secret(both, "w")).expires_at == end


@pytest.mark.parametrize("write", [True, False])
async def test_key_material_needs_no_file_and_no_descriptor_stays(document, tmp_path, monkeypatch, write):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # as on a read-only or full disk
    before = descriptors()
    content = yaml.safe_dump(document).encode()
    if write:
        (tmp_path / "config").write_bytes(content)
        access = await from_file(tmp_path / "config")
    else:
        access = await from_secret(content, "w")
    assert descriptors() == before
    async with Client(access, user_agent="t") as client:
        assert await client.server_version()


async def test_files_that_a_kubeconfig_names_are_found_beside_it(document, tmp_path):
    named = copy.deepcopy(document)
    for kind, key in (("clusters", "cluster"), ("users", "user")):
        entry = named[kind][0][key]
        for field in [field for field in entry if field.endswith("-data")]:
            (tmp_path / field).write_bytes(base64.b64decode(entry.pop(field)))
            entry[field.removesuffix("-data")] = field
    (tmp_path / "config").write_text(yaml.safe_dump(named))
    async with Client(await from_file(tmp_path / "config"), user_agent="t") as client:
        assert await client.server_version()


@pytest.mark.parametrize("content", ["[]", "a: b", "contexts: 5", "current-context: x\ncontexts: [{name: x}]", "{"])
async def test_a_file_that_is_no_kubeconfig_is_told_in_a_line(tmp_path, content):
    (tmp_path / "config").write_text(content)
    with pytest.raises(Fatal, match="config"):
        await from_file(tmp_path / "config")


async def test_user_information_in_our_own_kubeconfig_is_refused_and_never_printed(document, tmp_path):
    path = tmp_path / "config"
    path.write_bytes(altered(document, (*CLUSTER, "server"), "https://canary:canary@127.0.0.1"))
    with pytest.raises(Fatal, match="user information") as caught:
        await from_file(path)
    assert "canary" not in str(caught.value)


async def test_a_missing_file_says_what_to_set(tmp_path):
    with pytest.raises(Fatal, match="--kubeconfig"):
        await from_file(tmp_path / "none")


async def test_a_program_may_give_the_credential_of_our_own_kubeconfig_and_the_rest_counts(document, tmp_path):
    entry = document["users"][0]["user"]
    status = {
        "clientCertificateData": base64.b64decode(entry["client-certificate-data"]).decode(),
        "clientKeyData": base64.b64decode(entry["client-key-data"]).decode(),
    }
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    (tmp_path / "said").write_text(json.dumps(said))
    program = {"apiVersion": said["apiVersion"], "command": "cat", "args": [str(tmp_path / "said")]}
    (tmp_path / "config").write_bytes(altered(document, USER, {"exec": {**program, "interactiveMode": "Never"}}))
    async with Client(await from_file(tmp_path / "config"), user_agent="t") as client:
        assert await client.server_version()
    (tmp_path / "token").write_text("a-token")
    named = yaml.safe_load(altered(document, USER, {"tokenFile": "token"}))
    named["clusters"][0]["cluster"] |= {"insecure-skip-tls-verify": True, "tls-server-name": "kubernetes"}
    (tmp_path / "config").write_text(yaml.safe_dump(named))
    access = await from_file(tmp_path / "config")
    assert (access.token, access.tls_server_name) == ("a-token", "kubernetes")
    assert access.tls.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize("write", [True, False])
def test_what_a_plain_kubeconfig_says_takes_no_other_package(document, tmp_path, write):
    (tmp_path / "config").write_text(yaml.safe_dump(document))
    source = f"pathlib.Path({str(tmp_path / 'config')!r})"
    call = f"from_file({source})" if write else f"from_secret({source}.read_bytes(), 'w')"
    program = f"""
import asyncio, pathlib, sys
import clustermeshd.agent.main, clustermeshd.controller.main
from clustermeshd.kube.access import from_file, from_secret
print(asyncio.run({call}).server, "kubernetes" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [document["clusters"][0]["cluster"]["server"], "False"]


@pytest.mark.parametrize("process", ["agent.main", "controller.main", "cli.session"])
def test_what_comes_over_http_knows_no_roots_of_the_system_and_programs_see_theirs(api, process):
    program = f"import clustermeshd.{process}"
    program += """
import asyncio, os, sys, aiohttp
names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
print({name: os.environ[name] for name in names if name in os.environ})
async def main():
    async with aiohttp.ClientSession() as session:
        try:
            await session.get(sys.argv[1])
        except aiohttp.ClientConnectorCertificateError as error:
            print(error.certificate_error.verify_message)
asyncio.run(main())"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT_")}
    for roots in ({}, {"SSL_CERT_FILE": str(api.ca)}):
        argv = [sys.executable, "-c", program, f"{api.url}/version"]
        done = subprocess.run(argv, env=plain | roots, check=True, capture_output=True, text=True)
        assert done.stdout.splitlines() == [str(roots), "unable to get local issuer certificate"]


async def test_what_else_a_foreign_kubeconfig_says_is_not_looked_at(document):
    odd = copy.deepcopy(document)
    cluster, user = odd["clusters"][0]["cluster"], odd["users"][0]["user"]
    for entry in (cluster, user):
        entry["extensions"] = [{"name": "minikube", "extension": {}}]
    cluster["disable-compression"] = True
    async with Client(await from_secret(yaml.safe_dump(odd).encode(), "w"), user_agent="t") as client:
        assert await client.server_version()


@pytest.mark.parametrize("kinds", ["contexts", "clusters", "users"])
async def test_two_entries_of_one_name_are_refused(document, kinds):
    with pytest.raises(Refused, match=f"{kinds} has two entries of one name"):
        await from_secret(altered(document, (kinds,), document[kinds] + copy.deepcopy(document[kinds])), "w")


@pytest.mark.parametrize("kind", ["cluster", "user"])
async def test_a_context_that_names_no_text_is_refused(document, kind):
    with pytest.raises(Refused, match="that is not there"):
        await from_secret(altered(document, ("contexts", 0, "context", kind), ["a"]), "w")
