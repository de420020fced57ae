"""What contrib/bench/fs measures with: trees of files in layers, archives of them, a tar, a package, a repository.

All of it is the same each time on one machine: the large tree is a choice from what is installed there, the rest is
made from a seed. Layers are named by number, bottom first.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import traceback
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from fuse.entry import Entry
from fuse.frames import FramesWriter
from fuse.indexwriter import IndexWriter
from rootless.oci.tar import TarEntry, TarParser

SOURCES = ("/usr/share", "/usr/lib")
"""Where the files of the large tree come from, taken in turn."""

VERSION = 2
"""Counted up when other material is made."""

MODULES = 300
PACKAGES = 4
LARGEST = 4 << 20
"""Bytes of the largest file that is taken."""

VOCABULARY = 4000


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is of everything."""

    files: int = 28_000
    size: int = 700 << 20
    """Bytes in `files`."""
    few: int = 1000
    many: int = 200_000
    unpacked: int = 28_000
    checkout: int = 10_000
    sources: int = 60
    packaged: int = 1200
    sequential: int = 1 << 30
    random: int = 128 << 20


QUICK = Scale(
    files=300, size=4 << 20, few=100, many=2000, unpacked=200, checkout=100, sources=3, packaged=40,
    sequential=8 << 20, random=1 << 20,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stack:
    """The same layers, topmost first, as directories and as archives (index, frames)."""

    trees: list[str]
    archives: list[tuple[str, str]]


class Material:
    """Everything there is, below one directory; made when it is not there yet."""

    def __init__(self, directory: str, scale: Scale) -> None:
        self.directory = directory
        self.scale = scale
        self.tar = f"{directory}/unpacked.tar"
        self.packages = f"{directory}/packages"

    def make(self) -> None:
        complete = Path(self.directory, "complete")
        wanted = f"{VERSION} {self.scale} {sys.implementation.cache_tag}\n"
        if complete.exists():
            if complete.read_text() != wanted:
                raise SystemExit(f"bench: {self.directory} holds material of another kind; remove it, or name another")
            return
        child = os.fork()  # the servers are forked from this process, so it had better stay small
        if child == 0:
            status = 1
            try:
                self._make()
                complete.write_text(wanted)
                status = 0
            except BaseException:  # noqa: BLE001  shown, then told by the status
                traceback.print_exc()
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("bench: there is nothing to measure with; the reason is above")

    def _make(self) -> None:
        os.makedirs(self.directory, exist_ok=True)
        self._large()
        self._few()
        self._many()
        make_tar(self.tar, self.scale.unpacked)
        if shutil.which("dpkg-deb"):
            make_packages(self.packages, self.scale.packaged)
        subprocess.run(["sync", "--file-system", self.directory], check=True)

    @property
    def large(self) -> Stack:
        return self._stack("layer", 3)

    @property
    def few(self) -> Stack:
        return self._stack("few", 1)

    @property
    def many(self) -> Stack:
        """As archives only."""
        return self._stack("many", 1)

    def _stack(self, name: str, count: int) -> Stack:
        bases = [f"{self.directory}/{name}{number}" for number in reversed(range(count))]
        return Stack(bases, [(base + ".index", base + ".frames") for base in bases])

    def _large(self) -> None:
        layers = [f"{self.directory}/layer{number}" for number in range(3)]
        for layer in layers:
            os.mkdir(layer)
        _spread(_chosen(self.scale.files, self.scale.size), layers)
        top = layers[-1]
        make_modules(f"{top}/modules", MODULES)
        make_project(f"{top}/project", self.scale.sources)
        if shutil.which("git"):
            make_repository(f"{top}/repository", self.scale.checkout)
        make_package_database(top)
        for layer in layers:
            pack(layer)

    def _few(self) -> None:
        for path, content in generated("few", self.scale.few, 4000):
            write(f"{self.directory}/few0/{path}", content)
        pack(f"{self.directory}/few0")

    def _many(self) -> None:
        """Files of one byte in an archive of one block: the number of names is what matters."""
        writer = IndexWriter()
        writer.add(Entry(b"", stat.S_IFDIR | 0o755))
        for number in range(self.scale.many):
            path = b"%03d/%03d/file-%06d" % (number % 40, number % 1000, number)
            writer.add(Entry(path, stat.S_IFREG | 0o644, size=1, extents=((0, 0, 1),)))
        base = f"{self.directory}/many0"
        writer.write(base + ".index")
        with open(base + ".frames", "wb") as file:
            frames = FramesWriter(file)
            frames.write(b"x" * 512)
            frames.close()


def write(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


# The large tree.


def _chosen(files: int, size: int) -> Iterator[tuple[str, str]]:
    """(path on this machine, or "" for generated content; path in the tree): `files` of them with `size` bytes or more.

    Files are taken in the order of their names; one is passed over where it would make the mean too large.
    """
    mean = size * 21 // (files * 20)
    count = total = 0
    for path in _alternating([_walk(source) for source in SOURCES]):
        status = os.lstat(path)
        if total + status.st_size > (count + 1) * mean + LARGEST:
            continue
        count += 1
        total += status.st_size
        yield path, path.lstrip("/")
        if count >= files and total >= size:
            return
    while count < files or total < size:
        count += 1
        total += mean
        yield "", f"generated/{count // 500}/{count}"


def _walk(top: str) -> Iterator[str]:
    """Readable regular files and symbolic links."""
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(files):
            path = f"{directory}/{name}"
            try:
                status = os.lstat(path)
            except OSError:
                continue  # going away while we look
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFLNK or (
                kind == stat.S_IFREG and status.st_size <= LARGEST and os.access(path, os.R_OK)
            ):
                yield path


def _alternating(walks: list[Iterator[str]]) -> Iterator[str]:
    while walks:
        for walk in list(walks):
            path = next(walk, None)
            if path is None:
                walks.remove(walk)
            else:
                yield path


def _spread(files: Iterable[tuple[str, str]], layers: list[str]) -> None:
    """Over three layers by directory, as packages are; the top one replaces and deletes some files of the others."""
    vocabulary = words()
    for number, (source, path) in enumerate(files):
        share = zlib.crc32(os.path.dirname(path).encode()) % 10
        level = 0 if share < 6 else 1 if share < 9 else 2
        places = [layers[level]]
        if level < 2 and number % 40 == 0:
            places.append(layers[2])
        for layer in places:
            target = f"{layer}/{path}"
            if source:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
            else:
                write(target, text(random.Random(number), vocabulary, 26_000))
            if number % 100 == 1:
                os.chown(target, 33, 33, follow_symlinks=False)
        if level < 2 and number % 100 == 50:
            covered = f"{layers[2]}/{path}"
            os.makedirs(os.path.dirname(covered), exist_ok=True)
            os.mknod(covered, stat.S_IFCHR, 0)


# Archives.


def pack(tree: str) -> None:
    """tree.index and tree.frames, as the engine makes them of a pulled layer."""
    writer = IndexWriter()
    parser = TarParser(data=False)
    with (
        subprocess.Popen(
            ["tar", "--create", "--format=pax", "--sort=name", "--xattrs", "-C", tree, "."], stdout=subprocess.PIPE
        ) as tar,
        open(tree + ".frames", "wb") as file,
    ):
        assert tar.stdout is not None
        frames = FramesWriter(file)
        while chunk := tar.stdout.read(1 << 20):
            frames.write(chunk)
            for event in parser.feed(chunk):
                if isinstance(event, TarEntry):
                    writer.add(_entry(event))
        parser.close()
        frames.close()
    if tar.returncode:
        raise SystemExit(f"bench: tar of {tree} failed")
    writer.write(tree + ".index")


def _entry(entry: TarEntry) -> Entry:
    device = stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode)
    if stat.S_ISCHR(entry.mode) and entry.major == entry.minor == 0:
        return Entry(entry.path, 0, whiteout=True)
    return Entry(
        entry.path, entry.mode, uid=entry.uid, gid=entry.gid, size=entry.size, mtime_ns=entry.mtime_ns,
        rdev=os.makedev(entry.major, entry.minor) if device else 0, target=entry.target, hardlink=entry.hardlink,
        xattrs=entry.xattrs, extents=entry.extents,
    )  # fmt: skip


# Made from a seed.


def words() -> list[str]:
    source = random.Random("words")
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    return ["".join(source.choices(letters, k=source.randint(2, 11))) for _ in range(VOCABULARY)]


def text(source: random.Random, vocabulary: list[str], size: int) -> bytes:
    """Lines of words, which compress about as source code does."""
    line = " ".join(source.choices(vocabulary, k=max(1, size // 7)))
    return line.encode()[:size] + b"\n"


def generated(name: str, count: int, mean: int) -> Iterator[tuple[str, bytes]]:
    """(path, content) of `count` files, about 40 in a directory; sizes are spread as in source trees."""
    source = random.Random(name)
    vocabulary = words()
    for number in range(count):
        size = min(int(source.expovariate(1 / mean)) + 1, 20 * mean)
        yield f"part-{number // 400:03d}/{number // 40:04d}/file-{number:05d}.txt", text(source, vocabulary, size)


def make_tar(path: str, count: int) -> None:
    """`count` files of 6 kB on average."""
    with tarfile.open(path, "w") as tar:
        made: set[str] = set()
        for name, content in generated("unpacked", count, 6000):
            directory = ""
            for part in name.split("/")[:-1]:
                directory = f"{directory}/{part}" if directory else part
                if directory not in made:
                    made.add(directory)
                    tar.addfile(_member(directory, tarfile.DIRTYPE, 0o755, 0))
            tar.addfile(_member(name, tarfile.REGTYPE, 0o644, len(content)), BytesIO(content))


def _member(name: str, kind: bytes, mode: int, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.mtime = kind, mode, size, 1_700_000_000
    return member


def make_modules(directory: str, count: int) -> None:
    """Packages of ten modules each, compiled, and `everything.py`, which imports all of them."""
    names = []
    for number in range(count):
        package, module = f"package_{number // 10:02d}", f"module_{number:03d}"
        names.append(f"{package}.{module}")
        functions = [
            f'def function_{each}(value, *, scale={each}):\n    """Function {each}."""\n'
            f"    return [value * scale + {each} for _ in range(scale)]\n"
            for each in range(25)
        ]
        write(f"{directory}/{package}/{module}.py", "\n\n".join(functions).encode())
        write(f"{directory}/{package}/__init__.py", b"")
    write(f"{directory}/everything.py", "".join(f"import {name}\n" for name in names).encode())
    for path in Path(directory).rglob("*.py"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    subprocess.run([sys.executable, "-m", "compileall", "-q", directory], check=True)


def make_project(directory: str, count: int) -> None:
    """A C program of `count` files, and its Makefile."""
    write(
        f"{directory}/all.h",
        b"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
        + "".join(f"int work_{number}(int);\n" for number in range(count)).encode(),
    )
    for number in range(count):
        functions = [
            f"static int step_{each}(int value) {{\n  char text[64];\n"
            f'  snprintf(text, sizeof text, "%d", value + {each});\n'
            f"  return (int)strlen(text) * {each + number} + atoi(text) % {each + 7};\n}}\n"
            for each in range(20)
        ]
        calls = " + ".join(f"step_{each}(value)" for each in range(20))
        content = '#include "all.h"\n' + "".join(functions) + f"int work_{number}(int value) {{ return {calls}; }}\n"
        write(f"{directory}/work_{number}.c", content.encode())
    total = " + ".join(f"work_{number}(argc)" for number in range(count))
    write(
        f"{directory}/main.c",
        f'#include "all.h"\nint main(int argc, char **argv) {{ (void)argv; return ({total}) & 1; }}\n'.encode(),
    )
    objects = " ".join(["main.o", *(f"work_{number}.o" for number in range(count))])
    write(
        f"{directory}/Makefile",
        f"CFLAGS = -O1 -Wall\nOBJECTS = {objects}\nprogram: $(OBJECTS)\n\t$(CC) -o $@ $(OBJECTS)\n"
        "$(OBJECTS): all.h\n".encode(),
    )


def make_repository(directory: str, count: int) -> None:
    """A repository with one commit and nothing checked out."""
    git = ["git", "-C", directory, "-c", "core.fsync=none"]
    os.makedirs(directory)
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    with subprocess.Popen([*git, "fast-import", "--quiet"], stdin=subprocess.PIPE) as importer:
        assert importer.stdin is not None
        put = importer.stdin.write
        put(b"commit refs/heads/main\ncommitter Bench <bench@example.org> 1700000000 +0000\ndata 4\nmade\n")
        for path, content in generated("checkout", count, 6000):
            put(b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(content), content))
    if importer.returncode:
        raise SystemExit("bench: git fast-import failed")


def make_package_database(root: str) -> None:
    """What dpkg(1) and apt-get(8) need to find in a root file system."""
    for name in ("dpkg/info", "dpkg/updates", "dpkg/triggers", "dpkg/alternatives", "apt/lists/partial"):
        os.makedirs(f"{root}/var/lib/{name}", exist_ok=True)
    for name in ("status", "available"):
        write(f"{root}/var/lib/dpkg/{name}", b"")
    for name in ("var/log/apt", "var/cache/apt/archives/partial", "etc/apt/preferences.d", "etc/apt/apt.conf.d"):
        os.makedirs(f"{root}/{name}", exist_ok=True)


def make_packages(directory: str, files: int) -> None:
    """A repository of Debian packages with `files` files together: bench-3 depends on bench-2, and so on."""
    os.makedirs(directory)
    index = ""
    for number in range(PACKAGES):
        root = f"{directory}/bench-{number}"
        for path, content in generated(f"package{number}", files // PACKAGES, 9000):
            write(f"{root}/usr/share/bench-{number}/{path}", content)
        needs = f"Depends: bench-{number - 1}\n" if number else ""
        control = (
            f"Package: bench-{number}\nVersion: 1\nArchitecture: all\nMaintainer: Bench <bench@example.org>\n{needs}"
            "Description: files to be installed\n"
        )
        write(f"{root}/DEBIAN/control", control.encode())
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", root, f"{root}.deb"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        shutil.rmtree(root)
        made = Path(f"{root}.deb").read_bytes()
        digest = hashlib.sha256(made).hexdigest()
        index += f"{control}Filename: ./bench-{number}.deb\nSize: {len(made)}\nSHA256: {digest}\n\n"
    write(f"{directory}/Packages", index.encode())
