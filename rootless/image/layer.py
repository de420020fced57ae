"""One pass over a layer: everything that is made from its bytes is made while they stream by.

    blob -> size and digest, kept in the store
         -> decompress -> diffID
                       -> tar -> index
                              -> tree
                       -> frames

Nothing appears before all of it is verified. Synchronous, and runs in a process of its own (`rootless.image.worker`).
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from fuse.frames import FramesWriter
from rootless.errors import HostError, ImageError
from rootless.image.blobs import BlobWriter
from rootless.image.compression import decompressor
from rootless.image.earlylinks import EarlyLinks
from rootless.image.extract import TreeExtractor
from rootless.image.index import LayerIndex
from rootless.image.lane import Lane
from rootless.image.model import Derive, Layer
from rootless.image.store import Store
from rootless.image.workspace import Workspace
from rootless.oci.mediatype import Compression
from rootless.oci.tar import TarEntry, TarParser

READ_SIZE = 1 << 20


class LayerSink:
    """Takes the bytes of a layer's blob in order; `finish` makes what was asked for appear in the store.

    With `keep_blob` they become the store's blob, else they come from there. A context manager: leaving it without
    `finish` leaves what there is of the blob for another attempt, unless `discard` was called, and nothing else.
    Raises ImageError for wrong data and HostError for a failing disk.
    """

    def __init__(
        self, store: Store, layer: Layer, derive: Derive, space: Workspace, *, keep_blob: bool, squash: bool = False
    ) -> None:
        self.notes: list[str] = []
        self._store = store
        self._layer = layer
        self._space = space
        self._stack = ExitStack()
        self._blob: BlobWriter | None = None
        self._index: LayerIndex | None = None
        self._frames: FramesWriter | None = None
        self._tree: TreeExtractor | None = None
        self._parser: TarParser | None = None
        self._entries = EarlyLinks(self._add)
        self._diff = layer.diff_id.hasher()
        self._unpacked = decompressor(layer.compression)
        with ExitStack() as stack:
            if keep_blob:
                self._blob = stack.enter_context(store.blobs.resuming(space, layer.blob, layer.size))
            if Derive.INDEX in derive:
                self._index = LayerIndex()
                if layer.compression is not Compression.NONE:
                    self._frames_file = stack.enter_context(open(space.file("frames"), "xb"))
                    self._frames = FramesWriter(self._frames_file)
            if Derive.TREE in derive:
                self._tree = TreeExtractor(space.file("tree"), squash=squash)
                stack.callback(self._tree.close)
            # Both let go of the interpreter's lock, and so run beside the parsing of the same bytes.
            self._lanes = [stack.enter_context(Lane(self._diff.update))]
            if self._frames is not None:
                self._lanes.append(stack.enter_context(Lane(self._compress)))
            if derive:
                self._parser = TarParser(data=self._tree is not None)
            self._stack = stack.pop_all()

    def resume(self) -> int:
        """Take in what an interrupted transfer has left of the blob; returns how many bytes that was. Comes first."""
        if self._blob is None:
            return 0
        for chunk in self._blob.replay():
            self._unpack(chunk)
        return self._blob.written

    @property
    def is_short(self) -> bool:
        """Whether the blob has fewer bytes so far than were promised."""
        return self._blob is not None and self._blob.written < self._layer.size

    def discard(self) -> None:
        """Leave nothing of the blob behind, not even for another attempt."""
        if self._blob is not None:
            self._blob.discard()

    def write(self, chunk: bytes) -> None:
        """The next bytes of the blob."""
        if self._blob is not None:
            self._blob.write(chunk)
        self._unpack(chunk)

    def _unpack(self, chunk: bytes) -> None:
        for piece in self._unpacked.feed(chunk):
            for lane in self._lanes:
                lane.put(piece)
            if self._parser is not None:
                self._take(self._parser.feed(piece))

    def _compress(self, piece: bytes) -> None:
        assert self._frames is not None
        try:
            self._frames.write(piece)
        except OSError as error:
            raise self._disk(error) from error

    def finish(self) -> None:
        """The blob is at its end: verify, then rename everything into the store."""
        if self._blob is not None:
            self._blob.verify()
        self._unpacked.close()
        self.notes += self._unpacked.notes
        for lane in self._lanes:
            lane.drain()
        if self._parser is not None:
            self._parser.close()
            self._entries.finish()
        found = self._diff.hexdigest()
        if found != self._layer.diff_id.hex:
            raise ImageError(
                f"layer {self._layer.blob} unpacks to {self._layer.diff_id.algorithm}:{found}; "
                f"the image's configuration promises {self._layer.diff_id}"
            )
        if self._blob is not None:
            self._blob.commit()
        try:
            os.makedirs(self._store.layer_path(self._layer), exist_ok=True)
            if self._tree is not None:
                self._finish_tree(self._tree)
            if self._index is not None:
                self._finish_index(self._index)
        except OSError as error:
            raise self._disk(error) from error

    def _take(self, events: list[TarEntry | memoryview]) -> None:
        for event in events:
            if isinstance(event, TarEntry):
                self._entries.add(event)
            elif self._tree is not None:
                self._tree.write(event)

    def _add(self, entry: TarEntry) -> None:
        if self._index is not None:
            self._index.add(entry)
        if self._tree is not None:
            self._tree.add(entry)

    def _finish_index(self, index: LayerIndex) -> None:
        """The index last: where it is, the frames are."""
        if self._frames is not None:
            self._frames.close()
            self._frames_file.flush()
            os.fsync(self._frames_file.fileno())
        temporary = self._space.file("index")
        index.write(temporary)
        if self._frames is not None:
            os.rename(self._space.file("frames"), self._store.frames_path(self._layer))
        os.rename(temporary, self._store.index_path(self._layer))

    def _finish_tree(self, tree: TreeExtractor) -> None:
        tree.finish()
        self.notes += tree.notes
        try:
            os.rename(self._space.file("tree"), self._store.tree_path(self._layer))
        except OSError:
            if not self._store.has_tree(self._layer):
                raise
            # Another command was faster; ours goes with the workspace.

    def _disk(self, error: OSError) -> HostError:
        where = self._store.layer_path(self._layer)
        return HostError(
            f"cannot write {where}: {error.strerror}", hint="free some space, for example with `rcontain rmi`"
        )

    def __enter__(self) -> LayerSink:
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()


def lacking(store: Store, layer: Layer, derive: Derive) -> Derive:
    """What of `derive` the store does not have for `layer`."""
    missing = Derive.NOTHING
    if Derive.INDEX in derive and not store.has_index(layer):
        missing |= Derive.INDEX
    if Derive.TREE in derive and not store.has_tree(layer):
        missing |= Derive.TREE
    return missing
