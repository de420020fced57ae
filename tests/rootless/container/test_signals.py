"""Signals as they are written."""

from __future__ import annotations

import signal

import pytest

from rootless.container import signals
from rootless.errors import UsageError


@pytest.mark.parametrize("text", ["TERM", "SIGTERM", "term", "sigterm", "15"])
def test_a_signal_is_known_by_all_its_names(text: str) -> None:
    assert signals.parse(text) == signal.SIGTERM


def test_real_time_signals() -> None:
    assert signals.parse("SIGRTMIN+3") == signal.SIGRTMIN + 3
    assert signals.parse("RTMIN") == signal.SIGRTMIN


@pytest.mark.parametrize("text", ["", "SIG", "0", "65", "-1", "NOSUCH", "RTMIN+99", "RTMIN+x", "²"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(UsageError, match="is not a signal"):
        signals.parse(text)
    assert signals.of_image(text) == signal.SIGTERM


def test_real_time_signals_are_counted_from_both_ends() -> None:
    assert signals.parse("SIGRTMAX") == signal.SIGRTMAX
    assert signals.parse("RTMAX-1") == signal.SIGRTMAX - 1


@pytest.mark.parametrize("text", ["RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31", "9.0", "SIGSIGKILL"])
def test_what_is_nearly_a_signal(text: str) -> None:
    with pytest.raises(UsageError, match="is not a signal"):
        signals.parse(text)
