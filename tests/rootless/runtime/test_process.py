"""Containers for real: what a process finds in one, and how it starts and ends."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from rootless import syscalls
from rootless.oci.runtime import Box as Size
from rootless.oci.runtime import Mount, NamespaceType, Rlimit, Seccomp, SeccompRule, Spec, User
from rootless.runtime import process, spec
from rootless.syscalls import MountFlag
from tests.kit.userns import in_namespaces
from tests.rootless.runtime.box import Box, Outcome, command, converse

pytestmark = pytest.mark.userns


def mounts(outcome: Outcome) -> dict[str, tuple[set[str], str]]:
    """Mount point -> (options of the mount, filesystem), of a /proc/self/mountinfo."""
    found = {}
    for line in outcome.lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        found[fields[4]] = (set(fields[5].split(",")), right.split()[0])
    return found


def status(outcome: Outcome) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in outcome.lines)}


def test_exit_code_and_output(box: Box) -> None:
    outcome = box.sh("echo out; echo err >&2; exit 7")
    assert (outcome.code, outcome.out, outcome.err) == (7, "out\n", "err\n")


def test_a_signal_ends_it_with_128_plus_n(box: Box) -> None:
    async def killed() -> int:
        ids = box.maps()
        made = box.spec(["sleep", "100"], ids)
        with process.spawn(made, rootfs=str(box.rootfs), ids=ids) as init:
            await init.created()
            await init.start()
            init.signal(signal.SIGKILL)
            return await init.wait()

    assert box.inside(lambda: trio.run(killed)) == 137


def test_default_mounts(box: Box) -> None:
    found = mounts(box.sh("cat /proc/self/mountinfo"))
    hidden = {"nosuid", "nodev", "noexec"}
    assert found["/proc"][1] == "proc" and hidden <= found["/proc"][0]
    assert found["/sys"][1] == "sysfs" and hidden | {"ro"} <= found["/sys"][0]
    assert found["/dev"][1] == "tmpfs" and "nosuid" in found["/dev"][0]
    assert found["/dev/pts"][1] == "devpts"
    assert found["/dev/mqueue"][1] == "mqueue"
    assert found["/dev/shm"][1] == "tmpfs" and hidden <= found["/dev/shm"][0]
    assert found["/sys/fs/cgroup"][1] == "cgroup2" and "ro" in found["/sys/fs/cgroup"][0]
    assert {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")} <= found.keys()
    assert {point for point in found if not point.startswith(("/proc", "/sys", "/dev"))} == {"/"}


def test_masked_and_readonly_paths(box: Box) -> None:
    outcome = box.sh(
        "wc -c </proc/keys; wc -c </proc/timer_list; ls /proc/acpi | wc -l; ls /sys/firmware | wc -l;"
        "echo 1 >/proc/sys/kernel/core_uses_pid; echo 1 > /proc/irq/default_smp_affinity"
    )
    assert outcome.lines == ["0", "0", "0", "0"]
    assert outcome.err.count("Read-only file system") == 2


def test_unmask(box: Box) -> None:
    found = mounts(box.sh("cat /proc/self/mountinfo", unmask=("ALL",)))
    assert not any(point.startswith("/proc/") for point in found)
    found = mounts(box.sh("cat /proc/self/mountinfo", unmask=("/proc/keys",)))
    assert "/proc/keys" not in found and "/proc/timer_list" in found


def test_capabilities_and_seccomp_of_root(box: Box) -> None:
    found = status(box.sh("cat /proc/self/status"))
    assert (found["CapPrm"], found["CapEff"], found["CapBnd"]) == ("00000000800405fb",) * 3
    assert (found["CapInh"], found["CapAmb"]) == ("0" * 16,) * 2
    assert (found["Seccomp"], found["Seccomp_filters"], found["NoNewPrivs"]) == ("2", "1", "0")
    assert found["Groups"] == ""
    assert found["NSpid"] == "1" or found["NSpid"].endswith("\t1") or found["PPid"] == "1"


def test_capabilities_of_a_user(box: Box) -> None:
    user = User(uid=1000, gid=1000, additional_gids=(44,))
    found = status(box.sh("cat /proc/self/status", user=user, cap_add=("net_raw",), no_new_privileges=True))
    raw = f"{1 << 13:016x}"
    assert [found[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [raw] * 4
    assert int(found["CapBnd"], 16) & 1 << 13
    assert found["Uid"].split() == ["1000"] * 4 and found["Gid"].split() == ["1000"] * 4
    assert found["Groups"] == "44"
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_no_capabilities_and_no_filter(box: Box) -> None:
    found = status(box.sh("cat /proc/self/status", cap_drop=("ALL",), seccomp=None))
    assert int(found["CapBnd"], 16) == int(found["CapEff"], 16) == 0
    assert found["Seccomp"] == "0"


def test_privileged_has_all_capabilities(box: Box) -> None:
    found = status(box.sh("cat /proc/self/status", privileged=True))
    assert int(found["CapEff"], 16) == (1 << int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1


def test_a_profile_of_ones_own(box: Box) -> None:
    profile = Seccomp(
        default_action="SCMP_ACT_ALLOW",
        syscalls=(SeccompRule(names=("mkdir", "mkdirat"), action="SCMP_ACT_ERRNO", errno_ret=5),),
    )
    for privileges in (False, True):
        outcome = box.run("mkdir", "/new", seccomp=profile, no_new_privileges=privileges)
        assert outcome.code != 0 and "Input/output error" in outcome.err


def test_no_stray_descriptors(box: Box) -> None:
    def leave_open() -> None:
        for _ in range(20):
            os.set_inheritable(os.dup(0), True)

    outcome = box.sh("ls /proc/$$/fd; true", prepare=leave_open)
    assert outcome.lines == ["0", "1", "2"]


def test_kept_descriptors_come_next(box: Box) -> None:
    def keep() -> list[int]:
        fds = []
        for text in (b"first", b"second"):
            read, write = os.pipe()
            os.write(write, text)
            os.close(write)
            fds.append(read)
        return fds

    outcome = box.sh("cat <&3; cat <&4; ls /proc/$$/fd; true", keep_fds=keep)
    assert outcome.out == "firstsecond0\n1\n2\n3\n4\n"


def test_hostname_env_cwd_umask(box: Box) -> None:
    outcome = box.sh("hostname; echo $HOSTNAME $A; pwd; umask", env={"A": "b c"}, cwd="/srv/web")
    assert outcome.lines == ["box", "box b c", "/srv/web", "0022"]

    def loose(made: Spec) -> Spec:
        assert made.process is not None
        process = msgspec.structs.replace(made.process, user=msgspec.structs.replace(made.process.user, umask=0o077))
        return msgspec.structs.replace(made, process=process)

    assert box.sh("umask", change=loose).out == "0077\n"


def test_rlimits(box: Box) -> None:
    limits = (Rlimit(type="RLIMIT_NOFILE", soft=123, hard=456), Rlimit(type="RLIMIT_CORE", soft=0, hard=0))
    outcome = box.sh("ulimit -n; ulimit -Hn; ulimit -c", rlimits=limits)
    assert outcome.lines == ["123", "456", "0"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    outcome = box.sh("true", rlimits=(Rlimit(type="RLIMIT_NOFILE", soft=1, hard=hard + 1),))
    assert "set resource limits (RLIMIT_NOFILE" in outcome.error


def test_signals_are_reset(box: Box) -> None:
    def ignore() -> None:
        for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    found = status(box.run("cat", "/proc/self/status", prepare=ignore))
    assert (found["SigBlk"], found["SigIgn"]) == ("0" * 16,) * 2


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("nosuch",), 127, "executable file `nosuch` not found in $PATH"),
        (("/no/such",), 127, "not found"),
        (("/bin",), 126, "not a regular file"),
        (("/etc/passwd",), 126, "not executable"),
        (("/bin/bad",), 126, "Exec format error"),
        (("/bin/orphan",), 127, "interpreter is missing"),
    ],
)
def test_commands_that_cannot_run(box: Box, args: tuple[str, ...], code: int, says: str) -> None:
    (box.rootfs / "bin/bad").write_text("no program")
    (box.rootfs / "bin/bad").chmod(0o755)
    (box.rootfs / "bin/orphan").write_text("#!/no/such/interpreter\n")
    (box.rootfs / "bin/orphan").chmod(0o755)
    outcome = box.run(*args)
    assert outcome.code == code and says in outcome.error
    assert outcome.kind == ("CommandNotFound" if code == 127 else "CommandNotRunnable")


def test_the_interpreter_is_no_command(box: Box) -> None:
    outcome = box.run("/proc/self/exe")
    assert outcome.code == 126 and "engine's own program" in outcome.error


def test_the_command_is_looked_up_as_its_user(box: Box) -> None:
    (box.rootfs / "root").mkdir(mode=0o700)
    (box.rootfs / "root/tool").write_text("#!/bin/sh\n")
    (box.rootfs / "root/tool").chmod(0o755)
    outcome = box.run("/root/tool", user=User(uid=1000, gid=1000))
    assert outcome.code == 126 and "Permission denied" in outcome.error
    assert box.run("/root/tool").code == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cwd": "/no/such"}, "cannot enter the working directory /no/such: No such file or directory"),
        ({"mounts": (Mount(destination="/x", type="bind", source="/no/such"),)}, "take the bind source /no/such"),
        (
            {"mounts": (Mount(destination="/x", type="tmpfs", source="tmpfs", options=("size=much",)),)},
            "cannot mount tmpfs on /x: Invalid argument",
        ),
        ({"mounts": (Mount(destination="/x", type="nosuchfs", source="x"),)}, "cannot mount nosuchfs on /x"),
        ({"sysctl": {"net.no.such": "1"}}, "cannot set the kernel parameter net.no.such"),
    ],
)
def test_the_step_that_failed_is_named(box: Box, options: dict[str, Any], says: str) -> None:
    outcome = box.run("true", **options)
    assert outcome.kind == "ContainerError" and outcome.code == 125
    assert says in outcome.error


def test_readonly_root(box: Box) -> None:
    outcome = box.sh("touch /x; touch /dev/x && echo dev; touch /tmp/x && echo tmp", readonly_rootfs=True, mounts=[TMP])
    assert "/x: Read-only file system" in outcome.err
    assert outcome.lines == ["dev", "tmp"]


TMP = Mount(destination="/tmp", type="tmpfs", source="tmpfs", options=("nosuid", "nodev", "mode=1777", "size=1m"))


@pytest.mark.parametrize("prepare", [lambda: None, lambda: without_mount_setattr()])
def test_bind_mounts(box: Box, tmp_path: Path, prepare: Callable[[], None]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("hello")
    outcome = box.sh(
        "cat /new/place/file /etc/one; touch /new/place/x; touch /rw/y; cat /proc/self/mountinfo",
        prepare=prepare,
        mounts=[
            Mount(
                destination="/new/place",
                type="bind",
                source=str(source),
                options=("rbind", "ro", "rprivate", "noexec"),
            ),
            Mount(destination="/etc/one", type="bind", source=str(source / "file"), options=("bind", "ro")),
            Mount(destination="/rw", source=str(source), options=("rbind", "rw", "nodev")),
        ],
    )
    assert outcome.out.startswith("hellohello")
    assert "/new/place/x: Read-only file system" in outcome.err
    assert (source / "y").exists()
    assert re.search(r" /new/place ro,noexec,\S* - ", outcome.out)  # private: it has no master
    assert re.search(r" /rw rw,nodev,\S* master:\d+ - ", outcome.out)


def without_mount_setattr() -> None:
    """As on Linux 5.11 and older: the system call answers ENOSYS (linux/filter.h)."""
    lines = ((0x20, 0, 0, 0), (0x15, 0, 1, 442), (0x06, 0, 0, 0x00050000 | errno.ENOSYS), (0x06, 0, 0, 0x7FFF0000))
    syscalls.seccomp_filter(b"".join(struct.pack("HBBI", *line) for line in lines))


@pytest.mark.parametrize("old_kernel", [False, True])
def test_locked_flags_of_the_host_stay(box: Box, tmp_path: Path, old_kernel: bool) -> None:
    """A container may not get back what the mount around forbids, and asking for read-only must not fail for it."""
    locked = tmp_path / "locked"
    locked.mkdir()

    def mount_locked() -> None:
        flags = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC | MountFlag.NOATIME
        syscalls.mount("tmpfs", str(locked), "tmpfs", flags)
        if old_kernel:
            without_mount_setattr()

    outcome = box.sh(
        "cat /proc/self/mountinfo",
        prepare=mount_locked,
        mounts=[
            Mount(destination="/ro", type="bind", source=str(locked), options=("rbind", "ro")),
            Mount(destination="/rw", type="bind", source=str(locked), options=("rbind", "rw", "exec", "suid", "dev")),
            Mount(destination="/at", type="bind", source=str(locked), options=("rbind", "ro", "strictatime")),
        ],
    )
    found = mounts(outcome)
    for point in ("/ro", "/rw", "/at"):
        assert {"nosuid", "nodev", "noexec", "noatime"} <= found[point][0]
    assert "ro" in found["/ro"][0] and "rw" in found["/rw"][0] and "ro" in found["/at"][0]


def test_destinations_do_not_escape(box: Box, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "source"
    source.mkdir()
    (source / "mine").touch()
    up = "../" * 20
    (box.rootfs / "absolute").symlink_to(outside)
    (box.rootfs / "relative").symlink_to(f"{up}{str(outside).lstrip('/')}")
    (box.rootfs / "loop").symlink_to("loop")
    (box.rootfs / "magic").symlink_to("/proc/self/root")
    bind = [
        Mount(destination=place, type="bind", source=str(source), options=("bind",))
        for place in ("/absolute/a", "/relative/b", f"/{up}c")
    ]
    outcome = box.sh(f"ls {outside}/a {outside}/b /c", mounts=bind)
    assert outcome.out.count("mine") == 3 and outcome.code == 0
    assert not any(outside.iterdir())
    outcome = box.sh("true", mounts=[Mount(destination="/loop", type="bind", source=str(source), options=("bind",))])
    assert "mount" in outcome.error and "symbolic links" in outcome.error


def test_a_link_in_place_of_proc_stays_inside(box: Box) -> None:
    (box.rootfs / "proc").rmdir()
    (box.rootfs / "elsewhere").mkdir()
    (box.rootfs / "proc").symlink_to("/elsewhere")
    outcome = box.sh("ls /elsewhere/self/status")
    assert outcome.out == "/elsewhere/self/status\n"


def test_tmpfs_with_the_images_content(box: Box) -> None:
    (box.rootfs / "srv/web/page").write_text("hi")
    (box.rootfs / "srv/web/page").chmod(0o640)
    (box.rootfs / "srv/web/link").symlink_to("page")
    (box.rootfs / "srv/web/sub").mkdir(mode=0o700)
    copied = Mount(destination="/srv/web", type="tmpfs", source="tmpfs", options=("tmpcopyup", "ro", "size=1m"))
    outcome = box.sh("cat /srv/web/link; stat -c %a /srv/web/page /srv/web/sub; touch /srv/web/x", mounts=[copied])
    assert outcome.out == "hi640\n700\n"
    assert "Read-only" in outcome.err
    assert not box.sh("ls /srv/web", mounts=[msgspec.structs.replace(copied, options=())]).out


def test_devices(box: Box) -> None:
    outcome = box.sh(
        "echo x >/dev/null; head -c 3 /dev/zero | wc -c; stat -c %t,%T /dev/null;"
        "for name in fd stdin ptmx; do readlink /dev/$name; done"
    )
    assert outcome.lines == ["3", "1,3", "/proc/self/fd", "/proc/self/fd/0", "pts/ptmx"]
    assert "not permitted" in box.sh("mknod /dev/sda b 8 0", cap_add=("MKNOD",)).err


def test_standard_streams_can_be_opened_again(box: Box) -> None:
    outcome = box.sh("echo again >/dev/stdout", user=User(uid=1000, gid=1000))
    assert (outcome.out, outcome.err) == ("again\n", "")


def test_keep_id(rootfs: Path) -> None:
    box = Box(rootfs, keep_id=(1234, 5678))
    outcome = box.sh("id -u; id -g; touch /srv/web/mine; cat /proc/self/uid_map", user=User(uid=1234, gid=5678))
    assert outcome.lines[:2] == ["1234", "5678"]
    assert (rootfs / "srv/web/mine").stat().st_uid == os.getuid()
    assert [line.split()[0] for line in outcome.lines[2:]] == ["0", "1234", "1235"]


def test_single_id_mode(rootfs: Path) -> None:
    box = Box(rootfs, single_id=True)
    outcome = box.sh("id -u; cat /proc/self/uid_map; cat /proc/self/mountinfo")
    assert outcome.lines[0] == "0" and outcome.lines[1].split() == ["0", "0", "1"]
    assert "gid=" not in next(line for line in outcome.lines if " /dev/pts " in line).rpartition(" - ")[2]


def test_a_user_that_is_not_mapped(rootfs: Path) -> None:
    outcome = Box(rootfs, single_id=True).run("true", user=User(uid=1000))
    assert outcome.kind == "UsageError" and "user id 1000" in outcome.error
    assert Box(rootfs, single_id=True).run("true", user=User(additional_gids=(10, 44))).code == 0


def hide(path: str) -> Callable[[], None]:
    """A mount over part of /proc or /sys, as the inside of another container has."""
    return lambda: syscalls.mount("tmpfs", path, "tmpfs", MountFlag.RDONLY)


def test_where_sysfs_cannot_be_mounted_the_hosts_is_bound(box: Box) -> None:
    outcome = box.sh("cat /proc/self/mountinfo; touch /sys/x", prepare=hide("/sys/kernel"))
    found = mounts(outcome)
    assert found["/sys"][1] == "sysfs" and "ro" in found["/sys"][0]
    assert "/sys/kernel" in found and "Read-only" in outcome.err


def test_where_proc_cannot_be_mounted_the_error_says_what_to_do(box: Box) -> None:
    outcome = box.run("true", prepare=hide("/proc/fs"))
    assert "cannot mount proc on /proc: Operation not permitted" in outcome.error
    assert "unmasked /proc" in outcome.error


def test_cancelled_anywhere_it_leaves_nothing(box: Box) -> None:
    """Descriptors and children are counted in the supervisor, which is gone afterwards."""

    async def run() -> tuple[int, bool]:
        ids = box.maps()
        made = box.spec(["sleep", "1000"], ids)
        before = len(os.listdir("/proc/self/fd"))
        for millisecond in range(12):
            with process.spawn(made, rootfs=str(box.rootfs), ids=ids) as init:
                with trio.move_on_after(millisecond / 1000):
                    await init.created()
                    await init.start()
                    again = process.spawn_exec(init.pidfd, command(made, "sleep", "1000"), ids=ids)
                    with again:
                        await again.created()
                        await again.start()
                        await again.wait()
        try:
            os.waitpid(-1, os.WNOHANG)  # noqa: ASYNC222  it does not block
            childless = False
        except ChildProcessError:
            childless = True
        return len(os.listdir("/proc/self/fd")) - before, childless

    assert box.inside(lambda: trio.run(run)) == (0, True)


def test_host_network(box: Box) -> None:
    outcome = box.sh("readlink /proc/self/ns/net; cat /proc/self/mountinfo", new=spec.NEW - {NamespaceType.NETWORK})
    assert outcome.lines[0] == os.readlink("/proc/self/ns/net")
    inside = [line for line in outcome.lines[1:] if re.search(r" /sys(/\S*)? ", line.partition(" - ")[0])]
    assert inside and all(" ro," in line or " - tmpfs" in line for line in inside)


def test_host_pid_ipc_and_uts(box: Box) -> None:
    kinds = spec.NEW - {NamespaceType.PID, NamespaceType.IPC, NamespaceType.UTS}
    outcome = box.sh("for name in pid ipc uts; do readlink /proc/self/ns/$name; done; hostname; echo $$", new=kinds)
    assert outcome.lines[:3] == [os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "ipc", "uts")]
    assert outcome.lines[3] == os.uname().nodename
    assert int(outcome.lines[4]) > 1


def test_nothing_of_it_stays(box: Box) -> None:
    """Mounts are made in the container's namespace alone, and the rootfs keeps only its mount points."""

    def count() -> int:
        return len(Path("/proc/self/mountinfo").read_text().splitlines())

    def work() -> tuple[int, int]:
        async def run() -> Outcome:
            ids = box.maps()
            made = box.spec(["true"], ids)
            return await converse(lambda stdio: process.spawn(made, rootfs=str(box.rootfs), ids=ids, stdio=stdio))

        before = count()
        assert trio.run(run).code == 0
        return before, count()

    before, after = box.inside(work)
    assert before == after
    assert not (box.rootfs / "dev/null").exists()


