"""The adapter between pyfuse3 and the tree: the only place that knows pyfuse3.

Nobody else writes to what lies below, so the kernel may keep names, missing names, attributes and data for as long as
it likes. What it keeps, it does not ask again: that is where the speed is.

A handler never waits for anything but the disk, so none of them suspends: `serve_pyfuse3` runs pyfuse3's main loop
without an event loop, one request after the other.
"""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from fuse.attributes import Attributes
from fuse.device import IDLE_AFTER
from fuse.errors import LayerError
from fuse.inodes import ROOT_NUMBER, Directory, Inode
from fuse.mounting import MountOptions
from fuse.protocol import FOREVER
from fuse.stack import Listing
from fuse.tree import Tree

log = logging.getLogger("fuse")

Result = TypeVar("Result")


def handler(method: Callable[..., Result]) -> Callable[..., Coroutine[Any, Any, Result]]:
    """Make a synchronous method a pyfuse3 handler: every failure becomes the errno that the caller sees."""

    async def handle(self: Overlay, *arguments: Any) -> Result:
        try:
            return method(self, *arguments)
        except FUSEError:
            raise
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        except LayerError as error:
            log.error("%s: %s", method.__name__, error)
        except Exception:  # one broken request must not take the mount down; it is logged in full
            log.exception("%s%r failed", method.__name__, arguments)
        raise FUSEError(errno.EIO)

    handle.__name__ = method.__name__
    return handle


class _OpenDirectory:
    """A directory being read: what was in it when the reading began."""

    __slots__ = ("directory", "listing", "version")

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.listing: Listing | None = None
        self.version = -1


