"""Five processes on this machine, with certificates and keys, give the notebook's numbers."""

import os
import re
import stat

import pytest

pytest.importorskip("flwr.app", reason="pip install -e '.[test,flower]'")

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key, load_ssh_public_key
from cryptography.x509.verification import PolicyBuilder, Store

from fedlearn_mini import network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("consortium")
    network.prepare(folder, "127.0.0.1", 18443)
    return folder


def test_the_servers_certificate_is_the_authoritys_and_for_its_address(folder):
    root, server = (
        x509.load_pem_x509_certificate((folder / "tls" / name).read_bytes()) for name in ("ca.crt", "server.pem")
    )
    server.verify_directly_issued_by(root)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    key = load_pem_private_key((folder / "tls" / "server.key").read_bytes(), None)
    assert key.public_key() == server.public_key()
    assert PolicyBuilder().store(Store([root]))


def test_every_hospital_has_a_key_of_its_own_that_only_its_owner_reads(folder):
    publics = set()
    for name in ("Cleveland", "Hungary", "Switzerland", "VA Long Beach"):
        private = load_ssh_private_key((folder / name / "key").read_bytes(), None)
        assert private.public_key() == load_ssh_public_key((folder / name / "key.pub").read_bytes())
        publics.add((folder / name / "key.pub").read_bytes())
        if os.name != "nt":
            assert all(stat.S_IMODE((folder / name / what).stat().st_mode) == 0o600 for what in ("key", "secret"))
    assert len(publics) == 4


def test_no_record_and_no_key_lies_in_the_folder_that_is_sent_to_the_server(folder):
    assert sorted(file.name for file in (folder / "app").rglob("*")) == ["pyproject.toml", "study.py"]


@pytest.mark.skipif("FEDLEARN_NO_NETWORK_TEST" in os.environ, reason="FEDLEARN_NO_NETWORK_TEST is set")
def test_two_rounds_in_five_processes_are_the_notebooks(tmp_path):
    said = []
    apart = network.demo(rounds=2, port=18643, folder=tmp_path, say=said.append)
    assert apart <= 1e-12
    assert [bool(re.search(rf'"round": {r}, "answered": 4,.*"refused": \[\]', said[r])) for r in (1, 2)] == [True, True]
