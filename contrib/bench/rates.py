"""What contrib/bench/net measures through each network: scenarios that yield figures for rows of the table."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from networks import (
    BENCH,
    DELAY,
    DISTANT,
    FAR,
    HOST,
    LOOPBACK,
    PATIENCE,
    PUBLISHED,
    Contender,
    Failed,
    Joined,
    Lab,
    Place,
)

Samples = Iterator[tuple[str, float]]
"""(key of a row, figure)."""

PUBLISHED_IPERF, PUBLISHED_HTTP = PUBLISHED
IPERF, HTTP, ECHO = 5301, 8180, 7000
"""Ports of servers on the host."""
CONNECTIONS = 16
"""That wrk holds."""
DATAGRAM = 1400
"""Bytes: what fits an ordinary MTU."""


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    title: str
    unit: str
    targets: dict[str, float] = field(default_factory=dict)
    """At least this, times what the contender of that name reaches."""


FAST = {"slirp4netns": 1.6, "pasta": 1.0}
CONNECTS = {"slirp4netns": 1.0}
PUBLISHED_FAST = {"host": 0.8}
DELAYED = {"host": 0.9}

ROWS = (
    Row("tcp-out", "TCP out", "Gbit/s", FAST),
    Row("tcp-in", "TCP in", "Gbit/s", FAST),
    Row("tcp-8", "TCP out, 8 streams", "Gbit/s"),
    Row("cpu-out", "CPU of the network, TCP out", "s/GB"),
    Row("cpu-in", "CPU of the network, TCP in", "s/GB"),
    Row("memory", "its memory (PSS) after that", "MB"),
    Row("udp-out", f"UDP out, of 1 Gbit/s in {DATAGRAM:,} bytes each", "Gbit/s"),
    Row("udp-out-loss", "lost of it", "%"),
    Row("udp-in", "UDP in, of the same", "Gbit/s"),
    Row("udp-in-loss", "lost of it", "%"),
    Row("tcp-rr", "TCP request/response, one byte", "/s"),
    Row("udp-rr", "UDP request/response, one byte", "/s"),
    Row("tcp-crr-one", "connect, request, response, close; one at a time", "/s", CONNECTS),
    Row("tcp-crr", f"connect, HTTP request, response, close; {CONNECTIONS} at a time", "/s", CONNECTS),
    Row("http", f"HTTP requests, {CONNECTIONS} connections kept", "/s"),
    Row("dns", "DNS queries, each from a new port", "/s"),
    Row("ping", "ping", "ms"),
    Row("published-loopback", "published port from loopback, TCP", "Gbit/s", PUBLISHED_FAST),
    Row("cpu-published", "CPU of the network for it", "s/GB"),
    Row("published-loopback-http", "published port from loopback, HTTP requests", "/s", PUBLISHED_FAST),
    Row("published-far", "published port from another namespace, TCP", "Gbit/s"),
    Row("published-far-http", "published port from another namespace, HTTP requests", "/s"),
    Row("delay-out", f"TCP out, {DELAY} ms each way", "Gbit/s", DELAYED),
    Row("delay-in", f"TCP in, {DELAY} ms each way", "Gbit/s", DELAYED),
    Row("delay-8", f"TCP out, 8 streams, {DELAY} ms each way", "Gbit/s", DELAYED),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a scenario works with."""

    lab: Lab
    joined: Joined
    directory: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    rows: tuple[str, ...]
    run: Callable[[Bench], Samples]
    programs: tuple[str, ...] = ()
    """What has to be installed for it."""


# The programs


@dataclass(frozen=True, slots=True)
class Transfer:
    """A run of iperf3(1)."""

    rate: float
    """Gbit/s that arrived."""
    lost: float
    """Of a hundred datagrams."""
    size: float
    """GB that arrived."""


