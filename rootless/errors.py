"""The errors that a user may see, sorted by who must act.

    RcontainError           exit 125
      UsageError            you: the command line, a name, a file you gave
      HostError             this machine: a missing program, a kernel setting, no space
      RegistryError         the far side: a registry or the way to it
      ImageError            bad data: an image, a layer, a digest
      ContainerError        the container: its state, its command
        CommandNotFound     exit 127: the command is not in the image
        CommandNotRunnable  exit 126: it is there and cannot be executed

A message is one sentence that says what was attempted, on what, and why it failed; `hint` says what to do next.
"""

from __future__ import annotations


class RcontainError(Exception):
    """Base of every error that is shown to a user as one sentence. `exit_code` is Podman's."""

    exit_code = 125

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(RcontainError):
    """The command line, a name, or a file that the user gave."""


class HostError(RcontainError):
    """This machine: a missing program, a kernel setting, permissions, no space."""


class RegistryError(RcontainError):
    """The far side: a registry, or the way to it."""


class ImageError(RcontainError):
    """Bad data: an image, a layer, a digest, a document."""


class ContainerError(RcontainError):
    """The container: its state or its command."""


class CommandNotFound(ContainerError):
    """The command is not in the image."""

    exit_code = 127


class CommandNotRunnable(ContainerError):
    """The command is in the image and cannot be executed."""

    exit_code = 126


def first_cause(error: BaseException) -> BaseException:
    """The one exception that matters in a group that a nursery raised: an error of ours before anything else."""
    flat: list[BaseException] = []
    pending = [error]
    while pending:
        item = pending.pop()
        if isinstance(item, BaseExceptionGroup):
            pending.extend(item.exceptions)
        else:
            flat.append(item)
    return next((item for item in flat if isinstance(item, RcontainError)), flat[-1])


def shortened(text: str, limit: int = 120) -> str:
    """What a message shows of a text that may be of any length: at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
