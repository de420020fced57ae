"""One more process in a running container: `rcontain-oci exec`."""

from __future__ import annotations

import argparse
import os
import signal

import msgspec

from rootless.errors import ContainerError, UsageError
from rootless.oci.runtime import NamespaceType, Process, Spec, User
from rootless.runtime import bundle, capabilities, creation, facts, launch, ledger, plan
from rootless.runtime.init import Job
from rootless.runtime.ledger import Ledger
from rootless.syscalls import Clone


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
    pidfd = ledger.open_first_process(record)
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
        seccomp=creation.seccomp_filter(spec),
        die_with_parent=False,
        ids=record.ids,
    )
    stdio = (None, None, None) if process.terminal else (0, 1, 2)
    job = Job(made, stdio, creation.kept_descriptors(arguments.preserve_fds))
    try:
        launched = launch.spawn_exec(
            job, pidfd, kinds=kinds, container_user=(process.user.uid, process.user.gid), ids=record.ids
        )
    finally:
        os.close(pidfd)
    try:
        launched.created_now()
        if launched.master is not None and arguments.console_socket:
            creation.hand_over(launched, arguments.console_socket)
        creation.write_pid(arguments.pid_file, launched.pid)
        if not arguments.detach:
            creation.forward_signals(launched)
        launched.start_now()
        return 0 if arguments.detach else creation.foreground(launched)
    except BaseException:
        launched.signal(signal.SIGKILL)
        launched.reap()
        raise
    finally:
        launched.close()
