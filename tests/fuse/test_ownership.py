"""Owners, modes and devices in every way they can be kept, against a model; and real mounts with a single id."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse import workdir as workdir_module
from fuse.ids import IdMap, Owners
from fuse.inodes import Directory
from fuse.layers import Layer
from fuse.layers.directory import DirectoryLayer
from fuse.ledger import LEDGER, Ledger
from fuse.override import CONTAINERS_XATTR, Override, detect
from fuse.ownership import Overrides, Ownership
from fuse.server import Adapter, MountOptions, serve
from fuse.syscalls import MNT_DETACH, NFS, birth_ns, umount
from fuse.tree import Tree
from fuse.upper import StoredUpper, UpperDirectory
from tests.fuse.archives import archive, directory, hardlink, regular, symlink
from tests.fuse.namespaces import in_namespace, is_whiteout, mounted, read, started, write
from tests.fuse.paths import Paths
from tests.kit.userns import in_namespaces

ONLY_ROOT = Owners(IdMap(((0, 0, 1),)), IdMap(((0, 0, 1),)))
NULL = os.makedev(1, 3)
CAPABILITY = b"security.capability"
PING = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep, revision 2


def layer(folder: str, name: str = "layer") -> Layer:
    return archive(
        folder,
        name,
        [
            directory("", 0o755),
            directory("d", 0o2775, uid=7, gid=8),
            (regular("d/file", 0o4750, uid=33, gid=34), b"content"),
            symlink("d/link", "file", uid=5, gid=6),
            (regular("one", 0o400, uid=40, gid=41), b"hard"),
            hardlink("two", "one"),
            regular("empty", 0o604, uid=12),
            device("null", stat.S_IFCHR, rdev=NULL, gid=9),
            device("disk", stat.S_IFBLK, rdev=os.makedev(8, 300), uid=1, gid=6),
            device("fifo", stat.S_IFIFO, uid=2),
            device("socket", stat.S_IFSOCK, gid=3),
        ],
    )


def device(path: str, kind: int, **fields: object):
    return regular(path, **fields).__class__(path.encode(), kind | 0o666, **fields)  # type: ignore[arg-type]


@dataclass(eq=False)
class Thing:
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    unsynced: bool = False

    def __repr__(self) -> str:
        return f"{self.mode:o} {self.uid}:{self.gid} {self.rdev:x}"


class Model:
    """Paths to things; the names of one file share theirs."""

    def __init__(self) -> None:
        hard = Thing(stat.S_IFREG | 0o400, 40, 41)
        self.things = {
            b"d": Thing(stat.S_IFDIR | 0o2775, 7, 8),
            b"d/file": Thing(stat.S_IFREG | 0o4750, 33, 34),
            b"d/link": Thing(stat.S_IFLNK | 0o777, 5, 6),
            b"one": hard,
            b"two": hard,
            b"empty": Thing(stat.S_IFREG | 0o604, 12, 0),
            b"null": Thing(stat.S_IFCHR | 0o666, 0, 9, NULL),
            b"disk": Thing(stat.S_IFBLK | 0o666, 1, 6, os.makedev(8, 300)),
            b"fifo": Thing(stat.S_IFIFO | 0o666, 2, 0),
            b"socket": Thing(stat.S_IFSOCK | 0o666, 0, 3),
        }

    def get(self, path: bytes) -> Thing:
        self.parent(path)
        if path not in self.things:
            raise OSError(errno.ENOENT, "")
        return self.things[path]

    def parent(self, path: bytes) -> None:
        parent = os.path.dirname(path)
        if parent and not stat.S_ISDIR(self.get(parent).mode):
            raise OSError(errno.ENOTDIR, "")

    def touch(self, path: bytes) -> None:
        """What is copied up for a change at a path."""
        while path:
            for name, thing in self.things.items():
                if name == path or thing is self.things.get(path):
                    thing.unsynced = True
            path = os.path.dirname(path)

    def make(self, path: bytes, mode: int, rdev: int, uid: int, gid: int) -> None:
        self.parent(path)
        if path in self.things:
            raise OSError(errno.EEXIST, "")
        parent = self.things.get(os.path.dirname(path))
        if parent is not None and parent.mode & stat.S_ISGID:
            gid = parent.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        self.things[path] = Thing(mode, uid, gid, rdev)
        self.touch(path)

    def chown(self, path: bytes, uid: int | None, gid: int | None) -> None:
        thing = self.get(path)
        thing.uid, thing.gid = thing.uid if uid is None else uid, thing.gid if gid is None else gid
        if not stat.S_ISDIR(thing.mode):
            thing.mode &= ~(stat.S_ISUID | (stat.S_ISGID if thing.mode & stat.S_IXGRP else 0))
        self.touch(path)

    def chmod(self, path: bytes, mode: int) -> None:
        thing = self.get(path)
        if stat.S_ISLNK(thing.mode):
            raise OSError(errno.EOPNOTSUPP, "")
        thing.mode = stat.S_IFMT(thing.mode) | mode
        self.touch(path)

    def link(self, path: bytes, new: bytes) -> None:
        thing = self.get(path)
        if stat.S_ISDIR(thing.mode):
            raise OSError(errno.EPERM, "")
        self.parent(new)
        if new in self.things:
            raise OSError(errno.EEXIST, "")
        self.things[new] = thing
        self.touch(path)
        self.touch(new)

    def unlink(self, path: bytes) -> None:
        thing = self.get(path)
        if stat.S_ISDIR(thing.mode):
            raise OSError(errno.EISDIR, "")
        self.touch(path)
        del self.things[path]

    def rename(self, old: bytes, new: bytes, exchange: bool) -> None:
        source = self.get(old)
        self.parent(new)
        target = self.things.get(new)
        if new.startswith(old + b"/") or old.startswith(new + b"/"):
            raise OSError(errno.EINVAL, "")
        if exchange:
            if target is None:
                raise OSError(errno.ENOENT, "")
        elif target is source:
            return
        elif target is not None:
            if stat.S_ISDIR(target.mode) != stat.S_ISDIR(source.mode):
                raise OSError(errno.EISDIR, "")
            if any(path.startswith(new + b"/") for path in self.things):
                raise OSError(errno.ENOTEMPTY, "")
        for path in list(self.things):
            if (path + b"/").startswith((old + b"/", new + b"/")):
                self.touch(path)
        moved = {path: self.things.pop(path) for path in list(self.things) if (path + b"/").startswith(old + b"/")}
        back = {path: self.things.pop(path) for path in list(self.things) if (path + b"/").startswith(new + b"/")}
        self.things.update({new + path[len(old) :]: thing for path, thing in moved.items()})
        if exchange:
            self.things.update({old + path[len(new) :]: thing for path, thing in back.items()})
        self.touch(old)
        self.touch(new)


class Overlay(Paths):
    """The tree by path."""

    def __init__(self, folder: str, ownership: Ownership, owners: Owners | None = None) -> None:
        self.folder, self.ownership, self.owners = folder, ownership, owners
        for name in ("upper", "work"):
            os.mkdir(f"{folder}/{name}")
        layer(folder).close()
        self.mount(ownership)

    def mount(self, ownership: Ownership = Ownership.AUTO) -> None:
        """The second time, what was written decides."""
        upper = UpperDirectory(self.folder + "/upper", self.folder + "/work", ownership=ownership)
        assert upper.ownership is self.ownership
        self.tree = Tree([layer(self.folder)], upper, layer_owners=self.owners)

    def make(self, path: bytes, mode: int, rdev: int, uid: int, gid: int) -> None:
        at = self.parent(path)
        if stat.S_ISDIR(mode):
            made = self.tree.mkdir(*at, mode, uid, gid)
        elif stat.S_ISLNK(mode):
            made = self.tree.symlink(*at, b"target", uid, gid)
        else:
            made = self.tree.mknod(*at, mode, rdev, uid, gid)
        made.lookups += 1
        assert made.mode == stat.S_IFMT(mode)

    def chown(self, path: bytes, uid: int | None, gid: int | None) -> None:
        self.tree.chown(self.get(path), uid, gid)

    def chmod(self, path: bytes, mode: int) -> None:
        self.tree.chmod(self.get(path), mode)

    def link(self, path: bytes, new: bytes) -> None:
        inode = self.get(path)
        if isinstance(inode, Directory):
            raise OSError(errno.EPERM, "")
        self.tree.link(inode, *self.parent(new)).lookups += 1

    def unlink(self, path: bytes) -> None:
        self.get(path)
        self.tree.unlink(*self.parent(path))

    def rename(self, old: bytes, new: bytes, exchange: bool) -> None:
        self.get(old)
        self.tree.rename(*self.parent(old), *self.parent(new), 2 if exchange else 0)

    def sync(self) -> None:
        self.tree.fsync_directory(self.tree.root)

    def remount(self) -> None:
        self.tree.close()
        self.mount()


paths = st.sampled_from([b"d", b"d/file", b"d/link", b"one", b"two", b"empty", b"null", b"disk", b"fifo", b"socket",
                         b"new", b"d/new", b"e", b"e/new", b"e/file"])  # fmt: skip
ids = st.integers(0, 60) | st.sampled_from([0, os.geteuid()])
maybe = st.none() | ids
modes = st.sampled_from([0o644, 0o4755, 0o2711, 0o1777, 0, 0o100, 0o7777])
kinds = st.sampled_from(
    [
        (stat.S_IFREG, 0),
        (stat.S_IFDIR, 0),
        (stat.S_IFIFO, 0),
        (stat.S_IFSOCK, 0),
        (stat.S_IFCHR, NULL),
        (stat.S_IFBLK, os.makedev(7, 1)),
    ]
)
made = st.tuples(paths, kinds, modes, ids, ids).map(lambda a: ("make", a[0], a[1][0] | a[2], a[1][1], a[3], a[4]))
changes = st.one_of(
    made,
    st.tuples(paths, ids, ids).map(lambda a: ("make", a[0], stat.S_IFLNK | 0o777, 0, a[1], a[2])),
    st.tuples(st.just("chown"), paths, maybe, maybe),
    st.tuples(st.just("chown"), paths, maybe, maybe),
    st.tuples(st.just("chmod"), paths, modes),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("rename"), paths, paths, st.booleans()).filter(lambda a: a[1] != a[2]),
    st.tuples(st.just("remount")),
    st.tuples(st.just("sync")),
)


def outcome(action: Callable[..., None], *arguments: object) -> int:
    try:
        action(*arguments)
    except OSError as error:
        return error.errno or -1
    return 0


def compare(overlay: Overlay, model: Model, *, synced_only: bool = False) -> None:
    found = dict(overlay.walk())
    assert sorted(found) == sorted(model.things)
    for path, thing in model.things.items():
        shown = overlay.tree.attributes(found[path])
        if synced_only and thing.unsynced:
            continue
        expected = (thing.mode, thing.uid, thing.gid, thing.rdev)
        assert (shown.mode, shown.uid, shown.gid, shown.rdev) == expected, path
        assert found[path].mode == stat.S_IFMT(thing.mode)


def steps_against_model(overlay: Overlay, steps: list[tuple[object, ...]]) -> Model:
    model = Model()
    compare(overlay, model)
    for what, *arguments in steps:
        found = outcome(getattr(overlay, str(what)), *arguments)
        if what == "sync":
            for thing in model.things.values():
                thing.unsynced = False
        elif what != "remount":
            before = copy.copy(model.things)
            expected = outcome(getattr(model, str(what)), *arguments)
            assert bool(found) == bool(expected), (what, arguments, errno.errorcode.get(found), before)
        compare(overlay, model)
    return model


def run_model(ownership: Ownership, examples: int) -> None:
    @settings(deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(steps=st.lists(changes, max_size=12))
    def run(steps: list[tuple[object, ...]]) -> None:
        with tempfile.TemporaryDirectory(prefix="rc-owners-") as folder:
            before = len(os.listdir("/proc/self/fd"))
            overlay = Overlay(folder, ownership)
            try:
                model = steps_against_model(overlay, steps)
                overlay.remount()
                compare(overlay, model)
            finally:
                overlay.tree.close()
            stored_truth(folder, ownership, model)
            assert len(os.listdir("/proc/self/fd")) == before
            assert set(os.listdir(folder + "/work")) <= {LEDGER.decode()}
            subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)

    run()


def stored_truth(folder: str, ownership: Ownership, model: Model) -> None:
    """What a reader of the upper finds; and that the host gains nothing by the real files."""
    stored = StoredUpper(folder + "/upper", folder + "/work")
    assert stored.ownership is ownership
    todo = [b"."]
    while todo:
        where = todo.pop()
        for name, place in stored.entries(where):
            if not place.mode:
                continue
            path = name if where == b"." else where + b"/" + name
            thing = model.things[path]
            assert stat.S_IFMT(place.mode) == stat.S_IFMT(thing.mode)
            at = stored.find(where, name)
            assert at is not None
            assert stat.S_IFMT(at.mode) == stat.S_IFMT(thing.mode)
            shown = stored.attributes(place.ref)
            assert (shown.mode, shown.uid, shown.gid, shown.rdev) == (thing.mode, thing.uid, thing.gid, thing.rdev)
            if stat.S_ISDIR(place.mode):
                todo.append(path)
            real = os.stat(os.fsencode(folder) + b"/upper/" + path, follow_symlinks=False)
            if ownership is not Ownership.REAL and not stat.S_ISLNK(real.st_mode):
                assert real.st_mode & 0o600 == 0o600
                assert not real.st_mode & 0o7000
    stored.close()


@pytest.mark.parametrize("ownership", [Ownership.XATTR, Ownership.FILE])
def test_every_change_is_kept_without_any_privilege(ownership: Ownership) -> None:
    run_model(ownership, 120)


@pytest.mark.userns
@pytest.mark.parametrize("ownership", [Ownership.REAL, Ownership.XATTR, Ownership.FILE])
def test_every_change_is_kept_in_a_user_namespace(ownership: Ownership) -> None:
    in_namespaces(lambda: run_model(ownership, 60))


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(changes, max_size=14), data=st.data())
def test_a_side_file_that_is_cut_says_nothing_wrong_of_what_was_synced(
    steps: list[tuple[object, ...]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory(prefix="rc-owners-") as folder:
        overlay = Overlay(folder, Ownership.FILE)
        path = os.path.join(folder, "work", LEDGER.decode())
        model = Model()
        synced = os.stat(path).st_size
        for what, *arguments in steps:
            failed = outcome(getattr(overlay, str(what)), *arguments)
            if what == "sync":
                synced = os.stat(path).st_size
                for thing in model.things.values():
                    thing.unsynced = False
            elif what != "remount":
                if not failed:
                    getattr(model, str(what))(*arguments)
                for path_there in (argument for argument in arguments if isinstance(argument, bytes)):
                    model.touch(path_there)  # also what failed may have copied something up
        compare(overlay, model)
        overlay.tree.close()
        with open(path, "r+b") as file:
            file.truncate(data.draw(st.integers(synced, os.stat(path).st_size)))
        overlay.mount()
        compare(overlay, model, synced_only=True)
        overlay.tree.close()
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)


# What is written, and what decides.


def test_podmans_attribute_is_written_and_marks_the_directory(tmp_path: object) -> None:
    folder = str(tmp_path)
    overlay = Overlay(folder, Ownership.XATTR, ONLY_ROOT)
    overlay.chmod(b"d/file", 0o4711)
    overlay.chmod(b"null", 0o600)
    overlay.tree.close()
    upper = folder + "/upper"
    assert os.getxattr(upper + "/d/file", CONTAINERS_XATTR) == b"33:34:4711:file"
    assert os.getxattr(upper + "/d", CONTAINERS_XATTR) == b"7:8:2775:dir"
    assert os.getxattr(upper + "/null", CONTAINERS_XATTR) == b"0:9:0600:char-1-3"
    assert stat.S_IMODE(os.stat(upper + "/d/file").st_mode) == 0o711
    assert detect(upper.encode()) == CONTAINERS_XATTR
    assert not os.listdir(folder + "/work")
    again = UpperDirectory(upper, folder + "/work")
    assert again.ownership is Ownership.XATTR
    again.close()


def test_a_symbolic_link_of_another_owner_is_in_the_side_file(tmp_path: object) -> None:
    folder = str(tmp_path)
    overlay = Overlay(folder, Ownership.XATTR)
    overlay.chown(b"d/link", 50, None)
    overlay.remount()
    shown = overlay.tree.attributes(overlay.get(b"d/link"))
    assert (shown.uid, shown.gid) == (50, 6)
    overlay.unlink(b"d/link")
    overlay.tree.close()
    assert os.listdir(folder + "/work") == [LEDGER.decode()]
    stored = StoredUpper(folder + "/upper", folder + "/work")
    assert stored.ownership is Ownership.XATTR
    stored.close()


def test_a_record_is_not_taken_for_another_file_of_the_same_number(tmp_path: object) -> None:
    folder = str(tmp_path)
    overlay = Overlay(folder, Ownership.FILE)
    overlay.make(b"new", stat.S_IFREG | 0o644, 0, 55, 56)
    overlay.tree.close()
    number = os.stat(folder + "/upper/new").st_ino
    work_fd = os.open(folder + "/work", os.O_PATH)
    ledger = Ledger(work_fd)
    record = ledger.get(number)
    assert record is not None
    assert record.birth_ns == birth_ns(os.fsencode(folder) + b"/upper/new") > 0
    ledger.put(number, record.birth_ns - 1, record.override)
    ledger.close()
    os.close(work_fd)
    overlay.mount()
    shown = overlay.tree.attributes(overlay.get(b"new"))
    assert (shown.uid, shown.gid) == (os.getuid(), os.getgid())
    overlay.tree.close()


def test_a_number_that_is_used_again_has_nothing_of_the_file_before(tmp_path: object) -> None:
    folder = str(tmp_path)
    os.mkdir(folder + "/work")
    work_fd = os.open(folder + "/work", os.O_PATH)
    path = folder.encode() + b"/file"
    for ownership, name in ((Ownership.REAL, None), (Ownership.XATTR, CONTAINERS_XATTR)):
        overrides = Overrides(ownership, name, work_fd=work_fd)
        os.symlink("x", path)
        overrides.put(path, stat.S_IFLNK, Override(5, 6, stat.S_IFLNK | 0o777))
        status = os.lstat(path)
        assert overrides.of(path, status) is not None
        overrides.vanishing(status.st_ino, path)
        overrides.made_really(status.st_ino)
        assert overrides.of(path, status) is None
        overrides.put(path, stat.S_IFLNK, Override(5, 6, stat.S_IFLNK | 0o777))
        held = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        nameless = b"/proc/self/fd/%d" % held
        os.unlink(path)
        overrides.vanishing(status.st_ino, path)
        overrides.settle()
        assert overrides.of(nameless, status, follow=True) is not None
        overrides.made_really(status.st_ino)
        assert overrides.of(nameless, status, follow=True) is None
        os.close(held)
        overrides.close()
    os.close(work_fd)


def test_owners_of_open_files_without_a_name(tmp_path: object) -> None:
    for ownership in (Ownership.XATTR, Ownership.FILE):
        folder = f"{tmp_path}/{ownership.value}"
        os.mkdir(folder)
        overlay = Overlay(folder, ownership)
        tree = overlay.tree
        inode, lower = overlay.get(b"empty"), overlay.get(b"one")
        for each in (inode, lower):
            tree.open(each, os.O_RDONLY)
        tree.chown(inode, 51, 52)
        overlay.unlink(b"empty")
        for path in (b"one", b"two"):
            overlay.unlink(path)
        overlay.make(b"new", stat.S_IFREG | 0o600, 0, 1, 1)
        tree.chmod(lower, 0o4711)
        assert (tree.attributes(inode).uid, tree.attributes(inode).gid) == (51, 52)
        assert (tree.attributes(lower).uid, tree.attributes(lower).mode) == (40, stat.S_IFREG | 0o4711)
        tree.chown(inode, None, 53)
        assert (tree.attributes(inode).uid, tree.attributes(inode).gid) == (51, 53)
        for each in (inode, lower):
            tree.release(each)
        tree.close()


def test_layers_with_overrides(tmp_path: object) -> None:
    folder = str(tmp_path)
    os.makedirs(folder + "/low/d")
    for name, value in (
        (".", "0:0:0755:dir"),
        ("d", "3:4:1777"),
        ("file", "33:34:4755:file"),
        ("null", "0:0:0666:char-1-3"),
        ("plain", ""),
    ):
        path = f"{folder}/low/{name}"
        if not os.path.isdir(path):
            write("", path)
        if value:
            os.setxattr(path, CONTAINERS_XATTR, value.encode())
    below = DirectoryLayer(folder + "/low", override=detect(os.fsencode(folder + "/low")))
    tree = Tree([below])
    shown = {name: tree.attributes(tree.adopt(tree.root, name, places)) for name, places in tree.listing(tree.root)}
    assert (shown[b"d"].mode, shown[b"d"].uid, shown[b"d"].gid) == (stat.S_IFDIR | 0o1777, 3, 4)
    assert (shown[b"file"].mode, shown[b"file"].uid) == (stat.S_IFREG | 0o4755, 33)
    assert (shown[b"null"].mode, shown[b"null"].rdev) == (stat.S_IFCHR | 0o666, NULL)
    assert shown[b"plain"].uid == os.getuid()
    assert tree.lookup(tree.root, b"null").mode == stat.S_IFCHR
    tree.close()


@pytest.mark.userns
def test_what_the_directory_was_written_with_decides() -> None:
    """The place may change: more ids, another file system."""

    def work(single: bool) -> list[Ownership]:
        chosen = []
        for name in ("fresh", "real", "xattr", "file", "devices"):
            with tempfile.TemporaryDirectory(prefix="rc-owners-") as folder:
                os.mkdir(folder + "/upper")
                os.mkdir(folder + "/work")
                if name == "devices":
                    upper = UpperDirectory(folder + "/upper", folder + "/work", ownership=Ownership.REAL)
                    tree = Tree([layer(folder)], upper, layer_owners=ONLY_ROOT if single else None)
                    tree.chmod(tree.lookup(tree.root, b"null"), 0o600)
                    tree.close()
                elif name != "fresh":
                    UpperDirectory(folder + "/upper", folder + "/work", ownership=Ownership(name)).close()
                again = UpperDirectory(folder + "/upper", folder + "/work")
                chosen.append(again.ownership)
                if name == "devices":
                    assert again.attributes(b"null").mode == stat.S_IFCHR | 0o600
                again.close()
        return chosen

    kinds = Ownership
    many = in_namespaces(lambda: work(False))
    assert many == [kinds.REAL, kinds.REAL, kinds.XATTR, kinds.FILE, kinds.REAL]
    one = in_namespaces(lambda: work(True), single_id=True)
    assert one == [kinds.XATTR, kinds.XATTR, kinds.XATTR, kinds.FILE, kinds.REAL]


# Through the kernel.


@pytest.mark.fuse
@pytest.mark.userns
@in_namespace(single=True)
def test_with_a_single_id_the_true_owners_are_stored(folder: str) -> None:
    only = ((0, 0, 1),)
    with mounted(folder, [layer(folder)], uidmap=only, gidmap=only) as root:
        status = os.stat(root + "/d/file")
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o4750)
        os.chmod(root + "/d/file", 0o6711)
        assert stat.S_IMODE(os.stat(root + "/d/file").st_mode) == 0o6711
        os.chmod(root + "/null", 0o620)
        status = os.stat(root + "/null")
        assert (status.st_mode, status.st_rdev) == (stat.S_IFCHR | 0o620, NULL)
        os.rename(root + "/disk", root + "/d/disk")
        with pytest.raises(OSError) as error:
            os.chown(root + "/d/file", 2, 2)  # the kernel knows no such id here, and does not ask
        assert error.value.errno == errno.EINVAL
        os.chown(root + "/one", 0, 0)
        os.unlink(root + "/d/link")
        os.mkfifo(root + "/pipe", 0o640)
        write("fresh", root, "fresh")
    assert is_whiteout(folder, "upper/d/link")
    for path, value in (
        ("d/file", b"33:34:6711:file"),
        ("null", b"0:9:0620:char-1-3"),
        ("d/disk", b"1:6:0666:block-8-300"),
        ("one", b"0:0:0400:file"),
        ("pipe", b"0:0:0640:pipe"),
    ):
        assert os.getxattr(f"{folder}/upper/{path}", CONTAINERS_XATTR) == value
    with mounted(folder, [layer(folder)], uidmap=only, gidmap=only) as root:
        assert stat.S_IMODE(os.stat(root + "/d/file").st_mode) == 0o6711
        assert os.stat(root + "/null").st_rdev == NULL
        assert stat.S_ISFIFO(os.stat(root + "/pipe").st_mode)
        assert stat.S_ISBLK(os.stat(root + "/d/disk").st_mode)
        assert read(root, "two") == "hard"
        assert read(root, "fresh") == "fresh"
        assert os.listxattr(root + "/d/file") == []


@pytest.mark.fuse
@pytest.mark.userns
@in_namespace
def test_with_many_ids_everything_is_shown_where_nothing_can_be_real(folder: str) -> None:
    """As on NFS: a directory that was once marked stays so where chown(2) would work."""
    for ownership in (Ownership.XATTR, Ownership.FILE):
        here = f"{folder}/{ownership.value}"
        for name in ("upper", "work"):
            os.makedirs(f"{here}/{name}")
        UpperDirectory(here + "/upper", here + "/work", ownership=ownership).close()
        keep_id = ((0, 1, 1000), (1000, 0, 1), (1001, 1001, 1000))
        with mounted(here, [layer(here)], uidmap=keep_id, gidmap=keep_id) as root:
            assert os.stat(root + "/d/file").st_uid == 34
            os.chown(root + "/d/file", 0, 1001)
            os.chmod(root + "/d/file", 0o4755)
            os.lchown(root + "/d/link", 11, 12)
            os.mkdir(root + "/mine")
            os.symlink("x", root + "/mine/link")
            os.mkfifo(root + "/mine/fifo")
            os.chown(root + "/mine", 21, 22)
            os.chmod(root + "/disk", 0o640)
            for name in ("one", "empty") if ownership is Ownership.XATTR else ():
                os.setxattr(f"{root}/{name}", CAPABILITY, PING)
                assert os.listxattr(f"{root}/{name}") == ["security.capability"]
            if ownership is Ownership.XATTR:
                write("more", root, "empty")
                assert os.listxattr(root + "/empty") == []
        with mounted(here, [layer(here)], uidmap=keep_id, gidmap=keep_id) as root:
            found = {
                path: (status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode)))
                for path in ("d/file", "d/link", "mine", "mine/link", "mine/fifo", "disk")
                for status in [os.lstat(f"{root}/{path}")]
            }
            assert found == {
                "d/file": (0, 1001, "0o4755"),
                "d/link": (11, 12, "0o777"),
                "mine": (21, 22, "0o755"),
                "mine/link": (0, 0, "0o777"),
                "mine/fifo": (0, 0, "0o644"),
                "disk": (2, 7, "0o640"),
            }
        stored = StoredUpper(here + "/upper", here + "/work")
        assert ownership is Ownership.FILE or CAPABILITY in stored.xattrs(b"one")
        assert stored.attributes(b"d/file").uid == 1000  # what the image calls the id that is 0 here
        assert stored.attributes(b"mine").uid == 20
        stored.close()
        assert os.stat(here + "/upper/d/file").st_uid == 0


@pytest.mark.fuse
@pytest.mark.userns
@in_namespace
def test_devices_of_a_layer_can_be_changed_where_none_can_be_made(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        os.chmod(root + "/null", 0o600)
        os.chown(root + "/disk", 5, 6)
        os.rename(root + "/disk", root + "/disc")
        os.link(root + "/null", root + "/zero")
    with mounted(folder, [layer(folder)]) as root:
        for name in ("null", "zero"):
            status = os.stat(f"{root}/{name}")
            assert (status.st_mode, status.st_rdev, status.st_nlink) == (stat.S_IFCHR | 0o600, NULL, 2)
        status = os.stat(root + "/disc")
        assert (status.st_mode, status.st_uid, status.st_gid) == (stat.S_IFBLK | 0o666, 5, 6)
        assert status.st_rdev == os.makedev(8, 300)
    assert stat.S_ISREG(os.stat(folder + "/upper/null").st_mode)
    assert os.stat(folder + "/upper/disc").st_uid == 0


@pytest.mark.fuse
@pytest.mark.userns
@in_namespace
def test_open_files_leave_nothing_in_their_directory_on_nfs(folder: str) -> None:
    """There an open file is not removed but renamed; so it is held by a name in the work directory."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as open_files:
        patch.setattr(workdir_module, "file_system_type", lambda fd: NFS)
        root = open_files.enter_context(mounted(folder, [layer(folder)]))
        os.mkdir(root + "/new")
        with (
            open(root + "/new/file", "w+") as file,
            open(root + "/one", "r+") as hard,
            open(root + "/new/file") as both,
        ):
            os.link(root + "/new/file", root + "/new/again")
            for text in (file, hard):
                text.write("written")
                text.flush()
            os.unlink(root + "/new/file")
            os.unlink(root + "/new/again")
            os.rename(root + "/two", root + "/one")
            os.unlink(root + "/one")
            os.rmdir(root + "/new")
            file.seek(0)
            assert (file.read(), both.read()) == ("written", "written")
            file.write(" more")
            file.flush()
            assert both.read() == " more"
            os.fchmod(file.fileno(), 0o604)
            assert stat.S_IMODE(os.fstat(both.fileno()).st_mode) == 0o604
            hard.seek(0)
            assert hard.read() == "written"
        assert sorted(os.listdir(folder + "/upper")) == ["one", "two"]
        assert os.listdir(folder + "/work") == []


