"""The answers that configure a guest: DHCP and DHCPv6. Sans I/O.

There is one address of each family, and it is given to whoever asks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from netns.settings import Addresses
from netns.wire import dhcp, dhcpv6
from netns.wire.dhcp import DhcpMessage
from netns.wire.dhcpv6 import Association, Dhcpv6Message, Options
from netns.wire.dnsmessage import write_name
from netns.wire.error import WireError

_LEASE_SECONDS = 86400
_MAX_SEARCH = 160  # bytes of search domains: a message of DHCP has 548 (RFC 2131 section 2)
_ETHERNET_DUID = b"\0\3\0\1"  # DUID-LL, RFC 8415 section 11.4
_WITH_SERVER = (dhcpv6.REQUEST, dhcpv6.RENEW, dhcpv6.RELEASE, dhcpv6.DECLINE)
_WITHOUT_SERVER = (dhcpv6.SOLICIT, dhcpv6.CONFIRM, dhcpv6.REBIND)


def search_list(domains: Sequence[str]) -> bytes:
    """As many of the `domains` as there is room for, one after the other in DNS's format; odd ones are left out."""
    result = b""
    for domain in domains:
        try:
            name = write_name(domain)
        except WireError:
            continue
        if len(result) + len(name) <= _MAX_SEARCH:
            result += name
    return result


def dhcp_answer(
    request: DhcpMessage, addresses: Addresses, mtu: int, *, dns: bool, search: Sequence[str] = ()
) -> DhcpMessage | None:
    """The answer to `request`, or None where there is none to give. `search` are domains for short names."""
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
        domains = search_list(search)
        if domains:
            answer.options[dhcp.OPTION_SEARCH] = domains
            if 0 < len(search[0]) < 64 and search[0].isascii():
                answer.options[dhcp.OPTION_DOMAIN] = search[0].encode()
    return answer


def dhcpv6_answer(
    request: Dhcpv6Message, addresses: Addresses, mac: bytes, *, dns: bool, search: Sequence[str] = ()
) -> Dhcpv6Message | None:
    """The answer of the server at `mac`, or None where there is none to give (RFC 8415 section 18.3).

    Raises WireError for options that are malformed.
    """
    kind = request.kind
    ours = _ETHERNET_DUID + mac
    client, server = request.get(dhcpv6.OPTION_CLIENT), request.get(dhcpv6.OPTION_SERVER)
    if kind in _WITH_SERVER:
        expected = client is not None and server == ours
    elif kind in _WITHOUT_SERVER:
        expected = client is not None and server is None
    else:
        expected = kind == dhcpv6.INFORMATION_REQUEST and server in (None, ours)
    if not expected or addresses.guest6 is None:
        return None
    answer = Dhcpv6Message(dhcpv6.REPLY, request.transaction, [(dhcpv6.OPTION_SERVER, ours)])
    if client is not None:
        answer.options.insert(0, (dhcpv6.OPTION_CLIENT, client))
    if kind == dhcpv6.CONFIRM:
        named = [address for association in _associations(request) for address in association.addresses()]
        if not named:
            return None
        code = dhcpv6.SUCCESS if set(named) == {addresses.guest6} else dhcpv6.NOT_ON_LINK
        answer.options.append((dhcpv6.OPTION_STATUS, dhcpv6.status(code)))
    elif kind in (dhcpv6.RELEASE, dhcpv6.DECLINE):
        answer.options.append((dhcpv6.OPTION_STATUS, dhcpv6.status(dhcpv6.SUCCESS)))
    elif kind != dhcpv6.INFORMATION_REQUEST:
        if kind == dhcpv6.SOLICIT and request.get(dhcpv6.OPTION_RAPID_COMMIT) is None:
            answer.kind = dhcpv6.ADVERTISE
        elif kind == dhcpv6.SOLICIT:
            answer.options.append((dhcpv6.OPTION_RAPID_COMMIT, b""))
        answer.options += _granted(request, addresses.guest6)
    if dns and addresses.resolver6 is not None and kind not in (dhcpv6.CONFIRM, dhcpv6.RELEASE, dhcpv6.DECLINE):
        answer.options.append((dhcpv6.OPTION_DNS, addresses.resolver6))
        domains = search_list(search)
        if domains:
            answer.options.append((dhcpv6.OPTION_SEARCH, domains))
    return answer


def _associations(request: Dhcpv6Message) -> list[Association]:
    return [Association.parse(value) for code, value in request.options if code == dhcpv6.OPTION_IA_NA]


def _granted(request: Dhcpv6Message, guest: bytes) -> Options:
    """The address for the first association that asks; what else is named is not to be used any more."""
    result: Options = []
    for number, association in enumerate(_associations(request)):
        granted = Association(association.identifier, [])
        for address in association.addresses():
            if number or address != guest:
                granted.options.append((dhcpv6.OPTION_IA_ADDRESS, dhcpv6.address(address, 0, 0)))
        if number:
            refused = dhcpv6.status(dhcpv6.NO_ADDRESSES, "there is one address")
            granted.options.append((dhcpv6.OPTION_STATUS, refused))
        else:
            granted.renew, granted.rebind = _LEASE_SECONDS // 2, _LEASE_SECONDS * 4 // 5
            lease = dhcpv6.address(guest, _LEASE_SECONDS, _LEASE_SECONDS)
            granted.options.insert(0, (dhcpv6.OPTION_IA_ADDRESS, lease))
        result.append((dhcpv6.OPTION_IA_NA, granted.to_bytes()))
    for code, value in request.options:
        if code == dhcpv6.OPTION_IA_PD:
            refused = dhcpv6.status(dhcpv6.NO_PREFIXES, "there are no prefixes to delegate")
            delegated = Association(Association.parse(value).identifier, [(dhcpv6.OPTION_STATUS, refused)])
            result.append((dhcpv6.OPTION_IA_PD, delegated.to_bytes()))
    return result
