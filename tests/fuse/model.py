"""The naive overlay: nested dictionaries, a layer applied onto the one below by the words of the specification."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn


@dataclass(eq=False)
class File:
    content: bytes = b""
    mode: int = 0o644


@dataclass(eq=False)
class Link:
    target: bytes = b""


@dataclass(eq=False)
class Folder:
    children: dict[bytes, File | Link | Folder] = field(default_factory=dict)
    mode: int = 0o755


Thing = File | Link | Folder


@dataclass
class Whiteout:
    pass


@dataclass
class Opaque:
    """A directory of a layer that hides what is below."""

    children: dict[bytes, Thing | Whiteout | Opaque]


def fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


def apply(below: dict[bytes, Thing], layer: dict[bytes, object]) -> None:
    """Put a layer on top of what is below."""
    for name, thing in layer.items():
        there = below.get(name)
        if isinstance(thing, Whiteout):
            below.pop(name, None)
        elif isinstance(thing, Opaque):
            below[name] = Folder()
            apply(below[name].children, thing.children)  # type: ignore[union-attr,arg-type]
        elif isinstance(thing, Folder):
            if isinstance(there, Folder):
                there.mode = thing.mode
            else:
                there = below[name] = Folder(mode=thing.mode)
            apply(there.children, thing.children)  # type: ignore[arg-type]
        else:
            below[name] = thing  # type: ignore[assignment]


class Model:
    """One tree, changed by path. Errors are OSError with the kernel's errno."""

    def __init__(self, layers: list[dict[bytes, object]]) -> None:
        self.root = Folder()
        for layer in reversed(layers):
            apply(self.root.children, layer)

    def parent(self, path: bytes) -> tuple[Folder, bytes]:
        *parents, name = path.split(b"/")
        here: Thing = self.root
        for part in parents:
            if not isinstance(here, Folder):
                fail(errno.ENOTDIR)
            if part not in here.children:
                fail(errno.ENOENT)
            here = here.children[part]
        if not isinstance(here, Folder):
            fail(errno.ENOTDIR)
        return here, name

    def get(self, path: bytes) -> Thing:
        folder, name = self.parent(path)
        if name not in folder.children:
            fail(errno.ENOENT)
        return folder.children[name]

    def add(self, path: bytes, thing: Thing) -> None:
        folder, name = self.parent(path)
        if name in folder.children:
            fail(errno.EEXIST)
        folder.children[name] = thing

    def write(self, path: bytes, offset: int, data: bytes, *, truncate: bool) -> None:
        file = self.get(path)
        if not isinstance(file, File):
            fail(errno.EISDIR)
        if truncate:
            file.content = b""
        content = file.content.ljust(offset, b"\0")
        file.content = content[:offset] + data + content[offset + len(data) :]

    def truncate(self, path: bytes, size: int) -> None:
        file = self.get(path)
        if not isinstance(file, File):
            fail(errno.EISDIR)
        file.content = file.content[:size].ljust(size, b"\0")

    def chmod(self, path: bytes, mode: int) -> None:
        thing = self.get(path)
        if isinstance(thing, Link):
            fail(errno.EOPNOTSUPP)
        thing.mode = mode

    def link(self, path: bytes, new: bytes) -> None:
        thing = self.get(path)
        if isinstance(thing, Folder):
            fail(errno.EPERM)
        self.add(new, thing)

    def unlink(self, path: bytes) -> None:
        folder, name = self.parent(path)
        if isinstance(self.get(path), Folder):
            fail(errno.EISDIR)
        del folder.children[name]

    def rmdir(self, path: bytes) -> None:
        folder, name = self.parent(path)
        thing = self.get(path)
        if not isinstance(thing, Folder):
            fail(errno.ENOTDIR)
        if thing.children:
            fail(errno.ENOTEMPTY)
        del folder.children[name]

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        old_folder, old_name = self.parent(old)
        source = self.get(old)
        new_folder, new_name = self.parent(new)
        target = new_folder.children.get(new_name)
        if self.inside(source, new_folder):
            fail(errno.EINVAL)
        if flags == 2:
            if target is None:
                fail(errno.ENOENT)
            if self.inside(target, old_folder):
                fail(errno.EINVAL)
            old_folder.children[old_name], new_folder.children[new_name] = target, source
            return
        if target is not None:
            if flags == 1:
                fail(errno.EEXIST)
            if target is source:
                return
            if isinstance(target, Folder):
                if not isinstance(source, Folder):
                    fail(errno.EISDIR)
                if target.children:
                    fail(errno.ENOTEMPTY)
            elif isinstance(source, Folder):
                fail(errno.ENOTDIR)
        del old_folder.children[old_name]
        new_folder.children[new_name] = source

    def inside(self, thing: Thing, folder: Folder) -> bool:
        return thing is folder or (
            isinstance(thing, Folder) and any(self.inside(child, folder) for child in thing.children.values())
        )

    def walk(self) -> Iterator[tuple[bytes, Thing]]:
        todo: list[tuple[bytes, Folder]] = [(b"", self.root)]
        while todo:
            path, folder = todo.pop()
            for name, thing in folder.children.items():
                below = path + b"/" + name if path else name
                yield below, thing
                if isinstance(thing, Folder):
                    todo.append((below, thing))
