"""Bytes that the peer has not acknowledged, kept as the chunks they came in so that none is copied.

A chunk is bytes, or a view of a buffer that the owner lent: `recycle` is called with that buffer once it is free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from netns.wire.error import Buffer

# Chunks below this are joined: a writer of single bytes must not cost an object per byte.
_SMALL = 4096


class SendBuffer:
    """A queue of bytes whose first one has the (unwrapped) sequence number `start`."""

    __slots__ = ("_chunks", "end", "recycle", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self._chunks: deque[bytes | memoryview] = deque()
        self.recycle: Callable[[bytearray], None] | None = None

    def __len__(self) -> int:
        return self.end - self.start

    def append(self, data: bytes | memoryview) -> None:
        """Add `data` at the end."""
        chunks = self._chunks
        last = chunks[-1] if chunks and len(data) < _SMALL else None
        if isinstance(last, bytes) and isinstance(data, bytes) and len(last) < _SMALL:
            chunks[-1] = last + data
        else:
            chunks.append(data)
        self.end += len(data)

    def acknowledge(self, upto: int) -> None:
        """Forget everything before `upto`, which lies in start..end."""
        count = upto - self.start
        chunks = self._chunks
        while count:
            size = len(chunks[0])
            if size > count:
                chunks[0] = chunks[0][count:]
                break
            chunk = chunks.popleft()
            if isinstance(chunk, memoryview):
                self._recycle(chunk)
            count -= size
        self.start = upto

    def _recycle(self, chunk: memoryview) -> None:
        if self.recycle is not None and isinstance(chunk.obj, bytearray):
            self.recycle(chunk.obj)

    def gather(self, first: int, length: int) -> list[Buffer]:
        """Views of the `length` bytes from sequence number `first`, all of which must be there."""
        skip = first - self.start
        result: list[Buffer] = []
        for chunk in self._chunks:
            size = len(chunk)
            if skip >= size:
                skip -= size
                continue
            if not skip and size <= length:
                result.append(chunk)
                length -= size
            else:
                part = memoryview(chunk)[skip : skip + length]
                result.append(part)
                length -= len(part)
                skip = 0
            if not length:
                break
        return result

    def clear(self) -> None:
        """Let go of the bytes; the sequence numbers stay."""
        for chunk in self._chunks:
            if isinstance(chunk, memoryview):
                self._recycle(chunk)
        self._chunks.clear()
        self.start = self.end