@pytest.mark.parametrize("ownership", [Ownership.XATTR, Ownership.FILE])
def test_a_file_made_without_a_name_has_its_owner_when_it_gets_one(tmp_path: object, ownership: Ownership) -> None:
    overlay = Overlay(str(tmp_path), ownership)
    tree = overlay.tree
    directory, name = overlay.parent(b"d/named")
    inode = tree.tmpfile(directory, 0o4640, 21, 22)
    inode.lookups += 1
    shown = tree.attributes(inode)
    assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFREG | 0o4640, 21, 8)
    tree.chown(inode, 23, None)
    tree.link(inode, directory, name)
    overlay.remount()
    shown = overlay.tree.attributes(overlay.get(b"d/named"))
    assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFREG | 0o640, 23, 8)
    overlay.tree.close()


def test_capabilities_are_set_apart_as_fuse_overlayfs_does(tmp_path: object) -> None:
    folder = str(tmp_path)
    overlay = Overlay(folder, Ownership.XATTR)
    tree = overlay.tree
    apart = b"user.containers.override_security.capability"
    path = folder + "/upper/d/file"

    def given() -> bool:
        inode = overlay.get(b"d/file")
        tree.set_xattr(inode, CAPABILITY, PING)
        assert tree.xattr(inode, CAPABILITY) == os.getxattr(path, apart) == PING
        assert tree.xattr_names(inode) == [CAPABILITY]
        return True

    def gone() -> bool:
        inode = overlay.get(b"d/file")
        with pytest.raises(OSError) as error:
            tree.xattr(inode, CAPABILITY)
        return error.value.errno == errno.ENODATA and apart.decode() not in os.listxattr(path)

    inode = overlay.get(b"d/file")
    assert given()
    tree.chown(inode, 1, 1)
    assert gone() and given()
    tree.write(inode, 0, b"x")
    assert gone() and given()
    tree.write(inode, 0, b"x")
    assert gone() and given()
    tree.truncate(inode, 0)
    assert gone() and given()
    tree.chmod(inode, 0o700)
    stored = StoredUpper(folder + "/upper", folder + "/work")
    assert stored.xattrs(b"d/file")[CAPABILITY] == stored.xattr(b"d/file", CAPABILITY) == PING
    stored.close()
    overlay.remount()
    tree = overlay.tree
    assert tree.xattr(overlay.get(b"d/file"), CAPABILITY) == PING
    tree.open(overlay.get(b"d/file"), os.O_RDWR)
    assert tree.xattr(overlay.get(b"d/file"), CAPABILITY) == PING
    tree.write(overlay.get(b"d/file"), 0, b"x")
    assert gone() and given()
    tree.remove_xattr(overlay.get(b"d/file"), CAPABILITY)
    assert gone()
    tree.release(overlay.get(b"d/file"))
    tree.close()