def test_it_dies_with_its_supervisor(box: Box) -> None:
    def work() -> int:
        read, write = os.pipe()
        supervisor = os.fork()
        if supervisor == 0:

            async def run() -> None:
                ids = box.maps()
                init = process.spawn(box.spec(["sleep", "1000"], ids), rootfs=str(box.rootfs), ids=ids)
                await init.created()
                await init.start()
                os.write(write, str(init.pid).encode())
                os._exit(0)

            trio.run(run)
        pid = int(os.read(read, 32))
        os.waitpid(supervisor, 0)
        pidfd = os.pidfd_open(pid) if Path(f"/proc/{pid}").exists() else -1
        if pidfd >= 0:
            import select

            assert select.select([pidfd], [], [], 10)[0], "it outlives its supervisor"
        return 0

    assert box.inside(work) == 0


def test_before_start_nothing_runs(box: Box) -> None:
    async def run() -> bool:
        ids = box.maps()
        with process.spawn(box.spec(["touch", "/ran"], ids), rootfs=str(box.rootfs), ids=ids) as init:
            await init.created()
            there = (box.rootfs / "ran").exists()
            await init.start()
            await init.wait()
        return not there and (box.rootfs / "ran").exists()

    assert box.inside(lambda: trio.run(run))


def test_namespaces_can_be_reached_before_start(box: Box) -> None:
    async def run() -> tuple[str, str]:
        ids = box.maps()
        made = box.spec(["readlink", "/proc/self/ns/net"], ids)
        read, write = os.pipe()
        with process.spawn(made, rootfs=str(box.rootfs), ids=ids, stdio=(None, write, None)) as init:
            await init.created()
            assert init.netns is not None
            ours = os.readlink(f"/proc/self/fd/{init.netns}")
            await init.start()
            await init.wait()
        return ours, os.read(read, 100).decode().strip()

    ours, theirs = box.inside(lambda: trio.run(run))
    assert ours == theirs


