"""DHCP for IPv6 (RFC 8415): messages and their options, as much as one address on one link needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from netns.wire.error import Buffer, WireError

SERVER_PORT = 547
CLIENT_PORT = 546
ALL_SERVERS = bytes.fromhex("ff02") + bytes(11) + b"\1\0\2"

SOLICIT = 1
ADVERTISE = 2
REQUEST = 3
CONFIRM = 4
RENEW = 5
REBIND = 6
REPLY = 7
RELEASE = 8
DECLINE = 9
INFORMATION_REQUEST = 11

OPTION_CLIENT = 1
OPTION_SERVER = 2
OPTION_IA_NA = 3
OPTION_IA_ADDRESS = 5
OPTION_STATUS = 13
OPTION_RAPID_COMMIT = 14
OPTION_DNS = 23  # RFC 3646
OPTION_SEARCH = 24
OPTION_IA_PD = 25

SUCCESS = 0
NO_ADDRESSES = 2
NOT_ON_LINK = 4
NO_PREFIXES = 6

_HEADER = struct.Struct("!B3s")
_OPTION = struct.Struct("!HH")
_ASSOCIATION = struct.Struct("!4sII")
_ADDRESS = struct.Struct("!16sII")
_MAX_OPTIONS = 64  # of one message or one association

Options = list[tuple[int, bytes]]


@dataclass(slots=True)
class Dhcpv6Message:
    """One message between client and server; options in their order, as code and raw value."""

    kind: int
    transaction: bytes
    options: Options = field(default_factory=list)

    @classmethod
    def parse(cls, data: Buffer) -> Dhcpv6Message:
        if len(data) < _HEADER.size:
            raise WireError(f"a DHCPv6 message of {len(data)} bytes has no header")
        kind, transaction = _HEADER.unpack_from(data)
        return cls(kind, transaction, parse_options(memoryview(data)[_HEADER.size :]))

    def to_bytes(self) -> bytes:
        return _HEADER.pack(self.kind, self.transaction) + pack_options(self.options)

    def get(self, code: int) -> bytes | None:
        """The first option `code`, if there is one."""
        return next((value for known, value in self.options if known == code), None)


@dataclass(slots=True)
class Association:
    """An IA_NA or IA_PD (sections 21.4 and 21.21): its identifier, and its options."""

    identifier: bytes
    options: Options = field(default_factory=list)
    renew: int = 0  # seconds, T1
    rebind: int = 0  # seconds, T2

    @classmethod
    def parse(cls, data: Buffer) -> Association:
        if len(data) < _ASSOCIATION.size:
            raise WireError("a DHCPv6 association is cut short")
        identifier, renew, rebind = _ASSOCIATION.unpack_from(data)
        return cls(identifier, parse_options(memoryview(data)[_ASSOCIATION.size :]), renew, rebind)

    def to_bytes(self) -> bytes:
        return _ASSOCIATION.pack(self.identifier, self.renew, self.rebind) + pack_options(self.options)

    def addresses(self) -> list[bytes]:
        """The addresses that are named."""
        result: list[bytes] = []
        for code, value in self.options:
            if code == OPTION_IA_ADDRESS:
                if len(value) < _ADDRESS.size:
                    raise WireError("a DHCPv6 address is cut short")
                result.append(value[:16])
        return result


def parse_options(data: Buffer) -> Options:
    """The options that `data` consists of."""
    result: Options = []
    place = 0
    while place < len(data):
        if place + _OPTION.size > len(data) or len(result) >= _MAX_OPTIONS:
            raise WireError("DHCPv6 options are cut short or too many")
        code, size = _OPTION.unpack_from(data, place)
        place += _OPTION.size
        if place + size > len(data):
            raise WireError("a DHCPv6 option is cut short")
        result.append((code, bytes(data[place : place + size])))
        place += size
    return result


def pack_options(options: Options) -> bytes:
    """The options as bytes."""
    return b"".join(_OPTION.pack(code, len(value)) + value for code, value in options)


def address(value: bytes, preferred: int, valid: int) -> bytes:
    """The value of OPTION_IA_ADDRESS; lifetimes in seconds."""
    return _ADDRESS.pack(value, preferred, valid)


def status(code: int, text: str = "") -> bytes:
    """The value of OPTION_STATUS."""
    return struct.pack("!H", code) + text.encode()