@pytest.mark.fuse
@pytest.mark.userns
@pytest.mark.parametrize("ownership", [Ownership.XATTR, Ownership.FILE])
def test_a_killed_server_leaves_owners_that_were_given(ownership: Ownership, adapter: Adapter) -> None:
    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="rc-owners-") as folder:
            for name in ("upper", "work", "merged"):
                os.mkdir(f"{folder}/{name}")
            UpperDirectory(folder + "/upper", folder + "/work", ownership=ownership).close()
            made = 0
            for steps in (3, 10, 24, 1, 40):
                lowest = [layer(folder, f"layer{steps}")]
                server = started(
                    lambda ready_fd, lowers=lowest: serve(
                        folder + "/merged",
                        lowers,
                        folder + "/upper",
                        folder + "/work",
                        options=MountOptions(adapter=adapter),
                        ready_fd=ready_fd,
                    )
                )
                lowest[0].close()
                root = folder + "/merged/"
                for number in range(made):
                    found = os.lstat(f"{root}file{number}")
                    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (number % 50, 7, 0o4711)
                assert os.stat(root + "d/file").st_uid == 33
                killer = os.fork()
                if killer == 0:  # in the middle of what the other does
                    while os.path.lexists(f"{root}file{made + steps}") is False:
                        pass
                    os.kill(server, signal.SIGKILL)
                    os._exit(0)
                try:
                    for number in range(made, made + 10_000):
                        path = f"{root}scratch{number}"
                        write("", path)
                        os.chown(path, number % 50, 7)
                        os.chmod(path, 0o4711)
                        os.rename(path, f"{root}file{number}")
                        made = number + 1
                except OSError as error:
                    assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT, errno.EIO)
                for pid in (server, killer):
                    os.waitpid(pid, 0)
                umount(root.rstrip("/").encode(), MNT_DETACH)
            shutil.rmtree(folder + "/upper")

    in_namespaces(work)
