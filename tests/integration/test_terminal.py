"""`-t`: job control, window size, keys, and a terminal that is as before after any end."""

from __future__ import annotations

import hashlib
import os
import signal

import pytest

from tests.integration.residue import client_pid
from tests.integration.terminal import Terminal
from tests.kit.command import Rcontain

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]


def terminal(box: Rcontain, *words: str, size: tuple[int, int] = (24, 80)) -> Terminal:
    return Terminal(box.words(*words), box.environment, str(box.home), size=size)


def shell(box: Rcontain) -> Terminal:
    """An interactive bash on the host with job control, its prompt `host>`, and `rc` for our command."""
    environment = {**box.environment, "PS1": "host>", "RC": str(box.launcher)}
    return Terminal(["bash", "--norc", "--noprofile", "--noediting", "-i"], environment, str(box.home))


def test_a_shell_with_a_terminal(auto_box: Rcontain, demo: str) -> None:
    with terminal(auto_box, "run", "-it", "--rm", demo, "sh", size=(31, 97)) as term:
        term.expect("/ #")
        term.type("tty; stty size; echo $TERM; exit 5\r")
        said = term.expect("xterm").decode()
        assert "/dev/pts/0" in said and "31 97" in said
        assert term.wait() == 5
        assert b"\r\r\n" not in term.seen


def test_output_and_error_output_are_one(auto_box: Rcontain, demo: str) -> None:
    with terminal(
        auto_box, "run", "-t", "--rm", demo, "sh", "-c", "echo out; echo err >&2; test -t 0 -a -t 2 && echo tty"
    ) as term:
        assert term.wait() == 0
        assert term.seen == b"out\r\nerr\r\ntty\r\n"


def test_a_terminal_for_a_caller_that_has_none(auto_box: Rcontain, demo: str) -> None:
    """Podman says `the input device is not a TTY`, and goes on."""
    done = auto_box("run", "-t", "--rm", demo, "sh", "-c", "test -t 1 && echo yes")
    assert done.stdout == b"yes\r\n"


def test_the_window_can_be_resized(auto_box: Rcontain, demo: str) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    with terminal(auto_box, "run", "-it", "--rm", "--name", "sized", demo, "sh", "-c", script) as term:
        term.expect("ready")
        term.resize(40, 132)
        term.expect("40 132")
        term.resize(10, 20)
        term.expect("10 20")
        auto_box("kill", "sized")
        assert term.wait() == 137


def test_keys_reach_the_container(auto_box: Rcontain, demo: str) -> None:
    """Ctrl-C interrupts the job inside and not the client; Ctrl-Z stops it, and fg goes on."""
    with terminal(auto_box, "run", "-it", "--rm", demo, "sh") as term:
        term.expect("/ #")
        term.type("sh -c 'echo $((40+1)); sleep 100'\r")
        term.expect("41")
        term.type("\x03")
        term.expect("/ #")
        term.type("sh -c 'trap \"echo again\" CONT; echo $((40+2)); while :; do sleep 0.05; done'\r")
        term.expect("\n42\r")
        term.type("\x1a")
        term.expect("Stopped")
        term.expect("/ #")
        term.type("fg\r")
        term.expect("\nagain\r")
        term.type("\x03")
        term.expect("/ #")
        term.type("exit 3\r")
        assert term.wait() == 3


def test_raw_keys(auto_box: Rcontain, demo: str) -> None:
    """What a full-screen program needs: nothing is translated twice, nothing is eaten."""
    script = "stty raw -echo; echo ready; head -c 6 | sha256sum"
    with terminal(auto_box, "run", "-it", "--rm", demo, "sh", "-c", script) as term:
        term.expect("ready")
        term.type("\x01\x03\x1a\x04\r\n")
        assert term.wait() == 0
    assert hashlib.sha256(b"\x01\x03\x1a\x04\r\n").hexdigest().encode() in term.seen


