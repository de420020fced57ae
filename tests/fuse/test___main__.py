"""The program: what it says, and what it leaves when things go wrong."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from fuse.__main__ import is_dead, main
from fuse.mounting import NO_FLAGS, mount_fuse
from fuse.syscalls import MountFlag, mount, umount
from tests.fuse.namespaces import in_namespace, options_here, read, write

BIND, REMOUNT, SHARED = MountFlag(4096), MountFlag(32), MountFlag(1 << 20 | 1 << 14)
"""Of mount(2); the last one with what is mounted below."""


def in_mounts(test: Callable[[str], None]) -> Callable[..., object]:
    return pytest.mark.fuse(pytest.mark.userns(in_namespace(test)))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "no mountpoint"),
        (["-o", "lowerdir=/a,bogus=1", "/m"], "unknown option bogus=1"),
        (["-o", "lowerdir=/does/not/exist", "/"], "the lower directory /does/not/exist cannot be used: No such file"),
        (["-o", "lowerdir=/etc/passwd", "/"], "the lower directory /etc/passwd is not a directory"),
        (["-o", "lowerdir=/etc", "/does/not/exist"], "the mountpoint /does/not/exist cannot be used"),
        (["-o", "lowerdir=/etc,upperdir=/tmp,workdir=/does/not/exist", "/"], "the work directory /does/not/exist"),
        (["-o", "lowerdir=/etc,upperdir=/tmp,workdir=/tmp", "/"], "must not be inside each other"),
        (["-o", "lowerdir=/etc,upperdir=/tmp,workdir=/proc", "/"], "is not on the file system of"),
    ],
)
def test_mistakes_are_one_line(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("rcontain-fuse-overlay: ")
    assert reason in error
    assert error.count("\n") == 1


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert "fuse-overlayfs: version" in capsys.readouterr().out


class Stack:
    """Directories for one mount, and the program."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.merged = f"{folder}/merged"
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{folder}/{name}")
        write("below", folder, "lower", "file")

    def command(self, *words: str, more: str = "") -> list[str]:
        options = f"lowerdir=lower,upperdir=upper,workdir=work,adapter={options_here().adapter}"
        return [sys.executable, "-m", "fuse", "-o", f"{options},{more}" if more else options, *words, self.merged]

    def run(self, *words: str, more: str = "") -> tuple[int, str]:
        """Status and output."""
        done = subprocess.run(
            self.command(*words, more=more),
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def start(self, more: str = "") -> subprocess.Popen[str]:
        """In the foreground, until it answers."""
        program = subprocess.Popen(
            self.command("-f", more=more), cwd=self.folder, env=environment(), stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: os.path.ismount(self.merged) or program.poll() is not None)
        assert program.poll() is None
        assert read(self.merged, "file") == "below"
        return program

    def processes(self) -> list[int]:
        """In the background: the one that waits, and the server."""
        found = {}
        for name in os.listdir("/proc"):
            try:
                with open(f"/proc/{name}/cmdline") as file:
                    if self.merged in file.read():
                        with open(f"/proc/{name}/stat") as file:
                            found[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
                continue
        return sorted(found, key=lambda pid: found[pid] in found)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in [os.getcwd(), *sys.path] if path)}


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.005)


def server_of(program: subprocess.Popen[str]) -> int:
    with open(f"/proc/{program.pid}/task/{program.pid}/children") as file:
        (pid,) = file.read().split()
    return int(pid)


def end(program: subprocess.Popen[str]) -> tuple[int, str]:
    """Status and last words."""
    assert program.stderr is not None
    words = program.stderr.read()
    program.stderr.close()
    return program.wait(), words


@in_mounts
def test_relative_paths_in_the_background(folder: str) -> None:
    stack = Stack(folder)
    assert stack.run() == (0, "")
    assert read(stack.merged, "file") == "below"
    write("new", stack.merged, "new")
    umount(stack.merged.encode())
    assert read(folder, "upper", "new") == "new"
    wait_for(lambda: not stack.processes())


@in_mounts
def test_unmounting_ends_the_foreground(folder: str) -> None:
    stack = Stack(folder)
    program = stack.start()
    umount(stack.merged.encode())
    assert end(program) == (0, "")


