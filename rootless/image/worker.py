"""A process for each layer: hashing, decompressing and extracting run beside the event loop and on other processors.

    parent                                       child
    bytes of the blob            -- pipe -->     LayerSink
                                 <-- pipe --     ready: from which byte on, or that the store has it all meanwhile
                                 <-- pipe --     done, or failed: why

The child takes the layer's lock first, so that two commands that want the same layer fetch it once. It dies with its
parent, and cancelling the parent kills it. If the bytes end early it leaves nothing in the store but those of the blob,
from where the next attempt goes on (`rootless.image.partial`).
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import msgspec
import trio

from rootless.errors import HostError, ImageError, RcontainError, RegistryError, UsageError
from rootless.image.layer import READ_SIZE, LayerSink, lacking
from rootless.image.lock import FileLock
from rootless.image.model import DamagedBlob, Derive, Layer, StalePartial
from rootless.image.source import LocalBlob
from rootless.image.store import Store
from rootless.image.workspace import sweep
from rootless.syscalls import Prctl, prctl

_ERRORS: dict[str, type[RcontainError]] = {
    kind.__name__: kind
    for kind in (DamagedBlob, StalePartial, UsageError, HostError, RegistryError, ImageError, RcontainError)
}


class _Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child waits for the blob from byte `start` on; None if it needs no more of it."""

    start: int | None


class _Done(msgspec.Struct, frozen=True, tag="done"):
    """Everything is in the store."""

    notes: list[str]


class _Failed(msgspec.Struct, frozen=True, tag="failed"):
    """What went wrong, as one of the errors that users see."""

    kind: str
    message: str
    hint: str | None = None


class _CutOff(ImageError):
    """The parent has gone, or has given up: what came stays for the next attempt."""


_Message = _Ready | _Done | _Failed


class LayerWorker:
    """The parent's end. `send` is given the blob's bytes in order, then `finish` waits for the result."""

    def __init__(self, feed: trio.lowlevel.FdStream, answers: trio.lowlevel.FdStream) -> None:
        self._feed = feed
        self._answers = answers
        self._buffer = b""

    async def ready(self) -> int | None:
        """Wait until the child has the layer's lock. From which byte on it wants the blob; None for nothing of it."""
        message = await self._next()
        return message.start if isinstance(message, _Ready) else None

    async def send(self, chunk: bytes) -> None:
        """Pass on the next bytes. Raises what the child raised if it has given up."""
        try:
            await self._feed.send_all(chunk)
        except trio.BrokenResourceError:
            await self._next()
            raise HostError("the process that unpacks a layer ended without a word") from None

    async def send_file(self, found: LocalBlob, start: int, sent: Callable[[int], None]) -> None:
        """Pass on what a file has from `start` on, from the kernel's cache into the pipe (sendfile(2)).

        Raises what `send` raises, and OSError for a file system that cannot do it, before anything is sent.
        """
        feed = self._feed.fileno()
        fd = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while start < found.size:
                await trio.lowlevel.wait_writable(feed)
                try:
                    count = os.sendfile(feed, fd, found.offset + start, min(READ_SIZE, found.size - start))
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    await self._next()
                    raise HostError("the process that unpacks a layer ended without a word") from None
                if not count:
                    raise ImageError(f"{found.path} became shorter while it was read")
                start += count
                sent(count)
        finally:
            os.close(fd)

    async def finish(self) -> list[str]:
        """All bytes are sent: wait for the verdict. Returns notes; raises the child's error."""
        await self._feed.aclose()
        message = await self._next()
        return message.notes if isinstance(message, _Done) else []

    async def _next(self) -> _Message:
        while b"\n" not in self._buffer:
            data = await self._answers.receive_some(65536)
            if not data:
                raise HostError("the process that unpacks a layer ended without a word", hint="was it out of memory?")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: _Message = msgspec.json.decode(line, type=_Message)
        if isinstance(message, _Failed):
            raise _ERRORS.get(message.kind, RcontainError)(message.message, hint=message.hint)
        return message


@asynccontextmanager
async def layer_worker(
    store: Store, layer: Layer, derive: Derive, *, from_store: bool = False, squash: bool = False
) -> AsyncIterator[LayerWorker]:
    """Fork a worker for `layer`. It is gone when the context is left, whatever happened."""
    feed_read, feed_write = os.pipe2(os.O_CLOEXEC)
    answer_read, answer_write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(
            lambda: _work(
                store, layer, derive, from_store=from_store, squash=squash, feed=feed_read, answers=answer_write
            ),
            keep=(feed_read, answer_write),
            parent=parent,
            answers=answer_write,
        )
    os.close(feed_read)
    os.close(answer_write)
    pidfd = os.pidfd_open(pid)
    complete = False
    try:
        async with trio.lowlevel.FdStream(feed_write) as feed, trio.lowlevel.FdStream(answer_read) as answers:
            yield LayerWorker(feed, answers)
        complete = True
    finally:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself and waits to be reaped
        with trio.CancelScope(shield=True):
            await trio.lowlevel.wait_readable(pidfd)
        os.waitpid(pid, 0)  # noqa: ASYNC222  the pidfd says that it has ended
        os.close(pidfd)
        if not complete:
            sweep(store.tmp, wait=True)


