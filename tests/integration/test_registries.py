"""The command against real registries: plain, TLS, client certificates, tokens; and what reaches the user's screen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.certificates import Authority
from tests.kit.command import Rcontain
from tests.kit.faultproxy import Fault, FaultProxy, fault_proxy
from tests.kit.images import Layout, demo_layout, file, pack, push, tar
from tests.kit.registry import registry
from tests.kit.tokenserver import TokenServer, token_server

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]


@dataclass(frozen=True)
class Plain:
    """A registry with an image under three tags, and another that shares its first layer; behind a proxy."""

    proxy: FaultProxy
    layout: Layout


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    directory = tmp_path_factory.mktemp("plain")
    layout = Layout(str(directory / "layout"))
    base = pack(tar([file("base", os.urandom(100_000))]))
    layout.image("one", [base, pack(tar([file("one", b"1")]))])
    layout.image("two", [base, pack(tar([file("two", b"2")]))])
    with registry(str(directory)) as address, fault_proxy(address) as proxy:
        for tag in ("1.0", "1.1", "latest"):
            push(layout.path, "one", address, f"team/one:{tag}")
        push(layout.path, "two", address, "team/two:1")
        yield Plain(proxy, layout)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates: authority.crt, client.cert and its key."""
    directory = tmp_path_factory.mktemp("pki")
    authority = Authority(str(directory))
    authority.issue("server")
    authority.issue("client")
    return directory


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, pki: Path) -> Iterator[tuple[str, TokenServer]]:
    """A registry over TLS that wants a client certificate and tokens."""
    directory = tmp_path_factory.mktemp("sealed")
    server = (str(pki / "server.cert"), str(pki / "server.key"))
    with token_server(str(directory), certificate=server) as tokens:
        tokens.users["user"] = "s3cret-Passw0rd"
        tokens.private = True
        with registry(str(directory), tokens=tokens, certificate=server, clients=str(pki / "authority.crt")) as address:
            yield address, tokens


def test_tags(rcontain: Rcontain, plain: Plain) -> None:
    plain.proxy.reset()
    name = f"{plain.proxy.address}/team/one"
    tags = rcontain.text("tags", name).split("\n")  # docker-registry has no order
    assert sorted(tags) == ["1.0", "1.1", "latest"]
    [shown] = json.loads(rcontain.text("tags", "--format", "json", "--limit", "2", name))
    assert shown["Name"] == name and len(shown["Tags"]) == 2 and set(shown["Tags"]) < set(tags)
    done = rcontain("tags", f"{plain.proxy.address}/team/none", check=False)
    assert done.returncode == 125 and b"has no" in done.stderr and b"Traceback" not in done.stderr


def test_what_is_here_is_not_fetched_again(rcontain: Rcontain, plain: Plain) -> None:
    """The second image with the same first layer: its manifest, its configuration, its second layer."""
    plain.proxy.reset()
    rcontain("pull", "-q", f"{plain.proxy.address}/team/one:1.0")
    assert sum("/blobs/" in exchange.path for exchange in plain.proxy.exchanges) == 3
    plain.proxy.reset()
    rcontain("pull", "-q", f"{plain.proxy.address}/team/two:1")
    assert sum("/blobs/" in exchange.path for exchange in plain.proxy.exchanges) == 2
    plain.proxy.reset()
    rcontain("pull", "-q", f"{plain.proxy.address}/team/one:1.1")
    assert not [exchange for exchange in plain.proxy.exchanges if "/blobs/" in exchange.path]


def test_flags_for_patience(rcontain: Rcontain, plain: Plain) -> None:
    name = f"{plain.proxy.address}/team/one:1.0"
    plain.proxy.reset(Fault("/manifests/", status=503, times=100))
    done = rcontain("pull", "--retry", "2", "--retry-delay", "10ms", name, check=False)
    assert done.returncode == 125 and b"is unwell: it answered 503" in done.stderr
    assert sum("/manifests/" in exchange.path for exchange in plain.proxy.exchanges) == 3
    plain.proxy.reset(Fault("/blobs/", cut=50_000, reset=True))
    rcontain("pull", "-q", "--retry-delay", "10ms", name)


def test_certificates_and_tokens(
    rcontain: Rcontain, sealed: tuple[str, TokenServer], pki: Path, tmp_path: Path
) -> None:
    address, tokens = sealed
    name = f"{address}/team/demo:1"
    layout = demo_layout(str(tmp_path / "layout"), "demo")
    certificates = rcontain.home / ".config/containers/certs.d" / address
    certificates.mkdir(parents=True)
    for part in ("authority.crt", "client.cert", "client.key"):
        shutil.copy(pki / part, certificates)
    # skopeo reads the same directory.
    home = os.environ.get("HOME")
    os.environ["HOME"] = str(rcontain.home)
    try:
        push(layout.path, "demo", address, "team/demo:1", credentials="user:s3cret-Passw0rd")
    finally:
        os.environ["HOME"] = home or "/"
    flags = ("--tls-verify=true", "--creds", "user:s3cret-Passw0rd")
    rcontain("pull", "-q", *flags, name)
    assert rcontain.text("tags", *flags, f"{address}/team/demo") == "1"
    done = rcontain("pull", "--tls-verify=true", name, check=False)
    assert done.returncode == 125 and b"does not let anyone fetch" in done.stderr and b"rcontain login" in done.stderr
    done = rcontain("pull", "--tls-verify=true", "--creds", "user:wr0ng", name, check=False)
    assert b"refused the user name or password" in done.stderr and b"wr0ng" not in done.stderr
    given = tmp_path / "given"
    given.mkdir()
    done = rcontain("pull", *flags, "--cert-dir", str(given), name, check=False)
    assert b"cannot be trusted" in done.stderr
    tokens.spoiled = 1
    rcontain("pull", "-q", *flags, "--retry-delay", "10ms", name)
