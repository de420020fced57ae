"""Credential files and challenges."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.image.auth import Credentials, auth_files, find_credentials, parse_challenges
from rootless.oci.reference import Reference


def entry(user: str, password: str = "pw") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "PATH": f"{tmp_path}/bin:/usr/bin:/bin"}


def write(path: str | Path, **content: Any) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        json.dump(content, file)


async def user(text: str, environ: dict[str, str]) -> str | None:
    found = await find_credentials(Reference.parse(text), environ)
    return found.username if found else None


async def test_files_in_order(environ: dict[str, str], tmp_path: Path) -> None:
    assert await user("quay.io/a", environ) is None
    paths = auth_files(environ)
    names = ("run/containers/auth.json", ".config/containers/auth.json", ".docker/config.json")
    assert paths == [f"{tmp_path}/{name}" for name in names]
    for path in reversed(paths):
        write(path, auths={"quay.io": entry(path)})
        assert await user("quay.io/a", environ) == path
        assert await user("ghcr.io/a", environ) is None
    write(tmp_path / "own.json", auths={"ghcr.io": entry("own")})
    environ["REGISTRY_AUTH_FILE"] = str(tmp_path / "own.json")
    assert await user("ghcr.io/a", environ) == "own"
    assert await user("quay.io/a", environ) is None


async def test_the_most_specific_entry_wins(environ: dict[str, str], tmp_path: Path) -> None:
    auths = {
        "quay.io": entry("host"),
        "quay.io/team": entry("team"),
        "quay.io/team/app": entry("app"),
        "https://index.docker.io/v1/": entry("hub"),
        "https://ghcr.io": entry("github"),
        "localhost:5000": {"username": "plain", "password": "x"},
        "empty.io": {},
        "token.io": {"identitytoken": "t"},
    }
    write(tmp_path / ".docker/config.json", auths=auths)
    for text, expected in (
        ("quay.io/other/x", "host"),
        ("quay.io/team/x", "team"),
        ("quay.io/team/app:1", "app"),
        ("busybox", "hub"),
        ("ghcr.io/a/b", "github"),
        ("localhost:5000/a", "plain"),
        ("empty.io/a", None),
        ("token.io/a", ""),
    ):
        assert await user(text, environ) == expected


async def test_helpers(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(
        '#!/bin/sh\nread server || [ "$server" ]\n[ "$server" = quay.io ] && echo \'{"Username":"u","Secret":"s"}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", environ["PATH"])
    write(tmp_path / ".docker/config.json", credHelpers={"quay.io": "test", "other.io": "test", "gone.io": "absent"})
    assert await user("quay.io/a", environ) == "u"
    assert await user("other.io/a", environ) is None
    with pytest.raises(UsageError, match="docker-credential-absent, which is not installed"):
        await user("gone.io/a", environ)
    write(tmp_path / ".docker/config.json", credsStore="../../evil")
    with pytest.raises(UsageError, match="malformed helper"):
        await user("quay.io/a", environ)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths":{"quay.io":{"auth":"%%%"}}}', '{"auths":[]}', "\xff", "[" * 100_000]
)
async def test_malformed_files(environ: dict[str, str], tmp_path: Path, text: str) -> None:
    path = tmp_path / ".docker/config.json"
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="credential file"):
        await user("quay.io/a", environ)


def test_an_empty_file_is_none(environ: dict[str, str], tmp_path: Path) -> None:
    assert "pw" not in repr(Credentials("u", "pw", origin="f"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service="r",scope="repository:x:pull,push"',
         [("bearer", {"realm": "https://a/t", "service": "r", "scope": "repository:x:pull,push"})]),
        ('Basic realm="a \\"b\\""', [("basic", {"realm": 'a "b"'})]),
        ("bearer REALM=https://a/t, service=r", [("bearer", {"realm": "https://a/t", "service": "r"})]),
        ('Basic realm="x", Bearer realm="y"', [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        ("Negotiate", []),
        ("", []),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in parse_challenges([header])] == expected


@given(st.text(max_size=200))
def test_any_header_is_read(header: str) -> None:
    parse_challenges([header, "Bearer " + header])
