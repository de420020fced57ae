"""A disk that is full from any system call of a change on: the change fails, and nothing of it is left."""

from __future__ import annotations

import copy
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuse.marks
import fuse.tree
from fuse.ledger import LEDGER
from fuse.ownership import Ownership
from fuse.upper import UpperDirectory
from tests.fuse.model import Model
from tests.fuse.test_tree import Overlay, PlainUpper, change, changes, compare, layers, outcome
from tests.fuse.test_tree_kills import layer, linked

NEED_SPACE = ("link", "mkdir", "mknod", "open", "pwrite", "rename", "setxattr", "symlink", "write")


@contextmanager
def full_at(call: int) -> Iterator[None]:
    """From the system call of that number on, of those that may need space, none gets any."""
    left = call

    def in_need(function: Callable[..., object]) -> Callable[..., object]:
        def count(*words: object, **named: object) -> object:
            nonlocal left
            if function.__name__ == "open" and not (isinstance(words[1], int) and words[1] & os.O_CREAT):
                return function(*words, **named)
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left -= 1
            return function(*words, **named)

        return count

    with pytest.MonkeyPatch.context() as patch:
        for name in NEED_SPACE:
            patch.setattr(os, name, in_need(getattr(os, name)))
        for module in (fuse.tree, fuse.marks):
            patch.setattr(module, "renameat2", in_need(module.renameat2))
        yield


def check(
    specs: list[dict[bytes, object]],
    steps: list[tuple[object, ...]],
    last: tuple[object, ...],
    call: int,
    *,
    archives: bool,
    upper: type[UpperDirectory] = UpperDirectory,
    ownership: Ownership = Ownership.REAL,
) -> bool:
    """Make a tree by steps, run out of space in the last one; whether it came to that."""
    with tempfile.TemporaryDirectory(prefix="rc-tree-") as folder:
        overlay = Overlay(folder, specs, archives=archives, upper=upper, ownership=ownership)
        model = Model(specs)
        for what, *arguments in steps:
            outcome(change, model, what, arguments)
            outcome(getattr(overlay, str(what)), *arguments)
        compare(overlay, model)
        after = copy.deepcopy(model)
        what, *arguments = last
        outcome(change, after, what, arguments)
        with full_at(call):
            failed = outcome(getattr(overlay, str(what)), *arguments)
        full = failed == errno.ENOSPC
        expected = model if full else after
        compare(overlay, expected)
        assert set(os.listdir(folder + "/work")) <= {LEDGER.decode()}
        if full:  # with space again it is done
            outcome(change, model, what, arguments)
            outcome(getattr(overlay, str(what)), *arguments)
            compare(overlay, after)
        overlay.remount()
        compare(overlay, after)
        overlay.tree.close()
        return full


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        ([], ("chmod", b"a/b/c", 0o700)),
        ([], ("unlink", b"a/b/c")),
        ([("chmod", b"a/b/c", 0o700)], ("unlink", b"a/b/c")),
        ([("unlink", b"c")], ("mkdir", b"c")),
        ([("unlink", b"c")], ("symlink", b"c")),
        ([("unlink", b"c")], ("link", b"a/a", b"c")),
        ([("unlink", b"b/a")], ("rmdir", b"b")),
        ([("unlink", b"c")], ("link", b"b/a", b"c")),
        ([], ("rename", b"c", b"a/c", 0)),
        ([], ("rename", b"c", b"b/a", 0)),
        ([("chmod", b"b/a", 0o700)], ("rename", b"c", b"b/a", 0)),
        ([], ("rename", b"a", b"b/c", 0)),
        ([("unlink", b"b/a")], ("rename", b"a", b"b", 0)),
        ([("unlink", b"b/a"), ("rmdir", b"b")], ("rename", b"a", b"b", 0)),
        ([("unlink", b"b/a"), ("mkdir", b"a/c")], ("rename", b"a/c", b"b", 0)),
        ([], ("rename", b"a", b"c", 2)),
        ([], ("rename", b"a", b"b", 2)),
    ],
)
@pytest.mark.parametrize(
    ("upper", "ownership"),
    [
        (UpperDirectory, Ownership.REAL),
        (UpperDirectory, Ownership.XATTR),
        (PlainUpper, Ownership.REAL),
        (PlainUpper, Ownership.FILE),
    ],
)
def test_full_before_each_call(
    steps: list[tuple[object, ...]], last: tuple[object, ...], upper: type[UpperDirectory], ownership: Ownership
) -> None:
    calls = 0
    while check([layer()], steps, last, calls, archives=True, upper=upper, ownership=ownership):
        calls += 1
    assert calls > 0


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    specs=layers,
    steps=st.lists(changes, max_size=6),
    last=changes.filter(lambda step: step[0] not in ("forget", "remount", "write", "create")),
    call=st.integers(0, 15),
    archives=st.booleans(),
    upper=st.sampled_from([UpperDirectory, PlainUpper]),
    ownership=st.sampled_from([Ownership.REAL, Ownership.XATTR, Ownership.FILE]),
)
def test_a_change_without_space_is_none(
    specs: list[dict[bytes, object]],
    steps: list[tuple[object, ...]],
    last: tuple[object, ...],
    call: int,
    archives: bool,
    upper: type[UpperDirectory],
    ownership: Ownership,
) -> None:
    check(specs, steps, last, call, archives=archives, upper=upper, ownership=ownership)


@pytest.mark.parametrize("call", range(14))
def test_all_names_of_a_file_are_copied_up_or_none(call: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rc-tree-") as folder:
        overlay, before = linked(folder)
        after = copy.deepcopy(before)
        after.chmod(b"b", 0o700)
        with full_at(call):
            failed = outcome(overlay.chmod, b"b", 0o700)
        compare(overlay, before if failed else after)
        assert os.listdir(folder + "/work") == []
        overlay.chmod(b"a", 0o711)
        after.chmod(b"a", 0o711)
        compare(overlay, after)
        overlay.remount()
        compare(overlay, after)
        overlay.tree.close()