async def _terminal_text(init: process.Init) -> str:
    await init.created()
    await init.start()
    await init.wait()
    assert init.master is not None
    text = b""
    while True:
        try:
            chunk = os.read(init.master, 4096)
        except OSError:
            return text.decode().replace("\r\n", "\n")
        text += chunk


def test_terminal(box: Box) -> None:
    script = "tty; stty size; stat -c %t,%T /dev/console; readlink /proc/self/fd/0; echo >/dev/tty && echo controlling"

    async def run() -> str:
        ids = box.maps()
        made = box.spec(["sh", "-c", script], ids, terminal=True)
        assert made.process is not None
        sized = msgspec.structs.replace(made.process, console_size=Size(height=33, width=111))
        made = msgspec.structs.replace(made, process=sized)
        with process.spawn(made, rootfs=str(box.rootfs), ids=ids) as init:
            return await _terminal_text(init)

    lines = box.inside(lambda: trio.run(run)).split("\n")
    assert lines[:4] == ["/dev/pts/0", "33 111", "88,0", "/dev/pts/0"]
    assert "controlling" in lines


def test_the_reaper_forwards_and_reaps(box: Box) -> None:
    outcome = box.sh("(sleep 0.01 &) ; sleep 0.1; ps -o pid,stat,args; exit 3", reaper=True)
    assert outcome.code == 3
    assert not any(" Z" in line for line in outcome.lines)
    outcome = box.sh("trap 'echo got; exit 9' USR1; kill -USR1 1; sleep 5 & wait", reaper=True)
    assert (outcome.code, outcome.out) == (9, "got\n")
    outcome = box.sh("ls /proc/1/fd /proc/1/exe; readlink /proc/1/exe", reaper=True)
    assert outcome.code != 0 and "Permission denied" in outcome.err
    assert box.run("nosuch", reaper=True).code == 127


