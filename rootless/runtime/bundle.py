"""A bundle on disk: config.json and the root filesystem, and whose ids its container will have."""

from __future__ import annotations

import os
from typing import Final

import msgspec

from rootless.errors import UsageError
from rootless.oci.runtime import Namespace, NamespaceType, Process, Spec, decode
from rootless.runtime.idmap import IdMap, IdMaps, default_maps

_LIMIT: Final = 64 << 20
"""Bytes of a config.json."""


class Bundle(msgspec.Struct, frozen=True):
    """A bundle that has been read. `ids` are None where the container shares the caller's user namespace."""

    path: str
    rootfs: str
    spec: Spec
    raw: bytes


def load(path: str) -> Bundle:
    """Read and validate a bundle. Raises UsageError."""
    directory = os.path.abspath(path)
    file = f"{directory}/config.json"
    try:
        with open(file, "rb") as stream:
            raw = stream.read(_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", hint="name the bundle with --bundle") from error
    if len(raw) > _LIMIT:
        raise UsageError(f"{file} is larger than {_LIMIT >> 20} MiB")
    try:
        spec = decode(raw, Spec)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from error
    if not spec.oci_version.startswith("1."):
        raise UsageError(f"{file} is of version {spec.oci_version!r} of the specification; 1.x is supported")
    if spec.root is None or spec.process is None:
        raise UsageError(f"{file} needs both `root` and `process`")
    rootfs = os.path.join(directory, spec.root.path)
    if not os.path.isdir(rootfs):
        raise UsageError(f"the root filesystem {rootfs} is not a directory")
    return Bundle(directory, rootfs, spec, raw)


def load_process(path: str) -> Process:
    """A process description for `exec --process`. Raises UsageError."""
    try:
        with open(path, "rb") as stream:
            return decode(stream.read(_LIMIT), Process)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def ids_for(spec: Spec, around: IdMaps, *, entered: bool) -> tuple[Spec, IdMaps | None]:
    """The container's maps in the ids of the namespace it will be made from, `around` being that one's own maps.

    Where the caller had to enter a namespace E of its own (`entered`), config.json speaks of host ids, which are
    translated, and a container without a user namespace gets one with the default map. Raises UsageError.
    """
    linux = spec.linux
    user = linux.namespace(NamespaceType.USER)
    if user is not None and user.path:
        return spec, IdMaps(IdMap.from_spec(linux.uid_mappings), IdMap.from_spec(linux.gid_mappings))
    if user is None:
        if not entered:
            return spec, None
        namespaces = (*linux.namespaces, Namespace(type=NamespaceType.USER))
        return msgspec.structs.replace(spec, linux=msgspec.structs.replace(linux, namespaces=namespaces)), default_maps(
            around
        )
    ids = IdMaps(IdMap.from_spec(linux.uid_mappings), IdMap.from_spec(linux.gid_mappings))
    if not ids.uids.extents or not ids.gids.extents:
        ids = default_maps(around)
    elif entered:
        ids = IdMaps(_translate(ids.uids, around.uids), _translate(ids.gids, around.gids))
    return spec, ids.split_for(around)


def _translate(ids: IdMap, around: IdMap) -> IdMap:
    """Outer ids from host ids to those of `around`."""
    lines: list[tuple[int, int, int]] = []
    for line in ids.extents:
        start, end = line.outside, line.outside + line.size
        while start < end:
            holder = next((e for e in around.extents if e.outside <= start < e.outside + e.size), None)
            if holder is None:
                raise UsageError(f"config.json maps the host id {start}, which this user may not use")
            stop = min(end, holder.outside + holder.size)
            lines.append((line.inside + start - line.outside, holder.inside + start - holder.outside, stop - start))
            start = stop
    return IdMap.of(*lines)
