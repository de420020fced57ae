"""Times and sizes for people, in Podman's words, and the times that people type: pure.

Sources: github.com/docker/go-units (duration.go, size.go), github.com/containers/podman docs (logs --since).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from ..errors import UsageError

SECOND = 1_000_000_000  # nanoseconds

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9})\d*)?)?\s*(Z|z|[+-]\d\d:?\d\d)?)?"
)
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")
_UNITS = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9, "d": 86400e9}


def parse_rfc3339(text: str, *, local: bool = False) -> int | None:
    """Nanoseconds since 1970, or None for what is no such time. A time without a zone is in UTC, or `local` time."""
    found = _RFC3339.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        day_and_time = (int(year), int(month), int(day), int(hour or 0), int(minute or 0), min(int(second or 0), 59))
        moment = datetime(*day_and_time, tzinfo=_zone(zone, local)).astimezone(UTC)
        seconds = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
    return seconds * SECOND + int((fraction or "").ljust(9, "0"))


def _zone(text: str | None, local: bool) -> timezone | None:
    """None stands for this machine's zone, whose offset depends on the date."""
    if not text:
        return None if local else UTC
    if text in "Zz":
        return UTC
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def parse_duration(text: str) -> int | None:
    """Nanoseconds from Go's 1h30m, 10s, 500ms (and days, as in 2d); None for anything else."""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text or len(text) > 40:
        return None
    return round(sum(float(number) * _UNITS[unit] for number, unit in parts))


def parse_moment(text: str, now_ns: int, flag: str) -> int:
    """What --since and --until take: 10m (ago), seconds since 1970, or a date and time. Raises UsageError."""
    duration = parse_duration(text.removeprefix("-"))
    if duration is not None:
        return now_ns + duration if text.startswith("-") else now_ns - duration
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * SECOND + int(fraction.ljust(9, "0"))
    moment = parse_rfc3339(text, local=True)
    if moment is None:
        raise UsageError(f'{flag} "{text}" is not a time', hint="use 10m, 2026-01-31T12:00:00Z or seconds since 1970")
    return moment


def human_duration(seconds: float) -> str:
    """`5 seconds`, `About a minute`, `3 weeks`."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 2:
        return "1 second"
    if seconds < 60:
        return f"{int(seconds)} seconds"
    minutes = int(seconds / 60)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, size, unit in (
        (48, 1, "hours"),
        (24 * 14, 24, "days"),
        (24 * 60, 24 * 7, "weeks"),
        (24 * 730, 24 * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // size} {unit}"
    return f"{hours // (24 * 365)} years"


def ago(then_ns: int | None, now_ns: int) -> str:
    """`5 seconds ago`; empty for a time that is not known."""
    return "" if then_ns is None else f"{human_duration((now_ns - then_ns) / SECOND)} ago"


def human_size(size: float, *, space: str = " ") -> str:
    """Three digits and a decimal unit: `3.99 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g}{space}{unit}"
