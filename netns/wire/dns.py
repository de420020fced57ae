"""The header of a DNS message (RFC 1035 section 4.1.1): all that a relay needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.error import Buffer, WireError

_HEADER = struct.Struct("!HHHHHH")
HEADER_LENGTH = _HEADER.size
_RESPONSE = 0x8000
_KEPT_IN_ANSWER = 0x7900  # opcode and recursion desired
_RECURSION_AVAILABLE = 0x0080
SERVFAIL = 2


@dataclass(slots=True)
class DnsHeader:
    """Identifier, flag word and the four counts."""

    identifier: int
    flags: int
    questions: int
    answers: int
    authorities: int
    additionals: int

    @classmethod
    def parse(cls, data: Buffer) -> DnsHeader:
        if len(data) < HEADER_LENGTH:
            raise WireError(f"a DNS message of {len(data)} bytes has no header")
        return cls(*_HEADER.unpack_from(data))

    def to_bytes(self) -> bytes:
        return _HEADER.pack(
            self.identifier, self.flags, self.questions, self.answers, self.authorities, self.additionals
        )

    @property
    def is_response(self) -> bool:
        return bool(self.flags & _RESPONSE)


def failure(query: Buffer) -> bytes:
    """The answer "server failure" to `query`, without the question (RFC 1035 lets a server leave it out)."""
    header = DnsHeader.parse(query)
    flags = _RESPONSE | _RECURSION_AVAILABLE | header.flags & _KEPT_IN_ANSWER | SERVFAIL
    return DnsHeader(header.identifier, flags, 0, 0, 0, 0).to_bytes()
