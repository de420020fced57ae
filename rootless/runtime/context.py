"""What the steps of a plan hand to later ones, in the child."""

from __future__ import annotations

import socket

from rootless.runtime.messages import Fault
from rootless.runtime.rootdir import RootDir


class Refused(Exception):
    """The command cannot be executed: what `Failed` will say."""

    def __init__(self, fault: Fault, why: str, number: int) -> None:
        super().__init__(why)
        self.fault, self.why, self.number = fault, why, number


class Context:
    """What steps hand to later ones."""

    __slots__ = ("attached", "channel", "empty", "executable", "first_closed", "root", "state", "trees")

    def __init__(self, channel: socket.socket, state: bytes) -> None:
        self.channel = channel
        self.first_closed = channel.fileno()
        self.state = state
        self.trees: dict[int, int] = {}
        self.attached: set[int] = set()
        self.root = RootDir(-1)
        self.empty = -1
        self.executable = ""
