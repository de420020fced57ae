"""What a guest's kernel sends of its own accord and nobody needs to hear, dropped before it gets here.

A new interface with IPv6 announces its multicast groups (MLD), asks for routers and makes sure that its addresses are
its own, over and over for some seconds. Its addresses are set from outside and it is alone on its link, so nothing of
that wants an answer; but each frame wakes the network's process, and handling it writes to memory that an idle
container's network could otherwise share with all others. A classic BPF program (socket filter; tun's TUNATTACHFILTER)
drops those frames in the kernel.
"""

from __future__ import annotations

import array
import fcntl
import struct

_TUNATTACHFILTER = 0x401054D5

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_LOAD_HALF = 0x28
_LOAD_BYTE = 0x30
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06

_ACCEPT = 0xFFFFFFFF
_DROP = 0

# Offsets into the frame: an Ethernet header, then IPv6 (RFC 8200), then ICMPv6 (RFC 4443) where that follows at once.
_DESTINATION = 0
_NEXT_HEADER = 20
_SOURCE = 22
_ICMPV6_TYPE = 54

_MULTICAST = 0x3333  # RFC 2464 section 7
_HOP_BY_HOP = 0  # on a multicast frame: MLD, RFC 3810
_ICMPV6 = 58
_ROUTER_SOLICITATION = 133
_NEIGHBOUR_SOLICITATION = 135

# (code, jump if true, jump if false, value); jumps count from the next instruction. The last two accept and drop.
PROGRAM: tuple[tuple[int, int, int, int], ...] = (
    (_LOAD_HALF, 0, 0, _DESTINATION),
    (_JUMP_EQUAL, 0, 14, _MULTICAST),
    (_LOAD_BYTE, 0, 0, _NEXT_HEADER),
    (_JUMP_EQUAL, 13, 0, _HOP_BY_HOP),
    (_JUMP_EQUAL, 0, 11, _ICMPV6),
    (_LOAD_BYTE, 0, 0, _ICMPV6_TYPE),
    (_JUMP_EQUAL, 10, 0, _ROUTER_SOLICITATION),
    (_JUMP_EQUAL, 0, 8, _NEIGHBOUR_SOLICITATION),
    # Duplicate address detection comes from the unspecified address (RFC 4862 section 5.4.2).
    (_LOAD_WORD, 0, 0, _SOURCE),
    (_JUMP_EQUAL, 0, 6, 0),
    (_LOAD_WORD, 0, 0, _SOURCE + 4),
    (_JUMP_EQUAL, 0, 4, 0),
    (_LOAD_WORD, 0, 0, _SOURCE + 8),
    (_JUMP_EQUAL, 0, 2, 0),
    (_LOAD_WORD, 0, 0, _SOURCE + 12),
    (_JUMP_EQUAL, 1, 0, 0),
    (_RETURN, 0, 0, _ACCEPT),
    (_RETURN, 0, 0, _DROP),
)

_CODE = array.array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in PROGRAM))


def drop(tap_fd: int) -> None:
    """Attaches the filter to a TAP. Raises OSError."""
    fcntl.ioctl(tap_fd, _TUNATTACHFILTER, struct.pack("@HP", len(PROGRAM), _CODE.buffer_info()[0]))
