"""Measures from inside: started once as the user in question, it then runs what it is told, so that no wrapper's time
(su, sudo, a chroot) is in a figure.

One JSON document a line on standard input, one answer a line on standard output:

    {"run": [ARGV, ...]}    start all of them at once, wait for all: {"seconds", "statuses", "output"}
    {"first": ARGV}         one command: {"seconds" until its first output, "status", "output"}
    {"store": null}         {"bytes": that the store holds on disk, "files": in it, "written": to its disk so far}
    {"hello": null}         {"ids": [[first, count], ...], "pids": [...]}: the user's host ids and processes
    {"memory": {"before": [PID, ...], "payload": ARGV}}     see `memory`

Images and containers go to a store of their own, beside the user's and gone at the end, so the user's are neither seen
nor touched. Standard library only, Python 3.9 or later: it may run on another distribution than the rest.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

Ranges = list[list[int]]


def run(commands: list[list[str]]) -> dict[str, Any]:
    """Start the commands at once and wait for all. The clock stops when the last one has ended."""
    with tempfile.TemporaryFile() as output:
        null = os.open(os.devnull, os.O_RDONLY)
        actions = [
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
        ]
        programs = [shutil.which(words[0]) or words[0] for words in commands]
        started = time.perf_counter()
        children = [
            os.posix_spawn(program, words, os.environ, file_actions=actions)
            for program, words in zip(programs, commands)  # noqa: B905  Python 3.9
        ]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        seconds = time.perf_counter() - started
        os.close(null)
        output.seek(0)
        return {"seconds": seconds, "statuses": statuses, "output": output.read().decode(errors="replace")}


def first(words: list[str]) -> dict[str, Any]:
    """Run one command. The clock stops at the first byte that it writes to its standard output."""
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        assert child.stdout is not None
        output = os.read(child.stdout.fileno(), 65536)
        seconds = time.perf_counter() - started
        output += child.stdout.read()
        child.stdout.close()
        status = child.wait()
        errors.seek(0)
        return {"seconds": seconds, "status": status, "output": (output + errors.read()).decode(errors="replace")}


def store_size() -> dict[str, int]:
    """What the store holds, and how much its whole disk has had to write, whoever wrote it (block/stat in the kernel's
    documentation). Needs a quiet machine."""
    store = os.environ["XDG_DATA_HOME"]
    os.sync()
    inside = ["unshare", "--user", "--map-auto", "--map-root-user"]
    held = subprocess.run([*inside, "du", "-sk", store], capture_output=True, text=True, check=False).stdout
    listed = subprocess.run(
        [*inside, "find", store, "-mindepth", "1", "-printf", "x"], capture_output=True, check=False
    )
    device = os.stat(store).st_dev
    written = 0
    try:
        with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat") as file:
            written = int(file.read().split()[6]) * 512
    except FileNotFoundError:
        pass  # no disk behind it: a tmpfs, or several devices
    return {"bytes": int(held.split()[0]) * 1024, "files": len(listed.stdout), "written": written}


def host_ids() -> Ranges:
    """The ids that this user's processes can have: its own, and subuid(5)."""
    uid = os.getuid()
    names = (str(uid), pwd.getpwuid(uid).pw_name)
    ids = [[uid, 1]]
    if os.path.exists("/etc/subuid"):
        with open("/etc/subuid") as file:
            for line in file:
                words = line.strip().split(":")
                if len(words) == 3 and words[0] in names:
                    ids.append([int(words[1]), int(words[2])])
    return ids


def processes(ids: Ranges) -> dict[int, list[str]]:
    """Process ids of all processes with a real uid in the ranges `ids`, with their argument vectors."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/status") as file:
                uid = next(int(line.split()[1]) for line in file if line.startswith("Uid:"))
            if any(first <= uid < first + count for first, count in ids):
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    found[int(name)] = [word.decode(errors="replace") for word in file.read().split(b"\0")[:-1]]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def memory(ids: Ranges, before: set[int], payload: list[str]) -> dict[str, Any]:
    """PSS in bytes of every process that is not in `before` and not a container's own (whose arguments are `payload`).

    The answer maps a name, the program's or the script's, to [processes, bytes]. `hidden` counts processes whose memory
    this user may not see; proc(5) shows everything to root.
    """
    found: dict[str, list[int]] = {}
    hidden = 0
    for pid, words in processes(ids).items():
        if pid in before or words == payload or not words or pid == os.getpid():
            continue
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                pss = sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
            with open(f"/proc/{pid}/comm") as file:
                name = file.read().strip()
        except PermissionError:
            hidden += 1
            continue
        except (FileNotFoundError, ProcessLookupError):
            continue
        entry = found.setdefault(name, [0, 0])
        entry[0] += 1
        entry[1] += pss
    return {"processes": found, "hidden": hidden}


def new_store() -> str:
    """A fresh data home on the filesystem where the user's is; both tools keep images and containers below it."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    os.makedirs(home, exist_ok=True)
    return tempfile.mkdtemp(prefix="bench-", dir=home)


def remove(store: str) -> None:
    """What is in it may belong to subordinate ids: done as root of a user namespace (unshare(1), util-linux 2.38)."""
    subprocess.run(["unshare", "--user", "--map-auto", "--map-root-user", "rm", "-rf", "--", store], check=False)


def serve() -> None:
    ids = host_ids()
    store = os.environ["XDG_DATA_HOME"] = new_store()
    try:
        answer_all(ids)
    finally:
        remove(store)


def answer_all(ids: Ranges) -> None:
    for line in sys.stdin:
        (kind, value), *_ = json.loads(line).items()
        if kind == "run":
            answer = run(value)
        elif kind == "first":
            answer = first(value)
        elif kind == "store":
            answer = store_size()
        elif kind == "hello":
            answer = {"ids": ids, "pids": sorted(processes(ids))}
        else:
            answer = memory(ids, set(value["before"]), value["payload"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
