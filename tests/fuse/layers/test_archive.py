"""Archive layers: everything an archive can hold comes through, and no damage does more than an error."""

from __future__ import annotations

import os
import stat
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse.entry import Entry
from fuse.errors import LayerError
from fuse.frames import FrameCache, FramesWriter
from fuse.index import IndexWriter
from fuse.indexformat import EXTENT, HEADER, MAGIC, NODE, XATTR
from fuse.inodes import Directory
from fuse.layers.archive import ArchiveKind, ArchiveLayer
from fuse.tree import Tree
from fuse.upper import UpperDirectory
from fuse.view import View
from tests.fuse.archives import archive, directory, hardlink, regular, symlink, whiteout

EXAMPLES = int(os.environ.get("RCONTAIN_TEST_FUZZ", "1"))
"""How many times the usual number of examples."""

# What an archive can hold.


@pytest.mark.parametrize("kind", ["plain", "frames"])
def test_every_kind_of_file(tmp_path: Path, kind: ArchiveKind) -> None:
    long, strange = "n" * 255, b"\xff\xfe\n\t \\"
    target = "t/" * 2047 + "t"
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    entries = [
        directory("d", 0o2755, uid=5, gid=6, mtime_ns=-1),
        (regular(f"d/{long}", 0o4711, uid=2**32 - 2, mtime_ns=-(10**18) - 1), b"long"),
        (Entry(b"d/" + strange, stat.S_IFREG | 0o600, mtime_ns=4 * 10**18 + 123456789), b"strange"),
        symlink("d/link", target),
        Entry(b"d/char", stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3)),
        Entry(b"d/block", stat.S_IFBLK | 0o660, rdev=os.makedev(4095, 1048575)),
        Entry(b"d/fifo", stat.S_IFIFO | 0o644),
        (
            regular("d/able", xattrs=((b"security.capability", capability), (b"user.\xff", b"\0" * 65536))),
            b"able",
        ),
        hardlink("d/again", "d/able"),
    ]
    layer = archive(str(tmp_path), "low", entries, kind)
    view = View([layer])
    d = view.directory(view.lookup(view.root, b"d").number)
    assert view.attributes(d)[:4] == (stat.S_IFDIR | 0o2755, 1, 5, 6)
    assert view.attributes(d).mtime_ns == -1
    found = view.lookup(d, long.encode())
    assert view.read(found, 0, 100) == b"long"
    assert view.attributes(found).mtime_ns == -(10**18) - 1
    assert view.attributes(found).uid == 65534 or view.attributes(found).uid == 2**32 - 2
    found = view.lookup(d, strange)
    assert (view.read(found, 2, 3), view.attributes(found).mtime_ns) == (b"ran", 4 * 10**18 + 123456789)
    found = view.lookup(d, b"link")
    assert (view.readlink(found), view.attributes(found).size) == (target.encode(), 4095)
    assert view.attributes(view.lookup(d, b"char")).rdev == os.makedev(1, 3)
    assert view.attributes(view.lookup(d, b"block")).rdev == os.makedev(4095, 1048575)
    assert stat.S_ISFIFO(view.attributes(view.lookup(d, b"fifo")).mode)
    able = view.lookup(d, b"able")
    assert view.lookup(d, b"again") is able
    assert view.attributes(able).nlink == 2
    assert view.xattr(able, b"security.capability") == capability
    assert view.xattr(able, b"user.\xff") == b"\0" * 65536
    assert sorted(view.xattr_names(able)) == [b"security.capability", b"user.\xff"]
    rows = {name: fields for name, inode, _, fields in view.rows(d, d.lowers[0], 0) if inode is None}
    assert set(rows) <= {name for name, _ in view.listing(d)}
    for name, inode, number, fields in view.rows(d, d.lowers[0], 0):
        assert number == view.lookup(d, name).number
        if inode is None:
            assert fields == view.attributes(view.lookup(d, name))
    view.close()


