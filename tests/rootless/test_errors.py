"""The error tree: exit codes and sentences."""

from __future__ import annotations

import pytest

from rootless import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 125),
        (errors.HostError, 125),
        (errors.RegistryError, 125),
        (errors.ImageError, 125),
        (errors.ContainerError, 125),
        (errors.CommandNotFound, 127),
        (errors.CommandNotRunnable, 126),
    ],
)
def test_exit_codes_are_podmans(kind: type[errors.RcontainError], code: int) -> None:
    assert kind("x").exit_code == code and issubclass(kind, errors.RcontainError)


def test_a_hint_follows_the_message() -> None:
    assert str(errors.HostError("no space")) == "no space"
    assert str(errors.HostError("no space", hint="free some")) == "no space; free some"


def test_our_own_error_is_the_cause() -> None:
    ours = errors.ImageError("ours")
    group = BaseExceptionGroup("", [OSError("x"), BaseExceptionGroup("", [ours, ValueError("y")])])
    assert errors.first_cause(group) is ours
    assert errors.first_cause(ours) is ours
    assert isinstance(errors.first_cause(BaseExceptionGroup("", [ValueError("y")])), ValueError)


def test_long_texts_are_shortened() -> None:
    assert errors.shortened("x" * 120) == "x" * 120
    assert errors.shortened("x" * 121) == "x" * 117 + "..." and errors.shortened("abcdef", 5) == "ab..."
