"""The one error that leaves this package."""

from __future__ import annotations


class NetworkError(Exception):
    """What was attempted, on what and why it failed, in one sentence; `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message
