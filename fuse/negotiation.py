"""What is agreed on with the kernel in the first message, of what it offers. Pure."""

from __future__ import annotations

from fuse import protocol
from fuse.mounting import MountOptions
from fuse.protocol import InitFlag, InitReply, InitRequest

_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.BIG_WRITES
    | InitFlag.DO_READDIRPLUS
    | InitFlag.ASYNC_DIO
    | InitFlag.NO_OPEN_SUPPORT
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.NO_OPENDIR_SUPPORT
    | InitFlag.EXPLICIT_INVAL_DATA
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.INIT_EXT
)

_ACCESS_CONTROL = InitFlag.POSIX_ACL | InitFlag.DONT_MASK
"""Both or neither: with access control lists, umask(2) is left to us."""

_BACKGROUND = 64
"""Requests that the kernel may send ahead: readahead and writes from its cache."""


def agree(offered: InitRequest, options: MountOptions, *, acls: bool, max_pages: int) -> InitReply:
    """The answer. `acls`: files can have access control lists. `max_pages` is how much a READ or WRITE may be about."""
    flags = offered.flags & _WANTED
    if options.writeback:
        flags |= offered.flags & InitFlag.WRITEBACK_CACHE
    if acls and options.acls and options.xattrs and offered.flags & _ACCESS_CONTROL == _ACCESS_CONTROL:
        flags |= _ACCESS_CONTROL | offered.flags & InitFlag.SETXATTR_EXT
    return InitReply(min(offered.minor, protocol.MINOR), offered.max_readahead, flags, _BACKGROUND, max_pages)
