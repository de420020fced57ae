"""Archives that we write, read by ourselves, by Python's `tarfile`, by GNU tar and by bsdtar."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.oci.tar import TarEntry
from rootless.oci.tarwriter import END, header, padding
from tests.rootless.oci.test_tar import parse

PLAIN = TarEntry(b"f", stat.S_IFREG | 0o644, 0, 0, 0, 0, 0, 0, b"", None, (), ())


def archive(*members: tuple[TarEntry, bytes]) -> bytes:
    parts = []
    for entry, data in members:
        parts += [header(entry._replace(size=len(data))), data, padding(len(data))]
    return b"".join([*parts, END])


names = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
paths = st.lists(names, min_size=1, max_size=6).map(b"/".join)
ids = st.integers(0, 2**32 - 2)
keys = st.binary(min_size=1, max_size=30).filter(lambda key: b"\0" not in key).map(lambda key: b"user." + key)


@st.composite
def members(draw: st.DrawFn) -> tuple[TarEntry, bytes]:
    kind = draw(st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO]))
    data = draw(st.binary(max_size=2000)) if kind == stat.S_IFREG else b""
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    entry = TarEntry(
        path=draw(paths),
        mode=kind | draw(st.integers(0, 0o7777)),
        uid=draw(ids),
        gid=draw(ids),
        size=len(data),
        mtime_ns=draw(st.integers(-(2**62), 2**62)),
        major=draw(st.integers(0, 2**12 - 1)) if device else 0,
        minor=draw(st.integers(0, 2**20 - 1)) if device else 0,
        target=draw(paths) if kind == stat.S_IFLNK else b"",
        hardlink=draw(paths) if kind == stat.S_IFREG and not data and draw(st.booleans()) else None,
        xattrs=(),
        extents=(),
    )
    if entry.hardlink is None:
        found = draw(st.dictionaries(keys, st.binary(max_size=300), max_size=3))
        entry = entry._replace(xattrs=tuple(sorted(found.items())))
    return entry, data


@settings(deadline=None, max_examples=200)
@given(st.lists(members(), max_size=4))
def test_what_is_written_is_read(wanted: list[tuple[TarEntry, bytes]]) -> None:
    found = parse(archive(*wanted))
    assert [(entry._replace(extents=(), xattrs=tuple(sorted(entry.xattrs))), data) for entry, data in found] == wanted


@settings(deadline=None, max_examples=60)
@given(st.lists(members(), max_size=3))
def test_python_reads_it(wanted: list[tuple[TarEntry, bytes]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(*wanted)), errors="surrogateescape") as opened:
        for (entry, data), info in zip(wanted, opened, strict=True):
            assert os.fsencode(info.name) == entry.path
            assert (info.mode, info.uid, info.gid) == (stat.S_IMODE(entry.mode), entry.uid, entry.gid)
            if info.isreg():
                file = opened.extractfile(info)
                assert file is not None and file.read() == data


def test_pax_only_where_it_is_needed() -> None:
    simple = [
        PLAIN,
        PLAIN._replace(path=b"d", mode=stat.S_IFDIR | 0o755),
        PLAIN._replace(path=b"a" * 150 + b"/" + b"b" * 100),
        PLAIN._replace(path=b"\xff\xfe", uid=8**7 - 1, mtime_ns=8**10 * 10**9),
        PLAIN._replace(hardlink=b"x" * 100),
    ]
    assert [len(header(entry)) for entry in simple] == [512] * len(simple)
    other = [
        PLAIN._replace(path=b"a" * 101),
        PLAIN._replace(uid=8**7),
        PLAIN._replace(size=8**11),
        PLAIN._replace(mtime_ns=1),
        PLAIN._replace(mtime_ns=-(10**9)),
        PLAIN._replace(xattrs=((b"user.a", b"\0=\n"),)),
    ]
    assert all(len(header(entry)) == 1536 for entry in other)


def test_the_root_is_a_directory_of_its_own() -> None:
    assert parse(archive((PLAIN._replace(path=b"", mode=stat.S_IFDIR | 0o700), b"")))[0][0].path == b""


def test_a_socket_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be in a tar archive"):
        header(PLAIN._replace(mode=stat.S_IFSOCK | 0o777))


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_other_tools_unpack_it(tool: str, tmp_path: Path) -> None:
    long = b"/".join([b"n" * 200] * 3)
    moment = 1_700_000_000_123_456_789
    written = archive(
        (PLAIN._replace(path=b"d", mode=stat.S_IFDIR | 0o750, mtime_ns=moment), b""),
        (PLAIN._replace(path=b"d/\xff\xfe", mtime_ns=-5), b"any bytes"),
        (PLAIN._replace(path="d/käse".encode(), xattrs=((b"user.note", b"a\0b"), (b"user.a=b", b"1"))), b"attributes"),
        (PLAIN._replace(path=long, mtime_ns=moment), b"long"),
        (PLAIN._replace(path=b"d/link", hardlink=long), b""),
        (PLAIN._replace(path=b"d/sym", mode=stat.S_IFLNK | 0o777, target=b"t" * 300), b""),
        (PLAIN._replace(path=b"d/fifo", mode=stat.S_IFIFO | 0o600), b""),
    )
    flags = ["--xattrs", "--xattrs-include=*"] if tool == "tar" else ["--xattrs"]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [tool, "-xp", *flags, "-f", "-"], input=written, cwd=tmp_path, capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr  # GNU tar says which record it leaves out
    root = os.fsencode(tmp_path)
    assert Path(os.fsdecode(root + b"/d/\xff\xfe")).read_bytes() == b"any bytes"
    assert Path(os.fsdecode(root + b"/" + long)).read_bytes() == b"long"
    assert os.stat(root + b"/" + long).st_mtime_ns == moment
    assert os.stat(root + b"/" + long).st_ino == os.stat(root + b"/d/link").st_ino
    assert os.getxattr(root + "/d/käse".encode(), "user.note") == b"a\0b"
    assert os.readlink(root + b"/d/sym") == b"t" * 300
    assert stat.S_ISFIFO(os.stat(root + b"/d/fifo").st_mode)
