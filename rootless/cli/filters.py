"""`--filter key=value`: several of one key are alternatives, except labels; different keys must all match. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..errors import UsageError

T = TypeVar("T")
Test = Callable[[T, str], bool]


def matching(items: Sequence[T], filters: Sequence[str], tests: Mapping[str, Test[T]]) -> list[T]:
    """The items that pass. Raises UsageError for a filter that is not KEY=VALUE or whose key has no test."""
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, separator, value = text.partition("=")
        if key.endswith("!"):
            raise UsageError(f"the filter {text!r} is negated, which is not supported")
        if not separator:
            raise UsageError(f"{text} is an invalid filter", hint="write it as KEY=VALUE")
        if key not in tests:
            raise UsageError(f"{key} is an invalid filter", hint=f"there are {', '.join(sorted(tests))}")
        wanted.setdefault(key, []).append(value)
    found = list(items)
    for key, values in wanted.items():
        need = all if key == "label" else any
        found = [item for item in found if need(tests[key](item, value) for value in values)]
    return found


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """`wanted` is KEY or KEY=VALUE."""
    key, separator, value = wanted.partition("=")
    return key in labels and (not separator or labels[key] == value)
