"""Seekable compressed data: a byte stream as independent zstd frames, with a table at the end.

The file is in the Zstandard seekable format (facebook/zstd, contrib/seekable_format, version 0.1.0), so `zstd -d`
reads it too: frames that each decompress on their own, then a skippable frame

    magic 0x184D2A5E | size | (compressed size, decompressed size) per frame | frame count | flags | 0x8F92EAB1

in little-endian 32-bit numbers (flags is one byte). Each frame carries its own content checksum. Before the table is
another skippable frame, 0x184D2A50 | 4 | CRC-32 of the table's entries; other writers leave it out.
"""

from __future__ import annotations

import bisect
import itertools
import os
import struct
import sys
import threading
import zlib
from array import array
from collections import OrderedDict
from functools import partial
from typing import BinaryIO

import zstandard

from fuse.errors import LayerError
from fuse.readahead import Key, ReadAhead

FRAME_SIZE = 256 * 1024
"""Bytes of the stream in one frame: the unit of random access."""

MAX_FRAME_SIZE = 16 * 1024 * 1024
"""A reader refuses larger frames before it allocates anything for them."""

_SKIPPABLE = struct.Struct("<II")
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IBI")
_SKIPPABLE_MAGIC = 0x184D2A5E
_CHECK = struct.Struct("<III")
_CHECK_MAGIC = 0x184D2A50
_SEEKABLE_MAGIC = 0x8F92EAB1
_CHECKSUM_FLAG = 0x80
_RESERVED_FLAGS = 0x7C


LEVEL = -1
"""zstd's: a quarter faster to read and to write than 1, for a tenth more space."""


