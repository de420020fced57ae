"""Go's text/template, as far as people use it after `--format`: pure, and nothing of Python is reachable from it.

    template = parse("{{.Name}}: {{range .Mounts}}{{.Destination}} {{end}}")
    template.render(document)

Source: https://pkg.go.dev/text/template; the functions json, join, split, lower, upper, title, pad and truncate are Docker's
and Podman's. There are fields, variables, pipelines, parentheses, literals, comments, trim markers, if, with, range (else,
break, continue) and the functions. Named templates (define, template, block) are left out, and so are methods.

A value is None, a bool, number or string, a list or tuple, a mapping, a msgspec struct (fields by their JSON names), or a View.
Anything wrong with a template or its use raises FormatError; nothing else is raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec

from ..errors import UsageError
from .gofunctions import FUNCTIONS, FunctionError, show, truth

_DEPTH_MAX = 60


class FormatError(UsageError):
    """A template that cannot be read, or that asks for what is not there. `column` counts from 1."""

    def __init__(self, reason: str, position: int, *, hint: str | None = None) -> None:
        super().__init__(f"cannot use the --format template: column {position + 1}: {reason}", hint=hint)
        self.column = position + 1


class View:
    """A document as a template sees it: `shown` holds fields that look different from the document's, or are not in it."""

    __slots__ = ("document", "shown")

    def __init__(self, document: msgspec.Struct, shown: Mapping[str, object]) -> None:
        self.document = document
        self.shown = shown


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


# --- the tree --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Text:
    text: str


@dataclass(frozen=True, slots=True)
class _Literal:
    value: object
    position: int


@dataclass(frozen=True, slots=True)
class _Operand:
    """`start` is "." (the dot), "$name" (a variable), or a pipeline in parentheses; then come fields."""

    start: str | _Pipeline
    fields: tuple[tuple[str, int], ...]
    position: int


@dataclass(frozen=True, slots=True)
class _Call:
    """A function with its arguments, or one operand alone (`function` is then "")."""

    function: str
    arguments: tuple[_Literal | _Operand | _Call, ...]
    position: int


@dataclass(frozen=True, slots=True)
class _Pipeline:
    commands: tuple[_Call, ...]
    variables: tuple[str, ...]
    declares: bool


@dataclass(slots=True)
class _Block:
    """An action with a body: if, with or range."""

    keyword: str
    pipeline: _Pipeline
    position: int
    body: list[_Node] = field(default_factory=list)
    otherwise: list[_Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Leave:
    keyword: str
    position: int


_Node = _Text | _Pipeline | _Block | _Leave


# --- reading ---------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.)')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<dot>\.)
    |(?P<variable>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<mark>:=|=|\||\(|\)|,)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))|\\(.?)", re.DOTALL)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int
    spaced: bool


