"""`rcontain-fuse-overlay`, `python -m fuse`: the overlay with the command line of fuse-overlayfs(1), so that Podman and
others can use it as their `mount_program`.

Two processes: one serves, the other, which does nothing, waits for it. A server that is killed would leave a mount
behind where every access fails; the one that waits says so and takes the mount away. The server ends when that one
does. With -f that one is the process that was called, and passes signals on.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator

from fuse.attendant import await_ready, clear_after, have_standard_descriptors, is_dead, let_go, start_server
from fuse.commandline import USAGE, CommandLine, UsageError, parse

NAME = "rcontain-fuse-overlay"

VERSION = "1.14"
"""The fuse-overlayfs whose command line this is; tools compare it."""


def main(arguments: list[str] | None = None) -> int:
    """Mount, and return once the mount answers (at its end with -f). 0, or 1 with a line on stderr."""
    words = sys.argv[1:] if arguments is None else arguments
    have_standard_descriptors()
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    if any(word in ("-V", "--version") for word in words):
        print(f"fuse-overlayfs: version {VERSION} (rcontain)")
        return 0
    try:
        settings = parse(words, root=os.geteuid() == 0)
        check(settings)
    except UsageError as error:
        return _fail(str(error))
    except OSError as error:  # the working directory is gone
        return _fail(f"cannot find out where this is: {error.strerror}")
    readable, writable = os.pipe()
    if settings.foreground:
        return _attend(settings, readable, writable)
    if os.fork() == 0:
        os.setsid()
        let_go()
        _attend(settings, readable, writable)
        os._exit(0)
    os.close(writable)
    reason = await_ready(readable)
    return 0 if reason is None else _fail(reason)


def check(settings: CommandLine) -> None:
    """UsageError where a directory is none, before anything is started."""
    _check_directory("the mountpoint", settings.mountpoint)
    for lower in settings.lowers:
        _check_directory("the lower directory", lower)
    if settings.upper is None or settings.work is None:
        return
    upper = os.path.realpath(settings.upper)
    work = os.path.realpath(settings.work)
    mountpoint = os.path.realpath(settings.mountpoint)
    _check_directory("the upper directory", upper)
    _check_directory("the work directory", work)
    if is_inside(work, upper) or is_inside(upper, work):
        raise UsageError(f"the upper directory {upper} and the work directory {work} must not be inside each other")
    if os.stat(upper).st_dev != os.stat(work).st_dev:
        raise UsageError(f"the work directory {work} is not on the file system of the upper directory {upper}")
    lowers = [os.path.realpath(lower) for lower in settings.lowers]
    for what, path in (("the upper directory", upper), ("the work directory", work)):
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise UsageError(f"{what} {path} is on a file system that is mounted read-only")
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise UsageError(f"{what} {path} is not yours to write to")
        if mountpoint != path and is_inside(mountpoint, path):
            raise UsageError(f"the mountpoint {mountpoint} must not be inside {what} {path}")
        for lower in lowers:
            if is_inside(lower, path):
                raise UsageError(f"the lower directory {lower} must not be inside {what} {path}")


def is_inside(path: str, directory: str) -> bool:
    """Whether a path is a directory or below it. Both are real paths."""
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")


def _check_directory(what: str, path: str) -> None:
    if is_dead(path):
        raise UsageError(f"{what} {path} is a mount whose server is dead; take it away with: umount --lazy {path}")
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{what} {path} is not a directory")


def _attend(settings: CommandLine, readable: int, writable: int) -> int:
    """Start the server, wait until it ends, and clear away what it may leave. 0, or 1 with the reason on stderr."""
    pid = start_server(lambda: _serve(settings, writable), readable)
    os.close(writable)
    reason = await_ready(readable) if settings.foreground else None
    _, wait_status = os.waitpid(pid, 0)
    killed = clear_after(settings.mountpoint, wait_status)
    if killed is not None:
        return _fail(killed)
    if reason is not None:
        return _fail(reason)
    return os.WEXITSTATUS(wait_status)


def _serve(settings: CommandLine, ready_fd: int) -> bool:
    # Not at the top: the process that waits would carry all of it.
    import logging

    from fuse.errors import LayerError
    from fuse.layers.directory import DirectoryLayer
    from fuse.override import detect
    from fuse.ownership import Ownership
    from fuse.server import MountOptions, serve

    logging.basicConfig(
        level=logging.DEBUG if settings.verbose else logging.WARNING, format=f"{NAME}: %(message)s", stream=sys.stderr
    )
    try:
        ownership = Ownership.AUTO if _was_written_with_overrides(settings) else settings.ownership
        layers = []
        for path in _without_mount(settings):
            layers.append(DirectoryLayer(path, override=detect(os.fsencode(path))))
    except (OSError, LayerError) as error:
        reason = f"cannot read the directories: {error}"
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            reason = f"{len(settings.lowers)} layers take more open files than are allowed (ulimit -Hn)"
        os.write(ready_fd, f"{' '.join(reason.split())}\n".encode(errors="replace"))
        return False
    return serve(
        settings.mountpoint,
        layers,
        settings.upper,
        settings.work,
        options=MountOptions(
            fsname=settings.fsname,
            subtype=settings.subtype,
            flags=settings.flags,
            allow_other=settings.allow_other,
            timeout=settings.timeout,
            writeback=settings.writeback,
            durable=settings.durable,
            xattrs=settings.xattrs,
            acls=settings.acls,
            adapter=settings.adapter,
            inherit_root=False,
        ),
        ready_fd=ready_fd,
        layer_owners=settings.owners,
        upper_owners=settings.owners,
        ownership=ownership,
        override=settings.override,
    )


def _without_mount(settings: CommandLine) -> Iterator[str]:
    """The lower directories. One with the mountpoint in it is seen without what is mounted there, as with the kernel's
    overlayfs: a server that looks at its own mount waits for itself. OSError where we may not have that.
    """
    from fuse.syscalls import detached_mounts

    mountpoint = os.path.realpath(settings.mountpoint)
    for path in settings.lowers:
        real = os.path.realpath(path)
        if mountpoint == real or not is_inside(mountpoint, real):
            yield path
            continue
        try:
            yield f"/proc/self/fd/{detached_mounts(os.fsencode(path))}"  # open until the server ends
        except OSError as error:
            raise OSError(
                error.errno,
                f"the mountpoint {mountpoint} is inside the lower directory, which is only for root of a user namespace"
                f" ({error.strerror})",
                path,
            ) from None


def _was_written_with_overrides(settings: CommandLine) -> bool:
    from fuse.ownership import written_with

    if settings.upper is None or settings.work is None:
        return False
    work = os.open(settings.work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return written_with(os.fsencode(settings.upper), work) is not None
    finally:
        os.close(work)


def _fail(reason: str) -> int:
    print(f"{NAME}: {' '.join(reason.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
