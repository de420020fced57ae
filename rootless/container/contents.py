"""What is in a container, read from the disk: its changes and its image's layers. Nothing is mounted or started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec

from fuse.changes import ChangeKind, changes
from fuse.layers import Layer as Tree

from ..image.changed import Changed, Owners
from ..image.changeset import TreeArchive, mount_points
from ..image.store import Store
from ..image.trees import open_trees
from .containers import Container
from .mounting import layers_of
from .record import Record

_MADE_AT_START = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv")


class _Mount(msgspec.Struct, frozen=True):
    destination: str = ""


class _Mounts(msgspec.Struct, frozen=True):
    """The part of a config.json that says where mounts are."""

    mounts: tuple[_Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """A container's trees, while they are open."""

    upper: Changed
    lowers: list[Tree]
    """Topmost first."""
    places: frozenset[bytes]
    """Files and directories that are there for mounts alone."""
    fresh: bool
    """It has never been started, so there is nothing in `upper`, which has no attributes of its own either."""

    def write_changes(self, write: Callable[[bytes], object]) -> list[str]:
        """The archive of a layer with what the container changed. Returns notes."""
        archive = TreeArchive(write)
        if not self.fresh:
            archive.add_changes(self.upper, self.lowers, left_out=self.places)
        archive.finish()
        return archive.notes

    def write_everything(self, write: Callable[[bytes], object]) -> list[str]:
        """The archive of all that the container shows, but for its mounts. Returns notes."""
        archive = TreeArchive(write)
        archive.add_tree(self.lowers if self.fresh else [self.upper, *self.lowers], left_out=self.places)
        archive.finish()
        return archive.notes

    def changes(self) -> Iterator[tuple[ChangeKind, bytes]]:
        """What `diff` lists."""
        for change in () if self.fresh else changes(self.upper, self.lowers):
            if change.path not in self.places:
                yield change.kind, change.path


@contextmanager
def contents(container: Container, record: Record) -> Iterator[Contents]:
    """Opens them. Raises ImageError, HostError; also for what is found while they are open."""
    upper, work = f"{container.path}/upper", f"{container.path}/work"
    with ExitStack() as stack:
        lowers = stack.enter_context(open_trees(Store(container.settings.data), layers_of(record)[::-1]))
        changed = Changed(upper, work, Owners(record.uid_map, record.gid_map))
        stack.callback(changed.close)
        fresh = not os.listdir(work) and not os.listdir(upper)
        places = mount_points(changed, lowers, [] if fresh else _destinations(container, record))
        yield Contents(changed, lowers, places, fresh)


def _destinations(container: Container, record: Record) -> list[str]:
    """Where anything was mounted: what the user asked for, and the configuration of the last start."""
    found = [*_MADE_AT_START, *(point.destination for point in record.mounts)]
    try:
        with open(container.config_path, "rb") as file:
            configuration = msgspec.json.decode(file.read(), type=_Mounts)
    except (FileNotFoundError, msgspec.MsgspecError):
        return found
    return found + [mount.destination for mount in configuration.mounts]
