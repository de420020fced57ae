"""Rules for what a guest may reach, by address, name, port and protocol.

    deny | allow             what becomes of what no rule matches; at most once
    deny=WHAT | allow=WHAT   the first rule that matches counts

    WHAT    a network (10.0.0.0/8), an address, a name, *.NAME (all below NAME, but not NAME itself) or any;
            then :PORT or :FIRST-LAST; then /tcp, /udp or /icmp. IPv6 with a port is written in brackets.

Without a rule of the first kind the default is to deny where something is allowed, else to allow. Rules by name hold
for the addresses that the guest was told when it asked our name server for that name. Where the default is to deny,
names that no rule matches are not even asked for, because a question can carry data out; but where the rules speak of
addresses and ports only, names are needed to find those, and are answered.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from netns.errors import NetworkError
from netns.names import Names, normal

PROTOCOLS = ("tcp", "udp", "icmp")
DNS = "dns"  # the protocol of a denied question
_LAST_PORT = 65535
_MAX_DENIED = 256
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_PROTOCOL = re.compile(r"(.*)/([a-z]+)\Z")
_PORTS = re.compile(r"(.*):([0-9]+)(?:-([0-9]+))?\Z")


@dataclass(frozen=True, slots=True)
class Denied:
    """Something that was refused `count` times. `far` is an address, or the name in a question (protocol "dns")."""

    far: str
    port: int
    protocol: str
    count: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One `allow=` or `deny=`. Without `network` and `name` it is about everything; a `name` that starts with a dot
    is about all names that end so."""

    allow: bool
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    name: str | None = None
    first: int = 0
    last: int = _LAST_PORT
    protocol: str | None = None

    def matches(self, far: bytes, port: int, protocol: str, names: Sequence[str]) -> bool:
        """Whether the rule is about this flow; `names` are those of `far`."""
        if self.protocol is not None and self.protocol != protocol:
            return False
        if (self.first or self.last != _LAST_PORT) and (protocol == "icmp" or not self.first <= port <= self.last):
            return False
        if self.name is not None:
            return any(map(self.names, names))
        if self.network is None:
            return True
        if len(far) * 8 != self.network.max_prefixlen:
            return False
        address = int.from_bytes(far, "big")
        return address & int(self.network.netmask) == int(self.network.network_address)

    def names(self, name: str) -> bool:
        """Whether the rule is about the normal `name`."""
        if self.name is None:
            return self.network is None
        return name.endswith(self.name) and len(name) > len(self.name) if self.name[0] == "." else name == self.name