@pytest.mark.parametrize("kind", ["plain", "frames"])
def test_sparse_files_of_any_size(tmp_path: Path, kind: ArchiveKind) -> None:
    size = 8 << 30
    data = bytes(range(256)) * 16
    extents = ((0, 0, 4096), (5 << 30, 4096, 100), ((5 << 30) + 100, 8192, 4096), (size - 10, 512, 10))
    writer = IndexWriter()
    writer.add(Entry(b"sparse", stat.S_IFREG | 0o644, size=size, extents=extents))
    writer.add(Entry(b"hole", stat.S_IFREG | 0o644, size=size))
    writer.add(Entry(b"tail", stat.S_IFREG | 0o644, size=size, extents=((size - 4096, 0, 4096),)))
    writer.write(str(tmp_path / "index"))
    with (tmp_path / "data").open("wb") as file:
        frames = FramesWriter(file) if kind == "frames" else None
        (frames or file).write(data * 4)
        if frames:
            frames.close()
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    layer = ArchiveLayer(str(tmp_path / "index"), str(tmp_path / "data"), kind)
    tree = Tree([layer], UpperDirectory(str(tmp_path / "upper"), str(tmp_path / "work")))
    sparse, hole, tail = (tree.lookup(tree.root, name) for name in (b"sparse", b"hole", b"tail"))
    assert [tree.attributes(one).size for one in (sparse, hole, tail)] == [size] * 3
    assert [tree.attributes(one).blocks for one in (sparse, hole, tail)] == [(4096 * 2 + 110 + 511) // 512, 0, 8]
    assert tree.read(sparse, 4000, 200) == data[4000:] + bytes(104)
    assert tree.read(sparse, (5 << 30) - 2, 300) == bytes(2) + data[:100] + data[:198]
    assert tree.read(sparse, size - 12, 100) == bytes(2) + data[512:522]
    assert tree.read(hole, size - 5, 100) == bytes(5)
    assert tree.read(hole, size, 100) == b""
    assert tree.read(tail, size - 5000, 10000) == bytes(5000 - 4096) + data
    tree.truncate(tail, size + 5)  # copies it up: its holes stay holes
    assert tree.attributes(tail).blocks < 100
    assert tree.read(tail, size - 4, 100) == data[-4:] + bytes(5)
    tree.close()


def test_a_million_extents_take_no_memory(tmp_path: Path) -> None:
    count = 200_000
    writer = IndexWriter()
    extents = tuple((at * 8192, at, 1) for at in range(count))
    writer.add(Entry(b"f", stat.S_IFREG | 0o644, size=count * 8192, extents=extents))
    writer.write(str(tmp_path / "index"))
    del writer, extents
    (tmp_path / "data").write_bytes(b"x" * count)
    layer = ArchiveLayer(str(tmp_path / "index"), str(tmp_path / "data"), "plain")
    tracemalloc.start()
    place = layer.find(0, b"f")
    assert place is not None
    file = layer.open(place.ref)
    assert file.pread(8192 * (count - 1) - 1, 3) == b"\0x\0"
    assert layer.attributes(place.ref).blocks == (count + 511) // 512
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    layer.close()


def test_all_names_of_a_file(tmp_path: Path) -> None:
    layer = archive(
        str(tmp_path), "low", [regular("a"), hardlink("d/b", "a"), hardlink("c", "a"), regular("e"), hardlink("f", "e")]
    )
    for name, names in ((b"c", {b"a", b"d/b", b"c"}), (b"e", {b"e", b"f"})):
        place = layer.find(0, name)
        assert place is not None
        assert set(layer.names(place)) == names
    layer.close()


# Files that are no objects.


def test_what_was_only_seen_is_no_object_until_it_is_changed(tmp_path: Path) -> None:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    entries = [(regular(f"d/{at:04}"), str(at).encode()) for at in range(3000)]
    layer = archive(str(tmp_path), "low", entries)
    tree = Tree([layer], UpperDirectory(str(tmp_path / "upper"), str(tmp_path / "work")))
    d = tree.directory(tree.lookup(tree.root, b"d").number)
    d.lookups = 1
    numbers = {}
    for name, inode, number, _ in tree.rows(d, d.lowers[0], 0):
        assert inode is None
        tree.glimpses.lookups[number] += 1
        numbers[name] = number
    assert len(tree.inodes) == 2
    for name, number in numbers.items():
        assert tree.glimpsed_parts(number, 0, 100) == [str(int(name)).encode()]
        assert tree.attributes(tree.peek(number)).size == len(str(int(name)))
    assert len(tree.inodes) == 2
    for number in numbers.values():
        assert tree.inode(number).number == number
    assert len(tree.inodes) < 1100
    first, second = tree.inode(numbers[b"0001"]), numbers[b"0002"]
    tree.glimpses.lookups[second] += 1
    assert first.lookups == 1
    tree.write(first, 0, b"new")
    assert tree.peek(numbers[b"0001"]) is first
    tree.unlink(d, b"0002")
    gone = tree.inode(second)
    assert (gone.lookups, tree.attributes(gone).nlink) == (2, 0)
    assert tree.read(gone, 0, 10) == b"2"
    tree.forget(gone, 2)
    with pytest.raises(OSError, match="Stale"):
        tree.inode(second)
    tree.glimpses.forget(numbers[b"0003"], 1)
    with pytest.raises(OSError, match="Stale"):
        tree.glimpsed_parts(numbers[b"0003"], 0, 1)
    assert tree.read(tree.lookup(d, b"0003"), 0, 10) == b"3"
    tree.close()


def test_what_was_seen_moves_with_its_directory(tmp_path: Path) -> None:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    layer = archive(str(tmp_path), "low", [(regular("d/e/f"), b"f"), (regular("d/e/g"), b"g"), (regular("h"), b"h")])
    tree = Tree([layer], UpperDirectory(str(tmp_path / "upper"), str(tmp_path / "work")))
    d = tree.directory(tree.lookup(tree.root, b"d").number)
    e = tree.directory(tree.lookup(d, b"e").number)
    d.lookups = e.lookups = 1
    numbers = {}
    for directory_, name in ((e, b"f"), (e, b"g"), (tree.root, b"h")):
        found = tree.glimpse(directory_, name)
        assert isinstance(found, tuple)
        numbers[name] = found[0]
        tree.glimpses.lookups[found[0]] += 1
    tree.rename(tree.root, b"d", tree.root, b"moved")
    assert tree.read(tree.inode(numbers[b"f"]), 0, 10) == b"f"
    assert tree.lookup(e, b"g").number == numbers[b"g"]
    tree.rename(e, b"g", tree.root, b"h")
    assert tree.attributes(tree.inode(numbers[b"h"])).nlink == 0
    assert tree.read(tree.inode(numbers[b"h"]), 0, 10) == b"h"
    assert tree.read(tree.lookup(tree.root, b"h"), 0, 10) == b"g"
    assert tree.lookup(tree.root, b"h").lookups == 1
    for name, number in numbers.items():
        inode = tree.inode(number)
        tree.forget(inode, 1)
        assert (number in tree.inodes) == (inode.lookups > 0), name
    tree.close()


# Damage.

FRAME = 1024


def valid(folder: str) -> tuple[bytes, bytes]:
    entries = [
        directory("a/b", xattrs=((b"user.x", b"y"), (b"trusted.overlay.opaque", b"y")), opaque=True),
        (regular("a/c"), b"c" * 3000),
        hardlink("a/d", "a/c"),
        symlink("e", "../../a"),
        whiteout("gone"),
        Entry(b"dev", stat.S_IFCHR | 0o666, rdev=5),
        regular("f/sparse", size=10_000, extents=((100, 600, 50), (5000, 512, 100))),
        (regular("f/empty"), b""),
        (regular("f/x"), bytes(range(256))),
    ]
    layer = archive(folder, "valid", entries)
    layer.close()
    return tuple(Path(folder, "valid." + kind).read_bytes() for kind in ("index", "frames"))  # type: ignore[return-value]


def exercise(folder: str, index: bytes, data: bytes, kind: ArchiveKind = "frames") -> None:
    """Use a layer in every way there is; whatever it says, only LayerError and OSError may come of it."""
    Path(folder, "index").write_bytes(index)
    Path(folder, "data").write_bytes(data)
    try:
        layer = ArchiveLayer(folder + "/index", folder + "/data", kind, cache=FrameCache(8 * FRAME))
    except LayerError:
        return
    below = archive(folder, "below", [directory("a/b"), (regular("a/c"), b"below"), directory("f")])
    try:
        view = View([layer, below])
    except LayerError:
        layer.close()
        below.close()
        return
    try:
        _look(view, view.root, [len(index) // NODE.size + 20])
    finally:
        view.close()


def _quiet(use: object, *arguments: object) -> object:
    try:
        return use(*arguments)  # type: ignore[operator]
    except (LayerError, OSError):
        return None


def _look(view: View, folder: Directory, left: list[int]) -> None:
    whole = view.whole(folder)
    if whole is not None:
        _quiet(lambda: list(view.rows(folder, whole, 0)))
    for place in folder.lowers:
        _quiet(place.layer.listed, place.ref)
        _quiet(place.layer.entries, place.ref)
        _quiet(place.layer.xattrs, place.ref)
    _quiet(view.lookup, folder, b"a")
    for name, places in _quiet(view.listing, folder) or ():  # type: ignore[attr-defined]
        assert name not in (b"", b".", b"..")
        assert b"/" not in name
        left[0] -= 1
        assert left[0] >= 0, "more names than records"
        inode = _quiet(view.adopt, folder, name, places)
        if inode is None:
            continue
        _quiet(view.attributes, inode)
        _quiet(view.readlink, inode)
        _quiet(view.xattr_names, inode)
        _quiet(view.xattr, inode, b"user.x")
        for place in places:
            _quiet(place.layer.names, place)
        for offset in (0, 512, 5000, 1 << 40):
            read = _quiet(view.read, inode, offset, 4096)
            assert read is None or len(read) <= 4096  # type: ignore[arg-type]
        if isinstance(inode, Directory):
            _look(view, inode, left)


def bounded(folder: str, index: bytes, data: bytes, kind: ArchiveKind = "frames") -> None:
    tracemalloc.start()
    try:
        exercise(folder, index, data, kind)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


fuzz = settings(
    deadline=None,
    max_examples=150 * EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@fuzz
@given(
    flips=st.lists(st.tuples(st.booleans(), st.integers(0), st.integers(1, 255)), min_size=1, max_size=5),
    cut=st.none() | st.tuples(st.booleans(), st.integers(0)),
)
def test_bits_that_flipped(tmp_path: Path, flips: list[tuple[bool, int, int]], cut: tuple[bool, int] | None) -> None:
    index, data = map(bytearray, valid(str(tmp_path)))
    for in_index, at, bits in flips:
        stored = index if in_index else data
        stored[at % len(stored)] ^= bits
    if cut is not None:
        stored = index if cut[0] else data
        del stored[cut[1] % len(stored) :]
    bounded(str(tmp_path), bytes(index), bytes(data))


small = st.integers(0, 9)
wild = small | st.sampled_from([255, 4095, 65535, 2**31 - 1, 2**32 - 1])
huge = wild | st.sampled_from([2**40, 2**63 - 1, 2**64 - 1])
modes = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, 0, 0o170000]).map(lambda m: m | 0o755)
nodes = st.tuples(
    wild, wild.map(lambda n: n & 0xFFFF), small, small, small, modes, wild, wild, wild, huge, huge,
    st.integers(-(2**63), 2**63 - 1), small, wild, small, small,
)  # fmt: skip


@fuzz
@given(
    records=st.lists(nodes, min_size=1, max_size=9),
    extents=st.lists(st.tuples(huge, huge, huge), max_size=4),
    xattrs=st.lists(st.tuples(wild, wild, wild, wild), max_size=3),
    heap=st.binary(max_size=40) | st.just(b"abcdefgh"),
)
def test_records_that_make_no_sense(
    tmp_path: Path,
    records: list[tuple[int, ...]],
    extents: list[tuple[int, int, int]],
    xattrs: list[tuple[int, ...]],
    heap: bytes,
) -> None:
    """Cycles, children of two directories, links to links, numbers out of range: a whole index of them."""
    root = list(records[0])
    root[5], root[12] = stat.S_IFDIR | 0o755, max(1, root[12])
    body = [
        b"".join(NODE.pack(*record) for record in (root, *records[1:])),
        b"".join(EXTENT.pack(*extent) for extent in extents),
        b"".join(XATTR.pack(*xattr) for xattr in xattrs),
        heap,
    ]
    starts = [HEADER.size]
    for section in body:
        starts.append(starts[-1] + len(section))
    joined = b"".join(body)
    header = HEADER.pack(MAGIC, len(records), len(extents), len(xattrs), 0, *starts[:4], len(heap), zlib.crc32(joined))
    bounded(str(tmp_path), header + joined, bytes(range(256)) * 40, "plain")


names = st.sampled_from([b"..", b".", b"", b"/", b"a", b"b", b"\0", b"n" * 256, b".wh.a", b".wh..wh..opq", b".wh.."])
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
targets = paths | st.sampled_from([b"/etc/passwd", b"../../../etc", b"a", b"."])
kinds = st.one_of(
    st.builds(lambda path: Entry(path, stat.S_IFDIR | 0o755), paths),
    st.builds(lambda path, size: Entry(path, stat.S_IFREG | 0o644, size=size), paths, huge),
    st.builds(lambda path, target: Entry(path, stat.S_IFLNK | 0o777, target=target), paths, targets),
    st.builds(lambda path, target: Entry(path, 0, hardlink=target), paths, targets),
    st.builds(lambda path, rdev: Entry(path, stat.S_IFBLK | 0o666, rdev=rdev), paths, huge),
    st.builds(lambda path: Entry(path, 0, whiteout=True), paths),
    st.builds(
        lambda path, extents: Entry(path, stat.S_IFREG | 0o644, size=100, extents=tuple(extents)),
        paths,
        st.lists(st.tuples(st.integers(-1, 100), huge, st.integers(-1, 100)), max_size=3),
    ),
)


@fuzz
@given(entries=st.lists(kinds, max_size=8))
def test_archives_that_mean_harm(tmp_path: Path, entries: list[Entry]) -> None:
    writer = IndexWriter()
    for entry in entries:
        try:
            writer.add(entry)
        except LayerError:
            continue
    try:
        writer.write(str(tmp_path / "made"))
    except LayerError:
        return
    bounded(str(tmp_path), (tmp_path / "made").read_bytes(), b"data" * 1000, "plain")
