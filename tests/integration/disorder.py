"""Run inside a container, by the machine's own Python: random changes to its files, and a snapshot of all of them.

    python3 disorder.py change SEED COUNT     python3 disorder.py snapshot

What the kernel refuses is not done. The snapshot is one line of JSON: for each path its type, owner, mode, size, time,
attributes, what it is another name of, and the digest of its data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import stat
import sys

MOUNTED = (b"/proc", b"/sys", b"/dev", b"/lib", b"/lib64", b"/machine", b"/volume")
GENERATED = (b"/etc/hosts", b"/etc/hostname", b"/etc/resolv.conf", b"/run/.containerenv")
KEPT = (b"/etc", b"/run", b"/etc/passwd", b"/etc/group")  # the engine mounts in these, or makes its own of them
CHANGES = [
    "write", "write", "append", "truncate", "mkdir", "symlink", "link", "fifo", "unlink", "rmtree", "rename", "chmod",
    "chown", "utime", "xattr", "cap", "hole",
]  # fmt: skip
NAMES = [b"a", b"b", "\u00e4".encode(), b"\xff\xfe", b"n" * 120, b"c d"]
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep, version 2


def files() -> list[bytes]:
    found = []
    for folder, folders, names in os.walk(b"/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in MOUNTED]
        found += [os.path.join(folder, name) for name in (*folders, *names)]
    return sorted(path for path in found if path not in MOUNTED and path not in GENERATED and path != b"/bin/busybox")


def at_once(path: bytes, flags: int) -> int:
    """A fifo that nobody reads is refused."""
    return os.open(path, flags | os.O_NONBLOCK, 0o644)


def change(chance: random.Random, paths: list[bytes]) -> None:
    folders = [path for path in paths if os.path.isdir(path) and not os.path.islink(path)]
    new = os.path.join(chance.choice(folders), chance.choice(NAMES))
    old = chance.choice([path for path in paths if path not in KEPT and not path.startswith((b"/bin", b"/usr/bin"))])
    what = chance.choice(CHANGES)
    if what == "write":
        with open(new, "wb", opener=at_once) as file:
            file.write(chance.randbytes(chance.choice([0, 5, 5000])))
    elif what == "append" and os.path.isfile(old):
        with open(old, "ab") as file:
            file.write(b"more")
    elif what == "truncate" and os.path.isfile(old):
        os.truncate(old, 3)
    elif what == "mkdir":
        os.mkdir(new, 0o2750)
    elif what == "symlink":
        os.symlink(b"/nowhere/" + chance.choice(NAMES), new)
    elif what == "link":
        os.link(old, new, follow_symlinks=False)
    elif what == "fifo":
        os.mkfifo(new, 0o640)
    elif what == "unlink":
        os.unlink(old)
    elif what == "rmtree":
        for folder, names, inner in os.walk(old, topdown=False):
            for name in inner:
                os.unlink(os.path.join(folder, name))
            for name in names:
                os.rmdir(os.path.join(folder, name))
        os.rmdir(old)
        if chance.random() < 0.6:
            os.mkdir(old)
    elif what == "rename":
        os.rename(old, new)
    elif what == "chmod":
        os.chmod(old, chance.choice([0o600, 0o4755, 0o1777, 0o2770]))
    elif what == "chown":
        os.lchown(old, chance.choice([0, 33, 1000, 65534]), chance.choice([0, 50]))
    elif what == "utime":
        os.utime(old, ns=(0, chance.choice([0, 1, 10**18 + 123, 4 * 10**18])), follow_symlinks=False)
    elif what == "xattr":
        os.setxattr(old, b"user." + chance.choice([b"note", b"a.b"]), chance.randbytes(20), follow_symlinks=False)
    elif what == "cap" and os.path.isfile(old):
        os.setxattr(old, b"security.capability", CAPABILITY)
    elif what == "hole":
        with open(new, "wb", opener=at_once) as file:
            file.truncate(300_000)
            file.seek(100_000)
            file.write(b"data")


def snapshot() -> dict[str, list[object]]:
    seen: dict[tuple[int, int], str] = {}
    shown: dict[str, list[object]] = {}
    for path in [b"/", *files()]:
        status = os.lstat(path)
        if stat.S_ISSOCK(status.st_mode):
            continue
        name = path.hex()
        folder = stat.S_ISDIR(status.st_mode)
        xattrs = {}
        with contextlib.suppress(OSError):
            for key in os.listxattr(path, follow_symlinks=False):
                value = os.getxattr(path, key, follow_symlinks=False)
                if key == "security.capability":  # which user namespace it is good in is the container's business
                    value = value[:3] + b"\2" + value[4:20]
                xattrs[key] = value.hex()
        data = ""
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                data = hashlib.sha256(file.read()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            data = os.readlink(path).hex()
        shown[name] = [
            status.st_mode,
            status.st_uid,
            status.st_gid,
            0 if folder else status.st_size,
            # Mount points come and go in these.
            0 if path in (b"/", b"/etc", b"/run") else status.st_mtime_ns,
            name if folder else seen.setdefault((status.st_dev, status.st_ino), name),
            xattrs,
            data,
        ]
    return shown


def main() -> None:
    if sys.argv[1] == "change":
        chance = random.Random(int(sys.argv[2]))
        for _ in range(int(sys.argv[3])):
            with contextlib.suppress(OSError):
                change(chance, files())
    json.dump(snapshot(), sys.stdout)


main()
