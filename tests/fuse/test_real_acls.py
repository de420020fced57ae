"""POSIX access control lists through a mount: who gets in, what a new file begins with, and what stays."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from fuse.acl import Acl, Tag
from fuse.layers.directory import DirectoryLayer
from fuse.mounting import Adapter
from tests.fuse.archives import archive, directory, regular
from tests.fuse.namespaces import covered, in_namespace, mounted, options_here, read, write
from tests.fuse.test_acl import acl

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
SOMEBODY, OTHER = 1000, 1001


@pytest.fixture
def adapter() -> Adapter:
    """Only that one can."""
    return "device"


def give(path: str, text: str, kind: str = ACCESS) -> None:
    os.setxattr(path, kind, acl(text).to_bytes())


def has(path: str, kind: str = ACCESS) -> str | None:
    """The list in the form of `give`."""
    try:
        value = os.getxattr(path, kind)
    except OSError as error:
        assert error.errno == errno.ENODATA
        return None
    letters = {Tag.USER_OBJ: "u", Tag.USER: "u", Tag.GROUP_OBJ: "g", Tag.GROUP: "g", Tag.MASK: "m", Tag.OTHER: "o"}
    parts = []
    for entry in Acl.parse(value).entries:
        who = str(entry.ident) if entry.tag in (Tag.USER, Tag.GROUP) else ""
        bits = "".join(letter if entry.permissions & bit else "-" for bit, letter in ((4, "r"), (2, "w"), (1, "x")))
        parts.append(f"{letters[entry.tag]}:{who}:{bits}")
    return ",".join(parts)


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def allowed(uid: int, work: Callable[[], object]) -> bool:
    """Whether a user may do that; anything else than a refusal fails the test."""
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            work()
            status = 0
        except PermissionError:
            status = 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1)
    return status == 0


def make_file(path: str, bits: int) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, bits))


def base(folder: str):
    return archive(folder, "base", [directory("", 0o755), directory("dir"), (regular("dir/file", 0o640), b"secret\n")])


@in_namespace
def test_a_list_says_who_gets_in(folder: str) -> None:
    with mounted(folder, [base(folder)], options=options_here(acls=True)) as root:
        path = root + "/dir/file"
        assert has(path) is None
        assert not allowed(SOMEBODY, lambda: read(path))
        give(path, f"u::rw-,u:{SOMEBODY}:r--,g::---,m::r--,o::---")
        assert allowed(SOMEBODY, lambda: read(path))
        assert not allowed(OTHER, lambda: read(path))
        assert not allowed(SOMEBODY, lambda: write("x", path))
        give(path, f"u::rw-,u:{SOMEBODY}:rw-,g::---,g:{OTHER}:r--,m::rw-,o::---")
        assert mode(path) == 0o660
        assert allowed(SOMEBODY, lambda: write("x", path))
        assert allowed(OTHER, lambda: read(path))
        os.removexattr(path, ACCESS)
        assert not allowed(SOMEBODY, lambda: read(path))
        os.removexattr(path, ACCESS)  # once more is no failure
        assert ACCESS not in os.listxattr(path)


@in_namespace
def test_a_list_denies_what_the_mode_allows(folder: str) -> None:
    with mounted(folder, [base(folder)], options=options_here(acls=True)) as root:
        os.chmod(root + "/dir/file", 0o644)
        give(root + "/dir", f"u::rwx,u:{SOMEBODY}:---,g::r-x,m::r-x,o::r-x")
        assert not allowed(SOMEBODY, lambda: read(root, "dir/file"))
        assert not allowed(SOMEBODY, lambda: os.listdir(root + "/dir"))
        assert allowed(OTHER, lambda: read(root, "dir/file"))
        os.rename(root + "/dir", root + "/moved")
        assert not allowed(SOMEBODY, lambda: read(root, "moved/file"))


@in_namespace
def test_lists_of_layers_hold_under_the_kernels_overlay(folder: str) -> None:
    text = f"u::rw-,u:{SOMEBODY}:r--,g::---,m::r--,o::---"
    listed = regular("file", 0o640, xattrs=((ACCESS.encode(), acl(text).to_bytes()),))
    with covered(folder, [archive(folder, "listed", [directory("", 0o755), (listed, b"data")])]) as root:
        path = root + "/file"
        for _ in range(2):
            assert has(path) == text
            assert allowed(SOMEBODY, lambda: read(path)) and not allowed(OTHER, lambda: read(path))
            os.utime(path)  # which copies it up


@in_namespace
def test_chmod_and_the_mask_are_one(folder: str) -> None:
    with mounted(folder, [base(folder)], options=options_here(acls=True)) as root:
        path = root + "/dir/file"
        give(path, f"u::rw-,u:{SOMEBODY}:rw-,g::r--,m::rw-,o::---")
        assert mode(path) == 0o660
        os.chmod(path, 0o640)
        assert has(path) == f"u::rw-,u:{SOMEBODY}:rw-,g::r--,m::r--,o::---"
        assert allowed(SOMEBODY, lambda: read(path))
        assert not allowed(SOMEBODY, lambda: write("x", path))
        os.chmod(path, 0o600)
        assert not allowed(SOMEBODY, lambda: read(path))
        give(path, "u::rw-,g::r--,o::r--")  # which a mode can say as well
        assert (mode(path), has(path)) == (0o644, None)


@in_namespace
def test_new_files_begin_with_the_default_list(folder: str) -> None:
    default = f"u::rwx,u:{SOMEBODY}:rwx,g::r-x,m::rwx,o::---"
    with mounted(folder, [base(folder)], options=options_here(acls=True)) as root:
        old = os.umask(0o077)
        try:
            make_file(root + "/masked", 0o666)
            assert mode(root + "/masked") == 0o600
            give(root + "/dir", default, DEFAULT)
            make_file(root + "/dir/new", 0o666)
            assert mode(root + "/dir/new") == 0o660
            assert has(root + "/dir/new") == f"u::rw-,u:{SOMEBODY}:rwx,g::r-x,m::rw-,o::---"
            assert has(root + "/dir/new", DEFAULT) is None
            os.mkdir(root + "/dir/below", 0o755)
            assert has(root + "/dir/below") == f"u::rwx,u:{SOMEBODY}:rwx,g::r-x,m::r-x,o::---"
            assert has(root + "/dir/below", DEFAULT) == default
            os.mkfifo(root + "/dir/below/fifo", 0o600)
            assert has(root + "/dir/below/fifo") == f"u::rw-,u:{SOMEBODY}:rwx,g::r-x,m::---,o::---"
            os.symlink("new", root + "/dir/link")
            os.unlink(root + "/dir/file")
            make_file(root + "/dir/file", 0o640)  # over a whiteout
            assert has(root + "/dir/file") == f"u::rw-,u:{SOMEBODY}:rwx,g::r-x,m::r--,o::---"
            fd = os.open(root + "/dir", os.O_TMPFILE | os.O_WRONLY, 0o644)
            os.link(f"/proc/self/fd/{fd}", root + "/dir/named", src_dir_fd=fd, follow_symlinks=True)
            os.close(fd)
            assert has(root + "/dir/named") == f"u::rw-,u:{SOMEBODY}:rwx,g::r-x,m::r--,o::---"
            os.removexattr(root + "/dir", DEFAULT)
            make_file(root + "/dir/again", 0o666)
            assert (mode(root + "/dir/again"), has(root + "/dir/again")) == (0o600, None)
            os.mkdir(root + "/dir/again.d")
            assert mode(root + "/dir/again.d") == 0o700
            make_file(root + "/dir/again.d/file", 0o666)
            assert (mode(root + "/dir/again.d/file"), has(root + "/dir/again.d", DEFAULT)) == (0o600, None)
        finally:
            os.umask(old)
        assert allowed(SOMEBODY, lambda: write("x", root, "dir/new"))
        assert not allowed(OTHER, lambda: read(root, "dir/new"))
    with mounted(folder, [base(folder)], options=options_here(acls=True)) as root:
        assert has(root + "/dir/new") == f"u::rw-,u:{SOMEBODY}:rwx,g::r-x,m::rw-,o::---"
        assert allowed(SOMEBODY, lambda: read(root, "dir/new"))
        assert not allowed(OTHER, lambda: read(root, "dir/new"))
        make_file(root + "/dir/below/later", 0o640)
        assert has(root + "/dir/below/later") == f"u::rw-,u:{SOMEBODY}:rwx,g::r-x,m::r--,o::---"


@in_namespace
def test_lists_of_layers_hold_and_are_copied_up(folder: str) -> None:
    low = folder + "/low"
    os.makedirs(low + "/dir")
    for name in ("one", "two", "dir/three"):
        write("secret\n", low, name)
        os.chmod(f"{low}/{name}", 0o640)
        give(f"{low}/{name}", f"u::rw-,u:{SOMEBODY}:rw-,g::---,m::r--,o::---")
    default = f"u::rwx,u:{SOMEBODY}:r--,g::---,m::r-x,o::---"
    os.chmod(low + "/dir", 0o755)
    give(low + "/dir", default, DEFAULT)
    for _ in range(2):  # the second time from the upper
        with mounted(folder, [DirectoryLayer(low)], options=options_here(acls=True)) as root:
            assert has(root + "/one") == f"u::rw-,u:{SOMEBODY}:rw-,g::---,m::r--,o::---"
            assert allowed(SOMEBODY, lambda: read(root, "one"))
            assert not allowed(OTHER, lambda: read(root, "one"))
            os.utime(root + "/one")
            with open(root + "/two", "a") as file:
                file.write("more\n")
            assert has(root + "/one") == has(root + "/two") == f"u::rw-,u:{SOMEBODY}:rw-,g::---,m::r--,o::---"
            assert allowed(SOMEBODY, lambda: read(root, "two"))
            assert not allowed(OTHER, lambda: read(root, "two"))
            assert has(root + "/dir", DEFAULT) == default
            make_file(root + "/dir/new", 0o644)
            assert has(root + "/dir/new") == f"u::rw-,u:{SOMEBODY}:r--,g::---,m::r--,o::---"
            os.unlink(root + "/dir/new")
            os.chmod(root + "/one", 0o660)
            assert has(root + "/one") == f"u::rw-,u:{SOMEBODY}:rw-,g::---,m::rw-,o::---"
            os.chmod(root + "/one", 0o640)
    assert has(folder + "/upper/one") == f"u::rw-,u:{SOMEBODY}:rw-,g::---,m::r--,o::---"
    assert has(folder + "/upper/dir", DEFAULT) == default


@in_namespace
def test_ids_in_lists_of_layers_are_shown_as_owners_are(folder: str) -> None:
    value = acl("u::rw-,u:7:r--,g::---,g:8:r--,m::r--,o::---").to_bytes()
    layer = archive(
        folder,
        "base",
        [
            directory("", 0o755),
            *((regular(name, 0o640, xattrs=((ACCESS.encode(), value),)), b"x") for name in ("a", "b")),
        ],
    )
    ids = [(0, 0, 1), (1, 101, 1000)]
    with mounted(folder, [layer], uidmap=ids, gidmap=ids, options=options_here(acls=True)) as root:
        assert has(root + "/a") == "u::rw-,u:107:r--,g::---,g:108:r--,m::r--,o::---"
        os.chmod(root + "/b", 0o660)
        assert has(root + "/b") == "u::rw-,u:107:r--,g::---,g:108:r--,m::rw-,o::---"
        assert allowed(107, lambda: read(root, "a"))
        assert not allowed(7, lambda: read(root, "a"))


@in_namespace
def test_set_id_bits_and_lists(folder: str) -> None:
    with mounted(folder, [base(folder)], options=options_here(acls=True)) as root:
        path = root + "/dir/file"
        os.chown(path, SOMEBODY, OTHER)
        os.chmod(path, 0o2750)
        with open(path, "r+b", buffering=0) as file:
            file.write(b"1")
            os.chmod(path, 0o2750)
            give(path, "u::rwx,u:7:rwx,g::r-x,m::rwx,o::---")
            assert mode(path) == 0o2770
            file.write(b"2")
            assert mode(path) in (0o770, 0o2770)
        os.chmod(path, 0o2770)
        assert allowed(SOMEBODY, lambda: give(path, "u::rwx,u:7:r-x,g::r-x,m::r-x,o::---"))
        assert mode(path) == 0o750  # its owner is not of its group
        assert not allowed(OTHER, lambda: give(path, "u::rwx,g::rwx,o::rwx"))


@in_namespace
def test_without_lists(folder: str) -> None:
    low = folder + "/low"
    os.mkdir(low)
    write("x", low, "file")
    give(low + "/file", "u::rw-,u:7:r--,g::r--,m::r--,o::---")
    with mounted(folder, [DirectoryLayer(low)], options=options_here()) as root:
        for path in (root + "/file", root):
            with pytest.raises(OSError) as error:
                os.getxattr(path, ACCESS)
            assert error.value.errno == errno.EOPNOTSUPP
        assert os.listxattr(root + "/file") == []
        with pytest.raises(OSError) as error:
            give(root + "/file", "u::rw-,u:7:r--,g::r--,m::r--,o::---")
        assert error.value.errno == errno.EOPNOTSUPP
        old = os.umask(0o027)
        make_file(root + "/new", 0o666)
        os.umask(old)
        assert mode(root + "/new") == 0o640


@in_namespace(single=True)
def test_where_owners_cannot_be_real_there_are_none(folder: str) -> None:
    with mounted(folder, [base(folder)], options=options_here(acls=True)) as root:
        with pytest.raises(OSError) as error:
            os.getxattr(root + "/dir/file", ACCESS)
        assert error.value.errno == errno.EOPNOTSUPP


@in_namespace
def test_what_the_host_gives_to_new_directories_stays_outside(folder: str) -> None:
    give(folder, "u::rwx,u:7:rwx,g::rwx,m::rwx,o::rwx", DEFAULT)
    with mounted(folder, [base(folder)], options=options_here(acls=True)) as root:
        assert (has(root), has(root, DEFAULT)) == (None, None)
        assert mode(root) == 0o755
        make_file(root + "/new", 0o644)
        os.chown(root + "/dir/file", 1, 1)
        os.mkdir(root + "/dir/below")
        for name in ("new", "dir/file", "dir/below"):
            assert has(f"{root}/{name}") is None
        assert has(root + "/dir/below", DEFAULT) is None
