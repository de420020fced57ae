"""Each wrapper for real: in a user namespace where it needs one."""

from __future__ import annotations

import errno
import os
import signal
import socket
from pathlib import Path

import pytest

from rootless import syscalls
from rootless.syscalls import Clone, CloseRange, MountAttr, MountFlag, Prctl, Resolve, TreeFlag
from tests.kit.userns import in_namespaces

HERE = -100


def exit_of(work: object) -> int:
    """The exit code of a child that calls `work`."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()  # type: ignore[operator]
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_errors_name_the_path() -> None:
    with pytest.raises(OSError) as caught:
        syscalls.mount("none", "/no/such", "tmpfs")
    assert caught.value.errno in (errno.EPERM, errno.ENOENT) and caught.value.filename == "/no/such"
    with pytest.raises(FileNotFoundError) as missing:
        syscalls.openat2(HERE, "/no/such", os.O_RDONLY)
    assert missing.value.filename == "/no/such"


def test_openat2(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    directory = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(FileNotFoundError):
            syscalls.openat2(directory, "link", os.O_RDONLY, resolve=Resolve.IN_ROOT)
        with pytest.raises(OSError):
            syscalls.openat2(directory, "../x", os.O_RDONLY, resolve=Resolve.BENEATH)
        fd = syscalls.openat2(directory, "new", os.O_CREAT | os.O_WRONLY, mode=0o600)
        assert not os.get_inheritable(fd)
        os.close(fd)
    finally:
        os.close(directory)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_close_range() -> None:
    def work() -> int:
        fds = [os.dup(0) for _ in range(5)]
        syscalls.close_range(fds[3], flags=CloseRange.CLOEXEC)
        syscalls.close_range(fds[0], fds[2])
        still = [fd for fd in fds if Path(f"/proc/self/fd/{fd}").exists()]
        return len(still)

    assert exit_of(work) == 2


def test_prctl() -> None:
    def work() -> int:
        syscalls.prctl(Prctl.SET_DUMPABLE, 0)
        return syscalls.prctl(Prctl.GET_DUMPABLE)

    assert exit_of(work) == 0
    with pytest.raises(OSError):
        syscalls.prctl(-1)


def test_seccomp_filter() -> None:
    import struct

    # Answer EPERM (1) to getppid, allow all else; linux/filter.h.
    number = {"x86_64": 110, "aarch64": 173}[os.uname().machine]
    program = b"".join(
        struct.pack("HBBI", *line)
        for line in ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000))
    )

    def work() -> int:
        syscalls.prctl(Prctl.SET_NO_NEW_PRIVS, 1)
        syscalls.seccomp_filter(program)
        return os.getppid() & 0xFF

    assert exit_of(work) == 255


def test_pidfd_getfd() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pidfd = os.pidfd_open(os.getpid())
        copy = syscalls.pidfd_getfd(pidfd, theirs.fileno())
        os.write(copy, b"x")
        assert ours.recv(1) == b"x"
        os.close(copy)
        os.close(pidfd)


def test_join_session_keyring() -> None:
    def work() -> int:
        syscalls.join_session_keyring()
        return 0

    assert exit_of(work) == 0


@pytest.mark.userns
def test_fork_into() -> None:
    def work() -> tuple[int, str, str]:
        read, write = os.pipe()
        pid = syscalls.fork_into(Clone.NEWPID | Clone.NEWUTS)
        if pid == 0:
            syscalls.sethostname("inner")
            syscalls.setdomainname("example")
            os.write(write, f"{os.getpid()} {os.uname().nodename}".encode())
            os._exit(7)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, os.read(read, 100).decode(), os.uname().nodename

    code, said, outer = in_namespaces(work)
    assert (code, said) == (7, "1 inner") and outer != "inner"


@pytest.mark.userns
def test_mounts_by_descriptor(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").touch()

    def work() -> tuple[str, bool]:
        tree = syscalls.open_tree(HERE, str(source), TreeFlag.CLONE)
        syscalls.mount_setattr(tree, set_=MountAttr.RDONLY | MountAttr.NOSUID, propagation=MountFlag.PRIVATE)
        over = os.open(target, os.O_PATH)
        syscalls.move_mount(tree, over)
        line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {target} " in line)
        try:
            (target / "new").touch()
        except OSError as error:
            return line.split()[5], error.errno == errno.EROFS and (target / "file").exists()
        return line.split()[5], False

    options, refused = in_namespaces(work)
    assert {"ro", "nosuid"} <= set(options.split(",")) and refused


@pytest.mark.userns
def test_pivot_root_and_umount(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/mark").touch()

    def work() -> list[str]:
        root = str(tmp_path / "root")
        syscalls.mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
        syscalls.mount(root, root, None, MountFlag.BIND)
        os.chdir(root)
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.UmountFlag.DETACH)
        os.chdir("/")
        return os.listdir("/")

    assert in_namespaces(work) == ["mark"]


@pytest.mark.userns
def test_unshare_setns_capset() -> None:
    def work() -> tuple[bool, str]:
        before = os.readlink("/proc/self/ns/uts")
        old = os.open("/proc/self/ns/uts", os.O_RDONLY)
        syscalls.unshare(Clone.NEWUTS | Clone.NEWIPC)
        changed = os.readlink("/proc/self/ns/uts") != before
        try:
            syscalls.setns(old, Clone.NEWUTS)  # the host's own namespace: only its root may
        except PermissionError:
            changed = changed and True
        syscalls.capset(effective=1, permitted=1 | 1 << 33, inheritable=0)
        status = Path("/proc/self/status").read_text()
        return changed, "".join(
            line.split()[1] + " " for line in status.splitlines() if line[:6] in ("CapEff", "CapPrm")
        )

    changed, sets = in_namespaces(work)
    assert changed
    assert sets.split() == ["0000000200000001", "0000000000000001"]


def test_pdeathsig() -> None:
    def work() -> int:
        syscalls.prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)
        return 0

    assert exit_of(work) == 0
