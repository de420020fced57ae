"""Making a layer's derived forms: while it is pulled, or later from its blob in the store."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import trio

from rootless.errors import HostError
from rootless.image import partial
from rootless.image.layer import lacking
from rootless.image.model import DamagedBlob, Derive, Image, Layer, StalePartial, settled
from rootless.image.progress import PullProgress
from rootless.image.source import LocalBlob
from rootless.image.store import Store
from rootless.image.worker import LayerWorker, layer_worker

Chunks = Callable[[int], AsyncGenerator[bytes, None]]


class LayerMaker:
    """Puts layers, and what `derive` asks for, into the store."""

    def __init__(self, store: Store, derive: Derive, *, squash: bool = False) -> None:
        self._store = store
        self._derive = derive
        self._squash = squash
        partial.sweep(store.path)

    async def fetch(
        self, layer: Layer, chunks: Chunks, report: PullProgress, local: Callable[[], LocalBlob | None] = lambda: None
    ) -> None:
        """Have the layer in the store. `chunks(start)` gives the bytes of its blob from `start` on; it is asked for
        what is not there yet, and perhaps again from the start. `local` says where they lie in a file, if they do.
        """
        if self._store.blobs.has(layer.blob, layer.size) and not lacking(self._store, layer, self._derive):
            report.finish(layer.blob, "already here")
            return
        try:
            await self._fetch(layer, chunks, report, local)
        except (DamagedBlob, StalePartial) as error:
            report.message(error.message)
            await self._fetch(layer, chunks, report, local)

    async def _fetch(
        self, layer: Layer, chunks: Chunks, report: PullProgress, local: Callable[[], LocalBlob | None]
    ) -> None:
        async with layer_worker(self._store, layer, self._derive, squash=self._squash) as worker:
            outcome = "already here"
            start = await worker.ready()
            if start is not None:
                outcome = "done"
                report.start(layer.blob, layer.size)
                report.advance(layer.blob, start)
                found = local()
                if found is None or not await _sent_by_kernel(worker, found, start, layer, report):
                    async with aclosing(chunks(start)) as rest:
                        async for chunk in rest:
                            await worker.send(chunk)
                            report.advance(layer.blob, len(chunk))
            notes = await worker.finish()
        report.finish(layer.blob, outcome)
        for note in notes:
            report.message(f"Layer {layer.blob.short}: {note}")

    async def from_store(self, layer: Layer) -> list[str]:
        """Derive what is missing from the blob in the store. Returns notes. ImageError if the blob is damaged."""
        if not lacking(self._store, layer, self._derive):
            return []
        async with layer_worker(self._store, layer, self._derive, from_store=True, squash=self._squash) as worker:
            await worker.ready()
            return await worker.finish()


async def _sent_by_kernel(
    worker: LayerWorker, found: LocalBlob, start: int, layer: Layer, report: PullProgress
) -> bool:
    """Whether the file's bytes went to the worker; False if its file system wants them to be read."""
    try:
        await worker.send_file(found, start, lambda count: report.advance(layer.blob, count))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise HostError(f"cannot read {found.path}: {error.strerror}") from error
        return False
    return True


async def ensure(store: Store, image: Image, derive: Derive, *, squash: bool = False) -> list[str]:
    """Have what `derive` asks for of every layer of `image`, some layers at a time. Returns notes."""
    derive = settled(derive, image.layers)
    maker = LayerMaker(store, derive, squash=squash)
    missing = [layer for layer in dict.fromkeys(image.layers) if lacking(store, layer, derive)]
    notes: list[str] = []

    async def one(layer: Layer) -> None:
        notes.extend(await maker.from_store(layer))

    await for_each_layer(missing, os.cpu_count() or 1, one)
    return notes


async def for_each_layer(layers: Sequence[Layer], at_once: int, work: Callable[[Layer], Awaitable[None]]) -> None:
    """Do `work` for all layers, `at_once` at a time. The first error stops the others and is raised as itself."""
    if not layers:
        return
    limit = trio.CapacityLimiter(at_once)
    failures: list[Exception] = []

    async def one(layer: Layer, cancel: trio.CancelScope) -> None:
        async with limit:
            try:
                await work(layer)
            except Exception as error:  # noqa: BLE001  raised again below, as itself and not as a group
                failures.append(error)
                cancel.cancel()

    async with trio.open_nursery() as nursery:
        for layer in layers:
            nursery.start_soon(one, layer, nursery.cancel_scope)
    if failures:
        raise failures[0]
