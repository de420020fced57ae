"""The way to a registry: who asks where, and what is not asked at all."""

from __future__ import annotations

import json
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from rootless.errors import RegistryError
from rootless.image.access import Access
from rootless.image.auth import Credentials
from rootless.image.connection import Connection
from rootless.image.faults import Unauthorized
from rootless.image.locations import Location
from rootless.oci.reference import Reference
from tests.kit.certificates import Authority, server_context
from tests.kit.registry import Answer, Request, fake_registry

NOBODY = Access(retries=0, environ={"HOME": "/nonexistent"})
USER = Credentials("user", "secret")


def only(credentials: Credentials, request: Request) -> Answer | None:
    if request.headers.get("authorization") == credentials.basic:
        return Answer(200) if request.path == "/v2/" else None
    return Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})


async def test_a_mirror_does_not_get_what_is_for_the_registry(tmp_path: Path) -> None:
    """Credentials of the command line are for the registry that the user named; the files' go by the mirror's name."""
    mine = Credentials("mirror", "mirror's")
    with fake_registry("/nonexistent", lambda request: only(mine, request)) as mirror:
        reference = Reference.parse("registry.example/a:1")
        location = Location(Reference.parse(f"{mirror.address}/b:1"), is_mirror=True)
        access = replace(NOBODY, credentials=USER)
        with pytest.raises(Unauthorized, match="wants a user name"):
            async with Connection(reference, access, location=location) as connection:
                await connection.check_login()
        authfile = tmp_path / "auth.json"
        authfile.write_text(json.dumps({"auths": {mirror.address: {"auth": mine.basic.removeprefix("Basic ")}}}))
        async with Connection(reference, replace(access, authfile=str(authfile)), location=location) as connection:
            assert connection.url == f"http://{mirror.address}/v2/b"
            await connection.check_login()
        assert all(USER.basic != request.headers.get("authorization") for request in mirror.requests)


async def test_the_registry_under_another_name_gets_it() -> None:
    """registries.conf may move a repository within its registry."""
    with fake_registry("/nonexistent", lambda request: only(USER, request)) as fake:
        access = replace(NOBODY, credentials=USER)
        location = Location(Reference.parse(f"{fake.address}/b:1"))
        async with Connection(Reference.parse(f"{fake.address}/a:1"), access, location=location) as connection:
            await connection.check_login()


async def test_passwords(tmp_path: Path) -> None:
    with fake_registry("/nonexistent", lambda request: only(USER, request)) as fake:
        reference = Reference(fake.address, "login")
        async with Connection(reference, NOBODY, credentials=USER) as connection:
            await connection.check_login()
        with pytest.raises(Unauthorized, match="refused the user name or password"):
            async with Connection(reference, NOBODY, credentials=Credentials("user", "other")) as connection:
                await connection.check_login()
        assert len(fake.requests) == 4  # a password that was refused is not shown again


async def test_from_https_to_plain_http_is_not_gone(tmp_path: Path) -> None:
    """Neither by a redirect nor by an address that the registry gives."""
    authority = Authority(str(tmp_path / "pki"))
    context: ssl.SSLContext = server_context(authority.issue("server"))
    directory = tmp_path / "certs"
    directory.mkdir()
    (directory / "a.crt").write_bytes(Path(authority.path).read_bytes())
    access = replace(NOBODY, tls_verify=True, cert_dir=str(directory))
    with fake_registry("/nonexistent") as plain, fake_registry("/nonexistent", context=context) as fake:
        async with Connection(Reference.parse(f"{fake.address}/a:1"), access) as connection:
            with pytest.raises(RegistryError, match="which is not safe"):
                async with connection.request("PATCH", f"http://{plain.address}/upload"):
                    pass
            fake.rules.append(lambda request: Answer(307, headers={"Location": f"http://{plain.address}/x"}))
            with pytest.raises(RegistryError, match="redirected from https to plain http"):
                async with connection.request("GET", f"{connection.url}/blobs/x"):
                    pass
        assert not plain.requests
