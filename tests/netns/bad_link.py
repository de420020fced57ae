"""A network whose link to the guest loses, repeats, delays and damages frames, by a seed.

    process.Driver, process.Stack = bad_link(seed, Chances(lost=0.02))

The guest's kernel is the peer, so this holds our TCP against another's in bad weather.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from netns.driver import Driver
from netns.stack import Stack
from netns.wire.error import Buffer

_DELAY = 0.003  # seconds


@dataclass(frozen=True, slots=True)
class Chances:
    """How likely each mishap is for a frame, 0 to 1."""

    lost: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    cut: float = 0.0


class Weather:
    """Decides what becomes of each frame, and counts its mishaps."""

    def __init__(self, seed: int, chances: Chances) -> None:
        self._random = random.Random(seed)
        self._chances = chances

    def __call__(self, frame: bytes) -> tuple[list[bytes], list[bytes]]:
        """What arrives at once, and what arrives late."""
        draw, chances = self._random.random, self._chances
        if draw() < chances.lost:
            return [], []
        if draw() < chances.cut:
            frame = frame[: self._random.randrange(len(frame))]
        copies = [frame, frame] if draw() < chances.repeated else [frame]
        return ([], copies) if draw() < chances.late else (copies, [])


def bad_link(seed: int, chances: Chances) -> tuple[type[Driver], type[Stack]]:
    """Classes to use in place of Driver and Stack."""
    out = Weather(seed, chances)
    back = Weather(seed + 1, chances)
    drivers: list[Driver] = []

    class BadDriver(Driver):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            drivers.append(self)

        def _write(self, frame: tuple[Buffer, ...]) -> None:
            write = super()._write
            now, late = out(b"".join(frame))
            for one in now:
                write((one,))
            for one in late:
                self.call_later(_DELAY, lambda one=one: write((one,)))  # type: ignore[misc]

    class BadStack(Stack):
        def receive(self, frame: Buffer, now: float) -> None:
            receive = super().receive
            at_once, late = back(bytes(frame))
            for one in at_once:
                receive(one, now)
            for one in late:
                drivers[0].call_later(_DELAY, lambda one=one: receive(one, drivers[0].now))  # type: ignore[misc]

    return BadDriver, BadStack
