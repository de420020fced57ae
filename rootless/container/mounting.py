"""A container's root filesystem: the mount, and what has to be there before it.

`overlay` is the kernel's overlayfs over extracted trees; `fuse` is ours over the layers' blobs and indexes; `packed` is
the kernel's over ours, which serves the layers and nothing else. The mount is made in the supervisor's own mount
namespace, so it goes away with the supervisor, however that ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from .. import syscalls
from ..errors import HostError, ImageError
from ..image.model import Layer
from ..image.store import Store
from ..oci.digest import Digest
from .children import Child, fork_child, read_ready
from .containers import Container
from .record import Record, RecordedLayer

ROOTFS = "rootfs"
"""Where it is mounted, in the directory of the living container."""

_LAYERS = "layers"
"""Where the layers of `packed` are, before the kernel's overlay is mounted over them."""


def record_layers(layers: Iterable[Layer]) -> tuple[RecordedLayer, ...]:
    return tuple(
        RecordedLayer(diff_id=str(layer.diff_id), blob=str(layer.blob), media_type=layer.media_type, size=layer.size)
        for layer in layers
    )


def layers_of(record: Record) -> list[Layer]:
    """Bottom first."""
    return [
        Layer(Digest.parse(each.diff_id), Digest.parse(each.blob), each.media_type, each.size) for each in record.layers
    ]


class Mounted:
    """A mounted root filesystem: its path, and the process that serves it, if one does."""

    def __init__(self, path: str, server: Child | None) -> None:
        self.path = path
        self.server = server


async def mount(container: Container, record: Record) -> Mounted:
    """Mounts it at <live>/rootfs. Raises HostError with the reason when that fails, ImageError for a damaged layer."""
    target = f"{container.live}/{ROOTFS}"
    os.makedirs(target, exist_ok=True)
    store = Store(container.settings.data)
    server = None
    if record.storage_driver == "overlay":
        # The kernel takes no directory twice; of a layer that an image has twice the upper one decides.
        trees = list(dict.fromkeys(store.tree_path(layer) for layer in reversed(layers_of(record))))
        mount_overlay(trees, f"{container.path}/upper", f"{container.path}/work", target, volatile=record.remove)
    elif record.storage_driver == "packed":
        server = await _mount_packed(container, record, store, target)
    else:
        server = await _serve_layers(container, record, store, target)
    return Mounted(target, server)


def mount_overlay(
    lowers: Sequence[str], upper: str, work: str, target: str, *, volatile: bool, xino: bool = False
) -> None:
    """With `volatile` nothing is synced, as is right for what is removed at its end: unmounting takes 2 ms less.
    With `xino` all files have one device number, though layers and changes are on different file systems.

    `lowers` is topmost first. Paths go in as descriptors: the options have special letters and fit in a page."""
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in (upper, work, *lowers)]
    try:
        paths = [f"/proc/self/fd/{fd}" for fd in fds]
        options = f"lowerdir={':'.join(paths[2:])},upperdir={paths[0]},workdir={paths[1]},userxattr"
        options += ",volatile" if volatile else ""
        options += ",xino=on" if xino else ""
        syscalls.mount("overlay", target, "overlay", syscalls.MountFlag.NONE, options)
    except OSError as error:
        raise HostError(
            f"cannot mount the root filesystem of {len(lowers)} layers at {target}: {error.strerror}",
            hint="try --storage-driver fuse",
        ) from error
    finally:
        for fd in fds:
            os.close(fd)


async def _mount_packed(container: Container, record: Record, store: Store, target: str) -> Child:
    """The kernel keeps the layers for as long as its overlay is mounted; nobody else need see them."""
    layers, upper, work = f"{container.live}/{_LAYERS}", f"{container.path}/upper", f"{container.path}/work"
    os.makedirs(layers, exist_ok=True)
    server = await _serve_layers(container, record, store, layers, beneath=True)
    try:
        if not os.path.exists(f"{work}/work"):  # which the kernel makes
            _inherit_root(layers, upper)
        mount_overlay([layers], upper, work, target, volatile=record.remove, xino=True)
    finally:
        syscalls.umount(layers, syscalls.UmountFlag.DETACH)
    return server


def _inherit_root(layers: str, upper: str) -> None:
    """Gives an upper directory that is new the attributes of the root below, as if that had been copied up."""
    root = os.stat(layers)
    try:
        os.chown(upper, root.st_uid, root.st_gid)
    except OSError as error:
        raise HostError(
            f"cannot give the container's root directory its owner {root.st_uid}:{root.st_gid}: {error.strerror}",
            hint="use --storage-driver fuse",
        ) from error
    os.chmod(upper, stat.S_IMODE(root.st_mode))
    os.utime(upper, ns=(root.st_atime_ns, root.st_mtime_ns))


def preload() -> None:
    """Imports what serves a root filesystem by FUSE. An engine's first command rarely needs it, and does not wait."""
    import fuse.layers.archive
    import fuse.server  # noqa: F401


async def _serve_layers(
    container: Container, record: Record, store: Store, target: str, *, beneath: bool = False
) -> Child:
    """The layers at `target` by FUSE: under the container's own changes, or `beneath` an overlay of the kernel."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise HostError(
            f"the driver {record.storage_driver} needs /dev/fuse, and you cannot use it here",
            hint="ask for the kernel module fuse and for mode 0666 of /dev/fuse, or use --storage-driver overlay",
        )
    import fuse.server  # not at the top, see preload
    from fuse.errors import LayerError
    from fuse.frames import FrameCache
    from fuse.layers.archive import ArchiveLayer
    from fuse.mounting import MountOptions
    from fuse.syscalls import MountFlag

    cache = FrameCache()
    layers = []
    for layer in reversed(layers_of(record)):
        path, kind = store.layer_data(layer)
        try:
            layers.append(
                ArchiveLayer(store.index_path(layer), path, "frames" if kind == "frames" else "plain", cache=cache)
            )
        except (LayerError, OSError) as error:
            raise ImageError(
                f"cannot open layer {layer.diff_id.short}: {error}",
                hint=f"remove {store.layer_path(layer)}; it is made again from the image",
            ) from error
    ready, writing = os.pipe()

    def serve() -> None:
        fuse.server.serve(
            target,
            layers,
            None if beneath else f"{container.path}/upper",
            None if beneath else f"{container.path}/work",
            uidmap=record.uid_map,
            gidmap=record.gid_map,
            options=MountOptions(flags=MountFlag.RDONLY, beneath=True, acls=True) if beneath else None,
            ready_fd=writing,
            cache=cache,
        )

    child = fork_child("fuse", serve, keep=(writing,), log=f"{container.live}/fuse.log")
    os.close(writing)
    answer = await read_ready(ready)
    if not answer.startswith(b"1"):
        child.reap()
        reason = answer.decode(errors="replace").strip() or "its server has died"
        raise HostError(f"cannot mount the root filesystem at {target} by FUSE: {reason}")
    return child
