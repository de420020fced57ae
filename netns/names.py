"""The names under which the guest knows the addresses of the world: those whose answers it was given. Sans I/O.

Only the name that was asked for counts, not what an answer says besides: whoever runs a name's servers writes the
answer and could claim any other name in it.

Many programs look a name up once and go on using what they found (nginx its upstreams, some for good). So a name lasts
for an hour at least, and for another hour after each use that a rule by name allowed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

_MAX_ADDRESSES = 4096
_MAX_NAMES = 16  # of one address: content networks serve many names from one
_LEAST_SECONDS = 3600.0
_MOST_SECONDS = 86400.0


class Names:
    """From addresses, packed, to names, in small letters and without the last dot. Bounded; the oldest make room."""

    __slots__ = ("_fixed", "_known", "_limit")

    def __init__(self, limit: int = _MAX_ADDRESSES) -> None:
        self._known: OrderedDict[bytes, dict[str, float]] = OrderedDict()
        self._limit = limit
        self._fixed: dict[bytes, list[str]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def hear(self, name: str, addresses: Iterable[bytes], ttl: float, now: float) -> None:
        """`name` is at `addresses` for `ttl` seconds from `now`."""
        name = normal(name)
        expires = now + min(max(ttl, _LEAST_SECONDS), _MOST_SECONDS)
        for address in addresses:
            names = self._known.get(address)
            if names is None:
                if len(self._known) >= self._limit:
                    self._known.popitem(last=False)
                names = self._known[address] = {}
            else:
                self._known.move_to_end(address)
            names.pop(name, None)  # so that the newest is the last
            while len(names) >= _MAX_NAMES:
                del names[next(iter(names))]
            names[name] = expires

    def fix(self, name: str, address: bytes) -> None:
        """`name` is at `address` for good, as in a guest's own /etc/hosts."""
        self._fixed.setdefault(address, []).append(normal(name))

    def keep(self, address: bytes, now: float) -> None:
        """`address` is used under a name that it has: let its names last."""
        names = self._known.get(address)
        if names is not None:
            self._known.move_to_end(address)
            for name, expires in names.items():
                names[name] = max(expires, now + _LEAST_SECONDS)

    def of(self, address: bytes, now: float) -> list[str]:
        """The names of `address`, the last that was heard first."""
        fixed = self._fixed.get(address, [])
        names = self._known.get(address)
        if names is None:
            return list(fixed)
        for name in [name for name, expires in names.items() if expires <= now]:
            del names[name]
        if not names:
            del self._known[address]
        return [*fixed, *reversed(names)]


def normal(name: str) -> str:
    """The form in which names are compared (RFC 4343: the case of letters does not count)."""
    return name.rstrip(".").lower()
