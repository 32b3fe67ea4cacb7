"""`specfleet certs`: certificates that the rest of the house takes, and an authority that stays the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from specfleet.cli.app import app
from specfleet.tls import ROLES, TlsFolder, role_uri


def certs(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["certs", *map(str, arguments)])


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())


def names(folder: Path) -> x509.SubjectAlternativeName:
    return certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_each_role_gets_a_folder_of_its_own_that_says_what_it_is(tmp_path: Path) -> None:
    done = certs(tmp_path, "--host", "gpu-1", "--host", "10.0.0.7", "--days", "30")
    assert done.exit_code == 0, done.stderr
    for role in ROLES:
        assert TlsFolder(tmp_path / role).read().authorities == (tmp_path / "ca" / "tls.crt").read_bytes()
        assert names(tmp_path / role).get_values_for_type(x509.UniformResourceIdentifier) == [role_uri(role)]
    assert names(tmp_path / "router").get_values_for_type(x509.DNSName) == ["gpu-1", "localhost"]
    assert "10.0.0.7" in map(str, names(tmp_path / "router").get_values_for_type(x509.IPAddress))
    assert names(tmp_path / "client").get_values_for_type(x509.DNSName) == [], "a client is no host"
    lifetime = (
        certificate(tmp_path / "client").not_valid_after_utc - certificate(tmp_path / "client").not_valid_before_utc
    )
    assert lifetime.days == 30


def test_a_second_time_the_same_authority_renews_what_it_is_asked_for(tmp_path: Path) -> None:
    certs(tmp_path)
    before = {role: (tmp_path / role / "tls.crt").read_bytes() for role in ("ca", *ROLES)}
    assert certs(tmp_path, "--role", "drafter").exit_code == 0
    changed = {role for role, content in before.items() if (tmp_path / role / "tls.crt").read_bytes() != content}
    assert changed == {"drafter"}
    certificate(tmp_path / "drafter").verify_directly_issued_by(certificate(tmp_path / "ca"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--role", "root"], "--role is 'root'; it must be one of router, verifier, drafter, client, admin"),
        (["--host", "schön.example"], "--host is 'schön.example'; it must be a name or an address"),
        (["--host", "gpu-1:50051"], "--host is 'gpu-1:50051'; it must be a name or an address, without a port"),
        (["--host", "[::1]"], "--host is '[::1]'; it must be a name or an address"),
        (["--host", ""], "--host is ''; it must be a name or an address"),
        (["--host", " x y"], "--host is ' x y'; it must be a name or an address"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = certs(tmp_path, *arguments)
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_client_alone_says_what_it_lacks(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None; sys.argv = ['specfleet', 'certs', sys.argv[1]];"
        "from specfleet.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("specfleet: certificates are made by the package cryptography; pip install")