class Overlay(pyfuse3.Operations):  # type: ignore[misc]
    """Serves one tree. `timeout` is in seconds."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: Tree, *, timeout: float = FOREVER, writeback: bool = False, xattrs: bool = True) -> None:
        super().__init__()
        self._tree = tree
        self._timeout = timeout
        self._xattrs = xattrs
        self.enable_writeback_cache = writeback
        self._missing = EntryAttributes()
        self._missing.st_ino = 0
        self._missing.entry_timeout = timeout
        self._directories: dict[int, _OpenDirectory] = {}
        self._next_directory = 1

    def _entry(self, inode: Inode) -> EntryAttributes:
        entry: EntryAttributes | None = inode.reply
        if entry is None:
            entry = inode.reply = self._rendered(inode.number, self._tree.attributes(inode))
        return entry

    def _rendered(self, number: int, attributes: Attributes) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = number
        entry.entry_timeout = entry.attr_timeout = self._timeout
        (entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid, entry.st_rdev, entry.st_size, entry.st_blocks,
         entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns) = attributes  # fmt: skip
        return entry

    def _known(self, inode: Inode) -> EntryAttributes:
        """The reply to a request that makes the kernel know a file."""
        entry = self._entry(inode)
        inode.lookups += 1
        return entry

    def stacktrace(self) -> None:
        """pyfuse3 would log every thread's stack at the wish of whoever sets an attribute on the root."""

    # Names.

    @handler
    def lookup(self, parent: int, name: bytes, _ctx: RequestContext) -> EntryAttributes:
        try:
            found = self._tree.glimpse(self._tree.directory(parent), name)
        except FileNotFoundError:
            return self._missing
        if isinstance(found, Inode):
            return self._known(found)
        self._tree.glimpses.lookups[found[0]] += 1
        return self._rendered(*found)

    async def forget(self, inodes: Sequence[tuple[int, int]]) -> None:
        for number, lookups in inodes:
            inode = self._tree.inodes.get(number)
            if inode is None:
                self._tree.glimpses.forget(number, lookups)
            elif number != ROOT_NUMBER:
                self._tree.forget(inode, lookups)

    @handler
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        directory = self._tree.directory(parent)
        return self._known(self._tree.mknod(directory, name, mode, rdev, ctx.uid, ctx.gid))

    @handler
    def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._known(self._tree.mkdir(self._tree.directory(parent), name, mode, ctx.uid, ctx.gid))

    @handler
    def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._known(self._tree.symlink(self._tree.directory(parent), name, target, ctx.uid, ctx.gid))

    @handler
    def link(self, number: int, parent: int, name: bytes, _ctx: RequestContext) -> EntryAttributes:
        tree = self._tree
        return self._known(tree.link(tree.inode(number), tree.directory(parent), name))

    @handler
    def unlink(self, parent: int, name: bytes, _ctx: RequestContext) -> None:
        self._tree.unlink(self._tree.directory(parent), name)

    @handler
    def rmdir(self, parent: int, name: bytes, _ctx: RequestContext) -> None:
        self._tree.rmdir(self._tree.directory(parent), name)

    @handler
    def rename(self, old: int, old_name: bytes, new: int, new_name: bytes, flags: int, _ctx: RequestContext) -> None:
        tree = self._tree
        tree.rename(tree.directory(old), old_name, tree.directory(new), new_name, flags)

    # Attributes.

    @handler
    def getattr(self, number: int, _ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._tree.peek(number))

    @handler
    def setattr(
        self, number: int, attr: EntryAttributes, fields: SetattrFields, _fh: int | None, _ctx: RequestContext
    ) -> EntryAttributes:
        tree = self._tree
        inode = tree.inode(number)
        if fields.update_size:
            tree.truncate(inode, attr.st_size)
        if fields.update_uid or fields.update_gid:
            tree.chown(inode, attr.st_uid if fields.update_uid else None, attr.st_gid if fields.update_gid else None)
        if fields.update_mode:
            tree.chmod(inode, attr.st_mode)
        if fields.update_atime or fields.update_mtime:
            tree.set_times(
                inode,
                attr.st_atime_ns if fields.update_atime else None,
                attr.st_mtime_ns if fields.update_mtime else None,
            )
        return self._entry(inode)

    @handler
    def readlink(self, number: int, _ctx: RequestContext) -> bytes:
        return self._tree.readlink(self._tree.peek(number))

    @handler
    def getxattr(self, number: int, name: bytes, _ctx: RequestContext) -> bytes:
        if self._tree.beneath and not self._tree.may_have_xattrs:
            raise FUSEError(errno.ENOSYS)  # the kernel stops asking
        self._check_xattrs()
        return self._tree.xattr(self._tree.peek(number), name)

    @handler
    def listxattr(self, number: int, _ctx: RequestContext) -> list[bytes]:
        self._check_xattrs()
        return self._tree.xattr_names(self._tree.peek(number))

    @handler
    def setxattr(self, number: int, name: bytes, value: bytes, _ctx: RequestContext) -> None:
        self._check_xattrs()
        self._tree.set_xattr(self._tree.inode(number), name, value)

    @handler
    def removexattr(self, number: int, name: bytes, _ctx: RequestContext) -> None:
        self._check_xattrs()
        self._tree.remove_xattr(self._tree.inode(number), name)

    def _check_xattrs(self) -> None:
        if not self._xattrs:
            raise FUSEError(errno.ENOSYS)  # the kernel stops asking

    @handler
    def access(self, _number: int, _mode: int, _ctx: RequestContext) -> bool:
        raise FUSEError(errno.ENOSYS)  # the kernel checks permissions itself, and stops asking

    @handler
    def statfs(self, _ctx: RequestContext) -> StatvfsData:
        found = self._tree.statfs()
        result = StatvfsData()
        result.f_bsize, result.f_frsize = found.f_bsize, found.f_frsize
        result.f_blocks, result.f_bfree, result.f_bavail = found.f_blocks, found.f_bfree, found.f_bavail
        result.f_files, result.f_ffree, result.f_favail = found.f_files, found.f_ffree, found.f_favail
        result.f_namemax = found.f_namemax
        return result

    # Files. A file handle is the number of the inode, which cannot go while it is open.

    @handler
    def open(self, number: int, flags: int, _ctx: RequestContext) -> FileInfo:
        self._tree.open(self._tree.inode(number), flags)
        return FileInfo(fh=number, keep_cache=True)

    @handler
    def create(
        self, parent: int, name: bytes, mode: int, _flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        inode = self._tree.create(self._tree.directory(parent), name, mode, ctx.uid, ctx.gid)
        return FileInfo(fh=inode.number, keep_cache=True), self._known(inode)

    @handler
    def read(self, number: int, offset: int, length: int) -> bytes:
        return self._tree.read(self._tree.inodes[number], offset, length)

    @handler
    def write(self, number: int, offset: int, data: bytes) -> int:
        return self._tree.write(self._tree.inodes[number], offset, data)

    @handler
    def flush(self, _number: int) -> None:
        raise FUSEError(errno.ENOSYS)  # nothing is kept back here, and the kernel stops asking

    @handler
    def release(self, number: int) -> None:
        self._tree.release(self._tree.inodes[number])

    @handler
    def fsync(self, number: int, data_only: bool) -> None:
        self._tree.fsync(self._tree.inodes[number], data_only=data_only)

    # Directories.

    @handler
    def opendir(self, number: int, _ctx: RequestContext) -> int:
        handle = self._next_directory
        self._next_directory += 1
        self._directories[handle] = _OpenDirectory(self._tree.directory(number))
        return handle

    @handler
    def readdir(self, handle: int, start: int, token: ReaddirToken) -> None:
        """Positions are 0 and 1 for "." and "..", then the index in the listing plus 2."""
        tree = self._tree
        opened = self._directories[handle]
        directory = opened.directory
        if opened.listing is None or (start == 0 and opened.version != directory.version):
            opened.version = directory.version
            opened.listing = tree.listing(directory)
        reply = pyfuse3.readdir_reply
        if start == 0:
            if not reply(token, b".", self._entry(directory), 1):
                return
            start = 1
        if start == 1:
            if not reply(token, b"..", self._entry(directory.parent or tree.root), 2):
                return
            start = 2
        children, listing = directory.children, opened.listing
        for position in range(start - 2, len(listing)):
            name, places = listing[position]
            inode = children.get(name)
            if inode is None:
                if opened.version == directory.version:
                    found = tree.glimpse_at(directory, name, places)
                else:
                    try:
                        found = tree.glimpse(directory, name)
                    except FileNotFoundError:
                        continue
                if not isinstance(found, Inode):
                    if not reply(token, name, self._rendered(*found), position + 3):
                        return
                    tree.glimpses.lookups[found[0]] += 1
                    continue
                inode = found
            if not reply(token, name, inode.reply or self._entry(inode), position + 3):
                tree.forget(inode, 0)
                return
            inode.lookups += 1

    @handler
    def releasedir(self, handle: int) -> None:
        del self._directories[handle]

    @handler
    def fsyncdir(self, handle: int, _data_only: bool) -> None:
        self._tree.fsync_directory(self._directories[handle].directory)


class _Closed(Exception):
    """Stands for trio.ClosedResourceError."""


class _Lock:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


class _Nursery:
    """Runs its tasks when it is left, one after the other; pyfuse3 starts one."""

    name = "fuse"

    def __init__(self) -> None:
        self._tasks: list[tuple[Callable[..., Awaitable[object]], tuple[object, ...]]] = []

    def start_soon(self, function: Callable[..., Awaitable[object]], *arguments: object, name: object = None) -> None:
        self._tasks.append((function, arguments))

    async def __aenter__(self) -> _Nursery:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            for function, arguments in self._tasks:
                await function(*arguments)


class _Waiter:
    """What pyfuse3 needs of trio, for a loop with one task that blocks in poll(2) while there is nothing to do.

    The way pyfuse3.asyncio plugs in. A trio wake-up for each request would cost more than the request itself.
    """

    Lock = _Lock
    ClosedResourceError = _Closed

    def __init__(self, on_ready: Callable[[], None], on_idle: Callable[[], None]) -> None:
        self._on_ready: Callable[[], None] | None = on_ready
        self._on_idle = on_idle
        self._poll: select.poll | None = None
        self.lowlevel = self
        self.from_thread = self

    def open_nursery(self) -> _Nursery:
        return _Nursery()

    def current_trio_token(self) -> str:
        return "fuse"

    def current_task(self) -> type[_Nursery]:
        return _Nursery

    def notify_closing(self, _fd: int) -> None: ...

    async def wait_readable(self, fd: int) -> None:
        poll = self._poll
        if poll is None:  # the first request is the kernel's INIT
            poll = self._poll = select.poll()
            poll.register(fd, select.POLLIN)
        elif self._on_ready is not None:
            self._on_ready()
            self._on_ready = None
        if not poll.poll(IDLE_AFTER):
            self._on_idle()
            poll.poll()


def _not_of_callers_that_left(record: logging.LogRecord) -> bool:
    """pyfuse3 complains of answers that nobody waits for: to a RELEASE at the end, to an interrupted caller."""
    return not ("fuse_reply_* failed" in str(record.msg) and os.strerror(errno.ENOENT) in record.getMessage())


def serve_pyfuse3(
    device: int, tree: Tree, options: MountOptions, *, on_ready: Callable[[], None], on_idle: Callable[[], None]
) -> None:
    """Answer the requests on a /dev/fuse that is mounted already, until the mount goes away; then close it."""
    overlay = Overlay(tree, timeout=options.timeout, writeback=options.writeback, xattrs=options.xattrs)
    logging.getLogger("pyfuse3").addFilter(_not_of_callers_that_left)
    pyfuse3.trio = _Waiter(on_ready, on_idle)  # type: ignore[attr-defined]
    pyfuse3.init(overlay, f"/dev/fd/{device}", set())
    loop = pyfuse3.main(1, 1)
    try:
        loop.send(None)
    except StopIteration:
        pass
    else:
        raise AssertionError("a handler waited for something")
    finally:
        loop.close()
        pyfuse3.close(unmount=False)
