"""How deleted names and hidden directories are written down, in archives and in directories.

Archives: OCI image spec, layer.md, "Whiteouts". Directories: the kernel's Documentation/filesystems/overlayfs.rst,
"whiteouts and opaque directories", and fuse-overlayfs(1).
"""

from __future__ import annotations

WHITEOUT_PREFIX = b".wh."
WHITEOUT_META_PREFIX = b".wh..wh."
OPAQUE_MARKER = b".wh..wh..opq"

OPAQUE_XATTR = b"user.overlay.opaque"
"""What this package writes; value b"y". The kernel's overlay mounted with `userxattr` reads it."""

OPAQUE_XATTRS = (OPAQUE_XATTR, b"user.fuseoverlayfs.opaque", b"trusted.overlay.opaque")

WHITEOUT_XATTR = b"user.overlay.whiteout"
"""What this package writes where it can make neither devices nor `.wh.` files."""

WHITEOUT_XATTRS = (WHITEOUT_XATTR, b"trusted.overlay.whiteout")
"""An empty regular file with one of these is a whiteout (Linux 6.7); its directory has the opaque value b"x"."""

REDIRECT_XATTRS = (b"user.overlay.redirect", b"trusted.overlay.redirect")
"""A directory that was renamed by an overlay with redirect_dir=on: what is below it has another name."""

METACOPY_XATTRS = (b"user.overlay.metacopy", b"trusted.overlay.metacopy")
"""A file of which an overlay with metacopy=on has copied up the attributes only: its data is elsewhere."""

OPAQUE_VALUE = b"y"

_PRIVATE_PREFIXES = (b"user.fuseoverlayfs.", b"trusted.overlay.", b"user.containers.")
_ESCAPED_PREFIX = b"user.overlay.overlay."
_OVERLAY_PREFIX = b"user.overlay."


def is_reserved_name(name: bytes) -> bool:
    """Whether a name means something else in a layer, so that no file may have it."""
    return name.startswith(WHITEOUT_PREFIX)


def is_overlay_xattr(name: bytes) -> bool:
    """Whether an overlayfs of the kernel that is mounted with `userxattr` heeds it."""
    return name.startswith(_OVERLAY_PREFIX)


def stored_xattr(name: bytes) -> bytes | None:
    """The name under which a user's attribute is stored; None where users have no business.

    `user.overlay.*` is escaped as the kernel does, so that an overlay can be mounted on top of this one.
    """
    if name.startswith(_PRIVATE_PREFIXES):
        return None
    if is_overlay_xattr(name):
        return _ESCAPED_PREFIX + name[len(_OVERLAY_PREFIX) :]
    return name


def shown_xattr(name: bytes) -> bytes | None:
    """The reverse of `stored_xattr`: None for attributes that are ours."""
    if name.startswith(_ESCAPED_PREFIX):
        return _OVERLAY_PREFIX + name[len(_ESCAPED_PREFIX) :]
    if is_overlay_xattr(name) or name.startswith(_PRIVATE_PREFIXES):
        return None
    return name
