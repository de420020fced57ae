"""Work as root of a user namespace: what a privileged test needs, without any privilege of the host.

    def work() -> str: ...
    text = in_namespaces(work)

`work` runs in a forked child that is uid 0 of a new user namespace, with a mount namespace of its own, and with the
user's subordinate ids mapped from 1 on. What it returns or raises comes back (it must be picklable). With
`extra=Clone.NEWPID` its whole process tree ends with it; its mounts always do.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import pwd
import select
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from enum import IntFlag
from typing import TypeVar

Result = TypeVar("Result")
PATIENCE = 110.0  # seconds: what pyproject.toml allows a test, and a little less


class Clone(IntFlag):
    """namespaces(7)."""

    NONE = 0
    NEWNS = 0x00020000
    NEWUTS = 0x04000000
    NEWIPC = 0x08000000
    NEWUSER = 0x10000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000


_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1  # prctl(2)


class WorkFailed(AssertionError):
    """The function raised; the message is its traceback in the child."""


def in_namespaces(
    work: Callable[[], Result],
    *,
    extra: Clone = Clone.NONE,
    single_id: bool = False,
    patience: float = PATIENCE,
) -> Result:
    """Run `work` as root of new user and mount namespaces, and of the namespaces in `extra`.

    With `single_id` only this user is mapped, as for one without subordinate ids. Raises WorkFailed if `work` raises,
    and if it has not ended after `patience` seconds: then its process is killed, and the message says where it was.
    """
    ready_read, ready_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    result_read, result_write = os.pipe()
    child = os.fork()
    if child == 0:
        for fd in (ready_read, mapped_write, result_read):
            os.close(fd)
        _child(work, extra, ready_write, mapped_read, result_write)
    for fd in (ready_write, mapped_read, result_write):
        os.close(fd)
    try:
        with open(ready_read, "rb") as ready:
            if ready.read() != b"ready":
                raise WorkFailed("the child could not enter its namespaces")
        _map(child, single_id=single_id)
        os.write(mapped_write, b"mapped")
        os.close(mapped_write)
        mapped_write = -1
        outcome = _read(result_read, patience)
        if outcome is None:
            raise WorkFailed(f"the child has not ended after {patience:g} seconds; it was in {_where(child)}")
    except BaseException:
        os.kill(child, signal.SIGKILL)  # a timeout of the test's own may have come before; it must not wait for ever
        raise
    finally:
        if mapped_write != -1:
            os.close(mapped_write)
        os.close(result_read)
        _, status = os.waitpid(child, 0)
    if not outcome:
        raise WorkFailed(f"the child ended with wait status {status} and said nothing")
    ok, value = pickle.loads(outcome)
    if not ok:
        raise WorkFailed(value)
    return value  # type: ignore[no-any-return]


def _read(fd: int, patience: float) -> bytes | None:
    """Everything until the end; None where that does not come in time."""
    deadline = time.monotonic() + patience
    pieces = []
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return None
        piece = os.read(fd, 1 << 16)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def _where(pid: int) -> str:
    """In which system calls a process and its children are, as the kernel names them."""
    places = []
    for each in (pid, *_children(pid)):
        try:
            with open(f"/proc/{each}/wchan", encoding="ascii") as file:
                places.append(f"{each}: {file.read() or '?'}")
        except OSError:
            places.append(f"{each}: ?")
    return ", ".join(places)


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _child(work: Callable[[], object], extra: Clone, ready: int, mapped: int, result: int) -> None:
    """Never returns. With a new process id namespace a second fork makes the worker its init."""
    code = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _unshare(Clone.NEWUSER | Clone.NEWNS | extra)
        os.write(ready, b"ready")
        os.close(ready)
        if os.read(mapped, 16) != b"mapped":
            os._exit(1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        if extra & Clone.NEWPID:
            worker = os.fork()
            if worker:
                os._exit(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) & 0xFF)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            message = pickle.dumps((True, work()))
        except BaseException:  # noqa: BLE001  the parent shows it
            message = pickle.dumps((False, traceback.format_exc()))
        with open(result, "wb") as file:
            file.write(message)
        code = 0
    finally:
        os._exit(code)


def _unshare(flags: int) -> None:
    if _libc.unshare(int(flags)) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), "unshare")


def _map(pid: int, *, single_id: bool) -> None:
    for program, path, own, kind in (
        ("newuidmap", "/etc/subuid", os.getuid(), "uid"),
        ("newgidmap", "/etc/subgid", os.getgid(), "gid"),
    ):
        if single_id:
            if kind == "gid":
                _write(f"/proc/{pid}/setgroups", "deny")
            _write(f"/proc/{pid}/{kind}_map", f"0 {own} 1")
            continue
        words = [program, str(pid), "0", str(own), "1"]
        inside = 1
        for first, count in _ranges(path):
            words += [str(inside), str(first), str(count)]
            inside += count
        subprocess.run(words, check=True)


def _ranges(path: str) -> list[tuple[int, int]]:
    """subuid(5), subgid(5): both name the user, by name or by user id."""
    names = {str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name}
    with open(path, encoding="utf-8") as file:
        lines = [line.strip().split(":") for line in file]
    return [(int(words[1]), int(words[2])) for words in lines if len(words) == 3 and words[0] in names]


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