@in_mounts
def test_directories_in_each_other(folder: str) -> None:
    stack = Stack(folder)
    for name in ("upper/inside", "work/inside", "lower/point"):
        os.mkdir(f"{folder}/{name}")

    def refused(lower: str = "lower", upper: str = "upper", work: str = "work", point: str = "merged") -> str:
        options = f"lowerdir={lower},upperdir={upper},workdir={work},adapter={options_here().adapter}"
        done = subprocess.run(
            [sys.executable, "-m", "fuse", "-o", options, point],
            cwd=folder,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        return done.stderr

    assert "lower must not be inside the upper directory" in refused(upper="lower")
    assert "upper/inside must not be inside the upper directory" in refused(lower="lower:upper/inside")
    assert "work/inside must not be inside the work directory" in refused(lower="work/inside")
    assert "mountpoint" in refused(point="upper/inside")
    assert os.listdir(f"{folder}/work") == ["inside"]
    mount(f"{folder}/upper".encode(), stack.merged.encode(), b"none", BIND, b"")
    assert "another mount" in refused(upper="merged", point="lower/point")
    umount(stack.merged.encode())
    mount(b"none", stack.merged.encode(), b"tmpfs", NO_FLAGS, b"")
    for name in ("u", "w"):
        os.mkdir(f"{stack.merged}/{name}")
    mount(b"none", stack.merged.encode(), b"", REMOUNT | MountFlag.RDONLY, b"")
    assert "mounted read-only" in refused(upper="merged/u", work="merged/w", point="lower/point")
    umount(stack.merged.encode())


@in_mounts
def test_a_mountpoint_inside_a_layer_does_not_show_itself(folder: str) -> None:
    stack = Stack(folder)
    mount(b"none", b"/", b"", SHARED, b"")  # so that what is mounted may appear elsewhere too
    os.mkdir(f"{folder}/lower/mounted")
    os.mkdir(f"{folder}/lower/point")
    write("hidden", folder, "lower", "point", "hidden")
    mount(b"none", f"{folder}/lower/mounted".encode(), b"tmpfs", NO_FLAGS, b"")
    write("other", folder, "lower", "mounted", "other")
    stack.merged = f"{folder}/lower/point"
    program = stack.start()
    assert os.listdir(f"{stack.merged}/point") == ["hidden"]
    assert read(stack.merged, "mounted", "other") == "other"
    write("new", stack.merged, "point", "new")
    assert os.listdir(f"{folder}/upper/point") == ["new"]
    umount(stack.merged.encode())
    assert end(program) == (0, "")
    assert os.listdir(stack.merged) == ["hidden"]
    umount(f"{folder}/lower/mounted".encode())


@in_mounts
def test_an_upper_directory_in_an_overlay(folder: str) -> None:
    stack = Stack(folder)
    for name in ("directory", "other"):
        os.mkdir(f"{folder}/lower/{name}")
        write("inside", folder, "lower", name, "file")
    below = stack.start()
    for name in ("upper", "work", "merged"):
        os.mkdir(f"{stack.merged}/{name}")
    outer = stack.merged
    stack.merged = f"{outer}/merged"
    for _ in range(2):
        assert stack.run(more=f"upperdir={outer}/upper,workdir={outer}/work") == (0, "")
        if os.path.exists(f"{stack.merged}/file"):
            os.unlink(f"{stack.merged}/file")
            os.unlink(f"{stack.merged}/directory/file")
            os.rmdir(f"{stack.merged}/directory")
            os.mkdir(f"{stack.merged}/directory")
            os.rename(f"{stack.merged}/other/file", f"{stack.merged}/other/renamed")
        assert sorted(os.listdir(stack.merged)) == ["directory", "other"]
        assert os.listdir(f"{stack.merged}/directory") == []
        assert os.listdir(f"{stack.merged}/other") == ["renamed"]
        umount(stack.merged.encode())
        wait_for(lambda: not stack.processes())
    umount(outer.encode())
    assert end(below) == (0, "")


@in_mounts
def test_a_mount_over_its_own_layer(folder: str) -> None:
    stack = Stack(folder)
    stack.merged = f"{folder}/lower"
    program = stack.start()
    write("new", stack.merged, "new")
    umount(stack.merged.encode())
    assert end(program) == (0, "")
    assert os.listdir(stack.merged) == ["file"]


@in_mounts
def test_a_caller_without_standard_descriptors(folder: str) -> None:
    stack = Stack(folder)
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *stack.command()]
    assert subprocess.run(words, cwd=folder, env=environment()).returncode == 0
    assert read(stack.merged, "file") == "below"
    umount(stack.merged.encode())
    wait_for(lambda: not stack.processes())


