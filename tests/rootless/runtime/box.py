"""Containers over a busybox root filesystem, each made as root of a user namespace of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from rootless.errors import RcontainError
from rootless.oci.runtime import Process, Spec
from rootless.runtime import capabilities, idmap, process, seccomp, spec
from rootless.runtime.idmap import IdMaps
from rootless.runtime.process import Init
from tests.kit.userns import in_namespaces


@dataclass(frozen=True)
class Outcome:
    """What became of a container: its exit code and output, or the error that it did not start with."""

    code: int = 0
    out: str = ""
    err: str = ""
    error: str = ""
    kind: str = ""

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass
class Box:
    """Containers over one root filesystem. Attributes are defaults for all that it runs."""

    rootfs: Path
    single_id: bool = False
    keep_id: tuple[int, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def maps(self) -> IdMaps:
        around = IdMaps.of_self()
        return idmap.default_maps(around) if self.keep_id is None else idmap.keep_id_maps(around, *self.keep_id)

    def spec(self, args: Sequence[str], ids: IdMaps, **options: Any) -> Spec:
        settings: dict[str, Any] = {"env": {}, "hostname": "box", **self.options, **options}
        settings.setdefault("seccomp", seccomp.default_for(frozenset(capabilities.DEFAULT)))
        return spec.default_spec(args=args, ids=ids, rootfs=str(self.rootfs), **settings)

    def inside(self, work: Callable[[], Any]) -> Any:
        """Run `work` as root of a user namespace with the mounts of its own."""
        return in_namespaces(work, single_id=self.single_id)

    def run(
        self,
        *args: str,
        change: Callable[[Spec], Spec] = lambda made: made,
        prepare: Callable[[], None] = lambda: None,
        reaper: bool = False,
        keep_fds: Callable[[], list[int]] = list,
        **options: Any,
    ) -> Outcome:
        """One container from start to end. `prepare` runs in the namespaces before it."""

        def work() -> Outcome:
            prepare()
            ids = self.maps()
            return trio.run(
                converse,
                lambda stdio: self._spawn(change(self.spec(args, ids, **options)), ids, stdio, reaper, keep_fds()),
            )

        return self.inside(work)  # type: ignore[no-any-return]

    def sh(self, script: str, **options: Any) -> Outcome:
        """A shell script in a container."""
        return self.run("sh", "-c", script, **options)

    def _spawn(self, made: Spec, ids: IdMaps, stdio: tuple[int, int, int], reaper: bool, keep_fds: list[int]) -> Init:
        return process.spawn(made, rootfs=str(self.rootfs), ids=ids, stdio=stdio, reaper=reaper, keep_fds=keep_fds)


async def converse(spawn: Callable[[tuple[int, int, int]], Init]) -> Outcome:
    """Start a process with pipes, wait for its end, collect what it said."""
    null = os.open("/dev/null", os.O_RDONLY)
    (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe()
    collected: dict[int, bytes] = {}

    async def collect(fd: int) -> None:
        async with trio.lowlevel.FdStream(fd) as stream:
            collected[fd] = b"".join([chunk async for chunk in stream])

    try:
        with spawn((null, out_write, err_write)) as init:
            os.close(out_write)
            os.close(err_write)
            out_write = err_write = -1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(collect, out_read)
                nursery.start_soon(collect, err_read)
                await init.created()
                await init.start()
                code = await init.wait()
        return Outcome(code, collected[out_read].decode(), collected[err_read].decode())
    except (RcontainError, BaseExceptionGroup) as raised:
        error: BaseException = raised
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, RcontainError):
            raise
        return Outcome(error.exit_code, error=str(error), kind=type(error).__name__)
    finally:
        for fd in (out_write, err_write):
            if fd >= 0:
                os.close(fd)
        os.close(null)


def command(made: Spec, *args: str, **changes: Any) -> Process:
    """A process like the container's own with another command."""
    assert made.process is not None
    return msgspec.structs.replace(made.process, args=args, **changes)
