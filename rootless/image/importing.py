"""An image from an archive of a root filesystem: from a file, a pipe, or a web server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import httpx
import trio

from rootless.errors import HostError, RegistryError
from rootless.image.assemble import new_image
from rootless.image.derive import LayerMaker
from rootless.image.model import Derive, Image, Layer
from rootless.image.packing import LayerReceiver
from rootless.image.store import Store
from rootless.oci import instructions
from rootless.oci.documents import ExecutionConfig, History, ImageConfig
from rootless.oci.platform import Platform
from rootless.oci.reference import Reference

_CHUNK = 1 << 20
_PATIENCE = 30.0  # seconds without a byte
_URLS = ("http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What was asked for. `source` is a URL, "-" for standard input, or a path."""

    source: str
    platform: Platform
    created: str
    reference: Reference | None = None
    message: str = ""
    changes: Sequence[str] = ()


async def import_image(store: Store, wanted: Import, derive: Derive) -> Image:
    """Makes an image of one layer, the archive as it came. Leaves nothing in the store if it fails.

    Raises ImageError for what is no archive, HostError, RegistryError, UsageError.
    """
    execution = instructions.apply(ExecutionConfig(), list(wanted.changes))
    done = False
    try:
        with store.pulling():
            layer = await _receive(store, wanted.source)
            await LayerMaker(store, derive).from_store(layer)
            config = ImageConfig(
                architecture=wanted.platform.architecture,
                os=wanted.platform.os,
                variant=wanted.platform.variant,
                created=wanted.created,
                execution=execution,
            )
            line = History(
                created=wanted.created,
                created_by=f"import {_shown(wanted.source)}",
                comment=wanted.message or f"Imported from {_shown(wanted.source)}",
            )
            image = new_image(store, [layer], config, [line], wanted.reference)
            done = True
    finally:
        if not done:
            store.collect()
    return image


async def _receive(store: Store, source: str) -> Layer:
    with store.workspace() as space, LayerReceiver(store, space) as receiver:
        async for chunk in _chunks(source):
            await trio.to_thread.run_sync(receiver.write, chunk)
        return await trio.to_thread.run_sync(receiver.finish)


async def _chunks(source: str) -> AsyncIterator[bytes]:
    if source.startswith(_URLS):
        async for chunk in _download(source):
            yield chunk
        return
    try:
        fd = os.dup(0) if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while chunk := await trio.to_thread.run_sync(os.read, fd, _CHUNK, abandon_on_cancel=True):
                yield chunk
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"cannot read {_shown(source)}: {error.strerror}") from error


async def _download(url: str) -> AsyncIterator[bytes]:
    shown = _shown(url)
    try:
        async with (
            httpx.AsyncClient(follow_redirects=True, timeout=_PATIENCE) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status_code != 200:
                raise RegistryError(f"cannot get {shown}: the server says {answer.status_code} {answer.reason_phrase}")
            async for chunk in answer.aiter_raw(_CHUNK):
                yield chunk
    except (httpx.HTTPError, httpx.InvalidURL, ImportError) as error:
        raise RegistryError(f"cannot get {shown}: {str(error) or type(error).__name__}") from error


def _shown(source: str) -> str:
    """For messages and the history: a URL without the user's password and what follows its path."""
    if source == "-":
        return "standard input"
    if not source.startswith(_URLS):
        return source
    try:
        url = httpx.URL(source)
    except httpx.InvalidURL:
        return source.partition("?")[0]
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}{url.path}"
