"""Certificates of authorities and of clients, against a real registry that asks for them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rootless.errors import RcontainError, RegistryError, UsageError
from rootless.image.access import Access
from rootless.image.certificates import tls_context
from rootless.image.connection import Connection
from rootless.oci.reference import Reference
from tests.kit.certificates import Authority
from tests.kit.registry import registry


@dataclass(frozen=True)
class Guarded:
    """A registry over TLS that wants a client certificate; what it trusts and what it is trusted by lie in `pki`."""

    address: str
    pki: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("registry")
    authority = Authority(str(directory / "pki"))
    server = authority.issue("server")
    authority.issue("client")
    with registry(str(directory), certificate=server, clients=authority.path) as address:
        yield Guarded(address, directory / "pki")


async def connect(address: str, home: Path, cert_dir: Path | None = None, *, tls_verify: bool | None = True) -> None:
    access = Access(
        tls_verify=tls_verify,
        retries=0,
        cert_dir=str(cert_dir) if cert_dir else None,
        environ={"HOME": str(home)},
    )
    async with Connection(Reference.parse(f"{address}/a"), access):
        pass


def lay(guarded: Guarded, directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(guarded.pki / name, directory / name.replace("server", "client"))
    return directory


@pytest.mark.registry
async def test_a_client_certificate(guarded: Guarded, tmp_path: Path) -> None:
    everything = ("authority.crt", "client.cert", "client.key")
    home = tmp_path / "home"
    lay(guarded, home / ".config/containers/certs.d" / guarded.address, *everything)
    await connect(guarded.address, home)
    await connect(guarded.address, tmp_path, lay(guarded, tmp_path / "given", *everything))
    await connect(guarded.address, tmp_path, tmp_path / "given", tls_verify=False)
    with pytest.raises(RegistryError, match=r"cannot be trusted"):
        await connect(guarded.address, tmp_path)
    # What --cert-dir names is in place of the user's own.
    with pytest.raises(RegistryError, match=r"cannot be trusted"):
        await connect(guarded.address, home, lay(guarded, tmp_path / "other"))


@pytest.mark.registry
async def test_no_client_certificate_where_one_is_wanted(guarded: Guarded, tmp_path: Path) -> None:
    directory = lay(guarded, tmp_path / "given", "authority.crt")
    with pytest.raises(RegistryError, match=rf"{guarded.address} wants a client certificate, or another one"):
        await connect(guarded.address, tmp_path, directory)
    Authority(str(tmp_path / "stranger")).issue("client")
    for name in ("client.cert", "client.key"):
        shutil.copy(tmp_path / "stranger" / name, directory / name)
    with pytest.raises(RegistryError, match=rf"{guarded.address} wants a client certificate, or another one"):
        await connect(guarded.address, tmp_path, directory)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.crt": b"nothing"}, "cannot use the certificate .*a.crt"),
        ({"a.cert": b"x"}, "a.cert lacks its key a.key; .* must end with .crt"),
        ({"a.key": b"x"}, "a.key lacks its client certificate a.cert"),
        ({"a.cert": b"x", "a.key": b"y"}, "cannot use the client certificate .*a.cert and its key"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        tls_context("r.example", verify=True, environ={}, cert_dir=str(tmp_path))


def test_a_key_with_a_password_does_not_ask_on_the_terminal(tmp_path: Path) -> None:
    Authority(str(tmp_path / "pki")).issue("a")
    (tmp_path / "certs").mkdir()
    shutil.copy(tmp_path / "pki/a.cert", tmp_path / "certs/a.cert")
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", tmp_path / "pki/a.key", "-out", tmp_path / "certs/a.key",
         "-passout", "pass:secret"],
        check=True,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"cannot use the client certificate"):
        tls_context("r.example", verify=True, environ={}, cert_dir=str(tmp_path / "certs"))


def test_directories(tmp_path: Path) -> None:
    """`docker.io` is looked up as it is written; other files are nobody's; a directory that is named must be there."""
    directory = tmp_path / ".config/containers/certs.d/docker.io"
    directory.mkdir(parents=True)
    (directory / "README").write_text("no certificate")
    tls_context("docker.io", verify=True, environ={"HOME": str(tmp_path)}, cert_dir=None)
    (directory / "a.crt").write_text("nothing")
    with pytest.raises(RcontainError, match=r"docker.io/a.crt"):
        tls_context("docker.io", verify=True, environ={"HOME": str(tmp_path)}, cert_dir=None)
    with pytest.raises(UsageError, match=r"cannot read the directory of certificates .*: No such file"):
        tls_context("docker.io", verify=True, environ={}, cert_dir=str(tmp_path / "nothing"))
