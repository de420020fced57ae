"""Go's text/template, as far as people use it after `--format`: pure, and nothing of Python is reachable from it.

    template = parse("{{.Name}}: {{range .Mounts}}{{.Destination}} {{end}}")
    template.render(document)

Source: https://pkg.go.dev/text/template; the functions json, join, split, lower, upper, title, pad and truncate are
Docker's and Podman's. There are fields, variables, pipelines, parentheses, literals, comments, trim markers, if, with,
range (else, break, continue), the functions, and methods of one argument. Named templates (define, template, block) are
left out.

A value is None, a bool, number or string, a list or tuple, a mapping, a msgspec struct (fields by their JSON names), or
a View. Anything wrong with a template or its use raises FormatError; nothing else is raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from .gofunctions import FUNCTIONS, FunctionError, show, truth
from .goparser import Block, Call, FormatError, Literal, Node, Operand, Parser, Pipeline, Text

__all__ = ("FormatError", "Method", "Template", "View", "parse")


class View:
    """A document as a template sees it: `shown` holds fields that look different there, or are not in it."""

    __slots__ = ("document", "shown")

    def __init__(self, document: msgspec.Struct, shown: Mapping[str, object]) -> None:
        self.document = document
        self.shown = shown


class Method:
    """A field in `View.shown` that takes an argument, as Docker's `{{.Label "name"}}` does."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[object], object]) -> None:
        self.call = call

    def __str__(self) -> str:
        return "<method>"


class Heading(str):
    """What a field is called at the head of its column. See `Template.headings`."""

    __slots__ = ()


class Headings:
    """Stands for the document while headings are made: every field is its own title."""

    __slots__ = ("titles",)

    def __init__(self, titles: Mapping[str, str]) -> None:
        self.titles = {name.casefold(): title for name, title in titles.items()}

    def title(self, name: str) -> Heading:
        found = self.titles.get(name.casefold())
        return Heading(found or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper())


class _Break(Exception):
    """{{break}} or {{continue}} on its way to its range."""

    def __init__(self, goes_on: bool) -> None:
        self.goes_on = goes_on


class _Run:
    """One rendering: the variables in scope and the text so far."""

    def __init__(self, root: object) -> None:
        self.scopes: list[dict[str, object]] = [{"$": root}]
        self.out: list[str] = []

    def nodes(self, nodes: Sequence[Node], dot: object) -> None:
        self.scopes.append({})
        try:
            for node in nodes:
                if isinstance(node, Text):
                    self.out.append(node.text)
                elif isinstance(node, Pipeline):
                    value = self.pipeline(node, dot)
                    if not node.variables:
                        self.out.append(show(value, top=True))
                elif isinstance(node, Block):
                    self.block(node, dot)
                else:
                    raise _Break(node.keyword == "continue")
        finally:
            self.scopes.pop()

    def block(self, block: Block, dot: object) -> None:
        self.scopes.append({})
        try:
            if block.keyword == "range":
                self.range(block, dot)
                return
            value = self.pipeline(block.pipeline, dot)
            if truth(value):
                self.nodes(block.body, value if block.keyword == "with" else dot)
            else:
                self.nodes(block.otherwise, dot)
        finally:
            self.scopes.pop()

    def range(self, block: Block, dot: object) -> None:
        pipeline = block.pipeline
        value = self.pipeline(Pipeline(pipeline.commands, (), False), dot)
        pairs = _pairs(value, block.position)
        if not pairs:
            self.nodes(block.otherwise, dot)
        for key, item in pairs:
            self.scopes.append({})
            try:
                names = pipeline.variables
                for name, bound in zip(names, (item,) if len(names) == 1 else (key, item), strict=False):
                    self.bind(name, bound, pipeline.declares, block.position)
                self.nodes(block.body, item)
            except _Break as leave:
                if not leave.goes_on:
                    return
            finally:
                self.scopes.pop()

    def bind(self, name: str, value: object, declares: bool, position: int) -> None:
        if declares:
            self.scopes[-1][name] = value
            return
        for scope in reversed(self.scopes):
            if name in scope:
                scope[name] = value
                return
        raise FormatError(f"the variable {name} has not been declared", position, hint=f"declare it with {name} :=")

    def pipeline(self, pipeline: Pipeline, dot: object) -> object:
        value: object = None
        for number, call in enumerate(pipeline.commands):
            value = self.call(call, dot, (value,) if number else ())
        for name in pipeline.variables:
            self.bind(name, value, pipeline.declares, pipeline.commands[0].position)
        return value

    def call(self, call: Call, dot: object, piped: tuple[object, ...]) -> object:
        if not call.function:
            return self.method(call, dot)
        if call.function in ("and", "or"):
            return self.logic(call, dot, piped)
        arguments = [*(self.argument(argument, dot) for argument in call.arguments), *piped]
        for argument in arguments:
            if isinstance(argument, Heading):
                return argument
        try:
            return FUNCTIONS[call.function](*[a.document if isinstance(a, View) else a for a in arguments])
        except FunctionError as error:
            raise FormatError(f"{call.function}: {error}", call.position) from None
        except TypeError:
            raise FormatError(f"{call.function}: wrong number of arguments", call.position) from None

    def method(self, call: Call, dot: object) -> object:
        value = self.argument(call.arguments[0], dot)
        arguments = [self.argument(argument, dot) for argument in call.arguments[1:]]
        if isinstance(value, Method):
            if len(arguments) != 1:
                raise FormatError("a method wants one argument", call.position)
            return value.call(arguments[0])
        if arguments and not isinstance(value, Heading):
            raise FormatError(f"{kind(value)} takes no arguments; only functions do", call.position)
        return value

    def logic(self, call: Call, dot: object, piped: tuple[object, ...]) -> object:
        """Evaluates no more than it needs to, as Go does."""
        thunks: list[Callable[[], object]] = [lambda a=a: self.argument(a, dot) for a in call.arguments]  # type: ignore[misc]
        thunks += [lambda v=v: v for v in piped]  # type: ignore[misc]
        if not thunks:
            raise FormatError(f"{call.function}: an argument is missing", call.position)
        value: object = None
        for thunk in thunks:
            value = thunk()
            if truth(value) == (call.function == "or"):
                break
        return value

    def argument(self, argument: Literal | Operand | Call, dot: object) -> object:
        if isinstance(argument, Literal):
            return argument.value
        if isinstance(argument, Call):
            return self.call(argument, dot, ())
        value = self.start(argument, dot)
        for name, position in argument.fields:
            value = lookup(value, name, position)
        return value

    def start(self, operand: Operand, dot: object) -> object:
        if operand.start == ".":
            return dot
        if isinstance(operand.start, Pipeline):
            return self.pipeline(operand.start, dot)
        for scope in reversed(self.scopes):
            if operand.start in scope:
                return scope[operand.start]
        raise FormatError(f"the variable {operand.start} has not been declared", operand.position)


