"""The answers that configure a guest: DHCP and IPv6 router advertisements. Sans I/O."""

from __future__ import annotations

import struct

from netns.settings import Addresses
from netns.wire import dhcp
from netns.wire.dhcp import DhcpMessage

_LEASE_SECONDS = 86400


def dhcp_answer(request: DhcpMessage, addresses: Addresses, mtu: int, *, dns: bool) -> DhcpMessage | None:
    """The answer to `request`, or None where there is none to give: one address, leased to whoever asks."""
    kind = request.message_type
    if request.operation != dhcp.BOOT_REQUEST or kind not in (dhcp.DISCOVER, dhcp.REQUEST, dhcp.INFORM):
        return None
    server = request.options.get(dhcp.OPTION_SERVER)
    if kind == dhcp.REQUEST and server not in (None, addresses.gateway):
        return None  # meant for another server
    wanted = request.options.get(dhcp.OPTION_REQUESTED_ADDRESS, request.client)
    answer = DhcpMessage(
        dhcp.BOOT_REPLY, request.transaction, request.hardware, request.flags, request.client, server=addresses.gateway
    )
    if kind == dhcp.REQUEST and wanted != addresses.guest:
        answer.options = {dhcp.OPTION_MESSAGE_TYPE: bytes((dhcp.NAK,)), dhcp.OPTION_SERVER: addresses.gateway}
        return answer
    answer.options = {
        dhcp.OPTION_MESSAGE_TYPE: bytes((dhcp.OFFER if kind == dhcp.DISCOVER else dhcp.ACK,)),
        dhcp.OPTION_SERVER: addresses.gateway,
        dhcp.OPTION_SUBNET_MASK: addresses.netmask,
        dhcp.OPTION_ROUTER: addresses.gateway,
        dhcp.OPTION_MTU: struct.pack("!H", mtu),
    }
    if kind != dhcp.INFORM:
        answer.yours = addresses.guest
        answer.options[dhcp.OPTION_LEASE_TIME] = struct.pack("!I", _LEASE_SECONDS)
    if dns:
        answer.options[dhcp.OPTION_DNS] = addresses.resolver
    return answer
