"""What `--ulimit` means. Pure."""

from __future__ import annotations

from ..container.options import Limit
from ..errors import UsageError

_LIMITS = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"),
    *("rtprio", "rttime", "sigpending", "stack"),
)


def parse_limit(text: str) -> Limit:
    """NAME=SOFT[:HARD], named as getrlimit(2) does. Raises UsageError."""
    name, separator, values = text.partition("=")
    if not separator or name.lower() not in _LIMITS:
        raise UsageError(f'--ulimit "{text}" is not NAME=SOFT[:HARD]', hint=f"the names are {', '.join(_LIMITS)}")
    soft, _, hard = values.partition(":")
    pair = (_value(soft, text), _value(hard or soft, text))
    if pair[1] != -1 and (pair[0] == -1 or pair[0] > pair[1]):
        raise UsageError(f'--ulimit "{text}": the soft limit is above the hard one')
    return Limit(name=f"RLIMIT_{name.upper()}", soft=pair[0], hard=pair[1])


def _value(word: str, text: str) -> int:
    if word in ("unlimited", "-1"):
        return -1
    if not (word.isascii() and word.isdigit()):
        raise UsageError(f'--ulimit "{text}": "{word}" is not a number', hint="use a number, or unlimited")
    return int(word)
