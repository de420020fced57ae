"""The commands of `rcontain-oci`: runc's command line over the same plan and init as the engine's containers.

Started by root of a user namespace (Podman) or of the host, the container is made from there. Started by anybody else,
the process first enters a user namespace E of its own, and a container that has none gets one nested in E.
"""

from __future__ import annotations

import argparse
import array
import os
import select
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from typing import Final

import msgspec

from rootless.errors import ContainerError, HostError, UsageError
from rootless.oci.runtime import NamespaceType, Process, Spec, State, Status, User
from rootless.runtime import bundle, capabilities, facts, hooks, launch, ledger, messages, plan, relay
from rootless.runtime.idmap import IdMaps
from rootless.runtime.init import Job
from rootless.runtime.launch import Launched
from rootless.runtime.ledger import Ledger, Record
from rootless.runtime.messages import Order
from rootless.runtime.steps import Plan, Program
from rootless.syscalls import Clone

_KILL_SECONDS: Final = 10.0


def _is_root_here() -> bool:
    """Root with power over this user namespace."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return bool(effective & capabilities.SYS_ADMIN)


def _enter() -> IdMaps:
    """Enter E. Its module loads a library for helper programs, which root of a namespace does not need."""
    from rootless.runtime import userns

    entered = userns.enter()
    if entered.reason is not None:
        print(f"rcontain-oci: only your own id is mapped: {entered.reason}", file=sys.stderr)
    return IdMaps.of_self()


def _filter(spec: Spec) -> Program | None:
    """The seccomp filter; libseccomp is looked for only where there is one."""
    if spec.linux.seccomp is None:
        return None
    from rootless.runtime import bpf

    return bpf.compiled(spec.linux.seccomp)


def _plan(loaded: bundle.Bundle, spec: Spec, ids: IdMaps | None) -> Plan:
    return plan.compile(
        spec,
        rootfs=loaded.rootfs,
        facts=facts.read(),
        ids=ids,
        seccomp=_filter(spec),
        die_with_parent=False,
        make_cwd=True,
    )


def _kept(count: int) -> tuple[int, ...]:
    kept = tuple(range(3, 3 + count))
    for fd in kept:
        try:
            os.fstat(fd)
        except OSError:
            raise UsageError(f"--preserve-fds={count} names the descriptor {fd}, which is not open") from None
    return kept


def create(arguments: argparse.Namespace, book: Ledger) -> None:
    """`create`: everything up to the command, which waits for `start`."""
    _create(arguments, book, detached=True).close()


def _create(arguments: argparse.Namespace, book: Ledger, *, detached: bool) -> Launched:
    loaded = bundle.load(arguments.bundle)
    process = loaded.spec.process
    assert process is not None
    if detached and process.terminal and not arguments.console_socket:
        raise UsageError("the process wants a terminal, and nobody takes it", hint="give a --console-socket")
    kept = _kept(arguments.preserve_fds)
    entered = not _is_root_here()
    around = _enter() if entered else IdMaps.of_self()
    spec, ids = bundle.ids_for(loaded.spec, around, entered=entered)
    made = _plan(loaded, spec, ids)
    book.claim(arguments.id, msgspec.json.encode(spec))
    try:
        return _make(arguments, book, loaded, spec, ids, made, kept)
    except BaseException:
        book.forget(arguments.id)
        raise


def _make(
    arguments: argparse.Namespace,
    book: Ledger,
    loaded: bundle.Bundle,
    spec: Spec,
    ids: IdMaps | None,
    made: Plan,
    kept: tuple[int, ...],
) -> Launched:
    process = spec.process
    assert process is not None
    user = (process.user.uid, process.user.gid)

    def before_begin(launched: Launched) -> None:
        now = State(
            id=arguments.id, status=Status.CREATING, pid=launched.pid, bundle=loaded.path, annotations=spec.annotations
        )
        hooks.run(spec.hooks.prestart, "prestart", now)
        hooks.run(spec.hooks.create_runtime, "createRuntime", now)

    # The container's pid is not known yet; its hooks see themselves as members of its namespaces.
    inside = State(id=arguments.id, status=Status.CREATED, bundle=loaded.path, annotations=spec.annotations)
    with book.listen(arguments.id) as gate:
        stdio = (None, None, None) if process.terminal else (0, 1, 2)
        job = Job(made, stdio, kept, msgspec.json.encode(inside), gate.fileno())
        launched = launch.spawn(job, spec.linux, ids=ids, container_user=user, before_begin=before_begin)
    try:
        launched.created_now()
        if launched.master is not None and arguments.console_socket:
            _hand_over(launched, arguments.console_socket)
        found = ledger.process_state(launched.pid)
        if found is None:
            raise ContainerError("the container's first process died while it was being made")
        created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        book.write(Record(arguments.id, launched.pid, found[1], loaded.path, loaded.rootfs, created, ids))
        _write_pid(arguments.pid_file, launched.pid)
    except BaseException:
        launched.signal(signal.SIGKILL)
        launched.reap()
        launched.close()
        raise
    return launched


def _hand_over(launched: Launched, path: str) -> None:
    """Send the terminal's master to the socket that the caller listens at; it is closed here."""
    assert launched.master is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
        try:
            console.connect(path)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [launched.master]))]
            console.sendmsg([b"/dev/ptmx"], rights)
        except OSError as error:
            raise UsageError(f"cannot hand the terminal over to {path}: {error.strerror}") from error
    os.close(launched.master)
    launched.master = None


