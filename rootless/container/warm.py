"""What every start would otherwise do for the first time in its own process: done once in the engine instead."""

from __future__ import annotations

import msgspec

from ..errors import RcontainError
from ..oci import documents, runtime
from ..runtime import bpf, capabilities, facts, seccomp
from .control import Message
from .record import Record, State

_TYPES = (Record, State, Message, runtime.Spec, documents.Manifest, documents.Index, documents.ImageConfig)


def up() -> None:
    """Builds decoders, reads the host's facts, compiles the default seccomp filter. Takes some tens of milliseconds."""
    for type in _TYPES:
        msgspec.json.Decoder(type)
    last = facts.read().last_capability
    try:
        bpf.compiled(seccomp.default_for(frozenset(capabilities.select((), (), last=last))))
    except RcontainError:
        return  # a start that needs the filter will say what is wrong with it
