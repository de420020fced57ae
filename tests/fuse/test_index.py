"""The index: every entry comes back, replaced and linked as extraction would have it; damage is one error."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse.entry import Entry
from fuse.errors import LayerError
from fuse.index import Index, IndexWriter
from tests.fuse.archives import directory, hardlink, regular, symlink, whiteout


def index(tmp_path: Path, *entries: Entry) -> Index:
    writer = IndexWriter()
    for entry in entries:
        writer.add(entry)
    writer.write(str(tmp_path / "index"))
    made = Index(str(tmp_path / "index"))
    made.verify()
    return made


def paths(made: Index) -> list[str]:
    return sorted(entry.path.decode() for entry in made.entries())


names = st.sampled_from([b"a", b"b", b"cc", b"d\xff", b"e.f"])
kinds = st.one_of(
    st.builds(
        lambda mode, uid, size, mtime: Entry(
            b"", stat.S_IFREG | mode, uid, uid + 1, size, mtime, extents=((0, 512, size),) if size else ()
        ),
        st.integers(0, 0o7777),
        st.integers(0, 2**32 - 2),
        st.integers(0, 2**40),
        st.integers(-(2**60), 2**60),
    ),
    st.builds(lambda mode: Entry(b"", stat.S_IFDIR | mode), st.integers(0, 0o7777)),
    st.builds(lambda target: Entry(b"", stat.S_IFLNK | 0o777, target=target), st.binary(min_size=1, max_size=30)),
    st.builds(lambda rdev: Entry(b"", stat.S_IFCHR | 0o666, rdev=rdev), st.integers(1, 2**40)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(items=st.lists(st.tuples(st.lists(names, min_size=1, max_size=3), kinds), max_size=25))
def test_it_holds_what_extraction_would_leave(tmp_path: Path, items: list[tuple[list[bytes], Entry]]) -> None:
    import dataclasses

    writer = IndexWriter()
    expected: dict[bytes, Entry] = {}
    for parts, kind in items:
        path = b"/".join(parts)
        above = [b"/".join(parts[:depth]) for depth in range(1, len(parts))]
        if any(not expected[one].is_dir for one in above if one in expected):
            continue  # through a link, or not to be: other tests
        entry = dataclasses.replace(kind, path=path)
        writer.add(entry)
        for one in above:
            expected.setdefault(one, Entry(one, stat.S_IFDIR | 0o755, implicit=True))
        if not entry.is_dir:
            expected = {key: value for key, value in expected.items() if not key.startswith(path + b"/")}
        expected[path] = entry
    writer.write(str(tmp_path / "index"))
    made = Index(str(tmp_path / "index"))
    made.verify()
    found = {entry.path: entry for entry in made.entries() if entry.path}
    assert found == expected
    for path, entry in expected.items():
        assert made.lookup(path) == entry
    assert made.lookup(b"nothing/here") is None
    made.close()


def test_hard_links_share_one_file(tmp_path: Path) -> None:
    made = index(tmp_path, regular("z", 0o600, size=5), hardlink("a", "z"), hardlink("d/b", "./a"))
    entries = {entry.path: entry for entry in made.entries()}
    assert entries[b"a"].hardlink is None
    assert entries[b"z"].hardlink == entries[b"d/b"].hardlink == b"a"
    assert {entry.size for entry in entries.values() if not entry.is_dir} == {5}
    assert made.node(made.node(made.find(0, b"z") or 0).inode).nlink == 3


def test_a_link_keeps_what_its_target_was(tmp_path: Path) -> None:
    made = index(tmp_path, regular("a", size=1), hardlink("b", "a"), regular("a", size=2))
    assert [made.lookup(path).size for path in (b"a", b"b")] == [2, 1]  # type: ignore[union-attr]


def test_oci_whiteouts_become_flags(tmp_path: Path) -> None:
    made = index(
        tmp_path,
        regular("etc/.wh.passwd"),
        regular("var/.wh..wh..opq"),
        regular(".wh..wh.aufs"),
        regular("kept"),
        regular(".wh.kept"),
        directory("renewed"),
        whiteout("renewed"),
        whiteout("gone"),
    )
    assert paths(made) == ["", "etc", "etc/passwd", "gone", "kept", "renewed", "var"]
    flags = {entry.path: (entry.whiteout, entry.opaque) for entry in made.entries()}
    assert flags[b"etc/passwd"] == flags[b"gone"] == (True, False)
    assert flags[b"var"] == flags[b"renewed"] == (False, True)
    assert flags[b"kept"] == (False, False)


def test_symbolic_links_on_the_way_are_followed_inside(tmp_path: Path) -> None:
    made = index(
        tmp_path,
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
        regular("lib/a"),
        symlink("usr/out", "../../../etc"),
        regular("usr/out/passwd"),
        symlink("abs", "/usr"),
        regular("abs/b"),
    )
    assert {"usr/lib/a", "etc/passwd", "usr/b"} < set(paths(made))


@pytest.mark.parametrize(
    "entries",
    [
        [regular("../escape")],
        [regular("a/../../b")],
        [regular("n" * 256)],
        [regular("nul\0")],
        [regular("p/" * 2100 + "x")],
        [hardlink("a", "missing")],
        [directory("d"), hardlink("a", "d")],
        [hardlink("a", "a")],
        [regular("file"), regular("file/below")],
        [symlink("x", "y"), symlink("y", "x"), regular("x/z")],
        [symlink("empty", "")],
        [regular(".wh.")],
        [regular(".wh...")],
        [regular("r", size=-1)],
        [regular("r", uid=2**32)],
        [regular("r", size=10, extents=((0, 0, 11),))],
        [regular("r", size=10, extents=((5, 0, 5), (0, 0, 5)))],
        [Entry(b"x", 0o644)],
        [regular("")],
    ],
)
def test_what_no_file_system_holds_is_refused(tmp_path: Path, entries: list[Entry]) -> None:
    with pytest.raises(LayerError):
        index(tmp_path, *entries)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4), cut=st.none() | st.integers(0))
def test_damage_is_a_layer_error_or_harmless(tmp_path: Path, changes: list[tuple[int, int]], cut: int | None) -> None:
    index(
        tmp_path,
        directory("a/b", xattrs=((b"user.x", b"y"),)),
        regular("a/c", size=3, extents=((0, 1, 2),)),
        hardlink("a/d", "a/c"),
        symlink("e", "a"),
    ).close()
    path = tmp_path / "index"
    stored = bytearray(path.read_bytes())
    for at, value in changes:
        stored[at % len(stored)] = value
    if cut is not None:
        del stored[cut % len(stored) :]
    path.write_bytes(stored)
    try:
        made = Index(str(path))
    except LayerError:
        return
    for use in (
        lambda: list(made.entries()),
        lambda: made.lookup(b"a/b"),
        lambda: made.lookup(b"a/d"),
        lambda: [made.path(number) for number in range(made.count)],
        made.verify,
    ):
        try:
            use()
        except LayerError:
            pass
    made.close()


def test_the_way_to_a_directory_may_change_between_its_entries(tmp_path: Path) -> None:
    made = index(
        tmp_path,
        directory("one"),
        directory("two"),
        symlink("way", "one"),
        regular("way/a"),
        regular("way/b"),
        symlink("way", "two"),
        regular("way/c"),
        regular("two/d"),
        regular("two", size=1),
        directory("two"),
        regular("two/e"),
    )
    assert paths(made) == ["", "one", "one/a", "one/b", "two", "two/e", "way"]
    with pytest.raises(LayerError):
        index(tmp_path, regular("p/" * 2047 + "x"), regular("p/" * 2047 + "xyz"))


def test_the_root_is_checked_like_any_other(tmp_path: Path) -> None:
    made = index(tmp_path, Entry(b"", stat.S_IFDIR | 0o700, uid=7, xattrs=((b"user.x", b"y"),)))
    assert made.lookup(b"") == Entry(b"", stat.S_IFDIR | 0o700, uid=7, xattrs=((b"user.x", b"y"),))
    with pytest.raises(LayerError):
        index(tmp_path, Entry(b"", stat.S_IFDIR | 0o755, uid=-1))
