"""A kill between any two system calls of a change: the next mount shows the tree before the change, or after it."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuse.marks
import fuse.tree
from fuse.entry import Entry
from fuse.tree import Tree
from fuse.upper import UpperDirectory
from tests.fuse.archives import archive, hardlink
from tests.fuse.model import File, Folder, Link, Model
from tests.fuse.test_tree import ME, Overlay, PlainUpper, change, changes, compare, layers, outcome

WRITING = (
    "chmod",
    "chown",
    "fchmod",
    "ftruncate",
    "link",
    "mkdir",
    "mknod",
    "open",
    "pwrite",
    "removexattr",
    "rename",
    "rmdir",
    "setxattr",
    "symlink",
    "truncate",
    "unlink",
    "utime",
    "write",
)


def killed_at(call: int, action: Callable[..., object], arguments: list[object]) -> bool:
    """Run a change in a child that dies before its system call of that number. False if it had not so many."""
    pid = os.fork()
    if pid == 0:
        left = call

        def dying(function: Callable[..., object]) -> Callable[..., object]:
            def count(*words: object, **named: object) -> object:
                nonlocal left
                if left == 0:
                    os._exit(1)
                left -= 1
                return function(*words, **named)

            return count

        for name in WRITING:
            setattr(os, name, dying(getattr(os, name)))
        for module in (fuse.tree, fuse.marks):
            module.renameat2 = dying(module.renameat2)  # type: ignore[attr-defined]
        outcome(action, *arguments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def either(overlay: Overlay, before: Model, after: Model) -> None:
    try:
        compare(overlay, before)
    except AssertionError:
        compare(overlay, after)


def check(
    specs: list[dict[bytes, object]],
    steps: list[tuple[object, ...]],
    last: tuple[object, ...],
    call: int,
    archives: bool,
    upper: type[UpperDirectory],
) -> bool:
    """Make a tree by steps, die in the last one; whether it came to dying."""
    with tempfile.TemporaryDirectory(prefix="rc-tree-") as folder:
        overlay = Overlay(folder, specs, archives=archives, upper=upper)
        before = Model(specs)
        for what, *arguments in steps:
            outcome(change, before, what, arguments)
            outcome(getattr(overlay, str(what)), *arguments)
        after = copy.deepcopy(before)
        what, *arguments = last
        outcome(change, after, what, arguments)
        killed = killed_at(call, getattr(overlay, str(what)), arguments)
        overlay.remount()
        either(overlay, before if killed else after, after)
        overlay.tree.close()
        assert os.listdir(folder + "/work") == []
        return killed


def linked(folder: str) -> tuple[Overlay, Model]:
    """A file of three names in an archive layer; the overlay, and what it has to show."""
    for name in ("upper", "work"):
        os.mkdir(os.path.join(folder, name))
    entries = [
        Entry(b"d", 0o040755, **ME),
        (Entry(b"a", 0o100644, **ME), b"content"),
        hardlink("b", "a"),
        hardlink("d/c", "a"),
    ]

    def mount() -> None:
        overlay.tree = Tree([archive(folder, "low", entries)], UpperDirectory(folder + "/upper", folder + "/work"))

    overlay = Overlay.__new__(Overlay)
    overlay.mount = mount  # type: ignore[method-assign]
    mount()
    file = File(b"content")
    return overlay, Model([{b"a": file, b"b": file, b"d": Folder({b"c": file})}])


def layer() -> dict[bytes, object]:
    inner = {b"a": File(b"x"), b"b": Folder({b"c": File(b"deep"), b"a": Link(b"a")})}
    return {b"a": Folder(inner), b"b": Folder({b"a": File(b"y")}), b"c": File(b"z")}


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        ([], ("chmod", b"a/b/c", 0o700)),
        ([], ("unlink", b"a/b/c")),
        ([("write", b"a/b/c", 0, b"new", False)], ("unlink", b"a/b/c")),
        ([("unlink", b"c")], ("mkdir", b"c")),
        ([("unlink", b"c")], ("symlink", b"c")),
        ([("unlink", b"b/a")], ("rmdir", b"b")),
        ([("mkdir", b"a/c")], ("rmdir", b"a/c")),
        ([("unlink", b"c")], ("link", b"b/a", b"c")),
        ([], ("rename", b"c", b"a/c", 0)),
        ([], ("rename", b"c", b"b/a", 0)),
        ([], ("rename", b"a", b"b/c", 0)),
        ([("unlink", b"b/a")], ("rename", b"a", b"b", 0)),
        ([("unlink", b"b/a"), ("rmdir", b"b")], ("rename", b"a", b"b", 0)),
        ([("unlink", b"b/a"), ("mkdir", b"a/c")], ("rename", b"a/c", b"b", 0)),
        ([("unlink", b"b/a"), ("rmdir", b"b"), ("mkdir", b"a/c")], ("rename", b"a/c", b"b", 0)),
        ([], ("rename", b"a", b"c", 2)),
        ([], ("rename", b"a", b"b", 2)),
    ],
)
@pytest.mark.parametrize("upper", [UpperDirectory, PlainUpper])
def test_a_kill_before_each_call(
    steps: list[tuple[object, ...]], last: tuple[object, ...], upper: type[UpperDirectory]
) -> None:
    calls = 0
    while check([layer()], steps, last, calls, archives=True, upper=upper):
        calls += 1
    assert calls > 0


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    specs=layers,
    steps=st.lists(changes, max_size=6),
    last=changes.filter(lambda step: step[0] not in ("forget", "remount", "write", "create")),
    call=st.integers(0, 25),
    archives=st.booleans(),
    upper=st.sampled_from([UpperDirectory, PlainUpper]),
)
def test_a_change_is_seen_whole_or_not_at_all(
    specs: list[dict[bytes, object]],
    steps: list[tuple[object, ...]],
    last: tuple[object, ...],
    call: int,
    archives: bool,
    upper: type[UpperDirectory],
) -> None:
    check(specs, steps, last, call, archives, upper)


@pytest.mark.parametrize("call", range(26))
def test_all_names_of_a_file_are_copied_up_or_none(call: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rc-tree-") as folder:
        overlay, before = linked(folder)
        after = copy.deepcopy(before)
        after.chmod(b"b", 0o700)
        killed = killed_at(call, overlay.chmod, [b"b", 0o700])
        overlay.remount()
        either(overlay, before if killed else after, after)
        overlay.chmod(b"a", 0o711)
        after.chmod(b"a", 0o711)
        compare(overlay, after)
        overlay.remount()
        compare(overlay, after)
        overlay.tree.close()
