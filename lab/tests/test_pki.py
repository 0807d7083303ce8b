"""Certificates mean what the API server reads from them, and nobody else can read the keys."""

import json
from base64 import b64decode

import pytest
from clustermesh_lab.pki import Authority
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "pki", "east")


def load(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_client_is_its_user_and_groups(authority):
    certificate, _ = authority.issue("bob", "bob", ["devs", "ops"])
    subject = load(certificate).subject
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["bob"]
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == ["devs", "ops"]
    load(certificate).verify_directly_issued_by(load(authority.certificate_file))


def test_a_server_cannot_pose_as_a_client(authority):
    certificate, _ = authority.issue("api", "kube-apiserver", names=["localhost", "10.0.0.1", "fd00::1"])
    extensions = load(certificate).extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "fd00::1"]


def test_two_authorities_do_not_vouch_for_each_other(authority, tmp_path):
    other = Authority(tmp_path / "other", "west")
    certificate, _ = other.issue("bob", "bob")
    with pytest.raises(ValueError):
        load(certificate).verify_directly_issued_by(load(authority.certificate_file))


def test_an_authority_is_found_again(authority):
    again = Authority(authority.directory, "east")
    certificate, _ = again.issue("late", "late")
    load(certificate).verify_directly_issued_by(load(authority.certificate_file))


def test_everything_is_private(authority):
    authority.kubeconfig("bob", "https://x:6443", "bob", context="east")
    assert authority.directory.stat().st_mode & 0o777 == 0o700
    for file in authority.directory.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file


def test_a_kubeconfig_carries_all_it_needs(authority):
    path = authority.kubeconfig("bob", "https://x:6443", "bob", ["devs"], context="east")
    config = json.loads(path.read_text())
    assert config["current-context"] == "east"
    assert b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]) == (
        authority.certificate_file.read_bytes()
    )
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