@pytest.mark.parametrize("end", ["exit", "kill", "signal", "failure", "client", "supervisor"])
def test_the_terminal_is_as_before_after_any_end(auto_box: Rcontain, demo: str, end: str) -> None:
    """The shell that started it is a plain sh, which puts nothing right by itself."""
    inner = "exit 3" if end == "exit" else "echo up; sleep 100"
    command = "nosuch" if end == "failure" else f"sh -c '{inner}'"
    script = f'"$RC" run -it --rm --name ended "$IMAGE" {command}; echo "code=$?"; read line; echo "got $line"'
    environment = {**auto_box.environment, "RC": str(auto_box.launcher), "IMAGE": demo}
    with Terminal(["sh", "-c", script], environment, str(auto_box.home)) as term:
        before = term.settings()
        if end in ("kill", "signal", "client", "supervisor"):
            term.expect("up")
            assert term.await_change(before)
        if end == "kill":
            auto_box("kill", "ended")
        elif end == "signal":
            os.kill(client_pid(auto_box, "ended"), signal.SIGTERM)
            auto_box("kill", "ended")
        elif end == "client":
            os.kill(client_pid(auto_box, "ended"), signal.SIGKILL)
        elif end == "supervisor":
            os.kill(int(auto_box.text("inspect", "-f", "{{.State.SupervisorPid}}", "ended")), signal.SIGKILL)
        code = {"exit": 3, "kill": 137, "signal": 137, "failure": 127, "client": 137, "supervisor": 125}[end]
        term.expect(f"code={code}")
        assert term.await_settings(before)
        term.type("typed\r")
        term.expect("got typed")
        assert term.wait() == 0
    auto_box("rm", "-f", "-t", "0", "ended")


def test_job_control_of_the_callers_shell(auto_box: Rcontain, demo: str) -> None:
    """Without -t the client is an ordinary job: Ctrl-Z stops it, fg goes on, Ctrl-C ends it."""
    with shell(auto_box) as term:
        term.expect("host>")
        term.type(f"$RC run --rm --name job --init {demo} sh -c 'echo up; sleep 100'\r")
        term.expect("\r\nup")
        term.type("\x1a")
        term.expect("Stopped")
        term.expect("host>")
        shell_group = os.tcgetpgrp(term.fd)
        term.type("fg\r")
        term.expect("run --rm")
        term.await_foreground(lambda group: group != shell_group)  # the shell says so before it does so
        term.type("\x03")
        term.expect("host>")
        term.type("echo code=$?\r")
        term.expect("code=130")
        term.type("exit\r")
        assert term.wait() == 0


def test_a_job_in_the_background(auto_box: Rcontain, demo: str) -> None:
    with shell(auto_box) as term:
        term.expect("host>")
        term.type(f"$RC run --rm {demo} sh -c 'echo in the back' & wait; echo code=$?\r")
        term.expect("\r\nin the back")
        term.expect("code=0")
        term.type("exit\r")
        term.wait()


def test_detach_keys(auto_box: Rcontain, demo: str) -> None:
    script = f'"$RC" run -it --name away {demo} sh; echo "code=$?"; read line; echo "got $line"'
    with Terminal(
        ["sh", "-c", script], {**auto_box.environment, "RC": str(auto_box.launcher)}, str(auto_box.home)
    ) as term:
        before = term.settings()
        term.expect("/ #")
        term.type("echo $((40+2))\r")
        term.expect("42")
        term.type("\x10\x11")
        term.expect("code=0")
        assert term.await_settings(before)
        term.type("x\r")
        term.expect("got x")
        term.wait()
    assert auto_box.text("ps", "--format", "{{.Names}}") == "away"
    auto_box("rm", "-f", "-t", "0", "away")


def test_a_terminal_that_goes_away(auto_box: Rcontain, demo: str) -> None:
    """The window is closed: nobody is left to wait for, so the client leaves."""
    with terminal(auto_box, "run", "-it", "--name", "left", demo, "sh") as term:
        term.expect("/ #")
        term.hang_up()
        assert term.ends()
    auto_box("rm", "-f", "-t", "0", "left")


def test_exec_with_a_terminal(auto_box: Rcontain, demo: str) -> None:
    auto_box("run", "-d", "--rm", "--name", "target", demo, "sleep", "100")
    with terminal(auto_box, "exec", "-it", "target", "sh", size=(33, 99)) as term:
        term.expect("/ #")
        term.type("stty size; tty\r")
        term.expect("33 99")
        term.resize(20, 70)
        term.type("stty size\r")
        term.expect("20 70")
        term.type("exit 9\r")
        assert term.wait() == 9
    auto_box("kill", "target")


def test_start_attached_to_a_terminal(auto_box: Rcontain, demo: str) -> None:
    auto_box("create", "-it", "--name", "later", demo, "sh")
    with terminal(auto_box, "start", "-ai", "later", size=(33, 99)) as term:
        term.expect("/ #")
        term.type("stty size; exit 4\r")
        term.expect("33 99")
        assert term.wait() == 4
    auto_box("rm", "later")


def test_flags_of_the_terminal_are_sane(auto_box: Rcontain, demo: str) -> None:
    with terminal(auto_box, "run", "-it", "--rm", demo, "stty", "-a") as term:
        assert term.wait() == 0
        words = term.seen.decode().replace(";", " ").split()
        assert {"icanon", "echo", "isig", "opost", "onlcr", "icrnl"} <= set(words)
