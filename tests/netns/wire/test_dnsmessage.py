"""Questions and answers of DNS, well-formed and not."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.wire.dns import DnsHeader
from netns.wire.dnsmessage import AAAA, CNAME, REFUSED, A, DnsAnswer, DnsQuestion, read_name, refusal
from netns.wire.error import WireError


def name(text: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".") if label) + b"\0"


def query(text: str, kind: int = A, *, identifier: int = 7) -> bytes:
    return DnsHeader(identifier, 0x0100, 1, 0, 0, 0).to_bytes() + name(text) + struct.pack("!HH", kind, 1)


def record(owner: bytes, kind: int, data: bytes, ttl: int = 60) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def answer(text: str, *records: bytes, kind: int = A) -> bytes:
    head = DnsHeader(7, 0x8180, 1, len(records), 0, 0).to_bytes()
    return head + name(text) + struct.pack("!HH", kind, 1) + b"".join(records)


SAME = b"\xc0\x0c"  # a pointer to the question's name


def test_a_question() -> None:
    question = DnsQuestion.parse(query("Deb.Debian.org", AAAA) + b"rest")
    assert (question.name, question.kind, question.end) == ("Deb.Debian.org", AAAA, 32)
    assert DnsQuestion.parse(query("")).name == ""


def test_addresses_of_the_name_that_was_asked_for() -> None:
    parsed = DnsAnswer.parse(
        answer("a.example", record(SAME, A, b"\1\2\3\4", 90), record(name("A.EXAMPLE"), A, b"\1\2\3\5", 80))
    )
    assert (parsed.name, parsed.addresses, parsed.ttl) == ("a.example", [b"\1\2\3\4", b"\1\2\3\5"], 80)
    assert DnsAnswer.parse(answer("a.example", record(SAME, AAAA, bytes(16)))).addresses == [bytes(16)]


def test_aliases_are_followed_in_any_order() -> None:
    parsed = DnsAnswer.parse(
        answer(
            "a.example",
            record(name("c.example"), A, b"\1\2\3\4", 500),
            record(name("b.example"), CNAME, name("c.example"), 30),
            record(SAME, CNAME, name("B.example"), 400),
        )
    )
    assert (parsed.name, parsed.addresses, parsed.ttl) == ("a.example", [b"\1\2\3\4"], 30)


def test_what_an_answer_says_about_others_does_not_count() -> None:
    parsed = DnsAnswer.parse(
        answer(
            "evil.example",
            record(name("deb.debian.org"), A, b"\6\6\6\6"),
            record(SAME, 16, b"\1x"),
            record(SAME, A, b"short"),
        )
    )
    assert (parsed.name, parsed.addresses, parsed.ttl) == ("evil.example", [], 0)


def test_circles_of_aliases_end() -> None:
    circle = answer("a.example", record(SAME, CNAME, name("b.example")), record(name("b.example"), CNAME, SAME))
    assert DnsAnswer.parse(circle).addresses == []


def test_a_dot_within_a_label_is_none_between_two() -> None:
    assert read_name(b"\x0adeb.debian\x03org\0", 0)[0] == "deb\\046debian.org"
    assert read_name(b"\x02\xffa\0", 0)[0] == "\\255a"


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\x00", b"\x01a\xc0\x02", b"\xc0", b"\x05ab", b"\x40a", b"\x80a", b"\x01a", b"",
        b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 3 + b"\0",
    ],
)  # fmt: skip
def test_names_that_are_none(data: bytes) -> None:
    with pytest.raises(WireError):
        read_name(data, 0)


def test_pointers_are_bounded() -> None:
    data = b"\0\0" + b"".join(struct.pack("!H", 0xC000 | at) for at in range(0, 400, 2))
    with pytest.raises(WireError):
        read_name(data, len(data) - 2)
    assert read_name(data, 40) == ("", 42)


@pytest.mark.parametrize("flags", [0x0800, 0x2800, 0x7800])
def test_other_operations_are_no_questions(flags: int) -> None:
    with pytest.raises(WireError):
        DnsQuestion.parse(DnsHeader(1, flags, 1, 0, 0, 0).to_bytes() + name("a") + b"\0\1\0\1")


def test_one_question_of_the_internet_and_no_more() -> None:
    for data in (
        DnsHeader(1, 0, 2, 0, 0, 0).to_bytes() + (name("a") + b"\0\1\0\1") * 2,
        DnsHeader(1, 0, 0, 0, 0, 0).to_bytes(),
        DnsHeader(1, 0, 1, 0, 0, 0).to_bytes() + name("a") + b"\0\1\0\3",
        query("a.example")[:-1],
        answer("a.example", record(SAME, A, bytes(4)))[:-1] * 1,
        DnsHeader(1, 0x8000, 1, 9, 0, 0).to_bytes() + name("a") + b"\0\1\0\1",
    ):
        with pytest.raises(WireError):
            DnsAnswer.parse(data)


def test_a_refusal_repeats_the_question() -> None:
    asked = query("a.example", identifier=99)
    refused = refusal(asked + b"more", REFUSED)
    header = DnsHeader.parse(refused)
    assert (header.identifier, header.is_response, header.flags & 15, header.questions) == (99, True, 5, 1)
    assert DnsQuestion.parse(refused).name == "a.example"
    assert len(refusal(asked[:14])) == 12


def test_a_refusal_says_why_to_those_who_speak_edns() -> None:
    opt = b"\0\0\x29\4\xd0" + bytes(6)
    asked = query("a.example")
    asked = asked[:10] + b"\0\1" + asked[12:]
    why = (18, "because")
    assert refusal(asked + opt, REFUSED, why)[len(asked) :] == (
        b"\0\0\x29\4\xd0" + bytes(4) + b"\0\x0d" + b"\0\x0f\0\x09\0\x12because"
    )
    assert DnsHeader.parse(refusal(asked + opt, REFUSED, why)).additionals == 1
    assert len(refusal(asked, REFUSED, why)) == len(asked)
    assert len(refusal(asked + opt, REFUSED)) == len(asked)


LABELS = st.lists(st.binary(min_size=1, max_size=20), max_size=8)


@given(LABELS)
def test_every_name_comes_back(labels: list[bytes]) -> None:
    packed = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    text, after = read_name(packed, 0)
    assert after == len(packed)
    assert text.count(".") == max(0, len(labels) - 1)
    compressed = packed + b"\x01x\xc0\x00"
    assert read_name(compressed, len(packed)) == (f"x.{text}" if labels else "x", len(compressed))


@given(st.binary(max_size=300), st.integers(0, 40))
def test_no_bytes_break_it(data: bytes, records: int) -> None:
    for message in (
        data,
        answer("a.example")[:6] + struct.pack("!HHH", records, 0, 0) + query("a.example")[12:] + data,
    ):
        for parse in (DnsQuestion.parse, DnsAnswer.parse, refusal):
            try:
                parse(message)
            except WireError:
                continue
