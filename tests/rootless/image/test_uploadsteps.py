"""The order of an upload's requests: whatever happens on the way, the blob arrives whole or the upload is given up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.image.uploadsteps import PART_MIN, Step, UploadSteps

MIB = 1 << 20


def _steps(size: int = 100 * MIB) -> UploadSteps:
    steps = UploadSteps(size, small=8 * MIB, part=32 * MIB)
    steps.answered(202, location="/u/1")
    return steps


def test_a_small_blob_goes_in_one_request() -> None:
    steps = UploadSteps(5, small=8)
    assert steps.step is Step.BEGIN
    steps.answered(202, location="/u/1")
    assert (steps.step, steps.location, steps.offset, steps.end) == (Step.FINISH, "/u/1", 0, 5)
    steps.answered(201)
    assert steps.step is Step.DONE and not steps.mounted


def test_a_mounted_blob_is_done() -> None:
    steps = UploadSteps(5)
    steps.answered(201)
    assert steps.step is Step.DONE and steps.mounted


def test_a_large_blob_goes_in_parts_and_the_newest_location_counts() -> None:
    steps = _steps()
    seen = []
    while steps.step is Step.SEND:
        seen.append((steps.location, steps.offset, steps.end))
        steps.answered(202, location=f"/u/{len(seen) + 1}", range_=f"0-{steps.end - 1}")
    parts = [(0, 32), (32, 64), (64, 96), (96, 100)]
    assert seen == [(f"/u/{number}", begin * MIB, end * MIB) for number, (begin, end) in enumerate(parts, 1)]
    assert (steps.step, steps.offset, steps.end) == (Step.FINISH, 100 * MIB, 100 * MIB)


def test_what_the_server_has_decides() -> None:
    steps = _steps()
    steps.answered(202, location="/u/2", range_="0-999")
    assert (steps.step, steps.offset, steps.failures) == (Step.SEND, 1000, 0)
    steps.broke_off()
    assert steps.step is Step.ASK
    steps.answered(204, location="/u/3", range_="bytes=0-1999")
    assert (steps.step, steps.offset, steps.location, steps.failures) == (Step.SEND, 2000, "/u/3", 0)


def test_an_upload_that_the_server_has_forgotten_begins_again() -> None:
    steps = _steps()
    steps.answered(202, location="/u/2", range_=f"0-{32 * MIB - 1}")
    steps.answered(503)
    assert (steps.step, steps.failures) == (Step.ASK, 1)
    steps.answered(404)
    assert (steps.step, steps.failures) == (Step.BEGIN, 1)
    steps.answered(202, location="/u/9")
    assert (steps.step, steps.offset) == (Step.SEND, 0)


def test_progress_forgives_and_its_absence_does_not() -> None:
    steps = _steps()
    for _ in range(4):
        steps.broke_off()
        steps.answered(204, range_="0-0")
        assert steps.step is Step.SEND and steps.offset == 0 and not steps.given_up
    steps.broke_off()
    assert steps.given_up and not steps.refused


def test_a_finish_without_an_answer_is_looked_up() -> None:
    steps = UploadSteps(5)
    steps.answered(202, location="/u/1")
    steps.broke_off()
    assert steps.step is Step.CHECK
    steps.answered(200)
    assert steps.step is Step.DONE
    again = _steps()
    again.answered(202, range_=f"0-{100 * MIB - 1}")
    again.broke_off()
    again.answered(404)
    assert again.step is Step.ASK


@pytest.mark.parametrize("status", [403, 401])
def test_refusals(status: int) -> None:
    steps = _steps()
    steps.answered(status)
    assert steps.given_up and steps.refused


def test_bodies_that_are_too_large_for_a_proxy() -> None:
    steps = _steps()
    steps.answered(413)
    assert steps.step is Step.ASK
    steps.answered(204, range_="0-0")
    assert steps.end == 16 * MIB
    small = UploadSteps(6 * MIB)
    small.answered(202, location="/u/1")
    small.answered(413)
    small.answered(202, location="/u/2")
    assert (small.step, small.end) == (Step.SEND, 3 * MIB)
    tiny = UploadSteps(PART_MIN)
    tiny.answered(202, location="/u/1")
    tiny.answered(413)
    assert tiny.refused


def test_a_registry_without_parts_gets_the_whole() -> None:
    steps = _steps()
    steps.answered(405)
    assert steps.step is Step.BEGIN
    steps.answered(202, location="/u/2")
    assert (steps.step, steps.offset, steps.end) == (Step.FINISH, 0, 100 * MIB)


def test_the_smallest_part_is_the_registrys_to_say() -> None:
    steps = UploadSteps(100 * MIB)
    steps.answered(202, location="/u/1", part_min=str(50 * MIB))
    assert steps.end == 50 * MIB


def test_a_cancelled_upload_counts_for_nothing() -> None:
    steps = UploadSteps(100)
    steps.answered(202, location="/u/1")
    steps.forget()
    assert (steps.step, steps.location) == (Step.BEGIN, "")


class Server:
    """A registry's uploads, which break off, forget and lie as a seed has it."""

    def __init__(self, seed: int, content: bytes) -> None:
        self.random = random.Random(seed)
        self.content = content
        self.held: bytes | None = None
        self.newest = 0
        self.stored: bytes | None = None

    def serve(self, steps: UploadSteps, payload: bytes) -> None:
        luck = self.random.random()
        if luck < 0.1:
            steps.answered(self.random.choice([429, 500, 503]))
            return
        breaks = luck < 0.3
        if steps.step is Step.BEGIN:
            self.held, self.newest = b"", self.newest + 1
            answer = (202, f"/{self.newest}", "")
        elif steps.step is Step.CHECK:
            answer = (200 if self.stored is not None else 404, "", "")
        elif self.held is None or steps.location != f"/{self.newest}" or luck > 0.95:
            self.held = None
            answer = (404, "", "")
        elif steps.step is Step.FINISH:
            body = self.held + payload
            if body == self.content:
                self.stored = body
            self.held = None
            answer = (201 if self.stored is not None else 400, "", "")
        else:
            if steps.step is Step.SEND:
                taken = payload[: self.random.randrange(len(payload) + 1)] if breaks else payload
                self.held += taken
                self.newest += self.random.randrange(2)
            answer = (202, f"/{self.newest}", f"0-{max(0, len(self.held) - 1)}")
        if breaks:
            steps.broke_off()
        else:
            steps.answered(answer[0], location=answer[1], range_=answer[2])


@given(seed=st.integers(0, 2**32), size=st.integers(0, 60), small=st.integers(0, 20), part=st.integers(1, 20))
def test_on_a_bad_line_the_blob_arrives_whole_or_not_at_all(seed: int, size: int, small: int, part: int) -> None:
    content = random.Random(seed + 1).randbytes(size)
    server = Server(seed, content)
    steps = UploadSteps(size, small=small, part=part)
    for _ in range(10_000):
        if steps.step is Step.DONE or steps.given_up:
            break
        sends = steps.step in (Step.SEND, Step.FINISH)
        server.serve(steps, content[steps.offset : steps.end] if sends else b"")
    else:
        raise AssertionError("it never ends")
    assert (server.stored == content) if steps.step is Step.DONE else steps.given_up