@in_mounts
def test_more_layers_than_may_be_open(folder: str) -> None:
    stack = Stack(folder)
    for number in range(70):
        os.mkdir(f"{folder}/layer{number}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    layers = ":".join(f"layer{number}" for number in range(70))
    status, said = stack.run(more=f"lowerdir={layers}")
    assert status == 1
    assert "70 layers take more open files than are allowed" in said
    assert said.count("\n") == 1


@in_mounts
def test_a_signal_ends_a_mount_that_is_in_use(folder: str) -> None:
    stack = Stack(folder)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        program = stack.start()
        with open(f"{stack.merged}/file"):
            program.send_signal(number)
            assert end(program) == (0, "")
        assert not os.path.ismount(stack.merged)


@in_mounts
def test_a_killed_server_is_told_and_its_mount_taken_away(folder: str) -> None:
    stack = Stack(folder)
    program = stack.start()
    with open(f"{stack.merged}/file"):
        os.kill(server_of(program), signal.SIGKILL)
        status, words = end(program)
    assert status == 1
    assert words == (
        f"rcontain-fuse-overlay: the server of {stack.merged} was ended by SIGKILL, so the mount is gone\n"
    )
    assert os.listdir(stack.merged) == []
    assert stack.run() == (0, "")
    umount(stack.merged.encode())
    wait_for(lambda: not stack.processes())


@in_mounts
def test_a_server_killed_in_the_background_leaves_no_mount(folder: str) -> None:
    stack = Stack(folder)
    assert stack.run() == (0, "")
    _, server = stack.processes()
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not stack.processes())
    assert os.listdir(stack.merged) == []


@in_mounts
def test_the_server_ends_with_the_one_that_waits_for_it(folder: str) -> None:
    stack = Stack(folder)
    assert stack.run() == (0, "")
    waiting, _ = stack.processes()
    os.kill(waiting, signal.SIGKILL)
    wait_for(lambda: not stack.processes())
    assert os.listdir(stack.merged) == []


@in_mounts
def test_a_dead_mount_is_named(folder: str) -> None:
    stack = Stack(folder)
    os.close(mount_fuse(stack.merged, options_here()).device)
    assert is_dead(stack.merged)
    status, words = stack.run()
    assert status == 1
    assert "is a mount whose server is dead" in words
    assert words.count("\n") == 1
    umount(stack.merged.encode())


@in_mounts
def test_an_upper_directory_that_disappears(folder: str) -> None:
    stack = Stack(folder)
    os.mkdir(f"{folder}/lower/directory")
    program = stack.start()
    write("new", stack.merged, "new")
    shutil.rmtree(f"{folder}/upper")
    shutil.rmtree(f"{folder}/work")
    assert read(stack.merged, "file") == "below"
    for change in (
        lambda: write("changed", stack.merged, "file"),
        lambda: write("new", stack.merged, "newer"),
        lambda: os.mkdir(f"{stack.merged}/directory/inside"),
        lambda: os.unlink(f"{stack.merged}/file"),
        lambda: os.rename(f"{stack.merged}/file", f"{stack.merged}/renamed"),
        lambda: os.chmod(f"{stack.merged}/directory", 0o700),
    ):
        with pytest.raises(OSError) as error:
            change()
        assert error.value.errno in (errno.ENOENT, errno.ESTALE, errno.EIO)
    umount(stack.merged.encode())
    assert end(program) == (0, "")


