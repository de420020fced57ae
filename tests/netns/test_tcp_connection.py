"""The state machine of one connection, in dialogue with a peer that the test plays."""

from __future__ import annotations

import pytest

from netns.tcp.connection import TIME_WAIT_SECONDS
from netns.tcp.initial import initial_numbers
from netns.tcp.state import Signal, State
from tests.netns.tcp_language import Dialogue


def test_passive_open_announces_what_the_peer_understands() -> None:
    with_scale = Dialogue.passive(scale=7).expect("SA 0 ack 1")[0]
    without = Dialogue.passive(scale=None).expect("SA 0 ack 1")[0]
    assert with_scale.scale is not None and with_scale.mss == 1000
    assert without.scale is None


def test_a_held_syn_is_answered_only_after_accept() -> None:
    test = Dialogue.passive()
    test.connection.state = State.LISTEN
    test.expect()
    test.connection.accept()
    test.expect("SA 0 ack 1")


def test_refusal_is_a_reset_that_acknowledges_the_syn() -> None:
    test = Dialogue.passive()
    test.connection.state = State.LISTEN
    test.connection.abort()
    test.expect("RA 256 ack 1")  # sequence number zero, relative to our own start
    assert test.connection.state is State.CLOSED


def test_syn_ack_is_sent_again_and_then_given_up() -> None:
    test = Dialogue.passive()
    test.expect("SA 0 ack 1")
    waits = []
    for _ in range(5):
        waits.append(test.wait())
        test.expect("SA 0 ack 1")
    assert waits == [1, 2, 4, 8, 16]
    test.wait()
    test.expect("RA 1 ack 1")
    assert test.signals == [Signal.TIMED_OUT]


def test_a_repeated_syn_has_the_syn_ack_repeated() -> None:
    test = Dialogue.passive()
    test.expect("SA 0 ack 1")
    test.receive("S", seq=0)
    test.expect("SA 0 ack 1")


def test_active_open() -> None:
    test = Dialogue.active()
    test.expect("S 0")
    test.receive("SA", seq=0, ack=1, mss=1000, scale=3)
    test.expect("A 1 ack 1")
    assert test.signals == [Signal.CONNECTED]
    test.receive("PA", seq=1, ack=1, data=b"hello")
    test.expect("A 1 ack 6")
    assert test.heard == b"hello"


def test_active_open_refused() -> None:
    test = Dialogue.active()
    test.expect("S 0")
    test.receive("RA", seq=0, ack=1)
    assert test.signals == [Signal.REFUSED]
    test.expect()


def test_active_open_ignores_an_old_acknowledgement() -> None:
    test = Dialogue.active()
    test.expect("S 0")
    test.receive("A", seq=5, ack=99)
    test.expect("R 99")
    assert test.connection.state is State.SYN_SENT
    test.receive("RA", seq=5, ack=99)
    assert test.connection.state is State.SYN_SENT


def test_simultaneous_open() -> None:
    test = Dialogue.active()
    test.expect("S 0")
    test.receive("S", seq=0, mss=1000)
    test.expect("SA 0 ack 1")
    test.receive("A", seq=1, ack=1)
    assert test.connection.state is State.ESTABLISHED


def test_one_acknowledgement_for_a_batch() -> None:
    test = Dialogue.established()
    for i in range(5):
        test.receive("PA", seq=1 + i * 10, ack=1, data=bytes(10))
    test.expect("A 1 ack 51")
    test.expect()


def test_segments_out_of_order_are_put_in_order() -> None:
    test = Dialogue.established()
    test.receive("A", seq=4, ack=1, data=b"def")
    test.expect("A 1 ack 1")
    test.receive("FA", seq=10, ack=1, data=b"j")
    test.expect("A 1 ack 1")
    test.receive("A", seq=6, ack=1, data=b"fghi")
    test.expect("A 1 ack 1")
    test.receive("A", seq=1, ack=1, data=b"abcd")
    test.expect("A 1 ack 12")
    assert test.heard == b"abcdefghij"
    assert test.signals == [Signal.PEER_CLOSED]


def test_bytes_outside_the_window_are_cut_off() -> None:
    test = Dialogue.established(capacity=4096)
    test.receive("A", seq=1, ack=1, data=bytes(5000))
    test.expect("A 1 ack 4097")
    assert len(test.heard) == 4096
    test.receive("A", seq=4097, ack=1, data=b"more")
    assert test.expect("A 1 ack 4097")[0].window == 0
    test.consume()
    assert test.expect("A 1 ack 4097")[0].window == 4096 >> 7


