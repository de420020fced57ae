"""/etc/hosts and /etc/resolv.conf of a container: pure text, from what the host has and the user asked for."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from netns.settings import Addresses

from .record import Network

HOST_NAMES = ("host.containers.internal", "host.docker.internal")


def hosts(host_file: str, network: Network, addresses: Addresses, *, hostname: str, name: str) -> str:
    """Podman's order: what the user added, the host's own lines, the names of this machine, the container's names.

    `addresses` are those of the user-mode network. This machine is its gateway there, whatever its own addresses are
    at the moment.
    """
    user = network.mode == "user"
    gateway, guest = (_text(addresses.gateway), _text(addresses.guest)) if user else ("127.0.0.1", "127.0.0.1")
    lines = []
    for entry in network.add_hosts:
        extra, _, address = entry.partition(":")
        lines.append(f"{gateway if address == 'host-gateway' else address}\t{extra}")
    own = {hostname, name}
    for line in host_file.splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 1 and _is_address(words[0]):
            kept = [word for word in words[1:] if word not in own and word not in HOST_NAMES]
            if kept:
                lines.append(f"{words[0]}\t{' '.join(kept)}")
    if not any("localhost" in line.split()[1:] for line in lines):
        lines.append("127.0.0.1\tlocalhost")
    if user:
        lines.append(f"{gateway}\t{' '.join(HOST_NAMES)}")
        if addresses.gateway6 is not None:
            lines.append(f"{ipaddress.IPv6Address(addresses.gateway6)}\t{' '.join(HOST_NAMES)}")
    lines.append(f"{guest}\t{' '.join(dict.fromkeys((hostname, name)))}")
    return "\n".join(lines) + "\n"


def passwd_line(uid: int, gid: int, *, name: str, home: str) -> str:
    """passwd(5), for a user that the image does not know; without it `whoami`, ssh and git complain."""
    return f"{name}:*:{uid}:{gid}:container user:{home}:/bin/sh\n"


def group_line(gid: int, *, name: str) -> str:
    """group(5)."""
    return f"{name}:x:{gid}:\n"


def resolv_conf(host_file: str, network: Network, addresses: Addresses) -> str:
    """The user-mode network's relay asks the host's servers, whatever they become, or the user's; so only it is named.

    A container that named the user's itself would pass by the rules that go by names.
    """
    servers, search, options = parse_resolv_conf(host_file)
    servers = [_text(addresses.resolver)] if network.mode == "user" else list(network.dns) or servers
    search = list(network.dns_search) or search
    lines = [f"search {' '.join(search)}"] if search and search != ["."] else []
    lines += [f"nameserver {server}" for server in servers]
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


def with_search(text: str, domains: Sequence[str]) -> str:
    """The same resolv.conf(5) with these search domains, whatever the container has made of the rest."""
    kept = [line for line in text.splitlines() if line.split()[:1] not in (["search"], ["domain"])]
    lines = [f"search {' '.join(domains)}"] if domains else []
    return "\n".join([*lines, *kept]) + "\n"


def parse_resolv_conf(text: str) -> tuple[list[str], list[str], list[str]]:
    """Name servers, search domains and options; resolv.conf(5)."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.partition("#")[0].partition(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and _is_address(words[1]):
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = words[1:]
        elif words[0] == "options":
            options += words[1:]
    return servers, search, options


def _text(address: bytes) -> str:
    return str(ipaddress.IPv4Address(address))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def read_host_file(path: str) -> str:
    """The host's file, or nothing where it has none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""
