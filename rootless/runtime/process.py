"""A container's first process, and those that join it, for a supervisor with trio's event loop.

init = spawn(spec, rootfs=path, ids=maps, stdio=(0, 1, 2))
await init.created()        # the root filesystem stands; the network may be set up in init.netns
await init.start()          # execve has succeeded, or CommandNotFound, CommandNotRunnable, ContainerError
code = await init.wait()    # 0-255; 128+N if signal N ended it
init.close()
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TypeAlias

import trio

from rootless.oci.runtime import Process, Seccomp, Spec
from rootless.runtime import bpf, facts, launch, messages, plan
from rootless.runtime.idmap import IdMaps
from rootless.runtime.init import Job
from rootless.runtime.launch import ALL, Launched
from rootless.runtime.messages import Report
from rootless.runtime.steps import Plan
from rootless.syscalls import Clone

Stdio: TypeAlias = tuple[int | None, int | None, int | None]
"""Descriptors for standard input, output and error; None is /dev/null. They stay the caller's."""


class Init(Launched):
    """A container's process. `with` kills what still runs and closes; `close` alone leaves it running."""

    def __enter__(self) -> Init:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status is None:
            self.signal(9)
            self.reap()
        self.close()

    async def _report(self) -> tuple[Report, int | None] | None:
        await trio.lowlevel.wait_readable(self.channel)
        return messages.receive(self.channel)

    async def created(self) -> None:
        """Wait until the container is complete but for its command.

        Raises CommandNotFound, CommandNotRunnable, or ContainerError with the name of the step that failed.
        """
        while not self.take(await self._report()):
            pass

    async def start(self) -> None:
        """Execute the command; returns once execve has succeeded, raises as `created` does."""
        self.order_start()
        self.take_start(await self._report())

    async def wait(self) -> int:
        """The exit code, once the process has ended: 0...255, and 128+N if signal N ended it."""
        if self.status is None:
            await trio.lowlevel.wait_readable(self.pidfd)
        code = self.reap()
        assert code is not None
        return code


def make_plan(
    spec: Spec,
    *,
    rootfs: str,
    ids: IdMaps | None,
    die_with_parent: bool = True,
    reaper: bool = False,
    make_cwd: bool = False,
) -> Plan:
    """The plan of `spec` on this machine, with its seccomp filter compiled (or taken from this process's memory)."""
    profile = spec.linux.seccomp
    return plan.compile(
        spec,
        rootfs=rootfs,
        ids=ids,
        facts=facts.read(),
        seccomp=bpf.compiled(profile) if profile is not None else None,
        die_with_parent=die_with_parent,
        reaper=reaper,
        make_cwd=make_cwd,
    )


def spawn(
    spec: Spec,
    *,
    rootfs: str,
    ids: IdMaps | None,
    stdio: Stdio = (None, None, None),
    keep_fds: Sequence[int] = (),
    die_with_parent: bool = True,
    reaper: bool = False,
    make_cwd: bool = False,
    state: bytes = b"",
) -> Init:
    """Fork the container's first process into its namespaces; it begins to make the container at once.

    `ids` are the maps of the container's own user namespace in ids of the caller's (E), None where it shares the
    caller's. With `process.terminal` the standard streams are the terminal's and `stdio` is not used; `Init.master` is
    its master after `created`. `keep_fds` become 3, 4, ... in the container. `reaper` makes pid 1 an init process of
    ours. `state` is what hooks get on standard input. Raises UsageError, HostError, ContainerError.
    """
    made = make_plan(spec, rootfs=rootfs, ids=ids, die_with_parent=die_with_parent, reaper=reaper, make_cwd=make_cwd)
    user = (spec.process.user.uid, spec.process.user.gid) if spec.process else (0, 0)
    terminal = spec.process is not None and spec.process.terminal
    job = Job(made, (None, None, None) if terminal else stdio, tuple(keep_fds), state)
    return _init(launch.spawn(job, spec.linux, ids=ids, container_user=user))


def spawn_exec(
    pidfd: int,
    process: Process,
    *,
    ids: IdMaps | None,
    stdio: Stdio = (None, None, None),
    keep_fds: Sequence[int] = (),
    kinds: Clone = ALL,
    seccomp_profile: Seccomp | None = None,
    die_with_parent: bool = True,
) -> Init:
    """Fork a process into the namespaces (`kinds`) of the container whose first process is `pidfd`.

    It is a child of the caller and a member of the container's pid namespace. Otherwise as `spawn`.
    """
    made = plan.compile_exec(
        process,
        facts=facts.read(),
        seccomp=bpf.compiled(seccomp_profile) if seccomp_profile is not None else None,
        die_with_parent=die_with_parent,
        ids=ids,
    )
    job = Job(made, (None, None, None) if process.terminal else stdio, tuple(keep_fds))
    user = (process.user.uid, process.user.gid)
    return _init(launch.spawn_exec(job, pidfd, kinds=kinds, container_user=user, ids=ids))


def _init(launched: Launched) -> Init:
    return Init(launched.pid, launched.pidfd, launched.channel, launched.userns, launched.netns)
