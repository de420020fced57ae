"""The commands of `rcontain-oci`: runc's command line over the same plan and init as the engine's containers.

Started by root of a user namespace (Podman) or of the host, the container is made from there. Started by anybody else,
the process first enters a user namespace E of its own, and a container that has none gets one nested in E.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
from typing import Final

import msgspec

from rootless.errors import ContainerError, HostError, UsageError
from rootless.oci.runtime import State, Status
from rootless.runtime import creation, hooks, launch, ledger, messages
from rootless.runtime.ledger import Ledger, Record
from rootless.runtime.messages import Order

_KILL_SECONDS: Final = 10.0


def start(arguments: argparse.Namespace, book: Ledger) -> None:
    """`start`: execute the command of a created container."""
    record = book.read(arguments.id)
    if ledger.status(record) is not Status.CREATED:
        raise ContainerError(f"the container {record.id} is {ledger.status(record).value}, not created")
    with book.connect(record.id) as channel:
        messages.order(channel, Order.START)
        report = messages.receive(channel)
    if report is not None and isinstance(report[0], messages.Failed):
        raise launch.error_of(report[0])
    record = msgspec.structs.replace(record, started=True)
    book.write(record)
    spec = book.spec(record.id)
    hooks.run(spec.hooks.poststart, "poststart", ledger.state(record, spec))


def run(arguments: argparse.Namespace, book: Ledger) -> int:
    """`run`: create, start and, unless detached, wait and delete. Returns the exit code."""
    if arguments.dry_run:
        print(creation.dry_run(arguments))
        return 0
    launched = creation.make(arguments, book, detached=arguments.detach)
    try:
        if not arguments.detach:
            creation.forward_signals(launched)
        start(arguments, book)
        if arguments.detach:
            return 0
        code = creation.foreground(launched)
    except BaseException:
        launched.signal(signal.SIGKILL)
        launched.reap()
        delete(argparse.Namespace(id=arguments.id, force=True), book)
        raise
    finally:
        launched.close()
    if not arguments.keep:
        delete(argparse.Namespace(id=arguments.id, force=True), book)
    return code


def state(arguments: argparse.Namespace, book: Ledger) -> None:
    """`state`: the state document."""
    record = book.read(arguments.id)
    print(ledger.state_json(record, book.spec(record.id)).decode())


def _signal_number(text: str) -> int:
    if text.isdigit():
        number = int(text)
    else:
        name = text.upper()
        found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
        number = int(found) if isinstance(found, signal.Signals) else 0
    if not 0 < number < signal.NSIG:
        raise UsageError(f"{text!r} is not a signal")
    return number


def kill(arguments: argparse.Namespace, book: Ledger) -> None:
    """`kill`: send a signal to the first process, or with --all to every process of its pid namespace."""
    record = book.read(arguments.id)
    number = _signal_number(arguments.signal)
    pidfd = ledger.open_first_process(record)
    if pidfd is None:
        if arguments.all:
            return
        raise ContainerError(f"the container {record.id} is not running")
    try:
        _send(pidfd, number)
        if arguments.all:
            for pid in _members(record):
                if pid != record.pid:
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        continue
    finally:
        os.close(pidfd)


def _send(pidfd: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise HostError(f"cannot send signal {number} to the container: {error.strerror}") from error


def _members(record: Record) -> list[int]:
    """The processes of the container's pid namespace; its first one alone where that is shared."""
    try:
        own = os.readlink(f"/proc/{record.pid}/ns/pid")
    except OSError:
        return [record.pid]
    if own == os.readlink("/proc/self/ns/pid"):
        return [record.pid]
    found: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.readlink(f"/proc/{name}/ns/pid") == own:
                found.append(int(name))
        except OSError:
            continue  # it ended, or it belongs to somebody else
    return sorted(found)


def delete(arguments: argparse.Namespace, book: Ledger) -> None:
    """`delete`: forget a stopped (or created) container; --force kills a running one and forgives a missing one."""
    try:
        record = book.read(arguments.id)
    except ContainerError:
        if not arguments.force:
            raise
        book.forget(arguments.id)
        return
    now = ledger.status(record)
    if now is Status.RUNNING and not arguments.force:
        raise ContainerError(f"the container {record.id} is running", hint="stop it first, or use --force")
    pidfd = ledger.open_first_process(record)
    if pidfd is not None:
        try:
            _send(pidfd, signal.SIGKILL)
            if not select.select([pidfd], [], [], _KILL_SECONDS)[0]:
                raise ContainerError(f"the container {record.id} did not end within {_KILL_SECONDS:.0f} s of SIGKILL")
        finally:
            os.close(pidfd)
    spec = book.spec(record.id)
    book.forget(record.id)
    hooks.run(
        spec.hooks.poststop,
        "poststop",
        State(id=record.id, status=Status.STOPPED, bundle=record.bundle, annotations=spec.annotations),
    )


def ps(arguments: argparse.Namespace, book: Ledger) -> None:
    """`ps`: the container's processes, as JSON or as ps(1) shows them."""
    record = book.read(arguments.id)
    members = _members(record) if ledger.status(record) is not Status.STOPPED else []
    if arguments.format == "json":
        print(msgspec.json.encode(members).decode())
        return
    listing = subprocess.run(["ps", *(arguments.ps_options or ["-ef"])], stdout=subprocess.PIPE, check=True)
    head, *lines = listing.stdout.decode(errors="replace").splitlines()
    column = head.split().index("PID")
    print(head)
    for line in lines:
        if line.split()[column] in map(str, members):
            print(line)


def list_(arguments: argparse.Namespace, book: Ledger) -> None:
    """`list`: all containers of this root."""
    rows = [(record, ledger.status(record)) for record in map(book.read, book.containers())]
    if arguments.quiet:
        print("".join(f"{record.id}\n" for record, _ in rows), end="")
    elif arguments.format == "json":
        print(
            msgspec.json.encode(
                [msgspec.json.decode(ledger.state_json(record, book.spec(record.id))) for record, _ in rows]
            ).decode()
        )
    else:
        print(f"{'ID':<24} {'PID':<8} {'STATUS':<10} {'BUNDLE':<40} CREATED")
        for record, now in rows:
            pid = 0 if now is Status.STOPPED else record.pid
            print(f"{record.id:<24} {pid:<8} {now.value:<10} {record.bundle:<40} {record.created}")
