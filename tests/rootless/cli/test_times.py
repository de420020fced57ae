"""Times and sizes in Podman's words."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.cli import times
from rootless.container.timestamps import rfc3339
from rootless.errors import UsageError

HOUR = 3600
DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (-5, "Less than a second"),
        (1.5, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (HOUR, "About an hour"),
        (1.6 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (3 * DAY, "3 days"),
        (20 * DAY, "2 weeks"),
        (100 * DAY, "3 months"),
        (800 * DAY, "2 years"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert times.human_duration(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (3_994_693, "3.99 MB"), (11_200, "11.2 kB"), (999_999, "1 MB"), (10**15, "1e+03 TB")],
)
def test_sizes(size: int, words: str) -> None:
    assert times.human_size(size) == words


@given(st.integers(0, 4 * 10**18))
def test_our_own_times_come_back(now_ns: int) -> None:
    assert times.parse_rfc3339(rfc3339(now_ns)) == now_ns


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01T01:00:01+01:00", 1),
        ("1970-01-01 00:01", 60),
        ("1970-01-02", 86400),
        ("0001-01-01T00:00:00Z", -62135596800),
    ],
)
def test_rfc3339(text: str, seconds: int) -> None:
    assert times.parse_rfc3339(text) == seconds * times.SECOND


@given(st.text(max_size=20))
def test_anything_else_is_no_time(text: str) -> None:
    times.parse_rfc3339(text)
    times.parse_duration(text)


@pytest.mark.parametrize("text", ["", "10", "-", "1h-2m", "x", "1970-13-01", "5parsecs", "2026-01-01T00:00:00+99:99"])
def test_neither(text: str) -> None:
    assert times.parse_rfc3339(text) is None
    assert times.parse_duration(text) is None


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = 1769860800 * times.SECOND  # 2026-01-31T12:00:00Z
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-2")
        time.tzset()
        assert times.parse_moment("2026-01-31T14:00:00", 0, "--since") == noon
        assert times.parse_moment("2026-01-31T12:00:00Z", 0, "--since") == noon
        assert times.parse_rfc3339("2026-01-31T12:00:00") == noon
    time.tzset()


def test_moments() -> None:
    now = 10**18
    assert times.parse_moment("1h30m", now, "--since") == now - 5400 * times.SECOND
    assert times.parse_moment("-10s", now, "--until") == now + 10 * times.SECOND
    assert times.parse_moment("12.5", now, "--since") == 12_500_000_000
    with pytest.raises(UsageError, match='--since "soon" is not a time'):
        times.parse_moment("soon", now, "--since")
