"""Signals by name and number."""

from __future__ import annotations

import signal

import pytest

from rootless.container import signals
from rootless.errors import UsageError


@pytest.mark.parametrize(
    ("text", "number"),
    [("KILL", 9), ("SIGKILL", 9), ("sigkill", 9), ("9", 9), ("hup", 1), ("RTMIN", 34), ("RTMIN+3", 37), ("SIGRTMAX", 64), ("RTMAX-1", 63), ("64", 64)],
)
def test_signals(text: str, number: int) -> None:
    assert signals.parse(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "NONSENSE", "SIG", "RTMIN+31", "RTMIN-1", "9.0", "SIGSIGKILL"])
def test_malformed_signals(text: str) -> None:
    with pytest.raises(UsageError):
        signals.parse(text)


def test_an_image_may_name_nonsense() -> None:
    assert signals.of_image("") == signals.of_image("NONSENSE") == signal.SIGTERM
    assert signals.of_image("SIGQUIT") == signal.SIGQUIT