class FramesWriter:
    """Compresses a stream into `file`, which the caller owns, syncs and closes after `close()` here."""

    def __init__(self, file: BinaryIO, *, level: int = LEVEL, frame_size: int = FRAME_SIZE) -> None:
        self._file = file
        self._frame_size = frame_size
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        self._pending = bytearray()
        self._table = bytearray()
        self._frames = 0
        self.size = 0  # bytes of the stream so far

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Take the next bytes of the stream, of any length; OSError where the file cannot be written."""
        self._pending += chunk
        length = len(chunk)
        self.size += length
        if len(self._pending) >= self._frame_size:
            whole = len(self._pending) // self._frame_size * self._frame_size
            with memoryview(self._pending) as view:
                for start in range(0, whole, self._frame_size):
                    self._frame(view[start : start + self._frame_size])
            del self._pending[:whole]
        return length

    def close(self) -> None:
        """Write the last frame and the table. The file stays open."""
        if self._pending:
            self._frame(memoryview(self._pending))
            self._pending = bytearray()
        self._file.write(_CHECK.pack(_CHECK_MAGIC, 4, zlib.crc32(self._table)))
        footer = _FOOTER.pack(self._frames, 0, _SEEKABLE_MAGIC)
        self._file.write(_SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(self._table) + len(footer)) + self._table + footer)

    def _frame(self, data: memoryview) -> None:
        frame = self._compressor.compress(data)
        self._file.write(frame)
        self._table += _ENTRY.pack(len(frame), len(data))
        self._frames += 1


class FrameCache:
    """The most recently used decompressed frames of any number of readers, bounded in bytes.

    Its read-ahead thread puts frames in while another thread takes them out.
    """

    def __init__(self, limit: int = 4 * 1024 * 1024) -> None:
        self._limit = limit
        self._held = 0
        self._frames: OrderedDict[Key, bytes] = OrderedDict()
        self._changing = threading.Lock()
        self.ahead = ReadAhead(self.put)
        self.readers = 0  # the last one that closes ends the read-ahead
        self.ahead_limit = limit // 4
        """How many bytes a sequential reader should have before it."""

    def __contains__(self, key: Key) -> bool:
        return key in self._frames

    def get(self, key: Key) -> bytes | None:
        data = self._frames.get(key)
        if data is not None:
            try:
                self._frames.move_to_end(key)
            except KeyError:  # dropped by the other thread this moment
                pass
        return data

    def put(self, key: Key, data: bytes) -> None:
        with self._changing:
            replaced = self._frames.pop(key, b"")
            self._frames[key] = data
            self._held += len(data) - len(replaced)
            while self._held > self._limit and len(self._frames) > 1:
                _, dropped = self._frames.popitem(last=False)
                self._held -= len(dropped)

    @property
    def held(self) -> int:
        """Bytes in the cache."""
        return self._held

    def clear(self) -> None:
        with self._changing:
            self._frames.clear()
            self._held = 0


_reader_numbers = itertools.count()


class FramesReader:
    """Random access to the stream inside a seekable file.

    Opening reads the table alone, and with `lazy` not even that before the first use. LayerError for anything that is
    not such a file, here and in `pread`; OSError where the file cannot be read.
    """

    def __init__(self, path: str | bytes, *, cache: FrameCache | None = None, lazy: bool = False) -> None:
        self._cache = FrameCache() if cache is None else cache
        self._number = next(_reader_numbers)  # never reused, unlike id() or a descriptor
        self._decompressor = zstandard.ZstdDecompressor()
        self._last = -1  # the frame that was read last
        self._path = os.fsdecode(path)
        self._file_offsets: array[int] | None = None
        self._stream_offsets: array[int] = array("Q", (0,))
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._cache.readers += 1
        if lazy:
            return
        try:
            self._load_table()
        except BaseException:
            self.close()
            raise

    def _load_table(self) -> array[int]:
        file_size = os.fstat(self._fd).st_size
        footer_at = file_size - _FOOTER.size
        if footer_at < _SKIPPABLE.size:
            raise self._damaged("it is too short")
        count, flags, magic = _FOOTER.unpack(self._read_exactly(footer_at, _FOOTER.size))
        if magic != _SEEKABLE_MAGIC or flags & _RESERVED_FLAGS:
            raise self._damaged("its table is missing")
        entry_size = _ENTRY.size + (4 if flags & _CHECKSUM_FLAG else 0)
        table_at = footer_at - count * entry_size
        frames_end = table_at - _SKIPPABLE.size
        if frames_end < 0:
            raise self._damaged("its table is longer than the file")
        magic, size = _SKIPPABLE.unpack(self._read_exactly(frames_end, _SKIPPABLE.size))
        if magic != _SKIPPABLE_MAGIC or size != count * entry_size + _FOOTER.size:
            raise self._damaged("its table is malformed")
        table = self._read_exactly(table_at, count * entry_size)
        words = array("I", table)
        if sys.byteorder == "big":
            words.byteswap()
        step = entry_size // 4
        lengths = words[1::step]
        if lengths and max(max(lengths), max(words[0::step]) // 2) > MAX_FRAME_SIZE:
            raise self._damaged("a frame is too large")
        offsets = array("Q", itertools.accumulate(words[0::step], initial=0))
        if offsets[-1] == frames_end - _CHECK.size:
            magic, size, crc = _CHECK.unpack(self._read_exactly(frames_end - _CHECK.size, _CHECK.size))
            if magic != _CHECK_MAGIC or size != 4 or crc != zlib.crc32(table):
                raise self._damaged("its table has another checksum")
        elif offsets[-1] != frames_end:
            raise self._damaged("its frames do not fill it")
        self._stream_offsets = array("Q", itertools.accumulate(lengths, initial=0))
        self._file_offsets = offsets
        return offsets

    @property
    def size(self) -> int:
        """Length of the stream in bytes."""
        if self._file_offsets is None:
            self._load_table()
        return self._stream_offsets[-1]

    def pread(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset` of the stream; fewer only at its end."""
        parts = self.parts(offset, length)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def parts(self, offset: int, length: int) -> list[bytes | memoryview]:
        """What `pread` gives, as slices of the frames; nothing is copied."""
        if offset < 0 or length <= 0 or offset >= self.size:
            return []
        number = bisect.bisect_right(self._stream_offsets, offset) - 1
        within = offset - self._stream_offsets[number]
        data = memoryview(self._frame(number))
        if within + length <= len(data):
            return [data[within : within + length]]
        parts: list[bytes | memoryview] = [data[within:]]
        wanted = length - len(parts[0])
        last = len(self._stream_offsets) - 2
        while wanted > 0 and number < last:
            number += 1
            part = memoryview(self._frame(number))
            parts.append(part if len(part) <= wanted else part[:wanted])
            wanted -= len(parts[-1])
        return parts

    def close(self) -> None:
        if self._fd >= 0:
            cache = self._cache
            cache.readers -= 1
            if cache.readers:
                cache.ahead.call_off(self._number)
            else:
                cache.ahead.close()
            os.close(self._fd)
            self._fd = -1

    def _frame(self, number: int) -> bytes:
        cache = self._cache
        if number != self._last:
            if number == self._last + 1 and number:
                self._look_ahead(number)
            self._last = number
        key = (self._number, number)
        data = cache.get(key)
        if data is None:
            data = cache.ahead.result(key, self._decompressor) or cache.get(key)
            if data is None:
                data = self._load(number, self._decompressor)
                cache.put(key, data)
        return data

    def _look_ahead(self, number: int) -> None:
        """The reader goes from frame to frame: have the next ones ready."""
        cache = self._cache
        offsets = self._stream_offsets
        end = offsets[number + 1] + cache.ahead_limit
        last = len(offsets) - 2
        while number < last:
            number += 1
            if offsets[number + 1] > end:
                return
            key = (self._number, number)
            if key not in cache:
                cache.ahead.ask(key, partial(self._load, number))

    def _load(self, number: int, decompressor: zstandard.ZstdDecompressor) -> bytes:
        offsets = self._load_table() if self._file_offsets is None else self._file_offsets
        start = offsets[number]
        compressed = self._read_exactly(start, offsets[number + 1] - start)
        length = self._stream_offsets[number + 1] - self._stream_offsets[number]
        try:
            # The header's own size is what the decompressor would allocate, so it is compared first.
            if zstandard.frame_content_size(compressed) != length:
                raise self._damaged(f"frame {number} has another size than its table says")
            data = decompressor.decompress(compressed)
        except zstandard.ZstdError as error:
            raise self._damaged(f"frame {number}: {error}") from error
        if len(data) != length:
            raise self._damaged(f"frame {number} is cut short")
        return data

    def _read_exactly(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) == length:
            return data
        parts = [data]
        have = len(data)
        while have < length:
            data = os.pread(self._fd, length - have, offset + have)
            if not data:
                raise self._damaged("it is cut short")
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def _damaged(self, why: str) -> LayerError:
        return LayerError(f"layer data {self._path} is damaged: {why}")

    def __repr__(self) -> str:
        return f"<FramesReader {self._path} {len(self._stream_offsets) - 1} frames, {self.size} bytes>"
