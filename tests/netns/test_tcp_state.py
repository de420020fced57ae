"""What each synchronized state makes of segments that do not belong (RFC 9293 section 3.10.7.4, RFC 5961)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from netns.tcp.state import Signal, State
from tests.netns.tcp_language import Dialogue

Place = tuple[Dialogue, int, int]  # and the numbers that both ends expect: of theirs, of ours


def established() -> Place:
    return Dialogue.established(), 1, 1


def fin_wait_1() -> Place:
    test = Dialogue.established()
    test.connection.close()
    test.expect("FA 1 ack 1")
    return test, 1, 2


def fin_wait_2() -> Place:
    test, _, _ = fin_wait_1()
    test.receive("A", seq=1, ack=2)
    test.expect()
    return test, 1, 2


def close_wait() -> Place:
    test = Dialogue.established()
    test.receive("FA", seq=1, ack=1)
    test.expect("A 1 ack 2")
    return test, 2, 1


def closing() -> Place:
    test, _, _ = fin_wait_1()
    test.receive("FA", seq=1, ack=1)
    test.expect("A 2 ack 2")
    return test, 2, 2


def last_ack() -> Place:
    test, _, _ = close_wait()
    test.connection.close()
    test.expect("FA 1 ack 2")
    return test, 2, 2


def time_wait() -> Place:
    test, _, _ = fin_wait_2()
    test.receive("FA", seq=1, ack=2)
    test.expect("A 2 ack 2")
    return test, 2, 2


STATES: tuple[tuple[State, Callable[[], Place]], ...] = (
    (State.ESTABLISHED, established),
    (State.FIN_WAIT_1, fin_wait_1),
    (State.FIN_WAIT_2, fin_wait_2),
    (State.CLOSE_WAIT, close_wait),
    (State.CLOSING, closing),
    (State.LAST_ACK, last_ack),
    (State.TIME_WAIT, time_wait),
)

every_state = pytest.mark.parametrize(("state", "enter"), STATES, ids=[state.name for state, _ in STATES])
Enter = Callable[[], Place]


@every_state
def test_a_reset_at_the_expected_number_ends_it(state: State, enter: Enter) -> None:
    test, theirs, ours = enter()
    assert test.connection.state is state
    test.signals.clear()
    test.receive("R", seq=theirs, ack=ours)
    assert test.connection.state is State.CLOSED and test.signals == [Signal.RESET]
    test.expect()
    assert test.connection.deadline() is None


@every_state
def test_a_reset_elsewhere_in_the_window_is_challenged(state: State, enter: Enter) -> None:
    test, theirs, ours = enter()
    test.receive("R", seq=theirs + 1)
    test.expect(f"A {ours} ack {theirs}")
    assert test.connection.state is state


@every_state
@pytest.mark.parametrize("away", [-1, -70000, 1 << 17, 1 << 30])
def test_a_reset_outside_of_the_window_is_nothing(state: State, enter: Enter, away: int) -> None:
    test, theirs, _ = enter()
    test.receive("R", seq=theirs + away)
    test.expect()
    assert test.connection.state is state


@every_state
def test_a_syn_is_challenged(state: State, enter: Enter) -> None:
    test, theirs, ours = enter()
    for seq in (theirs, theirs + 5):
        test.receive("S", seq=seq)
        test.expect(f"A {ours} ack {theirs}")
    assert test.connection.state is state


@every_state
def test_an_acknowledgement_of_what_was_never_sent_is_answered(state: State, enter: Enter) -> None:
    test, theirs, ours = enter()
    test.receive("A", seq=theirs, ack=ours + 1, data=b"no")
    test.expect(f"A {ours} ack {theirs}")
    assert test.connection.state is state and not test.heard


@every_state
@pytest.mark.parametrize("away", [-3, 1 << 17])
def test_data_outside_of_the_window_is_answered_and_dropped(state: State, enter: Enter, away: int) -> None:
    test, theirs, ours = enter()
    test.receive("A", seq=theirs + away, ack=1, data=b"abc")
    test.expect(f"A {ours} ack {theirs}")
    assert test.connection.state is state and not test.heard


@every_state
def test_a_segment_without_an_acknowledgement_is_dropped(state: State, enter: Enter) -> None:
    test, theirs, _ = enter()
    test.receive("P", seq=theirs, data=b"abc")
    test.expect()
    assert test.connection.state is state and not test.heard


@every_state
def test_an_old_acknowledgement_changes_nothing(state: State, enter: Enter) -> None:
    test, theirs, _ = enter()
    before = test.connection.snd_una
    test.receive("A", seq=theirs, ack=0)
    test.expect()
    assert test.connection.state is state and test.connection.snd_una == before


@pytest.mark.parametrize("enter", [close_wait, closing, last_ack, time_wait])
def test_a_repeated_fin_is_acknowledged_again(enter: Enter) -> None:
    test, theirs, ours = enter()
    state = test.connection.state
    test.receive("FA", seq=theirs - 1, ack=1)
    test.expect(f"A {ours} ack {theirs}")
    assert test.connection.state is state


@pytest.mark.parametrize("enter", [close_wait, closing, last_ack, time_wait])
def test_nothing_is_received_after_the_fin(enter: Enter) -> None:
    test, theirs, _ = enter()
    test.receive("A", seq=theirs, ack=1, data=b"late")
    test.connection.poll(test.now)
    assert not test.heard and test.connection.window.nxt & 0xFFFF == (0xFFFFFFF0 + theirs) & 0xFFFF


@pytest.mark.parametrize("enter", [established, fin_wait_1, fin_wait_2])
def test_data_is_received_until_the_fin(enter: Enter) -> None:
    test, theirs, ours = enter()
    test.receive("FA", seq=theirs, ack=ours, data=b"last")
    test.connection.poll(test.now)
    assert test.heard == b"last" and Signal.PEER_CLOSED in test.signals
