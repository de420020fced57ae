"""The conversation between a container's first process and its supervisor."""

from __future__ import annotations

import os
import socket

import pytest

from rootless.runtime import messages
from rootless.runtime.messages import Created, Failed, Fault, Forked, Master, Order, Report


@pytest.mark.parametrize("report", [Created(), Forked(7), Failed(Fault.NOT_FOUND, "find the command x", "why", 2)])
def test_reports_arrive_as_they_were_sent(report: Report) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        messages.send(theirs, report)
        assert messages.receive(ours) == (report, None)


def test_a_descriptor_rides_along() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open(__file__) as file:
        messages.send(theirs, Master(), file.fileno())
        found = messages.receive(ours)
        assert found is not None and found[1] is not None
        assert os.path.samestat(os.fstat(found[1]), os.fstat(file.fileno()))
        assert not os.get_inheritable(found[1])
        os.close(found[1])


def test_end_of_file_is_the_peers_death() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        theirs.close()
        assert messages.receive(ours) is None
        messages.order(ours, Order.START)
        assert not messages.await_order(ours, Order.START)
