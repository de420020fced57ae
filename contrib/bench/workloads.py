"""What contrib/bench/fs has each file system do: scenarios, each of which yields figures for rows of the table."""

from __future__ import annotations

import json
import mmap
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from contenders import Contender, clear, mounted
from material import PACKAGES, Material

Samples = Iterator[tuple[str, float]]
"""(key of a row, seconds or bytes)."""


class Kind(Enum):
    """Which targets hold for a row."""

    MOUNT = "mount"
    READ = "read"
    WARM_READ = "warm read"
    WRITE = "write"
    ALONE = "alone"


TARGETS: dict[Kind, tuple[float | None, float | None]] = {
    Kind.MOUNT: (1.0, None),
    Kind.READ: (0.7, None),
    Kind.WARM_READ: (0.7, 1.5),
    Kind.WRITE: (1.0, None),
    Kind.ALONE: (None, None),
}
"""At most this, times fuse-overlayfs and times the kernel overlay."""


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    title: str
    kind: Kind
    limit: float | None = None
    """Seconds or bytes."""
    unit: str = "s"


ROWS = (
    Row("mount-few", "mount until ready, {few:,} files", Kind.MOUNT, 0.030, "ms"),
    Row("mount-many", "mount until ready, {many:,} files", Kind.ALONE, 0.050, "ms"),
    Row("memory", "memory of the server (RSS), {many:,} files mounted", Kind.ALONE, 60e6, "MB"),
    Row("memory-known", "the same after `ls -lR` of all", Kind.ALONE, 60e6, "MB"),
    Row("find-cold", "`find`, cold", Kind.READ),
    Row("find-warm", "`find`, warm", Kind.WARM_READ),
    Row("stat-warm", "`find -newer`, which stats, warm", Kind.WARM_READ),
    Row("cat-cold", "`cat` of all, cold", Kind.READ),
    Row("cat-warm", "`cat` of all, warm", Kind.WARM_READ),
    Row("tar-cold", "`tar` of all, cold", Kind.READ),
    Row("import-cold", "Python imports 300 modules, cold", Kind.READ),
    Row("import-warm", "Python imports 300 modules, warm", Kind.WARM_READ),
    Row("untar", "untar of {unpacked:,} files", Kind.WRITE),
    Row("rm", "`rm -rf` of them", Kind.WRITE),
    Row("checkout", "`git checkout` of {checkout:,} files", Kind.WRITE),
    Row("write", "write {sequential_mib:,} MiB", Kind.WRITE),
    Row("read", "read {sequential_mib:,} MiB, cold", Kind.READ),
    Row("random-read", "fio, 4 KiB random read, {random_mib} MiB", Kind.READ),
    Row("random-write", "fio, 4 KiB random write, {random_mib} MiB", Kind.WRITE),
    Row("install", "`apt-get install` of 4 packages, {packaged:,} files", Kind.WRITE),
    Row("make", "`make -j2` of {sources} C files", Kind.WRITE),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    rows: tuple[str, ...]
    run: Callable[[Contender, Material, str], Samples]
    programs: tuple[str, ...] = ()
    """What has to be installed for it."""
    only: tuple[str, ...] = ()
    """The contenders that it is for; all where empty."""


def timed(*command: str, cwd: str) -> float:
    """Seconds of a command that has to succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - started
    if done.returncode:
        output = done.stdout.decode(errors="replace")[-2000:]
        raise SystemExit(f"bench: {shlex.join(command)} in {cwd} ended with {done.returncode}:\n{output}")
    return seconds


def shell(line: str, cwd: str) -> float:
    return timed("sh", "-c", line, cwd=cwd)


def settle(path: str) -> None:
    """Let the disk finish with what came before, outside of the clock."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    subprocess.run(["sync", "--file-system", path], check=True)


def have_memory(size: int) -> None:
    """Let the machine have `size` bytes of free memory at hand, outside of the clock.

    A virtual machine may first have to get it from its host: that takes 2 s for a GiB, and hits whoever comes first.
    """
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


# Scenarios. Each mounts freshly, so nothing is known to the kernel of what is in the mount: that is what "cold" means.
# "Warm" is what comes after that, by the median of a few passes. The first of them is slower than the rest: what has
# been read has another atime, so Linux asks a FUSE server once for the attributes of each file.

WARM_PASSES = 3


def warm(once: Callable[[], float]) -> float:
    return statistics.median(once() for _ in range(WARM_PASSES))


def mounting(contender: Contender, material: Material, base: str) -> Samples:
    with mounted(contender, material.few, base) as mount:
        yield "mount-few", mount.seconds


def many(contender: Contender, material: Material, base: str) -> Samples:
    with mounted(contender, material.many, base) as mount:
        yield "mount-many", mount.seconds
        yield "memory", mount.memory()
        shell("ls -lR >/dev/null", mount.path)
        yield "memory-known", mount.memory()


def names(contender: Contender, material: Material, base: str) -> Samples:
    with mounted(contender, material.large, base) as mount:
        yield "find-cold", shell("find . >/dev/null", mount.path)
        yield "find-warm", warm(lambda: shell("find . >/dev/null", mount.path))
        yield "stat-warm", warm(lambda: shell("find . -newer modules >/dev/null", mount.path))


def contents(contender: Contender, material: Material, base: str) -> Samples:
    everything = "find . -type f -print0 | xargs -0 cat >/dev/null"
    with mounted(contender, material.large, base) as mount:
        yield "cat-cold", shell(everything, mount.path)
        yield "cat-warm", warm(lambda: shell(everything, mount.path))


def packing(contender: Contender, material: Material, base: str) -> Samples:
    with mounted(contender, material.large, base) as mount:
        yield "tar-cold", shell("tar -cf - . | cat >/dev/null", mount.path)


IMPORTS = """
import sys, time
sys.path.insert(0, "modules")
started = time.perf_counter()
import everything
print(time.perf_counter() - started)
"""


def importing(contender: Contender, material: Material, base: str) -> Samples:
    """Without the interpreter's own start, which comes from elsewhere."""
    command = [sys.executable, "-I", "-S", "-B", "-c", IMPORTS]

    def seconds() -> float:
        return float(subprocess.run(command, cwd=mount.path, stdout=subprocess.PIPE, check=True).stdout)

    with mounted(contender, material.large, base) as mount:
        yield "import-cold", seconds()
        yield "import-warm", warm(seconds)


def unpacking(contender: Contender, material: Material, base: str) -> Samples:
    with mounted(contender, material.large, base) as mount:
        os.mkdir(f"{mount.path}/unpacked")
        yield "untar", timed("tar", "-xf", material.tar, "-C", "unpacked", cwd=mount.path)
        settle(base)
        yield "rm", timed("rm", "-rf", "unpacked", cwd=mount.path)


def checkout(contender: Contender, material: Material, base: str) -> Samples:
    git = ["git", "-c", "safe.directory=*", "-c", "core.fsync=none", "-C", "repository"]
    with mounted(contender, material.large, base) as mount:
        yield "checkout", timed(*git, "checkout", "--quiet", "--force", "main", cwd=mount.path)


def sequential(contender: Contender, material: Material, base: str) -> Samples:
    count = material.scale.sequential >> 20
    have_memory(2 * material.scale.sequential)
    with mounted(contender, material.few, base) as mount:
        yield "write", timed("dd", "if=/dev/zero", "of=file", "bs=1M", f"count={count}", cwd=mount.path)
    settle(base)
    have_memory(2 * material.scale.sequential)
    with mounted(contender, material.few, base) as mount:
        yield "read", timed("dd", "if=file", "of=/dev/null", "bs=1M", cwd=mount.path)


def random_access(contender: Contender, material: Material, base: str) -> Samples:
    with mounted(contender, material.few, base) as mount:
        _fio(mount.path, "write", material.scale.random)
    settle(base)
    with mounted(contender, material.few, base) as mount:
        yield "random-read", _fio(mount.path, "randread", material.scale.random)
    with mounted(contender, material.few, base) as mount:
        yield "random-write", _fio(mount.path, "randwrite", material.scale.random)


def _fio(path: str, kind: str, size: int) -> float:
    """Seconds of the input and output alone, with the fsync at the end; fio's start takes longer than some of it."""
    command = ["fio", "--name=bench", "--filename=data", f"--rw={kind}", f"--size={size}", "--ioengine=psync",
               f"--bs={'1m' if kind == 'write' else '4k'}", "--invalidate=0", "--end_fsync=1", "--randseed=1",
               "--output-format=json"]  # fmt: skip
    done = subprocess.run(command, cwd=path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return max(1, int(job["job_runtime"])) / 1000


APT = """
Dir "{root}";
Dir::Bin::dpkg "dpkg";
Dir::Bin::methods "/usr/lib/apt/methods";
APT::Sandbox::User "root";
Acquire::Languages "none";
Dpkg::Use-Pty "false";
Dpkg::Options {{ "--root={root}"; "--log={root}/var/log/dpkg.log"; }};
"""
"""apt.conf(5) for a root file system other than the one that apt-get runs in."""


def installing(contender: Contender, material: Material, base: str) -> Samples:
    with mounted(contender, material.large, base) as mount:
        with open(f"{base}/apt.conf", "w") as file:
            file.write(APT.format(root=mount.path))
        with open(f"{mount.path}/etc/apt/sources.list", "w") as file:
            file.write(f"deb [trusted=yes] file:{os.path.abspath(material.packages)} ./\n")
        apt = ["env", f"APT_CONFIG={base}/apt.conf", "apt-get", "--quiet"]
        timed(*apt, "update", cwd=base)
        yield "install", timed(*apt, "--yes", "install", f"bench-{PACKAGES - 1}", cwd=base)
        if not os.path.exists(f"{mount.path}/usr/share/bench-0"):
            raise SystemExit("bench: apt-get installed nothing")


def building(contender: Contender, material: Material, base: str) -> Samples:
    with mounted(contender, material.large, base) as mount:
        yield "make", timed("make", "-s", "-j2", "-C", "project", cwd=mount.path)


SCENARIOS = (
    Scenario("mounting", ("mount-few",), mounting),
    Scenario("many files", ("mount-many", "memory", "memory-known"), many, only=("packed", "fuse", "pyfuse3")),
    Scenario("names", ("find-cold", "find-warm", "stat-warm"), names),
    Scenario("contents", ("cat-cold", "cat-warm"), contents),
    Scenario("tar", ("tar-cold",), packing),
    Scenario("import", ("import-cold", "import-warm"), importing),
    Scenario("untar and rm", ("untar", "rm"), unpacking),
    Scenario("git checkout", ("checkout",), checkout, ("git",)),
    Scenario("sequential", ("write", "read"), sequential),
    Scenario("random access", ("random-read", "random-write"), random_access, ("fio",)),
    Scenario("install", ("install",), installing, ("apt-get", "dpkg-deb")),
    Scenario("make", ("make",), building, ("make", "gcc")),
)


def missing(scenario: Scenario) -> list[str]:
    return [program for program in scenario.programs if shutil.which(program) is None]


def run(scenario: Scenario, contender: Contender, material: Material, base: str) -> dict[str, float]:
    """One round: the figures of one scenario for one contender, which leaves nothing at `base`."""
    os.mkdir(base)
    try:
        return dict(scenario.run(contender, material, base))
    finally:
        clear(base)
