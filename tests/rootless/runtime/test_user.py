"""Users and groups out of an image's files, which may hold anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import ContainerError, UsageError
from rootless.runtime.rootdir import RootDir
from rootless.runtime.user import parse_group, parse_passwd, resolve, resolve_user

PASSWD = b"""# comment
root:x:0:0:root:/root:/bin/sh
web:x:1000:33:Web:/srv/web:/bin/sh
broken
7up:x:70:70::/seven:
1234:x:77:77::/digits:
big:x:99999999999:1::/:
"""
GROUP = b"root:x:0:root\nweb:x:33:\nmedia:x:44:web,root\nbroken:x\naudio:x:29:web\n"


@pytest.mark.parametrize(
    ("spec", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (0, 44), "/root"),
        ("root", 0, 0, (0, 44), "/root"),
        ("0", 0, 0, (0, 44), "/root"),
        ("web", 1000, 33, (44, 29), "/srv/web"),
        ("1000", 1000, 33, (44, 29), "/srv/web"),
        ("web:media", 1000, 44, (), "/srv/web"),
        ("web:29", 1000, 29, (), "/srv/web"),
        ("web:4242", 1000, 4242, (), "/srv/web"),
        ("555", 555, 0, (), "/"),
        ("555:666", 555, 666, (), "/"),
        ("7up", 70, 70, (), "/seven"),
        ("1234", 77, 77, (), "/digits"),
        (":media", 0, 44, (), "/root"),
    ],
)
def test_resolve(spec: str, uid: int, gid: int, groups: tuple[int, ...], home: str) -> None:
    found = resolve(PASSWD, GROUP, spec)
    assert (found.user.uid, found.user.gid, found.user.additional_gids, found.home) == (uid, gid, groups, home)


@pytest.mark.parametrize("spec", ["nobody", "broken", "big", "web:nogroup", "99999999999", "0:99999999999", "-1"])
def test_unknown_names(spec: str) -> None:
    with pytest.raises(UsageError):
        resolve(PASSWD, GROUP, spec)


def test_the_message_is_podmans() -> None:
    with pytest.raises(UsageError, match="unable to find user foo: no matching entries in passwd file"):
        resolve(PASSWD, GROUP, "foo")


def test_files_of_a_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "real").write_bytes(PASSWD)
    (tmp_path / "etc/passwd").symlink_to("/real")
    with RootDir.at(str(tmp_path)) as root:
        assert resolve_user(root, "web").user.uid == 1000
        assert resolve_user(root, "web", extra_groups=["5"]).user.additional_gids == (5,)
        assert resolve_user(root.fd, "web").home == "/srv/web"


def test_hostile_files(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with RootDir.at(str(tmp_path)) as root:
        assert resolve_user(root, "5").user.uid == 5
        os.mkfifo(tmp_path / "etc/passwd")
        with pytest.raises(ContainerError, match="not a regular file"):
            resolve_user(root, "5")
        (tmp_path / "etc/passwd").unlink()
        with open(tmp_path / "etc/passwd", "wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(ContainerError, match="File too large"):
            resolve_user(root, "5")
        (tmp_path / "etc/passwd").unlink()
        (tmp_path / "etc/passwd").symlink_to("/proc/self/root/etc/passwd")
        assert resolve_user(root, "5").name is None


@given(st.binary(max_size=300), st.binary(max_size=300), st.text(max_size=20))
def test_any_bytes_give_ids_or_one_error(passwd: bytes, group: bytes, spec: str) -> None:
    for account in parse_passwd(passwd):
        assert 0 <= account.uid < 2**31
    for entry in parse_group(group):
        assert 0 <= entry.gid < 2**31
    try:
        found = resolve(passwd, group, spec)
    except UsageError:
        return
    assert 0 <= found.user.uid < 2**31 and 0 <= found.user.gid < 2**31
