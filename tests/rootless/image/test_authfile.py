"""Changing credential files: nothing else in them changes, and only their user can read them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import HostError, UsageError
from rootless.image.authfile import clear, plain_key, put, read, remove


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("quay.io", "quay.io"),
        ("quay.io/a/", "quay.io/a"),
        ("https://quay.io/v1/", "quay.io"),
        ("http://quay.io:80", "quay.io:80"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("https://registry-1.docker.io/v2/", "docker.io"),
        ("index.docker.io", "docker.io"),
    ],
)
def test_keys(key: str, plain: str) -> None:
    assert plain_key(key) == plain


def test_an_entry_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/auth.json"
    put(str(path), "quay.io", "u", "p")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    content = read(str(path))
    assert content is not None and content.auths is not None and content.auths["quay.io"].auth == "dTpw"
    assert os.listdir(path.parent) == ["auth.json"]
    assert remove(str(path), "quay.io") and not remove(str(path), "quay.io")
    assert not remove(str(tmp_path / "none"), "quay.io") and not clear(str(tmp_path / "none"))


def test_what_is_not_known_stays(tmp_path: Path) -> None:
    path = tmp_path / "real.json"
    before: dict[str, Any] = {
        "auths": {"a": {"auth": "eDp5", "email": "e"}},
        "HttpHeaders": {"User-Agent": "ü"},
        "credHelpers": {"b": "c"},
    }
    path.write_text(json.dumps(before))
    path.chmod(0o644)
    link = tmp_path / "auth.json"
    link.symlink_to("real.json")
    put(str(link), "quay.io", "u", "p")
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o600
    after = json.loads(path.read_text())
    assert after.pop("auths") == {**before["auths"], "quay.io": {"auth": "dTpw"}}
    before.pop("auths")
    assert after == before
    assert clear(str(link)) and json.loads(path.read_text()) == {**before, "auths": {}}


def test_all_spellings_of_a_registry_go(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {}, "docker.io": {}, "docker.io/a": {}}}))
    assert remove(str(path), "docker.io")
    assert json.loads(path.read_text()) == {"auths": {"docker.io/a": {}}}


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": []}', "[" * 100_000, "\xff"])
def test_a_malformed_file_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="malformed"):
        put(str(path), "quay.io", "u", "secret")
    assert path.read_text(encoding="latin-1") == text
    assert os.listdir(tmp_path) == ["auth.json"]


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot write the credential file"):
        put(str(tmp_path / "file/auth.json"), "quay.io", "u", "secret")