def _write_pid(path: str | None, pid: int) -> None:
    if path is None:
        return
    with open(path + ".new", "w") as file:
        file.write(str(pid))
    os.rename(path + ".new", path)


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
        print(_dry_run(arguments))
        return 0
    launched = _create(arguments, book, detached=arguments.detach)
    try:
        start(arguments, book)
        if arguments.detach:
            return 0
        code = _foreground(launched)
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


def _dry_run(arguments: argparse.Namespace) -> Plan:
    """The plan, made without any privilege: the maps are those that E would have."""
    loaded = bundle.load(arguments.bundle)
    entered = not _is_root_here()
    around = IdMaps.of_self()
    if entered:
        from rootless.runtime import userns

        around, _ = userns.plan_maps(os.geteuid(), os.getegid())
    spec, ids = bundle.ids_for(loaded.spec, around, entered=entered)
    return _plan(loaded, spec, ids)


def _foreground(launched: Launched) -> int:
    """Forward signals, show the terminal, wait."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, _: launched.signal(received))
    if launched.master is not None:
        return relay.run(launched)
    code = launched.reap()
    assert code is not None
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


def _open(record: Record) -> int | None:
    """A pidfd of the container's first process, or None where it has ended."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    if ledger.status(record) is Status.STOPPED:
        os.close(pidfd)
        return None
    return pidfd


def kill(arguments: argparse.Namespace, book: Ledger) -> None:
    """`kill`: send a signal to the first process, or with --all to every process of its pid namespace."""
    record = book.read(arguments.id)
    number = _signal_number(arguments.signal)
    pidfd = _open(record)
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
    pidfd = _open(record)
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


def _exec_process(arguments: argparse.Namespace, spec: Spec) -> Process:
    if arguments.process:
        return bundle.load_process(arguments.process)
    if spec.process is None or not arguments.args:
        raise UsageError("exec needs a command, or --process")
    base = spec.process
    user = base.user
    if arguments.user:
        uid, _, gid = arguments.user.partition(":")
        if not uid.isdigit() or (gid and not gid.isdigit()):
            raise UsageError(f"--user {arguments.user!r} is not UID[:GID]")
        user = User(uid=int(uid), gid=int(gid or 0))
    if arguments.additional_gids:
        user = msgspec.structs.replace(user, additional_gids=tuple(arguments.additional_gids))
    sets = base.capabilities
    if arguments.cap and sets is not None:
        extra = tuple(capabilities.normalize(name) for name in arguments.cap)
        sets = msgspec.structs.replace(
            sets,
            bounding=(*sets.bounding, *extra),
            effective=(*sets.effective, *extra),
            permitted=(*sets.permitted, *extra),
        )
    return msgspec.structs.replace(
        base,
        args=tuple(arguments.args),
        env=(*base.env, *arguments.env),
        cwd=arguments.cwd or base.cwd,
        terminal=arguments.tty,
        user=user,
        capabilities=sets,
        no_new_privileges=base.no_new_privileges or arguments.no_new_privs,
    )


def exec_(arguments: argparse.Namespace, book: Ledger) -> int:
    """`exec`: one more process in a running container. Returns its exit code, 0 where detached."""
    record = book.read(arguments.id)
    spec = book.spec(record.id)
    process = _exec_process(arguments, spec)
    if arguments.detach and process.terminal and not arguments.console_socket:
        raise UsageError("the process wants a terminal, and nobody takes it", hint="give a --console-socket")
    pidfd = _open(record)
    if pidfd is None:
        raise ContainerError(f"the container {record.id} is not running")
    kinds = Clone(0)
    for entry in spec.linux.namespaces:
        kinds |= plan.CLONE[entry.type]
    if spec.linux.namespace(NamespaceType.USER) is not None and record.ids is None:
        kinds &= ~Clone.NEWUSER
    made = plan.compile_exec(
        process,
        facts=facts.read(),
        seccomp=_filter(spec),
        die_with_parent=False,
        ids=record.ids,
    )
    stdio = (None, None, None) if process.terminal else (0, 1, 2)
    job = Job(made, stdio, _kept(arguments.preserve_fds))
    try:
        launched = launch.spawn_exec(
            job, pidfd, kinds=kinds, container_user=(process.user.uid, process.user.gid), ids=record.ids
        )
    finally:
        os.close(pidfd)
    try:
        launched.created_now()
        if launched.master is not None and arguments.console_socket:
            _hand_over(launched, arguments.console_socket)
        _write_pid(arguments.pid_file, launched.pid)
        launched.start_now()
        return 0 if arguments.detach else _foreground(launched)
    except BaseException:
        launched.signal(signal.SIGKILL)
        launched.reap()
        raise
    finally:
        launched.close()


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