def iperf(bench: Bench, server: Place, client: Place, address: str, port: int, *words: str) -> Transfer:
    listen = ["iperf3", "--server", "--one-off", "--port", str(port), "--forceflush"]
    ask = ["iperf3", "--json", "--client", address, "--port", str(port), "--time", str(bench.seconds), *words]
    with server.running(listen, ready="listening"):
        report = json.loads(client.run(ask, timeout=bench.seconds + 30))
    total = report["end"]["sum_received"] if "sum_received" in report["end"] else report["end"]["sum"]
    if "--udp" not in words:
        return Transfer(total["bits_per_second"] / 1e9, 0.0, total["bytes"] / 1e9)
    total = report["end"]["sum"]
    lost = float(total["lost_percent"])
    arrived = total["bytes"] * (1 - lost / 100)
    return Transfer(arrived * 8 / total["seconds"] / 1e9, lost, arrived / 1e9)


NGINX = """
user root;
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000000;
    default_type text/plain;
    server {{
        listen 0.0.0.0:{port} backlog=1024;
        location / {{ return 200 "{body}"; }}
    }}
}}
"""
"""One process that answers with 1 KiB out of memory."""


@contextmanager
def web_server(bench: Bench, place: Place, port: int) -> Iterator[None]:
    path = f"{bench.directory}/nginx.conf"
    Path(path).write_text(NGINX.format(directory=bench.directory, port=port, body="x" * 1024))
    started = ["sh", "-c", 'echo ready; exec nginx -e stderr -c "$1" -p "$2"', "sh", path, bench.directory]
    with place.running(started, ready="ready") as process:
        deadline = time.monotonic() + PATIENCE
        while not listens(process.pid, port):
            if process.poll() is not None or time.monotonic() > deadline:
                said = process.stdout.read() if process.stdout is not None and process.returncode is not None else ""
                raise Failed(f"nginx does not serve in {place.name}: {said.strip()[-500:]}")
            time.sleep(0.01)
        yield


def listens(pid: int, port: int) -> bool:
    """Whether anybody listens at the TCP port in the network namespace of a process of ours; proc_net_tcp(5)."""
    try:
        return f":{port:04X} 00000000:0000 0A" in Path(f"/proc/{pid}/net/tcp").read_text()
    except OSError:
        return False  # it has ended


