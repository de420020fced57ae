"""What the other tests stand on: leak checks see leaks, and the user namespace is one."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.kit import leaks, tally
from tests.kit.command import CHECKOUT, Rcontain
from tests.kit.userns import Clone, WorkFailed, in_namespaces


def test_a_leaked_descriptor_is_named() -> None:
    before = leaks.holdings()
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        assert leaks.leaked(before, patience=0) == [f"descriptor {fd} -> /dev/null"]
    finally:
        os.close(fd)
    assert leaks.leaked(before) == []


def test_a_leaked_child_is_named() -> None:
    before = leaks.holdings()
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert any(f"child process {child.pid}" in line for line in leaks.leaked(before, patience=0))
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert leaks.leaked(before) == []


def _identity() -> tuple[int, int, int, int]:
    """Ids that only a mapped range lets a process take, and back."""
    os.setresgid(1000, 1000, 0)
    os.setresuid(1000, 1000, 0)
    seen = (os.getuid(), os.getgid())
    os.setresuid(0, 0, 0)
    return (*seen, os.getpid(), len(open("/proc/self/uid_map").read().splitlines()))


@pytest.mark.userns
def test_work_is_root_of_a_namespace_with_many_ids() -> None:
    uid, gid, pid, lines = in_namespaces(_identity, extra=Clone.NEWPID)
    assert (uid, gid, pid) == (1000, 1000, 1)
    assert lines >= 2


@pytest.mark.userns
@pytest.mark.parametrize("extra", [Clone.NONE, Clone.NEWPID])
def test_work_that_hangs_is_ended_and_says_where(extra: Clone) -> None:
    with pytest.raises(WorkFailed, match=r"has not ended after 0.5 seconds; it was in \d+: "):
        in_namespaces(threading.Event().wait, extra=extra, patience=0.5)


def _fail() -> None:
    raise ValueError("a reason")


@pytest.mark.userns
def test_what_work_raises_comes_back() -> None:
    with pytest.raises(WorkFailed, match="ValueError: a reason"):
        in_namespaces(_fail)


def _mount_tmpfs() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)


@pytest.mark.userns
def test_mounts_of_work_stay_with_it() -> None:
    assert in_namespaces(_mount_tmpfs)


@pytest.mark.nosub
def test_a_single_id_is_enough_for_a_mount() -> None:
    assert in_namespaces(_mount_tmpfs, single_id=True)


def test_the_tally_adds_runs_up(tmp_path: Path) -> None:
    first, second = tmp_path / "first.xml", tmp_path / "second.xml"
    cases = '<testcase/><testcase><skipped type="pytest.skip"/></testcase>'
    first.write_text(f'<testsuites><testsuite time="1.5">{cases}</testsuite></testsuites>')
    second.write_text('<testsuites><testsuite time="1"><testcase><failure/></testcase></testsuite></testsuites>')
    assert "1 failed, 1 passed, 1 skipped in 2.50s" in tally.line(*tally.count([str(first), str(second)]))
    assert tally.main([str(first)]) == 0
    assert tally.main([str(first), str(second)]) == 1
    assert tally.main([str(first), str(tmp_path / "broken-off.xml")]) == 1


def test_a_launcher_starts_without_site(tmp_path: Path) -> None:
    """Also from a path with blanks, which the kernel cannot take in a script's first line."""
    spaced = tmp_path / "an environment"
    spaced.mkdir()
    python = spaced / "python"
    python.symlink_to(sys.executable)
    for interpreter in (sys.executable, str(python)):
        code = tmp_path / "code"
        (code / "rootless").mkdir(parents=True, exist_ok=True)
        (code / "rootless/client.py").write_text(
            "import sys\ndef main():\n    print('site' in sys.modules, sys.argv[1:])\n    return 7\n"
        )
        subprocess.run(
            [
                sys.executable, str(CHECKOUT / "contrib/install-launcher"),
                "--python", interpreter, "--code", str(code), str(tmp_path / "bin"),
            ],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        done = subprocess.run([tmp_path / "bin/rcontain", "a b", "--c"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (7, "False ['a b', '--c']\n"), done.stderr


def test_an_interrupt_before_the_launcher_begins_ends_it_without_a_word(launcher: Path) -> None:
    """It is kept back while the interpreter starts, which would print a traceback."""

    def interrupted() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        os.kill(os.getpid(), signal.SIGINT)

    done = subprocess.run([launcher, "--version"], preexec_fn=interrupted, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
    assert "--block-signal=INT" in launcher.read_text()


@pytest.mark.userns
def test_a_process_that_outlives_its_container_is_found(launcher: Path) -> None:
    """Also when neither its environment nor its arguments tell where it came from."""
    command = Rcontain(launcher)
    stray = subprocess.Popen(["unshare", "--user", "env", "-i", "/bin/sleep", "60"], start_new_session=True)
    try:
        while b"sleep" not in Path(f"/proc/{stray.pid}/cmdline").read_bytes().split(b"\0")[0]:
            time.sleep(0.01)
        assert [*command.processes()] == [stray.pid]
    finally:
        stray.kill()
        stray.wait()
    assert command.finish() == []