def test_exec(box: Box) -> None:
    async def run() -> tuple[Outcome, Outcome, str]:
        ids = box.maps()
        made = box.spec(["sleep", "1000"], ids)
        with process.spawn(made, rootfs=str(box.rootfs), ids=ids) as init:
            await init.created()
            await init.start()

            async def again(*args: str, **changes: Any) -> Outcome:
                return await converse(
                    lambda stdio: process.spawn_exec(
                        init.pidfd,
                        command(made, *args, **changes),
                        ids=ids,
                        stdio=stdio,
                        seccomp_profile=made.linux.seccomp,
                    )
                )

            user = User(uid=1000, gid=1000, additional_gids=(44,))
            first = await again(
                "sh", "-c", "hostname; ps; cat /proc/self/status; ls /proc/$$/fd; id; exit 6", user=user
            )
            second = await again("nosuch")
            joined = process.spawn_exec(init.pidfd, command(made, "tty", terminal=True), ids=ids)
            with joined:
                return first, second, await _terminal_text(joined)

    first, second, terminal = box.inside(lambda: trio.run(run))
    assert first.code == 6 and first.lines[0] == "box"
    found = status(first)
    assert (found["Seccomp"], found["CapEff"], found["Groups"]) == ("2", "0" * 16, "44")
    assert "1 root     sleep 1000" in first.out
    assert "uid=1000" in first.out and "\n0\n1\n2\nuid=" in first.out
    assert (second.code, second.kind) == (127, "CommandNotFound")
    assert terminal.strip() == "/dev/pts/0"