def wrk(bench: Bench, client: Place, address: str, port: int, *words: str) -> float:
    """Requests per second that were answered."""
    url = f"http://{address}:{port}/"
    said = client.run(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{bench.seconds}", "--timeout", "10", *words, url])
    found = re.search(r"Requests/sec: +([0-9.]+)", said)
    if found is None or not float(found[1]) or "Non-2xx" in said:
        raise Failed(f"wrk in {client.name} got no answers: {said.strip()[-300:]}")
    return float(found[1])


def exchange(bench: Bench, kind: str, address: str, port: int) -> float:
    command = [sys.executable, f"{BENCH}/exchange.py", kind, address, str(port), str(bench.seconds)]
    return float(bench.joined.place.run(command))


@contextmanager
def answering(bench: Bench) -> Iterator[None]:
    command = [sys.executable, f"{BENCH}/exchange.py", "serve", LOOPBACK, str(ECHO)]
    with bench.lab.host.running(command, ready="ready"):
        yield


# Scenarios: each in a guest and a network of its own, which have done nothing yet


def streams(bench: Bench) -> Samples:
    joined, host = bench.joined, bench.lab.host
    for key, words in (("out", ()), ("in", ("--reverse",)), ("8", ("--parallel", "8"))):
        before = joined.processor_seconds() if joined.pid else 0.0
        transfer = iperf(bench, host, joined.place, joined.gateway, IPERF, *words)
        yield f"tcp-{key}", transfer.rate
        if joined.pid and key != "8":
            yield f"cpu-{key}", (joined.processor_seconds() - before) / transfer.size
    if joined.pid:
        yield "memory", joined.memory() / 1e6


def datagrams(bench: Bench) -> Samples:
    words = ("--udp", "--bitrate", "1G", "--length", str(DATAGRAM))
    for key, more in (("out", ()), ("in", ("--reverse",))):
        transfer = iperf(bench, bench.lab.host, bench.joined.place, bench.joined.gateway, IPERF, *words, *more)
        yield f"udp-{key}", transfer.rate
        yield f"udp-{key}-loss", transfer.lost


def small(bench: Bench) -> Samples:
    with answering(bench):
        yield "tcp-rr", exchange(bench, "tcp", bench.joined.gateway, ECHO)
        yield "tcp-crr-one", exchange(bench, "connect", bench.joined.gateway, ECHO)
        yield "udp-rr", exchange(bench, "udp", bench.joined.gateway, ECHO)
        yield "dns", exchange(bench, "dns", bench.joined.resolver, 53)


def requests(bench: Bench) -> Samples:
    with web_server(bench, bench.lab.host, HTTP):
        yield "tcp-crr", wrk(bench, bench.joined.place, bench.joined.gateway, HTTP, "-H", "Connection: close")
        yield "http", wrk(bench, bench.joined.place, bench.joined.gateway, HTTP)


def pings(bench: Bench) -> Samples:
    said = bench.joined.place.run(["ping", "-q", "-n", "-i", "0.005", "-c", str(bench.seconds * 100), FAR])
    found = re.search(r"= [0-9.]+/([0-9.]+)/", said)
    if found is None:
        raise Failed(f"ping got no answers: {said.strip()[-300:]}")
    yield "ping", float(found[1])


def published(bench: Bench) -> Samples:
    joined, lab = bench.joined, bench.lab
    ways = (("loopback", lab.host, LOOPBACK), ("far", lab.far, HOST))
    for key, client, address in ways:
        before = joined.processor_seconds() if joined.pid else 0.0
        transfer = iperf(bench, joined.place, client, address, PUBLISHED_IPERF)
        yield f"published-{key}", transfer.rate
        if joined.pid and key == "loopback":
            yield "cpu-published", (joined.processor_seconds() - before) / transfer.size


def published_requests(bench: Bench) -> Samples:
    ways = (("loopback", bench.lab.host, LOOPBACK), ("far", bench.lab.far, HOST))
    with web_server(bench, bench.joined.place, PUBLISHED_HTTP):
        for key, client, address in ways:
            yield f"published-{key}-http", wrk(bench, client, address, PUBLISHED_HTTP)


def delayed(bench: Bench) -> Samples:
    for key, words in (("out", ()), ("in", ("--reverse",)), ("8", ("--parallel", "8"))):
        transfer = iperf(bench, bench.lab.distant, bench.joined.place, DISTANT, IPERF, *words)
        yield f"delay-{key}", transfer.rate


PUBLISHED_WAYS = ("published-loopback", "published-far")
SCENARIOS = (
    Scenario("streams", ("tcp-out", "tcp-in", "tcp-8", "cpu-out", "cpu-in", "memory"), streams, ("iperf3",)),
    Scenario("datagrams", ("udp-out", "udp-out-loss", "udp-in", "udp-in-loss"), datagrams, ("iperf3",)),
    Scenario("small exchanges", ("tcp-rr", "tcp-crr-one", "udp-rr", "dns"), small),
    Scenario("requests", ("tcp-crr", "http"), requests, ("wrk", "nginx")),
    Scenario("pings", ("ping",), pings, ("ping",)),
    Scenario("published ports", (*PUBLISHED_WAYS, "cpu-published"), published, ("iperf3",)),
    Scenario("published HTTP", tuple(f"{way}-http" for way in PUBLISHED_WAYS), published_requests, ("wrk", "nginx")),
    Scenario("delay", ("delay-out", "delay-in", "delay-8"), delayed, ("iperf3",)),
)


def missing(scenario: Scenario) -> list[str]:
    return [program for program in scenario.programs if shutil.which(program) is None]


def run(scenario: Scenario, contender: Contender, lab: Lab, directory: str, seconds: int) -> dict[str, float]:
    """One round: the figures of one scenario through one network. Raises Failed."""
    with ExitStack() as stack:
        network = stack.enter_context(closing(contender.join(directory)))
        joined = next(iter(network))
        return dict(scenario.run(Bench(lab, joined, directory, seconds)))
