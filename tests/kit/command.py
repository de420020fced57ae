"""An `rcontain` of one's own: the installed command with directories that no other test shares.

`Rcontain` runs the command as a user would, in a subprocess, and can say what it left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.kit.leaks import command_line

PREFIX = "rc-"
CHECKOUT = Path(__file__).resolve().parents[2]


def install_launchers(directory: Path) -> Path:
    """Launchers of this checkout and interpreter, as contrib/quickstart makes them. Returns the path of `rcontain`."""
    subprocess.run(
        [
            sys.executable, str(CHECKOUT / "contrib/install-launcher"),
            "--python", sys.executable, "--code", str(CHECKOUT), str(directory),
        ],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return directory / "rcontain"


class Rcontain:
    """The command, with its own store, runtime directory, home and configuration.

    `home`, `data` and `runtime` are the directories; `environment` is the whole environment the command sees.
    """

    def __init__(self, launcher: Path) -> None:
        # Socket names have 108 bytes (unix(7)), so the directory is short and not below pytest's.
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        self._before = frozenset(_pids())
        self.launcher = launcher
        self.home = self.root / "home"
        self.data = self.root / "data"
        self.runtime = self.root / "run"
        for directory in (self.home, self.data, self.runtime):
            directory.mkdir(mode=0o700)
        self.environment: dict[str, str] = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"),
            "HOME": str(self.home),
            "XDG_DATA_HOME": str(self.data),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }

    def __repr__(self) -> str:
        return f"Rcontain({self.root})"

    def words(self, *arguments: str) -> list[str]:
        """The argument vector of a command, for tests that start it themselves (a terminal, a signal)."""
        return [str(self.launcher), *arguments]

    def __call__(
        self,
        *arguments: str,
        input: bytes | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `rcontain ARGUMENTS` to its end. With `check` a status other than 0 fails the test and shows stderr."""
        done = subprocess.run(
            self.words(*arguments),
            input=b"" if input is None else input,
            capture_output=True,
            env={**self.environment, **(env or {})},
            cwd=cwd or self.home,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"rcontain {' '.join(arguments)} ended with {done.returncode}\n"
                f"stdout: {done.stdout.decode(errors='replace')}\nstderr: {done.stderr.decode(errors='replace')}"
            )
        return done

    def text(self, *arguments: str, input: bytes | None = None) -> str:
        """The standard output of a command that must succeed, without the last newline."""
        return self(*arguments, input=input).stdout.decode().removesuffix("\n")

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command that runs meanwhile; ended, if it still runs, when the block is left."""
        with subprocess.Popen(
            self.words(*arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=self.environment, cwd=self.home,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()
                    try:
                        process.wait(20)
                    except subprocess.TimeoutExpired:
                        process.kill()

    def processes(self) -> dict[int, str]:
        """Living processes of ours with their command lines.

        Those are the ones whose command line or environment names our directory, and, since a container's own processes
        name nothing of ours, every process of this login that came since and is in another user namespace. A zombie
        holds nothing any more, and how soon process 1 of this machine looks after it is not ours to say.
        """
        found = [pid for pid in _pids() - {os.getpid()} if self._is_ours(pid) and not _is_zombie(pid)]
        return {pid: command_line(pid) for pid in found}

    def _is_ours(self, pid: int) -> bool:
        environment = _read(f"/proc/{pid}/environ")
        if any(os.fsencode(self.root) in text for text in (environment, _read(f"/proc/{pid}/cmdline"))):
            return True
        of_another_test = f"/tmp/{PREFIX}".encode() in environment
        return pid not in self._before and not of_another_test and _is_contained(pid)

    def mounts(self) -> list[str]:
        """Mounts below our directory that this process sees."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return [line.rstrip("\n") for line in file if f" {self.root}" in line]

    def leftovers(self, *, patience: float = 5.0) -> list[str]:
        """One line for each process or mount that is left. Waits up to `patience` seconds for what is going away."""
        deadline = time.monotonic() + patience
        while True:
            found = [f"process {pid}: {words}" for pid, words in self.processes().items()]
            found += [f"mount {line}" for line in self.mounts()]
            if not found or time.monotonic() >= deadline:
                return found
            time.sleep(0.02)

    def finish(self) -> list[str]:
        """Remove every container, stop the engine, and return what is left all the same, ended by force."""
        if any(self.data.iterdir()) or any(self.runtime.iterdir()):
            self("rm", "--all", "--force", check=False)
            self("engine", "stop", check=False)
        found = self.leftovers()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self._remove()
        return found

    def _remove(self) -> None:
        """Files of subordinate ids cannot be removed by their owner's process outside of a user namespace."""
        shutil.rmtree(self.root, ignore_errors=True)
        if self.root.exists():
            subprocess.run(
                ["unshare", "--user", "--map-auto", "--map-root-user", "rm", "-rf", "--", str(self.root)],
                check=False,
            )


def _pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def _is_zombie(pid: int) -> bool:
    """proc(5), stat, field 3; one that is gone by now counts too."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:1] in ([b"Z"], [b"X"], [])


def _is_contained(pid: int) -> bool:
    """Whether a process belongs to this login, by its cgroup, and is in a user namespace that is not ours."""
    group = _cgroup("self")
    if group is None or not (_cgroup(str(pid)) or "").startswith(group):
        return False
    try:
        return os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    except PermissionError:
        return True  # not dumpable, or somebody else's: a subordinate id
    except (FileNotFoundError, ProcessLookupError):
        return False


def _cgroup(pid: str) -> str | None:
    """The cgroup v2 of a process; for one in a leaf, as contrib/asuser makes it, the group that the leaf divides."""
    for line in _read(f"/proc/{pid}/cgroup").decode(errors="replace").splitlines():
        if line.startswith("0::/") and line != "0::/":
            return line.removeprefix("0::").removesuffix("/leaf")
    return None


def _read(path: str) -> bytes:
    """A file of /proc; empty where the process is gone or hides it (proc(5): another user's, or not dumpable)."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return b""
