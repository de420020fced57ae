"""How deleted names and hidden directories are written down, in archives and in directories.

Archives: OCI image spec, layer.md, "Whiteouts". Directories: the kernel's Documentation/filesystems/overlayfs.rst,
"whiteouts and opaque directories", and fuse-overlayfs(1).
"""

from __future__ import annotations

WHITEOUT_PREFIX = b".wh."
WHITEOUT_META_PREFIX = b".wh..wh."
OPAQUE_MARKER = b".wh..wh..opq"
