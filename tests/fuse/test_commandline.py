"""fuse-overlayfs's options, as they are read."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.commandline import WITHOUT_EFFECT, CommandLine, UsageError, parse
from fuse.override import CONTAINERS_XATTR, PRIVILEGED_XATTR
from fuse.ownership import Ownership
from fuse.syscalls import MountFlag

KEYS = (
    *("lowerdir", "lowerdir+", "upperdir", "workdir", "uidmapping", "gidmapping", "squash_to_uid", "timeout"),
    *("xattr_permissions", "ownership", "fsname", "subtype", "fsync", "xino", "plugins", "adapter"),
)

DEFAULT_FLAGS = MountFlag.NODEV | MountFlag.NOATIME


def options(*more: str, root: bool = True) -> CommandLine:
    return parse(["-o", ",".join(("lowerdir=/a,upperdir=/u,workdir=/w", *more)), "/m"], root=root)


def test_a_mount_as_podman_asks_for_it() -> None:
    words = ["-o", "lowerdir=/l/A:/l/B,upperdir=/c/diff,workdir=/c/work,volatile,nodev,fsync=0", "/c/merged"]
    settings = parse(words, root=True)
    assert settings.lowers == ["/l/A", "/l/B"]
    assert (settings.upper, settings.work, settings.mountpoint) == ("/c/diff", "/c/work", "/c/merged")
    assert not settings.durable
    assert not settings.foreground
    assert settings.allow_other
    assert settings.flags == DEFAULT_FLAGS


def test_a_mount_as_mount_8_asks_for_it() -> None:
    settings = parse(["overlay", "/m", "-o", "rw,lowerdir=/a"])
    assert (settings.fsname, settings.mountpoint) == ("overlay", "/m")


def test_relative_paths_are_those_of_the_caller() -> None:
    settings = parse(["-olowerdir=a:b/../c,upperdir=u,workdir=w", "m"])
    here = os.getcwd()
    assert settings.lowers == [f"{here}/a", f"{here}/b/../c"]
    assert (settings.upper, settings.work, settings.mountpoint) == (f"{here}/u", f"{here}/w", f"{here}/m")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lowerdir=/a:/b", ["/a", "/b"]),
        ("lowerdir=/a\\:b:/c\\,d", ["/a:b", "/c,d"]),
        ("lowerdir=/a\\\\:b:/c", ["/a:b", "/c"]),
        ('lowerdir="/a,b:/c"', ["/a,b", "/c"]),
        ("lowerdir=/a\\040b:/c\\072d", ["/a b", "/c:d"]),
        ("lowerdir=/a\\\\b", ["/a\\b"]),
        ("lowerdir=:/a::/b:", ["/a", "/b"]),
        ("lowerdir=/a=b", ["/a=b"]),
        ("lowerdir=/a,lowerdir+=/b:c,lowerdir+=/d\\,e", ["/a", "/b:c", "/d,e"]),
        ("lowerdir+=/a", ["/a"]),
        ("lowerdir=/a,lowerdir=/b", ["/b"]),
    ],
)
def test_lists_of_lower_directories(text: str, expected: list[str]) -> None:
    assert parse(["-o", text, "/m"]).lowers == expected


def test_a_mountpoint_that_looks_like_an_option() -> None:
    assert parse(["-olowerdir=/a", "--", "-f"]).mountpoint == f"{os.getcwd()}/-f"


def test_escapes_in_other_values() -> None:
    settings = parse(["-o", "lowerdir=/a,upperdir=/u\\,v\\:x,workdir=/w:y,fsname=n\\\\m", "/m"])
    assert (settings.upper, settings.work, settings.fsname) == ("/u,v:x", "/w:y", "n\\m")


def test_quotes_and_maps() -> None:
    settings = options('context="system_u:object_r:x:s0:c1,c2"', "uidmapping=:0:1000:1:1:1:99", "gidmapping=5:6:7")
    uids, gids = settings.owners.uids, settings.owners.gids
    assert [uids.shown(number) for number in (0, 1, 99, 100, 1000)] == [1000, 1, 99, 65534, 65534]
    assert [uids.stored(number) for number in (1000, 99, 0)] == [0, 99, 65534]
    assert (gids.shown(5), gids.stored(12), gids.stored(13)) == (6, 11, 65534)


@pytest.mark.parametrize("order", [1, -1])
def test_squash(order: int) -> None:
    words = ["squash_to_root", "squash_to_uid=5", "uidmapping=0:1000:1"][::order]
    owners = options(*words).owners
    assert (owners.uids.shown(0), owners.uids.shown(77), owners.gids.shown(42)) == (5, 5, 0)
    assert (owners.uids.stored(1000), owners.gids.stored(42)) == (0, 42)


def test_switches() -> None:
    settings = options()
    assert (settings.durable, settings.writeback, settings.xattrs) == (True, False, True)
    assert (settings.ownership, settings.verbose) == (Ownership.REAL, False)
    settings = options("fsync=0", "writeback=1", "noxattrs=1", "timeout=0.5", "debug")
    assert (settings.durable, settings.writeback, settings.xattrs) == (False, True, False)
    assert settings.timeout == 0.5
    assert settings.foreground
    assert settings.verbose
    assert options("adapter=pyfuse3").adapter == "pyfuse3"
    assert not options("sync=0").durable
    assert [options(*words).acls for words in ((), ("noacl",), ("noacl", "acl"))] == [True, False, True]


@pytest.mark.parametrize(
    ("option", "ownership", "override"),
    [
        ("xattr_permissions=0", Ownership.REAL, CONTAINERS_XATTR),
        ("xattr_permissions=1", Ownership.XATTR, PRIVILEGED_XATTR),
        ("xattr_permissions=2", Ownership.XATTR, CONTAINERS_XATTR),
        ("ownership=auto", Ownership.AUTO, CONTAINERS_XATTR),
        ("ownership=file", Ownership.FILE, CONTAINERS_XATTR),
    ],
)
def test_how_owners_are_kept(option: str, ownership: Ownership, override: bytes) -> None:
    settings = options(option)
    assert (settings.ownership, settings.override) == (ownership, override)


@pytest.mark.parametrize("word", ["-f", "-d", "--debug"])
def test_the_foreground(word: str) -> None:
    settings = parse([word, "-s", "-olowerdir=/a", "/m"])
    assert settings.foreground
    assert settings.verbose == (word != "-f")


def test_flags_of_the_mount() -> None:
    assert options(root=True).flags == DEFAULT_FLAGS
    assert options(root=False).flags == DEFAULT_FLAGS | MountFlag.NOSUID
    assert not options(root=False).allow_other
    assert options("dev", "nosuid", "noexec", "ro").flags == (
        MountFlag.NOATIME | MountFlag.NOSUID | MountFlag.NOEXEC | MountFlag.RDONLY
    )
    assert options("nosuid", "suid").flags == DEFAULT_FLAGS
    assert parse(["-olowerdir=/a", "/m"], root=True).flags == DEFAULT_FLAGS | MountFlag.RDONLY


@pytest.mark.parametrize("option", [*sorted(WITHOUT_EFFECT), "x-systemd.automount", "X-mount.mkdir"])
def test_what_has_no_effect_here(option: str) -> None:
    settings = options()
    assert options(option) == settings
    assert options(f"{option}=1") == settings


_WORDS = st.text(alphabet='\\:,="/0159.-+ae\0\udcff', max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["", *KEYS, *sorted(WITHOUT_EFFECT)[:3]]), _WORDS), max_size=4), _WORDS)
def test_any_options_are_settings_or_a_mistake(options: list[tuple[str, str]], mountpoint: str) -> None:
    text = ",".join(f"{key}={value}" for key, value in options)
    try:
        settings = parse(["-o", text, mountpoint])
    except UsageError as error:
        assert str(error)
        return
    assert settings.lowers
    for path in (settings.mountpoint, *settings.lowers, settings.upper or "/", settings.work or "/"):
        assert path.startswith("/")
        os.fsencode(path)
    assert settings.owners.uids.shown(0) < 2**32


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "no mountpoint"),
        (["/m"], "no lowerdir"),
        (["-o"], "-o needs"),
        (["-o", "lowerdir=", "/m"], "no lowerdir"),
        (["-o", "lowerdir=/a", "source", "/m", "/n"], "more than one mountpoint: /m, /n"),
        (["-o", "lowerdir=/a,bogus=1", "/m"], "unknown option bogus=1"),
        (["-o", "lowerdir=/a,uperdir=/u", "/m"], "unknown option uperdir=/u"),
        (["-o", "lowerdir=/a,upperdir=/u", "/m"], "needs a workdir"),
        (["-o", "lowerdir=/a,upperdir=,workdir=/w", "/m"], "upperdir is empty"),
        (["-o", "lowerdir=//plugin/data:/a", "/m"], "names a plugin"),
        (["-o", "lowerdir=/a,plugins=/x.so", "/m"], "plugins are not offered"),
        (["-o", "lowerdir=/a\0b", "/m"], "NUL"),
        (["-o", "lowerdir=/a", ""], "mountpoint is empty"),
        (["-o", "lowerdir=/a,uidmapping=1:2", "/m"], "not a list"),
        (["-o", "lowerdir=/a,uidmapping=", "/m"], "not a list"),
        (["-o", "lowerdir=/a,gidmapping=0:x:1", "/m"], "not a number"),
        (["-o", "lowerdir=/a,gidmapping=0:4294967295:2", "/m"], "leads nowhere"),
        (["-o", "lowerdir=/a,gidmapping=0:0:0", "/m"], "leads nowhere"),
        (["-o", "lowerdir=/a,squash_to_uid=-1", "/m"], "not a number"),
        (["-o", "lowerdir=/a,squash_to_gid=99999999999999999999", "/m"], "not a number"),
        (["-o", "lowerdir=/a,squash_to_uid=4294967295", "/m"], "stands for none"),
        (["-o", "lowerdir=/a,squash_to_root=0", "/m"], "squash_to_root takes no value"),
        (["-o", "lowerdir=/a,volatile=0", "/m"], "volatile takes no value"),
        (["-o", "lowerdir=/a,ro=0", "/m"], "ro takes no value"),
        (["-o", "lowerdir=/a", "--"], "no mountpoint"),
        (["-o", "lowerdir=/a,timeout=x", "/m"], "not a number of seconds"),
        (["-o", "lowerdir=/a,timeout=1_0", "/m"], "not a number of seconds"),
        (["-o", "lowerdir=/a,timeout= 5", "/m"], "not a number of seconds"),
        (["-o", "lowerdir=/a,timeout=-1", "/m"], "not a number of seconds"),
        (["-o", "lowerdir=/a,timeout=nan", "/m"], "not a number of seconds"),
        (["-o", "lowerdir=/a,timeout=inf", "/m"], "not a number of seconds"),
        (["-o", "lowerdir=/a,fsync=yes", "/m"], "neither 0 nor 1"),
        (["-o", "lowerdir=/a,sync", "/m"], "sync is not offered"),
        (["-o", "lowerdir=/a,xattr_permissions=3", "/m"], "none of 0, 1 and 2"),
        (["-o", "lowerdir=/a,ownership=none", "/m"], "none of auto, real, xattr, file"),
        (["-o", "lowerdir=/a,redirect_dir=on", "/m"], "only off"),
        (["-o", "lowerdir=/a,xino=on", "/m"], "xino=on is not offered"),
        (["-o", "lowerdir=/a,ino32_t", "/m"], "ino32_t"),
        (["-o", "lowerdir=/a,allow_root", "/m"], "allow_root is not offered"),
        (["-o", "lowerdir=/a,adapter=libfuse", "/m"], "none of auto, device, pyfuse3"),
        (["-o", "lowerdir=/a,fsname", "/m"], "fsname needs a value"),
        (["-o", "lowerdir=/a,fsname=a\\000b", "/m"], "without NUL"),
        (["-o", "lowerdir=/a,squash_to_uid=00000000000000000000000099999999999", "/m"], "not a number"),
        (["--bogus", "/m"], "unknown option --bogus"),
    ],
)
def test_mistakes(words: list[str], reason: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(words)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