def _child(work: Callable[[], None], *, keep: tuple[int, ...], parent: int, answers: int) -> NoReturn:
    """Run `work` in the forked child and leave. Nothing of the parent's event loop may run here."""
    code = 1
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and kills
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        _close_all_but(keep)
        os.umask(0o022)
        work()
        code = 0
    except RcontainError as error:
        _answer(answers, _Failed(_kind(error), error.message, error.hint))
    except MemoryError:
        _answer(answers, _Failed("HostError", "there is not enough memory to unpack a layer"))
    except OSError as error:
        _answer(answers, _Failed("HostError", f"cannot unpack a layer: {error}"))
    except BaseException:  # noqa: BLE001  the last resort of a process: say it where developers look
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)


def _work(
    store: Store, layer: Layer, derive: Derive, *, from_store: bool, squash: bool, feed: int, answers: int
) -> None:
    lock = FileLock(os.path.join(store.tmp, f"{layer.diff_id.hex}.lock"))
    with lock:
        try:
            missing = lacking(store, layer, derive)
            have_blob = store.blobs.has(layer.blob, layer.size)
            wanted = bool(missing) or not have_blob
            notes: list[str] = []
            if not wanted:
                _answer(answers, _Ready(None))
            elif have_blob or from_store:
                _answer(answers, _Ready(None))
                notes = _derive(store, layer, missing, squash=squash)
            else:
                notes = _receive(store, layer, missing, squash=squash, feed=feed, answers=answers)
        finally:
            lock.unlink()
    _answer(answers, _Done(notes))


def _receive(store: Store, layer: Layer, missing: Derive, *, squash: bool, feed: int, answers: int) -> list[str]:
    """The blob comes from the parent, but for what an earlier transfer has left. Returns notes."""
    with (
        store.workspace() as space,
        LayerSink(store, layer, missing, space, keep_blob=True, squash=squash) as sink,
    ):
        start = None
        try:
            start = sink.resume()
            _answer(answers, _Ready(start if start < layer.size or not layer.size else None))
            while chunk := os.read(feed, READ_SIZE):
                sink.write(chunk)
            if sink.is_short:
                raise _CutOff(f"layer {layer.blob.short} is cut off")
            sink.finish()
        except _CutOff:
            raise
        except ImageError as error:
            sink.discard()
            if start == 0:
                raise
            raise StalePartial(f"layer {layer.blob.short} begins again: {error.message}") from error
        except HostError:
            sink.discard()  # most likely the disk is full
            raise
        return sink.notes


def _derive(store: Store, layer: Layer, missing: Derive, *, squash: bool) -> list[str]:
    """The blob is in the store. Returns notes."""
    try:
        blob = open(store.blobs.path(layer.blob), "rb", buffering=0)  # noqa: SIM115  closed below
    except OSError as error:
        raise ImageError(f"blob {layer.blob} is missing from the store", hint="pull the image again") from error
    with (
        blob,
        store.workspace() as space,
        LayerSink(store, layer, missing, space, keep_blob=False, squash=squash) as sink,
    ):
        try:
            while chunk := blob.read(READ_SIZE):
                sink.write(chunk)
            sink.finish()
        except ImageError:
            _blame_blob(store, layer)
            raise
        return sink.notes


def _blame_blob(store: Store, layer: Layer) -> None:
    """A layer from the store is wrong: if its blob has changed on the disk, remove it and say so."""
    if store.blobs.is_sound(layer.blob):
        return
    store.blobs.remove(layer.blob)
    raise DamagedBlob(f"blob {layer.blob} was damaged on the disk and has been removed", hint="pull the image again")


def _kind(error: RcontainError) -> str:
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)


def _answer(fd: int, message: _Message) -> None:
    data = msgspec.json.encode(message) + b"\n"
    while data:
        data = data[os.write(fd, data) :]


def _close_all_but(keep: tuple[int, ...]) -> None:
    """Close what the child inherited, save the standard streams: sockets of the parent must not live on here."""
    last = 3
    for fd in sorted(keep):
        os.closerange(last, fd)
        last = fd + 1
    os.closerange(last, os.sysconf("SC_OPEN_MAX"))
