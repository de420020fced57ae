"""RFC 3339 times with nanoseconds, in UTC, as Podman and Docker write them."""

from __future__ import annotations

import time

NEVER = "0001-01-01T00:00:00Z"


def rfc3339(ns: int) -> str:
    """`ns` is nanoseconds since 1970."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"