def test_joining_another_containers_namespaces(box: Box) -> None:
    async def run() -> tuple[Outcome, str]:
        ids = box.maps()
        with process.spawn(box.spec(["sleep", "1000"], ids), rootfs=str(box.rootfs), ids=ids) as first:
            await first.created()
            await first.start()
            kinds = {NamespaceType.NETWORK: "net", NamespaceType.PID: "pid", NamespaceType.USER: "user"}
            made = box.spec(
                ["sh", "-c", "readlink /proc/self/ns/net; ps; cat /proc/self/mountinfo"],
                ids,
                new=spec.NEW - kinds.keys(),
                joined={kind: f"/proc/{first.pid}/ns/{name}" for kind, name in kinds.items()},
            )
            net = os.readlink(f"/proc/{first.pid}/ns/net")
            return await converse(lambda stdio: process.spawn(made, rootfs=str(box.rootfs), ids=ids, stdio=stdio)), net

    outcome, net = box.inside(lambda: trio.run(run))
    assert outcome.code == 0, outcome.error
    assert outcome.lines[0] == net
    assert "sleep 1000" in outcome.out and " - sysfs " in outcome.out


def test_joining_a_user_namespace_alone(box: Box) -> None:
    async def run() -> tuple[set[str], list[str]]:
        ids = box.maps()
        with process.spawn(box.spec(["sleep", "1000"], ids), rootfs=str(box.rootfs), ids=ids) as first:
            await first.created()
            await first.start()
            made = box.spec(
                ["sh", "-c", "readlink /proc/self/ns/user; readlink /proc/self/ns/net; ls /proc/$$/fd; true"],
                ids,
                new=spec.NEW - {NamespaceType.USER},
                joined={NamespaceType.USER: f"/proc/{first.pid}/ns/user"},
            )
            read, write = os.pipe()
            with process.spawn(made, rootfs=str(box.rootfs), ids=ids, stdio=(None, write, None)) as second:
                known = {os.readlink(f"/proc/self/fd/{fd}") for fd in (second.userns, second.netns)}
                await second.created()
                await second.start()
                await second.wait()
            known.discard(os.readlink("/proc/self/ns/net"))
            return known, os.read(read, 1000).decode().split()

    known, said = box.inside(lambda: trio.run(run))
    assert len(known) == 2 and known == set(said[:2])
    assert said[2:] == ["0", "1", "2"]


def test_missing_namespace_to_join(box: Box) -> None:
    outcome = box.run("true", new=spec.NEW - {NamespaceType.NETWORK}, joined={NamespaceType.NETWORK: "/no/such"})
    assert "cannot open the namespace /no/such" in outcome.error


def test_a_map_that_the_kernel_refuses(box: Box) -> None:
    from rootless.errors import ContainerError
    from rootless.runtime.idmap import IdMap, IdMaps

    def work() -> str:
        ids = IdMaps(IdMap.of((0, 0, 1), (1, 4000000000, 10)), IdMap.of((0, 0, 1)))
        try:
            process.spawn(box.spec(["true"], ids), rootfs=str(box.rootfs), ids=ids)
        except ContainerError as error:
            return str(error)
        return ""

    assert "cannot write the container's uid_map (0 0 1, 1 4000000000 10)" in in_namespaces(work)
