"""The fields of tar headers and pax records: names, numbers, times, checksums.

Sources: POSIX.1-2017 `pax`, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" (base 256). Each function
raises ImageError for what is malformed or out of range.
"""

from __future__ import annotations

import re

from rootless.errors import ImageError

BLOCK = 512
NAME_MAX = 255
PATH_MAX = 4096
_NUMBER_MAX = 2**63 - 1
_DECIMAL_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")


def number(raw: bytes, what: str, *, signed: bool = False) -> int:
    """A numeric header field: octal digits, or base 256 where the top bit is set."""
    if raw[0] & 0x80:
        bits = 8 * len(raw) - 1
        value = int.from_bytes(raw, "big") & ((1 << bits) - 1)
        if value >> (bits - 1):
            value -= 1 << bits
    else:
        digits = raw.split(b"\0", 1)[0].strip(b" ")
        if not digits:
            return 0
        if digits.strip(b"01234567"):
            raise _bad(f"a {what} is not a number: {digits[:20]!r}")
        value = int(digits, 8)
    if value > _NUMBER_MAX or value < (-_NUMBER_MAX if signed else 0):
        raise _bad(f"a {what} is out of range: {value}")
    return value


def decimal(raw: bytes, what: str) -> int:
    """A number of a pax record."""
    if not raw.isdigit() or len(raw) > 20 or int(raw) > _NUMBER_MAX:
        raise _bad(f"a {what} is not a number: {raw[:30]!r}")
    return int(raw)


def time_ns(raw: bytes) -> int:
    """A time of a pax record, seconds with a decimal fraction, in nanoseconds."""
    match = _DECIMAL_TIME.fullmatch(raw)
    if match is None:
        raise _bad(f"a time is not a number: {raw[:30]!r}")
    sign, seconds, fraction = match.groups()
    value = int(seconds) * 1_000_000_000 + int((fraction or b"")[:9].ljust(9, b"0"))
    return -value if sign else value


def verify_checksum(block: bytes) -> None:
    """The sum over the header with the checksum field as blanks; old tars summed signed bytes."""
    digits = block[148:156].replace(b"\0", b" ").strip()
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if digits and not digits.strip(b"01234567"):
        promised = int(digits, 8)
        if promised == unsigned:
            return
        negative = sum(1 for byte in block[:148] + block[156:] if byte >= 0x80)
        if promised == unsigned - 256 * negative:
            return
    raise ImageError("a layer is not a tar archive: a header has a wrong checksum")


def text(raw: bytes) -> bytes:
    """A field that ends at its first NUL."""
    return raw.split(b"\0", 1)[0]


def padded(size: int) -> int:
    """`size` rounded up to whole blocks."""
    return size + -size % BLOCK


def normal_path(name: bytes, what: str = "name") -> bytes:
    """`name` relative to the root, without empty, `.` and `..` components. Raises ImageError if it leaves the root."""
    if not name or b"\0" in name or len(name) > PATH_MAX:
        raise ImageError(f"a layer has a {what} that is empty, too long or malformed: {shown(name)}")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not parts:
                raise ImageError(f"a layer has a {what} that leads out of the image: {shown(name)}")
            parts.pop()
        elif len(part) > NAME_MAX:
            raise ImageError(f"a layer has a {what} with a component of more than {NAME_MAX} bytes: {shown(name)}")
        else:
            parts.append(part)
    return b"/".join(parts)


def shown(name: bytes) -> str:
    """A name for a message."""
    readable = name[:100].decode("utf-8", "replace")
    return repr(readable if len(name) <= 100 else readable + "...")


def _bad(reason: str) -> ImageError:
    return ImageError(f"a layer's tar archive is malformed: {reason}")