def _pairs(value: object, position: int) -> list[tuple[object, object]]:
    match value:
        case None:
            return []
        case Heading():
            return [(value, value)]
        case Mapping():
            return sorted(value.items(), key=lambda pair: str(pair[0]))
        case list() | tuple():
            return list(enumerate(value))
        case int() if not isinstance(value, bool):
            return [(number, number) for number in range(min(value, 1_000_000))]
    raise FormatError(f"range cannot go over {kind(value)}", position)


_fields_of_type: dict[type, dict[str, str]] = {}


def _struct_fields(type_: type[msgspec.Struct]) -> dict[str, str]:
    """JSON name to attribute; and the name in lower case, for `.ID` where the field is Id."""
    found = _fields_of_type.get(type_)
    if found is None:
        found = dict(zip(type_.__struct_encode_fields__, type_.__struct_fields__, strict=True))
        for name, attribute in tuple(found.items()):
            found.setdefault(name.casefold(), attribute)
        _fields_of_type[type_] = found
    return found


def lookup(value: object, name: str, position: int) -> object:
    """The field `name` of a value. Raises FormatError where there cannot be one."""
    if isinstance(value, View):
        if name in value.shown:
            return value.shown[name]
        for key in value.shown:
            if key.casefold() == name.casefold():
                return value.shown[key]
        value = value.document
    if isinstance(value, Headings):
        return value.title(name)
    if isinstance(value, Heading):
        return Headings({}).title(name)
    if isinstance(value, msgspec.Struct):
        fields = _struct_fields(type(value))
        attribute = fields.get(name) or fields.get(name.casefold())
        if attribute is None:
            names = ", ".join(type(value).__struct_encode_fields__)
            _no_field(value, name, position, hint=f"the fields are {names}")
        return getattr(value, attribute)
    if isinstance(value, Mapping):
        return value.get(name)
    return _no_field(value, name, position)


def _no_field(value: object, name: str, position: int, hint: str | None = None) -> NoReturn:
    raise FormatError(f"there is no field .{name} in {kind(value)}", position, hint=hint)


def kind(value: object) -> str:
    """What a value is, for messages."""
    match value:
        case None:
            return "nothing (nil)"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a map"
        case msgspec.Struct():
            return f"{type(value).__name__}"
    return "a document"


class Template:
    """A template that has been read."""

    __slots__ = ("nodes",)

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def render(self, value: Any) -> str:
        """The text for one value. Raises FormatError."""
        run = _Run(value)
        run.nodes(self.nodes, value)
        return "".join(run.out)

    def headings(self, titles: Mapping[str, str]) -> str:
        """The text with each field's title in the place of its value."""
        return self.render(Headings(titles))

    @property
    def ranges_over_all(self) -> bool:
        """Whether it begins with {{range .}}, and so wants the whole list at once."""
        first = self.nodes[0] if self.nodes else None
        if not isinstance(first, Block) or first.keyword != "range":
            return False
        command = first.pipeline.commands[0]
        return not command.function and command.arguments == (Operand(".", (), command.position),)


def parse(source: str) -> Template:
    """Reads a template. Raises FormatError."""
    return Template(Parser(source).parse())