def test_large_data_is_sent_in_segments_the_kernel_can_cut() -> None:
    test = Dialogue.established()
    test.connection.send(bytes(2500))
    test.expect("A 1:2501 ack 1")  # larger than the MSS: segmentation is offloaded
    test.receive("A", seq=1, ack=2501)
    assert test.connection.deadline() is None or test.connection.deadline() > 1000  # only the keep-alive
    test.expect()


def test_the_peers_window_is_respected() -> None:
    test = Dialogue.established(window=1500)
    test.connection.send(bytes(5000))
    test.expect("A 1:1501 ack 1")
    test.receive("A", seq=1, ack=1501, window=700)
    test.expect("A 1501:2201 ack 1")


def test_zero_window_is_probed_for_ever_and_opens() -> None:
    test = Dialogue.established()
    test.receive("A", seq=1, ack=1, window=0)
    test.connection.send(b"data")
    test.expect()
    for _ in range(30):
        test.wait()
        test.expect("A 0 ack 1")
        test.receive("A", seq=1, ack=1, window=0)
    test.receive("A", seq=1, ack=1, window=100)
    test.expect("A 1:5 ack 1")


def test_retransmission_backs_off_and_gives_up() -> None:
    test = Dialogue.established()
    test.connection.send(b"data")
    test.expect("A 1:5 ack 1")
    waits = []
    for _ in range(10):
        waits.append(test.wait())
        test.expect("A 1:5 ack 1")
    assert waits == sorted(waits) and waits[-1] <= 60
    test.wait()
    test.expect("RA 5 ack 1")
    assert test.signals == [Signal.TIMED_OUT]


def test_three_duplicates_bring_a_retransmission() -> None:
    test = Dialogue.established()
    for _ in range(5):
        test.connection.send(bytes(900))
        test.connection.poll(0)
    for _ in range(2):
        test.receive("A", seq=1, ack=901)
    test.expect()
    test.receive("A", seq=1, ack=901)
    test.receive("A", seq=1, ack=901)
    test.expect("A 901:1901 ack 1")
    test.receive("A", seq=1, ack=1901)  # a partial acknowledgement: the next hole
    test.expect("A 1901:2901 ack 1")
    test.receive("A", seq=1, ack=4501)
    test.expect()


def test_after_a_timeout_everything_is_sent_again() -> None:
    test = Dialogue.established(mss=1000)
    test.connection.max_segment = 1000
    test.connection.send(bytes(4000))
    test.connection.poll(0)
    test.wait()
    test.expect("A 1:1001 ack 1")
    test.receive("A", seq=1, ack=1001)
    test.expect("A 1001:2001 ack 1", "A 2001:3001 ack 1")
    test.receive("A", seq=1, ack=3001)
    test.expect("A 3001:4001 ack 1")
    test.receive("A", seq=1, ack=4001)
    test.expect()


def test_we_close_first() -> None:
    test = Dialogue.established()
    test.connection.send(b"bye")
    test.connection.close()
    test.expect("FA 1:4 ack 1")
    assert test.connection.state is State.FIN_WAIT_1
    test.receive("A", seq=1, ack=5)
    assert test.connection.state is State.FIN_WAIT_2
    test.receive("PA", seq=1, ack=5, data=b"still here")  # half closed: the other direction goes on
    test.expect("A 5 ack 11")
    test.receive("FA", seq=11, ack=5)
    test.expect("A 5 ack 12")
    assert test.connection.state is State.TIME_WAIT
    test.receive("FA", seq=11, ack=5)
    test.expect("A 5 ack 12")
    assert test.wait() == TIME_WAIT_SECONDS
    test.expect()
    assert test.connection.state is State.CLOSED
    assert test.signals == [Signal.PEER_CLOSED, Signal.CLOSED]


def test_the_peer_closes_first() -> None:
    test = Dialogue.established()
    test.receive("FA", seq=1, ack=1)
    test.expect("A 1 ack 2")
    assert test.connection.state is State.CLOSE_WAIT
    test.connection.send(b"rest")
    test.expect("A 1:5 ack 2")
    test.connection.close()
    test.expect("FA 5 ack 2")
    assert test.connection.state is State.LAST_ACK
    test.receive("A", seq=2, ack=6)
    assert test.connection.state is State.CLOSED
    assert test.signals == [Signal.PEER_CLOSED, Signal.CLOSED]


