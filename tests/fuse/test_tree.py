"""The tree against the naive model: any layers, any changes, forgetting and remounting in between."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse.entry import Entry
from fuse.inodes import Directory
from fuse.layers import Layer
from fuse.layers.directory import DirectoryLayer
from fuse.ledger import LEDGER
from fuse.ownership import Ownership
from fuse.tree import Tree
from fuse.upper import UpperDirectory
from tests.fuse.archives import archive, hardlink
from tests.fuse.model import File, Folder, Link, Model, Opaque, Whiteout
from tests.fuse.paths import Paths

ME = {"uid": os.geteuid(), "gid": os.getegid()}

NAMES = [b"a", b"b", b"c"]
names = st.sampled_from(NAMES)
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
contents = st.binary(max_size=40)
leaves = st.one_of(
    st.builds(File, contents, st.sampled_from([0o644, 0o600, 0o755])),
    st.builds(Link, st.just(b"somewhere")),
    st.builds(Whiteout),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Folder, st.dictionaries(names, inner, max_size=3), st.sampled_from([0o755, 0o700])),
        st.builds(Opaque, st.dictionaries(names, inner, max_size=2)),
    ),
    max_leaves=8,
)
layers = st.lists(st.dictionaries(names, trees, max_size=3), min_size=1, max_size=3)

changes = st.one_of(
    st.tuples(st.just("create"), paths, contents),
    st.tuples(st.just("write"), paths, st.integers(0, 50), contents, st.booleans()),
    st.tuples(st.just("truncate"), paths, st.integers(0, 60)),
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("symlink"), paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("chmod"), paths, st.sampled_from([0o700, 0o751])),
    st.tuples(st.just("rename"), paths, paths, st.sampled_from([0, 0, 0, 1, 2])),
    st.tuples(st.just("forget")),
    st.tuples(st.just("remount")),
)


class PlainUpper(UpperDirectory):
    """On a file system without device nodes and extended attributes, as NFS may be."""

    def __init__(self, path: str, work: str, *, ownership: Ownership) -> None:
        super().__init__(path, work, ownership=ownership)
        self.on_nfs = True

    def _probe_devices(self, _scratch: bytes) -> bool:
        return False

    def set_opaque_xattr(self, _path: bytes) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


class NestedUpper(UpperDirectory):
    """In another overlay, where nobody makes devices 0/0 or `.wh.` files."""

    def _probe_devices(self, _scratch: bytes) -> bool:
        return False

    def _probe_attributes(self) -> bool:
        return True


class Overlay(Paths):
    """The tree by path, as the kernel would use it."""

    def __init__(
        self,
        folder: str,
        specs: list[dict[bytes, object]],
        *,
        archives: bool,
        upper: type[UpperDirectory] = UpperDirectory,
        later: type[UpperDirectory] | None = None,
        ownership: Ownership = Ownership.REAL,
    ) -> None:
        """`later`: of mounts after the first."""
        self.upper = upper
        self.later = later or upper
        self.ownership = ownership
        self.folder = folder
        self.specs = specs
        self.archives = archives
        self.mounts = 0
        for name in ("upper", "work"):
            os.mkdir(os.path.join(folder, name))
        if not archives:
            for number, spec in enumerate(specs):
                os.mkdir(f"{folder}/layer{number}")
                _extract(f"{folder}/layer{number}".encode(), spec)
        self.mount()

    def mount(self) -> None:
        self.mounts += 1
        made: list[Layer] = []
        for number, spec in enumerate(self.specs):
            if self.archives:
                made.append(archive(self.folder, f"{self.mounts}-{number}", _entries(b"", spec)))
            else:
                made.append(DirectoryLayer(f"{self.folder}/layer{number}"))
        self.tree = Tree(made, self.open_upper())

    def open_upper(self) -> UpperDirectory:
        kind = self.upper if self.mounts == 1 else self.later
        return kind(self.folder + "/upper", self.folder + "/work", ownership=self.ownership)

    def create(self, path: bytes, content: bytes) -> None:
        inode = self.tree.create(*self.parent(path), 0o644, **ME)
        inode.lookups += 1
        self.tree.write(inode, 0, content)
        self.tree.release(inode)

    def write(self, path: bytes, offset: int, data: bytes, truncate: bool) -> None:
        inode = self.get(path)
        if inode.mode != stat.S_IFREG:
            raise OSError(errno.EISDIR, "")
        self.tree.open(inode, os.O_WRONLY | (os.O_TRUNC if truncate else 0))
        if data:
            self.tree.write(inode, offset, data)
        else:
            self.tree.truncate(inode, max(offset, self.tree.attributes(inode).size))
        self.tree.release(inode)

    def truncate(self, path: bytes, size: int) -> None:
        inode = self.get(path)
        if inode.mode != stat.S_IFREG:
            raise OSError(errno.EISDIR, "")
        self.tree.truncate(inode, size)

    def mkdir(self, path: bytes) -> None:
        self.tree.mkdir(*self.parent(path), 0o755, **ME).lookups += 1

    def symlink(self, path: bytes) -> None:
        self.tree.symlink(*self.parent(path), b"target", **ME).lookups += 1

    def link(self, path: bytes, new: bytes) -> None:
        inode = self.get(path)
        if isinstance(inode, Directory):
            raise OSError(errno.EPERM, "")
        self.tree.link(inode, *self.parent(new)).lookups += 1

    def unlink(self, path: bytes) -> None:
        self.get(path)
        self.tree.unlink(*self.parent(path))

    def rmdir(self, path: bytes) -> None:
        self.get(path)
        self.tree.rmdir(*self.parent(path))

    def chmod(self, path: bytes, mode: int) -> None:
        inode = self.get(path)
        if inode.mode == stat.S_IFLNK:
            raise OSError(errno.EOPNOTSUPP, "")
        self.tree.chmod(inode, mode)

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        source = self.get(old)
        self.tree.rename(*self.parent(old), *self.parent(new), flags)
        assert source.number in self.tree.inodes

    def forget(self) -> None:
        """The kernel forgets everything."""
        for inode in list(self.tree.inodes.values()):
            if inode is not self.tree.root:
                self.tree.forget(inode, inode.lookups)
        assert list(self.tree.inodes) == [1]
        assert not self.tree.root.children

    def remount(self) -> None:
        self.tree.close()
        self.mount()


def change(model: Model, what: str, arguments: tuple[object, ...]) -> None:
    if what == "create":
        path, content = arguments
        model.add(path, File(content))  # type: ignore[arg-type]
    elif what == "mkdir":
        model.add(arguments[0], Folder())  # type: ignore[arg-type]
    elif what == "symlink":
        model.add(arguments[0], Link(b"target"))  # type: ignore[arg-type]
    elif what == "write":
        path, offset, data, truncate = arguments
        model.write(path, offset, data, truncate=truncate)  # type: ignore[arg-type]
    elif what not in ("forget", "remount"):
        getattr(model, what)(*arguments)


def outcome(action: object, *arguments: object) -> int:
    try:
        action(*arguments)  # type: ignore[operator]
    except OSError as error:
        return error.errno or -1
    return 0


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    specs=layers,
    steps=st.lists(changes, max_size=12),
    archives=st.booleans(),
    upper=st.sampled_from([UpperDirectory, PlainUpper, NestedUpper]),
    later=st.sampled_from([UpperDirectory, PlainUpper, NestedUpper]),
    ownership=st.sampled_from([Ownership.REAL, Ownership.XATTR, Ownership.FILE]),
)
def test_it_does_what_the_model_does(
    specs: list[dict[bytes, object]],
    steps: list[tuple[object, ...]],
    archives: bool,
    upper: type[UpperDirectory],
    later: type[UpperDirectory],
    ownership: Ownership,
) -> None:
    with tempfile.TemporaryDirectory(prefix="rc-tree-") as folder:
        before = len(os.listdir("/proc/self/fd"))
        overlay = Overlay(folder, specs, archives=archives, upper=upper, later=later, ownership=ownership)
        model = Model(specs)
        compare(overlay, model)
        for step in steps:
            what, *arguments = step
            expected = outcome(change, model, what, arguments)
            found = outcome(getattr(overlay, str(what)), *arguments)
            assert found == expected, (step, errno.errorcode.get(found), errno.errorcode.get(expected))
            compare(overlay, model)
        overlay.remount()
        compare(overlay, model)
        overlay.forget()
        overlay.tree.close()
        assert set(os.listdir(folder + "/work")) <= {LEDGER.decode()}
        assert len(os.listdir("/proc/self/fd")) == before


def compare(overlay: Overlay, model: Model) -> None:
    expected = dict(model.walk())
    found = dict(overlay.walk())
    assert sorted(found) == sorted(expected)
    numbers: dict[int, object] = {}
    for path, thing in expected.items():
        inode = found[path]
        assert numbers.setdefault(inode.number, thing) is thing, path
        attributes = overlay.tree.attributes(inode)
        if isinstance(thing, File):
            assert stat.S_ISREG(attributes.mode)
            assert stat.S_IMODE(attributes.mode) == thing.mode, path
            assert attributes.size == len(thing.content)
            overlay.tree.open(inode, os.O_RDONLY)
            assert overlay.tree.read(inode, 0, 1000) == thing.content, path
            overlay.tree.release(inode)
        elif isinstance(thing, Link):
            assert overlay.tree.readlink(inode) == thing.target
        else:
            assert isinstance(inode, Directory)
            assert stat.S_IMODE(attributes.mode) == thing.mode, path
    assert len(numbers) == len({id(thing) for thing in expected.values()})


def _entries(path: bytes, spec: dict[bytes, object]) -> Iterator[Entry | tuple[Entry, bytes]]:
    for name, thing in spec.items():
        below = path + b"/" + name if path else name
        if isinstance(thing, Whiteout):
            yield Entry(below, 0, whiteout=True)
        elif isinstance(thing, Link):
            yield Entry(below, stat.S_IFLNK | 0o777, target=thing.target, **ME)
        elif isinstance(thing, File):
            entry = Entry(below, stat.S_IFREG | thing.mode, **ME)
            yield (entry, thing.content) if thing.content else entry
        else:
            mode = thing.mode if isinstance(thing, Folder) else 0o755
            yield Entry(below, stat.S_IFDIR | mode, opaque=isinstance(thing, Opaque), **ME)
            yield from _entries(below, thing.children)  # type: ignore[attr-defined]


def _extract(path: bytes, spec: dict[bytes, object]) -> None:
    for name, thing in spec.items():
        below = path + b"/" + name
        if isinstance(thing, Whiteout):
            os.mknod(below, stat.S_IFCHR)
        elif isinstance(thing, Link):
            os.symlink(thing.target, below)
        elif isinstance(thing, File):
            with open(below, "wb") as file:
                file.write(thing.content)
            os.chmod(below, thing.mode)
        else:
            os.mkdir(below)
            _extract(below, thing.children)  # type: ignore[attr-defined]
            if isinstance(thing, Opaque):
                os.setxattr(below, "user.overlay.opaque", b"y")
            else:
                os.chmod(below, thing.mode)  # type: ignore[attr-defined]


def _extract_linked(folder: bytes, entries: list[Entry | tuple[Entry, bytes]]) -> None:
    os.makedirs(folder + b"/d")
    for item in entries[1:]:
        if isinstance(item, tuple):
            with open(folder + b"/" + item[0].path, "wb") as file:
                file.write(item[1])
            os.chmod(folder + b"/" + item[0].path, 0o644)
        else:
            assert item.hardlink is not None
            os.link(folder + b"/" + item.hardlink, folder + b"/" + item.path)


hard = st.lists(
    st.lists(st.sampled_from([b"a", b"b", b"c", b"d/e", b"d/f"]), min_size=2, max_size=4, unique=True), max_size=2
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    links=hard,
    steps=st.lists(changes, max_size=8),
    top=st.dictionaries(names, leaves, max_size=1),
    packed=st.booleans(),
    ownership=st.sampled_from([Ownership.REAL, Ownership.FILE]),
)
def test_hard_links_of_a_layer_stay_together(
    links: list[list[bytes]],
    steps: list[tuple[object, ...]],
    top: dict[bytes, object],
    packed: bool,
    ownership: Ownership,
) -> None:
    """The same with files of several names in the lowest layer."""
    spec: dict[bytes, object] = {}
    folder_d = Folder()
    entries: list[Entry | tuple[Entry, bytes]] = [Entry(b"d", stat.S_IFDIR | 0o755, **ME)]
    taken: set[bytes] = set()
    spec[b"d"] = folder_d
    for number, group in enumerate(links):
        group = [name for name in group if name not in taken]
        taken.update(group)
        thing = File(b"content %d" % number)
        for index, name in enumerate(group):
            parent, _, last = name.rpartition(b"/")
            (folder_d.children if parent else spec)[last] = thing  # type: ignore[index]
            if index == 0:
                entries.append((replace(Entry(name, stat.S_IFREG | 0o644), **ME), thing.content))
            else:
                entries.append(hardlink(name.decode(), group[0].decode()))
    with tempfile.TemporaryDirectory(prefix="rc-tree-") as folder:
        overlay = Overlay.__new__(Overlay)
        overlay.folder = folder
        for name in ("upper", "work"):
            os.mkdir(os.path.join(folder, name))

        if not packed:
            _extract_linked(os.path.join(folder, "directory").encode(), entries)

        def mount() -> None:
            made: list[Layer] = [
                archive(folder, "top", _entries(b"", top)),
                archive(folder, "low", entries) if packed else DirectoryLayer(folder + "/directory"),
            ]
            overlay.tree = Tree(made, UpperDirectory(folder + "/upper", folder + "/work", ownership=ownership))

        overlay.mount = mount  # type: ignore[method-assign]
        overlay.mount()
        model = Model([top, spec])
        compare(overlay, model)
        for step in steps:
            what, *arguments = step
            expected = outcome(change, model, what, arguments)
            assert outcome(getattr(overlay, str(what)), *arguments) == expected, step
            compare(overlay, model)
        overlay.tree.close()
