"""--network MODE[:OPTION[=VALUE],…]: the user-mode network and its options, and the other networks there are.

`user` is the network of docs/network.md. `slirp4netns` and `pasta` are the same by the names of the programs that
Podman uses, and take the options that those take there: what has a meaning here is mapped, the rest is refused by name.
"""

from __future__ import annotations

import getopt
import ipaddress
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..container import network
from ..container.options import Link, Published
from ..container.record import Network
from ..errors import UsageError
from .ports import parse_published

NETWORKS = ("user", "none", "host")
_PLAIN_ALIASES = ("private", "bridge", "default")
_SPELLINGS = "user, none, host, container:NAME, ns:PATH"
_BOOLEANS = {"true": True, "false": False}

# Short and long names, with = where a value follows.
_PASTA = (
    *("4/ipv4-only", "6/ipv6-only", "D/dns=", "I/ns-ifname=", "S/search=", "T/tcp-ns=", "U/udp-ns=", "a/address="),
    *("f/foreground", "g/gateway=", "i/interface=", "l/log-file=", "m/mtu=", "n/netmask=", "o/outbound=", "p/pcap="),
    *("q/quiet", "t/tcp-ports=", "u/udp-ports=", "/config-net", "/dhcp-dns", "/dhcp-search", "/dns-forward="),
    *("/mac-addr=", "/map-gw", "/map-host-loopback=", "/no-dhcp-dns", "/no-dhcp-search", "/no-map-gw"),
    *("/ns-mac-addr=", "/outbound-if4=", "/outbound-if6="),
)
_PASTA_IDLE = (
    *("--config-net", "--quiet", "--foreground"),
    *("--dhcp-dns", "--no-dhcp-dns", "--dhcp-search", "--no-dhcp-search"),  # nobody need ask: see resolv.conf
)


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What --network says. `target` is a container's name or id as typed, or the absolute path of a namespace."""

    mode: str
    target: str = ""
    host_loopback: bool = False
    link: Link = Link()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()


_USER = Choice(mode="user")


def parse_network(text: str, cwd: str) -> Choice:
    """Raises UsageError."""
    if text == "user":
        return _USER
    name, separator, arguments = text.partition(":")
    if name in ("container", "ns"):
        if not arguments:
            raise UsageError(f'the network "{text}" names no {"container" if name == "container" else "namespace"}')
        path = os.path.normpath(os.path.join(cwd, os.path.expanduser(arguments)))
        return Choice(mode=name, target=arguments if name == "container" else path)
    if name in ("none", "host"):
        if separator:
            raise UsageError(f'the network "{name}" takes no options, and "{arguments}" was given')
        return Choice(mode=name)
    if name in ("user", "slirp4netns", *_PLAIN_ALIASES):
        choice = _keyed("slirp4netns" if name == "slirp4netns" else "user", arguments)
    elif name == "pasta":
        choice = _Pasta(arguments, cwd).choice()
    else:
        raise UsageError(f'the network "{text}" is not known', hint=f"use one of {_SPELLINGS}")
    network.check(Network(mode="user", link=choice.link, dns=choice.dns))
    return choice


def parse_address(text: str, flag: str) -> str:
    """Raises UsageError."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise UsageError(f'{flag} "{text}" is not an IP address') from None
    return text


def parse_extra_host(text: str) -> str:
    """--add-host NAME:ADDRESS. Raises UsageError."""
    name, separator, address = text.partition(":") if "=" not in text else text.partition("=")
    if not separator or not name:
        raise UsageError(f'--add-host "{text}" is not NAME:ADDRESS')
    address = address.removeprefix("[").removesuffix("]")
    if address != "host-gateway":
        parse_address(address, "--add-host: the address")
    return f"{name}:{address}"


def check_rules(rules: Sequence[str]) -> None:
    """--egress. Raises UsageError."""
    network.check(Network(mode="user", link=Link(egress=tuple(rules))))


def check_other(mode: str, flags: Mapping[str, Any]) -> None:
    """Podman's words, where it has them, for what belongs to whoever made the network."""
    for name in ("egress", "network_pcap"):
        if flags[name]:
            raise UsageError(f"--{name.replace('_', '-')} needs the user-mode network, and this is --network {mode}")
    if mode == "container":
        for name in ("dns", "dns_search", "add_host"):
            if flags[name]:
                raise UsageError(f"conflicting options: {name.replace('_', '-')} and the network mode: container")