def test_both_close_at_once() -> None:
    test = Dialogue.established()
    test.connection.close()
    test.expect("FA 1 ack 1")
    test.receive("FA", seq=1, ack=1)
    assert test.connection.state is State.CLOSING
    test.expect("A 2 ack 2")
    test.receive("A", seq=2, ack=2)
    assert test.connection.state is State.TIME_WAIT


def test_each_segment_ahead_of_its_turn_is_a_duplicate_up_to_three() -> None:
    test = Dialogue.established()
    test.receive("A", seq=4, ack=1, data=b"def")
    test.receive("A", seq=7, ack=1, data=b"ghi")
    test.expect("A 1 ack 1", "A 1 ack 1")
    for seq in range(10, 15):
        test.receive("A", seq=seq, ack=1, data=b"x")
    test.expect("A 1 ack 1", "A 1 ack 1", "A 1 ack 1")
    test.receive("A", seq=16, ack=1, data=b"z")
    test.receive("A", seq=15, ack=1, data=b"y")
    test.receive("A", seq=1, ack=1, data=b"abc")
    test.expect("A 1 ack 17")
    assert test.heard == b"abcdefghixxxxxyz"


def test_initial_numbers_do_not_repeat() -> None:
    numbers = initial_numbers()
    drawn = [next(numbers) for _ in range(3000)]
    assert all(0 <= number < 1 << 32 for number in drawn)
    assert len(set(drawn)) > 2990


def test_a_lost_fin_is_sent_again() -> None:
    test = Dialogue.established()
    test.connection.send(b"x")
    test.connection.close()
    test.expect("FA 1:2 ack 1")
    test.wait()
    test.expect("FA 1:2 ack 1")
    test.receive("A", seq=1, ack=2)
    test.wait()
    test.expect("FA 2 ack 1")
    test.receive("A", seq=1, ack=3)
    assert test.connection.state is State.FIN_WAIT_2


def test_a_reset_must_hit_the_next_byte() -> None:
    test = Dialogue.established()
    test.receive("R", seq=50)
    test.expect("A 1 ack 1")  # a challenge (RFC 5961)
    test.receive("R", seq=70000)
    test.expect()
    test.receive("R", seq=1)
    assert test.signals == [Signal.RESET]
    test.expect()


def test_abort_resets() -> None:
    test = Dialogue.established()
    test.connection.send(b"abc")
    test.expect("A 1:4 ack 1")
    test.connection.abort()
    test.expect("RA 4 ack 1")
    assert test.signals == []


@pytest.mark.parametrize("flags", ["S", "SA"])
def test_a_syn_in_the_window_is_challenged(flags: str) -> None:
    test = Dialogue.established()
    test.receive(flags, seq=9, ack=1)
    test.expect("A 1 ack 1")


def test_an_acknowledgement_of_the_future_is_answered_and_dropped() -> None:
    test = Dialogue.established()
    test.receive("PA", seq=1, ack=500, data=b"x")
    test.expect("A 1 ack 1")
    assert not test.heard


def test_a_keep_alive_is_answered() -> None:
    test = Dialogue.established()
    test.receive("A", seq=0, ack=1)
    test.expect("A 1 ack 1")


def test_a_silent_peer_is_probed_and_given_up() -> None:
    test = Dialogue.established()
    assert test.wait() == 7200
    for _ in range(9):
        test.expect("A 0 ack 1")
        assert test.wait() == 75
    test.expect("RA 1 ack 1")
    assert test.signals == [Signal.TIMED_OUT]


def test_a_peer_that_answers_probes_lives() -> None:
    test = Dialogue.established()
    test.wait()
    test.expect("A 0 ack 1")
    test.receive("A", seq=1, ack=1)
    test.expect()
    assert test.wait() == 7200


def test_single_bytes_do_not_cost_an_object_each() -> None:
    test = Dialogue.established(window=0)
    for _ in range(2000):
        test.connection.send(b"x")
    assert len(test.connection.buffer.gather(test.connection.buffer.start, 2000)) == 1
