"""A layer's tar as a directory tree, as the kernel's overlayfs wants a lower layer.

Runs as root of the engine's user namespace, so that it can give files away. Names come from an image and are never
joined to a path: each parent directory is opened with openat2(2) inside the tree (RESOLVE_IN_ROOT, so a symbolic link
of the image leads at most to the tree's own root), and what happens to the last component does not follow links.

Whiteouts become character devices 0/0 and opaque directories get `user.overlay.opaque=y`
(Documentation/filesystems/overlayfs.rst, for mounts with `userxattr`). Device nodes cannot be made in a user
namespace: an empty file takes the place of one, as with Podman. Attributes of directories are set at the end, when
nothing is written into them any more.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import HostError, ImageError
from rootless.image.earlylinks import LinkToNothing
from rootless.image.idrange import IdRange
from rootless.image.removal import remove_tree
from rootless.image.syscalls import syncfs
from rootless.oci.tar import TarEntry
from rootless.syscalls import Resolve, openat2

_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_OPAQUE_XATTR = "user.overlay.opaque"
_OVERLAY_XATTRS = (b"user.overlay.", b"trusted.overlay.")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INSIDE = Resolve.IN_ROOT | Resolve.NO_MAGICLINKS
_LINKS_MAX = 40
_HOLE = 4096
_NO_XATTR = frozenset({errno.EOPNOTSUPP, errno.EPERM, errno.EACCES})


class TreeExtractor:
    """Writes entries and their data below `path`, a new directory that it makes.

    With `squash`, everything belongs to root of the namespace (single-ID mode). Raises ImageError for what the
    archive does wrong, LinkToNothing for a hard link whose target is not there (it may be added again later), and
    HostError for what this machine cannot do. The caller renames the finished tree into place.
    """

    def __init__(self, path: str, *, squash: bool = False) -> None:
        self.notes: list[str] = []
        """One line for each kind of thing that could not be kept as the image has it."""
        self._squash = squash
        self._uids = IdRange("/proc/self/uid_map")
        self._gids = IdRange("/proc/self/gid_map")
        # What is settled at the end, by where it truly is: links on the way are resolved when the entry comes.
        self._directories: dict[bytes, TarEntry] = {}
        self._deleted: dict[bytes, set[bytes]] = {}
        self._parent: tuple[bytes, int, bytes] | None = None
        self._file = -1
        self._extents: list[tuple[int, int]] = []
        self._position = 0
        self._left = 0
        self._entry: TarEntry | None = None
        self._devices = 0
        self._xattrs_lost: set[str] = set()
        try:
            os.mkdir(path, 0o700)
            self._root = os.open(path, _DIRECTORY)
            os.fchmod(self._root, 0o755)
            self._root_length = len(os.readlink(b"/proc/self/fd/%d" % self._root))
        except OSError as error:
            raise HostError(f"cannot create {path}: {error.strerror}") from error

    def close(self) -> None:
        """Let go of all descriptors."""
        self._forget_parent()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def add(self, entry: TarEntry) -> None:
        """Make the entry. The data of a file follows in `write`."""
        try:
            self._finish_file()
            self._add(entry)
        except OSError as error:
            raise self._error(entry.path, error) from error

    def write(self, data: memoryview) -> None:
        """The next stored bytes of the file that was added last; those of a whiteout's marker are dropped."""
        if self._file < 0:
            return
        try:
            while data:
                if not self._left:
                    offset, self._left = self._extents.pop(0)
                    self._position = offset
                part = data[: self._left]
                count = len(part) if _is_hole(part) else os.pwrite(self._file, part, self._position)
                self._position += count
                self._left -= count
                data = data[count:]
        except OSError as error:
            raise self._error(self._entry.path if self._entry else b"", error) from error

    def finish(self) -> None:
        """Whiteouts, then the attributes of directories, the deepest first."""
        try:
            self._finish_file()
            self._forget_parent()
            for path, names in self._deleted.items():
                fd = self._open_directory(path)
                try:
                    for name in names:
                        self._settle_whiteout(fd, name)
                finally:
                    os.close(fd)
            for path, entry in sorted(self._directories.items(), reverse=True):
                fd = self._open_directory(path)
                try:
                    self._attributes(fd, entry)
                finally:
                    os.close(fd)
            syncfs(self._root)  # one call for all files; without it a power cut leaves empty ones behind the rename
            if self._devices:
                self.notes.append(f"{self._devices} device nodes became empty files: a user namespace cannot make them")
            if self._xattrs_lost:
                self.notes.append(f"extended attributes could not be set: {', '.join(sorted(self._xattrs_lost))}")
        except OSError as error:
            raise self._error(b"", error) from error

    def _add(self, entry: TarEntry) -> None:
        self._check_owner(entry)
        path = entry.path
        if not path:
            if not stat.S_ISDIR(entry.mode):
                raise ImageError("the root of a layer is not a directory")
            self._directories[b""] = entry
            return
        parent_path, _, name = path.rpartition(b"/")
        parent, true_parent = self._open_parent(parent_path)
        if name.startswith(_WHITEOUT):
            if name == _OPAQUE:
                os.setxattr(parent, _OPAQUE_XATTR, b"y")
            elif not name.startswith(_WHITEOUT_META):
                deleted = name[len(_WHITEOUT) :]
                if deleted in (b"", b".", b".."):
                    raise ImageError(f"a layer has a malformed whiteout: {os.fsdecode(path)}")
                self._deleted.setdefault(true_parent, set()).add(deleted)
            return
        kind = stat.S_IFMT(entry.mode)
        where = true_parent + b"/" + name if true_parent else name
        if kind == stat.S_IFDIR:
            if self._clear(parent, name, where, keep_directory=True):
                os.mkdir(name, 0o700, dir_fd=parent)
            self._directories[where] = entry
        elif entry.hardlink is not None:
            self._link(entry, parent, name, where)
        elif kind == stat.S_IFREG:
            self._clear(parent, name, where)
            self._file = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent
            )
            self._entry = entry
            self._extents = [(logical, length) for logical, _, length in entry.extents]
            self._left = 0
        elif kind == stat.S_IFLNK:
            self._clear(parent, name, where)
            os.symlink(entry.target, name, dir_fd=parent)
            self._named_attributes(parent, name, entry)
        else:
            self._clear(parent, name, where)
            self._make_special(entry, kind, parent, name)
            self._named_attributes(parent, name, entry)

    def _make_special(self, entry: TarEntry, kind: int, parent: int, name: bytes) -> None:
        if kind != stat.S_IFIFO:
            try:
                os.mknod(name, kind | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)
            except PermissionError:
                self._devices += 1
                os.mknod(name, stat.S_IFREG | 0o600, dir_fd=parent)
            return
        os.mknod(name, kind | 0o600, dir_fd=parent)

    def _link(self, entry: TarEntry, parent: int, name: bytes, where: bytes) -> None:
        assert entry.hardlink is not None
        directory, _, target = entry.hardlink.rpartition(b"/")
        shown = f"hard link {os.fsdecode(entry.path)} in a layer leads to {os.fsdecode(entry.hardlink)}"
        try:
            source = self._open_directory(directory)
        except OSError:
            raise LinkToNothing(f"{shown}, which is not there") from None
        try:
            found = os.stat(target, dir_fd=source, follow_symlinks=False) if target else None
            if found is None or stat.S_ISDIR(found.st_mode):
                raise ImageError(f"{shown}, which is a directory")
            existing = _lstat(name, parent)
            if existing is not None and os.path.samestat(existing, found):
                return
            if existing is not None and stat.S_ISDIR(existing.st_mode):
                # The target may be in the directory that the link replaces.
                kept = b".link-" + os.urandom(16).hex().encode()
                os.link(target, kept, src_dir_fd=source, dst_dir_fd=self._root, follow_symlinks=False)
                self._clear(parent, name, where)
                os.rename(kept, name, src_dir_fd=self._root, dst_dir_fd=parent)
                return
            self._clear(parent, name, where)
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise LinkToNothing(f"{shown}, which is not there") from None
        finally:
            os.close(source)

    def _clear(self, parent: int, name: bytes, where: bytes, *, keep_directory: bool = False) -> bool:
        """Remove what has the name; returns whether nothing has it now."""
        existing = _lstat(name, parent)
        if existing is None:
            return True
        if not stat.S_ISDIR(existing.st_mode):
            os.unlink(name, dir_fd=parent)
            return True
        if keep_directory:
            return False
        remove_tree(b"/proc/self/fd/%d/%s" % (parent, name))
        below = where + b"/"
        for settled in (self._directories, self._deleted):
            for path in [path for path in settled if path == where or path.startswith(below)]:
                settled.pop(path)
        return True

    def _settle_whiteout(self, parent: int, name: bytes) -> None:
        """A deleted name that the layer has itself only hides what is below it: a directory becomes opaque."""
        existing = _lstat(name, parent)
        if existing is None:
            os.mknod(name, stat.S_IFCHR | 0o000, 0, dir_fd=parent)
        elif stat.S_ISDIR(existing.st_mode):
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                os.setxattr(fd, _OPAQUE_XATTR, b"y")
            finally:
                os.close(fd)

    # directories on the way

    def _open_directory(self, path: bytes) -> int:
        """A directory of the tree, through its own links."""
        return openat2(self._root, path or b".", os.O_RDONLY | os.O_DIRECTORY, resolve=_INSIDE)

    def _open_parent(self, path: bytes) -> tuple[int, bytes]:
        """The directory `path`, made where it is missing: a descriptor, kept until another is asked for, and its path
        without links."""
        if self._parent is not None and self._parent[0] == path:
            return self._parent[1:]
        self._forget_parent()
        try:
            fd = self._open_directory(path)
        except FileNotFoundError:
            fd = self._make_directories(path)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise ImageError(f"{os.fsdecode(path)} in a layer is used as a directory and is none") from error
        self._parent = path, fd, self._true_path(fd, path)
        return self._parent[1:]

    def _true_path(self, fd: int, path: bytes) -> bytes:
        """Where a directory of the tree is, from its root."""
        try:
            full = os.readlink(b"/proc/self/fd/%d" % fd)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return path  # too long for /proc to say: taken as it is written
        return full[self._root_length + 1 :]

    def _make_directories(self, path: bytes, followed: int = 0) -> int:
        """Make what is missing of `path`, through links of the layer that lead to nothing yet, as the index does."""
        parts = path.split(b"/")
        fd = os.dup(self._root)
        try:
            for depth in range(1, len(parts) + 1):
                prefix = b"/".join(parts[:depth])
                try:
                    deeper = self._open_directory(prefix)
                except FileNotFoundError:
                    try:
                        os.mkdir(parts[depth - 1], 0o755, dir_fd=fd)
                        deeper = self._open_directory(prefix)
                        os.fchmod(deeper, 0o755)
                    except FileExistsError:
                        if followed >= _LINKS_MAX:
                            raise ImageError(f"{os.fsdecode(prefix)} in a layer leads through too many links") from None
                        target = os.readlink(parts[depth - 1], dir_fd=fd)
                        base = b"" if target.startswith(b"/") else b"/".join(parts[: depth - 1])
                        deeper = self._make_directories(_inside(base, target), followed + 1)
                os.close(fd)
                fd = deeper
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    # attributes

    def _finish_file(self) -> None:
        if self._file < 0:
            return
        assert self._entry is not None
        try:
            os.ftruncate(self._file, self._entry.size)
            self._attributes(self._file, self._entry)
        finally:
            os.close(self._file)
            self._file = -1

    def _attributes(self, fd: int, entry: TarEntry) -> None:
        """Owner first: chown clears setuid bits and file capabilities."""
        if not self._squash:
            os.fchown(fd, entry.uid, entry.gid)
        for name, value in entry.xattrs:
            self._xattr(fd, name, value)
        os.fchmod(fd, stat.S_IMODE(entry.mode))
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _named_attributes(self, parent: int, name: bytes, entry: TarEntry) -> None:
        """The same for what cannot be opened: links, FIFOs, devices."""
        if not self._squash:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISLNK(entry.mode):
            os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=parent)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _xattr(self, fd: int, name: bytes, value: bytes) -> None:
        if name.startswith(_OVERLAY_XATTRS):
            return  # overlayfs would obey them
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in _NO_XATTR:
                raise
            self._xattrs_lost.add(name.decode("utf-8", "replace"))

    def _check_owner(self, entry: TarEntry) -> None:
        if self._squash:
            return
        for number, ids, word in ((entry.uid, self._uids, "user"), (entry.gid, self._gids, "group")):
            if number not in ids:
                table = "/etc/subuid" if word == "user" else "/etc/subgid"
                raise ImageError(
                    f"{os.fsdecode(entry.path)} in a layer belongs to {word} {number}; this user namespace has {ids}",
                    hint=f"ask for a longer range in {table}, or use --storage-driver fuse",
                )

    def _error(self, path: bytes, error: OSError) -> HostError | ImageError:
        where = os.fsdecode(path) or "a layer"
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return ImageError(f"cannot unpack {where}: {error.strerror}")
        hint = (
            "free some space, for example with `rcontain rmi`" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        )
        return HostError(f"cannot unpack {where}: {error.strerror}", hint=hint)


def _is_hole(data: memoryview) -> bool:
    """Whether data is so much of nothing that it is left out of the file: a bomb of zeros costs no disk."""
    return (
        len(data) >= _HOLE
        and not data[0]
        and not data[-1]
        and not bytes(data[:64]).strip(b"\0")
        and (bytes(data) == bytes(len(data)))
    )


def _inside(base: bytes, target: bytes) -> bytes:
    """Where a link in the directory `base` leads, as text; `..` stops at the root, as it does for the kernel."""
    parts = base.split(b"/") if base else []
    for part in target.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _lstat(name: bytes, parent: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
