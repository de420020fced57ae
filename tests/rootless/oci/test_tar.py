"""The tar parser against Python's `tarfile`, and against archives that nobody should trust."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.errors import ImageError
from rootless.oci.tar import Limits, TarEntry, TarParser, normal_path


def parse(raw: bytes, step: int = 1 << 20, limits: Limits | None = None) -> list[tuple[TarEntry, bytes]]:
    """Every entry with its content, fed `step` bytes at a time; the content comes by both roads, which must agree."""
    parser = TarParser(data=True, limits=limits)
    found: list[tuple[TarEntry, bytearray]] = []
    for at in range(0, len(raw), step):
        for event in parser.feed(raw[at : at + step]):
            if isinstance(event, TarEntry):
                found.append((event, bytearray()))
            else:
                found[-1][1].extend(event)
    parser.close()
    result = []
    for entry, stored in found:
        content, taken = bytearray(entry.size), 0
        for logical, offset, length in entry.extents:
            content[logical : logical + length] = raw[offset : offset + length]
            assert stored[taken : taken + length] == raw[offset : offset + length]
            taken += length
        assert taken == len(stored)
        result.append((entry, bytes(content)))
    return result


def archive(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


_names = st.lists(
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=60).filter(
        lambda part: part not in (".", "..") and len(part.encode()) <= 255
    ),
    min_size=1,
    max_size=6,
).map("/".join)


@st.composite
def _members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    kind = draw(st.sampled_from([b"0", b"1", b"2", b"3", b"4", b"5", b"6"]))
    info = member(
        draw(_names),
        kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 2**32 - 2)),
        gid=draw(st.integers(0, 2**21)),
        mtime=draw(st.integers(-(2**33), 2**40)),
    )
    if kind in b"12":
        info.linkname = draw(_names)
    if kind in b"34":
        info.devmajor, info.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))
    return info, draw(st.binary(max_size=1500)) if kind == b"0" else b""


@given(
    st.lists(_members(), max_size=8), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.integers(1, 3000)
)
@settings(max_examples=150, deadline=None)
def test_agrees_with_tarfile(members: list[tuple[tarfile.TarInfo, bytes]], form: int, step: int) -> None:
    raw = archive(members, form)
    ours = parse(raw, step)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        theirs = tar.getmembers()
    assert len(ours) == len(theirs) == len(members)
    for (entry, content), info, (_, written) in zip(ours, theirs, members, strict=True):
        assert entry.path == normal_path(info.name.encode("utf-8", "surrogateescape"))
        assert (stat.S_IMODE(entry.mode), entry.uid, entry.gid) == (info.mode, info.uid, info.gid)
        assert entry.mtime_ns == int(info.mtime) * 1_000_000_000
        assert content == written
        if info.issym():
            assert stat.S_ISLNK(entry.mode) and entry.target == info.linkname.encode()
        elif info.islnk():
            assert entry.hardlink == normal_path(info.linkname.encode())
        elif info.isdev() and not info.isfifo():
            assert (entry.major, entry.minor) == (info.devmajor, info.devminor)
        assert stat.S_ISDIR(entry.mode) == info.isdir()


@given(st.binary(max_size=4096), st.integers(1, 600))
@settings(max_examples=200, deadline=None)
def test_garbage_is_an_image_error(raw: bytes, step: int) -> None:
    try:
        parse(raw, step)
    except ImageError:
        pass


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_archive_is_an_image_error_or_parses(data: st.DataObject) -> None:
    members = [
        (member("a" * 150, pax_headers={"SCHILY.xattr.user.x": "y", "mtime": "1.25"}), b"x" * 700),
        (member("d", b"5"), b""),
        (member("l", b"1", linkname="d/" + "z" * 120), b""),
    ]
    raw = bytearray(archive(members, data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    block = at - at % 512
    if data.draw(st.booleans()):  # repair the checksum, so that the damage gets further
        header = raw[block : block + 512]
        header[148:156] = b" " * 8
        raw[block + 148 : block + 156] = b"%06o\0 " % sum(header)
    try:
        parse(bytes(raw), data.draw(st.integers(100, 2000)))
    except ImageError:
        pass


def test_every_prefix_is_cut_off_or_complete() -> None:
    raw = archive([(member("a", pax_headers={"comment": "x"}), b"y" * 513), (member("b"), b"")])
    for length in range(0, len(raw), 64):
        complete = length in (0,) or raw[length : length + 1] == b""
        try:
            entries = parse(raw[:length])
        except ImageError as error:
            assert "cut off" in str(error)
            assert not complete
        else:
            assert len(entries) <= 2


def test_extended_attributes_in_both_dialects() -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    headers = {"SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")}
    [(entry, _)] = parse(archive([(member("ping", pax_headers=headers), b"")]))
    assert entry.xattrs == ((b"security.capability", capability),)
    [(entry, _)] = parse(archive([(member("f", pax_headers={"LIBARCHIVE.xattr.user.a%3Db": "aGVsbG8"}), b"")]))
    assert entry.xattrs == ((b"user.a=b", b"hello"),)


@pytest.mark.parametrize(
    "form", ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"]
)
def test_gnu_tar_sparse_files(tmp_path: object, form: str) -> None:
    path = f"{tmp_path}/holes"
    with open(path, "wb") as file:
        for at in range(0, 64 << 20, 1 << 20):  # more regions than one header holds
            file.seek(at)
            file.write(os.urandom(4096))
        file.truncate((64 << 20) + 12345)
    raw = subprocess.run(
        ["tar", "-C", str(tmp_path), "-S", *f"--format={form}".split(), "-cf", "-", "holes"],
        check=True,
        capture_output=True,
    ).stdout
    assert len(raw) < 1 << 20
    with open(path, "rb") as file:
        expected = file.read()
    for step in (1 << 20, 700):
        [(entry, content)] = parse(raw, step)
        assert entry.path == b"holes"
        assert content == expected


@pytest.mark.parametrize(
    ("name", "normal"),
    [(b"/etc/passwd", b"etc/passwd"), (b"./a//b/./c/", b"a/b/c"), (b"./", b""), (b"/", b""), (b"a/../b", b"b")],
)
def test_names_become_relative(name: bytes, normal: bytes) -> None:
    assert normal_path(name) == normal


@pytest.mark.parametrize("name", [b"../x", b"a/../../x", b"/..", b"", b"a\0b", b"a/" + b"b" * 256, b"a/" * 3000])
def test_names_that_lead_out_are_refused(name: bytes) -> None:
    with pytest.raises(ImageError):
        normal_path(name)


def test_limits() -> None:
    raw = archive([(member(f"f{number}" * 30), b"") for number in range(20)])
    with pytest.raises(ImageError, match="more than 10 entries"):
        parse(raw, limits=Limits(entries=10))
    with pytest.raises(ImageError, match="more than 500 bytes"):
        parse(raw, limits=Limits(metadata=500))
    with pytest.raises(ImageError, match="the limit is 512"):
        parse(archive([(member("x" * 3000), b"")]), limits=Limits(record=512))


def test_huge_numbers_are_refused() -> None:
    raw = bytearray(archive([(member("f"), b"")], tarfile.GNU_FORMAT))
    raw[124:136] = b"\x80" + b"\xff" * 11
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    with pytest.raises(ImageError, match="out of range"):
        parse(bytes(raw))


def test_unknown_types_and_lone_zero_blocks_are_refused() -> None:
    with pytest.raises(ImageError, match="unknown type 'M'"):
        parse(archive([(member("f", b"M"), b"")]))
    raw = archive([(member("f"), b"")])
    with pytest.raises(ImageError, match="end marker"):
        parse(raw[:512] + bytes(512) + raw[:512])
    assert [entry.path for entry, _ in parse(raw + b"trailing bytes")] == [b"f"]
