"""The surroundings of a command: file systems, devices, names, capabilities, system calls, limits; as Podman 5.4's."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_run import sh
from tests.kit.command import Rcontain

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]

# capabilities(7): chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot setfcap
DEFAULT_CAPABILITIES = 0x800405FB
NET_RAW, SYS_ADMIN, CHOWN = 1 << 13, 1 << 21, 1 << 0


def mounts(box: Rcontain, demo: str, *flags: str) -> dict[str, tuple[str, set[str]]]:
    """File system type and options by mount point."""
    lines = sh(box, demo, "cat /proc/mounts", *flags).splitlines()
    return {words[1]: (words[2], set(words[3].split(","))) for words in map(str.split, lines)}


def status(box: Rcontain, demo: str, *flags: str) -> dict[str, str]:
    """/proc/self/status of a command."""
    lines = box.text("run", "--rm", *flags, demo, "cat", "/proc/self/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_mounts(box: Rcontain, demo: str, driver: str) -> None:
    found = mounts(box, demo)
    assert found["/"][0].startswith({"overlay": "overlay", "packed": "overlay", "fuse": "fuse"}[driver])
    for path, kind, options in (
        ("/proc", "proc", {"rw", "nosuid", "nodev", "noexec"}),
        ("/sys", "sysfs", {"ro", "nosuid", "nodev", "noexec"}),
        ("/dev", "tmpfs", {"rw", "nosuid", "mode=755"}),
        ("/dev/pts", "devpts", {"rw", "nosuid", "noexec", "ptmxmode=666", "mode=620"}),
        ("/dev/shm", "tmpfs", {"rw", "nosuid", "nodev", "noexec", "size=64000k"}),
        ("/dev/mqueue", "mqueue", {"rw", "nosuid", "nodev", "noexec"}),
        ("/sys/fs/cgroup", "cgroup2", {"ro", "nosuid", "nodev", "noexec"}),
        ("/proc/sys", "proc", {"ro"}),
        ("/proc/bus", "proc", {"ro"}),
        ("/sys/firmware", "tmpfs", {"ro"}),
    ):
        assert found[path][0] == kind and options <= found[path][1], (path, found[path])


def test_masked_and_read_only_paths(box: Rcontain, demo: str) -> None:
    script = """
        for f in /proc/kcore /proc/keys /proc/timer_list /proc/latency_stats /proc/sched_debug; do
            [ ! -e $f ] || [ "$(head -c 1 $f | wc -c)" = 0 ] || echo "open $f"; done
        for d in /proc/acpi /proc/scsi /sys/firmware /sys/fs/selinux; do
            [ ! -e $d ] || [ -z "$(ls $d)" ] || echo "open $d"; done
        for f in /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/irq/default_smp_affinity; do
            (echo 1 >$f) 2>/dev/null && echo "writable $f"; done
        true"""
    assert sh(box, demo, script) == ""


def test_unmasked_paths(box: Rcontain, demo: str) -> None:
    found = mounts(
        box, demo, "--security-opt", "unmask=/sys/firmware:/proc/acpi", "--security-opt", "mask=/srv:/etc/motd"
    )
    assert "/sys/firmware" not in found and "/proc/acpi" not in found
    assert found["/srv"][0] == "tmpfs" and "/etc/motd" in found
    assert not {"/sys/firmware", "/proc/keys", "/proc/sys"} & set(mounts(box, demo, "--security-opt", "unmask=ALL"))


def test_devices(box: Rcontain, demo: str) -> None:
    script = """cd /dev
        stat -c '%n %t:%T %a' null zero full random urandom tty
        for l in fd stdin stdout stderr ptmx; do readlink $l; done
        ls"""
    said = sh(box, demo, script).split("\n")
    assert said[:6] == [
        "null 1:3 666",
        "zero 1:5 666",
        "full 1:7 666",
        "random 1:8 666",
        "urandom 1:9 666",
        "tty 5:0 666",
    ]
    assert said[6:11] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert said[11:] == expected.split()


def test_no_stray_descriptors(box: Rcontain, demo: str, tmp_path: Path) -> None:
    """Neither ours nor those that the caller had open."""
    script = "ls /proc/self/fd; ls /proc/1/fd; :"
    with open(tmp_path / "open", "wb") as open_file:
        done = subprocess.run(
            box.words("run", "--rm", demo, "sh", "-c", script),
            env=box.environment,
            cwd=box.home,
            capture_output=True,
            pass_fds=[open_file.fileno()],
            check=True,
            timeout=60,
        )
    assert done.stdout.split() == b"0 1 2 3 0 1 2".split()  # ls itself has the directory open


def test_root_cannot_see_the_host(box: Rcontain, demo: str) -> None:
    """The old root is gone, nothing above / is reachable, and no process of the host is seen."""
    script = "stat -c %i /.. /; cat /proc/1/comm; echo /proc/[0-9]*; cd /; ls -d * | tr '\\n' ' '"
    parent, root, first, numbers, names = sh(box, demo, script).split("\n")
    assert parent == root and first == "sh" and numbers.count("/proc/") <= 3
    assert names.split() == ["bin", "dev", "etc", "home", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var"]


def test_names(box: Rcontain, demo: str) -> None:
    said = sh(
        box,
        demo,
        "hostname; cat /etc/hosts",
        "-h",
        "box",
        "--name",
        "its-name",
        "--add-host",
        "db:192.0.2.7",
        "--add-host",
        "up:host-gateway",
    )
    hostname, *lines = said.splitlines()
    hosts = {name: line.split()[0] for line in reversed(lines) for name in line.split()[1:]}
    assert hostname == "box"
    assert hosts["db"] == "192.0.2.7" and hosts["localhost"] in ("127.0.0.1", "::1")
    assert hosts["box"] == hosts["its-name"] and hosts["up"] == hosts["host.containers.internal"]
    assert hosts["host.docker.internal"] == hosts["up"] != hosts["box"]


def test_resolv_conf(box: Rcontain, demo: str) -> None:
    assert sh(box, demo, "grep -c ^nameserver /etc/resolv.conf") == "1"
    said = sh(
        box, demo, "cat /etc/resolv.conf", "--dns", "192.0.2.53", "--dns", "2001:db8::53", "--dns-search", "a.test"
    )
    # The relay asks them: what is looked up is to pass by the rules that go by names.
    assert said.splitlines()[:2] == ["search a.test", "nameserver 10.0.2.3"] and "192.0.2.53" not in said
    alone = sh(box, demo, "cat /etc/resolv.conf", "--network", "none", "--dns", "192.0.2.53")
    assert "nameserver 192.0.2.53" in alone.splitlines()


def test_names_can_be_changed_inside(box: Rcontain, demo: str) -> None:
    script = """echo 192.0.2.1 added >>/etc/hosts; tail -n 1 /etc/hosts
        echo nameserver 192.0.2.2 >/etc/resolv.conf; cat /etc/resolv.conf"""
    assert sh(box, demo, script).splitlines() == ["192.0.2.1 added", "nameserver 192.0.2.2"]


def test_default_capabilities(box: Rcontain, demo: str) -> None:
    found = status(box, demo)
    assert {name: int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "CapInh": 0,
        "CapPrm": DEFAULT_CAPABILITIES,
        "CapEff": DEFAULT_CAPABILITIES,
        "CapBnd": DEFAULT_CAPABILITIES,
        "CapAmb": 0,
    }
    user = status(box, demo, "-u", "1000")
    assert (int(user["CapEff"], 16), int(user["CapPrm"], 16), int(user["CapBnd"], 16)) == (0, 0, DEFAULT_CAPABILITIES)


def test_capabilities_of_flags(box: Rcontain, demo: str) -> None:
    assert int(status(box, demo, "--cap-add", "net_raw")["CapEff"], 16) == DEFAULT_CAPABILITIES | NET_RAW
    assert int(status(box, demo, "--cap-add", "CAP_NET_RAW")["CapBnd"], 16) == DEFAULT_CAPABILITIES | NET_RAW
    assert int(status(box, demo, "--cap-drop", "chown")["CapBnd"], 16) == DEFAULT_CAPABILITIES & ~CHOWN
    assert int(status(box, demo, "--cap-drop", "all")["CapBnd"], 16) == 0
    assert int(status(box, demo, "--cap-drop", "all", "--cap-add", "chown")["CapEff"], 16) == CHOWN
    assert int(status(box, demo, "--cap-add", "all")["CapEff"], 16) & SYS_ADMIN
    user = status(box, demo, "-u", "1000", "--cap-add", "net_raw")
    assert int(user["CapEff"], 16) == int(user["CapAmb"], 16) == NET_RAW  # Podman: asked for, so even for a user


def test_security_options(box: Rcontain, demo: str) -> None:
    assert (status(box, demo)["NoNewPrivs"], status(box, demo)["Seccomp"]) == ("0", "2")
    assert status(box, demo, "--security-opt", "no-new-privileges")["NoNewPrivs"] == "1"
    assert status(box, demo, "--security-opt", "seccomp=unconfined")["Seccomp"] == "0"


def test_the_default_filter_forbids_what_it_should(box: Rcontain, demo: str) -> None:
    assert "permission denied" in sh(box, demo, "mount -t tmpfs none /srv 2>&1; true")
    assert "not permitted" in sh(box, demo, "busybox adjtimex -t 9000 2>&1; true")


def test_a_filter_of_ones_own(box: Rcontain, demo: str, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    flag = ("--security-opt", f"seccomp={tmp_path}/profile.json")
    assert "No space left" in sh(box, demo, "mkdir /x 2>&1; true", *flag)


def test_privileged(box: Rcontain, demo: str) -> None:
    found = status(box, demo, "--privileged")
    assert int(found["CapEff"], 16) & SYS_ADMIN and found["Seccomp"] == "0"
    assert sh(box, demo, "mount -t tmpfs none /srv && echo mounted", "--privileged") == "mounted"


def test_limits(box: Rcontain, demo: str) -> None:
    script = "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -f"
    said = sh(box, demo, script, "--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "fsize=512000")
    assert said.split() == ["100", "200", "0", "1000"]


def test_limits_of_the_caller_go_along(box: Rcontain, demo: str) -> None:
    """Whatever the engine's own are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    inside = box.words("run", "--rm", demo, "sh", "-c", "ulimit -Sn; ulimit -Hn")
    words = ["sh", "-c", f'ulimit -Sn {soft - 7}; exec "$@"', "sh", *inside]
    done = subprocess.run(words, env=box.environment, cwd=box.home, capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [str(soft - 7).encode(), str(hard).encode()]


def test_umask_and_working_directory_of_the_caller_stay_outside(box: Rcontain, demo: str) -> None:
    inside = box.words("run", "--rm", demo, "sh", "-c", "umask; pwd; stat -c %a /etc")
    words = ["sh", "-c", 'umask 077; exec "$@"', "sh", *inside]
    done = subprocess.run(words, env=box.environment, cwd="/tmp", capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [b"0022", b"/", b"755"]


def test_shm_size(box: Rcontain, demo: str) -> None:
    assert sh(box, demo, "df -k /dev/shm | tail -n 1", "--shm-size", "3m").split()[1] == "3072"


def test_signal_dispositions_are_the_defaults(box: Rcontain, demo: str) -> None:
    """The engine ignores some signals and Python ignores SIGPIPE; a container must inherit none of it."""
    found = status(box, demo)
    assert (int(found["SigIgn"], 16), int(found["SigBlk"], 16)) == (0, 0)


def test_namespaces_are_its_own(box: Rcontain, demo: str) -> None:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    said = sh(box, demo, f"cd /proc/self/ns; for n in {' '.join(kinds)}; do readlink $n; done").split()
    assert not {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds} & set(said) and len(set(said)) == 7


def test_the_small_init_cannot_be_reached(box: Rcontain, demo: str) -> None:
    """CVE-2019-5736: it is a program of the host, so it is not dumpable: no exe, root or environment of it is shown."""
    script = (
        "(echo x >/proc/1/exe) 2>/dev/null || (cat /proc/1/environ) 2>/dev/null || readlink /proc/1/exe || echo none"
    )
    assert sh(box, demo, script, "--init") == "none"


def test_dead_orphans_are_reaped_without_init_by_the_command(box: Rcontain, demo: str) -> None:
    assert sh(box, demo, "cat /proc/1/comm; echo $$") == "sh\n1"


def test_a_container_ends_with_its_first_process(box: Rcontain, demo: str) -> None:
    """Whatever it started is killed, and nobody waits for the pipe that it still holds."""
    assert sh(box, demo, "sleep 1000 & echo over") == "over"


def test_cgroup_view_is_the_containers_own(box: Rcontain, demo: str) -> None:
    assert sh(box, demo, "grep ^0: /proc/self/cgroup") == "0::/"