def _keyed(name: str, arguments: str) -> Choice:
    """user:mtu=1500,… and slirp4netns:mtu=1500,…"""
    link: dict[str, Any] = {}
    loopback, dns = False, []
    for field in arguments.split(",") if arguments else ():
        key, _, value = field.partition("=")
        if key == "allow_host_loopback":
            loopback = _boolean(field, value)
        elif key == "enable_ipv6" or (key == "ipv6" and name == "user"):
            link["ipv6"] = _boolean(field, value)
        elif key == "mtu":
            link["mtu"] = _number(field, value)
        elif key == "cidr" and value:
            link["cidr"] = value
        elif key in ("outbound_addr", "outbound_addr6") and value:
            six = key.endswith("6")
            link["outbound6" if six else "outbound"] = _outbound(value, six=six)
        elif key == "port_handler" and name == "slirp4netns" and value in ("rootlesskit", "slirp4netns"):
            continue  # ports are always led in by ourselves, with the client's address kept
        elif key == "interface" and name == "user" and value:
            link["interface"] = value
        elif key == "mac" and name == "user" and value:
            link["mac"] = value
        elif key == "dns" and name == "user":
            dns.append(parse_address(value, "the name server"))
        else:
            own = "" if name == "slirp4netns" else ", interface, mac, dns"
            raise UsageError(
                f'the network "{name}" has no option "{field}"',
                hint=f"use mtu, cidr, enable_ipv6, allow_host_loopback, outbound_addr, outbound_addr6{own}",
            )
    return Choice(mode="user", host_loopback=loopback, link=msgspec.structs.replace(Link(), **link), dns=tuple(dns))


def _boolean(field: str, value: str) -> bool:
    if value not in _BOOLEANS:
        raise UsageError(f'the network\'s option "{field}" is neither true nor false')
    return _BOOLEANS[value]


