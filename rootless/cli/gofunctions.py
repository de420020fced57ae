"""The functions of --format templates, and how Go prints values: pure.

Source: https://pkg.go.dev/text/template#hdr-Functions, https://pkg.go.dev/fmt, and templates/templates.go of
github.com/docker/cli.
A wrong use raises FunctionError.
"""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

_WIDTH_MAX = 10_000


class FunctionError(Exception):
    """The arguments do not fit the function."""


def truth(value: object) -> bool:
    """Go's idea of a non-empty value."""
    if isinstance(value, msgspec.Struct):
        return True
    return bool(value)


def show(value: object, *, top: bool = False) -> str:
    """What {{value}} prints (fmt's %v)."""
    match value:
        case None:
            return "<no value>" if top else "<nil>"
        case bool():
            return "true" if value else "false"
        case str():
            return str(value)
        case int():
            return _integer(value)
        case float():
            return _float(value)
        case list() | tuple():
            return "[" + " ".join(show(item) for item in value) + "]"
        case Mapping():
            pairs = sorted(value.items(), key=lambda pair: str(pair[0]))
            return "map[" + " ".join(f"{show(key)}:{show(item)}" for key, item in pairs) + "]"
        case msgspec.Struct():
            return "{" + " ".join(show(getattr(value, name)) for name in value.__struct_fields__) + "}"
    document = getattr(value, "document", None)
    return show(document) if document is not None else str(value)


def _integer(value: int) -> str:
    # CPython refuses to print integers of more than 4300 digits; templates have no way to make one.
    return str(value)


def _float(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    if "e" in text:
        return text
    return text.removesuffix(".0") if abs(value) < 1e21 else f"{value:e}"


def to_json(value: object, *, indent: int = 0) -> str:
    """JSON text of a document. What cannot be text (undecodable bytes of a command line) becomes U+FFFD, as in Go."""
    try:
        encoded = msgspec.json.encode(value, enc_hook=_encode_other)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_decodable(msgspec.to_builtins(value, enc_hook=_encode_other)))
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def _encode_other(value: object) -> object:
    document = getattr(value, "document", None)
    if document is not None:
        return document
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _decodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        case list() | tuple():
            return [_decodable(item) for item in value]
        case dict():
            return {_decodable(key): _decodable(item) for key, item in value.items()}
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FunctionError(f"{show(value)} is not a string")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise FunctionError(f"{show(value)} is not a whole number")
    return value


def _join(items: object, separator: object = " ") -> str:
    if items is None:
        return ""
    if not isinstance(items, list | tuple):
        raise FunctionError("the first argument is not a list")
    return _text(separator).join(show(item) for item in items)


def _split(text: object, separator: object) -> list[str]:
    return _text(text).split(_text(separator)) if separator else list(_text(text))


def _title(text: object) -> str:
    return re.sub(r"(?:^|(?<=\s))\S", lambda first: first[0].upper(), _text(text))


def _pad(text: object, before: object, after: object) -> str:
    if not text:
        return ""
    left, right = _count(before), _count(after)
    if not 0 <= left <= _WIDTH_MAX or not 0 <= right <= _WIDTH_MAX:
        raise FunctionError(f"the width is not between 0 and {_WIDTH_MAX}")
    return " " * left + _text(text) + " " * right


def _truncate(text: object, length: object) -> str:
    return _text(text)[: max(0, _count(length))]


def _len(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))  # Go counts bytes
    if isinstance(value, list | tuple | Mapping):
        return len(value)
    raise FunctionError(f"{show(value)} has no length")


def _index(value: object, *keys: object) -> object:
    for key in keys:
        match value:
            case None:
                return ""
            case Mapping():
                if key not in value:
                    # Go gives the zero value of the map's type, and maps of strings are what is asked here.
                    return "" if all(isinstance(item, str) for item in value.values()) else None
                value = value[key]
            case list() | tuple() | str():
                number = _count(key)
                if not 0 <= number < len(value):
                    raise FunctionError(f"there is no element {number}; the list has {len(value)}")
                value = ord(value[number]) if isinstance(value, str) else value[number]
            case msgspec.Struct():
                names = dict(zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True))
                if key not in names:
                    raise FunctionError(f"there is no field {show(key)}")
                value = getattr(value, names[str(key)])
            case _:
                raise FunctionError(f"{show(value)} is neither a list nor a map")
    return value


def _slice(value: object, *bounds: object) -> object:
    if not isinstance(value, str | list | tuple):
        raise FunctionError(f"{show(value)} cannot be sliced")
    if len(bounds) > 2:
        raise FunctionError("too many bounds")
    start, end = [*map(_count, bounds), 0, len(value)][:2] if len(bounds) != 1 else (_count(bounds[0]), len(value))
    if not bounds:
        start, end = 0, len(value)
    if not 0 <= start <= end <= len(value):
        raise FunctionError(f"the bounds {start} and {end} do not fit a length of {len(value)}")
    return value[start:end]


_BASIC = (bool, int, float, str)