class _Parser:
    """Reads one template from the left to the right."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens: list[_Token] = []
        self.at = 0
        self.depth = 0
        self.end = 0

    def parse(self) -> list[_Node]:
        root: list[_Node] = []
        open_blocks: list[_Block] = []
        # else-if is a block in its parent's else; one `end` closes both.
        chained: list[int] = [0]
        target = root
        position = 0
        trim_next = False
        while True:
            start = self.source.find("{{", position)
            text = self.source[position : start if start >= 0 else len(self.source)]
            if trim_next:
                text = text.lstrip()
            if start < 0:
                if text:
                    target.append(_Text(text))
                break
            inside = start + 2
            if self.source[inside : inside + 1] == "-" and self.source[inside + 1 : inside + 2].isspace():
                text = text.rstrip()
                inside += 1
            if text:
                target.append(_Text(text))
            position, trim_next = self._lex(inside, start)
            if not self.tokens:
                if self.source[start:position].find("/*") < 0:
                    raise FormatError("there is nothing in {{}}", start)
                continue
            first = self.tokens[0]
            word = first.text if first.kind == "word" else ""
            if word in ("if", "with", "range"):
                self.at = 1
                block = _Block(word, self._whole_pipeline(allow=word == "range"), start)
                target.append(block)
                open_blocks.append(block)
                chained.append(0)
                if len(open_blocks) > _DEPTH_MAX:
                    raise FormatError("blocks are nested too deeply", start)
                target = block.body
            elif word == "else":
                if not open_blocks or target is not open_blocks[-1].body:
                    raise FormatError("{{else}} has no {{if}}, {{with}} or {{range}}", start)
                target = open_blocks[-1].otherwise
                if len(self.tokens) > 1:
                    keyword = self.tokens[1].text
                    if keyword not in ("if", "with") or open_blocks[-1].keyword == "range":
                        raise FormatError(f"unexpected {keyword!r} after else", self.tokens[1].position)
                    self.at = 2
                    block = _Block(keyword, self._whole_pipeline(allow=False), start)
                    target.append(block)
                    open_blocks.append(block)
                    chained[-1] += 1
                    if len(open_blocks) > _DEPTH_MAX:
                        raise FormatError("blocks are nested too deeply", start)
                    target = block.body
            elif word == "end":
                if not open_blocks:
                    raise FormatError("{{end}} has nothing to end", start)
                self._only_one_word()
                for _ in range(chained.pop() + 1):
                    open_blocks.pop()
                if not open_blocks:
                    target = root
                else:
                    block = open_blocks[-1]
                    target = block.otherwise if block.otherwise else block.body
            elif word in ("break", "continue"):
                self._only_one_word()
                if not any(block.keyword == "range" for block in open_blocks):
                    raise FormatError(f"{{{{{word}}}}} is not inside a {{{{range}}}}", start)
                target.append(_Leave(word, start))
            elif word in ("define", "template", "block"):
                raise FormatError(f"{{{{{word}}}}} is not supported", start, hint="write the template out in one piece")
            else:
                self.at = 0
                target.append(self._whole_pipeline(allow=False))
        if open_blocks:
            block = open_blocks[-1]
            raise FormatError(f"{{{{{block.keyword}}}}} has no {{{{end}}}}", block.position)
        return root

    def _lex(self, at: int, start: int) -> tuple[int, bool]:
        """Reads the action's tokens. Returns where the text after it begins, and whether that is to be trimmed."""
        self.tokens = []
        source = self.source
        body = len(source) - len(source[at:].lstrip())
        if source.startswith("/*", body):
            end = source.find("*/", body + 2)
            if end < 0:
                raise FormatError("the comment has no end", start)
            rest = re.compile(r"(\s+-)?\}\}").match(source, end + 2)
            if rest is None:
                raise FormatError("a comment must fill its {{ }}", start)
            return rest.end(), rest[1] is not None
        spaced = False
        while True:
            if source.startswith("}}", at):
                self.end = at
                return at + 2, False
            if spaced and source.startswith("-}}", at):
                self.end = at
                return at + 3, True
            if at >= len(source):
                raise FormatError(f"{source[start : start + 20]!r} has no closing }}}}", start)
            found = _TOKEN.match(source, at)
            if found is None:
                raise FormatError(f"unexpected character {source[at]!r}", at)
            kind = found.lastgroup or ""
            if kind != "space":
                self.tokens.append(_Token(kind, found[0], at, spaced))
            spaced = kind == "space"
            at = found.end()

    def _only_one_word(self) -> None:
        if len(self.tokens) > 1:
            raise FormatError(f"unexpected {self.tokens[1].text!r}", self.tokens[1].position)

    def _peek(self) -> _Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _whole_pipeline(self, *, allow: bool) -> _Pipeline:
        pipeline = self._pipeline(two=allow)
        rest = self._peek()
        if rest is not None:
            raise FormatError(f"unexpected {rest.text!r}", rest.position)
        return pipeline

    def _pipeline(self, *, two: bool = False) -> _Pipeline:
        self.depth += 1
        if self.depth > _DEPTH_MAX:
            raise FormatError("parentheses are nested too deeply", self.tokens[self.at - 1].position)
        variables, declares = self._declaration(two)
        commands = [self._command()]
        while (token := self._peek()) is not None and token.text == "|" and token.kind == "mark":
            self.at += 1
            commands.append(self._command())
            if not commands[-1].function:
                raise FormatError("after | there must be a function", commands[-1].position)
        self.depth -= 1
        return _Pipeline(tuple(commands), variables, declares)

    def _declaration(self, two: bool) -> tuple[tuple[str, ...], bool]:
        names: list[str] = []
        mark = self.at
        while (token := self._peek()) is not None and token.kind == "variable":
            names.append(token.text)
            self.at += 1
            token = self._peek()
            if token is not None and token.text in (":=", "="):
                self.at += 1
                return tuple(names), token.text == ":="
            if token is None or token.text != "," or not two or len(names) > 1:
                break
            self.at += 1
        self.at = mark
        return (), False

    def _command(self) -> _Call:
        token = self._peek()
        if token is None:
            raise FormatError("a value is missing", self.end)
        position = token.position
        if token.kind == "word" and token.text not in ("true", "false", "nil"):
            if token.text not in FUNCTIONS:
                raise FormatError(
                    f"there is no function {token.text!r}", position, hint=f"there are {', '.join(sorted(FUNCTIONS))}"
                )
            self.at += 1
            return _Call(token.text, self._arguments(), position)
        operand = self._argument()
        extra = self._peek()
        if extra is not None and not (extra.kind == "mark" and extra.text in ("|", ")")):
            raise FormatError(f"unexpected {extra.text!r}; only a function takes arguments", extra.position)
        return _Call("", (operand,), position)

    def _arguments(self) -> tuple[_Literal | _Operand | _Call, ...]:
        found: list[_Literal | _Operand | _Call] = []
        while (token := self._peek()) is not None and not (token.kind == "mark" and token.text in ("|", ")")):
            if not token.spaced and token.text != "(":
                raise FormatError(f"a space is missing before {token.text!r}", token.position)
            found.append(self._argument())
        return tuple(found)

    def _argument(self) -> _Literal | _Operand | _Call:
        token = self.tokens[self.at]
        self.at += 1
        start: str | _Pipeline
        match token.kind:
            case "string" | "char":
                value = _unquote(token)
                return _Literal(ord(value) if token.kind == "char" else value, token.position)
            case "number":
                return _Literal(_number(token), token.position)
            case "word":
                if token.text in ("true", "false"):
                    return _Literal(token.text == "true", token.position)
                if token.text == "nil":
                    return _Literal(None, token.position)
                if token.text in FUNCTIONS:
                    return _Call(token.text, (), token.position)
                raise FormatError(f"there is no function {token.text!r}", token.position)
            case "dot":
                return _Operand(".", (), token.position)
            case "field":
                return _Operand(".", ((token.text[1:], token.position), *self._fields()), token.position)
            case "variable":
                start = token.text
            case _ if token.text == "(":
                start = self._pipeline()
                closing = self._peek()
                if closing is None or closing.text != ")":
                    raise FormatError("the parenthesis is not closed", token.position)
                self.at += 1
            case _:
                raise FormatError(f"unexpected {token.text!r}", token.position)
        return _Operand(start, self._fields(), token.position)

    def _fields(self) -> tuple[tuple[str, int], ...]:
        names: list[tuple[str, int]] = []
        while (token := self._peek()) is not None and token.kind == "field" and not token.spaced:
            names.append((token.text[1:], token.position))
            self.at += 1
        return tuple(names)


