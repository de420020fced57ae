"""The flags that make a container, shared by `run` and `create`, and their way to CreateOptions."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import click
import msgspec

from ..container import signals
from ..container.containers import check_name
from ..container.options import CreateOptions, Link, MountRequest, Published
from ..errors import UsageError
from ..runtime.rootdir import normalize
from ..settings import STORAGE_DRIVERS
from .limits import parse_limit
from .mounts import parse_mount, parse_tmpfs, parse_volume
from .networks import Choice, absolute, check_other, check_rules, parse_address, parse_extra_host, parse_network
from .ports import parse_published
from .registryflags import REGISTRY_FLAGS, without_password
from .session import Session

PULL_POLICIES = ("always", "missing", "never", "newer")

_PROXIES = tuple(
    spelling(f"{scheme}_proxy") for spelling in (str.lower, str.upper) for scheme in ("http", "https", "ftp", "no")
)
_SIZE = re.compile(r"(\d+)\s*([bkmgt]?)(?:i?b)?\Z", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A number of seconds; -1 is for ever."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value != "-1" and not (value.isascii() and value.isdigit()):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return int(value)


SECONDS = Seconds()


def creation_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags; their values arrive as keyword arguments, to be given to `creation_options`."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


def _many(*names: str, metavar: str, help: str) -> Callable[..., Any]:
    return click.option(*names, multiple=True, metavar=metavar, help=help)


_FLAGS = (
    click.option("-i", "--interactive", is_flag=True, help="Keep stdin open and pass it on."),
    click.option("-t", "--tty", is_flag=True, help="Give the command a terminal."),
    click.option("--rm", is_flag=True, help="Remove the container when it ends."),
    click.option("--name", metavar="NAME", default="", help="Name the container [default: a random one]."),
    click.option("--replace", is_flag=True, help="Remove a container that has the same --name first."),
    _many("-e", "--env", metavar="NAME[=VALUE]", help="Set a variable; without a value, pass on yours."),
    _many("--env-file", metavar="FILE", help="Set the variables that FILE lists, one a line."),
    _many("-v", "--volume", metavar="SOURCE:DESTINATION[:OPTIONS]", help="Mount a directory, file or named volume."),
    _many("--mount", metavar="type=TYPE,…", help="Mount a bind, volume or tmpfs, spelled out."),
    _many("--tmpfs", metavar="PATH[:OPTIONS]", help="Mount an empty file system in memory."),
    click.option("-w", "--workdir", metavar="DIR", help="Start the command in DIR."),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="Run the command as this user of the image, or this id."),
    _many("--group-add", metavar="GROUP", help="Add the user to a group."),
    click.option("--entrypoint", metavar="COMMAND", help="Use this in place of the image's entrypoint."),
    click.option("-h", "--hostname", metavar="NAME", default="", help="The container's host name."),
    click.option("--read-only", is_flag=True, help="Make the root filesystem read-only."),
    click.option(
        "--read-only-tmpfs",
        metavar="BOOL",
        type=bool,
        default=True,
        help="With --read-only: leave /run, /tmp and /var/tmp writable, in memory [default: true].",
    ),
    click.option(
        "--privileged", is_flag=True, help="All capabilities, no seccomp, nothing masked: all that you can give."
    ),
    _many("--cap-add", metavar="CAPABILITY", help="Add a capability, or ALL."),
    _many("--cap-drop", metavar="CAPABILITY", help="Drop a capability, or ALL."),
    _many(
        "--security-opt",
        metavar="OPTION",
        help="no-new-privileges, seccomp=FILE|unconfined, mask=PATH, unmask=PATH, ignore-chown-errors.",
    ),
    _many(
        "-p",
        "--publish",
        metavar="[[IP:]PORT:]PORT[/udp]|unix:PATH:PORT",
        help="Lead a port of this machine to the container's.",
    ),
    click.option("-P", "--publish-all", is_flag=True, help="Publish all ports that the image exposes, on free ports."),
    click.option(
        "--network",
        "--net",
        metavar="NETWORK",
        default="user",
        help="user[:OPTION=VALUE,…], none, host, container:NAME or ns:PATH [default: user]. Options: mtu, cidr, "
        "enable_ipv6, outbound_addr, outbound_addr6, interface, mac, dns; with allow_host_loopback=true 10.0.2.2 is "
        "your 127.0.0.1. slirp4netns and pasta are the same with options of those.",
    ),
    _many(
        "--egress",
        metavar="RULE",
        help="What the container may reach: deny, allow=10.0.0.0/8, allow=*.debian.org:443, deny=192.0.2.1/udp; the "
        "first that matches counts.",
    ),
    click.option("--network-pcap", metavar="FILE", help="Write what crosses the container's network to FILE (pcapng)."),
    _many("--dns", metavar="ADDRESS", help="Ask this name server."),
    _many("--dns-search", metavar="DOMAIN", help="Search names in this domain."),
    _many("--add-host", metavar="NAME:ADDRESS", help="Add a line to /etc/hosts; host-gateway stands for this machine."),
    click.option(
        "--http-proxy",
        metavar="BOOL",
        type=bool,
        default=True,
        help="Pass on your proxy variables, such as https_proxy [default: true].",
    ),
    click.option("--init", is_flag=True, help="Run a small init that forwards signals and reaps processes."),
    click.option("--platform", metavar="OS/ARCH", default="", help="Take the image for this platform."),
    click.option(
        "--layers",
        metavar="N",
        type=int,
        help="Only the first N layers, counted from the bottom; -N: the image as it was N layers ago.",
    ),
    click.option(
        "--layer", metavar="DIGEST", default="", help="Only the layer whose diffID or blob begins with DIGEST."
    ),
    click.option(
        "--pull",
        metavar="WHEN",
        type=click.Choice(PULL_POLICIES),
        default="missing",
        help="always, missing, never or newer [default: missing].",
    ),
    *REGISTRY_FLAGS,
    click.option(
        "--userns",
        metavar="MODE",
        default="host",
        help="host, nomap (you are nobody inside) or keep-id[:uid=N,gid=N]: you keep your own id inside.",
    ),
    click.option("--stop-signal", metavar="SIGNAL", help="What `stop` sends [default: the image's, or TERM]."),
    click.option(
        "--stop-timeout", metavar="SECONDS", type=click.IntRange(min=-1), default=10, help="When `stop` kills."
    ),
    _many("-l", "--label", metavar="NAME[=VALUE]", help="Attach a label."),
    _many("--label-file", metavar="FILE", help="Attach the labels that FILE lists."),
    _many("--ulimit", metavar="NAME=SOFT[:HARD]", help="Limit a resource, as getrlimit(2) names it."),
    click.option(
        "--shm-size", metavar="SIZE", default="65536000", help="Size of /dev/shm, such as 64m [default: 64000k]."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing about the pull."),
    click.option(
        "--storage-driver", metavar="DRIVER", type=click.Choice(STORAGE_DRIVERS), help="auto, overlay, packed or fuse."
    ),
    click.option("--cidfile", metavar="FILE", help="Write the container's id to FILE."),
)


def creation_options(session: Session, image: str, command: tuple[str, ...], flags: Mapping[str, Any]) -> CreateOptions:
    """The flags as typed, checked. Raises UsageError with the first that is wrong."""
    network = parse_network(flags["network"], session.cwd)
    published = (*network.published, *(port for text in flags["publish"] for port in parse_published(text)))
    if network.mode != "user":
        check_other(network.mode, flags)
        if published or flags["publish_all"]:
            # Podman ignores -p there with a warning; ports of a container in the host's network are the host's already.
            click.echo(f"Port mappings have no effect with --network {network.mode}", err=True)
            published = ()
    security = _security(flags["security_opt"], session.cwd)
    options = CreateOptions(
        image=image.removeprefix("docker://"),
        command=tuple(_utf8(word) for word in command),
        entrypoint=_entrypoint(flags["entrypoint"]),
        name=check_name(flags["name"]) if flags["name"] else "",
        interactive=flags["interactive"],
        terminal=flags["tty"],
        remove=flags["rm"],
        environment=(
            *(_proxies(session) if flags["http_proxy"] else ()),
            *chosen_environment(session, flags["env_file"], flags["env"]),
        ),
        mounts=_mounts(session, flags),
        working_directory=_working_directory(flags["workdir"]),
        user=flags["user"],
        groups=flags["group_add"],
        hostname=_hostname(flags["hostname"]),
        read_only=flags["read_only"],
        read_only_tmpfs=flags["read_only_tmpfs"],
        privileged=flags["privileged"],
        cap_add=flags["cap_add"],
        cap_drop=flags["cap_drop"],
        published=_no_port_twice(published, session.cwd),
        publish_all=flags["publish_all"] and network.mode == "user",
        network=network.mode,
        network_target=network.target,
        host_loopback=network.host_loopback,
        link=_link(session, network, flags),
        dns=(*network.dns, *(parse_address(text, "--dns") for text in flags["dns"])),
        dns_search=(*network.dns_search, *flags["dns_search"]),
        add_hosts=tuple(parse_extra_host(text) for text in flags["add_host"]),
        init=flags["init"],
        platform=flags["platform"],
        layer_count=flags["layers"],
        layer=flags["layer"],
        pull=flags["pull"],
        user_namespace=flags["userns"],
        stop_signal=signals.parse(flags["stop_signal"]) if flags["stop_signal"] else None,
        stop_timeout=flags["stop_timeout"],
        labels=_labels(session, flags["label_file"], flags["label"]),
        limits=tuple(parse_limit(text) for text in flags["ulimit"] if text != "host"),  # host: as the caller has them
        shm_size=parse_size(flags["shm_size"], "--shm-size"),
        quiet=flags["quiet"],
        storage_driver=flags["storage_driver"] or session.settings.storage_driver,
        create_command=tuple(_utf8(word) for word in without_password(("rcontain", *getattr(session, "argv", ())))),
        **security,
    )
    try:
        msgspec.json.encode(options)
    except UnicodeEncodeError as error:
        text = error.object.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise UsageError(f'the argument "{text}" is not UTF-8') from None
    return options


def _utf8(text: str) -> str:
    """Bytes that are no UTF-8 are replaced, as Podman does: config.json cannot hold them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def parse_size(text: str, flag: str) -> int:
    """Bytes from 64m, 1g, 65536. Raises UsageError."""
    match = _SIZE.match(text)
    if not match:
        raise UsageError(f'{flag} "{text}" is not a size', hint="use a number and a unit, such as 64m")
    return int(match[1]) * _UNITS[match[2].lower()]


