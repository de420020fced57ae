"""Which storage driver a container's root filesystem takes, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .. import syscalls
from ..errors import HostError
from ..settings import Settings

IdTriples = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A driver, and why."""

    driver: str
    reason: str


def choose(settings: Settings, wanted: str, uid_map: IdTriples, gid_map: IdTriples) -> Choice:
    """The driver for a container with these maps (image id, E id, size). Raises HostError when `wanted` cannot work."""
    if wanted == "fuse":
        return Choice("fuse", "asked for")
    if obstacle := _obstacle_to_any_overlay(settings, uid_map, gid_map):
        if wanted != "auto":
            raise HostError(f"the kernel's overlay cannot be used: {obstacle}", hint="use --storage-driver fuse")
        return Choice("fuse", obstacle)
    if wanted == "packed":
        return Choice("packed", "asked for")
    if any(image != outer for triples in (uid_map, gid_map) for image, outer, _ in triples):
        obstacle = "this container's ids are translated, which extracted trees cannot be without copying them"
        if wanted == "overlay":
            raise HostError(f"this driver cannot be used: {obstacle}", hint="use --storage-driver packed")
        return Choice("packed", obstacle)
    return Choice("overlay", "asked for" if wanted == "overlay" else "the kernel's overlay works here")


def for_image(choice: Choice, wanted: str, has_trees: bool) -> Choice:
    """The choice for an image whose layers are extracted, or not: to do that could take longer than the first run."""
    if wanted == "auto" and choice.driver == "overlay" and not has_trees:
        return Choice("packed", "the image's layers are not extracted")
    return choice


def _obstacle_to_any_overlay(settings: Settings, uid_map: IdTriples, gid_map: IdTriples) -> str:
    """Why the kernel's overlay can take the changes of no container like this one; "" when it can."""
    if any(sum(size for _, _, size in triples) < 2 for triples in (uid_map, gid_map)):
        return "there are no subordinate ids, and the trees of images have more than one owner"
    return probe_overlay(settings)


def probe_overlay(settings: Settings) -> str:
    """Why the kernel's overlay does not work over the data directory; "" when it does. Asked once per boot."""
    answer = f"{settings.runtime}/overlay-{settings.data.replace('/', '-')[-100:]}"
    try:
        with open(answer, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        obstacle = _try_overlay(settings)
        temporary = f"{answer}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(obstacle)
        os.rename(temporary, answer)
        return obstacle


def _try_overlay(settings: Settings) -> str:
    """Mounts an overlay of empty directories in a process with a mount namespace of its own."""
    base = f"{settings.data}/probe-{os.getpid()}"
    for name in ("lower", "upper", "work", "merged"):
        os.makedirs(f"{base}/{name}", exist_ok=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            syscalls.unshare(syscalls.Clone.NEWNS)
            options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,userxattr"
            syscalls.mount("overlay", f"{base}/merged", "overlay", syscalls.MountFlag.NONE, options)
            os.setxattr(f"{base}/upper", b"user.overlay.opaque", b"y")
            os.mknod(f"{base}/upper/whiteout", 0o020000, os.makedev(0, 0))
        except OSError as error:
            os.write(writing, f"mounting one over {settings.data} fails: {error.strerror}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:
        obstacle = answer.read()
    os.waitpid(child, 0)
    try:
        os.unlink(f"{base}/upper/whiteout")
    except FileNotFoundError:
        pass  # the probe did not get that far
    for name in ("lower", "upper", "work/work", "work", "merged", ""):
        try:
            os.rmdir(f"{base}/{name}")
        except FileNotFoundError:
            pass  # the kernel makes work/work only when it mounts
    return obstacle
