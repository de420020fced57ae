"""/etc/hosts and /etc/resolv.conf of a container: pure text, from what the host has and the user asked for."""

from __future__ import annotations

import ipaddress

from .record import Network

GUEST = "10.0.2.100"
GATEWAY = "10.0.2.2"
RESOLVER = "10.0.2.3"
HOST_NAMES = ("host.containers.internal", "host.docker.internal")


def hosts(host_file: str, network: Network, *, host: str | None, hostname: str, name: str) -> str:
    """Podman's order: what the user added, the host's own lines, the names of this machine, the container's names.

    `host` is an address of this machine that a container in a user-mode network reaches; None where it has none.
    """
    gateway = (host or GATEWAY) if network.mode == "user" else "127.0.0.1"
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
    if network.mode == "user":
        lines.append(f"{gateway}\t{' '.join(HOST_NAMES)}")
        lines.append(f"{GUEST}\t{' '.join(dict.fromkeys((hostname, name)))}")
    else:
        lines.append(f"127.0.0.1\t{' '.join(dict.fromkeys((hostname, name)))}")
    return "\n".join(lines) + "\n"


def passwd_line(uid: int, gid: int, *, name: str, home: str) -> str:
    """passwd(5), for a user that the image does not know; without it `whoami`, ssh and git complain."""
    return f"{name}:*:{uid}:{gid}:container user:{home}:/bin/sh\n"


def group_line(gid: int, *, name: str) -> str:
    """group(5)."""
    return f"{name}:x:{gid}:\n"


def resolv_conf(host_file: str, network: Network) -> str:
    """The user-mode network's relay asks the host's servers, whatever they become; so only it is named."""
    servers, search, options = parse_resolv_conf(host_file)
    if network.mode == "user":
        servers = [RESOLVER]
    servers = list(network.dns) or servers
    search = list(network.dns_search) or search
    lines = [f"search {' '.join(search)}"] if search and search != ["."] else []
    lines += [f"nameserver {server}" for server in servers]
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


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
