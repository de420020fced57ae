"""Container engines as contrib/bench compares them: each with a worker that runs it where it lives, and a registry."""

from __future__ import annotations

import base64
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import worker

BENCH = Path(__file__).resolve().parent
CHECKOUT = BENCH.parent.parent


class Tool:
    """One container engine, and the worker that runs it where it lives."""

    def __init__(self, name: str, prefix: list[str]) -> None:
        self.name = name
        code = base64.b64encode((BENCH / "worker.py").read_bytes()).decode()
        line = f"exec python3 -c \"import base64; exec(base64.b64decode('{code}'))\""
        self.process = subprocess.Popen([*prefix, line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.before = self.ask("hello", None)

    def ask(self, kind: str, value: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({kind: value}) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"bench: the worker for {self.name} ended; its reason is above")
        return json.loads(answer)

    def run(self, *commands: list[str], check: bool = True) -> float:
        """Seconds that the commands, each a list of arguments, took together."""
        answer = self.ask("run", [[self.name, *words] for words in commands])
        if check and any(answer["statuses"]):
            words = shlex.join([self.name, *commands[0]])
            raise SystemExit(f"bench: {words} ended with {answer['statuses']}:\n{answer['output']}")
        return float(answer["seconds"])

    def output(self, *words: str) -> str:
        return self.ask("run", [[self.name, *words]])["output"].strip()  # type: ignore[no-any-return]

    def clear(self) -> None:
        self.run(["rm", "--all", "--force", "--time", "0"], check=False)

    def memory(self, payload: list[str]) -> Any:
        """PSS of all processes of the tool but the containers' own, as worker.memory."""
        if os.geteuid() == 0:
            return worker.memory(self.before["ids"], set(self.before["pids"]), payload)
        return self.ask("memory", {"before": self.before["pids"], "payload": payload})

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start_registry(directory: str) -> tuple[subprocess.Popen[str], str]:
    """A registry of our own on loopback: its process, and its address."""
    process = subprocess.Popen([CHECKOUT / "contrib/registry", directory], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    if not port:
        raise SystemExit("bench: no registry to pull from; its reason is above")
    return process, f"127.0.0.1:{port}"


def push(layout: Path, image: str) -> None:
    """Copy the image `latest` of a layout to a registry."""
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", f"oci:{layout}:latest",
         f"docker://{image}:latest"],
        check=True,
    )  # fmt: skip


def prefixes(podman_command: str | None) -> tuple[list[str], list[str]]:
    """What runs a shell command line as an unprivileged user: for rcontain, and for Podman."""
    ordinary = ["bash", "-c"]
    if os.geteuid() == 0:
        subprocess.run([CHECKOUT / "contrib/quickstart", "--install-only"], check=True, stdout=sys.stderr)
        ordinary = [str(CHECKOUT / "contrib/asuser"), "-u", "rcontain"]
    return ordinary, shlex.split(podman_command) if podman_command else ordinary


def versions(tools: list[Tool], rounds: int) -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), "?")
    names = "; ".join(tool.output("--version") for tool in tools)
    return (
        f"{names}; Linux {platform.release()}, {os.cpu_count()} x {model}; "
        f"medians of {rounds} runs that took turns, both tools as an unprivileged user"
    )