class Egress:
    """The rules of one network, the names that they need, and what they refused. `clock` counts seconds.

    `unlimited` rules refuse nothing.
    """

    def __init__(
        self, rules: Sequence[Rule] = (), *, default: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.names = Names()
        self._rules = tuple(rules)
        self._default = default
        self._clock = clock
        self.unlimited = default and all(rule.allow for rule in rules)
        only_addresses = any(rule.allow for rule in rules) and not any(rule.name for rule in rules if rule.allow)
        self._names_default = default or only_addresses
        self._denied: OrderedDict[tuple[str, int, str], int] = OrderedDict()

    def allows(self, far: bytes, port: int, protocol: str) -> bool:
        """Whether the guest may reach `far`; where not, that is counted. `protocol` is one of PROTOCOLS."""
        if self.unlimited:
            return True
        now = self._clock()
        names = self.names.of(far, now)
        for rule in self._rules:
            if rule.matches(far, port, protocol, names):
                verdict = rule.allow
                if verdict and rule.name is not None:
                    self.names.keep(far, now)
                break
        else:
            verdict = self._default
        if not verdict:
            self._count(text(far), port, protocol)
        return verdict

    def may_ask(self, name: str) -> bool:
        """Whether the guest may ask for `name`; where not, that is counted."""
        if self.unlimited:
            return True
        name = normal(name)
        verdict = self._names_default
        for rule in self._rules:
            # A name is refused only where everything at it is: one port may be denied and another not.
            whole = rule.allow or (not rule.first and rule.last == _LAST_PORT and rule.protocol is None)
            if whole and rule.names(name):
                verdict = rule.allow
                break
        if not verdict:
            self._count(name or ".", 53, DNS)
        return verdict

    def heard(self, name: str, addresses: Iterable[bytes], ttl: float) -> None:
        """The guest was told that `name` is at `addresses`, for `ttl` seconds."""
        self.names.hear(name, addresses, ttl, self._clock())

    def names_of(self, far: bytes) -> list[str]:
        """The names under which the guest knows `far`, the last that was heard first."""
        return self.names.of(far, self._clock())

    def refusal(self, far: bytes, port: int, protocol: str) -> str:
        """A sentence about a flow that `allows` denied."""
        names = self.names_of(far)
        where = f"{names[0]} ({text(far)})" if names else text(far)
        what = where if protocol == "icmp" else f"{where}, port {port}"
        return f"refused by the egress rules: {protocol} to {what}"

    @property
    def denied(self) -> list[Denied]:
        """What was refused, the last one last."""
        return [Denied(*what, count) for what, count in self._denied.items()]

    def _count(self, far: str, port: int, protocol: str) -> None:
        what = (far, port, protocol)
        known = self._denied.pop(what, 0)
        if not known and len(self._denied) >= _MAX_DENIED:
            self._denied.popitem(last=False)
        self._denied[what] = known + 1


def text(address: bytes) -> str:
    """A packed address as it is written."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def parse(rules: Iterable[str], *, clock: Callable[[], float] = time.monotonic) -> Egress:
    """The rules of a network, each in the language above. Raises NetworkError for one that is not."""
    result: list[Rule] = []
    default: bool | None = None
    for rule in rules:
        verdict, equals, what = rule.strip().partition("=")
        if verdict not in ("allow", "deny"):
            raise _bad(rule, "it starts with neither allow nor deny")
        if equals:
            result.append(_rule(rule, verdict == "allow", what.strip()))
        elif default is not None and default != (verdict == "allow"):
            raise NetworkError("the egress rules name two defaults, allow and deny", hint="leave one of them out")
        else:
            default = verdict == "allow"
    if default is None:
        default = not any(rule.allow for rule in result)
    return Egress(result, default=default, clock=clock)


def _rule(rule: str, allow: bool, what: str) -> Rule:
    what = what.lower()
    protocol: str | None = None
    if (match := _PROTOCOL.match(what)) is not None:
        what, protocol = match.groups()
        if protocol not in PROTOCOLS:
            raise _bad(rule, f"{protocol} is not a protocol that can be ruled", f"choose {', '.join(PROTOCOLS)}")
    first, last = 0, _LAST_PORT
    if (what.count(":") < 2 or "]" in what) and (match := _PORTS.match(what)) is not None:
        what = match[1]
        first, last = int(match[2][:6]), int((match[3] or match[2])[:6])
        if not 1 <= first <= last <= _LAST_PORT:
            raise _bad(rule, "ports are from 1 to 65535, the first before the last")
        if protocol == "icmp":
            raise _bad(rule, "ICMP has no ports")
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](/[0-9]+)?", what)
    if bracketed is not None:
        what = bracketed[1] + (bracketed[2] or "")
    if what in ("any", "*"):
        return Rule(allow, None, None, first, last, protocol)
    try:
        return Rule(allow, ipaddress.ip_network(what, strict=False), None, first, last, protocol)
    except ValueError:
        pass  # then it is a name
    name = what[2:] if what.startswith("*.") else what
    labels = normal(name).split(".")
    if bracketed or len(name) > 253 or not all(map(_LABEL.match, labels)) or labels[-1].isdigit():
        raise _bad(rule, f"{what!r} is neither an address nor a name", "write it like *.debian.org:443")
    return Rule(allow, None, ("." if name != what else "") + normal(name), first, last, protocol)


def _bad(rule: str, why: str, hint: str | None = None) -> NetworkError:
    return NetworkError(f"the egress rule {rule!r} cannot be used: {why}", hint=hint)