def _link(session: Session, network: Choice, flags: Mapping[str, Any]) -> Link:
    rules, capture = flags["egress"], flags["network_pcap"]
    if capture == "":
        raise UsageError("--network-pcap wants the name of a file")
    if not rules and not capture:
        return network.link
    check_rules(rules)
    pcap = absolute(capture, session.cwd) if capture else network.link.pcap
    return msgspec.structs.replace(network.link, egress=rules, pcap=pcap)


def _entrypoint(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=tuple[str, ...])
        except msgspec.MsgspecError:
            return (text,)  # a command whose name begins with a bracket
    return (text,) if text else ()


def _proxies(session: Session) -> tuple[tuple[str, str], ...]:
    """The caller's proxy variables; what -e says comes after them and wins."""
    given = session.environment
    return tuple((name, _utf8(given[name])) for name in _PROXIES if name in given)


def chosen_environment(session: Session, files: tuple[str, ...], pairs: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The variables that --env-file and --env set, in that order."""
    result: dict[str, str] = {}
    for file in files:
        for line in _lines(session, file, "--env-file"):
            _set_variable(result, line, session)
    for text in pairs:
        if text.endswith("*") and "=" not in text:
            for name, value in session.environment.items():
                if name.startswith(text[:-1]) and name != "RCONTAIN_UID":
                    result[name] = value
            continue
        _set_variable(result, text, session)
    return tuple((_utf8(name), _utf8(value)) for name, value in result.items())


def _set_variable(result: dict[str, str], text: str, session: Session) -> None:
    name, separator, value = text.partition("=")
    if not name:
        raise UsageError(f'the variable "{text}" has no name', hint="use NAME=VALUE")
    if separator:
        result[name] = value
    elif name in session.environment:
        result[name] = session.environment[name]


def _lines(session: Session, file: str, flag: str) -> list[str]:
    path = os.path.join(session.cwd, os.path.expanduser(file))
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as lines:
            stripped = [line.rstrip("\r\n").lstrip() for line in lines]
    except OSError as error:
        raise UsageError(f"cannot read the {flag} {path}: {error.strerror}") from None
    return [line for line in stripped if line and not line.startswith("#")]


def _labels(session: Session, files: tuple[str, ...], pairs: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    texts = [line for file in files for line in _lines(session, file, "--label-file")] + list(pairs)
    result = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name:
            raise UsageError(f'the label "{text}" has no name', hint="use NAME=VALUE")
        result[_utf8(name)] = _utf8(value)
    return tuple(result.items())


def _mounts(session: Session, flags: Mapping[str, Any]) -> tuple[MountRequest, ...]:
    requests = [parse_volume(text, session.cwd) for text in flags["volume"]]
    requests += [parse_mount(text, session.cwd) for text in flags["mount"]]
    requests += [parse_tmpfs(text) for text in flags["tmpfs"]]
    seen: set[str] = set()
    for request in requests:
        destination = normalize(request.destination)
        if destination in seen:
            raise UsageError(
                f"two mounts have the destination {destination}", hint="give each a destination of its own"
            )
        seen.add(destination)
    return tuple(requests)


def _working_directory(text: str | None) -> str | None:
    if text is not None and not text.startswith("/"):
        raise UsageError(f'the working directory "{text}" is not an absolute path')
    return text


def _hostname(text: str) -> str:
    if text and (len(text) > 64 or not re.fullmatch(r"[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?", text)):
        raise UsageError(
            f'the host name "{text}" is not valid', hint="use letters, digits, dots and hyphens; at most 64"
        )
    return text


def _no_port_twice(published: tuple[Published, ...], cwd: str) -> tuple[Published, ...]:
    seen: set[tuple[str, int, str, str]] = set()
    found = []
    for port in published:
        if port.path:
            port = msgspec.structs.replace(port, path=absolute(port.path, cwd))
        key = (port.host_ip, port.host_port, port.protocol, port.path)
        if (port.host_port or port.path) and key in seen:
            raise UsageError(f"the host port {port.path or port.host_port}/{port.protocol} is published twice")
        seen.add(key)
        found.append(port)
    return tuple(found)


def _security(texts: tuple[str, ...], cwd: str) -> dict[str, Any]:
    result: dict[str, Any] = {"no_new_privileges": False, "seccomp_profile": "", "masks": (), "unmasks": ()}
    for text in texts:
        name, separator, value = text.partition("=" if "=" in text else ":")
        if name == "no-new-privileges":
            result["no_new_privileges"] = value in ("", "true")
        elif name == "seccomp" and separator:
            result["seccomp_profile"] = value if value == "unconfined" else os.path.join(cwd, os.path.expanduser(value))
        elif name in ("mask", "unmask") and separator:
            result[f"{name}s"] += tuple(value.split(":"))
        elif name == "ignore-chown-errors":
            result["ignore_chown_errors"] = value in ("", "true")
        elif name in ("label", "apparmor"):
            continue  # nothing to turn off: a rootless container can be given neither label nor profile
        else:
            raise UsageError(
                f'the security option "{text}" is not known',
                hint="use no-new-privileges, seccomp=FILE, seccomp=unconfined, mask=PATH, unmask=PATH "
                "or ignore-chown-errors",
            )
    return result