def _same(left: object, right: object) -> bool:
    if left is None or right is None:
        return left is right
    if not isinstance(left, _BASIC) or not isinstance(right, _BASIC):
        raise FunctionError("only strings, numbers and booleans can be compared")
    numbers = not isinstance(left, bool | str) and not isinstance(right, bool | str)
    if not numbers and isinstance(left, bool) != isinstance(right, bool):
        raise FunctionError(f"{show(left)} and {show(right)} are of different types")
    if not numbers and isinstance(left, str) != isinstance(right, str):
        raise FunctionError(f"{show(left)} and {show(right)} are of different types")
    return left == right


def _eq(first: object, *others: object) -> bool:
    if not others:
        raise FunctionError("there is nothing to compare with")
    return any(_same(first, other) for other in others)


def _ne(left: object, right: object) -> bool:
    return not _same(left, right)


def _less(left: object, right: object) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left < right
    if isinstance(left, int | float) and isinstance(right, int | float):
        if isinstance(left, bool) or isinstance(right, bool):
            raise FunctionError("booleans have no order")
        return left < right
    raise FunctionError(f"{show(left)} and {show(right)} have no order")


def _print(*values: object) -> str:
    """fmt.Sprint: a space between two values when neither is a string."""
    out: list[str] = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out.append(" ")
        out.append(show(value))
    return "".join(out)


def _println(*values: object) -> str:
    return " ".join(map(show, values)) + "\n"


_VERB = re.compile(r"%([-+# 0]*)(\d+)?(?:\.(\d*))?(.?)", re.DOTALL)


def _printf(format_: object, *values: object) -> str:
    """fmt.Sprintf for %v %s %q %d %x %X %o %b %c %t %f %e %g, with flags, width and precision."""
    remaining = list(values)

    def one(found: re.Match[str]) -> str:
        flags, width, precision, verb = found.groups()
        if verb == "%":
            return "%"
        if not verb:
            return "%!(NOVERB)"
        if not remaining:
            return f"%!{verb}(MISSING)"
        if max(len(width or ""), len(precision or "")) > 5 or max(int(width or 0), int(precision or 0)) > _WIDTH_MAX:
            raise FunctionError(f"the width in {found[0]!r} is more than {_WIDTH_MAX}")
        value = remaining.pop(0)
        text = _verb(verb, flags, int(precision or 0) if precision is not None else None, value)
        size = int(width or 0)
        if "-" in flags:
            return text.ljust(size)
        if "0" in flags and isinstance(value, int | float) and verb not in "sqvT":
            return text.zfill(size)
        return text.rjust(size)

    out = _VERB.sub(one, _text(format_))
    if remaining:
        out += "%!(EXTRA " + ", ".join(f"{_type(value)}={show(value)}" for value in remaining) + ")"
    return out


def _verb(verb: str, flags: str, precision: int | None, value: object) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    real = isinstance(value, float) or number
    plus = "+" if "+" in flags else ""
    match verb:
        case "v":
            return show(value)
        case "s":
            text = show(value)
            return text if precision is None else text[:precision]
        case "q" if isinstance(value, str):
            return to_json(value)
        case "d" if number:
            return format(value, f"{plus}d")
        case "x" | "X" | "o" | "b" if number:
            return format(value, f"{plus}{'#' if '#' in flags else ''}{verb}")
        case "x" | "X" if isinstance(value, str):
            digits = value.encode("utf-8", "surrogateescape").hex()
            return digits.upper() if verb == "X" else digits
        case "c" if isinstance(value, int) and 0 <= value < 0x110000:
            return chr(value)
        case "t" if isinstance(value, bool):
            return show(value)
        case "f" | "F" | "e" | "E" | "g" | "G" if real:
            assert isinstance(value, int | float)
            try:
                if verb in "gG" and precision is None:
                    return plus * (value >= 0) + _float(float(value))
                return format(float(value), f"{plus}.{6 if precision is None else precision}{verb}")
            except OverflowError:
                raise FunctionError("the number is too large") from None
        case "T":
            return _type(value)
    return f"%!{verb}({_type(value)}={show(value)})"


def _type(value: object) -> str:
    match value:
        case None:
            return "<nil>"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case Mapping():
            return "map"
        case list() | tuple():
            return "slice"
    return type(value).__name__


def _never(*_: object) -> object:
    raise FunctionError("is evaluated by the template itself")


def _urlquery(*values: object) -> str:
    return urllib.parse.quote_plus(_print(*values), errors="surrogateescape")


def _html(*values: object) -> str:
    return html.escape(_print(*values)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _json(value: object) -> str:
    return to_json(value)


FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "and": _never,  # these two evaluate only as much as they need: _Run.logic
    "or": _never,
    "not": lambda value: not truth(value),
    "len": _len,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "printf": _printf,
    "println": _println,
    "html": _html,
    "urlquery": _urlquery,
    "eq": _eq,
    "ne": _ne,
    "lt": _less,
    "le": lambda left, right: _less(left, right) or _same(left, right),
    "gt": lambda left, right: not _less(left, right) and not _same(left, right),
    "ge": lambda left, right: not _less(left, right),
    "json": _json,
    "join": _join,
    "split": _split,
    "lower": lambda text: _text(text).lower(),
    "upper": lambda text: _text(text).upper(),
    "title": _title,
    "pad": _pad,
    "truncate": _truncate,
}

__all__: Sequence[str] = ("FUNCTIONS", "FunctionError", "show", "to_json", "truth")