@in_mounts
def test_what_a_mount_that_fails_says(folder: str) -> None:
    stack = Stack(folder)
    write("", folder, "file")
    for words in (["-f"], []):
        status, said = stack.run(*words, more="fsname=" + "x" * 5000)
        assert status == 1
        assert said.startswith(f"rcontain-fuse-overlay: cannot mount the overlay at {stack.merged}: ")
        assert said.count("\n") == 1
    wait_for(lambda: not stack.processes())


@in_mounts
def test_owners_as_the_options_have_them(folder: str) -> None:
    stack = Stack(folder)
    os.chown(f"{folder}/lower/file", 5, 6)

    def shown(more: str) -> tuple[int, int]:
        program = stack.start(more)
        status = os.stat(f"{stack.merged}/file")
        umount(stack.merged.encode())
        assert end(program) == (0, "")
        return status.st_uid, status.st_gid

    assert shown("") == (5, 6)
    assert shown("squash_to_root") == (0, 0)
    assert shown("squash_to_root,squash_to_gid=7") == (0, 7)
    assert shown("uidmapping=0:100:10,gidmapping=:6:60:1") == (105, 60)
    assert shown("uidmapping=0:100:1") == (65534, 6)


@in_mounts
def test_new_files_are_stored_by_the_mapping(folder: str) -> None:
    stack = Stack(folder)
    program = stack.start("uidmapping=0:100:50:50:0:1,gidmapping=0:200:50")
    os.mkdir(f"{stack.merged}/directory")
    write("new", stack.merged, "directory", "new")
    os.chown(f"{stack.merged}/directory/new", 107, 208)
    umount(stack.merged.encode())
    assert end(program) == (0, "")
    directory, new = os.stat(f"{folder}/upper/directory"), os.stat(f"{folder}/upper/directory/new")
    assert (directory.st_uid, directory.st_gid, new.st_uid, new.st_gid) == (50, 65534, 7, 8)


@in_mounts
def test_owners_in_attributes(folder: str) -> None:
    stack = Stack(folder)
    program = stack.start("xattr_permissions=2")
    os.chown(f"{stack.merged}/file", 7, 8)
    os.chmod(f"{stack.merged}/file", 0o4711)
    umount(stack.merged.encode())
    assert end(program) == (0, "")
    value = os.getxattr(f"{folder}/upper/file", "user.containers.override_stat")
    assert value == b"7:8:4711:file"
    assert os.stat(f"{folder}/upper/file").st_uid == 0
    program = stack.start()
    status = os.stat(f"{stack.merged}/file")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (7, 8, 0o4711)
    umount(stack.merged.encode())
    assert end(program) == (0, "")


@in_mounts
def test_without_extended_attributes(folder: str) -> None:
    stack = Stack(folder)
    os.setxattr(f"{folder}/lower/file", "user.note", b"1")
    program = stack.start()
    assert os.listxattr(f"{stack.merged}/file") == ["user.note"]
    umount(stack.merged.encode())
    assert end(program) == (0, "")
    program = stack.start("noxattrs=1")
    for ask in (lambda: os.getxattr(f"{stack.merged}/file", "user.note"), lambda: os.listxattr(f"{stack.merged}/file")):
        with pytest.raises(OSError) as error:
            ask()
        assert error.value.errno == errno.EOPNOTSUPP
    umount(stack.merged.encode())
    assert end(program) == (0, "")


@in_mounts
def test_a_layer_that_another_one_wrote_with_attributes(folder: str) -> None:
    """Podman keeps images so where chown(2) is not possible."""
    stack = Stack(folder)
    os.setxattr(f"{folder}/lower", "user.containers.override_stat", b"0:0:0755:dir")
    os.setxattr(f"{folder}/lower/file", "user.containers.override_stat", b"3:4:2750:file")
    program = stack.start()
    status = os.stat(f"{stack.merged}/file")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (3, 4, 0o2750)
    umount(stack.merged.encode())
    assert end(program) == (0, "")


@in_mounts
def test_a_read_only_mount(folder: str) -> None:
    stack = Stack(folder)
    program = stack.start("ro")
    with pytest.raises(OSError) as error:
        write("x", stack.merged, "file")
    assert error.value.errno == errno.EROFS
    umount(stack.merged.encode())
    assert end(program) == (0, "")