def _number(field: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise UsageError(f'the network\'s option "{field}" is not a number')
    return int(value)


def _outbound(text: str, *, six: bool) -> str:
    """An address of the family, or what may be an interface's name."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        if len(text.encode()) < 16 and not set(text) & set("/: "):
            return text
        raise UsageError(f'the outbound address "{text}" is neither an IP address nor an interface') from None
    if (address.version == 6) is not six:
        raise UsageError(f'the outbound address "{text}" is not one of IPv{6 if six else 4}')
    return text


class _Pasta:
    """pasta(1)'s command line, which Podman writes with commas for spaces: pasta:-m,1500,--no-map-gw."""

    def __init__(self, arguments: str, cwd: str) -> None:
        self._cwd = cwd
        self._link: dict[str, Any] = {}
        self._loopback = False
        self._dns: list[str] = []
        self._search: list[str] = []
        self._published: list[Published] = []
        self._guest = self._gateway = self._resolver = ""
        self._prefix = ""
        words = arguments.split(",") if arguments else []
        try:
            pairs, rest = getopt.getopt(
                words,
                "".join(word[0] + ":" * word.endswith("=") for word in _PASTA if word[0] != "/"),
                [word.partition("/")[2] for word in _PASTA],
            )
        except getopt.GetoptError as error:
            raise UsageError(
                f'the network "pasta" has no use for "{arguments}": {error.msg}', hint="see: rcontain help run"
            ) from None
        if rest:
            raise UsageError(f'the network "pasta" has no use for "{rest[0]}"')
        full = {f"-{word[0]}": f"--{word[2:].rstrip('=')}" for word in _PASTA if word[0] != "/"}
        for flag, value in pairs:
            self._take(full.get(flag, flag), value)

    def _take(self, flag: str, value: str) -> None:
        if flag == "--mtu":
            self._link["mtu"] = _number(f"--mtu {value}", value)
        elif flag == "--address":
            self._guest, _, prefix = value.partition("/")
            self._prefix = prefix or self._prefix
        elif flag == "--netmask":
            self._prefix = value
        elif flag == "--gateway":
            self._gateway = value
        elif flag == "--dns-forward":
            self._resolver = value
        elif flag == "--ns-ifname":
            self._link["interface"] = value
        elif flag == "--ns-mac-addr":
            self._link["mac"] = value
        elif flag == "--ipv4-only":
            self._link["ipv6"] = False
        elif flag == "--dns" and value != "none":
            self._dns.append(parse_address(value, "the name server"))
        elif flag == "--search":
            self._search.append("." if value == "none" else value)
        elif flag == "--outbound":
            six = ":" in value
            self._link["outbound6" if six else "outbound"] = _outbound(value, six=six)
        elif flag in ("--outbound-if4", "--outbound-if6"):
            self._link["outbound6" if flag.endswith("6") else "outbound"] = _outbound(value, six=flag.endswith("6"))
        elif flag in ("--map-gw", "--no-map-gw"):
            self._loopback = flag == "--map-gw"
        elif flag == "--map-host-loopback":
            self._loopback = value != "none"
            self._gateway = value if self._loopback else self._gateway
        elif flag == "--pcap":
            self._link["pcap"] = absolute(value, self._cwd)
        elif flag in ("--tcp-ports", "--udp-ports"):
            self._publish(value, "udp" if flag == "--udp-ports" else "tcp")
        elif flag not in _PASTA_IDLE and not (flag in ("--tcp-ns", "--udp-ns") and value == "none"):
            raise UsageError(f'pasta\'s option "{" ".join(filter(None, (flag, value)))}" has no meaning here')

    def _publish(self, value: str, protocol: str) -> None:
        if value == "none":
            return
        if value in ("all", "auto") or value.startswith("~"):
            raise UsageError(f'pasta\'s ports "{value}" cannot be published', hint="name them, as in -t,8080:80")
        address, slash, ports = value.rpartition("/")
        host, colon, inside = ports.partition(":")
        address = f"[{address}]" if ":" in address else address
        self._published += parse_published(
            f"{address}{':' if slash else ''}{host}:{inside if colon else host}/{protocol}"
        )

    def choice(self) -> Choice:
        if self._guest or self._prefix:
            self._link["cidr"] = self._network()
        found = Choice(
            mode="user",
            host_loopback=self._loopback,
            link=msgspec.structs.replace(Link(), **self._link),
            dns=tuple(self._dns),
            dns_search=tuple(self._search),
            published=tuple(self._published),
        )
        network.check(Network(mode="user", link=found.link))
        ours = network.addresses(Network(mode="user", link=found.link))
        for flag, typed, own in (
            ("--address", self._guest, ours.guest),
            ("--gateway", self._gateway, ours.gateway),
            ("--dns-forward", self._resolver, ours.resolver),
        ):
            if typed and _packed(typed) != own:
                raise UsageError(
                    f"pasta's option {flag} {typed} cannot be had: that address is {ipaddress.ip_address(own)} here",
                    hint="--address A.B.C.100 chooses the network A.B.C.0/24, with .2 and .3 for gateway and names",
                )
        return found

    def _network(self) -> str:
        try:
            return str(ipaddress.IPv4Interface(f"{self._guest or '10.0.2.100'}/{self._prefix or 24}").network)
        except ValueError:
            raise UsageError(
                f"pasta's address {self._guest}/{self._prefix or 24} is not one of IPv4",
                hint="the address of IPv6 cannot be chosen",
            ) from None


def _packed(text: str) -> bytes | None:
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return None


def absolute(path: str, cwd: str) -> str:
    """The path that the user means where they are."""
    return os.path.normpath(os.path.join(cwd, os.path.expanduser(path)))
