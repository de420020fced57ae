"""Helper programs that misbehave; test_auth.py has one that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.errors import HostError, UsageError
from rootless.image.credentialhelpers import Helper

SECRET = "s3cret-Passw0rd"


def helper(tmp_path: Path, script: str) -> Helper:
    path = tmp_path / "docker-credential-odd"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Helper("odd", "/x.json", {"PATH": f"{tmp_path}:/usr/bin:/bin"})


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 65])
def test_names(name: str) -> None:
    with pytest.raises(UsageError, match=r"/x\.json names a malformed credential helper"):
        Helper(name, "/x.json", {})


@pytest.mark.parametrize(
    "answer", ["", "x", "[]", "{", '{"Username": 1}', f'{{"Username": "u", "Secret": ["{SECRET}"]}}']
)
async def test_answers_that_are_none(tmp_path: Path, answer: str) -> None:
    odd = helper(tmp_path, f"cat >/dev/null; printf '%s' '{answer}'")
    with pytest.raises(UsageError, match="malformed answer") as caught:
        await odd.get("quay.io")
    assert SECRET not in str(caught.value)


async def test_failures(tmp_path: Path) -> None:
    odd = helper(tmp_path, "cat; cat >&2; exit 1")
    assert await odd.get("quay.io") is None
    assert await odd.list() == []
    with pytest.raises(HostError, match="did not store") as caught:
        await odd.store("quay.io", "u", SECRET)
    assert SECRET not in str(caught.value)
    stubborn = helper(tmp_path, '[ $1 = get ] && echo \'{"Username":"u","Secret":"s"}\'')
    with pytest.raises(HostError, match="did not erase"):
        await stubborn.erase("quay.io")
    with pytest.raises(UsageError, match="docker-credential-absent, which is not installed"):
        await Helper("absent", "/x.json", {"PATH": str(tmp_path)}).get("quay.io")
    (tmp_path / "docker-credential-odd").write_text("#!/nowhere\n")
    with pytest.raises(UsageError, match="cannot run the credential helper"):
        await odd.get("quay.io")
