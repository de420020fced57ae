"""The steps that make a container's root filesystem, in the child: mounts, devices, masks, pivot_root."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any, Final

from rootless import syscalls
from rootless.runtime import attributes, steps, tmpfs
from rootless.runtime.context import Context
from rootless.runtime.rootdir import RootDir
from rootless.runtime.steps import Step
from rootless.syscalls import MountAttr, MountFlag, Prctl, TreeFlag, UmountFlag

AT_FDCWD: Final = -100
_CLONE: Final = TreeFlag.CLONE
_OF_FD: Final = TreeFlag.CLONE | TreeFlag.EMPTY_PATH


def _propagation(_: Context, step: steps.Propagation) -> None:
    syscalls.mount(None, "/", None, step.flags)


def _take_tree(context: Context, step: steps.TakeTree) -> None:
    flags = _CLONE | TreeFlag.RECURSIVE if step.recursive else _CLONE
    try:
        context.trees[step.slot] = syscalls.open_tree(AT_FDCWD, step.path, flags)
    except FileNotFoundError:
        if not step.optional:
            raise


def _become_root(_: Context, __: steps.BecomeRoot) -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.prctl(Prctl.SET_DUMPABLE, 0)  # a change of ids sets it to fs.suid_dumpable


def _attach_root(context: Context, step: steps.AttachRoot) -> None:
    tree = context.trees[step.slot]
    over = os.open(step.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.move_mount(tree, over)
    os.close(over)
    context.root = RootDir(tree)


def _mount_filesystem(context: Context, step: steps.MountFilesystem) -> None:
    # Over nothing of the image's a tmpfs keeps its own mode, 1777.
    copy_up = step.copy_up and _exists(context, step.target)
    fd = context.root.directory(step.target)
    try:
        syscalls.mount(step.source, b"/proc/self/fd/%d" % fd, step.fstype, step.flags, step.data or None)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENODEV, errno.EBUSY):
            raise
        if step.fallback is not None and not step.optional:
            _bind_instead(step, fd)
        elif not step.optional:
            raise
    else:
        if copy_up:
            mounted = context.root.open(step.target, os.O_RDONLY | os.O_DIRECTORY)
            tmpfs.copy_up(fd, mounted, step.data)
            os.close(mounted)
    finally:
        os.close(fd)


def _exists(context: Context, path: str) -> bool:
    found = context.root.find(path)
    if found is not None:
        os.close(found)
    return found is not None


def _bind_instead(step: steps.MountFilesystem, target: int) -> None:
    assert step.fallback is not None
    tree = syscalls.open_tree(AT_FDCWD, step.fallback, _CLONE | TreeFlag.RECURSIVE)
    syscalls.move_mount(tree, target)
    if step.flags & MountFlag.RDONLY:
        attributes.change(tree, set_=MountAttr.RDONLY, recursive=True)
    os.close(tree)


def _attach_tree(context: Context, step: steps.AttachTree) -> None:
    tree = context.trees.pop(step.slot, -1)
    if tree < 0:
        return
    make = context.root.directory if stat.S_ISDIR(os.fstat(tree).st_mode) else context.root.file
    target = make(step.target)
    syscalls.move_mount(tree, target)
    os.close(target)
    for flags in step.propagation:
        attributes.propagate(tree, flags)
    if step.set_ or step.clear:
        attributes.change(tree, set_=step.set_, clear=step.clear)
    if step.set_recursive or step.clear_recursive:
        attributes.change(tree, set_=step.set_recursive, clear=step.clear_recursive, recursive=True)
    os.close(tree)


def _devices(context: Context, step: steps.Devices) -> None:
    directory = context.root.directory("dev")
    try:
        for path, slot in step.nodes:
            _attach_node(context, path, slot)
        for path, target in step.links:
            try:
                os.symlink(target, path.removeprefix("dev/"), dir_fd=directory)
            except FileExistsError:
                continue
    finally:
        os.close(directory)


def _attach_node(context: Context, path: str, slot: int) -> None:
    target = context.root.file(path, 0o666)
    _attach_shared(context, slot, target)
    os.close(target)


def _attach_shared(context: Context, slot: int, target: int) -> None:
    """Attach a slot's tree, or a copy of it where it has a place already.

    In this order, because before Linux 6.15 only what is attached in this mount namespace can be copied.
    """
    tree = context.trees[slot]
    if slot not in context.attached:
        syscalls.move_mount(tree, target)
        context.attached.add(slot)
        return
    copy = syscalls.open_tree(tree, b"", _OF_FD)
    syscalls.move_mount(copy, target)
    os.close(copy)


def _device(context: Context, step: steps.Device) -> None:
    _attach_node(context, step.path, step.slot)


def _mask(context: Context, step: steps.Mask) -> None:
    target = context.root.find(step.path)
    if target is None:
        return
    if not stat.S_ISDIR(os.fstat(target).st_mode):
        _attach_shared(context, step.null_slot, target)
    elif context.empty < 0:
        flags = MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
        syscalls.mount("tmpfs", b"/proc/self/fd/%d" % target, "tmpfs", flags, "size=0k,nr_inodes=2")
        context.empty = context.root.open(step.path)
    else:
        tree = syscalls.open_tree(context.empty, b"", _OF_FD)
        syscalls.move_mount(tree, target)
        os.close(tree)
    os.close(target)


def _read_only(context: Context, step: steps.ReadOnly) -> None:
    target = context.root.find(step.path)
    if target is None:
        return
    tree = syscalls.open_tree(target, b"", _OF_FD | TreeFlag.RECURSIVE)
    syscalls.move_mount(tree, target)
    attributes.change(tree, set_=MountAttr.RDONLY, recursive=True)
    os.close(tree)
    os.close(target)


def _restrict_root(context: Context, _: steps.RestrictRoot) -> None:
    attributes.change(context.root.fd, set_=MountAttr.RDONLY)


def _pivot(context: Context, step: steps.Pivot) -> None:
    os.fchdir(context.root.fd)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", UmountFlag.DETACH)
    os.chdir("/")
    if step.propagation:
        syscalls.mount(None, "/", None, step.propagation)


RUN: Final[dict[type[Step], Callable[[Context, Any], None]]] = {
    steps.Propagation: _propagation,
    steps.TakeTree: _take_tree,
    steps.BecomeRoot: _become_root,
    steps.AttachRoot: _attach_root,
    steps.MountFilesystem: _mount_filesystem,
    steps.AttachTree: _attach_tree,
    steps.Devices: _devices,
    steps.Device: _device,
    steps.Mask: _mask,
    steps.ReadOnly: _read_only,
    steps.RestrictRoot: _restrict_root,
    steps.Pivot: _pivot,
}
