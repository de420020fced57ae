"""The adapter between the kernel's own protocol and the tree: a request in, the bytes of its answer out.

Nobody else writes to what lies below, so the kernel may keep names, missing names, attributes, directory listings and
data for as long as it likes. What it keeps, it does not ask again: that is where the speed is.

The kernel is told that there is no OPEN, OPENDIR, CREATE, FLUSH or ACCESS here. It then opens files without a word,
keeps what it has read of them, caches whole directories, and makes a file by MKNOD. So requests name files by node
alone, and the tree keeps a few open behind them (`View.read`). A kernel that cannot do without is answered in earnest.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import stat
import struct
from collections.abc import Callable

from fuse import protocol
from fuse.acl import ACCESS
from fuse.errors import LayerError
from fuse.inodes import ROOT_NUMBER, Directory, Inode
from fuse.listings import Listings
from fuse.mounting import MountOptions
from fuse.negotiation import agree
from fuse.protocol import Header, InitFlag, InitRequest, Opcode, ProtocolError, SetattrFlag
from fuse.tree import Tree

log = logging.getLogger("fuse")

Reply = bytes | list[bytes | memoryview] | None
"""A message, or its parts for writev(2); None where none is expected."""

Handler = Callable[[int, int, tuple[int, ...]], Reply]
"""Of the node, the length of the message, and its header."""

_BODY = protocol.IN_HEADER.size
_DONE = b""
_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _KILL_SUIDGID = (
    int(flag)
    for flag in (
        *(SetattrFlag.MODE, SetattrFlag.UID, SetattrFlag.GID, SetattrFlag.SIZE),
        *(SetattrFlag.ATIME, SetattrFlag.MTIME, SetattrFlag.KILL_SUIDGID),
    )
)  # numbers, because an operation on an IntFlag makes a new one, which takes thirty times as long
_OWNERS = _UID | _GID
_OWNED = struct.Struct("=IIII")
_OWNED_AT = 40 + 60
"""Where mode, nlink, uid and gid are in an entry."""
_TIMES_KEPT = int(SetattrFlag.MTIME | SetattrFlag.CTIME | SetattrFlag.FH)
_SMALL = 8192
"""Bytes that are sooner copied than written in two parts."""
_MAX_PARTS = 1000
"""writev(2) takes 1024."""
_OUT = protocol.OUT_HEADER

MAX_PAGES = 256
"""1 MiB: more is not faster, and takes more memory."""


class Requests:
    """Answers requests that are in `buffer`, which belongs to whoever reads them from the kernel.

    `max_pages` is how much a READ or WRITE may be about, and the buffer has room for that.
    """

    def __init__(self, tree: Tree, options: MountOptions, *, max_pages: int = MAX_PAGES) -> None:
        self._tree = tree
        self._inodes = tree.inodes
        self._inode = tree.inode
        self._valid = protocol.timeout(options.timeout)
        self._attr_prefix = protocol.ATTR_OUT.pack(*self._valid, 0)
        self._missing = protocol.ENTRY_OUT.pack(0, 0, self._valid[0], 0, self._valid[1], 0, *[0] * 16)
        self._options = options
        self._setxattr_in = protocol.SETXATTR_IN
        self._max_pages = max_pages
        self._listings = Listings(tree, self._valid, self._render)
        self._glimpsed = tree.glimpses.lookups
        self._most = max_pages * protocol.PAGE
        self.buffer = memoryview(mmap.mmap(-1, self._most + protocol.PAGE))
        self.started = False
        """Whether the kernel has introduced itself."""
        self._handlers: dict[int, tuple[Handler, int]] = {Opcode.INIT: (self._init, _BODY + 16)}

    def _serving(self) -> dict[int, tuple[Handler, int]]:
        """Opcodes to handlers, with the length that their requests have at least."""
        table: dict[Opcode, tuple[Handler, int]] = {
            Opcode.LOOKUP: (self._lookup, 2),
            Opcode.FORGET: (self._forget, 8),
            Opcode.BATCH_FORGET: (self._batch_forget, 8),
            Opcode.GETATTR: (self._getattr, 0),
            Opcode.SETATTR: (self._setattr, protocol.SETATTR_IN.size),
            Opcode.READLINK: (self._readlink, 0),
            Opcode.SYMLINK: (self._symlink, 4),
            Opcode.MKNOD: (self._mknod, protocol.MKNOD_IN.size + 2),
            Opcode.MKDIR: (self._mkdir, protocol.MKDIR_IN.size + 2),
            Opcode.UNLINK: (self._unlink, 2),
            Opcode.RMDIR: (self._rmdir, 2),
            Opcode.RENAME: (self._rename, protocol.RENAME_IN.size + 4),
            Opcode.RENAME2: (self._rename2, protocol.RENAME2_IN.size + 4),
            Opcode.LINK: (self._link, protocol.LINK_IN.size + 2),
            Opcode.READ: (self._read, protocol.READ_IN.size),
            Opcode.WRITE: (self._write, protocol.WRITE_IN.size),
            Opcode.STATFS: (self._statfs, 0),
            Opcode.FSYNC: (self._fsync, protocol.FSYNC_IN.size),
            Opcode.FSYNCDIR: (self._fsyncdir, protocol.FSYNC_IN.size),
            Opcode.SETXATTR: (self._setxattr, self._setxattr_in.size + 2),
            Opcode.GETXATTR: (self._getxattr, protocol.GETXATTR_IN.size + 2),
            Opcode.LISTXATTR: (self._listxattr, protocol.GETXATTR_IN.size),
            Opcode.REMOVEXATTR: (self._removexattr, 2),
            Opcode.READDIR: (self._readdir, protocol.READ_IN.size),
            Opcode.READDIRPLUS: (self._readdirplus, protocol.READ_IN.size),
            Opcode.FALLOCATE: (self._fallocate, protocol.FALLOCATE_IN.size),
            Opcode.COPY_FILE_RANGE: (self._copy_file_range, protocol.COPY_FILE_RANGE_IN.size),
            Opcode.COPY_FILE_RANGE_64: (self._copy_file_range_64, protocol.COPY_FILE_RANGE_IN.size),
            Opcode.LSEEK: (self._lseek, protocol.LSEEK_IN.size),
            Opcode.TMPFILE: (self._tmpfile, protocol.CREATE_IN.size),
            Opcode.IOCTL: (self._ioctl, protocol.IOCTL_IN.size),
            Opcode.INTERRUPT: (self._interrupt, 8),
            Opcode.DESTROY: (self._destroy, 0),
        }
        return {int(code): (handler, _BODY + least) for code, (handler, least) in table.items()}

    def answer(self, length: int) -> Reply:
        """The answer to the request in the first `length` bytes of the buffer."""
        if length < _BODY:
            log.error("a request of %d bytes is shorter than its header", length)
            return None
        header = protocol.IN_HEADER.unpack_from(self.buffer)
        opcode = header[1]
        found = self._handlers.get(opcode)
        if found is None:
            return _OUT.pack(16, -errno.ENOSYS, header[2])
        handler, least = found
        try:
            if length < least or length != header[0]:
                raise ProtocolError(f"{length} bytes")
            body = handler(header[3], length, header)
        except OSError as error:
            return _OUT.pack(16, -(error.errno or errno.EIO), header[2])
        except (LayerError, ProtocolError) as error:
            log.error("%s of node %d: %s", _word(opcode), header[3], error)
        except Exception:
            log.exception("%s failed", Header._make(header[:7]))
        else:
            if isinstance(body, bytes):
                return _OUT.pack(16 + len(body), 0, header[2]) + body
            if body is None:
                return None
            if len(body) == 1:
                part = body[0]
                head = _OUT.pack(16 + len(part), 0, header[2])
                return head + part if len(part) <= _SMALL else [head, part]
            if len(body) > _MAX_PARTS:
                body = [b"".join(body)]
            length = 16 + sum([len(part) for part in body])
            return [_OUT.pack(length, 0, header[2]), *body]
        return _OUT.pack(16, -errno.EIO, header[2])

    def failure(self, number: int) -> bytes:
        """An answer to the request in the buffer that is nothing but an errno."""
        return _OUT.pack(16, -number, protocol.IN_HEADER.unpack_from(self.buffer)[2])

    def rest(self) -> None:
        """Nothing happens: give back memory that is not needed."""
        self._listings.rest()

    # The beginning and the end.

    def _init(self, _node: int, length: int, _header: tuple[int, ...]) -> bytes:
        offered = InitRequest.parse(self.buffer[_BODY:length])
        if offered.major != protocol.MAJOR or offered.minor < protocol.OLDEST_MINOR:
            log.error("the kernel speaks FUSE %d.%d, which is too old", offered.major, offered.minor)
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        agreed = agree(offered, self._options, acls=self._tree.keeps_acls, max_pages=self._max_pages)
        flags = agreed.flags
        self._tree.acls = bool(flags & InitFlag.POSIX_ACL)
        if flags & InitFlag.SETXATTR_EXT:
            self._setxattr_in = protocol.SETXATTR_EXT_IN
        self._handlers = self._serving()
        if not flags & InitFlag.NO_OPEN_SUPPORT:
            self._handlers[Opcode.OPEN] = (self._open, _BODY + protocol.OPEN_IN.size)
            self._handlers[Opcode.RELEASE] = (self._release, _BODY)
        if not flags & InitFlag.NO_OPENDIR_SUPPORT:
            self._handlers[Opcode.OPENDIR] = (self._opendir, _BODY + protocol.OPEN_IN.size)
            self._handlers[Opcode.RELEASEDIR] = (self._release, _BODY)
        if flags & InitFlag.WRITEBACK_CACHE:  # what the kernel has not written yet would look like a hole here
            del self._handlers[Opcode.LSEEK]
        if not self._options.xattrs:
            for opcode in (Opcode.SETXATTR, Opcode.GETXATTR, Opcode.LISTXATTR, Opcode.REMOVEXATTR):
                del self._handlers[opcode]
        elif self._tree.beneath and not self._tree.may_have_xattrs:
            del self._handlers[Opcode.GETXATTR]
        if not self._options.durable:
            del self._handlers[Opcode.FSYNC], self._handlers[Opcode.FSYNCDIR]
        self.started = True
        return agreed.to_bytes()

    def _destroy(self, _node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        return _DONE

    def _interrupt(self, _node: int, _length: int, _header: tuple[int, ...]) -> None:
        """What it is about is answered already: there is one request at a time."""

    # Names.

    def _directory(self, node: int) -> Directory:
        inode = self._inodes.get(node)
        if inode.__class__ is Directory:
            return inode
        raise OSError(errno.ESTALE if inode is None else errno.ENOTDIR, "")

    def _render(self, inode: Inode) -> bytes:
        rendered = inode.reply = protocol.entry(inode.number, self._valid, self._tree.attributes(inode))
        return rendered

    def _known(self, inode: Inode) -> bytes:
        """The answer to a request that makes the kernel know a file."""
        rendered = inode.reply or self._render(inode)
        inode.lookups += 1
        return rendered

    def _lookup(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        try:
            inode = self._tree.glimpse(self._directory(node), bytes(self.buffer[_BODY : length - 1]))
        except FileNotFoundError:
            return self._missing
        if isinstance(inode, tuple):
            number, attributes = inode
            self._glimpsed[number] += 1
            return protocol.entry(number, self._valid, attributes)
        rendered = inode.reply or self._render(inode)
        inode.lookups += 1
        return rendered

    def _forget(self, node: int, _length: int, _header: tuple[int, ...]) -> None:
        self._forget_one(node, protocol.FORGET_IN.unpack_from(self.buffer, _BODY)[0])

    def _batch_forget(self, _node: int, length: int, _header: tuple[int, ...]) -> None:
        count = protocol.BATCH_FORGET_IN.unpack_from(self.buffer, _BODY)[0]
        start = _BODY + protocol.BATCH_FORGET_IN.size
        if start + count * protocol.FORGET_ONE.size > length:
            raise ProtocolError("it forgets more than it names")
        for node, lookups in protocol.FORGET_ONE.iter_unpack(
            self.buffer[start : start + count * protocol.FORGET_ONE.size]
        ):
            self._forget_one(node, lookups)

    def _forget_one(self, node: int, lookups: int) -> None:
        inode = self._inodes.get(node)
        if node == ROOT_NUMBER:
            return
        if inode is None:
            self._tree.glimpses.forget(node, lookups)
            return
        if inode.__class__ is Directory:
            self._listings.forget(inode)
        self._tree.forget(inode, lookups)

    def _mknod(self, node: int, length: int, header: tuple[int, ...]) -> bytes:
        mode, rdev, umask, _ = protocol.MKNOD_IN.unpack_from(self.buffer, _BODY)
        name = protocol.name_in(self.buffer, _BODY + protocol.MKNOD_IN.size, length)
        return self._known(self._tree.mknod(self._directory(node), name, mode, rdev, header[4], header[5], umask))

    def _tmpfile(self, node: int, _length: int, header: tuple[int, ...]) -> bytes:
        _flags, mode, umask, _ = protocol.CREATE_IN.unpack_from(self.buffer, _BODY)
        inode = self._tree.tmpfile(self._directory(node), mode, header[4], header[5], umask)
        return self._known(inode) + protocol.OPEN_OUT.pack(0, protocol.FOPEN_KEEP_CACHE, 0)

    def _mkdir(self, node: int, length: int, header: tuple[int, ...]) -> bytes:
        mode, umask = protocol.MKDIR_IN.unpack_from(self.buffer, _BODY)
        name = protocol.name_in(self.buffer, _BODY + protocol.MKDIR_IN.size, length)
        return self._known(self._tree.mkdir(self._directory(node), name, mode, header[4], header[5], umask))

    def _symlink(self, node: int, length: int, header: tuple[int, ...]) -> bytes:
        name, target = protocol.names_in(self.buffer, _BODY, length)
        return self._known(self._tree.symlink(self._directory(node), name, target, header[4], header[5]))

    def _link(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        (old,) = protocol.LINK_IN.unpack_from(self.buffer, _BODY)
        name = protocol.name_in(self.buffer, _BODY + protocol.LINK_IN.size, length)
        return self._known(self._tree.link(self._inode(old), self._directory(node), name))

    def _unlink(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        self._tree.unlink(self._directory(node), protocol.name_in(self.buffer, _BODY, length))
        return _DONE

    def _rmdir(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        self._tree.rmdir(self._directory(node), protocol.name_in(self.buffer, _BODY, length))
        return _DONE

    def _rename(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        (new,) = protocol.RENAME_IN.unpack_from(self.buffer, _BODY)
        old_name, new_name = protocol.names_in(self.buffer, _BODY + protocol.RENAME_IN.size, length)
        self._tree.rename(self._directory(node), old_name, self._directory(new), new_name)
        return _DONE

    def _rename2(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        new, flags, _ = protocol.RENAME2_IN.unpack_from(self.buffer, _BODY)
        old_name, new_name = protocol.names_in(self.buffer, _BODY + protocol.RENAME2_IN.size, length)
        self._tree.rename(self._directory(node), old_name, self._directory(new), new_name, flags)
        return _DONE

    # Attributes.

    def _getattr(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        inode = self._tree.peek(node)
        return self._attr_prefix + (inode.reply or self._render(inode))[40:]

    def _setattr(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        (valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _) = (
            protocol.SETATTR_IN.unpack_from(self.buffer, _BODY)
        )
        tree, inode = self._tree, self._inode(node)
        if valid & _SIZE:
            tree.truncate(inode, size)
        if valid & _KILL_SUIDGID and not valid & _OWNERS:
            tree.drop_privileges(inode)  # changing an owner does that by itself
        if valid & _OWNERS and not (inode.bare and valid & _OWNERS == _OWNERS and _owned(inode.reply, uid, gid)):
            tree.chown(inode, uid if valid & _UID else None, gid if valid & _GID else None)
        if valid & _MODE:
            tree.chmod(inode, mode)
        if (
            self._options.writeback
            and not valid & ~_TIMES_KEPT
            and tree.attributes(inode).mtime_ns == mtime * 1000000000 + mtime_ns
        ):
            valid = 0  # the kernel keeps the times, and tells them after a link or unlink though only ctime is new
        if valid & (_ATIME | _MTIME):
            tree.set_times(
                inode,
                atime * 1000000000 + atime_ns if valid & _ATIME else None,
                mtime * 1000000000 + mtime_ns if valid & _MTIME else None,
            )
        return self._attr_prefix + (inode.reply or self._render(inode))[40:]

    def _readlink(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        return self._tree.readlink(self._tree.peek(node))

    def _getxattr(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        size, _ = protocol.GETXATTR_IN.unpack_from(self.buffer, _BODY)
        name = protocol.name_in(self.buffer, _BODY + protocol.GETXATTR_IN.size, length)
        return _sized(self._tree.xattr(self._tree.peek(node), name), size)

    def _listxattr(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        size, _ = protocol.GETXATTR_IN.unpack_from(self.buffer, _BODY)
        names = self._tree.xattr_names(self._tree.peek(node))
        return _sized(b"".join([name + b"\0" for name in names]), size)

    def _setxattr(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        layout = self._setxattr_in
        size, flags, *more = layout.unpack_from(self.buffer, _BODY)
        start, end = _BODY + layout.size, length - size
        if end <= start:
            raise ProtocolError("an attribute is longer than the message")
        name = protocol.name_in(self.buffer, start, end)
        inode = self._inode(node)
        self._tree.set_xattr(inode, name, bytes(self.buffer[end:length]), flags)
        if more and more[0] & protocol.SETXATTR_ACL_KILL_SGID and name == ACCESS:
            self._tree.drop_set_gid(inode)
        return _DONE

    def _removexattr(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        self._tree.remove_xattr(self._inode(node), protocol.name_in(self.buffer, _BODY, length))
        return _DONE

    def _statfs(self, _node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        found = self._tree.statfs()
        return protocol.STATFS_OUT.pack(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize & 0xFFFFFFFF, found.f_namemax, found.f_frsize & 0xFFFFFFFF, 0,
        )  # fmt: skip

    # Files.

    def _open(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        """Only for a kernel that cannot open without a word. What is to be truncated is so by a SETATTR."""
        self._inode(node)
        return protocol.OPEN_OUT.pack(0, protocol.FOPEN_KEEP_CACHE, 0)

    def _opendir(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        self._directory(node)
        return protocol.OPEN_OUT.pack(0, protocol.FOPEN_KEEP_CACHE | protocol.FOPEN_CACHE_DIR, 0)

    def _release(self, _node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        return _DONE

    def _read(self, node: int, _length: int, _header: tuple[int, ...]) -> Reply:
        _, offset, size, _, _, _, _ = protocol.READ_IN.unpack_from(self.buffer, _BODY)
        size = min(size, self._most)
        inode = self._inodes.get(node)
        if inode is None:
            return self._tree.glimpsed_parts(node, offset, size)
        return self._tree.read_parts(inode, offset, size)

    def _write(self, node: int, length: int, _header: tuple[int, ...]) -> bytes:
        _, offset, size, flags, _, _, _ = protocol.WRITE_IN.unpack_from(self.buffer, _BODY)
        start = _BODY + protocol.WRITE_IN.size
        if start + size != length:
            raise ProtocolError("a WRITE has not as much data as it says")
        inode = self._inode(node)
        written = self._tree.write(inode, offset, self.buffer[start:length])
        if flags & protocol.WRITE_KILL_SUIDGID:
            self._tree.drop_privileges(inode)
        return protocol.WRITE_OUT.pack(written, 0)

    def _fsync(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        _, flags, _ = protocol.FSYNC_IN.unpack_from(self.buffer, _BODY)
        self._tree.fsync(self._inode(node), data_only=bool(flags & protocol.FSYNC_DATA_ONLY))
        return _DONE

    def _fsyncdir(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        self._tree.fsync_directory(self._directory(node))
        return _DONE

    def _fallocate(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        _, offset, length, mode, _ = protocol.FALLOCATE_IN.unpack_from(self.buffer, _BODY)
        self._tree.allocate(self._inode(node), mode, offset, length)
        return _DONE

    def _copied(self, node: int) -> int:
        _, at, target, _, to, length, _ = protocol.COPY_FILE_RANGE_IN.unpack_from(self.buffer, _BODY)
        return self._tree.copy_range(self._inode(node), at, self._inode(target), to, length)

    def _copy_file_range(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        return protocol.WRITE_OUT.pack(self._copied(node), 0)

    def _copy_file_range_64(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        return protocol.COPY_FILE_RANGE_OUT.pack(self._copied(node))

    def _lseek(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        _, offset, whence, _ = protocol.LSEEK_IN.unpack_from(self.buffer, _BODY)
        return protocol.LSEEK_OUT.pack(self._tree.seek(self._inode(node), offset, whence))

    def _ioctl(self, _node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        """None is known here. It is mostly isatty(3) that asks."""
        raise OSError(errno.ENOTTY, "")

    # Directories.

    def _readdir(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        _, offset, size, _, _, _, _ = protocol.READ_IN.unpack_from(self.buffer, _BODY)
        return self._listings.read(self._directory(node), offset, size, plus=False)

    def _readdirplus(self, node: int, _length: int, _header: tuple[int, ...]) -> bytes:
        _, offset, size, _, _, _, _ = protocol.READ_IN.unpack_from(self.buffer, _BODY)
        return self._listings.read(self._directory(node), offset, size, plus=True)


def _sized(value: bytes, size: int) -> bytes:
    """A value for which the caller has `size` bytes of room, or its length where it asks for that with 0."""
    if size == 0:
        return protocol.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "")
    return value


def _owned(rendered: bytes | None, uid: int, gid: int) -> bool:
    """Whether chown(2) to these ids changes nothing: tar does that to each file that it has just made."""
    if rendered is None:
        return False
    mode, _, has_uid, has_gid = _OWNED.unpack_from(rendered, _OWNED_AT)
    return (has_uid, has_gid) == (uid, gid) and not mode & (stat.S_ISUID | stat.S_ISGID)


def _word(opcode: int) -> str:
    return Opcode(opcode).name if opcode in Opcode._value2member_map_ else f"request {opcode}"
