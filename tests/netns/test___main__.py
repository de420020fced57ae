"""`python -m netns` as slirp4netns(1) would be used, by an ordinary user and with no helper."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns.__main__ import main
from tests.netns.command import ENVIRONMENT, FETCH, a_guest, in_guest, serve_once, slirp

pytestmark = [pytest.mark.userns, pytest.mark.tun]


@pytest.fixture
def guest() -> Iterator[int]:
    with a_guest() as pid:
        yield pid


def test_configured_by_process_id(guest: int) -> None:
    port = serve_once(b"hello")
    with slirp(
        "-c", "-m", "9000", "-6", "--cidr", "10.9.8.0/24", "--macaddress", "02:00:00:00:00:07", str(guest), "tun9"
    ):
        text = in_guest(guest, "ip", "address", "show", "tun9")
        for part in ("10.9.8.100/24", "fd00::100/64", "mtu 9000", "02:00:00:00:00:07"):
            assert part in text
        assert in_guest(guest, sys.executable, "-c", FETCH.format("10.9.8.2", port)).strip() == "hello"


def test_a_signal_ends_it_and_the_capture_is_whole(guest: int, tmp_path: Path) -> None:
    path, api = tmp_path / "pcap", tmp_path / "api"
    words = [sys.executable, "-m", "netns", "-c", "-r", "1", "-a", str(api), "--pcap", str(path), str(guest)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None and process.stdout.read(1) == b"1"
        assert "1 packets received" in in_guest(guest, "busybox", "ping", "-c", "1", "10.0.2.2")
        process.terminate()
        assert process.wait(20) == 0
    assert not api.exists()
    data = path.read_bytes()
    assert data[:4] == b"\n\r\r\n" and data.count(b"\x08\x00\x45\x00") >= 2


def test_by_path_and_unconfigured(guest: int) -> None:
    with slirp("--netns-type=path", f"--userns-path=/proc/{guest}/ns/user", f"/proc/{guest}/ns/net", "tap7"):
        assert "state DOWN" in in_guest(guest, "ip", "link", "show", "tap7")


@pytest.mark.parametrize(
    "words",
    [["-c", "no-pid"], ["-c", "999999999"], ["--netns-type=path", "/nonexistent"], ["-m", "9", "1"],
     ["--cidr", "x", "1"], ["--outbound-addr", "::1", "1"], ["--outbound-addr6", "a/b", "1"]],
)  # fmt: skip
def test_errors_are_one_sentence(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    error = capfd.readouterr().err
    assert error.startswith("rcontain-slirp: ") and error.count("\n") == 1


def test_the_version_is_what_engines_look_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    lines = capsys.readouterr().out.splitlines()
    assert left.value.code == 0 and lines[0] == "slirp4netns version 1.2.1"
    assert any(line.startswith("SLIRP_CONFIG_VERSION_MAX: ") for line in lines)


def test_old_names_of_options_work_and_say_so(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--no-host-loopback", "--create-sandbox", "no-pid"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line.rpartition(" ")[2] for line in lines[:2]] == ["--disable-host-loopback", "--enable-sandbox"]
    assert "no-pid" in lines[2] and len(lines) == 3


def test_it_can_do_no_more_than_it_needs(guest: int) -> None:
    with slirp("-c", str(guest)) as process, open(f"/proc/{process.pid}/status") as file:
        status = file.read()
    assert "CapPrm:\t0000000000000000" in status and "NoNewPrivs:\t1" in status


def test_confined_it_still_serves(guest: int) -> None:
    port = serve_once(b"hello")
    with slirp("-c", "--enable-sandbox", "--enable-seccomp", str(guest)) as process:
        with open(f"/proc/{process.pid}/status") as file:
            assert "Seccomp:\t2\n" in file.read()
        assert in_guest(guest, sys.executable, "-c", FETCH.format("10.0.2.2", port)).strip() == "hello"


def test_rules_for_what_may_be_reached(guest: int) -> None:
    port, other = serve_once(b"hello"), serve_once(b"hello")
    with slirp("-c", "--egress", f"allow=10.0.2.2:{port}", str(guest)):
        assert in_guest(guest, sys.executable, "-c", FETCH.format("10.0.2.2", port)).strip() == "hello"
        with pytest.raises(subprocess.CalledProcessError):
            in_guest(guest, sys.executable, "-c", FETCH.format("10.0.2.2", other))
    with socket.create_connection(("127.0.0.1", other), 10) as sock:
        assert sock.recv(10) == b"hello"  # nobody came before


def test_a_small_mtu_is_without_ipv6(guest: int) -> None:
    with slirp("-c", "-m", "1000", "-6", str(guest)):
        text = in_guest(guest, "ip", "address", "show", "tap0")
        assert "mtu 1000" in text and "10.0.2.100/24" in text and "inet6 fd00" not in text


def test_what_it_complains_of_is_said_on_stderr(guest: int) -> None:
    words = [sys.executable, "-m", "netns", "-c", "-r", "1", "--pcap", "/dev/full", str(guest)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True) as process:
        assert process.stdout is not None and process.stdout.read(1) == "1"
        assert "1 packets received" in in_guest(guest, "busybox", "ping", "-c", "1", "10.0.2.2")
        process.terminate()
        assert process.wait(20) == 0 and process.stderr is not None
        assert process.stderr.read() == "rcontain-slirp: the capture of packets has ended: No space left on device\n"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-r", "77"], "--ready-fd=77 names no open descriptor"),
        (["-e", "77"], "--exit-fd=77 names no open descriptor"),
        (["-e", "FILE"], "cannot wait for the end of --exit-fd=FILE: Operation not permitted"),
        (["-r", "FILE"], "cannot write to --ready-fd=FILE: Bad file descriptor"),
        (["--outbound-addr", "nosuchif0"], "cannot send from nosuchif0: there is no such interface"),
        (["--outbound-addr", "203.0.113.5"], "cannot send from 203.0.113.5: Cannot assign requested address"),
        (["--outbound-addr6", "2001:db8:5::1"], "cannot send from 2001:db8:5::1: Cannot assign requested address"),
        (["-a", "README"], "cannot listen at README: there is something else than a socket"),
        (["-a", "x" * 200], f"cannot listen at {'x' * 200}: AF_UNIX path too long"),
        (["--netns-type=path", "/etc/passwd"], "/etc/passwd is not a network namespace"),
        (["--netns-type=path", "/proc/self/ns/uts"], "/proc/self/ns/uts is not a network namespace"),
    ],
)
def test_what_cannot_be(guest: int, tmp_path: Path, options: list[str], sentence: str) -> None:
    (tmp_path / "README").write_text("mine")
    with open(tmp_path / "README") as file:
        number = str(file.fileno())
        words = [number if option == "FILE" else option for option in options]
        target = [] if "--netns-type=path" in options else [str(guest)]
        done = subprocess.run(
            [sys.executable, "-m", "netns", *words, *target],
            capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, timeout=30, pass_fds=(file.fileno(),),
            check=False,
        )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith(f"rcontain-slirp: {sentence.replace('FILE', number)}")
    assert "Traceback" not in done.stderr and (tmp_path / "README").read_text() == "mine"
