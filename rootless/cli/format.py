"""What `--format` means: json, `table …`, or a Go template; and how tables are laid out. Pure.

render(format_, values, default="table {{.ID}}\\t{{.Names}}", titles={"ID": "CONTAINER ID"})
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .gofunctions import to_json
from .template import FormatError, Method, Template, View, parse

__all__ = ("FormatError", "Method", "View", "layout", "printable", "render", "to_json")

# Podman's tabwriter: cells are followed by two spaces and are at least twelve wide; the last one is not padded.
_CELL_MIN = 12
_PADDING = 2

_WORD = re.compile(r"\s*table(\s|\\t|\{\{|$)")


def render(
    format_: str | None,
    values: Sequence[object],
    *,
    default: str = "",
    titles: Mapping[str, str] | None = None,
    heading: bool = True,
    single: bool = False,
) -> str:
    """The whole output, newline at the end included.

    `format_` is what the user gave, None for `default`, which is a `table …` format. `titles` gives the headings that
    are not just the field's name. `single` is for commands that show one document: JSON is then no list. Raises
    FormatError.
    """
    text = default if format_ is None else format_
    if text.strip() == "json":
        documents = [value.document if isinstance(value, View) else value for value in values]
        return to_json(documents[0] if single else documents, indent=2) + "\n"
    if _WORD.match(text):
        body = text.strip().removeprefix("table").lstrip()
        return _table(_read(body or default.removeprefix("table").lstrip()), values, titles or {}, heading=heading)
    template = _read(text)
    if template.ranges_over_all and not single:
        return _ended(template.render(list(values)))
    return "".join(_ended(template.render(value)) for value in values)


def _read(text: str) -> Template:
    # A shell hands \t over as two characters; Go's flags turn them into one, and so do we, outside of the actions.
    parts = re.split(r"(\{\{.*?\}\})", text, flags=re.DOTALL)
    parts[::2] = [part.replace("\\t", "\t").replace("\\n", "\n") for part in parts[::2]]
    return parse("".join(parts))


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _table(template: Template, values: Sequence[object], titles: Mapping[str, str], *, heading: bool) -> str:
    lines = [template.headings(titles)] if heading else []
    lines += [template.render(value) for value in values]
    return layout([[cell.strip("\n") for cell in line.split("\t")] for line in lines])


def layout(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned lines. Characters that would change the terminal are shown as escapes."""
    clean = [[printable(cell) for cell in row] for row in rows]
    widths: list[int] = []
    for row in clean:
        for number, cell in enumerate(row[:-1]):
            if number == len(widths):
                widths.append(_CELL_MIN)
            widths[number] = max(widths[number], len(cell) + _PADDING)
    return "".join(
        "".join(cell.ljust(widths[number]) for number, cell in enumerate(row[:-1])) + (row[-1] if row else "") + "\n"
        for row in clean
    )


def printable(text: str) -> str:
    """The text with escapes for characters that would change the terminal; bytes that are no UTF-8 stay as they are."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
