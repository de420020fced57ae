"""What every start would otherwise do for the first time in its own process: done once in the engine instead."""

from __future__ import annotations

import os

import msgspec

from ..errors import RcontainError
from ..oci import documents, runtime
from ..oci.runtime import Seccomp
from ..runtime import bpf, capabilities, facts, idmap, process, seccomp, spec
from ..runtime.idmap import IdMaps
from . import etcfiles, mounting, network
from .control import Message
from .logs import LogWriter
from .record import Network, Record, State

_TYPES = (Record, State, Message, runtime.Spec, documents.Manifest, documents.Index, documents.ImageConfig)


def up() -> None:
    """Imports, builds decoders, reads the host's facts, compiles the default seccomp filter: tens of milliseconds."""
    mounting.preload()
    for type in _TYPES:
        msgspec.json.Decoder(type)
    try:
        bpf.compiled(_default_filter())
    except RcontainError:
        return  # a start that needs the filter will say what is wrong with it


def practise() -> None:
    """Goes through the pure parts of a start, with nothing real.

    CPython 3.11 counts a function's calls in its code object, and rewrites that after some ten of them. What is
    rewritten before the fork is shared by every session; what is counted after it is copied in each.
    """
    ids = idmap.default_maps(IdMaps.of_self())
    log = LogWriter(os.devnull)
    log.write("stdout", b"\n", 0)
    log.close()
    plain = Network(mode="user")
    hosts = etcfiles.hosts("127.0.0.1 localhost\n", plain, network.addresses(plain), hostname="host", name="name")
    made = spec.default_spec(
        args=("true",),
        env={"PATH": hosts[:1]},
        ids=ids,
        rootfs="/rootfs",
        hostname="host",
        mounts=(
            runtime.Mount(destination="/etc/hosts", type="bind", source="/etc/hosts", options=("rbind", "rprivate")),
        ),
        seccomp=_default_filter(),
    )
    runtime.decode(runtime.encode(made), runtime.Spec)
    process.make_plan(made, rootfs="/rootfs", ids=ids, make_cwd=True)


def _default_filter() -> Seccomp:
    return seccomp.default_for(frozenset(capabilities.select((), (), last=facts.read().last_capability)))
