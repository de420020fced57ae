"""The ids that exist in a user namespace."""

from __future__ import annotations


class IdRange:
    """The ids in a map file such as /proc/self/uid_map (user_namespaces(7))."""

    def __init__(self, path: str) -> None:
        self._extents: list[tuple[int, int]] = []
        with open(path) as file:
            for line in file:
                inside, _, count = (int(word) for word in line.split())
                self._extents.append((inside, inside + count))

    def __contains__(self, number: int) -> bool:
        return any(first <= number < end for first, end in self._extents)

    def __str__(self) -> str:
        return ", ".join(f"{first}-{end - 1}" for first, end in self._extents)
