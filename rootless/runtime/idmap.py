"""Id maps of user namespaces: pure arithmetic on (inside, outside, size) extents, user_namespaces(7).

Three views of an id: *container* ids are seen inside a container, *E* ids in the engine's namespace E, *host* ids
outside. An `IdMap` goes one step: a container's map gives E ids, E's own map (/proc/self/uid_map) gives host ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import msgspec

from rootless.errors import UsageError
from rootless.oci.runtime import IDMapping

MAX_LINES = 340
"""user_namespaces(7): the most lines that a map may have since Linux 4.15."""


class Extent(msgspec.Struct, frozen=True, order=True):
    """`size` ids from `inside` on are those from `outside` on in the parent namespace."""

    inside: int
    outside: int
    size: int


class IdMap(msgspec.Struct, frozen=True):
    """An id map: extents sorted by their inside ids, which do not overlap."""

    extents: tuple[Extent, ...]

    @classmethod
    def of(cls, *extents: tuple[int, int, int]) -> IdMap:
        """From (inside, outside, size) triples in any order; empty ones are left out, neighbours are joined.

        Raises UsageError where two overlap on either side or an id does not fit in 32 bits.
        """
        return cls.join(Extent(*extent) for extent in extents)

    @classmethod
    def join(cls, extents: Iterable[Extent]) -> IdMap:
        """As `of`, from extents."""
        lines: list[Extent] = []
        for extent in sorted(extents):
            if extent.size <= 0:
                continue
            _check_line(extent)
            last = lines[-1] if lines else None
            if last is not None and extent.inside < last.inside + last.size:
                raise UsageError(f"the id map gives id {extent.inside} twice")
            if last is not None and extent.inside - last.inside == extent.outside - last.outside == last.size:
                lines[-1] = Extent(last.inside, last.outside, last.size + extent.size)
            else:
                lines.append(extent)
        by_outside = sorted((line.outside, line.size) for line in lines)
        for (start, size), (following, _) in pairwise(by_outside):
            if following < start + size:
                raise UsageError(f"the id map uses the outer id {following} twice")
        return cls(tuple(lines))

    @classmethod
    def parse(cls, text: str) -> IdMap:
        """The content of /proc/PID/uid_map or gid_map. Raises ValueError if it is none."""
        lines = [Extent(*map(int, line.split())) for line in text.splitlines() if line.strip()]
        return cls(tuple(sorted(lines)))

    @classmethod
    def from_spec(cls, mappings: Iterable[IDMapping]) -> IdMap:
        """From config.json's uidMappings or gidMappings."""
        return cls.of(*((line.container_id, line.host_id, line.size) for line in mappings))

    def to_spec(self) -> tuple[IDMapping, ...]:
        """As config.json's uidMappings or gidMappings."""
        return tuple(IDMapping(container_id=line.inside, host_id=line.outside, size=line.size) for line in self.extents)

    def to_bytes(self) -> bytes:
        """What is written to /proc/PID/uid_map."""
        return b"".join(b"%d %d %d\n" % (line.inside, line.outside, line.size) for line in self.extents)

    def outside(self, inside: int) -> int | None:
        """The id in the parent namespace, or None where it is not mapped."""
        for line in self.extents:
            if line.inside <= inside < line.inside + line.size:
                return line.outside + inside - line.inside
        return None

    def inside(self, outside: int) -> int | None:
        """The id in the namespace, or None where it is not mapped."""
        for line in self.extents:
            if line.outside <= outside < line.outside + line.size:
                return line.inside + outside - line.outside
        return None

    def __contains__(self, inside: int) -> bool:
        return self.outside(inside) is not None

    @property
    def size(self) -> int:
        """How many ids are mapped."""
        return sum(line.size for line in self.extents)

    def triples(self) -> tuple[tuple[int, int, int], ...]:
        """(inside, outside, size) of each extent."""
        return tuple((line.inside, line.outside, line.size) for line in self.extents)

    def split_for(self, parent: IdMap) -> IdMap:
        """The same map with lines cut so that each lies inside one extent of `parent`, the map of the namespace around.

        The kernel translates a line's outer ids by the one extent of the parent that holds them all
        (kernel/user_namespace.c, map_write), so "0 0 65537" fails with EPERM in a
        namespace whose own map is "0 1001 1" and "1 100000 65536".
        Raises UsageError where an outer id is not in `parent` or the map grows too long.
        """
        lines: list[Extent] = []
        for line in self.extents:
            start, end = line.outside, line.outside + line.size
            while start < end:
                around = next((e for e in parent.extents if e.inside <= start < e.inside + e.size), None)
                if around is None:
                    raise UsageError(
                        f"the id map needs id {start}, which is not among the {parent.size} ids that this user may use",
                        hint="choose ids below that number, or ask for a larger range in /etc/subuid and /etc/subgid",
                    )
                stop = min(end, around.inside + around.size)
                lines.append(Extent(line.inside + start - line.outside, start, stop - start))
                start = stop
        if len(lines) > MAX_LINES:
            raise UsageError(f"the id map has {len(lines)} lines, and the kernel takes {MAX_LINES}")
        return IdMap(tuple(lines))


def _check_line(line: Extent) -> None:
    if line.inside < 0 or line.outside < 0 or max(line.inside, line.outside) + line.size > 0xFFFFFFFF:
        raise UsageError(f"the id map line {line.inside}:{line.outside}:{line.size} is outside of 0...4294967294")


class IdMaps(msgspec.Struct, frozen=True):
    """The user and the group map of one namespace."""

    uids: IdMap
    gids: IdMap

    def split_for(self, parent: IdMaps) -> IdMaps:
        """`IdMap.split_for` of both."""
        return IdMaps(self.uids.split_for(parent.uids), self.gids.split_for(parent.gids))

    @classmethod
    def of_self(cls) -> IdMaps:
        """The maps of the namespace that the caller is in."""
        with open("/proc/self/uid_map") as uids, open("/proc/self/gid_map") as gids:
            return cls(IdMap.parse(uids.read()), IdMap.parse(gids.read()))


def _span(parent: IdMap) -> int:
    """How many ids from 0 on are mapped without a gap."""
    end = 0
    for line in parent.extents:
        if line.inside > end:
            break
        end = max(end, line.inside + line.size)
    return end


def default_maps(parent: IdMaps) -> IdMaps:
    """Container id n is E id n: container root is the invoking user, as in rootless Podman."""
    return IdMaps(
        IdMap.of((0, 0, _span(parent.uids))),
        IdMap.of((0, 0, _span(parent.gids))),
    ).split_for(parent)


def keep_id_maps(parent: IdMaps, uid: int, gid: int) -> IdMaps:
    """--userns keep-id: the invoking user (E id 0) keeps its own uid and gid in the container.

    The other container ids take E's subordinate ids in order: 0...uid-1 are E ids 1...uid, and those above uid stay.
    """
    return IdMaps(_keep(_span(parent.uids), uid), _keep(_span(parent.gids), gid)).split_for(parent)


def _keep(count: int, kept: int) -> IdMap:
    below = min(kept, count - 1)
    return IdMap.of((0, 1, below), (kept, 0, 1), (kept + 1, below + 1, count - 1 - below))


def nomap_maps(parent: IdMaps) -> IdMaps:
    """--userns nomap: the invoking user is not mapped; container id n is E id n+1."""
    if _span(parent.uids) < 2 or _span(parent.gids) < 2:
        raise UsageError("--userns=nomap needs subordinate ids, and this user has none")
    return IdMaps(IdMap.of((0, 1, _span(parent.uids) - 1)), IdMap.of((0, 1, _span(parent.gids) - 1))).split_for(parent)
