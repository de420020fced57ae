"""DHCP for IPv4 (RFC 2131, options of RFC 2132), as much as one address on one link needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from netns.wire.error import Buffer, WireError

_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
SERVER_PORT = 67
CLIENT_PORT = 68

BOOT_REQUEST = 1
BOOT_REPLY = 2

DISCOVER = 1
OFFER = 2
REQUEST = 3
ACK = 5
NAK = 6
INFORM = 8

OPTION_SUBNET_MASK = 1
OPTION_ROUTER = 3
OPTION_DNS = 6
OPTION_DOMAIN = 15
OPTION_MTU = 26
OPTION_REQUESTED_ADDRESS = 50
OPTION_LEASE_TIME = 51
OPTION_MESSAGE_TYPE = 53
OPTION_SERVER = 54
OPTION_SEARCH = 119  # RFC 3397
_OPTION_PAD = 0
_OPTION_END = 255


@dataclass(slots=True)
class DhcpMessage:
    """One message; `hardware` is the client's 6-byte address, `options` maps code to raw value of up to 255 bytes."""

    operation: int
    transaction: int
    hardware: bytes
    flags: int = 0
    client: bytes = bytes(4)
    yours: bytes = bytes(4)
    server: bytes = bytes(4)
    relay: bytes = bytes(4)
    options: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: Buffer) -> DhcpMessage:
        if len(data) < _HEADER.size:
            raise WireError(f"a DHCP message of {len(data)} bytes is cut short")
        operation, _, hlen, _, transaction, _, flags, client, yours, server, relay, hardware, _, _, cookie = (
            _HEADER.unpack_from(data)
        )
        if cookie != _COOKIE or hlen != 6:
            raise WireError("a BOOTP message is not DHCP over Ethernet")
        options: dict[int, bytes] = {}
        view = memoryview(data)[_HEADER.size :]
        place = 0
        while place < len(view) and view[place] != _OPTION_END:
            if view[place] == _OPTION_PAD:
                place += 1
                continue
            if place + 2 > len(view) or place + 2 + view[place + 1] > len(view):
                raise WireError("a DHCP option is cut short")
            size = view[place + 1]
            code = view[place]
            options[code] = options.get(code, b"") + bytes(view[place + 2 : place + 2 + size])  # RFC 3396
            place += 2 + size
        return cls(operation, transaction, hardware[:6], flags, client, yours, server, relay, options)

    @property
    def message_type(self) -> int:
        """DISCOVER, REQUEST...; 0 where the option is missing or malformed."""
        value = self.options.get(OPTION_MESSAGE_TYPE, b"")
        return value[0] if len(value) == 1 else 0

    def to_bytes(self) -> bytes:
        head = _HEADER.pack(
            self.operation, 1, 6, 0, self.transaction, 0, self.flags, self.client, self.yours, self.server, self.relay,
            self.hardware, b"", b"", _COOKIE,
        )  # fmt: skip
        body = b"".join(bytes((code, len(value))) + value for code, value in self.options.items())
        return (head + body + bytes((_OPTION_END,))).ljust(300, b"\0")  # RFC 951: some clients drop shorter ones
