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
from rootless.image.auth import (
    Credentials,
    find_credentials,
    find_for,
    forget,
    forget_all,
    keep,
    parse_challenges,
)
from rootless.image.authfile import Auth, AuthFile, auth_files
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
    names = ("run/containers/auth.json", ".config/containers/auth.json", ".docker/config.json", ".dockercfg")
    assert paths == [f"{tmp_path}/{name}" for name in names]
    for path in reversed(paths):
        entries = {"quay.io": entry(path)}
        write(path, **({"auths": entries} if path.endswith(".json") else entries))
        assert await user("quay.io/a", environ) == path
        assert await user("ghcr.io/a", environ) is None
    write(tmp_path / "own.json", auths={"ghcr.io": entry("own")})
    environ["REGISTRY_AUTH_FILE"] = str(tmp_path / "own.json")
    assert await user("ghcr.io/a", environ) == "own"
    assert await user("quay.io/a", environ) is None
    del environ["REGISTRY_AUTH_FILE"]
    found = await find_credentials(Reference.parse("ghcr.io/a"), environ, str(tmp_path / "own.json"))
    assert found is not None and found.username == "own"


def test_without_a_runtime_directory() -> None:
    assert auth_files({}) == [f"/run/containers/{os.getuid()}/auth.json"]


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
    with pytest.raises(UsageError, match="malformed credential helper"):
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


async def test_an_empty_file_is_none(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(" \n")
    assert await user("quay.io/a", environ) is None


async def test_an_entry_without_a_password_is_none(environ: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / ".docker/config.json", auths={"quay.io": {"auth": base64.b64encode(b"user").decode()}})
    assert await user("quay.io/a", environ) is None


SECRET = "s3cret-Passw0rd"


def test_no_secret_is_shown() -> None:
    both = Credentials("u", SECRET, SECRET, origin="f")
    assert SECRET not in f"{both} {both!r} {[both]}"
    content = AuthFile({"quay.io": Auth(auth=SECRET, password=SECRET, identitytoken=SECRET)})
    assert SECRET not in f"{content} {content!r} {content.auths}"


@pytest.mark.parametrize(
    "text", ['{"auths":{"q.io":{"auth":"%s"}}}', '{"auths":{"q.io":"%s"}}', '{"auths":"%s"}', "%s", "[%s"]
)
async def test_no_secret_in_messages(environ: dict[str, str], tmp_path: Path, text: str) -> None:
    path = tmp_path / ".docker/config.json"
    path.parent.mkdir()
    path.write_text(text.replace("%s", SECRET))
    messages = ""
    for act in (
        lambda: find_for("q.io", environ),
        lambda: keep("q.io", Credentials("u", SECRET), environ, str(path)),
        lambda: forget("q.io", environ, str(path)),
    ):
        try:
            await act()
        except UsageError as error:
            messages += str(error)
    assert "malformed" in messages and SECRET not in messages


HELPER = """#!/bin/sh
dir=${0%/*}/../kept; mkdir -p $dir
echo "$@" >> $dir/../log
name() { tr -d '\\n' | tr / _; }
case $1 in
store) read -r line; server=$(echo "$line" | sed 's/.*"ServerURL":"\\([^"]*\\)".*/\\1/')
    echo "$line" > $dir/$(echo $server | tr / _) ;;
get) f=$dir/$(name); [ -e $f ] || exit 1; cat $f ;;
erase) rm -f $dir/$(name) ;;
list) cd $dir; printf '{'; for f in *; do [ -e "$f" ] && printf '"%s":"u",' "$f"; done; printf '"zzz":"u"}' ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path) -> Path:
    path = tmp_path / "bin/docker-credential-test"
    path.parent.mkdir()
    path.write_text(HELPER)
    path.chmod(0o755)
    return path


async def test_kept_and_forgotten(environ: dict[str, str], tmp_path: Path) -> None:
    place = str(tmp_path / "run/containers/auth.json")
    assert await keep("quay.io", Credentials("a", SECRET), environ) == place
    await keep("quay.io/team", Credentials("b", "c:d:"), environ)
    found = await find_for("quay.io/team/x", environ)
    assert found is not None and (found.username, found.password) == ("b", "c:d:")
    assert await forget("quay.io/team", environ) and not await forget("quay.io/team", environ)
    assert await user("quay.io/team/x", environ) == "a"
    await forget_all(environ)
    assert await user("quay.io/team/x", environ) is None
    own = str(tmp_path / "new/own.json")
    assert await keep("docker.io", Credentials("h", "p"), environ, own) == own
    assert await user("busybox", {**environ, "REGISTRY_AUTH_FILE": own}) == "h"


async def test_kept_by_helpers(environ: dict[str, str], tmp_path: Path, helper: Path) -> None:
    place = tmp_path / "run/containers/auth.json"
    write(place, credHelpers={"quay.io": "test"}, more=1)
    assert await keep("quay.io", Credentials("a", SECRET), environ) == "docker-credential-test"
    with pytest.raises(UsageError, match="whole registries only"):
        await keep("quay.io/team", Credentials("a", SECRET), environ)
    assert await user("quay.io/x", environ) == "a"
    assert SECRET not in place.read_text()
    assert SECRET not in (tmp_path / "log").read_text()
    assert await forget("quay.io", environ) and not await forget("quay.io", environ)
    await keep("quay.io", Credentials("a", SECRET), environ)
    await forget_all(environ)
    assert await user("quay.io/x", environ) is None
    assert json.loads(place.read_text())["credHelpers"] == {"quay.io": "test"}
    (tmp_path / ".docker").mkdir()
    config = str(tmp_path / ".docker/config.json")
    write(config, credsStore="test")
    await keep("docker.io", Credentials("h", "p"), environ, config)
    assert (tmp_path / "kept/https:__index.docker.io_v1_").exists()  # where Docker looks
    assert await user("busybox", environ) == "h"
    assert await forget("docker.io", environ, config)


async def test_helpers_of_registries_conf(environ: dict[str, str], tmp_path: Path, helper: Path) -> None:
    conf = tmp_path / ".config/containers/registries.conf"
    conf.parent.mkdir(parents=True)
    write(tmp_path / "run/containers/auth.json", auths={"quay.io": entry("file")})
    conf.write_text('credential-helpers = ["test"]')
    assert await user("quay.io/x", environ) is None
    await keep("quay.io", Credentials("a", SECRET), environ)
    assert await user("quay.io/x", environ) == "a"
    conf.write_text('credential-helpers = ["containers-auth.json", "test"]')
    assert await user("quay.io/x", environ) == "file"
    await keep("ghcr.io", Credentials("b", SECRET), environ)
    assert "ghcr.io" in (tmp_path / "run/containers/auth.json").read_text()
    await forget_all(environ)
    assert await user("quay.io/x", environ) is None


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
