"""Tests that need to be root of a user namespace: they run in a forked child that is."""

from __future__ import annotations

import functools
import os
import select
import signal
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fuse.layers import Layer
from fuse.server import Adapter, MountOptions, serve
from fuse.syscalls import MountFlag, mount, umount
from tests.kit.userns import in_namespaces

_adapter: Adapter = "auto"


def options_here(**fields: object) -> MountOptions:
    """Options with the adapter that is being tested."""
    return MountOptions(adapter=_adapter, **fields)  # type: ignore[arg-type]


def in_namespace(test: Callable[[str], None] | None = None, *, single: bool = False) -> Callable[..., object]:
    """Run a test as root of new user and mount namespaces, with an empty directory of its own.

    The user's subordinate ids are 1, 2, ... there; with `single`, only 0 is mapped. After it, nothing may be left: no
    child, no mount. It is a test of both adapters: `mounted` takes the one that the fixture of that name says.
    """
    if test is None:
        return functools.partial(in_namespace, single=single)

    def run(adapter: Adapter) -> None:
        global _adapter
        _adapter = adapter
        with tempfile.TemporaryDirectory(prefix="rc-fuse-") as folder:
            os.chmod(folder, 0o755)

            def work() -> None:
                try:
                    test(folder)
                    _assert_nothing_left(folder)
                finally:
                    _clean(folder)

            in_namespaces(work, single_id=single)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def _clean(folder: str) -> None:
    """The parent cannot remove what other ids own."""
    subprocess.run(["rm", "-rf", "--", *[os.path.join(folder, name) for name in os.listdir(folder)]], check=True)


def _assert_nothing_left(folder: str) -> None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        pass
    else:
        raise AssertionError(f"child left: {pid} {status}")
    with open("/proc/self/mounts") as mounts:
        assert folder not in mounts.read()


@contextmanager
def mounted(
    folder: str,
    lowers: Sequence[Layer],
    *,
    writable: bool = True,
    uidmap: Sequence[tuple[int, int, int]] | None = None,
    gidmap: Sequence[tuple[int, int, int]] | None = None,
    options: MountOptions | None = None,
) -> Iterator[str]:
    """The overlay at folder/merged over folder/upper, served by a forked process."""
    paths = {name: os.path.join(folder, name) for name in ("upper", "work", "merged")}
    for path in paths.values():
        os.makedirs(path, exist_ok=True)
    upper, work = (paths["upper"], paths["work"]) if writable else (None, None)

    def work_of_server(ready_fd: int) -> None:
        serve(
            paths["merged"],
            lowers,
            upper,
            work,
            uidmap=uidmap,
            gidmap=gidmap,
            options=options or options_here(),
            ready_fd=ready_fd,
        )

    try:
        pid = started(work_of_server)
        try:
            yield paths["merged"]
            umount(paths["merged"].encode())
        except BaseException:
            os.kill(pid, signal.SIGTERM)
            raise
        finally:
            os.waitpid(pid, 0)
    finally:
        for layer in lowers:
            layer.close()


@contextmanager
def covered(folder: str, lowers: Sequence[Layer]) -> Iterator[str]:
    """The kernel's overlay at folder/covered, over the layers at folder/merged, as `--storage-driver packed` has it."""
    options = options_here(flags=MountFlag.RDONLY, beneath=True, acls=True)
    with mounted(folder, lowers, writable=False, options=options) as layers:
        over = f"{folder}/covered"
        os.makedirs(over, exist_ok=True)
        words = f"lowerdir={layers},upperdir={folder}/upper,workdir={folder}/work,userxattr,xino=on"
        mount(b"overlay", over.encode(), b"overlay", MountFlag(0), words.encode())
        try:
            yield over
        finally:
            umount(over.encode())


def started(work: Callable[[int], object]) -> int:
    """The pid of a forked server of which the mount answers. `work` gets the `ready_fd` of `serve`."""
    readable, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(readable)
            work(writing)
        except BaseException:  # noqa: BLE001  shown with the test's output
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(readable, "rb") as ready:
            assert select.select([ready], [], [], 20)[0], "the overlay does not answer"
            answer = ready.read()
        assert answer == b"1", answer
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    return pid


def read(*parts: str) -> str:
    with open(os.path.join(*parts)) as file:
        return file.read()


def write(text: str, *parts: str) -> None:
    with open(os.path.join(*parts), "w") as file:
        file.write(text)


def is_whiteout(*parts: str) -> bool:
    status = os.lstat(os.path.join(*parts))
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
