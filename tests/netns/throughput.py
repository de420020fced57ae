"""iperf3 between a guest and the host, through ours and through slirp4netns where that is installed.

    python -m tests.netns.throughput [SECONDS [ROUNDS]]

Run it as an ordinary user. Prints the median over the rounds, in Gbit/s; rounds alternate between the programs, so that
a busy machine is unfair to neither. Traffic goes to the host's loopback. Not a test: nothing is asserted.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from collections import defaultdict

MTU = "65520"
DIRECTIONS = {"guest to host": [], "host to guest": ["-R"]}


def commands() -> dict[str, list[str]]:
    """What to compare, by name."""
    result = {"rcontain-slirp": [sys.executable, "-m", "netns"]}
    if shutil.which("slirp4netns"):
        result["slirp4netns"] = ["slirp4netns"]
    return result


def measure(command: list[str], reverse: list[str], seconds: int) -> float:
    """Gbit/s of one run in a guest of its own."""
    unshare = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(unshare, stdout=subprocess.PIPE) as guest:
        assert guest.stdout is not None
        guest.stdout.readline()
        ready, ready_write = os.pipe()
        words = [*command, "-c", "-m", MTU, "-r", str(ready_write), str(guest.pid), "tap0"]
        with subprocess.Popen(words, pass_fds=[ready_write], stdout=subprocess.DEVNULL) as network:
            os.close(ready_write)
            os.read(ready, 1)
            os.close(ready)
            try:
                return iperf(guest.pid, reverse, seconds)
            finally:
                network.terminate()
                guest.kill()


def iperf(guest: int, reverse: list[str], seconds: int) -> float:
    """One run of iperf3 from the process `guest` to the host's loopback, which is 10.0.2.2 there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    serve = ["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", port, "--forceflush"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        while b"listening" not in server.stdout.readline():
            pass
        enter = ["nsenter", "-t", str(guest), "-U", "-n", "--preserve-credentials"]
        ask = ["iperf3", "-J", "-c", "10.0.2.2", "-p", port, "-t", str(seconds), *reverse]
        report = json.loads(subprocess.run(enter + ask, capture_output=True, check=True).stdout)
        server.stdout.read()
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def main() -> None:
    seconds, rounds = (int(word) for word in (sys.argv[1:] + ["3", "3"][len(sys.argv) - 1 :])[:2])
    results: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, command in commands().items():
            for direction, reverse in DIRECTIONS.items():
                results[name, direction].append(measure(command, reverse, seconds))
    for (name, direction), values in results.items():
        print(f"{name:16} {direction:16} {statistics.median(values):5.1f} Gbit/s   ({rounds} rounds of {seconds} s)")


if __name__ == "__main__":
    main()