def _unquote(token: _Token) -> str:
    if token.text[0] == "`":
        return token.text[1:-1]

    def value(found: re.Match[str]) -> str:
        simple, *codes, octal, wrong = found.groups()
        if simple:
            return _ESCAPED[simple]
        code = next((int(digits, 16) for digits in codes if digits), int(octal, 8) if octal else -1)
        if code < 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise FormatError(f"unknown escape {found[0]!r} in {token.text}", token.position + found.start())
        return chr(code)

    return _ESCAPE.sub(value, token.text[1:-1])


def _number(token: _Token) -> int | float:
    text = token.text
    if len(text) > 30:
        raise FormatError("the number is too long", token.position)
    try:
        return int(text, 0) if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|0|[1-9]\d*)", text) else float(text)
    except ValueError:
        raise FormatError(f"{text!r} is not a number", token.position) from None


# --- rendering -------------------------------------------------------------------------------------------------------


class _Break(Exception):
    """{{break}} or {{continue}} on its way to its range."""

    def __init__(self, goes_on: bool) -> None:
        self.goes_on = goes_on


class _Run:
    """One rendering: the variables in scope and the text so far."""

    def __init__(self, root: object) -> None:
        self.scopes: list[dict[str, object]] = [{"$": root}]
        self.out: list[str] = []

    def nodes(self, nodes: Sequence[_Node], dot: object) -> None:
        self.scopes.append({})
        try:
            for node in nodes:
                if isinstance(node, _Text):
                    self.out.append(node.text)
                elif isinstance(node, _Pipeline):
                    value = self.pipeline(node, dot)
                    if not node.variables:
                        self.out.append(show(value, top=True))
                elif isinstance(node, _Block):
                    self.block(node, dot)
                else:
                    raise _Break(node.keyword == "continue")
        finally:
            self.scopes.pop()

    def block(self, block: _Block, dot: object) -> None:
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

    def range(self, block: _Block, dot: object) -> None:
        pipeline = block.pipeline
        value = self.pipeline(_Pipeline(pipeline.commands, (), False), dot)
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

    def pipeline(self, pipeline: _Pipeline, dot: object) -> object:
        value: object = None
        for number, call in enumerate(pipeline.commands):
            value = self.call(call, dot, (value,) if number else ())
        for name in pipeline.variables:
            self.bind(name, value, pipeline.declares, pipeline.commands[0].position)
        return value

    def call(self, call: _Call, dot: object, piped: tuple[object, ...]) -> object:
        if not call.function:
            return self.argument(call.arguments[0], dot)
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

    def logic(self, call: _Call, dot: object, piped: tuple[object, ...]) -> object:
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

    def argument(self, argument: _Literal | _Operand | _Call, dot: object) -> object:
        if isinstance(argument, _Literal):
            return argument.value
        if isinstance(argument, _Call):
            return self.call(argument, dot, ())
        value = self.start(argument, dot)
        for name, position in argument.fields:
            value = lookup(value, name, position)
        return value

    def start(self, operand: _Operand, dot: object) -> object:
        if operand.start == ".":
            return dot
        if isinstance(operand.start, _Pipeline):
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
    """JSON name to attribute; and, for `.ID` where the field is Id, the name in lower case where that is not another one's."""
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

    def __init__(self, nodes: list[_Node]) -> None:
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
        if not isinstance(first, _Block) or first.keyword != "range":
            return False
        command = first.pipeline.commands[0]
        return not command.function and command.arguments == (_Operand(".", (), command.position),)


def parse(source: str) -> Template:
    """Reads a template. Raises FormatError."""
    return Template(_Parser(source).parse())
