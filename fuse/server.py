"""One mount, from mount(2) to its end."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
from collections.abc import Sequence
from types import FrameType

from fuse.device import serve_device
from fuse.errors import LayerError
from fuse.frames import FrameCache
from fuse.ids import Owners, Range, owners
from fuse.layers import Layer
from fuse.mounting import Adapter, MountOptions, mount_fuse
from fuse.override import CONTAINERS_XATTR
from fuse.ownership import Ownership
from fuse.syscalls import release_free_memory
from fuse.tree import Tree
from fuse.upper import UpperDirectory

__all__ = ["Adapter", "MountOptions", "serve"]

log = logging.getLogger("fuse")

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Terminated(BaseException):
    """SIGTERM, SIGINT or SIGHUP came."""


def serve(
    mountpoint: str,
    lowers: Sequence[Layer],
    upper: str | None,
    work: str | None,
    *,
    uidmap: Sequence[Range] | None = None,
    gidmap: Sequence[Range] | None = None,
    options: MountOptions | None = None,
    ready_fd: int = -1,
    cache: FrameCache | None = None,
    layer_owners: Owners | None = None,
    upper_owners: Owners | None = None,
    ownership: Ownership = Ownership.AUTO,
    override: bytes = CONTAINERS_XATTR,
) -> bool:
    """Mount the overlay at `mountpoint` and serve it until the mount goes away or a signal ends it.

    Runs in a process of its own, whose umask, limits and signal handlers it sets; it needs no event loop. `lowers` are
    topmost first and are closed in the end; `cache` is what their frames share, so that it can be emptied when nothing
    happens. `uidmap` and `gidmap` are (image id, id here, how many) and hold for the layers; the upper directory stores
    ids as they are here. `layer_owners` and `upper_owners` say the same with more freedom. `ownership` and
    `override` are those of `UpperDirectory`.

    `ready_fd` is closed after the byte "1", or after one line that says why there is no mount; the return value says
    which it was.
    """
    options = options or MountOptions()
    os.umask(0)
    _raise_file_limit()
    signal.set_wakeup_fd(-1)  # an event loop's, in the process that this one was forked from
    for number in _STOPS:
        signal.signal(number, _terminate)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    ready = _Ready(ready_fd)
    try:
        top = None if upper is None else _open_upper(upper, work, ownership, override, upper_owners or Owners())
        tree = Tree(
            lowers,
            top,
            layer_owners=layer_owners or owners(uidmap, gidmap),
            upper_owners=upper_owners,
            durable=options.durable,
        )
        tree.beneath = options.beneath
        if top is not None and options.inherit_root:
            tree.inherit_root()
        _serve_tree(tree, mountpoint, options, ready, cache)
    except _Terminated:
        pass
    except (OSError, LayerError, RuntimeError) as error:
        if ready.told:
            log.error("the overlay at %s ended: %s", mountpoint, _reason(error))
        ready.failed(f"cannot mount the overlay at {mountpoint}: {_reason(error)}")
        return False
    return True


def _reason(error: BaseException) -> str:
    """Why, in words. A file is named if that says something to a reader: no descriptor's, none in passing."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    tells = name.startswith("/") and not name.startswith("/proc/self/fd/")
    return f"{error.strerror}: {name}" if tells else error.strerror


def _open_upper(upper: str, work: str | None, ownership: Ownership, override: bytes, owners: Owners) -> UpperDirectory:
    return UpperDirectory(
        upper,
        upper if work is None else work,
        ownership=ownership,
        override=override,
        squashed=owners.squashed,
    )


def _serve_tree(tree: Tree, mountpoint: str, options: MountOptions, ready: _Ready, cache: FrameCache | None) -> None:
    def on_idle() -> None:
        if cache is not None:
            cache.clear()
        gc.collect()
        release_free_memory()

    try:
        mounted = mount_fuse(mountpoint, options)
        try:
            if options.adapter == "pyfuse3":
                from fuse.operations import serve_pyfuse3  # not at the top: it brings libfuse into the process

                serve_pyfuse3(mounted.device, tree, options, on_ready=ready.ready, on_idle=on_idle)
            else:
                serve_device(mounted.device, tree, options, on_ready=ready.ready, on_idle=on_idle)
        except BaseException:
            mounted.unmount()
            raise
    finally:
        tree.close()


class _Ready:
    """The other end of `ready_fd`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.told = False

    def ready(self) -> None:
        self._tell(b"1")

    def failed(self, why: str) -> None:
        self._tell(why.replace("\n", " ").encode(errors="replace") + b"\n")

    def _tell(self, what: bytes) -> None:
        self.told = True
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            os.write(fd, what)
        except BrokenPipeError:
            log.warning("nobody waits for the overlay to be ready")
        finally:
            os.close(fd)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the end
    raise _Terminated


def _raise_file_limit() -> None:
    """A descriptor is held for each layer and each open file of the upper directory."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
