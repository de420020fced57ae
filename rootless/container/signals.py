"""Signals by name or number, as users, Podman and images write them."""

from __future__ import annotations

import signal

from ..errors import UsageError


def parse(text: str) -> int:
    """A signal's number from TERM, SIGTERM, term, 15, RTMIN+3 or RTMAX-1. Raises UsageError."""
    name = text.upper().removeprefix("SIG")
    if name.isascii() and name.isdigit() and 1 <= int(name) <= signal.SIGRTMAX:
        return int(name)
    base, separator, offset = name.partition("+")
    if base == "RTMIN" and (not separator or (offset.isascii() and offset.isdigit())):
        number = signal.SIGRTMIN + int(offset or 0)
        if number <= signal.SIGRTMAX:
            return int(number)
    elif base == "RTMAX" and not separator:
        return int(signal.SIGRTMAX)
    elif name.startswith("RTMAX-") and name[6:].isascii() and name[6:].isdigit():
        number = signal.SIGRTMAX - int(name[6:])
        if number >= signal.SIGRTMIN:
            return int(number)
    elif f"SIG{name}" in signal.Signals.__members__:
        return int(signal.Signals[f"SIG{name}"])
    raise UsageError(f'"{text}" is not a signal', hint="use a name such as TERM, or a number from 1 to 64")


def of_image(text: str) -> int:
    """An image's StopSignal. One that is no signal counts as none: the image is not the user's to mend."""
    try:
        return parse(text) if text else signal.SIGTERM
    except UsageError:
        return signal.SIGTERM
