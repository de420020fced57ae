"""What is in a DNS message (RFC 1035 section 4): the question, and the addresses that an answer gives for it.

Compressed names (section 4.1.4) may only point backwards, as they must, and a name has at most 255 bytes, so that
nothing loops and nothing grows. Names become text the way zone files have it: bytes that are not part of a host's name
are written \\DDD, so that a dot within a label is not taken for one between two.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.dns import HEADER_LENGTH, SERVFAIL, DnsHeader, failure
from netns.wire.error import Buffer, WireError

A = 1
CNAME = 5
AAAA = 28
IXFR = 251
AXFR = 252
INTERNET = 1
REFUSED = 5
PROHIBITED = 18  # RFC 8914 section 4.19

_MAX_NAME = 255
_MAX_POINTERS = 64  # of one name
_MAX_RECORDS = 256  # of an answer that are looked at
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_POINTER = 0xC0
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_OPCODE = 0x7800
_OPT = b"\0\0\x29"  # RFC 6891 section 6.1.2: the root's name and the type
_UDP_SIZE = 1232
_EXTENDED_ERROR = 15


@dataclass(slots=True)
class DnsQuestion:
    """The one question of a message: `name` without the last dot, and where in the message what follows begins."""

    name: str
    kind: int
    end: int

    @classmethod
    def parse(cls, data: Buffer) -> DnsQuestion:
        """Raises WireError also where there is not exactly one question, or the message is no query or its answer."""
        header = DnsHeader.parse(data)
        if header.questions != 1 or header.flags & _OPCODE:
            raise WireError("a DNS message has not one ordinary question")
        name, place = read_name(data, HEADER_LENGTH)
        if place + _QUESTION.size > len(data):
            raise WireError("a DNS question is cut short")
        kind, group = _QUESTION.unpack_from(data, place)
        if group != INTERNET:
            raise WireError("a DNS question is not about the internet")
        return cls(name, kind, place + _QUESTION.size)


@dataclass(slots=True)
class DnsAnswer:
    """The addresses, packed, that an answer gives for the name in its question, and for how many seconds."""

    name: str
    question_end: int
    addresses: list[bytes]
    ttl: int

    @classmethod
    def parse(cls, data: Buffer) -> DnsAnswer:
        """Follows aliases from the question's name. Records about anything else are passed over."""
        question = DnsQuestion.parse(data)
        count = min(DnsHeader.parse(data).answers, _MAX_RECORDS)
        aliases: dict[str, tuple[str, int]] = {}
        addresses: dict[str, list[tuple[bytes, int]]] = {}
        place = question.end
        for _ in range(count):
            name, place = read_name(data, place)
            if place + _RECORD.size > len(data):
                raise WireError("a DNS record is cut short")
            kind, group, ttl, size = _RECORD.unpack_from(data, place)
            place += _RECORD.size
            if place + size > len(data):
                raise WireError("a DNS record is cut short")
            owner = name.lower()
            if group == INTERNET and kind == CNAME:
                aliases.setdefault(owner, (read_name(data, place)[0].lower(), ttl))
            elif group == INTERNET and (kind, size) in ((A, 4), (AAAA, 16)):
                addresses.setdefault(owner, []).append((bytes(data[place : place + size]), ttl))
            place += size
        name = question.name.lower()
        ttls: list[int] = []
        while name in aliases:  # each alias serves once, so that a circle ends
            name, ttl = aliases.pop(name)
            ttls.append(ttl)
        found = addresses.get(name, [])
        ttls += [ttl for _, ttl in found]
        return cls(question.name, question.end, [address for address, _ in found], min(ttls, default=0))


def read_name(data: Buffer, place: int) -> tuple[str, int]:
    """The name at `place`, and where what follows it begins."""
    labels: list[str] = []
    length = pointers = 0
    after: int | None = None
    limit = place  # a pointer must lead to before what led there
    end = len(data)
    while True:
        if place >= end:
            raise WireError("a DNS name is cut short")
        size = data[place]
        if size & _POINTER == _POINTER:
            if place + 2 > end:
                raise WireError("a DNS name is cut short")
            target = (size & ~_POINTER) << 8 | data[place + 1]
            pointers += 1
            if target >= limit or pointers > _MAX_POINTERS:
                raise WireError("a compressed DNS name does not point backwards, or too often")
            if after is None:
                after = place + 2
            place = limit = target
            continue
        if size & _POINTER:
            raise WireError("a DNS label is of an unknown kind")
        place += 1
        if not size:
            return ".".join(labels), place if after is None else after
        length += size + 1
        if length >= _MAX_NAME or place + size > end:
            raise WireError("a DNS name is too long or cut short")
        labels.append(_text(data[place : place + size]))
        place += size


def write_name(name: str) -> bytes:
    """`name`, uncompressed. Raises WireError for what cannot be one."""
    labels = [label.encode() for label in name.rstrip(".").split(".")]
    packed = b"".join(bytes((len(label),)) + label for label in labels if 0 < len(label) < 64) + b"\0"
    if not all(0 < len(label) < 64 for label in labels) or len(packed) > _MAX_NAME or not name.isascii():
        raise WireError(f"{name!r} is not a DNS name")
    return packed


def _text(label: Buffer) -> str:
    if _PLAIN.issuperset(label):
        return str(label, "ascii")
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in label)


def refusal(query: Buffer, code: int = SERVFAIL, why: tuple[int, str] | None = None) -> bytes:
    """The answer `code` to `query`, with its question where it has one.

    `why` is a code of RFC 8914 (extended DNS errors) and a text, for askers that speak EDNS.
    """
    answer = failure(query)
    header = DnsHeader.parse(answer)
    header.flags = header.flags & ~0xF | code
    try:
        end = DnsQuestion.parse(query).end
    except WireError:
        return header.to_bytes()
    header.questions = 1
    reason = b""
    if why is not None and bytes(query[end : end + 3]) == _OPT:
        header.additionals = 1
        said = struct.pack("!HHH", _EXTENDED_ERROR, 2 + len(why[1]), why[0]) + why[1].encode("ascii")
        reason = _OPT + struct.pack("!HIH", _UDP_SIZE, 0, len(said)) + said
    return header.to_bytes() + bytes(query[HEADER_LENGTH:end]) + reason
